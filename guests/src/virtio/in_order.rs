//! A ring whose chains are used in the order in which they were made available ("In-order use of descriptors"): the driver
//! takes the descriptors one after the other, and one used element tells of all up to its own.

use super::ring::{Buffer, Ring, Used};
use super::{Device, feature};

/// How many descriptors one has at most.
const MOST: usize = 256;

/// Such a ring.
#[derive(Clone, Copy, Debug)]
pub struct InOrder<R> {
    ring: R,
    /// By descriptor: what the driver calls the chain, and how many of its bytes the device can write.
    chains: [Used; MOST],
    /// The descriptor of the next chain that is added, and of the next one that is used.
    next: u16,
    seen: u16,
    /// The last chain of those that the element of the next one tells of, once it was looked at.
    last: Option<Used>,
}

impl<R: Ring> InOrder<R> {
    fn after(&self, descriptor: u16) -> u16 {
        if descriptor + 1 < self.ring.size() { descriptor + 1 } else { 0 }
    }
}

impl<R: Ring> Ring for InOrder<R> {
    const FEATURES: u64 = R::FEATURES | feature::IN_ORDER;

    fn ready(device: Device, index: u16, size: u16, features: u64) -> Option<Self> {
        let ring = R::ready(device, index, size.min(MOST as u16), features)?;
        Some(Self { ring, chains: [Used::default(); MOST], next: 0, seen: 0, last: None })
    }

    fn size(&self) -> u16 {
        self.ring.size()
    }

    #[inline(always)]
    fn describe_entry(table: u64, number: u16, entries: u16, buffer: Buffer) {
        R::describe_entry(table, number, entries, buffer);
    }

    #[inline(always)]
    fn add(&mut self, id: u16, buffer: Buffer, room: u32) {
        self.chains[usize::from(self.next)] = Used { id, written: room };
        self.ring.add(self.next, buffer, room);
        self.next = self.after(self.next);
    }

    #[inline]
    fn show(&mut self) -> bool {
        self.ring.show()
    }

    /// All but the last of those that an element tells of were used completely.
    #[inline(always)]
    fn used(&mut self) -> Option<Used> {
        if self.last.is_none() {
            self.last = self.ring.used();
        }
        let last = self.last?;
        let used = self.chains[usize::from(self.seen)];
        Some(if last.id == self.seen { Used { written: last.written, ..used } } else { used })
    }

    #[inline(always)]
    fn pass(&mut self) {
        self.last = self.last.filter(|last| last.id != self.seen);
        self.ring.pass();
        self.seen = self.after(self.seen);
    }

    #[inline]
    fn want_interrupt(&self, wanted: bool) -> bool {
        self.ring.want_interrupt(wanted) || self.last.is_some()
    }
}
