//! Claims about split queues: what a driver that keeps to the standard gets, and what one that does not can do.

use core::cell::{Cell, RefCell};

use proptest::prelude::*;

use super::super::Buffer;
use super::super::descriptor::WRITE;
use super::*;
use crate::addr::Region;
use crate::memory::{FramePool, GuestMemory, OutsideRam, Ram, Recorder, Store};

const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 16;
/// Where buffers and indirect tables are; rings lie before it.
const DATA: u64 = BASE + 8 * 4096;

fn ram() -> GuestMemory {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(32 * 4096, 32 * 4096).unwrap(), &[]);
    let frames = pool.allocate(PAGES * 4096).unwrap().scrub().clean(&Recorder::default());
    let mut ram = GuestMemory::new();
    ram.add(Ipa::new(BASE), frames).unwrap();
    ram
}

fn place(size: u16) -> Place {
    Place { size, descriptors: BASE, driver: BASE + 0x4000, device: BASE + 0x5000 }
}

/// The driver's side, by the standard's words.
struct Driver<'a> {
    ram: &'a GuestMemory,
    place: Place,
    offered: u16,
    seen: u16,
}

impl<'a> Driver<'a> {
    fn new(ram: &'a GuestMemory, size: u16) -> Self {
        Self { ram, place: place(size), offered: 0, seen: 0 }
    }

    fn put<T: crate::memory::Word>(&self, at: u64, value: T) {
        self.ram.write(Ipa::new(at), value).unwrap();
    }

    fn get(&self, at: u64) -> u16 {
        self.ram.read(Ipa::new(at)).unwrap()
    }

    fn describe_at(&self, table: u64, number: u16, buffer: (u64, u32), flags: u16, next: u16) {
        let at = table + 16 * u64::from(number);
        self.put(at, buffer.0);
        self.put(at + 8, buffer.1);
        self.put(at + 12, flags);
        self.put(at + 14, next);
    }

    fn describe(&self, number: u16, buffer: (u64, u32), flags: u16, next: u16) {
        self.describe_at(self.place.descriptors, number, buffer, flags, next);
    }

    fn offer(&mut self, head: u16) {
        let slot = u64::from(self.offered % self.place.size);
        self.put(self.place.driver + 4 + 2 * slot, head);
        self.offered = self.offered.wrapping_add(1);
        self.put(self.place.driver + 2, self.offered);
    }

    /// What the device has given back since the last call.
    fn used(&mut self) -> Vec<(u32, u32)> {
        let end = self.get(self.place.device + 2);
        let mut all = Vec::new();
        while self.seen != end {
            let at = self.place.device + 4 + 8 * u64::from(self.seen % self.place.size);
            let word = |at| self.ram.read::<u32>(Ipa::new(at)).unwrap();
            all.push((word(at), word(at + 4)));
            self.seen = self.seen.wrapping_add(1);
        }
        all
    }
}

fn queue(ram: &impl GuestRam, size: u16, negotiated: Negotiated) -> SplitQueue {
    SplitQueue::new(place(size), negotiated, ram).unwrap()
}

const PLAIN: Negotiated = Negotiated { indirect: false, event_index: false, packed: false };
const ALL: Negotiated = Negotiated { indirect: true, event_index: true, packed: false };

fn head(id: u16) -> Head {
    Head { id, descriptors: 1 }
}

fn buffers(chain: &[Buffer]) -> Vec<(u64, u32)> {
    chain.iter().map(|buffer| (buffer.ipa.raw(), buffer.size)).collect()
}

#[test]
fn a_chain_is_taken_once_and_given_back() {
    let ram = ram();
    let (mut driver, mut queue) = (Driver::new(&ram, 4), queue(&ram, 4, PLAIN));
    let mut chain = Chain::default();
    assert_eq!(queue.take(&ram, &mut chain), Ok(false));
    driver.describe(2, (DATA, 16), NEXT, 0);
    driver.describe(0, (DATA + 64, 512), NEXT | WRITE, 3);
    driver.describe(3, (DATA + 1024, 1), WRITE, 0);
    driver.offer(2);
    assert_eq!(queue.take(&ram, &mut chain), Ok(true));
    assert_eq!(chain.head, head(2));
    assert_eq!(buffers(chain.readable()), [(DATA, 16)]);
    assert_eq!(buffers(chain.writable()), [(DATA + 64, 512), (DATA + 1024, 1)]);
    assert_eq!(queue.take(&ram, &mut chain), Ok(false));
    queue.give_back(&ram, head(2), 513).unwrap();
    assert_eq!(driver.used(), []);
    assert_eq!(queue.publish(&ram), Ok(true));
    assert_eq!(driver.used(), [(2, 513)]);
    assert_eq!(queue.publish(&ram), Ok(false));
}

#[test]
fn the_rings_go_round_and_their_indices_too() {
    let ram = ram();
    let (mut driver, mut queue) = (Driver::new(&ram, 2), queue(&ram, 2, PLAIN));
    let mut chain = Chain::default();
    driver.describe(0, (DATA, 1), 0, 0);
    driver.describe(1, (DATA, 2), 0, 0);
    let start = 0u16.wrapping_sub(7);
    (queue.taken, queue.used, queue.published, queue.told) = (start, start, start, start);
    (driver.offered, driver.seen) = (start, start);
    for round in 0..20u32 {
        let id = u16::from(round % 3 == 0);
        driver.offer(id);
        assert_eq!(queue.take(&ram, &mut chain), Ok(true));
        assert_eq!(chain.readable()[0].size, u32::from(id) + 1);
        queue.give_back(&ram, chain.head, round).unwrap();
        queue.publish(&ram).unwrap();
        assert_eq!(driver.used(), [(u32::from(id), round)]);
    }
}

#[test]
fn a_table_stands_for_the_rest_of_a_chain() {
    let ram = ram();
    let (mut driver, mut queue) = (Driver::new(&ram, 4), queue(&ram, 4, ALL));
    let mut chain = Chain::default();
    driver.describe(1, (DATA, 8), NEXT, 3);
    driver.describe(3, (DATA + 256, 48), INDIRECT, 0);
    driver.describe_at(DATA + 256, 0, (DATA + 8, 9), NEXT, 2);
    driver.describe_at(DATA + 256, 2, (DATA + 16, 10), WRITE, 0);
    driver.offer(1);
    assert_eq!(queue.take(&ram, &mut chain), Ok(true));
    assert_eq!(buffers(chain.readable()), [(DATA, 8), (DATA + 8, 9)]);
    assert_eq!(buffers(chain.writable()), [(DATA + 16, 10)]);
}

#[test]
fn what_breaks_the_rules_is_told_and_not_followed() {
    type Setup = fn(&mut Driver<'_>);
    let cases: [(Negotiated, Setup, Bad); 11] = [
        (PLAIN, |d| d.offer(4), Bad::Descriptor(4)),
        (PLAIN, |d| d.put(d.place.driver + 2, 5u16), Bad::Available(5)),
        (
            PLAIN,
            |d| {
                d.describe(0, (DATA, 1), NEXT, 4);
                d.offer(0);
            },
            Bad::Descriptor(4),
        ),
        (
            PLAIN,
            |d| {
                d.describe(0, (DATA, 1), NEXT, 0);
                d.offer(0);
            },
            Bad::TooLong,
        ),
        (
            PLAIN,
            |d| {
                d.describe(0, (DATA, 1), NEXT | WRITE, 1);
                d.describe(1, (DATA, 1), 0, 0);
                d.offer(0);
            },
            Bad::ReadableAfterWritable,
        ),
        (
            PLAIN,
            |d| {
                d.describe(0, (DATA, 16), INDIRECT, 0);
                d.offer(0);
            },
            Bad::Indirect,
        ),
        (
            ALL,
            |d| {
                d.describe(0, (DATA, 16), INDIRECT | NEXT, 1);
                d.offer(0);
            },
            Bad::Indirect,
        ),
        (
            ALL,
            |d| {
                d.describe(0, (DATA, 16), INDIRECT, 0);
                d.describe_at(DATA, 0, (DATA, 16), INDIRECT, 0);
                d.offer(0);
            },
            Bad::Indirect,
        ),
        (
            ALL,
            |d| {
                d.describe(0, (DATA, 0), INDIRECT, 0);
                d.offer(0);
            },
            Bad::Table(0),
        ),
        (
            ALL,
            |d| {
                d.describe(0, (DATA, 80), INDIRECT, 0);
                d.offer(0);
            },
            Bad::Table(80),
        ),
        (
            ALL,
            |d| {
                d.describe(0, (0x1000, 16), INDIRECT, 0);
                d.offer(0);
            },
            Bad::Ring(OutsideRam { ipa: Ipa::new(0x1000), size: 8 }),
        ),
    ];
    for (negotiated, setup, bad) in cases {
        let ram = ram();
        let mut driver = Driver::new(&ram, 4);
        setup(&mut driver);
        let mut queue = queue(&ram, 4, negotiated);
        assert_eq!(queue.take(&ram, &mut Chain::default()), Err(bad));
    }
}

#[test]
fn a_queue_has_a_size_and_lies_in_ram() {
    let ram = ram();
    let there = |place| SplitQueue::new(place, PLAIN, &ram).is_some();
    let good = place(4);
    assert!(there(good));
    for size in [0, 3, 0x8001, u16::MAX] {
        assert!(!there(Place { size, ..good }));
    }
    assert!(!there(Place { size: 0x8000, ..good }), "16 pages are too small for it");
    for wrong in [1, 8, BASE - 16, BASE + PAGES * 4096, !15] {
        assert!(!there(Place { descriptors: wrong, ..good }));
    }
    assert!(!there(Place { driver: BASE + 1, ..good }));
    assert!(!there(Place { device: BASE + 2, ..good }));
    assert!(!there(Place { device: BASE + PAGES * 4096 - 36, ..good }), "the event counts as well");
}

#[test]
fn the_driver_is_told_only_if_it_wants() {
    let ram = ram();
    let (mut driver, mut queue) = (Driver::new(&ram, 4), queue(&ram, 4, PLAIN));
    driver.put(driver.place.driver, NO_INTERRUPT);
    queue.give_back(&ram, head(0), 0).unwrap();
    assert_eq!(queue.publish(&ram), Ok(false));
    assert_eq!(driver.used(), [(0, 0)]);
    assert_eq!(queue.want_notification(&ram, false), Ok(false));
    assert_eq!(driver.get(driver.place.device), NO_NOTIFY);
    assert_eq!(queue.want_notification(&ram, true), Ok(false));
    assert_eq!(driver.get(driver.place.device), 0);
    driver.offer(0);
    assert_eq!(queue.want_notification(&ram, true), Ok(true));
}

/// Memory in which nothing stays as it was: each read gives the next of some values. It counts them.
struct Restless {
    values: RefCell<Vec<u64>>,
    reads: Cell<usize>,
}

impl Restless {
    fn next(&self) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.values.borrow_mut().pop().unwrap_or(0)
    }
}

impl GuestRam for Restless {
    #[allow(clippy::cast_possible_truncation)]
    fn read_u16(&self, _: Ipa) -> Result<u16, OutsideRam> {
        Ok(self.next() as u16)
    }
    fn write_u16(&self, _: Ipa, _: u16) -> Result<(), OutsideRam> {
        Ok(())
    }
    #[allow(clippy::cast_possible_truncation)]
    fn read_u32(&self, _: Ipa) -> Result<u32, OutsideRam> {
        Ok(self.next() as u32)
    }
    fn write_u32(&self, _: Ipa, _: u32) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn read_u64(&self, _: Ipa) -> Result<u64, OutsideRam> {
        Ok(self.next())
    }
    fn write_u64(&self, _: Ipa, _: u64) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn read_bytes(&self, _: Ipa, into: &mut [u8]) -> Result<(), OutsideRam> {
        into.fill(0);
        Ok(())
    }
    fn write_bytes(&self, _: Ipa, _: &[u8]) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn copy_from(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn copy_to(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn zero(&self, _: Region<Ipa>) -> Result<(), OutsideRam> {
        Ok(())
    }
    fn holds(&self, _: &Region<Ipa>) -> bool {
        true
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 4))]

    #[test]
    fn whatever_is_read_a_chain_ends_and_nothing_is_read_twice(
        values in prop::collection::vec(prop_oneof![0u64..16, (0u64..8, 0u64..8, 1u64..64).prop_map(
            |(next, flags, size)| next << 48 | flags << 32 | (size * 16)), any::<u64>()], 0..200),
        size in 0u32..4,
        indirect: bool,
    ) {
        let size = 1u16 << size;
        let ram = Restless { values: RefCell::new(values), reads: Cell::new(0) };
        let mut queue = queue(&ram, size, Negotiated { indirect, ..PLAIN });
        let mut chain = Chain::default();
        let taken = queue.take(&ram, &mut chain);
        // The index, the head, and two words of each descriptor and of the one that stands for a table; the one too many.
        prop_assert!(ram.reads.get() <= 2 + 2 * (usize::from(size) + 2));
        if taken == Ok(true) {
            prop_assert!(chain.readable().len() + chain.writable().len() <= usize::from(size));
            prop_assert!(chain.head.id < size);
        }
    }

    /// Against the standard's words: an interrupt if the driver's event lies among what it has not been asked about.
    #[test]
    fn an_event_is_passed_once(
        steps in prop::collection::vec((1u16..4, 0u16..8), 1..60), start: u16,
    ) {
        let ram = ram();
        let mut driver = Driver::new(&ram, 8);
        let mut queue = queue(&ram, 8, ALL);
        (queue.used, queue.published, queue.told, driver.seen) = (start, start, start, start);
        let mut at = u32::from(start);
        for (count, ahead) in steps {
            let event = at + u32::from(ahead);
            driver.put(driver.place.driver + 4 + 16, (event & 0xffff) as u16);
            for id in 0..count {
                queue.give_back(&ram, head(id), 0).unwrap();
            }
            let passed = (at..at + u32::from(count)).contains(&event);
            prop_assert_eq!(queue.publish(&ram), Ok(passed));
            prop_assert_eq!(driver.used().len(), usize::from(count));
            at += u32::from(count);
        }
    }

    /// Chains of a driver that keeps to the rules come as they were made, in their order.
    #[test]
    fn chains_come_as_they_were_made(
        chains in prop::collection::vec((1u16..5, 0u16..5, any::<bool>()), 1..40),
    ) {
        let ram = ram();
        let mut driver = Driver::new(&ram, 8);
        let mut queue = queue(&ram, 8, ALL);
        let mut chain = Chain::default();
        for (number, (count, writable_from, indirect)) in chains.into_iter().enumerate() {
            let table = if indirect { DATA + 0x1000 } else { driver.place.descriptors };
            let wanted: Vec<(u64, u32)> =
                (0..count).map(|n| (DATA + 16 * u64::from(n), u32::from(n) + 1)).collect();
            for n in 0..count {
                let flags = if n >= writable_from { WRITE } else { 0 };
                let next = if n + 1 < count { NEXT } else { 0 };
                driver.describe_at(table, n, wanted[usize::from(n)], flags | next, n + 1);
            }
            let head = if indirect { 7 } else { 0 };
            if indirect {
                driver.describe(7, (table, 16 * u32::from(count)), INDIRECT, 0);
            }
            driver.offer(head);
            prop_assert_eq!(queue.take(&ram, &mut chain), Ok(true));
            let readable = usize::from(writable_from.min(count));
            prop_assert_eq!(buffers(chain.readable()), &wanted[..readable]);
            prop_assert_eq!(buffers(chain.writable()), &wanted[readable..]);
            queue.give_back(&ram, chain.head, u32::try_from(number).unwrap()).unwrap();
            queue.publish(&ram).unwrap();
            prop_assert_eq!(driver.used(), [(u32::from(head), u32::try_from(number).unwrap())]);
        }
    }
}
