//! The console device (VIRTIO 1.2, "Console Device"), with several ports.
//!
//! Port 0 is a console: what the guest writes there appears where its UART's output does, a buffer for one exit instead of a byte. The
//! others have names, and each is one end of a [`channel`] to another guest, or to the monitor.
//!
//! | module | what it is |
//! |---|---|
//! | [`channel`] | a pipe between two ports, both ways |
//! | [`control`] | what device and driver tell each other of ports |
//! | `saved` | the device as plain data |
//!
//! Not offered: a size, as nobody here knows the terminal's.

pub mod channel;
pub mod control;
mod saved;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use self::channel::End;
use self::control::{Event, Message};
use super::backend::{Backend, Served};
use super::queue::{Bad, Buffer, Chain};
use super::ram::GuestRam;
use crate::device::doorbell::Doorbell;
use crate::device::serial::SerialLine;
use crate::exit::Width;
use crate::speculation;

/// The most named ports that lead to other guests.
pub const MAX_PORTS: usize = 8;
/// The most named ports that a device has: one more leads to the monitor.
const MAX_NAMED: usize = MAX_PORTS + 1;

/// How many descriptors each queue has.
const QUEUE_SIZE: u16 = 64;
/// As many as the most ports need: two each, and two for control.
const MAX_QUEUES: usize = 2 * (MAX_NAMED + 2);

/// "Feature bits".
mod feature {
    pub const MULTIPORT: u64 = 1 << 1;
    pub const EMERG_WRITE: u64 = 1 << 2;
}

/// `emerg_wr` in the configuration.
const EMERGENCY: u64 = 8;

/// How much is moved from or to a chain before it is looked whether that is enough, in bytes.
const PIECE: usize = 128;
/// What is done at one go, in bytes: some twenty thousand instructions.
const BUDGET: usize = 512;
/// What looking at a chain takes, in bytes that are moved meanwhile.
const EACH: usize = 32;

/// What a queue is for ("Virtqueues").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Use {
    /// The driver hears what there is to say of ports.
    Tell,
    /// The driver says something of ports.
    Hear,
    /// The guest receives from this port.
    Receive(usize),
    /// The guest sends to this port.
    Transmit(usize),
}

impl Use {
    const fn of(queue: usize) -> Self {
        match queue {
            0 => Self::Receive(0),
            1 => Self::Transmit(0),
            2 => Self::Tell,
            3 => Self::Hear,
            _ if queue.is_multiple_of(2) => Self::Receive(queue / 2 - 1),
            _ => Self::Transmit(queue / 2 - 1),
        }
    }
}

/// What the driver and the device know of each other's end of a port.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct PortState {
    /// What is to be told, each once.
    add: bool,
    describe: bool,
    name: bool,
    /// The driver knows of the port.
    ready: bool,
    /// Somebody in the guest has opened it.
    open: bool,
    /// What the driver was told of the other end.
    told_open: bool,
    /// How much of the chain that is sent has been taken.
    sent: u64,
}

/// What a guest can change.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct State {
    /// Whether there are more ports than the first.
    multiport: bool,
    ports: Vec<PortState>,
}

/// A port with a name.
pub struct NamedPort {
    /// Its name: 1 to 64 bytes.
    pub name: String,
    /// Where it leads.
    pub end: End,
}

/// The console device.
pub struct ConsoleDevice<L> {
    state: State,
    line: L,
    /// Whether what is typed is for port 0.
    has_keys: bool,
    named: Box<[NamedPort]>,
    /// What makes somebody look at this device again.
    bell: Doorbell,
    queues: Box<[u16]>,
    /// What is left of what is done at one go.
    budget: usize,
}

impl<L: SerialLine> ConsoleDevice<L> {
    /// A device whose first port is connected to `line`, from which it gets what is typed if it `has_keys`. With more than
    /// [`MAX_PORTS`] + 1 named ports, those beyond are not there.
    pub fn new(line: L, has_keys: bool, mut named: Vec<NamedPort>, bell: Doorbell) -> Self {
        named.truncate(MAX_NAMED);
        for port in &named {
            port.end.plug(Some(bell.clone()));
        }
        let queues = if named.is_empty() { 2 } else { 2 * (named.len() + 2) };
        let queues = vec![QUEUE_SIZE; queues.min(MAX_QUEUES)].into();
        let state = fresh(named.len());
        Self { state, line, has_keys, named: named.into(), bell, queues, budget: BUDGET }
    }

    /// The next thing to tell the driver.
    fn next_message(&mut self) -> Option<Message<'_>> {
        if !self.state.multiport {
            return None;
        }
        for (index, port) in self.state.ports.iter_mut().enumerate() {
            let message = |event, value| Some(Message { port: index, event, value, name: "" });
            if core::mem::take(&mut port.add) {
                return message(Event::PortAdd, 1);
            }
            if !port.ready {
                continue;
            }
            if core::mem::take(&mut port.describe) {
                return message(Event::ConsolePort, 1);
            }
            let named = index.checked_sub(1).and_then(|at| self.named.get(at));
            if core::mem::take(&mut port.name)
                && let Some(NamedPort { name, .. }) = named
            {
                return Some(Message { port: index, event: Event::PortName, value: 1, name });
            }
            // The line is always there.
            let open = named.is_none_or(|named| named.end.is_other_open());
            if open != port.told_open {
                port.told_open = open;
                return message(Event::PortOpen, open.into());
            }
        }
        None
    }

    fn tell(&mut self, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let Some(message) = self.next_message() else { return Ok(Served::NotNow) };
        let mut written = 0;
        put(chain, &mut written, &message.head(), ram)?;
        put(chain, &mut written, message.name.as_bytes(), ram)?;
        self.spend(written);
        Ok(Served::Done(u32::try_from(written).unwrap_or(0)))
    }

    fn hear(&mut self, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let mut bytes = [0; control::SIZE];
        if get(chain.readable(), 0, &mut bytes, ram)? == bytes.len()
            && let Some((port, event, value)) = control::parse(&bytes)
        {
            self.heard(port, event, value);
            // There may be something to tell now.
            self.bell.ring();
        }
        self.spend(0);
        Ok(Served::Done(0))
    }

    fn heard(&mut self, index: usize, event: Event, value: u16) {
        let yes = value == 1;
        if event == Event::DeviceReady {
            self.close_all();
            for port in &mut self.state.ports {
                *port = PortState { add: yes, sent: port.sent, ..PortState::default() };
            }
            return;
        }
        let Some(port) = speculation::get_mut(&mut self.state.ports, index) else { return };
        match event {
            Event::PortReady => {
                port.ready = yes;
                port.told_open = false;
                (port.describe, port.name) = (yes && index == 0, yes && index > 0);
            }
            Event::PortOpen => {
                port.open = yes;
                if let Some(named) =
                    index.checked_sub(1).and_then(|at| speculation::get(&self.named, at))
                {
                    named.end.set_open(yes);
                }
            }
            // These are a device's to say.
            Event::DeviceReady | Event::PortAdd | Event::ConsolePort | Event::PortName => {}
        }
    }

    /// The guest's end of each port is closed.
    fn close_all(&self) {
        for port in &self.named {
            port.end.set_open(false);
        }
    }

    /// The guest gets what has come for it.
    fn receive(&mut self, index: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let room = usize::try_from(chain.room()).unwrap_or(usize::MAX).min(PIECE);
        let mut bytes = [0; PIECE];
        let into = bytes.get_mut(..room).unwrap_or_default();
        let open = self.state.ports.get(index).is_some_and(|port| port.open);
        let count = match index.checked_sub(1) {
            None if self.has_keys && (open || !self.state.multiport) => {
                let typed = core::iter::from_fn(|| self.line.receive());
                into.iter_mut().zip(typed).map(|(to, byte)| *to = byte).count()
            }
            None => 0,
            Some(at) if open => self.named.get(at).map_or(0, |port| port.end.receive(into)),
            Some(_) => 0,
        };
        if count == 0 {
            // One without room never gets anything.
            return Ok(if room == 0 { Served::Done(0) } else { Served::NotNow });
        }
        let mut written = 0;
        put(chain, &mut written, bytes.get(..count).unwrap_or_default(), ram)?;
        self.spend(count);
        Ok(Served::Done(u32::try_from(count).unwrap_or(0)))
    }

    /// What the guest sends goes where the port leads.
    fn transmit(
        &mut self,
        index: usize,
        chain: &Chain,
        ram: &impl GuestRam,
    ) -> Result<Served, Bad> {
        let Some(port) = self.state.ports.get_mut(index) else { return Ok(Served::Done(0)) };
        let named = index.checked_sub(1).map(|at| self.named.get(at));
        if named.is_some() && !port.open {
            return Ok(Served::NotNow);
        }
        loop {
            let mut bytes = [0; PIECE];
            let count = get(chain.readable(), port.sent, &mut bytes, ram)?;
            let piece = bytes.get(..count).unwrap_or_default();
            if piece.is_empty() {
                port.sent = 0;
                self.budget = self.budget.saturating_sub(EACH);
                return Ok(Served::Done(0));
            }
            let taken = match named {
                None => self.line.send_all(piece),
                Some(Some(named)) => named.end.send(piece),
                Some(None) => count,
            };
            port.sent += taken as u64;
            self.budget = self.budget.saturating_sub(taken);
            if taken < count {
                return Ok(Served::NotNow);
            }
            if self.budget == 0 {
                return Ok(Served::More);
            }
        }
    }

    fn spend(&mut self, bytes: usize) {
        self.budget = self.budget.saturating_sub(bytes.saturating_add(EACH));
    }
}

impl<L: SerialLine> Backend for ConsoleDevice<L> {
    const ID: u32 = 3;
    /// What they move is bounded by a budget.
    const AT_ONCE: usize = 16;

    fn features(&self) -> u64 {
        let ports = if self.named.is_empty() { 0 } else { feature::MULTIPORT };
        feature::EMERG_WRITE | ports
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    /// `cols` and `rows`, which have no meaning here, and `max_nr_ports`.
    fn read_config(&self, offset: u64, width: Width) -> u64 {
        let ports = if self.named.is_empty() { 0 } else { self.named.len() as u64 + 1 };
        let shift = u32::try_from(offset).unwrap_or(u32::MAX).saturating_mul(8);
        (ports << 32).checked_shr(shift).unwrap_or(0) & width.mask()
    }

    /// A driver that can do nothing else yet sends a byte so. It is not kept where there is no room for it.
    fn write_config(&mut self, offset: u64, _width: Width, value: u64) {
        if offset == EMERGENCY {
            let [byte, ..] = value.to_le_bytes();
            let _ = self.line.send(byte);
        }
    }

    fn begin(&mut self, features: u64) {
        self.state.multiport = features & feature::MULTIPORT != 0;
    }

    fn serve(&mut self, queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        if self.budget == 0 {
            self.budget = BUDGET;
            return Ok(Served::More);
        }
        let served = match Use::of(queue) {
            Use::Tell => self.tell(chain, ram),
            Use::Hear => self.hear(chain, ram),
            Use::Receive(port) => self.receive(port, chain, ram),
            Use::Transmit(port) => self.transmit(port, chain, ram),
        }?;
        if served == Served::More {
            self.budget = BUDGET;
        }
        Ok(served)
    }

    fn stop(&mut self, queue: usize) {
        if let Use::Transmit(port) = Use::of(queue)
            && let Some(port) = self.state.ports.get_mut(port)
        {
            port.sent = 0;
        }
    }

    fn reset(&mut self) {
        self.close_all();
        self.state.multiport = false;
        self.state.ports.fill(PortState::default());
        if self.has_keys {
            self.line.discard();
        }
    }
}

impl<L> Drop for ConsoleDevice<L> {
    fn drop(&mut self) {
        for port in &self.named {
            port.end.set_open(false);
            port.end.plug(None);
        }
    }
}

/// As it is before a driver has come, with so many named ports.
fn fresh(named: usize) -> State {
    State { multiport: false, ports: vec![PortState::default(); named + 1] }
}

/// Copies what the buffers have from byte `skip` on. How much that is.
fn get(
    buffers: &[Buffer],
    mut skip: u64,
    into: &mut [u8],
    ram: &impl GuestRam,
) -> Result<usize, Bad> {
    let mut done = 0;
    for buffer in buffers {
        let size = u64::from(buffer.size);
        if let Some(beyond) = skip.checked_sub(size) {
            skip = beyond;
            continue;
        }
        let outside = crate::memory::OutsideRam { ipa: buffer.ipa, size };
        let at = buffer.ipa.checked_add(skip).ok_or(outside)?;
        let left = into.get_mut(done..).unwrap_or_default();
        let now = usize::try_from(size - skip).unwrap_or(usize::MAX).min(left.len());
        ram.read_bytes(at, left.get_mut(..now).unwrap_or_default())?;
        done += now;
        skip = 0;
        if done == into.len() {
            break;
        }
    }
    Ok(done)
}

/// Writes `bytes` behind the `done` bytes that were written to a chain before, as far as it has room.
fn put(chain: &Chain, done: &mut usize, bytes: &[u8], ram: &impl GuestRam) -> Result<(), Bad> {
    let mut skip = *done as u64;
    let mut left = bytes;
    for buffer in chain.writable() {
        if left.is_empty() {
            break;
        }
        let size = u64::from(buffer.size);
        if let Some(beyond) = skip.checked_sub(size) {
            skip = beyond;
            continue;
        }
        let outside = crate::memory::OutsideRam { ipa: buffer.ipa, size };
        let at = buffer.ipa.checked_add(skip).ok_or(outside)?;
        let now = usize::try_from(size - skip).unwrap_or(usize::MAX).min(left.len());
        let (first, rest) = left.split_at(now);
        ram.write_bytes(at, first)?;
        *done += now;
        left = rest;
        skip = 0;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
