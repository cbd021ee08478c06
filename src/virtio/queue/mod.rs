//! Virtqueues, the device's side (VIRTIO 1.2, "Virtqueues").
//!
//! The driver makes *chains* of buffers *available*; the device takes them, uses them, and gives them back as *used*,
//! in whatever order. There are two formats of rings, [`split`] and [`packed`], and the driver chooses.
//!
//! Everything in a ring is written by the guest: each word is read once, what is checked is the copy, and no walk is
//! longer than the queue has entries. What is against the standard is [`Bad`]; the device needs a reset then, and
//! nobody but its guest is the worse for it.

mod descriptor;
pub mod fake;
mod in_order;
pub mod packed;
pub mod split;

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use self::packed::PackedQueue;
use self::split::SplitQueue;
use super::ram::GuestRam;
use crate::addr::{Ipa, Region};
use crate::memory::OutsideRam;

/// The largest queue that there can be ("Split Virtqueues", "Packed Virtqueues").
pub const MAX_SIZE: u16 = 1 << 15;

/// What the driver has negotiated that changes how a queue works ("Reserved Feature Bits").
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Negotiated {
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_index: bool,
    /// `VIRTIO_F_RING_PACKED`.
    pub packed: bool,
    /// `VIRTIO_F_IN_ORDER`, which a device offers that gives its chains back in the order in which it took them.
    pub in_order: bool,
}

/// Where a queue lies and how large it is: what the driver writes before it makes the queue ready.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// How many descriptors.
    pub size: u16,
    /// The descriptor area.
    pub descriptors: u64,
    /// The driver area.
    pub driver: u64,
    /// The device area.
    pub device: u64,
}

/// A queue that is ready, of either format.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Virtqueue {
    /// Descriptors in a table, and two rings of their numbers.
    Split(SplitQueue),
    /// Descriptors in one ring.
    Packed(PackedQueue),
}

impl Virtqueue {
    /// The queue at `place`. `None` when it has a size that its format does not allow, or its areas are not aligned as the
    /// standard wants them, or not in RAM.
    pub fn new(place: Place, negotiated: Negotiated, ram: &impl GuestRam) -> Option<Self> {
        if negotiated.packed {
            PackedQueue::new(place, negotiated, ram).map(Self::Packed)
        } else {
            SplitQueue::new(place, negotiated, ram).map(Self::Split)
        }
    }

    /// Whether one that was saved, and may be anything by now, can be the queue at `place`.
    pub fn is_sound(&self, place: Place, negotiated: Negotiated, ram: &impl GuestRam) -> bool {
        let fresh = Self::new(place, negotiated, ram);
        match self {
            Self::Split(queue) => {
                matches!(fresh, Some(Self::Split(fresh)) if queue.is_sound(&fresh))
            }
            Self::Packed(queue) => {
                matches!(fresh, Some(Self::Packed(fresh)) if queue.is_sound(&fresh))
            }
        }
    }

    /// How many descriptors, of a split ring chains, were taken and not given back.
    pub const fn held(&self) -> u16 {
        match self {
            Self::Split(queue) => queue.held(),
            Self::Packed(queue) => queue.held(),
        }
    }

    /// Takes the next chain that is available. False when there is none.
    ///
    /// # Errors
    /// The driver has broken the standard's rules.
    #[inline(always)]
    pub fn take(&mut self, ram: &impl GuestRam, chain: &mut Chain) -> Result<bool, Bad> {
        match self {
            Self::Split(queue) => queue.take(ram, chain),
            Self::Packed(queue) => queue.take(ram, chain),
        }
    }

    /// Hands the chain that was taken last back unused, as if it had never been taken; it was not given back. Then the one
    /// that was taken before it is the last.
    pub fn untake(&mut self, head: Head) {
        match self {
            Self::Split(queue) => queue.untake(),
            Self::Packed(queue) => queue.untake(head),
        }
    }

    /// Gives back the chain that `head` names, of whose buffers `written` bytes were written. The driver sees it after
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// The driver has taken the ring away.
    #[inline(always)]
    pub fn give_back(&mut self, ram: &impl GuestRam, head: Head, written: u32) -> Result<(), Bad> {
        match self {
            Self::Split(queue) => queue.give_back(ram, head, written),
            Self::Packed(queue) => queue.give_back(ram, head, written),
        }
    }

    /// Shows the driver all at once what was given back. Returns whether it wants an interrupt for that.
    ///
    /// # Errors
    /// The driver has taken the ring away.
    #[inline(always)]
    pub fn publish(&mut self, ram: &impl GuestRam) -> Result<bool, Bad> {
        match self {
            Self::Split(queue) => queue.publish(ram),
            Self::Packed(queue) => queue.publish(ram),
        }
    }

    /// Whether all was taken that the driver had offered when it was looked last.
    #[inline]
    pub const fn is_drained(&self) -> bool {
        match self {
            Self::Split(queue) => queue.is_drained(),
            // Each descriptor says for itself whether it is there.
            Self::Packed(_) => false,
        }
    }

    /// Asks the driver to notify the device of the next chain, or of none. Returns whether one has come in the meantime,
    /// of which the driver need not notify.
    ///
    /// # Errors
    /// The driver has taken the ring away.
    #[inline(always)]
    pub fn want_notification(&self, ram: &impl GuestRam, wanted: bool) -> Result<bool, Bad> {
        match self {
            Self::Split(queue) => queue.want_notification(ram, wanted),
            Self::Packed(queue) => queue.want_notification(ram, wanted),
        }
    }
}

/// One buffer of a chain; not empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Its first byte. Whether it is RAM is found out when it is read or written.
    pub ipa: Ipa,
    /// How many bytes.
    pub size: u32,
}

/// What names a chain that was taken. The device keeps it for as long as it has the chain, so the queue keeps no list,
/// and a driver that gives two chains one name confuses nobody but itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The number of the first descriptor of a split ring, the buffer's ID of a packed one.
    id: u16,
    /// How many descriptors of a packed ring it has.
    descriptors: u16,
    /// How many bytes its writable buffers have.
    room: u64,
}

impl Head {
    /// How many of the descriptors that are [`held`](Virtqueue::held) are its chain's.
    pub const fn descriptors(self) -> u16 {
        self.descriptors
    }
}

/// What the driver has made available at one go: buffers that the device reads, then those that it writes.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// What names it when it is given back.
    pub head: Head,
    /// Its buffers, those that are read before those that are written. Kept, so that its memory is.
    buffers: Vec<Buffer>,
    /// How many of them are read.
    readable: usize,
    /// How many descriptors were looked at for it, also those of no bytes.
    looked_at: u16,
}

impl Chain {
    /// How many descriptors were looked at for it, also those of no bytes: what it took to take it.
    #[inline]
    pub const fn looked_at(&self) -> u16 {
        self.looked_at
    }

    /// What the device reads, in order.
    pub fn readable(&self) -> &[Buffer] {
        self.buffers.get(..self.readable).unwrap_or_default()
    }

    /// What the device writes, in order.
    pub fn writable(&self) -> &[Buffer] {
        self.buffers.get(self.readable..).unwrap_or_default()
    }

    /// How many bytes the device can write.
    pub const fn room(&self) -> u64 {
        self.head.room
    }

    /// Whether one that was saved, and may be anything by now, can be of a queue of so many descriptors.
    pub fn is_sound(&self, size: u16) -> bool {
        let room = self.writable().iter().map(|buffer| u64::from(buffer.size)).sum::<u64>();
        self.buffers.len() <= size.into()
            && self.readable <= self.buffers.len()
            && self.buffers.iter().all(|buffer| buffer.size > 0)
            && self.head.descriptors <= size
            && self.head.room == room
    }

    /// Makes room for more buffers.
    #[cold]
    fn grow(&mut self) -> Result<(), Bad> {
        self.buffers.try_reserve(1).map_err(|_| Bad::NoMemory)
    }

    fn begin(&mut self) {
        self.head = Head::default();
        self.buffers.clear();
        self.readable = 0;
    }

    /// Appends a buffer.
    #[inline(always)]
    fn append(&mut self, buffer: Buffer, writable: bool) -> Result<(), Bad> {
        if !writable && self.readable < self.buffers.len() {
            return Err(Bad::ReadableAfterWritable);
        }
        if buffer.size > 0 {
            if self.buffers.len() == self.buffers.capacity() {
                self.grow()?;
            }
            self.buffers.push(buffer);
            if writable {
                self.head.room += u64::from(buffer.size);
            } else {
                self.readable += 1;
            }
        }
        Ok(())
    }
}

/// What a driver has done to a queue that the standard does not allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum Bad {
    /// A ring is not in RAM.
    #[error("a ring is not in RAM: {0}")]
    Ring(#[from] OutsideRam),
    /// More chains are available than there are descriptors, but for those of chains that are not yet used.
    #[error("{0} chains are made available at once, more than the queue has descriptors for")]
    Available(u16),
    /// There is no descriptor with this number.
    #[error("there is no descriptor {0}")]
    Descriptor(u16),
    /// A chain has more descriptors than the queue, or than are free in a packed ring, or never ends.
    #[error("a chain has more descriptors than are free in the queue")]
    TooLong,
    /// A buffer to be read comes after one to be written.
    #[error("a buffer to be read comes after one to be written")]
    ReadableAfterWritable,
    /// An indirect descriptor that the driver did not negotiate, that goes on, or that stands where the format has none.
    #[error("an indirect descriptor where none may be")]
    Indirect,
    /// An indirect table whose size is 0, no multiple of a descriptor's, or more than the queue's.
    #[error("an indirect table of {0} bytes")]
    Table(u32),
    /// There is no memory to note so many buffers.
    #[error("a chain has so many buffers that there is no memory to note them")]
    NoMemory,
    /// A request without a place for what becomes of it.
    #[error("a request has no place for its status")]
    NoStatus,
}

/// The `size` bytes at `start`, if that is a multiple of `alignment`.
fn area(start: u64, size: u64, alignment: u64) -> Option<Region<Ipa>> {
    let start = Ipa::new(start);
    Region::new(start, size).filter(|_| start.is_aligned(alignment))
}

#[cfg(test)]
mod tests;
