//! Steps about guests that wait, each on a CPU of its own: the hypervisor sees it where their policy says
//! so, and no wait lasts longer for that.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::ctl::Run;
use super::many::{Guest, manifest};
use super::session::{Session, said};
use super::{Bench, Step};

const SECONDS: u64 = 120;
/// A guest that waits wakes up every two seconds.
const WATCHED: Duration = Duration::from_secs(6);

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for gic in ["2", "3"] {
        let name = format!("waits/are-seen-as-the-policy-says-gicv{gic}");
        steps.push(Step::new(name, move |bench| seen(bench, gic).into()));
        let name = format!("waits/all-end-when-all-trap-gicv{gic}");
        steps.push(Step::new(name, move |bench| all_end(bench, gic).into()));
        let name = format!("waits/events-pass-on-a-cpu-that-others-share-gicv{gic}");
        steps.push(Step::new(name, move |bench| bounce(bench, gic).into()));
    }
    steps
}

/// How often a guest came to EL2 to wait.
fn waits(run: &Run<'_>, name: &str) -> Result<u64> {
    let stats = run.json(&format!("stats {name}"))?;
    let exits = stats[0]["exits"].as_array().with_context(|| format!("no exits in {stats}"))?;
    let wfi = exits.iter().find(|exit| exit["reason"] == "wfi");
    Ok(wfi.and_then(|exit| exit["count"].as_u64()).unwrap_or(0))
}

/// What has become of both guests' waits and CPU times after a while.
fn watch(run: &Run<'_>) -> Result<[(u64, u64); 2]> {
    let look = |name| -> Result<(u64, u64)> { Ok((waits(run, name)?, run.time(name)?)) };
    let before = [look("auto")?, look("trap")?];
    sleep(WATCHED);
    let after = [look("auto")?, look("trap")?];
    let grown = |index: usize| {
        (after[index].0 - before[index].0, after[index].1.saturating_sub(before[index].1))
    };
    Ok([grown(0), grown(1)])
}

fn seen(bench: &Bench, gic: &str) -> Result<()> {
    let guest = |name: &str, more| Guest { name: name.to_owned(), payload: "heartbeat", more };
    let guests =
        [guest("auto", "memory = \"16M\""), guest("trap", "memory = \"16M\"\nwfi = \"trap\"")];
    let manifest = manifest(bench, "waits.toml", &guests)?;
    let ready = ["[auto] heartbeat 1", "[trap] heartbeat 1"];
    let mut run = Run::start(bench, &manifest, &["--gic", gic, "--smp", "2"], &ready)?;
    if waits(&run, "auto")? != 0 {
        bail!("a guest on a CPU of its own comes to EL2 to wait");
    }
    let [(auto, whole), (trap, idle)] = watch(&run)?;
    // One waits in hardware all the time, which counts as its own.
    if auto != 0 || trap == 0 || idle * 2 > whole {
        bail!("waits and CPU time: auto {auto}, {whole} us; trap {trap}, {idle} us");
    }
    run.ctl("sched set auto wfi=trap")?;
    run.ctl("sched set trap wfi=auto")?;
    let sched = run.json("sched")?;
    if sched[0]["wfi"] != "trap" || sched[1]["wfi"] != "auto" {
        bail!("the policies were not exchanged: {sched}");
    }
    // The wait under way may be of either kind.
    sleep(WATCHED);
    let [(auto, idle), (trap, whole)] = watch(&run)?;
    if auto == 0 || trap != 0 || idle * 2 > whole {
        bail!("waits and CPU time, exchanged: auto {auto}, {idle} us; trap {trap}, {whole} us");
    }
    run.session.alive()
}

/// The payload that counts lost wake-ups, with nobody to share its CPUs with.
fn all_end(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    let more = "memory = \"64M\"\nvcpus = 2\nwfi = \"trap\"";
    let guests = [Guest { name: "wfi".to_owned(), payload: "wfi", more }];
    let manifest = manifest(bench, "all-trap.toml", &guests)?;
    let args = [&*manifest.to_string_lossy(), "--gic", gic, "--smp", "2"];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect("GUEST-TEST: ok", SECONDS)?;
    session.end_with(0, SECONDS)
}

/// Two vCPUs send each other events, on one CPU with each other and with a guest that waits for its own: with waits that trap, and
/// with such that are the hypervisor's choice.
fn bounce(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    let two = |wfi| format!("memory = \"16M\"\nvcpus = 2\ncmdline = \"bounce\"\nwfi = \"{wfi}\"");
    let (trap, auto) = (two("trap"), two("auto"));
    let guests = [
        Guest { name: "trap".to_owned(), payload: "wfi", more: &trap },
        Guest { name: "auto".to_owned(), payload: "wfi", more: &auto },
        Guest {
            name: "storm".to_owned(),
            payload: "storm",
            more: "memory = \"16M\"\nvcpus = 2\ncmdline = \"storm=wfe\"",
        },
    ];
    let manifest = manifest(bench, "bounce.toml", &guests)?;
    let args = [&*manifest.to_string_lossy(), "--gic", gic, "--smp", "1"];
    let mut session = Session::start(bench, &args, SECONDS)?;
    for name in ["trap", "auto"] {
        session.says(name, "GUEST-TEST: ", SECONDS)?;
        let said = said(&session.text(), name);
        let times = said.split_once("bounced ").and_then(|(_, rest)| rest.split_once(" times"));
        let times = times.context("it does not say how often")?.0;
        println!("{name}: {times} events passed on");
        if !said.contains("GUEST-TEST: ok") {
            bail!("{name}: events are lost\n{}", session.text());
        }
    }
    session.alive()
}
