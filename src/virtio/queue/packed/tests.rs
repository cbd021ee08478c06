//! Claims about packed queues: where things are in the ring, and what a driver can do that does not keep to the standard.

use proptest::prelude::*;

use super::super::tests::{BASE, DATA, PAGES, PLAIN, buffer, place, ram};
use super::*;
use crate::memory::{GuestMemory, OutsideRam};
use crate::testing::cases;

const NOT_MORE: Negotiated = Negotiated { packed: true, ..PLAIN };
const ALL: Negotiated = Negotiated { indirect: true, event_index: true, ..NOT_MORE };

/// A ring of four, and a driver that puts what it likes into it.
struct Ring {
    ram: GuestMemory,
    queue: PackedQueue,
    chain: Chain,
}

impl Ring {
    fn new(negotiated: Negotiated) -> Self {
        let ram = ram();
        let queue = PackedQueue::new(place(4), negotiated, &ram).unwrap();
        Self { ram, queue, chain: Chain::default() }
    }

    fn describe_at(&self, at: u64, (ipa, size): (u64, u32), id: u16, flags: u16) {
        self.ram.write(Ipa::new(at), ipa).unwrap();
        self.ram.write(Ipa::new(at + 8), size).unwrap();
        self.ram.write(Ipa::new(at + 12), id).unwrap();
        self.ram.write(Ipa::new(at + 14), flags).unwrap();
    }

    /// Descriptor `number`, available in the first round, or with `USED` among its flags in the second.
    fn describe(&self, number: u64, id: u16, flags: u16) {
        let round = if flags & USED == 0 { AVAIL } else { 0 };
        self.describe_at(BASE + 16 * number, (DATA + 16 * number, 16), id, flags | round);
    }

    fn take(&mut self) -> Result<bool, Bad> {
        self.queue.take(&self.ram, &mut self.chain)
    }

    /// Gives a chain back, and shows it.
    fn give_back(&mut self, head: Head, written: u32) {
        self.queue.give_back(&self.ram, head, written).unwrap();
        self.queue.publish(&self.ram).unwrap();
    }

    /// ID, length and flags of descriptor `number`.
    fn used(&self, number: u64) -> (u16, u32, u16) {
        let at = BASE + 16 * number;
        let half = |at| self.ram.read(Ipa::new(at)).unwrap();
        (half(at + 12), self.ram.read(Ipa::new(at + 8)).unwrap(), half(at + 14))
    }
}

#[test]
fn a_chain_comes_with_the_id_of_its_last_descriptor_and_is_given_back_in_the_place_of_its_first() {
    let mut ring = Ring::new(NOT_MORE);
    assert_eq!(ring.take(), Ok(false));
    ring.describe(0, 9, NEXT);
    ring.describe(1, 8, NEXT | WRITE);
    ring.describe(2, 0xfffe, WRITE);
    assert_eq!(ring.take(), Ok(true));
    assert_eq!(ring.chain.head, Head { id: 0xfffe, descriptors: 3, room: 32 });
    assert_eq!(ring.chain.readable(), [buffer(DATA, 16)]);
    assert_eq!(ring.chain.writable(), [buffer(DATA + 16, 16), buffer(DATA + 32, 16)]);
    assert_eq!(ring.take(), Ok(false));
    ring.give_back(ring.chain.head, 17);
    assert_eq!(ring.used(0), (0xfffe, 17, AVAIL | USED | WRITE));
    // And the next in the place of the fourth, of which nothing is written.
    ring.describe(3, 5, 0);
    assert_eq!(ring.take(), Ok(true));
    ring.give_back(ring.chain.head, 0);
    assert_eq!(ring.used(3), (5, 0, AVAIL | USED));
    // In the next round the flags mean the opposite.
    assert_eq!(ring.take(), Ok(false));
    ring.describe(0, 6, USED);
    assert_eq!(ring.take(), Ok(true));
    ring.give_back(ring.chain.head, 1);
    assert_eq!(ring.used(0), (6, 1, WRITE));
}

#[test]
fn chains_that_come_back_in_another_order_take_the_room_that_they_have() {
    let mut ring = Ring::new(NOT_MORE);
    ring.describe(0, 0, 0);
    ring.describe(1, 0, NEXT);
    ring.describe(2, 1, NEXT);
    ring.describe(3, 1, 0);
    let mut heads = Vec::new();
    for _ in 0..2 {
        assert_eq!(ring.take(), Ok(true));
        heads.push(ring.chain.head);
    }
    ring.give_back(heads[1], 0);
    assert_eq!(ring.used(0), (1, 0, AVAIL | USED));
    ring.give_back(heads[0], 0);
    assert_eq!(ring.used(3), (0, 0, AVAIL | USED));
    assert_eq!((ring.queue.used, ring.queue.held), (4, 0));
}

#[test]
fn an_id_that_two_chains_have_is_given_back_twice() {
    let mut ring = Ring::new(NOT_MORE);
    ring.describe(0, 7, NEXT);
    ring.describe(1, 7, 0);
    ring.describe(2, 7, 0);
    let mut heads = Vec::new();
    for _ in 0..2 {
        assert_eq!(ring.take(), Ok(true));
        heads.push(ring.chain.head);
    }
    heads.into_iter().rev().for_each(|head| ring.give_back(head, 0));
    assert_eq!((ring.used(0).0, ring.used(1).0, ring.queue.used), (7, 7, 3));
}

#[test]
fn a_chain_that_is_handed_back_unused_comes_again() {
    let mut ring = Ring::new(NOT_MORE);
    ring.queue.next = 7;
    ring.queue.used = 7;
    ring.queue.published = 7;
    ring.describe(3, 1, NEXT | USED);
    ring.describe(0, 2, 0);
    let before = ring.queue;
    for _ in 0..3 {
        assert_eq!(ring.take(), Ok(true));
        assert_eq!((ring.queue.next, ring.queue.held), (1, 2));
        ring.queue.untake(ring.chain.head);
        assert_eq!(ring.queue, before);
    }
}

#[test]
fn what_breaks_the_rules_is_told_and_not_followed() {
    type Setup = fn(&Ring);
    let cases: [(Negotiated, Setup, Bad); 8] = [
        (NOT_MORE, |r| (0..4).for_each(|n| r.describe(n, 0, NEXT)), Bad::TooLong),
        (
            NOT_MORE,
            |r| {
                r.describe(0, 0, NEXT | WRITE);
                r.describe(1, 0, 0);
            },
            Bad::ReadableAfterWritable,
        ),
        (NOT_MORE, |r| r.describe(0, 0, INDIRECT), Bad::Indirect),
        (ALL, |r| r.describe(0, 0, INDIRECT | NEXT), Bad::Indirect),
        (
            ALL,
            |r| {
                r.describe(0, 0, NEXT);
                r.describe(1, 0, INDIRECT);
            },
            Bad::Indirect,
        ),
        (ALL, |r| r.describe_at(BASE, (DATA, 0), 0, INDIRECT | AVAIL), Bad::Table(0)),
        (ALL, |r| r.describe_at(BASE, (DATA, 80), 0, INDIRECT | AVAIL), Bad::Table(80)),
        (
            ALL,
            |r| r.describe_at(BASE, (0x1000, 16), 0, INDIRECT | AVAIL),
            Bad::Ring(OutsideRam { ipa: Ipa::new(0x1000), size: 8 }),
        ),
    ];
    for (negotiated, setup, bad) in cases {
        let mut ring = Ring::new(negotiated);
        setup(&ring);
        assert_eq!(ring.take(), Err(bad));
    }
}

#[test]
fn descriptors_that_are_not_given_back_cannot_be_available() {
    let mut ring = Ring::new(NOT_MORE);
    for number in 0..3 {
        ring.describe(number, 0, 0);
        assert_eq!(ring.take(), Ok(true));
    }
    ring.describe(3, 0, NEXT);
    ring.describe(0, 0, USED);
    assert_eq!(ring.take(), Err(Bad::TooLong));
    ring.describe(3, 0, 0);
    assert_eq!(ring.take(), Ok(true));
    assert_eq!(ring.take(), Err(Bad::TooLong));
}

#[test]
fn a_queue_has_a_size_and_lies_in_ram() {
    let ram = ram();
    let there = |place| PackedQueue::new(place, NOT_MORE, &ram).is_some();
    let good = place(4);
    for size in [1, 3, 1023] {
        assert!(there(Place { size, ..good }));
    }
    for size in [0, 0x8001, u16::MAX] {
        assert!(!there(Place { size, ..good }));
    }
    assert!(!there(Place { size: 0x8000, ..good }), "16 pages are too small for it");
    let end = BASE + PAGES * 4096;
    for wrong in [1, 8, BASE - 16, end - 48, !15] {
        assert!(!there(Place { descriptors: wrong, ..good }));
    }
    assert!(there(Place { descriptors: end - 64, driver: end - 4, device: end - 4, ..good }));
    for wrong in [0, BASE + 2, end, !3] {
        assert!(!there(Place { driver: wrong, ..good }));
        assert!(!there(Place { device: wrong, ..good }));
    }
}

#[test]
fn an_event_that_the_driver_may_not_have_is_no_event() {
    for (negotiated, event) in [(NOT_MORE, 2u32 << 16), (ALL, 3 << 16), (ALL, 0xfffc_8000)] {
        let mut ring = Ring::new(negotiated);
        ring.ram.write(Ipa::new(BASE + 0x4000), event).unwrap();
        ring.describe(0, 0, 0);
        assert_eq!(ring.take(), Ok(true));
        ring.queue.give_back(&ring.ram, ring.chain.head, 0).unwrap();
        assert_eq!(ring.queue.publish(&ring.ram), Ok(true), "it is told, to be safe");
    }
    let mut ring = Ring::new(ALL);
    ring.ram.write(Ipa::new(BASE + 0x4000), 2u32 << 16 | 4).unwrap();
    ring.describe(0, 0, 0);
    assert_eq!(ring.take(), Ok(true));
    ring.queue.give_back(&ring.ram, ring.chain.head, 0).unwrap();
    assert_eq!(ring.queue.publish(&ring.ram), Ok(false), "there is no descriptor 4");
}

proptest! {
    #![proptest_config(cases(256, 1))]

    /// Against arithmetic in more bits.
    #[test]
    fn positions_go_round_at_twice_the_size(size in 1u16..=MAX_SIZE, at: u16, count: u16, event: u16) {
        let rounds = 2 * u32::from(size);
        let fit = |value: u16, below: u32| u16::try_from(u32::from(value) % below).unwrap();
        let (at, count) = (fit(at, rounds), fit(count, u32::from(size) + 1));
        let (next, used, published, held, first, batch) = (0, 0, 0, 0, None, None);
        let (place, negotiated) = (place(size), ALL);
        let queue = PackedQueue { place, negotiated, next, used, published, held, first, batch };
        let after = queue.after(at, count);
        prop_assert_eq!(u32::from(after), (u32::from(at) + u32::from(count)) % rounds);
        prop_assert_eq!(queue.before(after, count), at);
        prop_assert_eq!(queue.distance(at, after), count);
        prop_assert_eq!(queue.of_event(queue.event(at)), at);
        prop_assert_eq!(queue.event(at) & !WRAP, fit(at, size.into()));
        prop_assert_eq!(queue.event(at) & WRAP != 0, at < size);
        // Whatever the driver has written there, it is a position, or past them.
        let event = queue.of_event(event);
        prop_assert!(u32::from(event) < rounds || event == u16::MAX);
        queue.distance(at, event);
    }
}
