//! Runs a command to its end within a time limit and keeps what it prints.
//!
//! Each command leads a process group of its own, so that cargo's children end with it: when the
//! time is over, and when we are told to stop.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::paths;

/// The process groups that run now. Static, because a signal must find them.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Processes that end by themselves when they are told to, and then end what they have begun.
static TOLD: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Tells the files apart that outputs go to.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// A command that has ended.
pub struct Done {
    pub status: ExitStatus,
    /// Standard output and standard error, interleaved as they came.
    pub output: String,
}

/// Runs `command` for at most `seconds`.
pub fn run(command: &mut Command, seconds: u64) -> Result<Done> {
    let folder = paths::work();
    std::fs::create_dir_all(&folder)?;
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("output-{}-{run}", std::process::id()));
    let file = File::create(&path).context("cannot keep output")?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    running().extend(group);
    let status = wait(&mut child, group, Instant::now() + Duration::from_secs(seconds));
    running().retain(|one| Some(*one) != group);
    let output = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
    let _ = std::fs::remove_file(&path);
    match status? {
        Some(status) => Ok(Done { status, output }),
        None => bail!("{name} was not done after {seconds} s\n{output}"),
    }
}

/// Runs `command`; failure is an error with its output.
pub fn succeed(command: &mut Command, seconds: u64) -> Result<String> {
    let Done { status, output } = run(command, seconds)?;
    if !status.success() {
        bail!("{status}\n{output}");
    }
    Ok(output)
}

/// Makes a signal to us end the running command too.
pub fn stop_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]).context("no signals")?;
    std::thread::spawn(move || {
        if let Some(number) = signals.forever().next() {
            running().iter().for_each(|group| kill(*group));
            for pid in told().iter() {
                let _ = kill_process(*pid, Signal::TERM);
            }
            if !told().is_empty() {
                std::thread::sleep(Duration::from_millis(500));
            }
            std::process::exit(128 + number);
        }
    });
    Ok(())
}

/// As long as this is there, a signal to us is told to its process.
pub struct Bystander(Option<Pid>);

/// `child` is told when we are to stop.
pub fn tell_at_the_end(child: &Child) -> Bystander {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    told().extend(pid);
    Bystander(pid)
}

impl Drop for Bystander {
    fn drop(&mut self) {
        told().retain(|one| Some(*one) != self.0);
    }
}

fn told() -> MutexGuard<'static, Vec<Pid>> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(child: &mut Child, group: Option<Pid>, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            group.into_iter().for_each(kill);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
}
