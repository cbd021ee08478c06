//! The multiplexer at the end of a line that a test drains.

mod input;
mod monitor;
mod output;
mod property;
mod terminal;

use super::*;
use crate::console::port::{LONG_PATIENCE, PATIENCE, TYPED};
use crate::console::terminal::{CALM, RESET};
use alloc::format;
use alloc::vec;
use proptest::prelude::*;

use crate::testing::pick;

const A: VmId = VmId(0);
const B: VmId = VmId(1);
const C: VmId = VmId(2);

/// What waits for the line at most: the answers beyond which nothing is taken, and one more.
const MOST_QUEUED: usize = ANSWERS + 4096;

/// How much is kept of what each guest has sent: as usual, less under Miri.
const KEPT: usize = pick(64 << 10, 8 << 10);

/// A console and what came out of it.
struct Bench {
    mux: Mux,
    now: Duration,
    out: Vec<u8>,
}

impl Bench {
    fn new(names: &[&str]) -> Self {
        Self::with(names, Settings { terminal: false, scrollback: KEPT, ..Settings::default() })
    }

    fn on_terminal(names: &[&str]) -> Self {
        Self::with(names, Settings::default())
    }

    fn with(names: &[&str], settings: Settings) -> Self {
        let mut mux = Mux::new(settings);
        for (id, name) in (0..).zip(names) {
            mux.attach(VmId(id), name);
        }
        Self { mux, now: Duration::from_secs(1), out: Vec::new() }
    }

    /// The guest sends what it can; how much that was.
    fn send(&mut self, id: VmId, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| self.mux.send(id, **byte, self.now)).count()
    }

    /// The line takes at most `count` bytes.
    fn drain(&mut self, count: usize) -> &mut Self {
        self.ripen(false);
        for _ in 0..count {
            let Some(byte) = self.mux.next(self.now) else { break };
            self.out.push(byte);
            self.mux.sent();
        }
        self
    }

    /// Those whose lines have waited are kept from going on with them, or not.
    fn ripen(&mut self, kept: bool) {
        for id in self.mux.unfinished(self.now) {
            self.mux.ripen(id, kept, self.now);
        }
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn type_in(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.mux.input(*byte, self.now);
        }
        self
    }

    /// Types as the UART does: as long as input is wanted. How much that was.
    fn type_what_is_wanted(&mut self, bytes: &[u8]) -> usize {
        let mut typed = 0;
        for byte in bytes {
            if !self.mux.wants_input(self.now) {
                break;
            }
            self.mux.input(*byte, self.now);
            typed += 1;
        }
        typed
    }

    /// All that comes out.
    fn shown(&mut self) -> String {
        self.drain(usize::MAX);
        String::from_utf8_lossy(&core::mem::take(&mut self.out)).into_owned()
    }

    fn received(&mut self, id: VmId) -> Vec<u8> {
        core::iter::from_fn(|| self.mux.receive(id)).collect()
    }
}

/// A line of the console's own, with the time at which tests begin.
fn notice(text: &str) -> String {
    format!("plinth [  1.000000] INFO  console: {text}\r\n")
}
