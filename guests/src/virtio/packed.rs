//! A packed virtqueue (VIRTIO 1.2, "Packed Virtqueues"), by address: which buffers are used for what, whoever uses it decides.

use super::memory;
use super::split::{NEXT, WRITE};
use crate::instruction;
use crate::mmio::{read16, read32, read64, write16, write32, write64};

/// Flags of a descriptor: see "Packed Virtqueues: Available and Used Ring Wrap Counters".
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A packed virtqueue.
#[derive(Clone, Copy, Debug)]
pub struct Packed {
    /// How many descriptors it has.
    pub size: u16,
    /// The descriptors.
    pub ring: u64,
    /// The driver's event suppression.
    pub driver: u64,
    /// The device's.
    pub device: u64,
    /// Where the next descriptor goes, and its wrap counter.
    pub next: (u16, bool),
    /// Where the next used one is looked for.
    pub seen: (u16, bool),
}

impl Packed {
    /// A queue in memory of its own.
    pub fn new(size: u16) -> Self {
        let ring = memory::take(16 * u64::from(size), 16);
        let [driver, device] = [0; 2].map(|_: i32| memory::take(4, 4));
        Self { size, ring, driver, device, next: (0, true), seen: (0, true) }
    }

    fn after(&self, (number, wrap): (u16, bool), count: u16) -> (u16, bool) {
        let next = number + count;
        if next < self.size { (next, wrap) } else { (next - self.size, !wrap) }
    }

    /// Makes a chain of buffers available: address, size, and flags but for [`NEXT`]. It is called `id`.
    pub fn offer(&mut self, id: u16, buffers: &[(u64, u32, u16)]) {
        let first = self.next;
        for (at, &(address, size, flags)) in buffers.iter().enumerate() {
            let descriptor = self.ring + 16 * u64::from(self.next.0);
            write64(descriptor, address);
            write32(descriptor + 8, size);
            write16(descriptor + 12, id);
            if at > 0 {
                self.show(self.next, flags, at + 1 < buffers.len());
            }
            self.next = self.after(self.next, 1);
        }
        instruction!("dmb ishst"); // the rest is there before the first one's flags
        self.show(first, buffers[0].2, buffers.len() > 1);
    }

    fn show(&self, (number, wrap): (u16, bool), flags: u16, more: bool) {
        let flags = flags | if more { NEXT } else { 0 } | if wrap { AVAIL } else { USED };
        write16(self.ring + 16 * u64::from(number) + 14, flags);
    }

    /// The next chain that the device has used, which has so many descriptors: its ID, and how many bytes were written.
    pub fn take_used(&mut self, descriptors: u16) -> Option<(u16, u32)> {
        let (number, wrap) = self.seen;
        let descriptor = self.ring + 16 * u64::from(number);
        let flags = read16(descriptor + 14);
        if flags & (AVAIL | USED) != if wrap { AVAIL | USED } else { 0 } {
            return None;
        }
        instruction!("dmb ishld"); // the rest is read after the flags
        let rest = read64(descriptor + 8);
        self.seen = self.after(self.seen, descriptors);
        let written = if flags & WRITE == 0 { 0 } else { rest as u32 };
        Some(((rest >> 32) as u16, written))
    }

    /// Asks for an interrupt for every used chain (0), for none (1), or for the one at a position (2).
    pub fn want_interrupt(&self, kind: u16, (number, wrap): (u16, bool)) {
        write32(self.driver, u32::from(kind) << 16 | u32::from(wrap) << 15 | u32::from(number));
        instruction!("dmb ish");
    }

    /// What the device wants to be notified of: as above.
    pub fn wants_notification(&self) -> (u16, (u16, bool)) {
        let event = read32(self.device);
        ((event >> 16) as u16 & 3, (event as u16 & 0x7fff, event & 0x8000 != 0))
    }
}
