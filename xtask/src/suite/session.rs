//! A run of `cargo xtask run` that a test types into and reads from.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::Bench;

/// How often a session looks whether something has happened.
const TICK: Duration = Duration::from_millis(10);

/// How much of the output an error shows.
const SHOWN_LINES: usize = 60;

/// A run in progress. Dropping it kills xtask, and QEMU dies with xtask.
pub struct Session {
    child: Child,
    input: Box<dyn Write>,
    output: Arc<Mutex<Vec<u8>>>,
    /// Where in the output the next [`Session::expect`] begins to look.
    read: usize,
}

impl Session {
    /// Starts `xtask run ARGS`, which ends by itself after `seconds` at the latest.
    pub fn start(bench: &Bench, args: &[&str], seconds: u64) -> Result<Self> {
        let mut command = command(bench, &[], args, seconds);
        // One pipe for both, so that what is read stands in the order it was written.
        let (from, to) = std::io::pipe().context("no pipe")?;
        command.stdin(Stdio::piped()).stdout(to.try_clone()?).stderr(to);
        let mut child = command.spawn().context("cannot start xtask")?;
        let output = Arc::default();
        let input = Box::new(child.stdin.take().context("no input")?);
        collect(from, &output);
        Ok(Self { child, input, output, read: 0 })
    }

    /// The same on a terminal of its own, which is returned.
    pub fn start_on_terminal(bench: &Bench, args: &[&str], seconds: u64) -> Result<(Self, File)> {
        let mut command = command(bench, &["--terminal"], args, seconds);
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("no terminal")?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let path = ptsname(&ours, Vec::new())?.into_string().context("a terminal's name")?;
        // Or it would become that of a test run that leads a session, and its end that run's.
        let flags = OFlags::NOCTTY.bits().cast_signed();
        let theirs = File::options().read(true).write(true).custom_flags(flags).open(path)?;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs.try_clone()?);
        let child = command.spawn().context("cannot start xtask")?;
        let output = Arc::default();
        let ours = File::from(ours);
        collect(ours.try_clone()?, &output);
        Ok((Self { child, input: Box::new(ours), output, read: 0 }, theirs))
    }

    /// The process id of xtask.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `text` appears after what was read so far.
    pub fn expect(&mut self, text: &str, seconds: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            // Asked before the output is looked at: what was printed last must not be missed.
            let ended = self.child.try_wait()?;
            if let Some(at) = self.find(text) {
                self.read += at + text.len();
                return Ok(());
            }
            if let Some(status) = ended {
                thread::sleep(10 * TICK);
                if self.find(text).is_none() {
                    bail!("xtask ended ({status}) before `{text}`\n{}", self.shown());
                }
            } else if Instant::now() > deadline {
                bail!("no `{text}` within {seconds} s\n{}", self.shown());
            } else {
                thread::sleep(TICK);
            }
        }
    }

    /// Waits until `text` is in the output, whatever was read so far.
    pub fn wait_for(&mut self, text: &str, seconds: u64) -> Result<()> {
        let read = std::mem::take(&mut self.read);
        let found = self.expect(text, seconds);
        self.read = self.read.max(read);
        found
    }

    /// Waits until `guest` has said `what` on a console that it shares, in however many pieces.
    pub fn says(&mut self, guest: &str, what: &str, seconds: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let alive = self.alive();
            if alive.is_err() {
                // The last output may still be on its way.
                thread::sleep(10 * TICK);
            }
            if said(&self.text(), guest).contains(what) {
                return Ok(());
            }
            alive?;
            if Instant::now() > deadline {
                bail!("{guest} does not say `{what}` within {seconds} s\n{}", self.shown());
            }
            thread::sleep(TICK);
        }
    }

    /// Fails when it has ended.
    pub fn alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("xtask ended ({status})\n{}", self.shown()),
            None => Ok(()),
        }
    }

    /// Types.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes()).context("cannot type")
    }

    /// Waits for the end and gives the exit status; 128 plus its number for a signal.
    pub fn end(&mut self, seconds: u64) -> Result<i32> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(128));
            }
            if Instant::now() > deadline {
                bail!("xtask has not ended within {seconds} s\n{}", self.shown());
            }
            thread::sleep(TICK);
        }
    }

    /// Like [`Session::end`], but any status except `want` is an error.
    pub fn end_with(&mut self, want: i32, seconds: u64) -> Result<()> {
        let status = self.end(seconds)?;
        if status != want {
            // The last output may still be on its way.
            thread::sleep(10 * TICK);
            bail!("xtask ended with {status} instead of {want}\n{}", self.shown());
        }
        Ok(())
    }

    /// All output so far.
    pub fn text(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }

    fn find(&self, text: &str) -> Option<usize> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let new = output.get(self.read..)?;
        new.windows(text.len()).position(|window| window == text.as_bytes())
    }

    fn shown(&self) -> String {
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that `guest` has said on a console that it shares. Others may speak in the middle of a line that
/// takes long: what comes later stands in a line of its own, after the guest's name. The monitor's prompt is taken off
/// the screen for each line.
pub fn said(text: &str, guest: &str) -> String {
    let prefix = format!("[{guest}] ");
    let shown = text.lines().filter_map(|line| line.rsplit("\x1b[K").next());
    shown.filter_map(|line| line.strip_prefix(&prefix)).collect()
}

/// `xtask run ARGS`, which must not outlive us either.
fn command(bench: &Bench, how: &[&str], args: &[&str], seconds: u64) -> Command {
    let mut command = Command::new(&bench.program);
    command.arg("exec-with-parent").args(how).arg(std::process::id().to_string()).arg("--");
    command.arg(&bench.program).arg("run").arg("--timeout").arg(seconds.to_string());
    if bench.bare {
        command.arg("--bare");
    }
    command.args(args);
    command
}

fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) {
    let into = Arc::clone(into);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut output = into.lock().unwrap_or_else(PoisonError::into_inner);
            output.extend_from_slice(&buffer[..count]);
        }
    });
}
