//! The ring of a driver with a packed queue ("Packed Virtqueues").

use super::{DESCRIPTOR, OWN, get, of_table, put, put_buffer};
use crate::addr::Ipa;
use crate::virtio::queue::{Buffer, Place};
use crate::virtio::ram::GuestRam;

/// The flags of a descriptor that tell of the wrap counter.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// An ID that nobody is to look at.
const NOBODY: u16 = 0xdead;

/// A descriptor of the ring, and the wrap counter there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct At {
    number: u16,
    wrap: bool,
}

impl At {
    const START: Self = Self { number: 0, wrap: true };

    fn next(self, size: u16) -> Self {
        let number = self.number + 1;
        if number < size { Self { number, ..self } } else { Self { number: 0, wrap: !self.wrap } }
    }

    /// As event suppression structures have it.
    fn event(self) -> u16 {
        self.number | u16::from(self.wrap) << 15
    }
}

/// What was offered, shown and seen used.
#[derive(Debug)]
pub(super) struct PackedRings {
    place: Place,
    event_index: bool,
    offered: At,
    shown: At,
    seen: At,
    /// The flags of the first descriptor that was not shown.
    first: Option<u16>,
}

impl PackedRings {
    pub fn new(place: Place, event_index: bool) -> Self {
        let (offered, shown, seen) = (At::START, At::START, At::START);
        Self { place, event_index, offered, shown, seen, first: None }
    }

    fn descriptor(&self, at: At) -> u64 {
        self.place.descriptors + DESCRIPTOR * u64::from(at.number)
    }

    pub fn offer(
        &mut self,
        ram: &impl GuestRam,
        id: u16,
        buffers: &[(Buffer, bool)],
        table: Option<u64>,
    ) {
        let Some(table) = table else {
            for (index, (buffer, writable)) in buffers.iter().enumerate() {
                let last = index + 1 == buffers.len();
                let flags = u16::from(!last) | u16::from(*writable) << 1;
                self.describe(ram, *buffer, if last { id } else { NOBODY }, flags);
            }
            return;
        };
        for (at, (buffer, writable)) in (table..).step_by(16).zip(buffers) {
            put_buffer(ram, at, *buffer);
            put(ram, at + 12, NOBODY);
            // Of its flags but this one means anything.
            put(ram, at + 14, u16::from(*writable) << 1 | 1 | 4 | AVAIL);
        }
        self.describe(ram, of_table(table, buffers.len()), id, 4 | 2);
    }

    fn describe(&mut self, ram: &impl GuestRam, buffer: Buffer, id: u16, flags: u16) {
        let at = self.descriptor(self.offered);
        let flags = flags | if self.offered.wrap { AVAIL } else { USED };
        put_buffer(ram, at, buffer);
        put(ram, at + 12, id);
        if self.offered == self.shown && self.first.is_none() {
            self.first = Some(flags);
        } else {
            put(ram, at + 14, flags);
        }
        self.offered = self.offered.next(self.place.size);
    }

    pub fn show(&mut self, ram: &impl GuestRam) -> bool {
        let Some(first) = self.first.take() else { return false };
        put(ram, self.descriptor(self.shown) + 14, first);
        let (event, wanted) = (get(ram, self.place.device), get(ram, self.place.device + 2));
        let mut passed = false;
        loop {
            passed |= self.shown.event() == event;
            self.shown = self.shown.next(self.place.size);
            if self.shown == self.offered {
                break;
            }
        }
        match wanted {
            0 => true,
            1 => false,
            2 if self.event_index => passed,
            other => panic!("{other} wants notifications in no known way"),
        }
    }

    pub fn used(&self, ram: &impl GuestRam) -> Option<(u16, u32)> {
        let at = self.descriptor(self.seen);
        let flags = get(ram, at + 14);
        let bits = if self.seen.wrap { AVAIL | USED } else { 0 };
        if flags & (AVAIL | USED) != bits {
            return None;
        }
        let written = ram.read_u32(Ipa::new(at + 8)).expect(OWN);
        Some((get(ram, at + 12), if flags & 2 == 0 { 0 } else { written }))
    }

    pub fn pass_used(&mut self, descriptors: usize) {
        for _ in 0..descriptors {
            self.seen = self.seen.next(self.place.size);
        }
    }

    pub fn want_interrupt(&mut self, ram: &impl GuestRam, after: Option<u16>) {
        let Some(after) = after else { return put(ram, self.place.driver + 2, 1) };
        if !self.event_index {
            return put(ram, self.place.driver + 2, 0);
        }
        let event = (0..after).fold(self.seen, |at, _| at.next(self.place.size));
        put(ram, self.place.driver, event.event());
        put(ram, self.place.driver + 2, 2);
    }
}
