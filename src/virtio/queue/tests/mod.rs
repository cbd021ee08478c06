//! Claims about queues of both formats: what a driver that keeps to the standard gets, and what one that does not can do.

use proptest::prelude::*;

use super::fake::{Driver, Offer};
use super::*;
use crate::memory::GuestMemory;
use crate::testing::{self, pick};

mod batches;
mod events;
mod exhaustive;
mod hostile;
mod watched;
mod world;

pub(super) const BASE: u64 = 0x4000_0000;
pub(super) const PAGES: u64 = pick(16, 10);
/// Where indirect tables of [`Driver`] are; rings lie before them.
const TABLES: u64 = BASE + 0x6000;
/// Where buffers are.
pub(super) const DATA: u64 = BASE + 0x8000;

pub(super) const PLAIN: Negotiated =
    Negotiated { indirect: false, event_index: false, packed: false, in_order: false };

pub(super) fn ram() -> GuestMemory {
    testing::ram(BASE, PAGES)
}

pub(super) fn place(size: u16) -> Place {
    Place { size, descriptors: BASE, driver: BASE + 0x4000, device: BASE + 0x5000 }
}

pub(super) fn buffer(ipa: u64, size: u32) -> Buffer {
    Buffer { ipa: Ipa::new(ipa), size }
}

/// What names a chain of one descriptor.
pub(super) fn head(id: u16) -> Head {
    Head { id, descriptors: 1, room: 0 }
}

fn of(negotiated: Negotiated, size: u16, ram: &impl GuestRam) -> (Virtqueue, Driver) {
    let queue = Virtqueue::new(place(size), negotiated, ram).unwrap();
    (queue, Driver::new(place(size), negotiated, TABLES))
}

/// Both formats with what else there is to negotiate, and a size that each may have.
fn formats() -> impl Strategy<Value = (Negotiated, u16)> {
    (any::<[bool; 3]>(), 1u16..20).prop_map(|([packed, event_index, in_order], size)| {
        let size = if packed { size } else { 1 << (size % 5) };
        (Negotiated { indirect: true, event_index, packed, in_order }, size)
    })
}

fn offers() -> impl Strategy<Value = Offer> {
    let buffers = || prop::collection::vec((0u64..64, 1u32..5000), 0..4);
    (buffers(), buffers(), any::<bool>()).prop_map(|(readable, writable, indirect)| {
        let real = |buffers: Vec<(u64, u32)>| {
            buffers.into_iter().map(|(at, size)| buffer(DATA + at, size)).collect()
        };
        Offer { readable: real(readable), writable: real(writable), indirect }
    })
}

/// One buffer to be read.
fn one() -> Offer {
    Offer { readable: vec![buffer(DATA, 1)], ..Offer::default() }
}
