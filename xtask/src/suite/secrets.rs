//! Steps that look for what one guest has left where another finds it: in the registers of CPUs that they share, and in memory
//! that was the other's before (`guests/src/bin/secrets/`).

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::ctl::Run;
use super::many::{Guest, all_pass, manifest, manifest_with};
use super::session::said;
use super::{Bench, Step};

const SECONDS: u64 = 60;

/// How often a guest comes and goes: more often than there are 8-bit VMIDs.
const LIVES: usize = 300;

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for gic in ["2", "3"] {
        for cpus in ["1", "2"] {
            let name = format!("secrets/three-guests-on-{cpus}-cpus-gicv{gic}");
            steps.push(Step::new(name, move |bench| registers(bench, gic, cpus).into()));
            let name = format!("secrets/memory-that-was-anothers-on-{cpus}-cpus-gicv{gic}");
            steps.push(Step::new(name, move |bench| memory(bench, gic, cpus).into()));
        }
    }
    // VMIDs know nothing of the interrupt controller.
    let name = format!("secrets/{LIVES}-lives");
    steps.push(Step::new(name, |bench| lives(bench, "3").into()));
    steps
}

/// Six vCPUs of three VMs, each with other values in all registers, on the same CPUs; then each VM resets.
fn registers(bench: &Bench, gic: &str, cpus: &str) -> Result<()> {
    let more =
        [1, 2, 3].map(|seed| format!("memory = \"16M\"\nvcpus = 2\ncmdline = \"seed={seed}\""));
    let guests: Vec<_> = (1..).zip(&more).map(|(n, more)| guest(format!("g{n}"), more)).collect();
    let manifest = manifest(bench, "secrets.toml", &guests)?;
    all_pass(bench, &manifest.to_string_lossy(), &["--gic", gic, "--smp", cpus], &guests)
}

fn guest(name: String, more: &str) -> Guest<'_> {
    Guest { name, payload: "secrets", more }
}

/// Neither of the two big ones fits beside the other.
fn start<'b>(bench: &'b Bench, gic: &str, cpus: &str, memory: &str) -> Result<Run<'b>> {
    let hides = format!("memory = \"{memory}\"\ncmdline = \"seed=1 hide\"\nautostart = false");
    let looks = format!("memory = \"{memory}\"\ncmdline = \"seed=2 look\"\nautostart = false");
    let idle = Guest { name: "idle".to_owned(), payload: "heartbeat", more: "memory = \"16M\"" };
    let guests = [guest("hides".to_owned(), &hides), guest("looks".to_owned(), &looks), idle];
    let manifest = manifest_with(bench, &format!("secrets-{memory}.toml"), MACHINE, &guests)?;
    let args = ["--gic", gic, "--smp", cpus, "--memory", "512M"];
    Run::start(bench, &manifest, &args, &["heartbeat 1"])
}

const MACHINE: &str = "[machine]\nwhen_idle = \"wait\"\n\n";

/// A guest fills all of its memory and is destroyed; the next one gets that memory, and looks through all of it.
fn memory(bench: &Bench, gic: &str, cpus: &str) -> Result<()> {
    let mut run = start(bench, gic, cpus, "320M")?;
    let run = &mut run;
    for life in 1..=2 {
        begin(run, "hides")?;
        says(run, "hides", "secrets: hidden", life)?;
        let why = run.refused("vm start looks")?;
        ensure!(why.contains("memory"), "{why}");
        run.ctl("vm destroy hides")?;
        begin(run, "looks")?;
        says(run, "looks", "GUEST-TEST: ", life)?;
        passed(run, "looks", life)?;
        run.comes_to("looks", "off")?;
        // What it has is its own until then.
        run.ctl("vm destroy looks")?;
    }
    run.ctl("poweroff")?;
    run.session.end_with(0, SECONDS)
}

/// A guest comes and goes until its VMID has been another's, and each time it finds nothing of the one before.
fn lives(bench: &Bench, gic: &str) -> Result<()> {
    let mut run = start(bench, gic, "2", "16M")?;
    let run = &mut run;
    run.ctl("vm start hides")?;
    says(run, "hides", "secrets: hidden", 1)?;
    for life in 2..=LIVES {
        run.ctl("vm destroy hides")?;
        begin(run, "hides")?;
        says(run, "hides", "secrets: hidden", life)?;
    }
    let text = said(&run.session.text(), "hides");
    ensure!(!text.contains("FAIL "), "{text}");
    run.ctl("poweroff")?;
    run.session.end_with(0, SECONDS)
}

/// Refused for a moment, while some CPU has not let go of the one before.
pub fn begin(run: &mut Run<'_>, name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    loop {
        match run.ctl(&format!("vm start {name}")) {
            Ok(_) => return Ok(()),
            Err(why) if Instant::now() > deadline => return Err(why),
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

/// Waits until a guest has said something so many times.
pub fn says(run: &mut Run<'_>, guest: &str, what: &str, times: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    while said(&run.session.text(), guest).matches(what).count() < times {
        run.session.alive()?;
        ensure!(Instant::now() < deadline, "no `{what}`\n{}", run.session.text());
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A guest has found nothing.
fn passed(run: &Run<'_>, guest: &str, times: usize) -> Result<()> {
    let text = said(&run.session.text(), guest);
    let zero = text.matches("PASS all memory is zero").count();
    let verdict = text.rsplit("GUEST-TEST: ").next().context("no verdict")?;
    ensure!(zero == times && verdict.starts_with("ok") && !text.contains("FAIL "), "{text}");
    Ok(())
}
