//! Claims about split queues: what a driver that keeps to the standard gets, and what one that does not can do.

use proptest::prelude::*;

use super::super::Buffer;
use super::super::descriptor::WRITE;
use super::super::tests::{BASE, DATA, PAGES, PLAIN, head, place, ram};
use super::*;
use crate::memory::{GuestMemory, OutsideRam};

/// A driver that puts what it likes into its rings.
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

const ALL: Negotiated = Negotiated { indirect: true, event_index: true, ..PLAIN };

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
    assert_eq!((chain.head.id, chain.room()), (2, 513));
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
    (queue.offered, queue.taken, queue.used, queue.published) = (start, start, start, start);
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
fn descriptors_of_chains_that_are_not_used_do_not_count_as_free() {
    let ram = ram();
    let (mut driver, mut queue) = (Driver::new(&ram, 4), queue(&ram, 4, PLAIN));
    let mut chain = Chain::default();
    driver.describe(0, (DATA, 1), 0, 0);
    for _ in 0..3 {
        driver.offer(0);
        assert_eq!(queue.take(&ram, &mut chain), Ok(true));
    }
    driver.put(driver.place.driver + 2, 5u16);
    assert_eq!(queue.take(&ram, &mut chain), Err(Bad::Available(2)));
    driver.put(driver.place.driver + 2, 2u16);
    assert_eq!(queue.take(&ram, &mut chain), Err(Bad::Available(0xffff)), "the index goes back");
    queue.give_back(&ram, chain.head, 0).unwrap();
    driver.put(driver.place.driver + 2, 5u16);
    assert_eq!(queue.take(&ram, &mut chain), Ok(true));
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

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    /// Against the standard's words: an interrupt if the driver's event lies among what it has not been asked about.
    #[test]
    fn an_event_is_passed_once(
        steps in prop::collection::vec((1u16..4, 0u16..8), 1..60), start: u16,
    ) {
        let ram = ram();
        let mut driver = Driver::new(&ram, 8);
        let mut queue = queue(&ram, 8, ALL);
        (queue.used, queue.published, driver.seen) = (start, start, start);
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
}
