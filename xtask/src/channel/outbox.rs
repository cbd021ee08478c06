//! The lines that wait for one client. Whoever puts one in never waits, and what may wait is bounded.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many bytes of replies may wait. A client that takes none is given up.
const REPLIES: usize = 4 << 20;

/// How many bytes may wait for consoles' output to be added.
const OUTPUT: usize = 256 << 10;

/// Lines for one client.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    bytes: usize,
    closed: bool,
}

impl Outbox {
    /// Adds a reply. False when too much waits.
    pub fn reply(&self, line: String) -> bool {
        self.put(line, REPLIES)
    }

    /// Adds output of the consoles. False when too much waits.
    pub fn output(&self, line: String) -> bool {
        self.put(line, OUTPUT)
    }

    /// Nothing is added any more.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Waits for the next line; none once it is closed and all are taken.
    pub fn take(&self) -> Option<String> {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                return Some(line);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put(&self, line: String, most: usize) -> bool {
        let mut state = self.state();
        if state.closed || state.bytes.saturating_add(line.len()) > most {
            return false;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.changed.notify_all();
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{OUTPUT, Outbox, REPLIES};

    #[test]
    fn output_leaves_room_for_replies_and_both_are_bounded() {
        let outbox = Outbox::default();
        assert!(outbox.output("x".repeat(OUTPUT)));
        assert!(!outbox.output("x".to_owned()));
        assert!(outbox.reply("y".repeat(REPLIES - OUTPUT)));
        assert!(!outbox.reply("y".to_owned()));
    }

    #[test]
    fn what_was_put_in_before_the_end_still_comes_out() {
        let outbox = Outbox::default();
        outbox.reply("a".to_owned());
        outbox.close();
        assert!(!outbox.reply("b".to_owned()));
        assert_eq!((outbox.take().as_deref(), outbox.take()), (Some("a"), None));
    }
}
