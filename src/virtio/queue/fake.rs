//! A driver's side of a queue of either format, for tests: it does what the standard's "Supplying Buffers to The Device" and
//! "Receiving Used Buffers From The Device" say, and shares nothing with the device's side.
//!
//! What is wrong on the device's side is our own bug, and panics here: a chain that was not offered, or was used before.

mod packed;
mod split;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use self::packed::PackedRings;
use self::split::SplitRings;
use super::{Buffer, Chain, Negotiated, Place};
use crate::addr::Ipa;
use crate::virtio::ram::GuestRam;

/// The most buffers that a chain here has.
pub const MOST: u16 = 16;

/// A descriptor: bytes.
const DESCRIPTOR: u64 = 16;

/// What a driver offers: the buffers that the device reads, those that it writes, and whether they are described in a
/// table of their own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Offer {
    /// What the device reads.
    pub readable: Vec<Buffer>,
    /// What the device writes.
    pub writable: Vec<Buffer>,
    /// By an indirect descriptor.
    pub indirect: bool,
}

impl Offer {
    /// Whether `chain` is what was offered.
    pub fn is(&self, chain: &Chain) -> bool {
        chain.readable() == self.readable && chain.writable() == self.writable
    }

    /// Its buffers, and whether each is written.
    fn buffers(&self) -> Vec<(Buffer, bool)> {
        let readable = self.readable.iter().map(|buffer| (*buffer, false));
        readable.chain(self.writable.iter().map(|buffer| (*buffer, true))).collect()
    }
}

/// A chain that was offered and is not used yet.
#[derive(Debug)]
struct Offered {
    /// In a split ring the numbers of its descriptors; in a packed one as many, of which the first is its ID.
    numbers: Vec<u16>,
    /// How many bytes the device can write.
    room: u32,
}

impl Offered {
    fn id(&self) -> u16 {
        self.numbers[0]
    }
}

/// A driver of one queue.
#[derive(Debug)]
pub struct Driver {
    rings: Rings,
    size: u16,
    /// Where indirect tables lie: for each ID one of [`MOST`] descriptors.
    tables: u64,
    /// In the order in which they became free.
    free: VecDeque<u16>,
    /// In the order in which they were offered.
    offered: VecDeque<Offered>,
    in_order: bool,
    /// What was seen used and not told.
    seen: VecDeque<(u16, u32)>,
}

#[derive(Debug)]
enum Rings {
    Split(SplitRings),
    Packed(PackedRings),
}

impl Driver {
    /// A driver of the queue at `place`, where nothing was written yet. It has indirect tables from `tables` on, 256 bytes
    /// for each of the queue's entries.
    pub fn new(place: Place, negotiated: Negotiated, tables: u64) -> Self {
        let Negotiated { event_index, in_order, .. } = negotiated;
        let rings = if negotiated.packed {
            Rings::Packed(PackedRings::new(place, event_index))
        } else {
            Rings::Split(SplitRings::new(place, event_index))
        };
        let (size, free) = (place.size, (0..place.size).collect());
        let (offered, seen) = (VecDeque::new(), VecDeque::new());
        Self { rings, size, tables, free, offered, in_order, seen }
    }

    /// Describes a chain, which the device does not see before [`show`](Self::show). Returns what names it; `None` when
    /// there is no room for it.
    pub fn offer(&mut self, ram: &impl GuestRam, offer: &Offer) -> Option<u16> {
        let buffers = offer.buffers();
        if buffers.is_empty() || buffers.len() > usize::from(MOST.min(self.size)) {
            return None;
        }
        let count = if offer.indirect { 1 } else { buffers.len() };
        if self.free.len() < count {
            return None;
        }
        let numbers: Vec<u16> = self.free.drain(..count).collect();
        let id = *numbers.first()?;
        let table = self.tables + DESCRIPTOR * u64::from(MOST) * u64::from(id);
        let table = offer.indirect.then_some(table);
        match &mut self.rings {
            Rings::Split(rings) => rings.offer(ram, &numbers, &buffers, table),
            Rings::Packed(rings) => rings.offer(ram, id, &buffers, table),
        }
        let sizes = offer.writable.iter().map(|buffer| buffer.size);
        let room = sizes.fold(0, u32::saturating_add);
        self.offered.push_back(Offered { numbers, room });
        Some(id)
    }

    /// Makes available what was offered. Returns whether the device wants to be notified of that.
    pub fn show(&mut self, ram: &impl GuestRam) -> bool {
        match &mut self.rings {
            Rings::Split(rings) => rings.show(ram),
            Rings::Packed(rings) => rings.show(ram),
        }
    }

    /// The next chain that the device has used, and how many bytes it says to have written.
    pub fn used(&mut self, ram: &impl GuestRam) -> Option<(u16, u32)> {
        if self.seen.is_empty() {
            self.look(ram);
        }
        self.seen.pop_front()
    }

    /// Passes over the next element that the device has written.
    fn look(&mut self, ram: &impl GuestRam) {
        let used = match &self.rings {
            Rings::Split(rings) => rings.used(ram),
            Rings::Packed(rings) => rings.used(ram),
        };
        let Some((id, written)) = used else { return };
        let index = self.offered.iter().position(|offered| offered.id() == id);
        let index = index.expect("the device uses what was offered");
        let passed: Vec<Offered> = if self.in_order {
            self.offered.drain(..=index).collect()
        } else {
            self.offered.remove(index).into_iter().collect()
        };
        let descriptors = passed.iter().map(|offered| offered.numbers.len()).sum();
        match &mut self.rings {
            Rings::Split(rings) => rings.pass_used(passed.len()),
            Rings::Packed(rings) => rings.pass_used(descriptors),
        }
        for offered in passed {
            // Those before the one that is told of were used completely.
            let is_last = offered.id() == id;
            self.seen.push_back((offered.id(), if is_last { written } else { offered.room }));
            self.free.extend(offered.numbers);
        }
    }

    /// How many chains were offered and are not used, as far as the driver has looked.
    pub fn waiting(&self) -> usize {
        self.offered.len()
    }

    /// Wants no interrupt, or one when so many used elements of a split ring, or descriptors of a packed one, were passed
    /// over and another is written. Returns whether a chain was used meanwhile.
    pub fn want_interrupt(&mut self, ram: &impl GuestRam, after: Option<u16>) -> bool {
        match &mut self.rings {
            Rings::Split(rings) => rings.want_interrupt(ram, after),
            Rings::Packed(rings) => rings.want_interrupt(ram, after),
        }
        match &self.rings {
            Rings::Split(rings) => rings.used(ram).is_some(),
            Rings::Packed(rings) => rings.used(ram).is_some(),
        }
    }
}

/// What the driver writes is its own.
const OWN: &str = "the driver's rings are in RAM";

fn get(ram: &impl GuestRam, at: u64) -> u16 {
    ram.read_u16(Ipa::new(at)).expect(OWN)
}

fn put(ram: &impl GuestRam, at: u64, value: u16) {
    ram.write_u16(Ipa::new(at), value).expect(OWN);
}

/// The address and the length, which both formats have at the same place.
fn put_buffer(ram: &impl GuestRam, at: u64, buffer: Buffer) {
    ram.write_u64(Ipa::new(at), buffer.ipa.raw()).expect(OWN);
    ram.write_u32(Ipa::new(at + 8), buffer.size).expect(OWN);
}

/// The buffer that a table of so many descriptors is.
fn of_table(table: u64, count: usize) -> Buffer {
    Buffer { ipa: Ipa::new(table), size: u32::try_from(16 * count).expect("a small table") }
}
