//! A split virtqueue (VIRTIO 1.2, "Split Virtqueues"), by address: which descriptors are used for what, and which are
//! free, whoever uses it decides.

use super::ring::{Buffer, Ring, Used, passes};
use super::{Device, memory};
use crate::instruction;
use crate::mmio::{read16, read32, write16, write32, write64};

/// Flags of a descriptor: the chain goes on, the device writes the buffer, the buffer is a table.
pub const NEXT: u16 = 1;
/// See [`NEXT`].
pub const WRITE: u16 = 2;
/// See [`NEXT`].
pub const INDIRECT: u16 = 4;

/// `struct virtq_desc`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Descriptor {
    /// Where the buffer is.
    pub address: u64,
    /// How many bytes.
    pub size: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// The chain's next one.
    pub next: u16,
}

impl Descriptor {
    /// Writes it as entry `number` of the table at `table`: the queue's, or an indirect one.
    pub fn write(&self, table: u64, number: u16) {
        let at = table + 16 * u64::from(number);
        write64(at, self.address);
        write32(at + 8, self.size);
        write16(at + 12, self.flags);
        write16(at + 14, self.next);
    }
}

/// A split virtqueue.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// How many descriptors it has, a power of two.
    pub size: u16,
    /// The descriptors.
    pub table: u64,
    /// `struct virtq_avail`.
    pub avail: u64,
    /// `struct virtq_used`.
    pub used: u64,
    /// Whether `EVENT_IDX` was negotiated.
    pub event_index: bool,
    /// How many heads were put into the available ring.
    pub offered: u16,
    /// How many of them the device was shown.
    pub shown: u16,
    /// How many used chains were looked at.
    pub seen: u16,
}

impl Split {
    /// A queue in memory of its own.
    pub fn new(size: u16, event_index: bool) -> Self {
        let entries = u64::from(size);
        let (table, avail) = (memory::take(16 * entries, 16), memory::take(6 + 2 * entries, 2));
        let used = memory::take(6 + 8 * entries, 4);
        Self { size, table, avail, used, event_index, offered: 0, shown: 0, seen: 0 }
    }

    /// As if it were new: nothing was offered, and nothing used.
    pub fn restart(&mut self) {
        let rings =
            [(self.avail, 6 + 2 * u64::from(self.size)), (self.used, 6 + 8 * u64::from(self.size))];
        for (start, size) in rings {
            (0..size).step_by(2).for_each(|at| write16(start + at, 0));
        }
        (self.offered, self.shown, self.seen) = (0, 0, 0);
    }

    /// Writes descriptor `number`.
    pub fn describe(&self, number: u16, descriptor: Descriptor) {
        descriptor.write(self.table, number);
    }

    /// Writes a chain of buffers, address, size, and whether the device writes it, into the descriptors from `first` on.
    pub fn chain(&self, first: u16, buffers: &[(u64, u32, bool)]) {
        for (number, (at, &(address, size, write))) in (first..).zip(buffers.iter().enumerate()) {
            let more = if at + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if write { WRITE } else { 0 };
            self.describe(number, Descriptor { address, size, flags, next: number + 1 });
        }
    }

    /// Puts the chain that begins with `head` into the available ring. The device sees it after [`show`](Self::show).
    #[inline]
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.offered & (self.size - 1));
        write16(self.avail + 4 + 2 * slot, head);
        self.offered = self.offered.wrapping_add(1);
    }

    /// Shows the device what was offered. Whether it wants to be notified.
    #[inline]
    pub fn show(&mut self) -> bool {
        instruction!("dmb ishst"); // what is offered is there before the index
        write16(self.avail + 2, self.offered);
        instruction!("dmb ish"); // and the index before it is read whether the device waits for it
        let before = core::mem::replace(&mut self.shown, self.offered);
        if self.event_index {
            let event = read16(self.used + 4 + 8 * u64::from(self.size));
            passes(event, self.offered, before)
        } else {
            read16(self.used) & 1 == 0
        }
    }

    /// How many chains the device has used, modulo 2^16.
    #[inline]
    pub fn used_index(&self) -> u16 {
        read16(self.used + 2)
    }

    /// The next chain that the device has used.
    #[inline]
    pub fn take_used(&mut self) -> Option<Used> {
        self.take()
    }

    /// Asks for an interrupt at the next used chain, or for none. Whether there is one already, for which none need come.
    #[inline]
    pub fn want_interrupt(&self, wanted: bool) -> bool {
        if self.event_index {
            let event = if wanted { self.seen } else { self.seen.wrapping_sub(1) };
            write16(self.avail + 4 + 2 * u64::from(self.size), event);
        } else {
            write16(self.avail, u16::from(!wanted));
        }
        instruction!("dmb ish"); // what is wanted is there before it is read whether something has come
        self.used_index() != self.seen
    }
}

impl Ring for Split {
    const FEATURES: u64 = 0;

    fn ready(device: Device, index: u16, size: u16, features: u64) -> Option<Self> {
        device.split(index, size, features)
    }

    fn size(&self) -> u16 {
        self.size
    }

    #[inline(always)]
    fn describe_entry(table: u64, number: u16, entries: u16, buffer: Buffer) {
        let Buffer { address, size, flags } = buffer;
        let next = number + 1;
        let flags = flags | if next < entries { NEXT } else { 0 };
        Descriptor { address, size, flags, next }.write(table, number);
    }

    #[inline(always)]
    fn add(&mut self, id: u16, Buffer { address, size, flags }: Buffer, _room: u32) {
        Split::describe(self, id, Descriptor { address, size, flags, next: 0 });
        self.offer(id);
    }

    #[inline]
    fn show(&mut self) -> bool {
        Split::show(self)
    }

    #[inline(always)]
    fn used(&mut self) -> Option<Used> {
        if self.used_index() == self.seen {
            return None;
        }
        instruction!("dmb ishld"); // the element is read after the index
        let element = self.used + 4 + 8 * u64::from(self.seen & (self.size - 1));
        Some(Used { id: read32(element) as u16, written: read32(element + 4) })
    }

    #[inline(always)]
    fn pass(&mut self) {
        self.seen = self.seen.wrapping_add(1);
    }

    #[inline]
    fn want_interrupt(&self, wanted: bool) -> bool {
        Split::want_interrupt(self, wanted)
    }
}
