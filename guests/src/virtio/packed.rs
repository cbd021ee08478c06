//! A packed virtqueue (VIRTIO 1.2, "Packed Virtqueues"), by address: which buffers are used for what, whoever uses it decides.

use super::ring::{Buffer, Ring, Used, passes};
use super::split::{NEXT, WRITE};
use super::{Device, feature, memory};
use crate::instruction;
use crate::mmio::{read16, read32, read64, write16, write32, write64};

/// Flags of a descriptor: see "Packed Virtqueues: Available and Used Ring Wrap Counters".
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// What an event suppression structure asks for: nothing, or what stands at a position, rather than everything.
const DISABLE: u16 = 1;
const DESC: u16 = 2;

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
    /// Whether `EVENT_IDX` was negotiated.
    pub event_index: bool,
    /// Where the next descriptor goes, and its wrap counter.
    pub next: (u16, bool),
    /// How many the device was not yet told of.
    added: u16,
    /// Where the next used one is looked for.
    pub seen: (u16, bool),
}

impl Packed {
    /// A queue in memory of its own.
    pub fn new(size: u16, event_index: bool) -> Self {
        let ring = memory::take(16 * u64::from(size), 16);
        let [driver, device] = [0; 2].map(|_: i32| memory::take(4, 4));
        let (next, seen) = ((0, true), (0, true));
        Self { size, ring, driver, device, event_index, next, added: 0, seen }
    }

    fn after(&self, (number, wrap): (u16, bool), count: u16) -> (u16, bool) {
        let next = number + count;
        if next < self.size { (next, wrap) } else { (next - self.size, !wrap) }
    }

    /// Makes a chain of buffers available: address, size, and flags but for [`NEXT`]. It is called `id`.
    #[inline(always)]
    pub fn offer(&mut self, id: u16, buffers: &[(u64, u32, u16)]) {
        let first = self.next;
        for (at, &(address, size, flags)) in buffers.iter().enumerate() {
            let descriptor = self.ring + 16 * u64::from(self.next.0);
            write64(descriptor, address);
            write32(descriptor + 8, size);
            write16(descriptor + 12, id);
            if at > 0 {
                self.allow(self.next, flags, at + 1 < buffers.len());
            }
            self.next = self.after(self.next, 1);
        }
        self.added = self.added.wrapping_add(buffers.len() as u16);
        instruction!("dmb ishst"); // the rest is there before the first one's flags
        self.allow(first, buffers[0].2, buffers.len() > 1);
    }

    #[inline]
    fn allow(&self, (number, wrap): (u16, bool), flags: u16, more: bool) {
        let flags = flags | if more { NEXT } else { 0 } | if wrap { AVAIL } else { USED };
        write16(self.ring + 16 * u64::from(number) + 14, flags);
    }

    /// The flags of the next descriptor that is used, if it is.
    #[inline]
    fn used_flags(&self) -> Option<u16> {
        let (number, wrap) = self.seen;
        let flags = read16(self.ring + 16 * u64::from(number) + 14);
        (flags & (AVAIL | USED) == if wrap { AVAIL | USED } else { 0 }).then_some(flags)
    }

    /// The next chain that the device has used, which has so many descriptors.
    pub fn take_chain(&mut self, descriptors: u16) -> Option<Used> {
        let used = self.used()?;
        self.seen = self.after(self.seen, descriptors);
        Some(used)
    }

    /// Asks for an interrupt for every used chain (0), for none (1), or for the one at a position (2).
    #[inline]
    pub fn suppress(&self, kind: u16, (number, wrap): (u16, bool)) {
        write32(self.driver, u32::from(kind) << 16 | u32::from(wrap) << 15 | u32::from(number));
        instruction!("dmb ish"); // what is wanted is there before it is read whether something has come
    }

    /// What the device wants to be notified of: as above.
    #[inline]
    pub fn wants_notification(&self) -> (u16, (u16, bool)) {
        let event = read32(self.device);
        ((event >> 16) as u16 & 3, (event as u16 & 0x7fff, event & 0x8000 != 0))
    }
}

impl Ring for Packed {
    const FEATURES: u64 = feature::RING_PACKED;

    fn ready(device: Device, index: u16, size: u16, features: u64) -> Option<Self> {
        device.packed(index, size, features)
    }

    fn size(&self) -> u16 {
        self.size
    }

    /// That there is another is said by the table's size.
    #[inline(always)]
    fn describe_entry(table: u64, number: u16, _entries: u16, buffer: Buffer) {
        let at = table + 16 * u64::from(number);
        write64(at, buffer.address);
        write32(at + 8, buffer.size);
        write16(at + 12, 0);
        write16(at + 14, buffer.flags);
    }

    #[inline(always)]
    fn add(&mut self, id: u16, Buffer { address, size, flags }: Buffer, _room: u32) {
        self.offer(id, &[(address, size, flags)]);
    }

    #[inline]
    fn show(&mut self) -> bool {
        instruction!("dmb ish"); // the descriptors before it is read whether the device waits for them
        let added = core::mem::take(&mut self.added);
        let (now, wrap) = self.next;
        match self.wants_notification() {
            (DESC, (number, of)) if self.event_index => {
                // Of the round before, or of the one that begins.
                let event = if of == wrap { number } else { number.wrapping_sub(self.size) };
                passes(event, now, now.wrapping_sub(added))
            }
            (kind, _) => kind != DISABLE,
        }
    }

    #[inline(always)]
    fn used(&mut self) -> Option<Used> {
        let flags = self.used_flags()?;
        instruction!("dmb ishld"); // the rest is read after the flags
        let rest = read64(self.ring + 16 * u64::from(self.seen.0) + 8);
        let written = if flags & WRITE == 0 { 0 } else { rest as u32 };
        Some(Used { id: (rest >> 32) as u16, written })
    }

    #[inline(always)]
    fn pass(&mut self) {
        self.seen = self.after(self.seen, 1);
    }

    #[inline]
    fn want_interrupt(&self, wanted: bool) -> bool {
        match (wanted, self.event_index) {
            (true, true) => self.suppress(DESC, self.seen),
            (true, false) => self.suppress(0, self.seen),
            (false, _) => self.suppress(DISABLE, self.seen),
        }
        self.used_flags().is_some()
    }
}
