//! Composing what the multiplexer puts on the line: one unit at a time, by rank and in turn.

use alloc::string::String;
use core::fmt::Write;
use core::time::Duration;

use ::log::Level;

use super::frame;
use super::log::Stamp;
use super::mux::{Draw, Focus, Mux, Owner, Shows};
use super::port::Port;
use super::terminal;
use super::text::{Cleaner, Restart};

/// How much of a raw guest's output is one unit, in bytes.
const RAW: usize = 32;

impl Mux {
    /// Makes the next unit; none when nothing is to be shown, or nothing shows of a piece that has been passed over.
    pub(super) fn compose(&mut self, now: Duration) {
        self.again = false;
        let _ = self.compose_bell()
            || self.compose_log(now)
            || self.compose_frame()
            || self.compose_answer()
            || (self.draw == Some(Draw::Soon) && self.compose_prompt())
            || self.compose_guest(now)
            || self.compose_prompt();
    }

    fn compose_bell(&mut self) -> bool {
        let rings = core::mem::take(&mut self.bell) && self.settings.terminal;
        if rings {
            self.unit.push(0x07);
        }
        rings
    }

    fn compose_log(&mut self, now: Duration) -> bool {
        let lost = self.log.start().saturating_sub(self.log_shown);
        if lost > 0 {
            // From the start of a line on.
            let rest = self.log.iter_from(0).position(|byte| byte == b'\n');
            let rest = rest.map_or(0, |at| at as u64 + 1);
            self.log_shown = self.log.start() + rest;
            self.break_line();
            let mut text = String::new();
            let lost = lost + rest;
            let _ = write!(
                text,
                "{} console: {lost} bytes of the log were lost\r\n",
                Stamp(now, Level::Warn)
            );
            self.unit.extend_from_slice(text.as_bytes());
            return true;
        }
        if !self.has_log() {
            return false;
        }
        self.break_line();
        for byte in self.log.iter_from(self.log_shown) {
            self.log_shown += 1;
            if byte == b'\n' {
                self.unit.extend_from_slice(b"\r\n");
                break;
            }
            if !byte.is_ascii_control() || byte == b'\t' {
                self.unit.push(byte);
            }
        }
        true
    }

    fn compose_frame(&mut self) -> bool {
        // Whoever reads frames takes them out again, so they belong to no line.
        self.frames.pop_front().map(|frame| self.unit = frame).is_some()
    }

    fn compose_answer(&mut self) -> bool {
        if self.answer.is_empty() {
            return false;
        }
        if self.owner != Owner::Monitor {
            self.break_line();
        }
        self.owner = Owner::Monitor;
        while let Some(byte) = self.answer.pop_front() {
            if byte == b'\n' {
                self.unit.extend_from_slice(b"\r\n");
                self.owner = Owner::Nobody;
                break;
            }
            self.unit.push(byte);
        }
        true
    }

    fn compose_prompt(&mut self) -> bool {
        if self.draw.is_none() || self.busy || self.focus != Focus::Monitor {
            return false;
        }
        self.draw = None;
        if self.owner != Owner::Prompt {
            self.break_line();
        }
        self.editor.draw(&mut self.unit);
        self.owner = Owner::Prompt;
        true
    }

    fn compose_guest(&mut self, now: Duration) -> bool {
        match self.shows() {
            Shows::None => false,
            Shows::Only(id) => {
                let at = self.ports.iter().position(|port| port.id() == id);
                at.is_some_and(|at| self.tell_lost(at, now) || self.compose_raw(at, now))
            }
            Shows::All => {
                let count = self.ports.len();
                let mut next = self.turn;
                for _ in 0..count {
                    let at = if next < count { next } else { 0 };
                    next = at + 1;
                    // Most have nothing, and this is gone through for each byte of some guest's.
                    if self.ports.get(at).is_some_and(Port::has_unshown)
                        && (self.tell_lost(at, now) || self.compose_piece(at, now))
                    {
                        self.turn = next;
                        return true;
                    }
                }
                false
            }
        }
    }

    /// What of a guest's output was overwritten before it could be shown.
    fn tell_lost(&mut self, at: usize, now: Duration) -> bool {
        let Some(port) = self.ports.get_mut(at) else { return false };
        let lost = port.take_lost();
        if lost == 0 {
            return false;
        }
        let name = String::from(port.name());
        self.notice(now, format_args!("{name}: {lost} bytes were lost"));
        let told = self.compose_log(now);
        // What comes next stands at the start of a line.
        if let Some(port) = self.ports.get_mut(at) {
            port.cleaner = Cleaner::default();
        }
        told
    }

    fn compose_raw(&mut self, at: usize, now: Duration) -> bool {
        let Some(port) = self.ports.get_mut(at) else { return false };
        let id = port.id();
        if port.unshown() == 0 {
            return false;
        }
        let mut column = self.owner == Owner::Guest(id);
        let (mut bytes, mut clean) = core::mem::take(&mut self.spare);
        port.take(RAW, now, &mut bytes);
        // Only the hypervisor begins frames.
        bytes.retain(|byte| *byte != frame::START);
        let restart = Restart { prefix: b"", terminal: true };
        for byte in &bytes {
            column = !port.cleaner.feed(*byte, restart, &mut clean);
            clean.clear();
        }
        if !bytes.is_empty() {
            let goes_on = self.owner == Owner::Nobody && self.raw.is_none_or(|raw| raw == id);
            if self.owner != Owner::Guest(id) && !goes_on {
                self.break_line();
            }
            self.owner = if column { Owner::Guest(id) } else { Owner::Nobody };
            if self.settings.terminal {
                (self.raw, self.stirred) = (Some(id), true);
            }
        }
        self.unit.append(&mut bytes);
        self.spare = (bytes, clean);
        // Nothing of it goes out, and there may be more.
        self.again |= self.unit.is_empty();
        !self.unit.is_empty()
    }

    fn compose_piece(&mut self, at: usize, now: Duration) -> bool {
        let terminal = self.settings.terminal;
        let Some(port) = self.ports.get_mut(at) else { return false };
        let id = port.id();
        let has_line = self.owner == Owner::Guest(id) && self.raw.is_none();
        let length = port.piece(has_line);
        if length == 0 {
            return false;
        }
        if !has_line {
            port.cleaner.move_to_new_line();
        }
        let prefix = port.prefix().to_vec();
        let (mut text, ended) = port.take_clean(length, terminal, now);
        if text.is_empty() && !ended {
            self.again = true;
            return false;
        }
        if !has_line {
            self.break_line();
            self.unit.extend_from_slice(&prefix);
        }
        self.unit.append(&mut text);
        if ended {
            self.unit.extend_from_slice(b"\r\n");
        }
        self.owner = if ended { Owner::Nobody } else { Owner::Guest(id) };
        true
    }

    /// Takes back what the guest that was shown as it is may have made of the terminal: all of it when
    /// that guest is no longer shown so, or for last words. Returns whether the cursor may be anywhere.
    pub(super) fn restore(&mut self, last: bool) -> bool {
        let Some(id) = self.raw else { return false };
        let all = last || self.shows() != Shows::Only(id);
        if all {
            self.raw = None;
            self.unit.extend_from_slice(terminal::RESET);
        } else if self.stirred {
            self.unit.extend_from_slice(terminal::CALM);
        }
        core::mem::take(&mut self.stirred) || all
    }

    /// Ends the line that somebody has begun.
    pub(super) fn break_line(&mut self) {
        let restored = self.restore(false);
        match core::mem::replace(&mut self.owner, Owner::Nobody) {
            Owner::Nobody if restored && self.raw.is_none() => {
                self.unit.extend_from_slice(b"\r\n");
            }
            // Nothing else stands on that line.
            Owner::Nobody if restored => self.unit.extend_from_slice(b"\r\x1b[K"),
            Owner::Nobody => {}
            // It is drawn again when there is time.
            Owner::Prompt => {
                self.unit.extend_from_slice(b"\r\x1b[K");
                self.draw = self.draw.max(Some(Draw::Idle));
            }
            Owner::Guest(id) => {
                // CAN: what follows is not for the guest's half of an escape sequence.
                if !restored && self.port(id).is_some_and(|port| port.cleaner.is_in_sequence()) {
                    self.unit.push(0x18);
                }
                self.unit.extend_from_slice(b"\r\n");
            }
            Owner::Monitor | Owner::Gone => self.unit.extend_from_slice(b"\r\n"),
        }
    }
}
