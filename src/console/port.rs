//! One guest's end of the console: its scrollback, what of it was shown, and what is typed to it.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::ring::Ring;
use super::settings::Settings;
use super::terminal::Queries;
use super::text::{Cleaner, Restart};
use crate::sched::VmId;

/// How much memory scrollback leaves to all that has to be there, in bytes, when it grows.
const RESERVE: usize = 64 << 10;
/// How far a guest that is shown may be ahead of the line, in bytes.
const AHEAD: u64 = 4096;
/// How far the end of a line is looked for, behind what was overwritten, in bytes.
const NEAR: usize = 512;
/// The longest piece of a guest's line that is kept together, in bytes.
pub const LONGEST_PIECE: usize = 256;
/// How long a line that is not ended is held back.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// How long at most, while its guest would go on with it but waits for a CPU.
pub const LONG_PATIENCE: Duration = Duration::from_secs(1);
/// How many typed bytes wait for a guest.
pub const TYPED: usize = 1024;
/// How many of them a guest has to take before what is typed waits for it once more.
const ENOUGH: usize = TYPED / 2;
/// How long it waits for that many before it is dropped.
const STUCK: Duration = Duration::from_secs(1);

/// The colours of the guests' names, one after the other (ECMA-48, "SGR"): none that says good or bad.
const COLOURS: [u8; 6] = [36, 33, 35, 34, 96, 95];

/// One guest's end of the console.
pub struct Port {
    id: VmId,
    name: String,
    prefix: Vec<u8>,
    scrollback: Ring,
    /// The position of the first byte that was not shown.
    shown: u64,
    /// When that byte came.
    since: Duration,
    /// When it is looked again whether it has waited long enough.
    due: Duration,
    /// It has waited long enough to be shown, though its line has not ended.
    ripe: bool,
    pub(super) cleaner: Cleaner,
    /// Up to here its output is shown late: nothing that asks the terminal is to be sent.
    replay: u64,
    queries: Queries,
    /// The guest was told that there is no room.
    pub(super) refused: bool,
    typed: VecDeque<u8>,
    /// When `typed` was full, and how many bytes the guest has taken since; none once that is
    /// [`ENOUGH`].
    full: Option<(Duration, usize)>,
    /// Something was typed that its UART does not know of.
    pub(super) has_input: bool,
    /// The VM is no more; what it said can still be shown.
    pub(super) gone: bool,
}

impl Port {
    /// The port of the guest `name`.
    pub fn new(id: VmId, name: &str, settings: &Settings) -> Self {
        // Names come from a manifest: nothing in them may do anything to a terminal.
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        let prefix = match COLOURS.get(id.index() % COLOURS.len()) {
            Some(colour) if settings.terminal => format!("\x1b[{colour}m[{name}] \x1b[0m"),
            _ => format!("[{name}] "),
        };
        Self {
            id,
            name,
            prefix: prefix.into_bytes(),
            scrollback: Ring::new(settings.scrollback, RESERVE),
            shown: 0,
            since: Duration::ZERO,
            due: Duration::ZERO,
            ripe: false,
            cleaner: Cleaner::default(),
            replay: 0,
            queries: Queries::default(),
            refused: false,
            typed: VecDeque::with_capacity(TYPED),
            full: None,
            has_input: false,
            gone: false,
        }
    }

    /// Whose it is.
    pub const fn id(&self) -> VmId {
        self.id
    }

    /// Its guest's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands before each of its lines.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// What its guest has sent.
    pub(super) const fn scrollback(&self) -> &Ring {
        &self.scrollback
    }

    /// Whether its guest is there, or was and has left something that was not shown.
    pub fn is_readable(&self) -> bool {
        !self.gone || self.unshown() > 0
    }

    /// How many bytes wait to be shown.
    pub fn unshown(&self) -> u64 {
        self.scrollback.end() - self.shown.max(self.scrollback.start())
    }

    /// Whether something waits to be shown, or was overwritten before it was.
    #[inline]
    pub const fn has_unshown(&self) -> bool {
        self.scrollback.end() > self.shown
    }

    /// Whether it is so far ahead of the line that it has to wait.
    pub fn is_ahead(&self) -> bool {
        self.unshown() >= AHEAD.min(self.scrollback.capacity() as u64)
    }

    fn wait_from(&mut self, now: Duration) {
        (self.since, self.due, self.ripe) = (now, now + PATIENCE, false);
    }

    /// The guest sends a byte.
    pub fn write(&mut self, byte: u8, now: Duration) {
        if self.unshown() == 0 {
            self.wait_from(now);
        }
        self.scrollback.push(byte);
    }

    /// How many bytes were overwritten before they were shown, and what is left of the line that they end
    /// in. They are not counted again.
    pub fn take_lost(&mut self) -> u64 {
        let start = self.scrollback.start();
        if start <= self.shown {
            return 0;
        }
        let rest = self.scrollback.iter_from(start).take(NEAR).position(|byte| byte == b'\n');
        let from = start + rest.map_or(0, |at| at as u64 + 1);
        let lost = from - self.shown;
        self.shown = from;
        lost
    }

    /// Leave all but the newest `keep` bytes out of what is to be shown, from the start of a line on.
    /// Returns how many were left out.
    pub fn skip_to(&mut self, keep: u64) -> u64 {
        let from = self.scrollback.end().saturating_sub(keep);
        if from <= self.shown {
            return 0;
        }
        let rest = self.scrollback.iter_from(from).position(|byte| byte == b'\n');
        let start = from + rest.map_or(0, |at| at as u64 + 1);
        let left_out = start - self.shown;
        self.shown = start;
        left_out
    }

    /// How long the next piece is that may be shown: a line with its end, a long part of one, or the
    /// part of one that has waited, or that belongs to a line that the guest `has_line` for. 0: none.
    pub fn piece(&self, has_line: bool) -> usize {
        let mut length = 0;
        for byte in self.scrollback.iter_from(self.shown).take(LONGEST_PIECE) {
            length += 1;
            if byte == b'\n' {
                return length;
            }
        }
        let complete = length == LONGEST_PIECE || has_line || self.gone || self.ripe;
        if complete { length } else { 0 }
    }

    /// When it is to be looked whether what waits has waited [long enough](Self::ripen).
    pub fn due(&self) -> Option<Duration> {
        (self.has_unshown() && !self.ripe).then_some(self.due)
    }

    /// What waits has waited long enough, unless its guest is `kept` from going on with the line.
    pub fn ripen(&mut self, kept: bool, now: Duration) {
        if kept && now < self.since + LONG_PATIENCE {
            self.due = now + PATIENCE;
        } else {
            self.ripe = true;
        }
    }

    /// What was not shown so far is shown late, as it is.
    pub fn begin_replay(&mut self) {
        self.replay = self.scrollback.end();
        self.queries = Queries::default();
    }

    /// Takes the next `length` bytes that are to be shown as they are into `bytes`. There may be less to send.
    pub fn take(&mut self, length: usize, now: Duration, bytes: &mut Vec<u8>) {
        for byte in self.scrollback.iter_from(self.shown).take(length) {
            if self.shown < self.replay || self.queries.is_within() {
                self.queries.feed(byte, bytes);
            } else {
                bytes.push(byte);
            }
            self.shown += 1;
        }
        self.wait_from(now);
    }

    /// Takes a piece as it may stand on a shared line. `true` when the line ends with it.
    pub fn take_clean(&mut self, length: usize, terminal: bool, now: Duration) -> (Vec<u8>, bool) {
        let (mut text, mut ended) = (Vec::new(), false);
        let restart = Restart { prefix: &self.prefix, terminal };
        let from = self.shown;
        for byte in self.scrollback.iter_from(from).take(length) {
            ended = self.cleaner.feed(byte, restart, &mut text);
            self.shown += 1;
        }
        self.wait_from(now);
        (text, ended)
    }

    /// Something is typed. False when there is no room for it.
    pub fn type_in(&mut self, byte: u8, now: Duration) -> bool {
        if self.typed.len() >= TYPED {
            return false;
        }
        self.typed.push_back(byte);
        self.has_input = true;
        if self.typed.len() >= TYPED {
            self.full.get_or_insert((now, 0));
        }
        true
    }

    /// The guest begins again: what was typed and not taken was not for this one.
    pub fn discard_input(&mut self) {
        self.typed.clear();
        self.full = None;
        self.has_input = false;
    }

    /// How many more bytes can be typed.
    pub fn room(&self) -> usize {
        TYPED.saturating_sub(self.typed.len())
    }

    /// The guest takes what was typed.
    pub fn receive(&mut self) -> Option<u8> {
        let byte = self.typed.pop_front()?;
        let full = self.full.map(|(since, taken)| (since, taken + 1));
        self.full = full.filter(|(_, taken)| *taken < ENOUGH);
        Some(byte)
    }

    /// When what is typed no longer waits where it is, as it does while the guest has no room but may be
    /// taking it. `None` when it does not wait.
    pub fn busy_until(&self, now: Duration) -> Option<Duration> {
        let (since, _) = self.full.filter(|_| self.typed.len() >= TYPED)?;
        Some(since + STUCK).filter(|stuck| now < *stuck)
    }
}
