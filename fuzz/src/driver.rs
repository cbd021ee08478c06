//! What drivers of all virtio devices do alike: how they begin, where their queues lie, and how chains come and go.

use arbitrary::Arbitrary;
use plinth::addr::{Ipa, Region};
use plinth::device::Device;
use plinth::exit::Width;
use plinth::memory::GuestMemory;
use plinth::time::Ticks;
use plinth::virtio::queue::fake::{Driver, Offer};
use plinth::virtio::queue::{Buffer, Negotiated, Place};
use plinth::virtio::ram::SharedRam;

use crate::RAM;

/// When everything happens.
pub const NOW: Ticks = Ticks(0);

/// Registers.
pub const QUEUE_NOTIFY: u64 = 0x050;
/// The same.
pub const STATUS: u64 = 0x070;

/// What [`STATUS`] is while all is well.
pub const RUNNING: u64 = 15;

/// How much there is for the rings of a device's queues, and their indirect tables, from [`RAM`] on; what is said lies behind it.
pub const QUEUES: u64 = 0x1_0000;
/// Of that each queue has as much.
const QUEUE: u64 = 0x2000;

/// How queues are to be.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Rings {
    packed: bool,
    indirect: bool,
    event_index: bool,
}

impl Rings {
    /// The same, as features.
    pub fn features(self) -> u64 {
        features(self.negotiated())
    }

    fn negotiated(self) -> Negotiated {
        let Self { packed, indirect, event_index } = self;
        Negotiated { packed, indirect, event_index, in_order: false }
    }
}

/// "Reserved Feature Bits".
pub fn features(negotiated: Negotiated) -> u64 {
    let Negotiated { indirect, event_index, packed, .. } = negotiated;
    u64::from(indirect) << 28 | u64::from(event_index) << 29 | u64::from(packed) << 34
}

/// Writes a register.
pub fn set(device: &mut impl Device, offset: u64, value: u64) {
    device.write(offset, Width::Word, value & 0xffff_ffff, NOW);
}

/// "Device Initialization", from a reset on, of a device whose queues lie there.
pub fn begin(device: &mut impl Device, features: u64, places: &[Place]) {
    let features = features | 1 << 32;
    for (offset, value) in [(STATUS, 0), (STATUS, 3), (0x024, 0), (0x020, features), (0x024, 1)] {
        set(device, offset, value);
    }
    set(device, 0x020, features >> 32);
    set(device, STATUS, 11);
    for (queue, place) in (0..).zip(places) {
        set(device, 0x030, queue);
        set(device, 0x038, place.size.into());
        let areas = [(0x080, place.descriptors), (0x090, place.driver), (0x0a0, place.device)];
        for (offset, area) in areas {
            set(device, offset, area);
            set(device, offset + 4, area >> 32);
        }
        set(device, 0x044, 1);
    }
    set(device, STATUS, 15);
    assert_eq!(device.read(STATUS, Width::Word, NOW), RUNNING, "a queue cannot be like that");
}

/// A device, and the drivers of its queues.
pub struct Driven<D> {
    /// The device.
    pub device: D,
    /// The RAM of both.
    pub ram: SharedRam,
    rings: Rings,
    drivers: Vec<Driver>,
    /// Where what is said lies, and where in it the next does.
    texts: Region<Ipa>,
    next: u64,
}

impl<D: Device> Driven<D> {
    /// A device whose driver has yet to [`begin`](Self::begin), and has `size` bytes of RAM, with nothing in them, for its queues
    /// and what it says.
    pub fn new(device: D, ram: SharedRam, size: u64) -> Self {
        let all = Region::new(Ipa::new(RAM), size).expect("there is some");
        ram.get().expect("it was put there").zero(all).expect("it is RAM");
        let texts = Region::new(Ipa::new(RAM + QUEUES), size - QUEUES).expect("there is some");
        let rings = Rings { packed: false, indirect: false, event_index: false };
        Self { device, ram, rings, drivers: Vec::new(), texts, next: texts.start().raw() }
    }

    /// A driver of queues of these sizes begins, or begins again.
    pub fn begin(&mut self, features: u64, rings: Rings, sizes: &[u16]) {
        set(&mut self.device, STATUS, 0);
        let queues = Region::new(Ipa::new(RAM), QUEUES).expect("there is some");
        self.memory().zero(queues).expect("it is RAM");
        let bases = (RAM..RAM + QUEUES).step_by(QUEUE as usize);
        let place = |(at, size): (u64, &u16)| {
            assert!(*size <= 16, "there is no room for more");
            Place { size: *size, descriptors: at, driver: at + 0x400, device: at + 0x800 }
        };
        let places: Vec<_> = bases.zip(sizes).map(place).collect();
        assert_eq!(places.len(), sizes.len(), "there is no room for more");
        begin(&mut self.device, features | rings.features(), &places);
        let driver =
            |place: Place| Driver::new(place, rings.negotiated(), place.descriptors + 0x1000);
        self.drivers = places.into_iter().map(driver).collect();
        self.rings = rings;
    }

    /// The RAM.
    pub fn memory(&self) -> &GuestMemory {
        self.ram.get().expect("it was put there")
    }

    /// Writes a register.
    pub fn set(&mut self, offset: u64, value: u64) {
        set(&mut self.device, offset, value);
    }

    /// Reads a register.
    pub fn get(&mut self, offset: u64) -> u64 {
        self.device.read(offset, Width::Word, NOW)
    }

    /// A place for so many bytes, where something else was said long ago.
    pub fn buffer(&mut self, size: usize) -> Buffer {
        let fits = self.next + size as u64 <= self.texts.last().raw() + 1;
        let at = if fits { self.next } else { self.texts.start().raw() };
        self.next = at + size as u64;
        assert!(self.next <= self.texts.last().raw() + 1, "there is no room for that");
        Buffer { ipa: Ipa::new(at), size: size as u32 }
    }

    /// The same, with these bytes in it.
    pub fn text(&mut self, bytes: &[u8]) -> Buffer {
        let buffer = self.buffer(bytes.len());
        self.memory().write_from(buffer.ipa, bytes).expect("it is RAM");
        buffer
    }

    /// The same, in two pieces of which none is empty.
    pub fn pieces(&mut self, bytes: &[u8], cut: u8) -> Vec<Buffer> {
        let (first, rest) = bytes.split_at(usize::from(cut).min(bytes.len()));
        let parts = [first, rest].into_iter().filter(|part| !part.is_empty());
        parts.map(|part| self.text(part)).collect()
    }

    /// Describes a chain; by an indirect descriptor where there may be one and `offer` says so. `None` when there is no room.
    pub fn offer(&mut self, queue: usize, mut offer: Offer) -> Option<u16> {
        offer.indirect &= self.rings.indirect;
        let ram = self.ram.get().expect("it was put there");
        self.drivers[queue].offer(ram, &offer)
    }

    /// The device is to see what was offered, and is notified if it wants to be.
    pub fn show(&mut self, queue: usize) {
        if self.shows(queue) {
            self.set(QUEUE_NOTIFY, queue as u64);
        }
    }

    /// The device is to see what was offered. Returns whether it wants to be notified.
    pub fn shows(&mut self, queue: usize) -> bool {
        let ram = self.ram.get().expect("it was put there");
        self.drivers[queue].show(ram)
    }

    /// The next chain that was used, and how many bytes were written.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ram = self.ram.get().expect("it was put there");
        self.drivers[queue].used(ram)
    }
}
