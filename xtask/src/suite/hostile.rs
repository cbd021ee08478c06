//! Steps that run Debian beside guests that mean harm, or that end in ways no honest guest does.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};

use super::session::Session;
use super::{Bench, Step};
use crate::{debian, paths};

/// Debian shares its CPUs with guests that never wait.
const BOOT_SECONDS: u64 = 240;
const ANSWER_SECONDS: u64 = 60;

/// All of them: those that end, and those that never do, with what each prints.
const ENEMIES: [(&str, &str); 7] = [
    ("spin", "spin: "),
    ("crash", "crash: "),
    ("deadwalk", "deadwalk: "),
    ("lastoff", "lastoff: "),
    ("hostile", "GUEST-TEST: ok"),
    ("flood", "GUEST-TEST: ok"),
    // No enemy, but theirs.
    ("victim", "GUEST-TEST: ok"),
];

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for (gic, cpus) in [("3", "2"), ("2", "1")] {
        let name = format!("debian/beside-hostile-guests-gicv{gic}-{cpus}-cpus");
        steps.push(Step::new(name, move |bench| beside_enemies(bench, gic, cpus).into()));
    }
    steps.push(Step::new("debian/all-guests-end-and-so-does-the-run", |bench| {
        beside_friend(bench).into()
    }));
    steps
}

/// Writes a manifest: Debian with two vCPUs first, so it has the keyboard, then payloads.
fn manifest(bench: &Bench, name: &str, cmdline: &str, payloads: &[&str]) -> Result<PathBuf> {
    let files = debian::guest()?;
    let vm = |name: &str, kernel: &Path, memory: &str| {
        let kernel = kernel.display();
        format!("[[vm]]\nname = \"{name}\"\nkernel = \"{kernel}\"\nmemory = \"{memory}\"\n")
    };
    let mut text = vm("debian", &files.kernel, "384M");
    let initrd = files.initrd.display();
    text += &format!("initrd = \"{initrd}\"\ncmdline = \"{cmdline}\"\nvcpus = 2\n\n");
    let folder = bench.payloads()?;
    for payload in payloads {
        text += &vm(payload, &folder.join(payload), "64M");
        text += if *payload == "victim" { "vcpus = 2\n\n" } else { "\n" };
    }
    if payloads.contains(&"hostile") {
        text += &vm("strict", &folder.join("hostile"), "64M");
        text += "on_bad_access = \"crash\"\n";
    }
    let path = paths::work().join(name);
    paths::write_if_changed(&path, text.as_bytes())?;
    Ok(path)
}

fn beside_enemies(bench: &Bench, gic: &str, cpus: &str) -> Result<()> {
    bench.machine()?;
    let names = ENEMIES.map(|(name, _)| name);
    let manifest = manifest(bench, "hostile.toml", "console=ttyAMA0", &names)?;
    let manifest = manifest.to_string_lossy();
    let seconds = 2 * BOOT_SECONDS;
    let mut session = Session::start(bench, &[&manifest, "--gic", gic, "--smp", cpus], seconds)?;
    session.expect("plinth-guest-ready 42002", BOOT_SECONDS)?;
    // Whatever the others did meanwhile, each has come as far as it should.
    for (name, said) in ENEMIES {
        session.wait_for(&format!("[{name}] {said}"), BOOT_SECONDS)?;
    }
    // What can never go on is a crash, told with its registers.
    for told in [
        "crash: vCPU 0: its exception vector cannot be fetched at",
        "crash: stopped (crashed)",
        "deadwalk: vCPU 0: an exception in its own exception vector",
        "deadwalk: stopped (crashed)",
        "lastoff: every vCPU has turned itself off",
        "strict: vCPU 0: an access that cannot be carried out: StageTwoFault {",
        "strict: stopped (crashed)",
        "  vbar   0x",
    ] {
        session.wait_for(told, ANSWER_SECONDS)?;
    }
    // Debian computes, and its vCPUs still run together.
    session.send("seq 1 20000 | sort -n | tail -1 | sed s/^/sorted-/\r")?;
    session.expect("[debian] sorted-20000", ANSWER_SECONDS)?;
    session.send("poweroff -f\r")?;
    session.expect("debian: stopped", ANSWER_SECONDS)?;
    // Those that never end go on, and so does the hypervisor.
    sleep(Duration::from_secs(1));
    session.alive()?;
    unharmed(&session.text())
}

fn beside_friend(bench: &Bench) -> Result<()> {
    bench.machine()?;
    let cmdline = "console=ttyAMA0 plinth.test=poweroff";
    let manifest = manifest(bench, "friends.toml", cmdline, &["hello"])?;
    let mut session = Session::start(bench, &[&manifest.to_string_lossy()], BOOT_SECONDS)?;
    session.end_with(0, BOOT_SECONDS + 10)?;
    for said in ["[debian] plinth-guest-ready 42002", "[hello] GUEST-TEST: ok"] {
        session.wait_for(said, 1)?;
    }
    unharmed(&session.text())
}

/// The hypervisor has not reported a bug of its own.
fn unharmed(text: &str) -> Result<()> {
    let bad = |line: &&str| line.starts_with("plinth: ") && !line.contains("power off (ok)");
    match text.lines().find(bad) {
        Some(line) => bail!("the hypervisor says `{line}`\n{text}"),
        None => Ok(()),
    }
}
