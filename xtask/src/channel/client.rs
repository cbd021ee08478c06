//! A program's end of the socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::exchange::Reply;
use super::socket;

/// The longest line that is read, in bytes: that of a reply, in which each byte may take six.
const LONGEST_LINE: u64 = 8 << 20;

/// Which run.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// The run whose socket is here; `run` shows it at its start
    #[arg(long, value_name = "PATH", conflicts_with = "run")]
    pub socket: Option<PathBuf>,
    /// The run with this id, when there are several
    #[arg(long, value_name = "ID")]
    pub run: Option<u32>,
}

/// What comes from a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The reply to the request with this number: its result, or why there is none.
    Reply(u64, Result<Value, String>),
    /// What the consoles have put out.
    Output(String),
    /// The run has ended.
    End,
}

/// A connection to a run.
pub struct Client {
    stream: UnixStream,
    lines: Receiver<String>,
    last: u64,
}

impl Client {
    /// Connects.
    pub fn connect(which: &Which) -> Result<Self> {
        Self::over(socket::connect(which.socket.as_deref(), which.run)?)
    }

    /// Speaks over `stream`.
    pub fn over(stream: UnixStream) -> Result<Self> {
        let from = stream.try_clone().context("cannot read from the run")?;
        let (send, lines) = sync_channel(64);
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            loop {
                let mut line = Vec::new();
                match from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
                    Ok(1..) if line.ends_with(b"\n") => {}
                    _ => return,
                }
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { stream, lines, last: 0 })
    }

    /// Sends a command; its reply will have the number that is returned.
    pub fn send(&mut self, command: &str) -> Result<u64> {
        self.last += 1;
        let request = serde_json::json!({ "id": self.last, "command": command });
        self.stream.write_all(format!("{request}\n").as_bytes()).context("the run has ended")?;
        Ok(self.last)
    }

    /// The next message, if one comes within `wait`. What is no message is passed over.
    pub fn next(&self, wait: Duration) -> Option<Message> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => match read(&line) {
                    Some(message) => return Some(message),
                    None => continue,
                },
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some(Message::End),
            }
        }
    }

    /// Sends a command and waits for its reply: the result, or why there is none.
    pub fn ask(&mut self, command: &str, patience: Duration) -> Result<Result<Value, String>> {
        let deadline = Instant::now() + patience;
        // A run that refuses us says why and closes, perhaps before we have sent anything: that is heard first.
        let sent = self.send(command);
        let number = self.last;
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now())) {
                Some(Message::Reply(of, result)) if of == number => return Ok(result),
                // The run refuses us as a whole.
                Some(Message::Reply(0, Err(why))) => bail!("{why}"),
                Some(Message::Reply(..) | Message::Output(_)) => {}
                Some(Message::End) => {
                    sent?;
                    bail!("the run ended before the hypervisor answered");
                }
                None => bail!("the hypervisor did not answer within {} s", patience.as_secs_f64()),
            }
        }
    }
}

/// Reads a line of the run's. A reply to no request in particular has the number 0.
fn read(line: &str) -> Option<Message> {
    let value: Value = serde_json::from_str(line).ok()?;
    if let Some(output) = value.get("output").and_then(Value::as_str) {
        return Some(Message::Output(output.to_owned()));
    }
    let reply: Reply = serde_json::from_value(value).ok()?;
    let number = reply.id.as_u64().unwrap_or(0);
    let why = || reply.error.unwrap_or_else(|| "refused, for no reason given".to_owned());
    Some(Message::Reply(
        number,
        if reply.ok { Ok(reply.result.unwrap_or_default()) } else { Err(why()) },
    ))
}
