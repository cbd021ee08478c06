//! Virtqueues, the device's side (VIRTIO 1.2, "Virtqueues").
//!
//! The driver makes *chains* of buffers *available*; the device takes them, uses them, and gives them back as *used*.
//! Everything in a ring is written by the guest: each word is read once, what is checked is the copy, and no walk is
//! longer than the queue has entries. What is against the standard is [`Bad`]; the device needs a reset then, and
//! nobody but its guest is the worse for it.

pub mod split;

use alloc::vec::Vec;

use crate::addr::{Ipa, Region};
use crate::memory::OutsideRam;

/// The largest queue that a split ring can have ("Split Virtqueues").
pub const MAX_SIZE: u16 = 1 << 15;

/// One buffer of a chain; not empty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Buffer {
    /// Its first byte. Whether it is RAM is found out when it is read or written.
    pub ipa: Ipa,
    /// How many bytes.
    pub size: u32,
}

/// What the driver has made available at one go: buffers that the device reads, then those that it writes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Chain {
    /// What names it when it is given back.
    pub head: u16,
    /// Its buffers, those that are read before those that are written. Kept, so that its memory is.
    buffers: Vec<Buffer>,
    /// How many of them are read.
    readable: usize,
}

impl Chain {
    /// What the device reads, in order.
    pub fn readable(&self) -> &[Buffer] {
        self.buffers.get(..self.readable).unwrap_or_default()
    }

    /// What the device writes, in order.
    pub fn writable(&self) -> &[Buffer] {
        self.buffers.get(self.readable..).unwrap_or_default()
    }

    fn begin(&mut self, head: u16) {
        self.head = head;
        self.buffers.clear();
        self.readable = 0;
    }

    /// Appends a buffer.
    fn append(&mut self, buffer: Buffer, writable: bool) -> Result<(), Bad> {
        if !writable && self.readable < self.buffers.len() {
            return Err(Bad::ReadableAfterWritable);
        }
        if buffer.size > 0 {
            self.buffers.push(buffer);
            self.readable += usize::from(!writable);
        }
        Ok(())
    }
}

/// What a driver has done to a queue that the standard does not allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Bad {
    /// A ring is not in RAM.
    #[error("a ring is not in RAM: {0}")]
    Ring(#[from] OutsideRam),
    /// More chains are available than there are descriptors.
    #[error("{0} chains are made available at once, more than the queue has descriptors")]
    Available(u16),
    /// There is no descriptor with this number.
    #[error("there is no descriptor {0}")]
    Descriptor(u16),
    /// A chain has more descriptors than the queue, or never ends.
    #[error("a chain is longer than the queue")]
    TooLong,
    /// A buffer to be read comes after one to be written.
    #[error("a buffer to be read comes after one to be written")]
    ReadableAfterWritable,
    /// An indirect descriptor that the driver did not negotiate, that goes on, or that stands in an indirect table.
    #[error("an indirect descriptor where none may be")]
    Indirect,
    /// An indirect table whose size is 0, no multiple of a descriptor's, or more than the queue's.
    #[error("an indirect table of {0} bytes")]
    Table(u32),
}

/// Where a queue lies and how large it is: what the driver writes before it makes the queue ready.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
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

/// The `size` bytes at `start`, if that is a multiple of `alignment`.
fn area(start: u64, size: u64, alignment: u64) -> Option<Region<Ipa>> {
    let start = Ipa::new(start);
    Region::new(start, size).filter(|_| start.is_aligned(alignment))
}
