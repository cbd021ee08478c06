//! Where a network card is plugged in: a frame is put into its receive queue.
//!
//! The CPU on which a frame is sent copies it, from one guest's RAM straight into the other's. That is the only copy.

use alloc::sync::Arc;

use super::feature;
use super::header::{NUM_BUFFERS, NetHeader, SIZE};
use crate::addr::Ipa;
use crate::device::doorbell::Doorbell;
use crate::memory::{GuestMemory, OutsideEither, OutsideRam};
use crate::net::{HEADER, Head};
use crate::virtio::queue::{Bad, Buffer, Chain, Head as Taken, Virtqueue};
use crate::virtio::queues::{Queue, Queues, USED_BUFFER};
use crate::virtio::ram::SharedRam;

/// The receive queue ("Network Device: Virtqueues").
pub const RECEIVE: usize = 0;

/// The most chains that one frame is divided over: one of 64 KiB into buffers of a kilobyte.
const MOST_CHAINS: usize = 68;

/// A frame on its way, in its sender's RAM.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The sender's RAM.
    pub ram: &'a GuestMemory,
    /// What it is in, with the header before it.
    pub buffers: &'a [Buffer],
    /// How many bytes, without that header.
    pub length: u64,
    /// That header.
    pub header: NetHeader,
}

/// A network card, as others reach it.
#[derive(Clone, Debug)]
pub struct Plug {
    /// Its queues.
    pub queues: Arc<Queues<SharedRam>>,
    /// Makes somebody look at it.
    pub bell: Doorbell,
}

/// Why a frame has not been delivered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Undelivered {
    /// There was no room for it.
    NoRoom,
    /// It cannot be read: its sender's fault.
    Sender(OutsideRam),
}

impl Plug {
    /// Puts a frame into the receive queue, beginning with `head`.
    ///
    /// # Errors
    /// [`Undelivered`]; the queue is as it was.
    pub fn deliver(&self, frame: &Frame<'_>, head: &Head) -> Result<(), Undelivered> {
        let features = self.queues.features();
        let shift = head_shift(head);
        let header = frame.header.shifted(shift);
        if features == 0 || !header.is_taken(features) {
            return Err(Undelivered::NoRoom);
        }
        let Some(ram) = self.queues.ram().get() else { return Err(Undelivered::NoRoom) };
        let mut source = Source::new(frame, &header, head);
        let Some(mut queue) = self.queues.lock(RECEIVE) else { return Err(Undelivered::NoRoom) };
        let Queue { ring: Some(ring), chain, .. } = &mut *queue else {
            return Err(Undelivered::NoRoom);
        };
        let mergeable = features & feature::MRG_RXBUF != 0;
        let mut receiver = Receiver { ram, ring, chain, queues: &self.queues };
        let interrupt = match receiver.put(&mut source, mergeable) {
            Ok(()) => ring.publish(self.queues.ram()),
            Err(Failed::Undelivered(why)) => return Err(why),
            Err(Failed::Bad(bad)) => Err(bad),
        };
        drop(queue);
        match interrupt {
            Ok(false) => Ok(()),
            Ok(true) => {
                if self.queues.raise(USED_BUFFER) {
                    self.bell.ring();
                }
                Ok(())
            }
            Err(bad) => {
                self.queues.set_broken(bad);
                self.bell.ring();
                Err(Undelivered::NoRoom)
            }
        }
    }
}

/// By how much a frame grows that begins with `head`.
fn head_shift(head: &Head) -> i16 {
    let [new, old] = [head.bytes().len(), head.replaces()].map(|n| i16::try_from(n).unwrap_or(0));
    new - old
}

enum Failed {
    Undelivered(Undelivered),
    Bad(Bad),
}

impl From<Bad> for Failed {
    fn from(bad: Bad) -> Self {
        Self::Bad(bad)
    }
}

/// Who gets a frame.
struct Receiver<'a> {
    ram: &'a GuestMemory,
    ring: &'a mut Virtqueue,
    chain: &'a mut Chain,
    queues: &'a Queues<SharedRam>,
}

impl Receiver<'_> {
    /// Puts all of `source` into chains, and gives them back; or into none.
    fn put(&mut self, source: &mut Source<'_>, mergeable: bool) -> Result<(), Failed> {
        let mut used = [(Taken::default(), 0u32); MOST_CHAINS];
        let mut count = 0;
        let mut buffer_count_at = None;
        let ended = loop {
            let Some(slot) = used.get_mut(count) else { break Err(Failed::Undelivered(NO_ROOM)) };
            match self.ring.take(self.queues.ram(), self.chain) {
                Ok(true) => {}
                Ok(false) => break Err(Failed::Undelivered(NO_ROOM)),
                Err(bad) => break Err(bad.into()),
            }
            slot.0 = self.chain.head;
            count += 1;
            if count == 1 {
                buffer_count_at = place(self.chain.writable(), NUM_BUFFERS);
            }
            match source.fill(self.ram, self.chain.writable()) {
                Ok(written) => slot.1 = written,
                Err(OutsideEither::From(outside)) => {
                    break Err(Failed::Undelivered(Undelivered::Sender(outside)));
                }
                Err(OutsideEither::To(outside)) => break Err(Bad::Ring(outside).into()),
            }
            if source.is_empty() {
                break Ok(());
            }
            if !mergeable {
                break Err(Failed::Undelivered(NO_ROOM));
            }
        };
        let used = used.get(..count).unwrap_or_default();
        if let Err(failed) = ended {
            used.iter().rev().for_each(|(head, _)| self.ring.untake(*head));
            return Err(failed);
        }
        if let (Some(at), [_, _, ..]) = (buffer_count_at, used) {
            let count = u16::try_from(count).unwrap_or(u16::MAX);
            self.ram.write_from(at, &count.to_le_bytes()).map_err(Bad::from)?;
        }
        for (head, written) in used {
            self.ring.give_back(self.queues.ram(), *head, *written)?;
        }
        Ok(())
    }
}

const NO_ROOM: Undelivered = Undelivered::NoRoom;

/// Where two bytes are, `offset` bytes into `buffers`, if one of these holds them.
fn place(buffers: &[Buffer], offset: u64) -> Option<Ipa> {
    let mut left = offset;
    for buffer in buffers {
        match left.checked_sub(buffer.size.into()) {
            Some(beyond) => left = beyond,
            None if left + 2 <= buffer.size.into() => return buffer.ipa.checked_add(left),
            None => return None,
        }
    }
    None
}

/// What is left of a frame to be copied: what is made anew, then what is in its sender's RAM.
struct Source<'a> {
    made: [u8; SIZE + HEADER],
    made_from: usize,
    made_to: usize,
    ram: &'a GuestMemory,
    buffers: &'a [Buffer],
    /// How much of the first of them is behind us.
    offset: u64,
}

impl<'a> Source<'a> {
    fn new(frame: &Frame<'a>, header: &NetHeader, head: &Head) -> Self {
        let mut made = [0; SIZE + HEADER];
        let bytes = header.bytes().into_iter().chain(head.bytes().iter().copied());
        let mut made_to = 0;
        for (to, byte) in made.iter_mut().zip(bytes) {
            *to = byte;
            made_to += 1;
        }
        let mut source =
            Self { made, made_from: 0, made_to, ram: frame.ram, buffers: frame.buffers, offset: 0 };
        source.skip((SIZE + head.replaces()) as u64);
        source
    }

    fn is_empty(&self) -> bool {
        self.made_from == self.made_to && self.buffers.is_empty()
    }

    /// So many bytes of the sender's are behind us.
    fn skip(&mut self, bytes: u64) {
        self.offset += bytes;
        while let Some((first, rest)) = self.buffers.split_first() {
            let Some(beyond) = self.offset.checked_sub(first.size.into()) else { return };
            (self.buffers, self.offset) = (rest, beyond);
        }
    }

    /// Fills `buffers`, which are in `ram`, as far as there is something. How many bytes that were.
    fn fill(&mut self, ram: &GuestMemory, buffers: &[Buffer]) -> Result<u32, OutsideEither> {
        let mut written = 0u32;
        for buffer in buffers {
            let (mut at, mut room) = (buffer.ipa, u64::from(buffer.size));
            while room > 0 {
                let now = match self.made.get(self.made_from..self.made_to) {
                    Some(made) if !made.is_empty() => {
                        let size = made.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                        let made = made.get(..size).unwrap_or_default();
                        ram.write_from(at, made).map_err(OutsideEither::To)?;
                        self.made_from += size;
                        size as u64
                    }
                    _ => {
                        let Some(from) = self.buffers.first() else { return Ok(written) };
                        let now = (u64::from(from.size) - self.offset).min(room);
                        let outside = OutsideRam { ipa: from.ipa, size: from.size.into() };
                        let source = from.ipa.checked_add(self.offset);
                        let source = source.ok_or(OutsideEither::From(outside))?;
                        self.ram.copy_to_guest(source, ram, at, now)?;
                        self.skip(now);
                        now
                    }
                };
                room -= now;
                written = written.saturating_add(u32::try_from(now).unwrap_or(u32::MAX));
                if room > 0 {
                    let outside = OutsideRam { ipa: at, size: now };
                    at = at.checked_add(now).ok_or(OutsideEither::To(outside))?;
                }
            }
        }
        Ok(written)
    }
}
