//! Steps about the machine that `cargo xtask run` starts: it ends when it should, and never stays
//! behind. They need QEMU but no hypervisor: the guest is one instruction that branches to itself.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, tcgetattr};

use super::refusals;
use super::session::Session;
use super::{Bench, Step};
use crate::board::Board;
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
        Step::new("run/escape-key-ends-the-machine", |bench| escape_key(bench).into()),
        Step::new("run/qemus-refusal-is-a-failure", |bench| unknown_cpu(bench).into()),
    ]
}

/// A machine that spins for ever, with a name to know it by.
fn start(bench: &Bench, name: &str, extra: &[&str], seconds: u64) -> Result<Session> {
    let kernel = spinning()?;
    let args = [&["--bare", "--kernel", &kernel], extra, &["--", "-name", name]].concat();
    Session::start(bench, &args, seconds)
}

fn spinning() -> Result<String> {
    qemu::need(Board::QemuVirt)?;
    Ok(refusals::files()?.join("loop").to_string_lossy().into_owned())
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
    comes_up(&name, &session)?;
    let id = i32::try_from(session.id()).ok().and_then(Pid::from_raw).context("no process")?;
    kill_process(id, signal)?;
    let ended = session.end(10)?;
    match status {
        Some(want) if want != ended => bail!("it ended with {ended} instead of {want}"),
        _ => gone(&name),
    }
}

/// On a terminal Ctrl-C is the guest's, Ctrl-] ends the run, and the terminal is then as it was.
fn escape_key(bench: &Bench) -> Result<()> {
    let name = name("escape");
    let args = ["--bare", "--kernel", &spinning()?, "--", "-name", &name];
    let (mut session, terminal) = Session::start_on_terminal(bench, &args, 60)?;
    session.expect("press Ctrl-]", 20)?;
    comes_up(&name, &session)?;
    let raw = || Ok(!tcgetattr(&terminal)?.local_modes.contains(LocalModes::ICANON));
    within(10, raw).with_context(|| format!("the terminal stayed cooked\n{}", session.text()))?;
    session.send("\x03")?;
    std::thread::sleep(Duration::from_millis(200));
    session.alive()?;
    session.send("\x1d")?;
    session.end_with(0, 10)?;
    let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
    if !tcgetattr(&terminal)?.local_modes.contains(cooked) {
        bail!("the terminal was left raw");
    }
    gone(&name)
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

/// Waits until QEMU runs.
fn comes_up(name: &str, session: &Session) -> Result<()> {
    within(10, || running(name)).with_context(|| format!("QEMU never started\n{}", session.text()))
}

/// Fails when QEMU is still there after a moment.
fn gone(name: &str) -> Result<()> {
    within(5, || Ok(!running(name)?)).context("QEMU is still running")
}

fn within(seconds: u64, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !done()? {
        if Instant::now() > deadline {
            bail!("not within {seconds} s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
