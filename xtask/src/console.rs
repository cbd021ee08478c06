//! The serial line: pumped between QEMU's pipes and the user, and watched on the way.

mod watch;

use std::io::{Read, Write};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::terminal::{self, ESCAPE};

pub use watch::{LastWords, Watch};

/// How a run came to its end.
#[derive(Debug)]
pub enum End {
    /// The text that was waited for has appeared.
    Found,
    /// QEMU ended by itself.
    Exit(ExitStatus),
    /// The time limit was reached.
    Timeout,
    /// The user pressed the escape key.
    Quit,
    /// This signal came.
    Signal(i32),
    /// Nobody reads our output any more.
    Unread,
}

enum Event {
    Output(Vec<u8>),
    OutputEnd,
    Quit,
    Signal(i32),
}

/// A child process that is killed and collected however its owner ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Holds back the signals that end a run, for [`pump`] to take. To be called before QEMU starts: a
/// signal that comes while it does must end the run like any other.
pub fn hold_signals() -> Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]).context("no signals")
}

/// Pumps until the run ends one way or another; afterwards QEMU is gone and the terminal is as it
/// was. The end of standard input does not end the run.
pub fn pump(
    child: Child,
    signals: Signals,
    watch: &mut Watch<'_>,
    limit: Option<Duration>,
) -> Result<End> {
    let mut child = Killed(child);
    let deadline = limit.map(|limit| Instant::now() + limit);
    // Bounded: when the user's terminal is slow, QEMU has to wait, not our memory to grow.
    let (send, events) = sync_channel(64);

    forward_signals(signals, send.clone());
    let output = child.0.stdout.take().context("QEMU has no output")?;
    forward_output(output, send.clone());
    let raw = terminal::Raw::enter();
    let input = child.0.stdin.take().context("QEMU has no input")?;
    forward_input(input, raw.is_some().then_some(send));

    let mut stdout = std::io::stdout().lock();
    let mut shown = Vec::new();
    loop {
        let event = match deadline {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                None => return Ok(End::Timeout),
                Some(left) => events.recv_timeout(left),
            },
        };
        match event {
            Ok(Event::Output(bytes)) => {
                shown.clear();
                let found = watch.feed(&bytes, &mut shown);
                if stdout.write_all(&shown).and_then(|()| stdout.flush()).is_err() {
                    return Ok(End::Unread);
                }
                if found {
                    return Ok(End::Found);
                }
            }
            Ok(Event::OutputEnd) | Err(RecvTimeoutError::Disconnected) => {
                return Ok(End::Exit(child.0.wait().context("cannot wait for QEMU")?));
            }
            Ok(Event::Quit) => return Ok(End::Quit),
            Ok(Event::Signal(number)) => return Ok(End::Signal(number)),
            Err(RecvTimeoutError::Timeout) => return Ok(End::Timeout),
        }
    }
}

fn forward_signals(mut signals: Signals, send: SyncSender<Event>) {
    thread::spawn(move || {
        for number in signals.forever() {
            if send.send(Event::Signal(number)).is_err() {
                return;
            }
        }
    });
}

fn forward_output(mut from: impl Read + Send + 'static, send: SyncSender<Event>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let event = match from.read(&mut buffer) {
                Ok(0) => Event::OutputEnd,
                Ok(count) => Event::Output(buffer[..count].to_vec()),
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => Event::OutputEnd,
            };
            let last = matches!(event, Event::OutputEnd);
            if send.send(event).is_err() || last {
                return;
            }
        }
    });
}

/// Types for the user. `keys` is where to say that the escape key was pressed; a pipe has none.
fn forward_input(mut to: impl Write + Send + 'static, keys: Option<SyncSender<Event>>) {
    thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 512];
        loop {
            let typed = match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => &buffer[..count],
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if let Some(keys) = &keys
                && let Some(at) = typed.iter().position(|key| *key == ESCAPE)
            {
                let _ = to.write_all(&typed[..at]);
                let _ = keys.send(Event::Quit);
                break;
            }
            if to.write_all(typed).and_then(|()| to.flush()).is_err() {
                break;
            }
        }
        // The machine's serial line stays plugged in when there is nothing more to type.
        loop {
            thread::park();
        }
    });
}
