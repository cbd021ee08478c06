//! `cargo xtask run`'s end of the socket: clients' requests go to the line, replies come back.
//!
//! One thread accepts, one sends frames, and each client has two: one reads, one writes. The console's
//! pump only ever puts lines into outboxes, so no client can hold it up.
//!
//! Lock order: the hub's state, then an outbox.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::exchange::{self, Answer, Exchange, Reply};
use super::frames::frame;
use super::outbox::Outbox;

/// How many clients there may be at once.
const CLIENTS: usize = 16;

/// The longest line of a client, in bytes.
const LONGEST_LINE: u64 = 4096;

/// How much of the consoles' output a client gets that begins to follow it.
const RECENT: usize = 64 << 10;

/// How long a client may take nothing of what is written to it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The command by which a client asks for the consoles' output. The hypervisor does not know it.
pub const FOLLOW: &str = "follow";

/// What the pump and the clients share.
pub struct Hub {
    state: Mutex<State>,
    /// There may be something to send.
    to_send: Condvar,
}

#[derive(Default)]
struct State {
    exchange: Exchange,
    clients: BTreeMap<u64, Client>,
    last_client: u64,
    recent: VecDeque<u8>,
    /// The first bytes of a character whose rest has not come yet.
    partial: Vec<u8>,
}

struct Client {
    outbox: Arc<Outbox>,
    stream: UnixStream,
    follows: bool,
    /// It asks nothing any more, but may wait for replies.
    asked_all: bool,
}

impl Hub {
    /// Serves clients of `listener`; what is for the machine's serial line goes to `line`.
    pub fn serve(listener: UnixListener, line: SyncSender<Vec<u8>>) -> Arc<Self> {
        let hub = Arc::new(Self { state: Mutex::default(), to_send: Condvar::new() });
        let sending = Arc::clone(&hub);
        thread::spawn(move || sending.send(&line));
        let served = Arc::clone(&hub);
        thread::spawn(move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => served.admit(stream),
                    // No more files, perhaps: not to be asked at once again.
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
            }
        });
        hub
    }

    /// The machine has sent a frame with this text. False when no client has to do with it.
    pub fn frame(&self, text: &[u8]) -> bool {
        let mut state = self.state();
        match state.exchange.answer(text) {
            Answer::To(client, reply) => {
                state.reply(client, &reply);
                self.to_send.notify_one();
                true
            }
            Answer::Late => true,
            Answer::Other => false,
        }
    }

    /// The consoles have put this out.
    pub fn output(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.recent.extend(bytes);
        let surplus = state.recent.len().saturating_sub(RECENT);
        state.recent.drain(..surplus);
        state.partial.extend_from_slice(bytes);
        let text = take_text(&mut state.partial);
        // Frames alone, or a part of a character.
        if text.is_empty() {
            return;
        }
        let line = output_line(&text);
        for client in state.clients.values().filter(|client| client.follows) {
            // A client that is behind misses some, and nobody waits for it.
            client.outbox.output(line.clone());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends frames as long as the machine takes any. Waits for it when it does not read.
    fn send(&self, line: &SyncSender<Vec<u8>>) {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            for (client, reply) in state.exchange.give_up(now) {
                state.reply(client, &reply);
            }
            if let Some(text) = state.exchange.send(now) {
                drop(state);
                if line.send(frame(&text)).is_err() {
                    return;
                }
                state = self.state();
            } else {
                // What is stuck counts no more after a while, which nobody tells.
                let wait = self.to_send.wait_timeout(state, Duration::from_secs(1));
                state = wait.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Begins with a new client.
    fn admit(self: &Arc<Self>, mut stream: UnixStream) {
        let (Ok(()), Ok(from), Ok(to)) =
            (stream.set_write_timeout(Some(PATIENCE)), stream.try_clone(), stream.try_clone())
        else {
            return;
        };
        let mut state = self.state();
        if state.clients.len() >= CLIENTS {
            drop(state);
            let why = format!("{CLIENTS} clients are connected already");
            let _ =
                stream.write_all(Reply::refusal(serde_json::Value::Null, why).line().as_bytes());
            return;
        }
        state.last_client += 1;
        let id = state.last_client;
        let outbox = Arc::new(Outbox::default());
        let lines = Arc::clone(&outbox);
        state.clients.insert(id, Client { outbox, stream, follows: false, asked_all: false });
        drop(state);
        let hub = Arc::clone(self);
        thread::spawn(move || {
            write(to, &lines);
            hub.state().remove(id);
        });
        let hub = Arc::clone(self);
        thread::spawn(move || hub.listen(id, from));
    }

    /// Takes a client's requests until it sends no more.
    fn listen(&self, client: u64, from: UnixStream) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            match from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if !line.ends_with(b"\n") && line.len() as u64 >= LONGEST_LINE {
                let why = format!("a line is longer than {LONGEST_LINE} bytes");
                self.state().reply(client, &Reply::refusal(number.into(), why));
                break;
            }
            let text = String::from_utf8_lossy(&line);
            if !text.trim().is_empty() {
                self.request(client, &text, number);
            }
        }
        self.state().asked_all(client);
        // It may have closed its half only, and wait for replies. Polled for no event, this waits
        // until both halves are closed, by the client or by us.
        let mut polled = [PollFd::new(from.get_ref(), PollFlags::empty())];
        while let Err(Errno::INTR) = poll(&mut polled, None) {}
        self.state().remove(client);
    }

    /// Queues a request, or answers it.
    fn request(&self, client: u64, line: &str, number: u64) {
        let mut state = self.state();
        let asked = match exchange::read(line, number) {
            Ok(request) if request.command.trim() == FOLLOW => {
                state.follow(client);
                Err(Box::new(Reply::done(request.id)))
            }
            Ok(request) => state.exchange.ask(client, request, Instant::now()),
            Err(reply) => Err(reply),
        };
        match asked {
            Ok(()) => self.to_send.notify_one(),
            Err(reply) => state.reply(client, &reply),
        }
    }
}

impl State {
    fn reply(&mut self, id: u64, reply: &Reply) {
        let Some(client) = self.clients.get(&id) else { return };
        if !client.outbox.reply(reply.line()) {
            self.remove(id);
        } else if client.asked_all && self.exchange.waiting(id) == 0 {
            client.outbox.close();
        }
    }

    fn follow(&mut self, id: u64) {
        let recent: Vec<u8> = self.recent.iter().copied().collect();
        if let Some(client) = self.clients.get_mut(&id)
            && !client.follows
        {
            client.follows = true;
            // What is left out comes with the rest of its character.
            let whole = recent.len() - self.partial.len().min(recent.len());
            let text = String::from_utf8_lossy(recent.get(..whole).unwrap_or_default());
            if !text.is_empty() {
                client.outbox.output(output_line(&text));
            }
        }
    }

    fn asked_all(&mut self, id: u64) {
        let waits = self.exchange.waiting(id) > 0;
        if let Some(client) = self.clients.get_mut(&id) {
            client.asked_all = true;
            if !waits && !client.follows {
                client.outbox.close();
            }
        }
    }

    fn remove(&mut self, id: u64) {
        self.exchange.forget(id);
        if let Some(client) = self.clients.remove(&id) {
            client.outbox.close();
            let _ = client.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Writes lines until there are no more, or nobody takes them.
fn write(mut to: UnixStream, lines: &Outbox) {
    while let Some(line) = lines.take() {
        if to.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

fn output_line(text: &str) -> String {
    serde_json::json!({ "output": text }).to_string() + "\n"
}

/// Takes out of `bytes` what is whole; a character whose end may yet come stays.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let unfinished = bytes.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
    let last = bytes.len() - unfinished;
    let is_cut = std::str::from_utf8(&bytes[last..]).is_err_and(|why| why.error_len().is_none());
    let rest = if is_cut { bytes.split_off(last) } else { Vec::new() };
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

#[cfg(test)]
mod tests {
    use super::take_text;

    #[test]
    fn a_character_in_two_pieces_comes_out_whole_and_a_broken_one_replaced() {
        let (mut pending, mut text) = (Vec::new(), String::new());
        for piece in ["größe 漢".as_bytes(), b"a\xffb\xe2\x82", b"\xac."] {
            for byte in piece {
                pending.push(*byte);
                text += &take_text(&mut pending);
            }
        }
        assert_eq!((text.as_str(), pending.len()), ("größe 漢a\u{fffd}b€.", 0));
    }
}
