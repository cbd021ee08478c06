//! A step about balloons: a Debian guest, by the driver that it has, gives memory back that another one then has.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ctl::Run;
use super::debians;
use super::net::ask;
use super::session::said;
use super::{Bench, Step};

/// Bob does not fit into the machine's 512 MiB as long as Ada has all of her memory.
const GUESTS: [(&str, &str, &str); 2] = [
    (
        "ada",
        "",
        r#"memory = "320M"
vcpus = 2
balloon = { min = "128M" }"#,
    ),
    ("bob", "", "autostart = false"),
];

/// Eve is there so that others' lines are told from each other.
const EVE: &str = r#"
[[vm]]
name = "eve"
kernel = "guest:heartbeat"
memory = "16M"
"#;

const MACHINE: &str = "[machine]\nwhen_idle = \"wait\"\n\n";

const RUN_SECONDS: u64 = 600;
/// Enough for a boot on a slow machine that does other things too.
const BOOT_SECONDS: u64 = 150;
const ANSWER_SECONDS: u64 = 90;

const MIB: u64 = 1 << 20;
/// Bob's memory.
const BOB: u64 = 256 * MIB;

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("debian/balloon-gicv{gic}"), move |bench| gives(bench, gic).into())
    };
    vec![step("2"), step("3")]
}

/// How much is free, and how much of Ada's memory is back.
struct Pool {
    free: u64,
    given_back: u64,
}

fn pool(run: &Run<'_>) -> Result<Pool> {
    let told = run.json("memory")?;
    let number = |of: &Value, name: &str| of[name].as_u64().with_context(|| format!("no {name}"));
    let ada = told["vms"].as_array().and_then(|vms| vms.iter().find(|vm| vm["name"] == "ada"));
    let ada = ada.with_context(|| format!("no ada in {told}"))?;
    Ok(Pool { free: number(&told, "free")?, given_back: number(ada, "given_back")? })
}

/// Ada's balloon as `vm info` has it.
fn balloon(run: &Run<'_>) -> Result<Value> {
    Ok(run.json("vm info ada")?["balloon"].clone())
}

/// Waits until it is so.
fn until(run: &Run<'_>, what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS);
    while !is_so()? {
        ensure!(
            Instant::now() < deadline,
            "it is not so that {what}\n{}{}{}",
            run.ctl("memory")?,
            run.ctl("vm info ada")?,
            run.session.text()
        );
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn gives(bench: &Bench, gic: &str) -> Result<()> {
    bench.debian()?;
    let manifest = MACHINE.to_owned() + &debians::manifest("256M", &GUESTS) + EVE;
    let manifest = debians::kept("balloon", &manifest)?;
    let args = ["--gic", gic, "--smp", "2", "--memory", "512M"];
    let mut run = Run::start_within(bench, &manifest, &args, &[], RUN_SECONDS)?;
    let run = &mut run;
    run.session.says("ada", "plinth-guest-ready", BOOT_SECONDS)?;
    lends(run, 1000)?;
    is_told(run)?;
    if gic == "2" {
        // The rest takes long, and has nothing to do with the interrupt controller.
        run.ctl("poweroff")?;
        return run.session.end_with(0, ANSWER_SECONDS);
    }
    // A guest that begins again has its image where it has to be, and gives memory back again.
    run.session.send("reboot -f\r")?;
    run.session.wait_for("ada: reset", ANSWER_SECONDS)?;
    let boots = |run: &Run<'_>| said(&run.session.text(), "ada").matches("guest-ready").count();
    let deadline = Instant::now() + Duration::from_secs(BOOT_SECONDS);
    while boots(run) < 2 {
        ensure!(Instant::now() < deadline, "it does not begin again\n{}", run.session.text());
        sleep(Duration::from_millis(50));
    }
    lends(run, 2000)?;
    run.ctl("poweroff")?;
    run.session.end_with(0, ANSWER_SECONDS)
}

/// What is free in Ada comes back by itself, and Bob gets it. When she wants it back, she waits, nobody else does, and she goes
/// on when Bob is gone. What she keeps is what it was. `number` is that of her first question.
fn lends(run: &mut Run<'_>, number: u32) -> Result<()> {
    let make = "dd if=/dev/urandom of=/run/x bs=64k count=160 2>/dev/null; \
                dd if=/dev/urandom of=/run/y bs=64k count=128 2>/dev/null; \
                cd /run && sha256sum x y >sums && cd";
    ask(&mut run.session, "ada", number, make)?;
    until(run, "150 MiB are given back", || Ok(pool(run)?.given_back >= 150 * MIB))?;
    let told = balloon(run)?;
    ensure!(told["reported"].as_u64() >= Some(150 * MIB) && told["actual"] == 320 * MIB, "{told}");
    let Pool { free, given_back } = pool(run)?;
    ensure!(free >= BOB && free - given_back < BOB, "{free} are free, {given_back} given back");
    run.ctl("vm start bob")?;
    let boots = |run: &Run<'_>| said(&run.session.text(), "bob").matches("guest-ready").count();
    let (before, deadline) = (boots(run), Instant::now() + Duration::from_secs(BOOT_SECONDS));
    while boots(run) == before {
        ensure!(Instant::now() < deadline, "bob does not begin\n{}", run.session.text());
        sleep(Duration::from_millis(50));
    }
    ask(&mut run.session, "ada", number + 1, "(cd /run && sha256sum -c sums)")?;

    let many = "many() { for i in $(seq 17); do cat /run/y; done; }";
    let fill = format!("{many}; many >/tmp/z && echo filled-$(({number} * 3))\r");
    run.session.send(&fill)?;
    until(run, "Ada waits for memory", || Ok(balloon(run)?["waits"] == true))?;
    run.session.wait_for("ada: it needs memory that others have", ANSWER_SECONDS)?;
    let info = run.ctl("vm info ada")?;
    ensure!(info.contains("waits"), "{info}");
    // Bob has the CPUs meanwhile.
    debians::focus(&mut run.session, 1)?;
    ask(&mut run.session, "bob", number + 2, "sha256sum /bin/busybox")?;
    ensure!(balloon(run)?["waits"] == true, "she goes on without memory");
    run.ctl("vm destroy bob")?;
    debians::focus(&mut run.session, 0)?;
    run.session.says("ada", &format!("filled-{}", number * 3), ANSWER_SECONDS)?;
    ask(
        &mut run.session,
        "ada",
        number + 3,
        "many | cmp - /tmp/z && (cd /run && sha256sum -c sums)",
    )?;
    ensure!(balloon(run)?["waits"] == false, "she is said to wait");
    // What she does without again is given back again.
    ask(&mut run.session, "ada", number + 4, "rm /tmp/z")?;
    until(run, "150 MiB are given back", || Ok(pool(run)?.given_back >= 150 * MIB))
}

/// The monitor says how much Ada has, as far as her manifest lets it.
fn is_told(run: &mut Run<'_>) -> Result<()> {
    for size in ["126M", "322M"] {
        let why = run.refused(&format!("vm balloon ada {size}"))?;
        ensure!(why.contains("it can have 128M to 320M"), "{why}");
    }
    let total = "total() { grep MemTotal /proc/meminfo | tr -dc 0-9; }";
    run.ctl("vm balloon ada 160M")?;
    until(run, "she has 160 MiB", || Ok(balloon(run)?["actual"] == 160 * MIB))?;
    ask(&mut run.session, "ada", 3001, &format!("{total}; [ $(total) -lt {} ]", 160 << 10))?;
    until(run, "150 MiB are given back", || Ok(pool(run)?.given_back >= 150 * MIB))?;
    let told = balloon(run)?;
    ensure!(told["target"] == 160 * MIB && told["guest_available"].as_u64() > Some(0), "{told}");
    run.ctl("vm balloon ada 320M")?;
    until(run, "she has 320 MiB", || Ok(balloon(run)?["actual"] == 320 * MIB))?;
    let check = format!("[ $(total) -gt {} ] && (cd /run && sha256sum -c sums)", 256 << 10);
    ask(&mut run.session, "ada", 3002, &check)
}
