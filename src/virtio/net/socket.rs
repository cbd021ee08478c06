//! Where a network card is plugged in: a frame is put into one of its receive queues.
//!
//! The CPU on which a frame is sent copies it, from one guest's RAM straight into the other's. That is the only copy.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::feature;
use super::header::{NUM_BUFFERS, NetHeader};
use super::receive;
use super::sending::Start;
use super::steering::Steering;
use crate::addr::{Ipa, Region};
use crate::device::doorbell::Doorbell;
use crate::memory::{GuestMemory, OutsideEither, OutsideRam};
use crate::net::HEADER;
use crate::virtio::queue::{Bad, Buffer, Chain, Head as Taken, Virtqueue};
use crate::virtio::queues::{Queue, Queues, USED_BUFFER};
use crate::virtio::ram::SharedRam;

/// The most chains that one frame is divided over: one of 64 KiB into buffers of a kilobyte.
const MOST_CHAINS: usize = 68;

/// The most descriptors that are looked at for one frame, before the last chain's: four for each of so many chains. Who has more than
/// that has some of no bytes.
const MOST_DESCRIPTORS: u16 = 272;

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
    /// Which of them a frame goes to.
    pub steering: Arc<Steering>,
}

/// What is known of a finished frame's checksums.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checksum {
    /// They were computed here.
    Computed,
    /// Nothing.
    Unknown,
}

/// Why a frame has not been delivered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Undelivered {
    /// There was no room for it.
    NoRoom,
    /// Something is left to be done to it that who gets it does not do.
    Unfinished,
    /// It cannot be read: its sender's fault.
    Sender(OutsideRam),
}

impl Plug {
    /// Puts a frame into a receive queue, beginning with `start`. It is of this `flow`, which is asked for where there are
    /// several queues.
    ///
    /// # Errors
    /// [`Undelivered`]; the queue is as it was.
    pub fn deliver(
        &self,
        frame: &Frame<'_>,
        start: &Start,
        flow: impl FnOnce() -> u32,
    ) -> Result<(), Undelivered> {
        let features = self.features()?;
        if !frame.header.is_taken(features) {
            return Err(Undelivered::Unfinished);
        }
        let mut source = Source::new(frame, start);
        self.put(&mut source, features, self.steering.pair(flow))
    }

    /// Puts a frame into a receive queue to which nothing is left to be done: `head` and then `rest`. `head` is no longer
    /// than [`HEADER`]. `flow` as above.
    ///
    /// # Errors
    /// [`Undelivered`]; the queue is as it was.
    pub fn deliver_plain(
        &self,
        head: &[u8],
        rest: &[u8],
        flow: impl FnOnce() -> u32,
        checksum: Checksum,
    ) -> Result<(), Undelivered> {
        let features = self.features()?;
        let valid = checksum == Checksum::Computed && features & feature::GUEST_CSUM != 0;
        let mut padded = [0; HEADER];
        padded.iter_mut().zip(head).for_each(|(to, byte)| *to = *byte);
        let start = Start::of(&NetHeader::settled(valid), padded, head.len());
        let mut source = Source { made: start.bytes(), rest: Rest::Plain(rest) };
        self.put(&mut source, features, self.steering.pair(flow))
    }

    /// What the driver has negotiated.
    fn features(&self) -> Result<u64, Undelivered> {
        Some(self.queues.features()).filter(|features| *features != 0).ok_or(Undelivered::NoRoom)
    }

    fn put(&self, source: &mut Source<'_>, features: u64, pair: u8) -> Result<(), Undelivered> {
        let Some(ram) = self.queues.ram().get() else { return Err(Undelivered::NoRoom) };
        let queue = self.queues.lock(receive(pair));
        let Some(mut queue) = queue else { return Err(Undelivered::NoRoom) };
        let Queue { ring: Some(ring), chain, filled, .. } = &mut *queue else {
            return Err(Undelivered::NoRoom);
        };
        let mergeable = features & feature::MRG_RXBUF != 0;
        let mut receiver = Receiver { ram, ring, chain, filled };
        let interrupt = match receiver.put(source, mergeable) {
            Ok(()) => ring.publish(ram),
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
    filled: &'a mut Vec<(Taken, u32)>,
}

impl Receiver<'_> {
    /// Puts all of `source` into chains, and gives them back; or into none.
    fn put(&mut self, source: &mut Source<'_>, mergeable: bool) -> Result<(), Failed> {
        self.filled.clear();
        let (mut buffer_count_at, mut descriptors) = (None, MOST_DESCRIPTORS);
        let ended = loop {
            if self.filled.len() == MOST_CHAINS {
                break Err(Failed::Undelivered(NO_ROOM));
            }
            match self.ring.take(self.ram, self.chain) {
                Ok(true) => {}
                Ok(false) => break Err(Failed::Undelivered(NO_ROOM)),
                Err(bad) => break Err(bad.into()),
            }
            if self.filled.len() == self.filled.capacity() && self.filled.try_reserve(1).is_err() {
                self.ring.untake(self.chain.head);
                break Err(Failed::Undelivered(NO_ROOM));
            }
            self.filled.push((self.chain.head, 0));
            match descriptors.checked_sub(self.chain.looked_at()) {
                Some(left) => descriptors = left,
                None => break Err(Failed::Undelivered(NO_ROOM)),
            }
            match source.fill(self.ram, self.chain.writable()) {
                Ok(now) => {
                    if let Some((_, written)) = self.filled.last_mut() {
                        *written = now;
                    }
                }
                Err(OutsideEither::From(outside)) => {
                    break Err(Failed::Undelivered(Undelivered::Sender(outside)));
                }
                // The guest has given that memory up: it is there when the next frame comes.
                Err(OutsideEither::To(outside)) if is_hole(self.ram, outside) => {
                    break Err(Failed::Undelivered(NO_ROOM));
                }
                Err(OutsideEither::To(outside)) => break Err(Bad::Ring(outside).into()),
            }
            if source.is_empty() {
                break Ok(());
            }
            if !mergeable {
                break Err(Failed::Undelivered(NO_ROOM));
            }
            if self.filled.len() == 1 {
                buffer_count_at = place(self.chain.writable(), NUM_BUFFERS);
            }
        };
        if let Err(failed) = ended {
            self.filled.iter().rev().for_each(|(head, _)| self.ring.untake(*head));
            return Err(failed);
        }
        if let (Some(at), [_, _, ..]) = (buffer_count_at, self.filled.as_slice()) {
            let count = u16::try_from(self.filled.len()).unwrap_or(u16::MAX);
            self.ram.write_from(at, &count.to_le_bytes()).map_err(Bad::from)?;
        }
        for (head, written) in self.filled.iter() {
            self.ring.give_back(self.ram, *head, *written)?;
        }
        Ok(())
    }
}

const NO_ROOM: Undelivered = Undelivered::NoRoom;

/// Whether a buffer is no RAM only because its guest has given that up. The guest's own CPUs are to change that.
#[cold]
fn is_hole(ram: &GuestMemory, outside: OutsideRam) -> bool {
    let ipas = Region::new(outside.ipa, outside.size);
    ram.elastic().zip(ipas).is_some_and(|(elastic, ipas)| elastic.want(&ipas))
}

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

/// What is left of a frame to be copied: what is made anew, then the rest of it.
struct Source<'a> {
    made: &'a [u8],
    rest: Rest<'a>,
}

/// What is copied from where it is.
enum Rest<'a> {
    /// A finished frame.
    Plain(&'a [u8]),
    /// What is in its sender's RAM; so much of the first buffer is behind us.
    Sender { ram: &'a GuestMemory, buffers: &'a [Buffer], offset: u64 },
}

impl<'a> Source<'a> {
    fn new(frame: &Frame<'a>, start: &'a Start) -> Self {
        let rest = Rest::Sender { ram: frame.ram, buffers: frame.buffers, offset: 0 };
        let mut source = Self { made: start.bytes(), rest };
        source.skip(start.replaces());
        source
    }

    fn is_empty(&self) -> bool {
        self.made.is_empty()
            && match &self.rest {
                Rest::Plain(bytes) => bytes.is_empty(),
                Rest::Sender { buffers, .. } => buffers.is_empty(),
            }
    }

    /// So many bytes of the rest are behind us.
    fn skip(&mut self, bytes: u64) {
        match &mut self.rest {
            Rest::Plain(rest) => {
                *rest = usize::try_from(bytes).ok().and_then(|n| rest.get(n..)).unwrap_or_default();
            }
            Rest::Sender { buffers, offset, .. } => {
                *offset += bytes;
                while let Some((first, rest)) = buffers.split_first() {
                    let Some(beyond) = offset.checked_sub(first.size.into()) else { return };
                    (*buffers, *offset) = (rest, beyond);
                }
            }
        }
    }

    /// Copies what comes next, at most `room` bytes, to `at` of `ram`. How many bytes that were.
    fn copy(&mut self, ram: &GuestMemory, at: Ipa, room: u64) -> Result<u64, OutsideEither> {
        let most = usize::try_from(room).unwrap_or(usize::MAX);
        if !self.made.is_empty() {
            let (made, left) = self.made.split_at_checked(most).unwrap_or((self.made, &[]));
            ram.write_from(at, made).map_err(OutsideEither::To)?;
            self.made = left;
            return Ok(made.len() as u64);
        }
        let copied = match &self.rest {
            Rest::Plain(bytes) => {
                let bytes = bytes.get(..most).unwrap_or(bytes);
                ram.write_from(at, bytes).map_err(OutsideEither::To)?;
                bytes.len() as u64
            }
            Rest::Sender { ram: sender, buffers, offset } => {
                let Some(from) = buffers.first() else { return Ok(0) };
                let size = (u64::from(from.size) - offset).min(room);
                let outside = OutsideRam { ipa: from.ipa, size: from.size.into() };
                let source = from.ipa.checked_add(*offset).ok_or(OutsideEither::From(outside))?;
                sender.copy_to_guest(source, ram, at, size)?;
                size
            }
        };
        self.skip(copied);
        Ok(copied)
    }

    /// Fills `buffers`, which are in `ram`, as far as there is something. How many bytes that were.
    fn fill(&mut self, ram: &GuestMemory, buffers: &[Buffer]) -> Result<u32, OutsideEither> {
        let mut written = 0u32;
        for buffer in buffers {
            let mut done = 0;
            while done < u64::from(buffer.size) {
                let outside = OutsideRam { ipa: buffer.ipa, size: buffer.size.into() };
                let at = buffer.ipa.checked_add(done).ok_or(OutsideEither::To(outside))?;
                let now = self.copy(ram, at, u64::from(buffer.size) - done)?;
                done += now;
                written = written.saturating_add(u32::try_from(now).unwrap_or(u32::MAX));
                if now == 0 || self.is_empty() {
                    return Ok(written);
                }
            }
        }
        Ok(written)
    }
}
