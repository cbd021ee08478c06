//! Steps about the machine that `cargo xtask run` starts: it ends when it should, and never stays
//! behind. They need QEMU but no hypervisor: the guest is one instruction that branches to itself.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::refusals;
use super::session::Session;
use super::{Bench, Step};
use crate::qemu;

pub fn steps() -> Vec<Step> {
    vec![
        Step::new("run/time-limit-ends-the-machine", |bench| time_limit(bench).into()),
        Step::new("run/sigterm-ends-the-machine", |bench| {
            signal(bench, Signal::TERM, Some(143)).into()
        }),
        Step::new("run/killing-xtask-ends-the-machine", |bench| {
            signal(bench, Signal::KILL, None).into()
        }),
        Step::new("run/qemus-refusal-is-a-failure", |bench| unknown_cpu(bench).into()),
    ]
}

/// A machine that spins for ever, with a name to know it by.
fn start(bench: &Bench, name: &str, extra: &[&str], seconds: u64) -> Result<Session> {
    qemu::need()?;
    let kernel = refusals::files()?.join("loop");
    let kernel = kernel.to_string_lossy();
    let args = [&["--bare", "--kernel", &kernel], extra, &["--", "-name", name]].concat();
    Session::start(bench, &args, seconds)
}

fn name(test: &str) -> String {
    format!("plinth-{test}-{}", std::process::id())
}

fn time_limit(bench: &Bench) -> Result<()> {
    let name = name("limit");
    let mut session = start(bench, &name, &[], 2)?;
    session.end_with(124, 20)?;
    gone(&name)
}

fn signal(bench: &Bench, signal: Signal, status: Option<i32>) -> Result<()> {
    let name = name("signal");
    let mut session = start(bench, &name, &[], 60)?;
    session.expect("press Ctrl-]", 20)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !running(&name)? {
        if Instant::now() > deadline {
            bail!("QEMU never started\n{}", session.text());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = i32::try_from(session.id()).ok().and_then(Pid::from_raw).context("no process")?;
    kill_process(id, signal)?;
    let ended = session.end(10)?;
    match status {
        Some(want) if want != ended => bail!("it ended with {ended} instead of {want}"),
        _ => gone(&name),
    }
}

fn unknown_cpu(bench: &Bench) -> Result<()> {
    let mut session = start(bench, &name("cpu"), &["--cpu", "no-such-cpu"], 20)?;
    session.end_with(1, 20)?;
    session.expect("no-such-cpu", 1)
}

/// Whether a QEMU of this name runs.
fn running(name: &str) -> Result<bool> {
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let read = |file: &str| std::fs::read(Path::new(&path).join(file)).unwrap_or_default();
        let program = read("comm");
        let args = read("cmdline");
        let args = String::from_utf8_lossy(&args);
        if program.starts_with(b"qemu") && args.split('\0').any(|arg| arg == name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fails when QEMU is still there after a moment.
fn gone(name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while running(name)? {
        if Instant::now() > deadline {
            bail!("QEMU is still running");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
