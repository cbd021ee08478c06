//! The console on the host's UART: the statics, and who calls what when.
//!
//! Until [`listen`] the log waits for the UART. From then on whoever has something to send puts into the
//! UART what it takes at once, at most 64 bytes, and its transmit interrupt asks for the rest by
//! [`visit`]. Nobody waits for the line but [`flush`] and last words.
//!
//! Lock order: the console's lock comes last of all. Nothing is called with it held.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use spin::Once;
use spin::mutex::TicketMutex;

use super::input::{CannotType, NO_GUEST};
use super::log::{self, Level};
use super::mux::{End, Event, Focus, Mux, View};
use super::port::PATIENCE;
use super::settings::Settings;
use super::tail::Tail;
use crate::device::serial::SerialLine;
use crate::monitor::Refusal;
use crate::monitor::command::Target;
use crate::monitor::reply::ConsoleState;
use crate::platform::driver::uart::{TRANSMIT_DEPTH, Uart};
use crate::sched::VmId;
use crate::time::{Frequency, Ticks};

/// How many bytes are sent, or received, at one go: enough to fill any UART's FIFO, so that its
/// interrupt comes when there is more.
const VISIT: usize = 2 * TRANSMIT_DEPTH;

/// Before there are interrupts: how many bytes are dropped before a stalled line is tried again.
const STALL: u32 = 4096;

static HOST: TicketMutex<Host> = TicketMutex::new(Host {
    uart: None,
    mux: None,
    interrupts: None,
    closed: false,
    stalled: 0,
    dropped: 0,
    column: 0,
});
/// A second handle on the UART, for when the first is locked for good.
static EMERGENCY: Once<Uart> = Once::new();
static CLOCK: Once<Clock> = Once::new();
/// When [`visit`] is due, in ticks of the counter.
static DUE: AtomicU64 = AtomicU64::new(u64::MAX);

struct Clock {
    now: fn() -> Ticks,
    frequency: Frequency,
    /// The counter when the log began.
    start: Ticks,
}

struct Host {
    uart: Option<Uart>,
    mux: Option<Mux>,
    /// Which of the UART's interrupts are on (receive, transmit); none before [`listen`].
    interrupts: Option<(bool, bool)>,
    /// Last words have begun.
    closed: bool,
    /// Without interrupts: the other end held the line when a byte was to go out, and bytes are dropped
    /// until one goes.
    stalled: u32,
    /// How many were.
    dropped: u64,
    /// How many bytes the last words' line has.
    column: usize,
}

impl Host {
    /// Sends what can be sent now, and sees to the rest.
    fn pump(&mut self, now: Duration) {
        let (Some(uart), Some(mux)) = (self.uart, &mut self.mux) else { return };
        if self.closed {
            return;
        }
        let Some((receive, transmit)) = self.interrupts else {
            self.drain(now);
            return;
        };
        let mut more = false;
        for sent in 0.. {
            let Some(byte) = mux.next(now) else { break };
            more = sent == VISIT || !uart.try_put(byte);
            if more {
                if sent < VISIT {
                    mux.refused(now);
                }
                break;
            }
            mux.sent();
        }
        if more != transmit {
            self.interrupts = Some((receive, more));
            uart.set_interrupts(receive, more);
        }
    }

    /// Sends everything, waiting for the line. One that nobody drains loses bytes rather than time.
    fn drain(&mut self, now: Duration) {
        while let Some(mux) = &mut self.mux {
            let Some(byte) = mux.next(now) else {
                // Of a piece nothing has shown, and there may be more.
                if mux.again {
                    continue;
                }
                break;
            };
            self.put(byte);
            if let Some(mux) = &mut self.mux {
                mux.sent();
            }
            if self.stalled == 0 && self.dropped > 0 {
                let dropped = core::mem::take(&mut self.dropped);
                if let Some(mux) = &mut self.mux {
                    mux.tell_dropped(dropped, now);
                }
            }
        }
    }

    fn put(&mut self, byte: u8) {
        let Some(uart) = &self.uart else { return };
        // After one that had to wait in vain, only every so many-th is tried.
        if self.stalled > 0 {
            self.stalled -= 1;
            self.dropped += 1;
            return;
        }
        if uart.put(byte).is_err() {
            self.stalled = STALL;
            self.dropped += 1;
            return;
        }
        self.column = if byte == b'\n' { 0 } else { self.column + 1 };
    }

    /// Takes what was typed, if it is to be taken now.
    fn receive(&mut self, now: Duration) -> bool {
        let (Some(uart), Some(mux)) = (self.uart, &mut self.mux) else { return false };
        let Some((listening, transmit)) = self.interrupts else { return false };
        let mut more = true;
        for _ in 0..VISIT {
            let Some(byte) = mux.wants_input(now).then(|| uart.get()).flatten() else {
                more = false;
                break;
            };
            mux.input(byte, now);
        }
        let listen = !mux.held;
        if listen != listening {
            self.interrupts = Some((listen, transmit));
            uart.set_interrupts(listen, transmit);
        }
        more
    }

    /// Notes when the next visit is due.
    fn note_deadline(&self, now: Duration, more: bool) {
        let deadline = self.mux.as_ref().and_then(|mux| mux.deadline(now));
        let deadline = if more { Some(now) } else { deadline }.filter(|_| !self.closed);
        let due = match (deadline, CLOCK.get()) {
            (Some(at), Some(clock)) => {
                let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
                // Rounded up: not before it is due.
                clock.start.saturating_add(clock.frequency.micros(micros.saturating_add(1))).0
            }
            _ => u64::MAX,
        };
        DUE.store(due, Ordering::Release);
    }

    /// The hypervisor's text, now: lines end as a terminal wants it.
    fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
    }
}

/// The time since the log began.
pub(super) fn now() -> Duration {
    CLOCK.get().map_or(Duration::ZERO, |clock| {
        Duration::from_micros(clock.frequency.to_micros((clock.now)().since(clock.start)))
    })
}

/// Appends to the log.
pub(super) fn log(line: fmt::Arguments<'_>) {
    with(|mux, _| mux.log(line));
}

/// Does something with the multiplexer, and sends what comes of it.
fn with<T>(act: impl FnOnce(&mut Mux, Duration) -> T) -> Option<T> {
    let now = now();
    let mut host = HOST.lock();
    let done = act(host.mux.as_mut()?, now);
    host.pump(now);
    host.note_deadline(now, false);
    Some(done)
}

/// Uses `uart` from now on, and logs at `level`.
pub fn init(uart: Uart, settings: Settings, level: Level) {
    let mut host = HOST.lock();
    host.uart = Some(uart);
    host.mux = Some(Mux::new(settings));
    drop(host);
    EMERGENCY.call_once(|| uart);
    log::init(level);
}

/// Puts the time since now before every line.
pub fn set_clock(now: fn() -> Ticks, frequency: Frequency) {
    CLOCK.call_once(|| Clock { now, frequency, start: now() });
}

/// Lets the UART interrupt when bytes arrive or can be sent.
pub fn listen() {
    let mut host = HOST.lock();
    if let Some(uart) = host.uart {
        host.interrupts = Some((true, false));
        uart.set_interrupts(true, false);
    }
}

/// Other settings, for guests that are connected from now on.
pub fn set_settings(settings: Settings) {
    with(|mux, _| mux.set_settings(settings));
}

/// The VMs that the monitor knows by name.
pub fn set_names(names: Vec<String>) {
    with(|mux, _| mux.set_names(names));
}

/// Says in the log which keys there are.
pub fn tell_keys() {
    if ::log::max_level() >= ::log::LevelFilter::Info {
        with(Mux::tell_keys);
    }
}

/// When [`visit`] is due without an interrupt of the UART.
pub fn deadline() -> Option<Ticks> {
    let due = DUE.load(Ordering::Acquire);
    (due != u64::MAX).then_some(Ticks(due))
}

/// Looks at the lines that have not ended for some time. They are shown, apart from those whose guests
/// are `kept` from going on with them.
pub fn ripen(kept: impl Fn(VmId) -> bool) {
    // Whoever tells who is kept takes locks that come before the console's.
    let unfinished = with(|mux, now| mux.unfinished(now)).unwrap_or_default();
    for id in unfinished {
        let kept = kept(id);
        with(|mux, now| mux.ripen(id, kept, now));
    }
}

/// Takes what was typed and sends what can be sent. To be called on each interrupt of the UART and at
/// the [`deadline`]; then [`take_work`] until there is none.
pub fn visit() {
    let now = now();
    let mut host = HOST.lock();
    let more = host.receive(now);
    host.pump(now);
    host.note_deadline(now, more);
}

/// What the console cannot do by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Work {
    /// This guest's UART has to look at its line.
    Attend(VmId),
    /// A line was typed to the monitor: to be answered by [`answer`].
    Command(String),
    /// A request came in a frame: to be answered by [`reply`].
    Request(Vec<u8>),
    /// The machine is to end.
    End(End),
}

/// Something to be done, once.
pub fn take_work() -> Option<Work> {
    with(|mux, now| {
        let attend = mux.take_attention(now).map(Work::Attend);
        attend.or_else(|| {
            Some(match mux.take_event()? {
                Event::Command(line) => Work::Command(line),
                Event::Request(text) => Work::Request(text),
                Event::End(end) => Work::End(end),
            })
        })
    })
    .flatten()
}

/// Answers a [`Work::Command`].
pub fn answer(text: &str) {
    with(|mux, _| {
        mux.answer(text);
        mux.done();
    });
}

/// Answers a [`Work::Request`].
pub fn reply(json: &str) {
    with(|mux, _| mux.reply(json.as_bytes()));
}

/// Types to the next guest that is `alive` if the one that is typed to is not.
pub fn leave_the_dead(alive: impl Fn(VmId) -> bool) {
    with(|mux, now| mux.leave_the_dead(now, alive));
}

/// Types a text to a guest as somebody at the line would: all of it or nothing.
///
/// # Errors
/// [`CannotType`].
pub fn type_to(vm: VmId, text: &str) -> Result<(), CannotType> {
    with(|mux, now| mux.type_to(vm, text, now)).unwrap_or(Err(CannotType::NoGuest))
}

/// Leaves the monitor for the guest that had the focus before.
///
/// # Errors
/// When there is no guest.
pub fn leave_monitor() -> Result<(), Refusal> {
    let left = with(Mux::leave_monitor).unwrap_or(true);
    if left { Ok(()) } else { Err(Refusal::Denied(NO_GUEST.into())) }
}

/// Asks for [`Work::End`].
pub fn end(end: End) {
    with(|mux, _| mux.ask_end(end));
}

/// Shows something else, if asked, and says what is shown.
///
/// # Errors
/// When there is no guest of that name.
pub fn select(target: Option<&Target>) -> Result<ConsoleState, Refusal> {
    let state = |mux: &mut Mux, now| {
        match target {
            None => {}
            Some(Target::All) => mux.view_as(View::All, now),
            Some(Target::Focus) => mux.view_as(View::Focus, now),
            Some(Target::Guest(name)) => {
                mux.focus_on(Focus::Guest(mux.readable(name)?), now);
            }
        }
        let focus = match mux.focus() {
            Focus::Guest(id) => mux.port(id).map(|port| String::from(port.name())),
            Focus::Monitor => None,
        };
        Ok(ConsoleState { view: mux.view(), focus })
    };
    with(state).unwrap_or_else(|| Err(Refusal::Denied("there is no console".into())))
}

/// What a guest has put out `from` a position on, or the newest of it; `None` when it has no scrollback.
pub fn tail(vm: VmId, from: Option<u64>) -> Option<Tail> {
    HOST.lock().mux.as_ref().and_then(|mux| mux.tail(vm, from))
}

/// Sends all that is to be shown, waiting for the line, before the machine goes off.
pub fn flush() {
    let now = now();
    let mut host = HOST.lock();
    if !host.closed {
        // What would wait for the rest of its line is not to wait, and a second piece neither.
        for later in [now + PATIENCE, now + 2 * PATIENCE] {
            if let Some(mux) = &mut host.mux {
                mux.unfinished(later).into_iter().for_each(|id| mux.ripen(id, false, later));
            }
            host.drain(later);
        }
    }
}

/// The line a guest's UART is connected to. Dropping it disconnects the guest.
pub struct GuestLine(VmId);

impl GuestLine {
    /// The line of the guest `name`.
    pub fn new(vm: VmId, name: &str) -> Self {
        with(|mux, _| mux.attach(vm, name));
        Self(vm)
    }
}

impl Drop for GuestLine {
    fn drop(&mut self) {
        with(|mux, _| mux.detach(self.0));
    }
}

impl SerialLine for GuestLine {
    fn send(&self, byte: u8) -> bool {
        with(|mux, now| mux.send(self.0, byte, now)).unwrap_or(true)
    }

    fn send_all(&self, bytes: &[u8]) -> usize {
        let send = |mux: &mut Mux, now| {
            bytes.iter().take_while(|byte| mux.send(self.0, **byte, now)).count()
        };
        with(send).unwrap_or(bytes.len())
    }

    fn receive(&self) -> Option<u8> {
        // Asked at each of the guest's accesses: in most cases there is nothing, and nothing changes.
        let mut host = HOST.lock();
        let byte = host.mux.as_mut()?.receive(self.0)?;
        host.note_deadline(now(), false);
        Some(byte)
    }

    fn discard(&self) {
        with(|mux, _| mux.discard_input(self.0));
    }
}

/// The way out for last words: takes the line whoever holds it. Nothing else is sent any more.
pub struct Emergency(());

impl Emergency {
    /// Take the line. Whoever holds it gets a moment to finish. What is on its way is finished, and
    /// the log is written out.
    pub fn new() -> Self {
        let now = now();
        for _ in 0..100_000 {
            if let Some(mut host) = HOST.try_lock() {
                host.take_over(now);
                break;
            }
            core::hint::spin_loop();
        }
        Self(())
    }
}

impl Host {
    fn take_over(&mut self, now: Duration) {
        if core::mem::replace(&mut self.closed, true) {
            if self.column > 0 {
                self.text("\n");
            }
            return;
        }
        while let Some(mux) = &mut self.mux {
            if !mux.is_within_unit() && !mux.has_log() {
                mux.end_line();
                if !mux.is_within_unit() {
                    break;
                }
            }
            let Some(byte) = mux.next(now) else { break };
            mux.sent();
            self.put(byte);
        }
        self.column = 0;
    }
}

impl Default for Emergency {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(mut host) = HOST.try_lock() {
            host.text(text);
            return Ok(());
        }
        // The holder is dead, or is the one that reports: a second handle on the same registers.
        if let Some(uart) = EMERGENCY.get() {
            for byte in text.bytes() {
                if byte == b'\n' {
                    let _ = uart.put(b'\r');
                }
                let _ = uart.put(byte);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
