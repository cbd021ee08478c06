//! The rings of a driver with a split queue ("Split Virtqueues").

use alloc::vec::Vec;

use super::{DESCRIPTOR, OWN, get, of_table, put, put_buffer};
use crate::addr::Ipa;
use crate::virtio::queue::{Buffer, Place};
use crate::virtio::ram::GuestRam;

/// What was offered, shown and seen used, each a count modulo 2^16.
#[derive(Debug)]
pub(super) struct SplitRings {
    place: Place,
    event_index: bool,
    offered: u16,
    shown: u16,
    seen: u16,
}

impl SplitRings {
    pub fn new(place: Place, event_index: bool) -> Self {
        Self { place, event_index, offered: 0, shown: 0, seen: 0 }
    }

    fn used_event(&self) -> u64 {
        self.place.driver + 4 + 2 * u64::from(self.place.size)
    }

    fn avail_event(&self) -> u64 {
        self.place.device + 4 + 8 * u64::from(self.place.size)
    }

    pub fn offer(
        &mut self,
        ram: &impl GuestRam,
        numbers: &[u16],
        buffers: &[(Buffer, bool)],
        table: Option<u64>,
    ) {
        let in_table: Vec<u16> = (0..).take(buffers.len()).collect();
        let (base, within) = match table {
            Some(table) => (table, &in_table[..]),
            None => (self.place.descriptors, numbers),
        };
        for (index, (buffer, writable)) in buffers.iter().enumerate() {
            let next = within.get(index + 1);
            let flags = u16::from(next.is_some()) | u16::from(*writable) << 1;
            describe(ram, base, within[index], *buffer, flags, next.copied().unwrap_or(0xdead));
        }
        if let Some(table) = table {
            let buffer = of_table(table, buffers.len());
            describe(ram, self.place.descriptors, numbers[0], buffer, 4, 0xdead);
        }
        let slot = u64::from(self.offered % self.place.size);
        put(ram, self.place.driver + 4 + 2 * slot, numbers[0]);
        self.offered = self.offered.wrapping_add(1);
    }

    pub fn show(&mut self, ram: &impl GuestRam) -> bool {
        let any = self.shown != self.offered;
        put(ram, self.place.driver + 2, self.offered);
        let (event, flags) = (get(ram, self.avail_event()), get(ram, self.place.device));
        let mut passed = false;
        while self.shown != self.offered {
            passed |= self.shown == event;
            self.shown = self.shown.wrapping_add(1);
        }
        if self.event_index { passed } else { any && flags & 1 == 0 }
    }

    pub fn used(&self, ram: &impl GuestRam) -> Option<(u16, u32)> {
        if get(ram, self.place.device + 2) == self.seen {
            return None;
        }
        let at = self.place.device + 4 + 8 * u64::from(self.seen % self.place.size);
        let word = |at| ram.read_u32(Ipa::new(at)).expect(OWN);
        Some((u16::try_from(word(at)).expect("a descriptor's number"), word(at + 4)))
    }

    pub fn pass_used(&mut self, chains: usize) {
        for _ in 0..chains {
            self.seen = self.seen.wrapping_add(1);
        }
    }

    pub fn want_interrupt(&mut self, ram: &impl GuestRam, after: Option<u16>) {
        match after {
            _ if !self.event_index => put(ram, self.place.driver, u16::from(after.is_none())),
            Some(after) => put(ram, self.used_event(), self.seen.wrapping_add(after)),
            None => {}
        }
    }
}

fn describe(ram: &impl GuestRam, table: u64, number: u16, buffer: Buffer, flags: u16, next: u16) {
    let at = table + DESCRIPTOR * u64::from(number);
    put_buffer(ram, at, buffer);
    put(ram, at + 12, flags);
    put(ram, at + 14, next);
}
