//! The switch, and who is plugged into its ports.

use alloc::boxed::Box;

use spin::mutex::TicketMutex;

use super::header::SIZE;
use super::socket::{Frame, Plug, Undelivered};
use crate::memory::OutsideRam;
use crate::net::{HEADER, Header, PortId, Switch};
use crate::time::Ticks;

/// What is plugged into a port.
type Socket = TicketMutex<Option<Plug>>;

/// The networks of the machine, with the guests' cards.
///
/// Lock order: a port's, then the queue by which the card there receives.
#[derive(Debug)]
pub struct Lan {
    switch: Switch,
    /// By network and place.
    sockets: Box<[Box<[Socket]>]>,
    /// The system counter.
    clock: fn() -> Ticks,
}

impl Lan {
    /// Nobody is plugged in.
    pub fn new(switch: Switch, clock: fn() -> Ticks) -> Self {
        let networks = switch.ports().map(|port| port.network() + 1).max().unwrap_or(0);
        let count = |network| switch.ports().filter(|port| port.network() == network).count();
        let sockets = (0..networks)
            .map(|network| (0..count(network)).map(|_| TicketMutex::default()).collect())
            .collect();
        Self { switch, sockets, clock }
    }

    /// The switch.
    pub const fn switch(&self) -> &Switch {
        &self.switch
    }

    fn socket(&self, port: PortId) -> Option<&Socket> {
        self.sockets.get(port.network())?.get(port.index())
    }

    /// A card is at `port` from now on, or none.
    pub fn plug(&self, port: PortId, plug: Option<Plug>) {
        if let Some(socket) = self.socket(port) {
            // What was there is dropped when nobody can be using it any more.
            let before = core::mem::replace(&mut *socket.lock(), plug);
            drop(before);
        }
    }

    /// Sends a frame by `from` to whom it is for. What cannot be delivered is counted, and lost.
    ///
    /// # Errors
    /// Its sender names what is no RAM.
    pub fn send(&self, from: PortId, frame: &Frame<'_>) -> Result<(), OutsideRam> {
        let mut bytes = [0; HEADER];
        let taken = frame.length.min(HEADER as u64);
        let length = usize::try_from(frame.length).unwrap_or(usize::MAX);
        let start = bytes.get_mut(..usize::try_from(taken).unwrap_or(0)).unwrap_or_default();
        read(frame, SIZE as u64, start)?;
        let header = Header::parse(start).filter(|it| frame.header.is_behind(it.length()));
        let Some(header) = header else {
            self.switch.refused(from, length);
            return Ok(());
        };
        let Ok(copies) = self.switch.forward(from, &header, length, (self.clock)()) else {
            return Ok(());
        };
        for (to, change) in copies {
            let Some(socket) = self.socket(to) else { continue };
            let socket = socket.lock();
            let delivered = match &*socket {
                Some(plug) => plug.deliver(frame, &change.head(&header)),
                None => Err(Undelivered::NoRoom),
            };
            drop(socket);
            match delivered {
                Ok(()) => self.switch.went_out(to, length),
                Err(Undelivered::NoRoom) => self.switch.lost(to),
                Err(Undelivered::Sender(outside)) => return Err(outside),
            }
        }
        Ok(())
    }
}

/// Copies what a frame has from `offset` on, counted from the header before it.
pub(super) fn read(frame: &Frame<'_>, offset: u64, mut into: &mut [u8]) -> Result<(), OutsideRam> {
    let mut skip = offset;
    for buffer in frame.buffers {
        let size = u64::from(buffer.size);
        if let Some(beyond) = skip.checked_sub(size) {
            skip = beyond;
            continue;
        }
        let outside = OutsideRam { ipa: buffer.ipa, size };
        let at = buffer.ipa.checked_add(skip).ok_or(outside)?;
        let now = usize::try_from(size - skip).unwrap_or(usize::MAX).min(into.len());
        let (first, rest) = into.split_at_mut(now);
        frame.ram.read_into(at, first)?;
        into = rest;
        if into.is_empty() {
            break;
        }
        skip = 0;
    }
    Ok(())
}
