//! Steps about manifests and bundles: what is wrong is told all at once, what is right is packed and
//! boots, and the hypervisor believes no bundle.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use plinth::manifest::MAGIC;

use super::command::{self, Done};
use super::ctl::Run;
use super::session::Session;
use super::{Bench, Step, net, refusals};
use crate::paths;

const SECONDS: u64 = 120;
/// Three guests share two CPUs, which other tests may want as well.
const BOOT_SECONDS: u64 = 300;

/// A name, what is done to a good bundle, and what the hypervisor says of the result.
type Damage = (&'static str, fn(&mut Vec<u8>), &'static str);

const DAMAGES: [Damage; 7] = [
    ("one-bit", |bundle| flip(bundle), "the boot bundle is damaged: its CRC-32 is"),
    ("cut-short", |bundle| bundle.truncate(bundle.len() - 5000), "the boot bundle is cut short:"),
    ("no-bundle", |bundle| bundle[0] ^= 1, "this initrd is no Plinth boot bundle"),
    ("another-format", |bundle| bundle[8] = 1, "the boot bundle has format 1"),
    ("oversized", |bundle| bundle[16..24].fill(0x7f), "the boot bundle is cut short:"),
    ("long-table", |bundle| sealed(bundle, |all| all[24..32].fill(0x7f)), "table of VMs claims"),
    ("wild-table", |bundle| sealed(bundle, |all| all[37] = 0x7f), "cannot be decoded"),
];

pub fn steps() -> Vec<Step> {
    let mut steps = vec![
        Step::new("bundle/every-mistake-is-told-at-once", |bench| mistakes(bench).into()),
        Step::new("bundle/packs-what-runs", |bench| round_trip(bench).into()),
        Step::new("bundle/run-refuses-a-damaged-one", |bench| refused_early(bench).into()),
        Step::new("bundle/overlapping-payloads-are-refused", |bench| overlapping(bench).into()),
    ];
    for (name, damage, said) in DAMAGES {
        let step = move |bench: &Bench| damaged(bench, name, damage, said).into();
        steps.push(Step::new(format!("bundle/hypervisor-refuses-{name}"), step));
    }
    steps
}

/// Those that need the Debian guest's files.
pub fn debian_steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for gic in ["2", "3"] {
        let name = format!("debian/default-manifest-gicv{gic}");
        steps.push(Step::new(name, move |bench| default_manifest(bench, gic).into()));
        let name = format!("debian/ram-elsewhere-and-no-clock-gicv{gic}");
        steps.push(Step::new(name, move |bench| unusual(bench, gic).into()));
    }
    let name = "debian/is-asked-to-power-off-on-its-console";
    steps.push(Step::new(name, |bench| asked(bench).into()));
    steps
}

/// How many times a text of 64 bytes can be typed to a guest that never looks, at most.
const PATIENCE: usize = 20;

/// Guests that nobody types to are asked to power off on their consoles.
fn asked(bench: &Bench) -> Result<()> {
    bench.debian()?;
    let text = format!(
        "[[vm]]\nname = \"first\"\nkernel = \"guest:heartbeat\"\nmemory = \"16M\"\n\
         shutdown = {{ console = \"q\" }}\n\n\
         [[vm]]\nname = \"debian\"\nkernel = \"debian:kernel\"\ninitrd = \"debian:initrd\"\n\
         cmdline = \"console=ttyAMA0\"\nmemory = \"256M\"\n\
         shutdown = {{ console = \"poweroff -f\\n\" }}\n\n\
         [[vm]]\nname = \"deaf\"\nkernel = \"guest:share\"\nmemory = \"16M\"\n\
         shutdown = {{ console = \"{}\" }}\n",
        "s".repeat(64)
    );
    let manifest = write("asked.toml", text)?;
    let mut run = Run::start(bench, &manifest, &[], &["[first] heartbeat 1"])?;
    run.session.wait_for("[debian] plinth-guest-ready 42001", BOOT_SECONDS)?;
    run.session.expect("# ", SECONDS)?;
    let info = run.ctl("vm info debian")?;
    if !info.contains("console \"poweroff -f\\n\"") {
        bail!("vm info does not say how it is shut down: {info}");
    }
    let reply = run.ctl("vm stop debian")?;
    if !reply.contains("console \"poweroff -f\\n\"") {
        bail!("vm stop does not say how it asked: {reply}");
    }
    run.comes_to("debian", "off")?;
    let mut refused = (0..PATIENCE).filter_map(|_| run.ctl("vm stop deaf").err());
    let why = refused.next().context("a guest that takes nothing is typed to for ever")?;
    if !format!("{why:#}").contains("does not take what was typed") {
        bail!("the refusal has another reason: {why:#}");
    }
    run.ctl("vm stop --force deaf")?;
    run.comes_to("deaf", "off")?;
    // The last one takes the machine along.
    run.ctl("vm stop first")?;
    run.session.end_with(0, SECONDS)
}

fn folder() -> Result<PathBuf> {
    let folder = paths::work().join("bundles");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn write(name: &str, bytes: impl AsRef<[u8]>) -> Result<PathBuf> {
    let path = folder()?.join(name);
    paths::write_if_changed(&path, bytes.as_ref())?;
    Ok(path)
}

/// `xtask bundle MANIFEST -o OUTPUT`, from another folder than the manifest's.
fn bundle(bench: &Bench, manifest: &Path, output: &Path) -> Result<Done> {
    let mut command = Command::new(&bench.program);
    command.arg("bundle").arg(manifest).arg("-o").arg(output).current_dir("/");
    command::run(&mut command, SECONDS)
}

const WRONG: &str = r#"[machine]
escape = "Escape"

[[vm]]
name = "a"
kernel = "none"
memmory = "1G"
weight = 0

[[vm]]
name = "a"
kernel = "guest:heartbeet"
vcpus = "two"
reservation = { budget = "9ms" }
"#;

const TOLD: [&str; 8] = [
    "2:10: machine, escape: `Escape` will not do; want \"Ctrl-A\" to \"Ctrl-Z\", but not Ctrl-I, Ctrl-J or Ctrl-M",
    "6:10: vm 1, kernel: there is no file ",
    "7:1: vm 1, memmory: unknown field; did you mean `memory`? Known are ",
    "8:10: vm 1, weight: 0 will not do; want a whole number from 1 to 10000",
    "11:8: vm 2, name: `a` is the name of vm 1 already; each name is given once",
    "12:10: vm 2, kernel: there is no payload `heartbeet` in guests/; did you mean `heartbeat`?",
    "13:9: vm 2, vcpus: `two` will not do; want a whole number from 1 to 8",
    "14:15: vm 2, reservation.period: the field is missing",
];

fn mistakes(bench: &Bench) -> Result<()> {
    let manifest = write("wrong.toml", WRONG)?;
    let output = folder()?.join("wrong.bundle");
    let Done { status, output: text } = bundle(bench, &manifest, &output)?;
    if status.success() || output.exists() {
        bail!("it was accepted\n{text}");
    }
    let lines: Vec<_> = text.lines().collect();
    let told = TOLD.map(|line| format!("error: {}:{line}", manifest.display()));
    let right = lines.len() == told.len()
        && lines.iter().zip(&told).all(|(line, told)| line.starts_with(told.as_str()));
    if !right {
        bail!("it should say\n{}\nand says\n{text}", told.join("\n"));
    }
    Ok(())
}

/// A good bundle with two payloads as VMs, and its path.
fn good(bench: &Bench) -> Result<PathBuf> {
    let text = "[machine]\nscrollback = \"16K\"\n[[vm]]\nname = \"one\"\nkernel = \"guest:hello\"\n\
                memory = \"64M\"\n[[vm]]\nname = \"two\"\nkernel = \"guest:rtc\"\nmemory = \"64M\"\n\
                weight = 200\ncpus = [0]\n";
    let manifest = write("good.toml", text)?;
    let output = folder()?.join("good.bundle");
    let Done { status, output: said } = bundle(bench, &manifest, &output)?;
    let summary = ["good.bundle: ", "  one  64M, vcpus 1, kernel ", "  2 VMs with 128M of memory"];
    let missing = summary.iter().find(|line| !said.contains(**line));
    if !status.success() || missing.is_some() {
        bail!("{status}; it does not say {missing:?}\n{said}");
    }
    if !std::fs::read(&output)?.starts_with(&MAGIC) {
        bail!("what was written is no bundle");
    }
    if bundle(bench, &manifest, &manifest)?.status.success() {
        bail!("the manifest was overwritten with its bundle");
    }
    Ok(output)
}

fn round_trip(bench: &Bench) -> Result<()> {
    bench.machine()?;
    let bundle = good(bench)?;
    // The manifest's own files are not needed any more, nor is the manifest.
    let mut session = Session::start(bench, &[&bundle.to_string_lossy()], SECONDS)?;
    for said in ["[one] GUEST-TEST: ok", "[two] GUEST-TEST: ok"] {
        session.wait_for(said, SECONDS)?;
    }
    session.end_with(0, SECONDS)
}

fn flip(bundle: &mut [u8]) {
    let middle = bundle.len() / 2;
    bundle[middle] ^= 0x10;
}

/// Changes a bundle as somebody would who also puts the checksum right.
fn sealed(bundle: &mut [u8], change: impl Fn(&mut [u8])) {
    change(bundle);
    let mut crc = flate2::Crc::new();
    crc.update(&bundle[16..]);
    bundle[12..16].copy_from_slice(&crc.sum().to_le_bytes());
}

/// What `xtask run` sees for itself needs no machine.
fn refused_early(bench: &Bench) -> Result<()> {
    let mut bytes = std::fs::read(good(bench)?)?;
    flip(&mut bytes);
    let path = write("early.bundle", bytes)?;
    let mut command = Command::new(&bench.program);
    command.arg("run").arg(&path);
    let Done { status, output } = command::run(&mut command, SECONDS)?;
    let line = format!("error: {}: the boot bundle is damaged", path.display());
    if status.success() || !output.starts_with(&line) || output.lines().count() != 1 {
        bail!("it should be refused with one line, `{line}…`\n{output}");
    }
    Ok(())
}

fn damaged(bench: &Bench, name: &str, damage: fn(&mut Vec<u8>), said: &str) -> Result<()> {
    let mut bytes = std::fs::read(good(bench)?)?;
    damage(&mut bytes);
    hypervisor_refuses(bench, &write(&format!("{name}.bundle"), bytes)?, said)
}

/// A bundle whose two payloads share a page, with a good checksum.
fn overlapping(bench: &Bench) -> Result<()> {
    let mut bytes = std::fs::read(good(bench)?)?;
    let second = {
        let manifest = plinth::manifest::read(&bytes)?;
        let [_, two] = manifest.vms() else { bail!("two VMs") };
        two.kernel.offset()
    };
    // The table has offsets as varints: seven bits a byte, the least significant first.
    let varint = |mut value: u64| {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        bytes.push(value.to_le_bytes()[0]);
        bytes
    };
    let (old, new) = (varint(second), varint(second - 4096));
    let at = bytes[..4096].windows(old.len()).rposition(|window| window == old);
    let at = at.filter(|_| old.len() == new.len()).context("the second kernel's offset")?;
    sealed(&mut bytes, |all| all[at..at + new.len()].copy_from_slice(&new));
    let path = write("overlapping.bundle", bytes)?;
    hypervisor_refuses(bench, &path, "the kernel overlaps the kernel of VM 1 (\"one\")")
}

/// Boots the hypervisor on a bundle that `xtask run` does not get to see.
fn hypervisor_refuses(bench: &Bench, bundle: &Path, said: &str) -> Result<()> {
    bench.machine()?;
    let kernel = refusals::files()?.join("loop");
    let (kernel, bundle) = (kernel.to_string_lossy(), bundle.to_string_lossy());
    // Of two -initrd QEMU takes the last.
    let args = ["--kernel", &kernel, "--guest-memory", "64M", "--", "-initrd", &bundle];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect("the bundle: ", SECONDS)?;
    session.expect(said, SECONDS)?;
    session.expect("plinth: power off (failed: the bundle cannot be used)", SECONDS)?;
    session.end_with(1, SECONDS)?;
    let text = session.text();
    match text.lines().find(|line| line.contains(" vCPU") || line.contains("GUEST-TEST")) {
        Some(line) => bail!("a guest was made all the same: `{line}`\n{text}"),
        None => Ok(()),
    }
}

/// Nothing named at all: all three guests come up.
fn default_manifest(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let mut session = Session::start(bench, &["--gic", gic], 2 * BOOT_SECONDS)?;
    for said in ["[debian1] plinth-guest-ready 42002", "[debian2] plinth-guest-ready 42002"] {
        session.wait_for(said, BOOT_SECONDS)?;
    }
    session.wait_for("[heartbeat] heartbeat 3", SECONDS)?;
    // They reach each other and the outside, and have disks that a reboot leaves as they are.
    let ping = |who| format!("ping -c 1 -w 20 {who}");
    let way = format!("{} && {}", ping("10.0.2.22"), ping("10.0.2.2"));
    net::ask(&mut session, "debian1", 1001, &way)?;
    let write = "mke2fs /dev/vda >/dev/null && mount -t ext2 /dev/vda /mnt && \
                 dd if=/dev/urandom of=/mnt/file bs=64k count=32 && cd /mnt && \
                 sha256sum file >sum && cd && umount /mnt";
    net::ask(&mut session, "debian1", 1002, write)?;
    session.send("reboot -f\r")?;
    session.wait_for("debian1: reset", BOOT_SECONDS)?;
    session.expect("[debian1] plinth-guest-ready 42002", BOOT_SECONDS)?;
    let look = "mount -t ext2 /dev/vda /mnt && cd /mnt && sha256sum -c sum && cd";
    net::ask(&mut session, "debian1", 1003, look)?;
    session.send("\x011")?;
    let way = format!("{} && {}", ping("10.0.2.21"), ping("10.0.2.2"));
    net::ask(&mut session, "debian2", 1004, &way)
}

/// A Debian guest whose RAM is not where it usually is, and which has no clock.
fn unusual(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let text = "[[vm]]\nname = \"far\"\nkernel = \"debian:kernel\"\ninitrd = \"debian:initrd\"\n\
                cmdline = \"console=ttyAMA0\"\nmemory = \"384M\"\nvcpus = 2\n\
                ram_base = 0x2_0020_0000\ndevices = []\n";
    let manifest = write("unusual.toml", text)?;
    let manifest = manifest.to_string_lossy();
    let mut session = Session::start(bench, &[&manifest, "--gic", gic], BOOT_SECONDS)?;
    session.expect("plinth-guest-ready 42002", BOOT_SECONDS)?;
    session.expect("# ", SECONDS)?;
    session
        .send("grep -m1 'System RAM' /proc/iomem; ls /dev | grep -c rtc | sed s/^/clocks-/\r")?;
    session.expect("200200000-2181fffff : System RAM", SECONDS)?;
    session.expect("clocks-0", SECONDS)?;
    session.send("poweroff -f\r")?;
    session.end_with(0, SECONDS)
}
