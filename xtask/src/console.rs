//! The serial line: pumped between QEMU's pipes and the user, and watched on the way. The monitor's
//! frames, which share it, go to and from their own clients ([`crate::channel`]).

mod watch;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::channel::frames::{Piece, START, Splitter};
use crate::channel::server::Hub;
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
pub struct Killed(pub Child);

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
/// was. The end of standard input does not end the run. With `clients`, what they ask goes in frames
/// over the same line; without, the line is all the console's.
pub fn pump(
    child: Child,
    signals: Signals,
    clients: Option<UnixListener>,
    watch: &mut Watch<'_>,
    limit: Option<Duration>,
) -> Result<End> {
    let mut child = Killed(child);
    let deadline = limit.map(|limit| Instant::now() + limit);
    // Bounded: when the user's terminal is slow, QEMU has to wait, not our memory to grow.
    let (send, events) = sync_channel(64);

    forward_signals(signals, send.clone());
    let input = child.0.stdin.take().context("QEMU has no input")?;
    let line = feed_line(input);
    let hub = clients.map(|listener| Hub::serve(listener, line.clone()));
    let output = child.0.stdout.take().context("QEMU has no output")?;
    forward_output(output, send.clone(), hub);
    let raw = terminal::Raw::enter();
    forward_input(line, raw.is_some().then_some(send));

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

/// Puts what is sent here on the machine's serial line, each piece as a whole.
pub(crate) fn feed_line(mut to: impl Write + Send + 'static) -> SyncSender<Vec<u8>> {
    // Few: when the machine does not read, its user has to wait, not our memory to grow.
    let (send, pieces): (_, Receiver<Vec<u8>>) = sync_channel(4);
    thread::spawn(move || {
        for piece in pieces {
            if to.write_all(&piece).and_then(|()| to.flush()).is_err() {
                return;
            }
        }
        // The machine's serial line stays plugged in when there is nothing more to type.
        loop {
            thread::park();
        }
    });
    send
}

fn forward_output(
    from: impl Read + Send + 'static,
    send: SyncSender<Event>,
    hub: Option<Arc<Hub>>,
) {
    thread::spawn(move || {
        let output = |bytes| send.send(Event::Output(bytes)).is_ok();
        drain_line(from, hub.as_deref(), output);
        let _ = send.send(Event::OutputEnd);
    });
}

/// Hands on the machine's output until it ends or nobody takes it: clients' frames to the hub, all
/// else to `each`, for clients that follow as well. Whoever types frames on the console reads the
/// replies there.
pub(crate) fn drain_line(
    mut from: impl Read,
    hub: Option<&Hub>,
    mut each: impl FnMut(Vec<u8>) -> bool,
) {
    let mut buffer = [0; 4096];
    let mut splitter = Splitter::default();
    let mut shown = Vec::new();
    let mut ended = false;
    while !ended {
        let chunk = match from.read(&mut buffer) {
            Ok(count @ 1..) => buffer.get(..count).unwrap_or_default(),
            Err(why) if why.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => {
                ended = true;
                &[]
            }
        };
        match hub {
            None => shown.extend_from_slice(chunk),
            Some(hub) => {
                let mut take = |piece: Piece<'_>| match piece {
                    Piece::Console(bytes) => shown.extend_from_slice(bytes),
                    Piece::Frame(text) if hub.frame(text) => {}
                    Piece::Frame(text) => {
                        shown.push(START);
                        shown.extend_from_slice(text);
                        shown.push(b'\n');
                    }
                };
                splitter.feed(chunk, &mut take);
                if ended {
                    std::mem::take(&mut splitter).finish(&mut take);
                }
                hub.output(&shown);
            }
        }
        if !shown.is_empty() && !each(std::mem::take(&mut shown)) {
            return;
        }
    }
}

/// Types for the user. `keys` is where to say that the escape key was pressed; a pipe has none.
fn forward_input(line: SyncSender<Vec<u8>>, keys: Option<SyncSender<Event>>) {
    thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 512];
        loop {
            let typed = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => &buffer[..count],
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            if let Some(keys) = &keys
                && let Some(at) = typed.iter().position(|key| *key == ESCAPE)
            {
                let _ = line.send(typed[..at].to_vec());
                let _ = keys.send(Event::Quit);
                return;
            }
            if line.send(typed.to_vec()).is_err() {
                return;
            }
        }
    });
}
