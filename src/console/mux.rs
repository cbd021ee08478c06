//! The multiplexer: who may put the next bytes on the line.
//!
//! The line is filled with *units*, which nothing divides: a line of the log, a frame, a line of a
//! guest or a piece of one. The log comes first, then frames and the monitor's answers, then the
//! guests, one unit each in turn, then the monitor's prompt. Whoever is to write upon a line that
//! another has begun ends it first.
//!
//! A guest that is shown may be some KiB ahead of the line and then has to wait, alone; one that is
//! not shown goes on, over the oldest of its scrollback. A line that nobody drains for two seconds
//! holds nobody up: the guests go on as if they were not shown, and what was lost is told.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::time::Duration;

use ::log::Level;

use super::frame::{Frames, frame};
use super::keys::Keys;
use super::log::Stamp;
use super::port::Port;
use super::ring::Ring;
use super::settings::Settings;
use crate::monitor::editor::{Editor, PROMPT};
use crate::sched::VmId;

/// How much of the log waits for the line, in bytes.
const LOG: usize = 16 << 10;
/// How much of what was missed each guest shows when all are shown again, in bytes.
const RECENT: u64 = 2048;
/// How long a line takes nothing before it holds up nobody any more.
const STALL: Duration = Duration::from_secs(2);
/// How many bytes of answers wait before no more questions are taken up, nor anything that is typed.
const ANSWERS: usize = 16 << 10;

/// Whose output is shown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// All guests', line by line, each with its name. One guest alone is shown as it is.
    #[default]
    All,
    /// Only that of the guest that is typed to, as it is.
    Focus,
}

/// Who gets what is typed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Focus {
    /// A guest.
    Guest(VmId),
    /// The monitor.
    Monitor,
}

/// What somebody has to do who can.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A line was typed to the monitor.
    Command(String),
    /// A frame arrived, with this text.
    Request(Vec<u8>),
    /// The machine is to end.
    End(End),
}

/// How the machine is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// It powers off.
    PowerOff,
    /// It starts again.
    Restart,
}

/// Who wrote on the terminal's current line, which is not ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Owner {
    Nobody,
    Guest(VmId),
    Prompt,
    Monitor,
    /// Somebody who is no more.
    Gone,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shows {
    All,
    Only(VmId),
    None,
}

/// The multiplexer.
pub struct Mux {
    pub(super) settings: Settings,
    pub(super) ports: Vec<Port>,
    pub(super) view: View,
    pub(super) focus: Focus,
    /// The guest with the focus, if it was alive when that was last looked at.
    pub(super) alive: Option<VmId>,
    /// Who had the focus before the monitor.
    pub(super) last_guest: Option<VmId>,
    pub(super) log: Ring,
    pub(super) log_shown: u64,
    pub(super) answer: VecDeque<u8>,
    pub(super) frames: VecDeque<Vec<u8>>,
    /// What is on its way, and how much of it has gone.
    pub(super) unit: Vec<u8>,
    gone: usize,
    /// Empty: where the next piece of a raw guest's output comes, and what of it would show on a shared line. Kept, as a
    /// guest sends its bytes one by one.
    pub(super) spare: (Vec<u8>, Vec<u8>),
    pub(super) owner: Owner,
    /// The guest that was shown as it is on a terminal, which was not [reset](super::terminal::RESET) since.
    pub(super) raw: Option<VmId>,
    /// It has sent something since the hypervisor wrote last.
    pub(super) stirred: bool,
    /// Whose turn it is among the ports.
    pub(super) turn: usize,
    /// Since when the line has taken nothing.
    refused_since: Option<Duration>,
    /// What was taken of a guest's output does not show, and there may be more.
    pub(super) again: bool,
    pub(super) bell: bool,
    pub(super) keys: Keys,
    pub(super) requests: Frames,
    pub(super) editor: Editor,
    /// The VMs that the monitor knows, whether they exist or not.
    pub(super) names: Vec<String>,
    /// The prompt is to be drawn: soon, as something was typed, or when there is time.
    pub(super) draw: Option<Draw>,
    pub(super) events: VecDeque<Event>,
    /// A command is being carried out: no prompt.
    pub(super) busy: bool,
    /// What is typed waits in the UART.
    pub(super) held: bool,
}

/// When the prompt is to be drawn.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Draw {
    /// When nothing else is to be shown.
    Idle,
    /// Before the guests' output.
    Soon,
}

impl Mux {
    /// A console with no guests.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ports: Vec::new(),
            view: View::All,
            focus: Focus::Guest(VmId(0)),
            alive: None,
            last_guest: None,
            log: Ring::new(LOG, 0),
            log_shown: 0,
            answer: VecDeque::new(),
            frames: VecDeque::new(),
            unit: Vec::new(),
            spare: (Vec::new(), Vec::new()),
            gone: 0,
            owner: Owner::Nobody,
            raw: None,
            stirred: false,
            turn: 0,
            refused_since: None,
            again: false,
            bell: false,
            keys: Keys::new(settings.escape),
            requests: Frames::default(),
            editor: Editor::default(),
            names: Vec::new(),
            draw: None,
            events: VecDeque::new(),
            busy: false,
            held: false,
        }
    }

    /// The VMs that the monitor knows.
    pub fn set_names(&mut self, names: Vec<String>) {
        self.names = names;
    }

    /// Connects the guest `id`. One that was there before under the same name goes on with its
    /// scrollback. The first of all is typed to, unless somebody is at the monitor.
    pub fn attach(&mut self, id: VmId, name: &str) {
        if self.owner == Owner::Guest(id) {
            self.owner = Owner::Gone;
        }
        if let Some(port) = self.ports.iter_mut().find(|port| port.id() == id) {
            if port.name() == name {
                port.gone = false;
                port.discard_input();
            } else {
                *port = Port::new(id, name, &self.settings);
            }
            return;
        }
        let at = self.ports.partition_point(|port| port.id() < id);
        self.ports.insert(at, Port::new(id, name, &self.settings));
        if self.ports.len() == 1 && matches!(self.focus, Focus::Guest(_)) {
            self.focus = Focus::Guest(id);
            self.alive = Some(id);
        }
    }

    /// Disconnects the guest `id`. Its scrollback stays, so that its last words can be read, until another
    /// guest has that number.
    pub fn detach(&mut self, id: VmId) {
        if let Some(port) = self.port_mut(id) {
            port.gone = true;
            port.discard_input();
        }
        // Who types to it does so to the next that is alive.
        if self.focus == Focus::Guest(id) {
            self.alive = Some(id);
        }
    }

    /// The guest `id` sends a byte. False when it has to wait.
    pub fn send(&mut self, id: VmId, byte: u8, now: Duration) -> bool {
        let room = self.has_room(id, now);
        // A guest that nobody connected has nowhere to send to.
        let Some(port) = self.port_mut(id) else { return true };
        // Until somebody has looked: another of its devices may have been refused before.
        port.refused |= !room;
        if room {
            port.write(byte, now);
        }
        room
    }

    /// A guest whose UART has to look: it has input, or room for the output that waited.
    pub fn take_attention(&mut self, now: Duration) -> Option<VmId> {
        let id = self.ports.iter().find(|port| self.wants_attention(port, now))?.id();
        let port = self.port_mut(id)?;
        port.has_input = false;
        port.refused = false;
        Some(id)
    }

    /// Appends lines to the log.
    pub fn log(&mut self, text: fmt::Arguments<'_>) {
        let _ = Log(&mut self.log).write_fmt(text);
    }

    /// Says how many bytes a line that nobody drained has cost.
    pub fn tell_dropped(&mut self, bytes: u64, now: Duration) {
        self.notice(now, format_args!("{bytes} bytes were dropped, as nobody took them"));
    }

    /// Says something of the console's own in the log.
    pub(super) fn notice(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        self.log(format_args!("{} console: {what}\n", Stamp(now, Level::Info)));
    }

    /// Appends to the monitor's answer. Its lines end in line feeds.
    pub fn answer(&mut self, text: &str) {
        self.answer.extend(text.bytes());
    }

    /// The line that was typed, as it stays on the screen.
    pub(super) fn echo(&mut self, line: &str) {
        if self.owner == Owner::Prompt {
            self.owner = Owner::Monitor;
            self.answer("\r\x1b[K");
        }
        self.draw = None;
        self.answer(PROMPT);
        self.answer(line);
        self.answer("\n");
    }

    /// Sends the answer to a request.
    pub fn reply(&mut self, json: &[u8]) {
        self.frames.push_back(frame(json));
    }

    /// What somebody has to do. While many answers wait for the line, nothing that is answered.
    pub fn take_event(&mut self) -> Option<Event> {
        if self.has_event() { self.events.pop_front() } else { None }
    }

    fn has_event(&self) -> bool {
        self.events
            .front()
            .is_some_and(|event| matches!(event, Event::End(_)) || !self.is_full_of_answers())
    }

    /// Whether so many answers wait for the line that nothing more is to be answered.
    pub(super) fn is_full_of_answers(&self) -> bool {
        self.queued() >= ANSWERS
    }

    /// How many bytes of frames and answers wait for the line.
    pub fn queued(&self) -> usize {
        self.answer.len() + self.frames.iter().map(Vec::len).sum::<usize>()
    }

    fn wants_attention(&self, port: &Port, now: Duration) -> bool {
        port.has_input || (port.refused && self.has_room(port.id(), now))
    }

    /// The command is carried out and its answer given.
    pub const fn done(&mut self) {
        self.busy = false;
        self.draw = Some(Draw::Idle);
    }

    /// The next byte for the line, which [`sent`](Self::sent) takes away. `None` when nothing is to be
    /// sent.
    pub fn next(&mut self, now: Duration) -> Option<u8> {
        if self.gone >= self.unit.len() {
            self.unit.clear();
            self.gone = 0;
            self.compose(now);
        }
        self.unit.get(self.gone).copied()
    }

    /// The line has taken the byte, or it is given up.
    pub const fn sent(&mut self) {
        self.gone += 1;
        self.refused_since = None;
    }

    /// The line has no room now.
    pub fn refused(&mut self, now: Duration) {
        self.refused_since.get_or_insert(now);
    }

    /// Whether a unit is on its way.
    pub fn is_within_unit(&self) -> bool {
        self.gone < self.unit.len()
    }

    /// Whether a line of the log is waiting.
    pub fn has_log(&self) -> bool {
        self.log_shown < self.log.end()
    }

    /// Ends the line that somebody has begun, for last words. To be called between units.
    pub fn end_line(&mut self) {
        self.unit.clear();
        self.gone = 0;
        let restored = self.restore(true);
        self.break_line();
        if restored && !self.unit.ends_with(b"\n") {
            self.unit.extend_from_slice(b"\r\n");
        }
    }

    /// When something has to be done that nothing else brings about.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        // What waits for answers to be taken waits for the line alone.
        let held = (self.held && !self.is_full_of_answers())
            .then(|| self.focused().and_then(|port| port.busy_until(now)).unwrap_or(now));
        let shows_all = self.shows() == Shows::All;
        let (mut attention, mut due) = (false, None::<Duration>);
        for port in &self.ports {
            if self.wants_attention(port, now) {
                return Some(now);
            }
            attention |= port.refused;
            if shows_all && let Some(at) = port.due() {
                due = Some(due.map_or(at, |due| due.min(at)));
            }
        }
        if self.has_event() || self.again {
            return Some(now);
        }
        let stall = self.refused_since.map(|since| since + STALL);
        // Once it has stalled, only the line itself changes anything.
        let stall = stall.filter(|at| attention && *at > now);
        let due = due.filter(|_| self.refused_since.is_none());
        held.into_iter().chain(stall).chain(due).min()
    }

    /// Whose lines that have not ended have waited for some time.
    pub fn unfinished(&self, now: Duration) -> Vec<VmId> {
        let due = |port: &&Port| port.due().is_some_and(|due| due <= now);
        self.ports.iter().filter(due).map(Port::id).collect()
    }

    /// Such a line is shown now, unless its guest is `kept` from going on with it.
    pub fn ripen(&mut self, id: VmId, kept: bool, now: Duration) {
        if let Some(port) = self.port_mut(id) {
            port.ripen(kept, now);
        }
    }

    pub(super) fn focused(&self) -> Option<&Port> {
        match self.focus {
            Focus::Guest(id) => self.port(id),
            Focus::Monitor => None,
        }
    }

    pub(super) fn port(&self, id: VmId) -> Option<&Port> {
        self.ports.iter().find(|port| port.id() == id)
    }

    pub(super) fn port_mut(&mut self, id: VmId) -> Option<&mut Port> {
        self.ports.iter_mut().find(|port| port.id() == id)
    }

    /// Shows others from now on. Those that were not shown begin with the newest they have.
    pub(super) fn set_view(&mut self, view: View, focus: Focus, now: Duration) {
        let before = self.shows();
        if let Focus::Guest(id) = self.focus {
            self.last_guest = Some(id);
        }
        if self.focus != focus {
            self.alive = None;
        }
        (self.view, self.focus) = (view, focus);
        if let Shows::Only(id) = self.shows()
            && before != Shows::Only(id)
            && let Some(port) = self.port_mut(id)
        {
            port.begin_replay();
        }
        if self.shows() != Shows::All || before == Shows::All {
            return;
        }
        for at in 0..self.ports.len() {
            let Some(port) = self.ports.get_mut(at) else { break };
            if before == Shows::Only(port.id()) {
                continue;
            }
            let left_out = port.take_lost() + port.skip_to(RECENT);
            if left_out > 0 {
                let name = String::from(port.name());
                self.notice(now, format_args!("{name}: {left_out} bytes are not shown"));
            }
        }
    }

    pub(super) fn shows(&self) -> Shows {
        match (self.view, self.focus) {
            (View::All, _) if self.shares_line() => Shows::All,
            (_, Focus::Guest(id)) => Shows::Only(id),
            (_, Focus::Monitor) => Shows::None,
        }
    }

    /// Whether there are several guests with something to show, now or later.
    fn shares_line(&self) -> bool {
        let counts = |port: &&Port| port.is_readable() || self.focus == Focus::Guest(port.id());
        self.ports.iter().filter(counts).nth(1).is_some()
    }

    fn has_room(&self, id: VmId, now: Duration) -> bool {
        let is_shown = match self.shows() {
            Shows::All => true,
            Shows::Only(only) => only == id,
            Shows::None => false,
        };
        let stalled = self.refused_since.is_some_and(|since| now >= since + STALL);
        !is_shown || stalled || self.port(id).is_none_or(|port| !port.is_ahead())
    }
}

/// The log as somewhere to write to.
struct Log<'a>(&'a mut Ring);

impl Write for Log<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.0.push(byte));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
