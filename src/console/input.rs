//! What is typed: frames, the escape key's commands, and the rest for whoever has the focus.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::frame::Input;
use super::keys::{Key, Keys};
use super::mux::{Draw, End, Event, Focus, Mux, Shows, View};
use super::settings::Settings;
use crate::monitor::Refusal;
use crate::monitor::complete::complete;
use crate::monitor::editor::Edit;
use crate::monitor::json;
use crate::sched::VmId;

/// Why the monitor cannot be left.
pub const NO_GUEST: &str = "there is no guest to go to";
/// How many commands and requests wait to be carried out.
const EVENTS: usize = 8;

/// Why a text cannot be typed to a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CannotType {
    /// It is not connected.
    #[error("it has no console")]
    NoGuest,
    /// It does not take what was typed to it before.
    #[error(
        "its console has room for {room} more bytes, not for {length}, as it does not take what was \
         typed before"
    )]
    NoRoom {
        /// How many bytes are to be typed.
        length: usize,
        /// How many can be.
        room: usize,
    },
}

impl Mux {
    /// Whether what is typed should be taken off the line now. It waits there for a while when the
    /// guest it is for has no room and is taking it; not for ever, as the escape key must work. It also
    /// waits while nobody takes the answers to what was typed before, as each byte may add to them.
    pub fn wants_input(&mut self, now: Duration) -> bool {
        self.held = self.is_full_of_answers()
            || self.focused().is_some_and(|port| port.busy_until(now).is_some());
        !self.held
    }

    /// A byte was typed.
    pub fn input(&mut self, byte: u8, now: Duration) {
        match self.requests.feed(byte) {
            Input::Taken => {}
            Input::Frame(text) => self.request(text),
            Input::Broken(why) => self.reply(json::refusal(None, why).as_bytes()),
            Input::BrokenBefore(why, byte) => {
                self.reply(json::refusal(None, why).as_bytes());
                self.key(byte, now);
            }
            Input::Byte(byte) => self.key(byte, now),
        }
    }

    /// Types a text to a guest, whoever has the focus: all of it or nothing.
    ///
    /// # Errors
    /// [`CannotType`].
    pub fn type_to(&mut self, id: VmId, text: &str, now: Duration) -> Result<(), CannotType> {
        let port = self.port_mut(id).filter(|port| !port.gone).ok_or(CannotType::NoGuest)?;
        let (length, room) = (text.len(), port.room());
        if length > room {
            return Err(CannotType::NoRoom { length, room });
        }
        for byte in text.bytes() {
            port.type_in(byte, now);
        }
        Ok(())
    }

    /// A guest takes what was typed to it.
    pub fn receive(&mut self, id: VmId) -> Option<u8> {
        self.port_mut(id)?.receive()
    }

    /// A guest begins again: what was typed to it and not taken is gone.
    pub fn discard_input(&mut self, id: VmId) {
        if let Some(port) = self.port_mut(id) {
            port.discard_input();
        }
    }

    /// If the guest that is typed to has been `alive` and no longer is, type to the next one that is. One
    /// that was chosen after its end stays, so that its scrollback can be read.
    pub fn leave_the_dead(&mut self, now: Duration, alive: impl Fn(VmId) -> bool) {
        let Focus::Guest(id) = self.focus else { return };
        let known = self.port(id);
        if known.is_some_and(|port| !port.gone) && alive(id) {
            self.alive = Some(id);
            return;
        }
        let died = self.alive == Some(id) || known.is_none();
        if died && let Some(next) = self.neighbour(alive, false) {
            self.focus_on(Focus::Guest(next), now);
            self.alive = Some(next);
        }
    }

    /// Types to `focus` from now on.
    pub fn focus_on(&mut self, focus: Focus, now: Duration) {
        if self.focus == focus {
            return;
        }
        self.set_view(self.view, focus, now);
        self.tell_focus(now);
    }

    /// Shows all guests' output or the focused one's.
    pub fn view_as(&mut self, view: View, now: Duration) {
        if self.view != view {
            self.set_view(view, self.focus, now);
            self.tell_focus(now);
        }
    }

    /// Other settings, for guests that are connected from now on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
        self.keys = Keys::new(settings.escape);
    }

    /// Whose output is shown.
    pub const fn view(&self) -> View {
        self.view
    }

    /// Who gets what is typed.
    pub const fn focus(&self) -> Focus {
        self.focus
    }

    /// The names of the guests and their numbers.
    pub fn guests(&self) -> impl Iterator<Item = (VmId, &str)> {
        self.ports.iter().filter(|port| !port.gone).map(|port| (port.id(), port.name()))
    }

    /// The guest `name`, if there is anything to be read of it.
    pub(super) fn readable(&self, name: &str) -> Result<VmId, Refusal> {
        match self.ports.iter().find(|port| port.name() == name) {
            Some(port) if port.is_readable() => Ok(port.id()),
            Some(_) => Err(Refusal::Denied(format!("{name} is off"))),
            None => Err(Refusal::NoSuchVm(name.into())),
        }
    }

    /// The keys, in one line of the log.
    pub fn tell_keys(&mut self, now: Duration) {
        let escape = self.keys.escape();
        self.notice(
            now,
            format_args!(
                "{escape}, then: 0-9 n p a guest, m the monitor, a all or one, x power off, ? help"
            ),
        );
    }

    fn request(&mut self, text: Vec<u8>) {
        if self.events.len() < EVENTS {
            self.events.push_back(Event::Request(text));
        } else {
            let id = json::id_of(&text);
            self.reply(json::refusal(id, "too many requests at once").as_bytes());
        }
    }

    fn key(&mut self, byte: u8, now: Duration) {
        match self.keys.feed(byte) {
            Key::Nothing => {}
            Key::Typed(byte) => self.typed(byte, now),
            Key::Guest(number) => {
                let id = VmId(number.into());
                match self.port(id).map(|port| (String::from(port.name()), port.is_readable())) {
                    Some((_, true)) => self.focus_on(Focus::Guest(id), now),
                    Some((name, false)) => {
                        self.notice(now, format_args!("{name} (guest {number}) is off"));
                    }
                    None => self.notice(now, format_args!("there is no guest {number}")),
                }
            }
            Key::Next => self.go(false, now),
            Key::Previous => self.go(true, now),
            Key::Monitor => {
                self.focus_on(Focus::Monitor, now);
                self.draw = Some(Draw::Soon);
            }
            Key::ToggleView => {
                let other = if self.view == View::All { View::Focus } else { View::All };
                self.view_as(other, now);
            }
            Key::AskPowerOff => self.notice(now, format_args!("power off? x again to do so")),
            Key::PowerOff => self.ask_end(End::PowerOff),
            Key::Help => self.help(now),
        }
    }

    fn typed(&mut self, byte: u8, now: Duration) {
        match self.focus {
            Focus::Guest(id) => {
                let taken = self.port_mut(id).is_some_and(|port| port.type_in(byte, now));
                self.bell |= !taken;
            }
            Focus::Monitor => self.edit(byte, now),
        }
    }

    fn edit(&mut self, byte: u8, now: Duration) {
        match self.editor.key(byte, |line| complete(line, &self.names)) {
            Edit::Nothing => {}
            Edit::Changed => self.draw = Some(Draw::Soon),
            Edit::Bell => self.bell = true,
            Edit::Choices(words) => {
                self.answer(&words.join("  "));
                self.answer("\n");
                self.draw = Some(Draw::Soon);
            }
            Edit::Line(line) => {
                self.echo(&line);
                if line.trim().is_empty() {
                    self.draw = Some(Draw::Soon);
                } else if self.events.len() < EVENTS {
                    self.events.push_back(Event::Command(line));
                    self.busy = true;
                } else {
                    self.answer("too many commands at once\n");
                    self.draw = Some(Draw::Soon);
                }
            }
            Edit::Leave if self.leave_monitor(now) => {}
            Edit::Leave => self.notice(now, format_args!("{NO_GUEST}")),
        }
    }

    /// Has the machine end, before anything else that was asked for. The first word on how holds.
    pub fn ask_end(&mut self, end: End) {
        if !matches!(self.events.front(), Some(Event::End(_))) {
            self.events.push_front(Event::End(end));
        }
    }

    /// From the monitor back to the guest that had the focus before. False when there is none.
    pub fn leave_monitor(&mut self, now: Duration) -> bool {
        if self.focus != Focus::Monitor {
            return true;
        }
        let Some(id) = self.neighbour(|_| true, false) else { return false };
        self.focus_on(Focus::Guest(id), now);
        true
    }

    fn go(&mut self, back: bool, now: Duration) {
        if let Some(id) = self.neighbour(|_| true, back) {
            self.focus_on(Focus::Guest(id), now);
        }
    }

    /// The guest after the focused one, or before it, that is as `wanted`.
    fn neighbour(&self, wanted: impl Fn(VmId) -> bool, back: bool) -> Option<VmId> {
        let last = match self.focus {
            Focus::Guest(id) => Some(id),
            Focus::Monitor => self.last_guest,
        };
        let ids = || self.guests().map(|(id, _)| id).filter(|id| wanted(*id));
        match last {
            // Back from the monitor to where we came from.
            Some(last) if self.focus == Focus::Monitor && ids().any(|id| id == last) => Some(last),
            Some(last) if back => ids().filter(|id| *id < last).last().or_else(|| ids().last()),
            Some(last) => ids().find(|id| *id > last).or_else(|| ids().next()),
            None => ids().next(),
        }
    }

    fn tell_focus(&mut self, now: Duration) {
        let view = match (self.view, self.shows()) {
            // One that has the line to itself.
            (View::All, Shows::None) => "a guest alone is shown when it is typed to",
            (View::All, _) => "all guests are shown",
            (View::Focus, _) => "only what has the focus is shown",
        };
        match self.focus {
            Focus::Guest(id) => {
                let Some(port) = self.port(id) else { return };
                let name = String::from(port.name());
                let off = if port.gone { " is off" } else { "" };
                self.notice(now, format_args!("{name} (guest {}){off}; {view}", id.0));
            }
            Focus::Monitor => {
                self.notice(
                    now,
                    format_args!("the monitor; `help` helps, `quit` goes back; {view}"),
                );
            }
        }
    }

    fn help(&mut self, now: Duration) {
        let escape = self.keys.escape();
        for line in [
            "a guest by its number: 0 to 9; n the next, p the one before",
            "m the monitor; a all guests' output, line by line, or only that of the focus",
            "x, twice: power off; the escape key again types itself",
        ] {
            self.notice(now, format_args!("{escape} {line}"));
        }
        let guests: Vec<(VmId, String)> =
            self.guests().map(|(id, name)| (id, String::from(name))).collect();
        for (id, name) in guests {
            let focused = if self.focus == Focus::Guest(id) { " (focus)" } else { "" };
            self.notice(now, format_args!("  {} {name}{focused}", id.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::console::port::TYPED;

    const NOW: Duration = Duration::from_secs(1);

    fn received(mux: &mut Mux, id: VmId) -> Vec<u8> {
        core::iter::from_fn(|| mux.receive(id)).collect()
    }

    #[test]
    fn a_text_is_typed_to_a_guest_without_the_focus_and_its_uart_is_told() {
        let mut mux = Mux::new(Settings::default());
        mux.attach(VmId(0), "a");
        mux.attach(VmId(1), "b");
        assert_eq!(mux.focus(), Focus::Guest(VmId(0)));
        assert_eq!(mux.type_to(VmId(1), "poweroff\n", NOW), Ok(()));
        assert_eq!(mux.focus(), Focus::Guest(VmId(0)));
        assert_eq!(mux.take_attention(NOW), Some(VmId(1)));
        assert_eq!(received(&mut mux, VmId(1)), b"poweroff\n");
        assert!(received(&mut mux, VmId(0)).is_empty());
    }

    #[test]
    fn vms_that_have_no_console_yet_are_completed_as_well() {
        let mut mux = Mux::new(Settings::default());
        mux.set_names(vec!["debian".into(), "spare".into()]);
        mux.attach(VmId(0), "debian");
        mux.focus_on(Focus::Monitor, NOW);
        b"vm start sp\t\r".iter().for_each(|byte| mux.input(*byte, NOW));
        assert_eq!(mux.take_event(), Some(Event::Command("vm start spare ".into())));
    }

    #[test]
    fn a_text_is_typed_whole_or_refused() {
        let mut mux = Mux::new(Settings::default());
        assert_eq!(mux.type_to(VmId(0), "x", NOW), Err(CannotType::NoGuest));
        mux.attach(VmId(0), "a");
        for _ in 0..TYPED - 3 {
            assert_eq!(mux.type_to(VmId(0), "x", NOW), Ok(()));
        }
        let full = CannotType::NoRoom { length: 4, room: 3 };
        assert_eq!(mux.type_to(VmId(0), "four", NOW), Err(full));
        assert_eq!(mux.type_to(VmId(0), "yes", NOW), Ok(()));
        let typed = [vec![b'x'; TYPED - 3], b"yes".to_vec()].concat();
        assert_eq!(received(&mut mux, VmId(0)), typed);
    }

    #[test]
    fn a_guest_that_begins_again_gets_nothing_that_was_typed_before() {
        let mut mux = Mux::new(Settings::default());
        mux.attach(VmId(0), "a");
        let in_place: fn(&mut Mux) = |mux| mux.discard_input(VmId(0));
        let anew: fn(&mut Mux) = |mux| {
            mux.send(VmId(0), b'x', NOW);
            mux.detach(VmId(0));
            mux.attach(VmId(0), "a");
        };
        for begin_again in [in_place, anew] {
            assert_eq!(mux.type_to(VmId(0), "poweroff\n", NOW), Ok(()));
            begin_again(&mut mux);
            assert!(received(&mut mux, VmId(0)).is_empty());
            assert_eq!(mux.take_attention(NOW), None);
        }
    }
}
