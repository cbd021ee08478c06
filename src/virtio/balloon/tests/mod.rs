//! Claims about balloons, made with a driver that keeps to the standard, and with one that names what it likes.

use super::*;
use crate::device::{Device, Signal};
use crate::memory::elastic::Filled;
use crate::memory::elastic::fake::Room;
use crate::time::Ticks;
use crate::virtio::queue::fake::{Driver, Offer};
use crate::virtio::queue::{Negotiated, Place};
use crate::virtio::ram::SharedRam;
use crate::virtio::transport::Transport;

const NOW: Ticks = Ticks(0);
const BASE: u64 = 0x4000_0000;
const UNITS: usize = 7;
/// Units, and what is none.
const RAM: u64 = UNITS as u64 * UNIT + 0x3000;
const KEEP: u64 = 2 * UNIT;
/// A unit, as descriptors have it.
const UNIT_SIZE: u32 = 2 << 20;
const SIZE: u16 = 8;
/// A page for what each queue's driver says, behind the rings.
const TEXTS: u64 = BASE + 0x1_0000;
const REPORTING: usize = 4;
const PAGES: u64 = UNIT / PAGE_SIZE;

mod model;
mod pages;
mod races;
mod reports;
mod saved;
mod told;

struct Guest {
    room: Room,
    ram: SharedRam,
    device: Transport<Balloon, SharedRam>,
    shared: Arc<BalloonState>,
    drivers: Vec<Driver>,
    packed: bool,
}

impl Guest {
    fn new(packed: bool) -> Self {
        let room = Room::quiet(Ipa::new(BASE), RAM, KEEP, 3 * UNIT);
        let (ram, shared) = (room.ram.clone(), Arc::<BalloonState>::default());
        let device = Balloon::new(RAM, shared.clone());
        let device = Transport::new(device, ram.clone(), "test".into());
        let mut guest = Self { room, ram, device, shared, drivers: Vec::new(), packed };
        guest.begin(1 << 1 | 1 << 5);
        guest
    }

    fn set(&mut self, offset: u64, value: u64) {
        self.device.write(offset, Width::Word, value, NOW);
    }

    fn get(&mut self, offset: u64) -> u64 {
        self.device.read(offset, Width::Word, NOW)
    }

    /// A driver that uses pages when they are out of the balloon.
    fn begin(&mut self, features: u64) {
        self.begin_with(features | feature::MUST_TELL_HOST);
    }

    /// "Device Initialization", with rings where the guest has touched them.
    fn begin_with(&mut self, features: u64) {
        self.fill(0);
        self.ram.get().unwrap().write_from(Ipa::new(BASE), &[0; 0x1_0000]).unwrap();
        for status in [0, 1, 3] {
            self.set(0x070, status);
        }
        for (sel, half) in [(0, features), (1, 1 | u64::from(self.packed) << 2)] {
            self.set(0x024, sel);
            self.set(0x020, half);
        }
        self.set(0x070, 11);
        self.drivers.clear();
        for queue in 0..QUEUES.len() as u64 {
            let at = BASE + 0x1000 * queue;
            let place =
                Place { size: SIZE, descriptors: at, driver: at + 0x400, device: at + 0x800 };
            self.set(0x030, queue);
            self.set(0x038, place.size.into());
            for (offset, area) in [(0x080, at), (0x090, place.driver), (0x0a0, place.device)] {
                self.set(offset, area);
            }
            self.set(0x044, 1);
            let negotiated = Negotiated { packed: self.packed, ..Negotiated::default() };
            self.drivers.push(Driver::new(place, negotiated, 0));
        }
        self.set(0x070, 15);
        assert_eq!(self.get(0x070), 15);
    }

    /// Offers a chain and goes on until nothing is due. Returns whether it was used.
    fn offer(&mut self, queue: usize, offer: &Offer) -> bool {
        self.drivers[queue].offer(self.ram.get().unwrap(), offer).unwrap();
        self.drivers[queue].show(self.ram.get().unwrap());
        self.set(0x050, queue as u64);
        self.go_on();
        self.drivers[queue].used(self.ram.get().unwrap()).is_some()
    }

    fn go_on(&mut self) {
        // A bound: whatever is named is looked at in so many steps.
        for _ in 0..20_000 {
            if self.device.deadline().is_none() {
                return;
            }
            self.device.advance(NOW);
        }
        panic!("there is no end to it");
    }

    /// Names pages by number, in buffers of `cut` bytes.
    fn name(&mut self, queue: usize, numbers: &[u32], cut: usize) -> bool {
        let numbers: Vec<_> = numbers.iter().map(|number| number.to_le_bytes()).collect();
        let bytes = numbers.as_flattened();
        let at = TEXTS + 0x4000 * queue as u64;
        self.ram.get().unwrap().write_from(Ipa::new(at), bytes).unwrap();
        let sizes = bytes.chunks(cut).map(|chunk| u32::try_from(chunk.len()).unwrap());
        let mut next = at;
        let readable = sizes.map(|size| {
            let ipa = Ipa::new(next);
            next += u64::from(size);
            Buffer { ipa, size }
        });
        self.offer(queue, &Offer { readable: readable.collect(), ..Offer::default() })
    }

    fn inflate(&mut self, numbers: &[u32]) {
        for some in numbers.chunks(256) {
            assert!(self.name(INFLATE, some, 4096));
        }
    }

    fn deflate(&mut self, numbers: &[u32]) {
        for some in numbers.chunks(256) {
            assert!(self.name(DEFLATE, some, 4096));
        }
    }

    fn report(&mut self, ranges: &[(u64, u32)]) -> bool {
        let buffer = |(at, size): &(u64, u32)| Buffer { ipa: Ipa::new(*at), size: *size };
        let writable = ranges.iter().map(buffer).collect();
        self.offer(REPORTING, &Offer { writable, ..Offer::default() })
    }

    fn elastic(&self) -> &Elastic {
        self.room.elastic()
    }

    /// The guest touches a unit. Where no frames are free it waits for those that were given up: all CPUs pass by.
    fn fill(&self, unit: usize) {
        for _ in 0..2 {
            while self.elastic().fill_step(unit) == Filled::More {}
            match self.elastic().fill_step(unit) {
                Filled::NoFrames => self.room.settle(),
                filled => return assert_eq!(filled, Filled::There),
            }
        }
        panic!("no frames although all that was given up has come back");
    }

    fn holes(&self) -> Vec<usize> {
        let ipas = |unit: &usize| self.elastic().ipas(*unit);
        let is_hole = |unit: &usize| ipas(unit).is_some_and(|ipas| self.elastic().has_hole(&ipas));
        let holes: Vec<_> = (0..=UNITS).filter(is_hole).collect();
        for unit in 0..=UNITS {
            let at = Ipa::new(BASE + unit as u64 * UNIT + 8);
            let gone = holes.contains(&unit);
            assert_eq!(self.room.memory().read::<u64>(at).is_err(), gone);
            assert_eq!(self.room.translate(at).is_none(), gone, "as the guest sees it");
        }
        holes
    }

    fn end(self) {
        let Self { room, ram, device, .. } = self;
        drop((ram, device));
        room.end();
    }
}

/// The numbers of a unit's pages.
fn pages(unit: u64) -> Vec<u32> {
    let first = BASE / PAGE_SIZE + unit * PAGES;
    (first..first + PAGES).map(|page| u32::try_from(page).unwrap()).collect()
}

fn at(unit: u64) -> u64 {
    BASE + unit * UNIT
}
