//! The switch, and who is plugged into its ports.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::fmt;

use super::offload::{SCRATCH, Segments, Undone};
use super::sending::{self, Budget, Plain, Sending, Start};
use super::socket::{Checksum, Frame, Plug, Undelivered};
use crate::host::Uplink;
use crate::memory::{GuestMemory, OutsideRam};
use crate::net::{Header, PortId, Switch, TagChange, flow};
use crate::sync::Once;
use crate::sync::TicketMutex;
use crate::time::Ticks;
use crate::virtio::queue::Buffer;

/// What is plugged into a port.
type Socket = TicketMutex<Option<Plug>>;

/// The networks of the machine, with the guests' cards.
///
/// Lock order: the one for plain frames, a port's, the queue by which the card there receives; or the uplink's.
pub struct Lan {
    switch: Switch,
    /// By network and place.
    sockets: Box<[Box<[Socket]>]>,
    /// The machine's own card, and the port that it is at.
    uplink: Once<(PortId, Arc<dyn Uplink>)>,
    /// Plain frames are made here.
    scratch: TicketMutex<Box<[u8]>>,
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
        let scratch = if networks == 0 { 0 } else { SCRATCH };
        let scratch = TicketMutex::new(vec![0; scratch].into_boxed_slice());
        Self { switch, sockets, uplink: Once::new(), scratch, clock }
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

    /// Does something while no frame is being brought to `port`.
    pub(super) fn alone(&self, port: PortId, then: impl FnOnce()) {
        let _held = self.socket(port).map(TicketMutex::lock);
        then();
    }

    /// The machine's own card is at `port` from now on. Only the first one stays.
    pub fn connect(&self, port: PortId, uplink: Arc<dyn Uplink>) {
        self.uplink.call_once(|| (port, uplink));
    }

    #[inline]
    fn uplink(&self, port: PortId) -> Option<&dyn Uplink> {
        self.uplink.get().filter(|(at, _)| *at == port).map(|(_, uplink)| &**uplink)
    }

    /// A frame has come from outside, by the uplink: whom it is for gets it.
    pub fn receive(&self, frame: &[u8]) {
        let Some((port, _)) = self.uplink.get() else { return };
        let Some(header) = Header::parse(frame) else {
            self.switch.refused(*port, frame.len());
            return;
        };
        let now = (self.clock)();
        for (to, change) in
            self.switch.forward(*port, &header, frame.len(), now).into_iter().flatten()
        {
            let head = change.head(&header);
            let rest = frame.get(head.replaces()..).unwrap_or_default();
            let number = || flow(frame);
            match self.deliver(to, |plug| {
                plug.deliver_plain(head.bytes(), rest, number, Checksum::Unknown)
            }) {
                Ok(()) => self.switch.went_out(to, head.bytes().len() + rest.len()),
                Err(_) => self.switch.lost(to),
            }
        }
    }

    /// A frame comes in by `from`, which begins as `sending` says: where it goes, with [`go_on`](Self::go_on), is noted there.
    /// False where it goes nowhere; that has been counted.
    #[inline]
    pub fn begin(&self, from: PortId, frame: &Frame<'_>, sending: &mut Sending) -> bool {
        let length = usize::try_from(frame.length).unwrap_or(usize::MAX);
        let header = match sending.start.read(length) {
            Some(header) if frame.header.is_behind(header.length()) => header,
            _ => {
                self.switch.refused(from, length);
                return false;
            }
        };
        let Ok(copies) = self.switch.forward(from, &header, length, (self.clock)()) else {
            return false;
        };
        (sending.copies, sending.header, sending.left) = (copies, header, frame.header);
        true
    }

    /// Brings a frame to those whom it is for, as long as `budget` lasts. Returns whether that was all. What cannot be
    /// delivered is counted, and lost.
    ///
    /// # Errors
    /// Its sender names what is no RAM.
    pub fn go_on(
        &self,
        sending: &mut Sending,
        plain: &mut Option<Plain>,
        frame: &Frame<'_>,
        budget: &mut Budget,
    ) -> Result<bool, OutsideRam> {
        while !budget.is_spent() {
            if let Some(next) = plain {
                if !self.next_plain(next, frame, budget)? {
                    *plain = None;
                }
                continue;
            }
            let Some((to, change)) = sending.copies.next() else { return Ok(true) };
            let changed;
            let start = if change == TagChange::Keep {
                &sending.start
            } else {
                changed = Start::new(&sending.left, &change.head(&sending.header));
                &changed
            };
            budget.copied(frame.length);
            let delivered = match self.uplink(to) {
                Some(_) => Err(Undelivered::Unfinished),
                None => {
                    let number = || sending::flow(&mut sending.flow, frame);
                    self.deliver(to, |plug| plug.deliver(frame, start, number))
                }
            };
            match delivered {
                Err(Undelivered::Unfinished) => {
                    let head = change.head(&sending.header);
                    let grows = head.growth();
                    let work = frame.header.shifted(grows).work();
                    let length = frame.length.saturating_add_signed(grows.into());
                    match Segments::new(work, length) {
                        Ok(segments) => *plain = Some(Plain { to, head, segments }),
                        Err(_) => self.switch.lost(to),
                    }
                }
                delivered => self.count(to, frame.length, delivered)?,
            }
        }
        Ok(false)
    }

    /// Makes the next plain frame, and delivers it. Returns whether there may be more.
    fn next_plain(
        &self,
        plain: &mut Plain,
        frame: &Frame<'_>,
        budget: &mut Budget,
    ) -> Result<bool, OutsideRam> {
        let Plain { to, head, segments } = plain;
        let read = |offset, into: &mut [u8]| sending::read(frame, head, offset, into);
        let mut length = 0;
        let mut end = None;
        let mut make = |room: &mut [u8]| {
            match segments.next(&read, room) {
                Some(Ok(made)) => length = made.len(),
                other => end = Some(other.map(|made| made.map(drop))),
            }
            length
        };
        let delivered = match self.uplink(*to) {
            // It is made where the card reads it.
            Some(uplink) => uplink.send(&mut make).map_err(|_| Undelivered::NoRoom),
            None => {
                let mut scratch = self.scratch.lock();
                match make(&mut scratch) {
                    0 => Ok(()),
                    length => {
                        let made = scratch.get(..length).unwrap_or_default();
                        let number = || flow(made);
                        let computed = Checksum::Computed;
                        self.deliver(*to, |plug| plug.deliver_plain(&[], made, number, computed))
                    }
                }
            }
        };
        match end {
            None => {}
            Some(Some(Err(Undone::Read(outside)))) => return Err(outside),
            Some(Some(Err(Undone::Refused(_)))) => {
                self.switch.lost(*to);
                return Ok(false);
            }
            Some(_) => return Ok(false),
        }
        budget.finished(length as u64);
        let goes_on = delivered.is_ok();
        self.count(*to, length as u64, delivered)?;
        Ok(goes_on)
    }

    fn deliver(
        &self,
        to: PortId,
        deliver: impl FnOnce(&Plug) -> Result<(), Undelivered>,
    ) -> Result<(), Undelivered> {
        let socket = self.socket(to).map(TicketMutex::lock);
        socket.as_ref().and_then(|plug| plug.as_ref()).map_or(Err(Undelivered::NoRoom), deliver)
    }

    #[inline(always)]
    fn count(
        &self,
        to: PortId,
        length: u64,
        delivered: Result<(), Undelivered>,
    ) -> Result<(), OutsideRam> {
        match delivered {
            Ok(()) => self.switch.went_out(to, usize::try_from(length).unwrap_or(usize::MAX)),
            Err(Undelivered::Sender(outside)) => return Err(outside),
            Err(Undelivered::NoRoom | Undelivered::Unfinished) => self.switch.lost(to),
        }
        Ok(())
    }
}

impl fmt::Debug for Lan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lan").field("switch", &self.switch).finish_non_exhaustive()
    }
}

/// Copies what `buffers` have from `offset` on.
pub(super) fn read(
    ram: &GuestMemory,
    buffers: &[Buffer],
    offset: u64,
    mut into: &mut [u8],
) -> Result<(), OutsideRam> {
    if let Some(first) = buffers.first()
        && offset == 0
        && u64::from(first.size) >= into.len() as u64
    {
        return ram.read_into(first.ipa, into);
    }
    let mut skip = offset;
    for buffer in buffers {
        let size = u64::from(buffer.size);
        if let Some(beyond) = skip.checked_sub(size) {
            skip = beyond;
            continue;
        }
        let outside = OutsideRam { ipa: buffer.ipa, size };
        let at = buffer.ipa.checked_add(skip).ok_or(outside)?;
        let now = usize::try_from(size - skip).unwrap_or(usize::MAX).min(into.len());
        let (first, rest) = into.split_at_mut(now);
        ram.read_into(at, first)?;
        into = rest;
        if into.is_empty() {
            break;
        }
        skip = 0;
    }
    Ok(())
}
