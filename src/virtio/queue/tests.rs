//! Claims about queues of both formats: what a driver that keeps to the standard gets, and what one that does not can do.

use core::cell::{Cell, RefCell};
use std::collections::VecDeque;

use proptest::prelude::*;

use super::fake::{Driver, Offer};
use super::*;
use crate::memory::{GuestMemory, OutsideRam, Store};
use crate::testing::{self, cases, pick};

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

/// A driver that sleeps until it is interrupted, and a device that sleeps until it is notified.
struct World {
    ram: GuestMemory,
    driver: Driver,
    queue: Virtqueue,
    in_order: bool,
    chain: Chain,
    driver_sleeps: bool,
    device_sleeps: bool,
    /// What is still to be offered.
    left: VecDeque<Offer>,
    /// What the device has still to take, and what names each.
    under_way: VecDeque<(u16, Offer)>,
    /// What it has taken and not given back.
    held: Vec<Head>,
    /// What it has given back, and the driver not seen.
    used: VecDeque<(u16, u32)>,
    written: u32,
}

impl World {
    fn new(negotiated: Negotiated, size: u16, mut offers: Vec<Offer>) -> Self {
        let ram = ram();
        let (queue, driver) = of(negotiated, size, &ram);
        for offer in &mut offers {
            // Neither longer than the queue nor empty.
            offer.readable.truncate(size.into());
            offer.writable.truncate(usize::from(size) - offer.readable.len());
            if offer.readable.is_empty() && offer.writable.is_empty() {
                *offer = one();
            }
        }
        Self {
            ram,
            driver,
            queue,
            in_order: negotiated.in_order,
            chain: Chain::default(),
            driver_sleeps: false,
            device_sleeps: false,
            left: offers.into(),
            under_way: VecDeque::new(),
            held: Vec::new(),
            used: VecDeque::new(),
            written: 0,
        }
    }

    /// The driver looks what was used, offers some chains, and may go to sleep.
    fn drive(&mut self, offers: usize, sleep: Option<u16>) {
        self.driver.want_interrupt(&self.ram, None);
        while let Some(used) = self.driver.used(&self.ram) {
            assert_eq!(Some(used), self.used.pop_front());
        }
        for _ in 0..offers {
            let Some(offer) = self.left.pop_front() else { break };
            let Some(id) = self.driver.offer(&self.ram, &offer) else {
                self.left.push_front(offer);
                break;
            };
            self.under_way.push_back((id, offer));
        }
        if self.driver.show(&self.ram) {
            self.device_sleeps = false;
        }
        // It does not wait for more than is under way.
        let most = self.driver.waiting().saturating_sub(1);
        let after = sleep.map(|after| after.min(u16::try_from(most).unwrap()));
        if after.is_some() {
            self.driver_sleeps = !self.driver.want_interrupt(&self.ram, after);
        }
    }

    /// The device is saved, and another goes on from that.
    fn save_and_restore(&mut self) {
        let saved = postcard::to_allocvec(&(self.queue, &self.held)).unwrap();
        (self.queue, self.held) = postcard::from_bytes(&saved).unwrap();
        self.chain = Chain::default();
    }

    /// The device takes some chains, the first of them twice, and gives some back, in an order that `choice` says.
    fn serve(&mut self, takes: usize, gives: usize, choice: usize) {
        self.queue.want_notification(&self.ram, false).unwrap();
        let mut tried = Vec::new();
        while tried.len() < choice % 4 && self.queue.take(&self.ram, &mut self.chain).unwrap() {
            tried.push(self.chain.head);
        }
        tried.into_iter().rev().for_each(|head| self.queue.untake(head));
        for _ in 0..takes {
            if !self.queue.take(&self.ram, &mut self.chain).unwrap() {
                if !self.queue.want_notification(&self.ram, true).unwrap() {
                    self.device_sleeps = true;
                    break;
                }
                continue;
            }
            let (id, offer) = self.under_way.pop_front().expect("something was offered");
            assert_eq!(self.chain.head.id, id);
            assert!(offer.is(&self.chain), "{offer:?} came as {:?}", self.chain);
            self.held.push(self.chain.head);
        }
        if choice & 16 != 0 {
            self.save_and_restore();
        }
        for _ in 0..gives.min(self.held.len()) {
            let next = if self.in_order { 0 } else { choice % self.held.len() };
            let head = self.held.remove(next);
            self.written += 1;
            // Sometimes all of it.
            let all = u32::try_from(head.room).unwrap();
            let written = if choice & 3 == 0 { self.written } else { all };
            self.queue.give_back(&self.ram, head, written).unwrap();
            self.used.push_back((head.id, written));
        }
        if choice & 32 != 0 {
            self.save_and_restore();
        }
        if self.queue.publish(&self.ram).unwrap() {
            self.driver_sleeps = false;
        }
    }

    /// Until both sleep. Nothing is forgotten then.
    fn calm_down(&mut self) {
        for _ in 0..100 {
            if !self.device_sleeps || !self.held.is_empty() {
                self.serve(7, usize::MAX, 3);
            }
            if !self.driver_sleeps {
                self.drive(0, Some(0));
            }
            if self.device_sleeps && self.driver_sleeps {
                break;
            }
        }
        assert!(self.device_sleeps && self.driver_sleeps, "there is always something to do");
        assert!(self.under_way.is_empty(), "the device was not notified");
        assert_eq!((self.driver.waiting(), self.used.len()), (0, 0), "the driver was not told");
    }
}

proptest! {
    #![proptest_config(cases(256, 2))]

    #[test]
    fn whatever_is_offered_arrives_once_and_comes_back_and_nobody_sleeps_for_ever(
        (negotiated, size) in formats(),
        offers in prop::collection::vec(offers(), 0..pick(80, 12)),
        steps in prop::collection::vec(
            (any::<bool>(), 0usize..6, 0usize..6, any::<u8>()), 0..pick(80, 12)),
    ) {
        let mut world = World::new(negotiated, size, offers);
        for (driver, count, other, choice) in steps {
            if driver && !world.driver_sleeps {
                let sleep = (choice < 128).then_some(u16::from(choice) % 8);
                world.drive(count, sleep);
            } else if !driver && !world.device_sleeps {
                world.serve(count, other, choice.into());
            }
        }
        world.calm_down();
        while !world.left.is_empty() {
            // Somebody has something to be sent.
            world.drive(5, Some(1));
            world.calm_down();
        }
    }

    /// With an event, exactly when that is passed; without, whenever there is something.
    #[test]
    fn the_driver_is_interrupted_when_it_wants(
        (negotiated, size) in formats(),
        steps in prop::collection::vec((1u16..5, prop::option::of(0u16..6)), 1..pick(60, 8)),
    ) {
        let ram = ram();
        let (mut queue, mut driver) = of(negotiated, size, &ram);
        let Negotiated { event_index, packed, .. } = negotiated;
        let mut chain = Chain::default();
        // Counts of chains that were used, from the start.
        let (mut at, mut event) = (0, 0);
        for (count, wanted) in steps {
            let count = count.min(size);
            let after = wanted.map(|after| after.min(size));
            event = after.map_or(event, |after| at + u32::from(after));
            for _ in 0..count {
                driver.offer(&ram, &one()).unwrap();
            }
            driver.show(&ram);
            prop_assert!(!driver.want_interrupt(&ram, after));
            for _ in 0..count {
                prop_assert_eq!(queue.take(&ram, &mut chain), Ok(true));
                queue.give_back(&ram, chain.head, 0).unwrap();
            }
            let interrupted = queue.publish(&ram).unwrap();
            // In a split ring the last event stays where it was.
            let has_event = event_index && (after.is_some() || !packed);
            let passed = (at..at + u32::from(count)).contains(&event);
            prop_assert_eq!(interrupted, if has_event { passed } else { after.is_some() });
            at += u32::from(count);
            prop_assert_eq!(queue.publish(&ram), Ok(false));
            prop_assert_eq!(core::iter::from_fn(|| driver.used(&ram)).count(), usize::from(count));
        }
    }

    #[test]
    fn the_device_is_notified_once_for_what_it_asked_for(
        (negotiated, size) in formats(), counts in prop::collection::vec(1u16..5, 1..pick(60, 8)),
    ) {
        let ram = ram();
        let (mut queue, mut driver) = of(negotiated, size, &ram);
        let mut chain = Chain::default();
        for count in counts {
            let count = count.min(size);
            prop_assert_eq!(queue.want_notification(&ram, true), Ok(false));
            for number in 0..count {
                driver.offer(&ram, &one()).unwrap();
                prop_assert_eq!(driver.show(&ram), number == 0 || !negotiated.event_index);
            }
            prop_assert_eq!(queue.want_notification(&ram, true), Ok(true));
            queue.want_notification(&ram, false).unwrap();
            prop_assert!(!driver.show(&ram));
            for _ in 0..count {
                prop_assert_eq!(queue.take(&ram, &mut chain), Ok(true));
                queue.give_back(&ram, chain.head, 0).unwrap();
            }
            queue.publish(&ram).unwrap();
            while driver.used(&ram).is_some() {}
        }
    }
}

#[test]
fn a_batch_becomes_visible_at_once_and_its_beginning_is_written_last() {
    for packed in [false, true] {
        let ram = Watched { ram: ram(), writes: RefCell::default() };
        let (mut queue, mut driver) = of(Negotiated { packed, ..PLAIN }, 4, &ram);
        let mut chain = Chain::default();
        for _ in 0..3 {
            driver.offer(&ram, &one()).unwrap();
        }
        driver.show(&ram);
        ram.writes.take();
        for written in 0..3 {
            assert_eq!(queue.take(&ram, &mut chain), Ok(true));
            queue.give_back(&ram, chain.head, written).unwrap();
            assert_eq!(driver.used(&ram), None);
        }
        let before = ram.writes.borrow().len();
        assert_eq!(queue.publish(&ram), Ok(true));
        let last = if packed { (BASE + 8, 8) } else { (BASE + 0x5002, 2) };
        assert_eq!(ram.writes.borrow()[before..], [last]);
        assert!(!ram.writes.borrow()[..before].contains(&last));
        let used: Vec<_> = core::iter::from_fn(|| driver.used(&ram)).collect();
        assert_eq!(used, [(0, 0), (1, 1), (2, 2)]);
    }
}

#[test]
fn chains_that_are_used_completely_and_in_order_are_told_of_together() {
    for packed in [false, true] {
        let ram = Watched { ram: ram(), writes: RefCell::default() };
        let (mut queue, mut driver) = of(Negotiated { packed, in_order: true, ..PLAIN }, 8, &ram);
        let mut chain = Chain::default();
        let room = Offer { writable: vec![buffer(DATA, 8), buffer(DATA, 2)], ..Offer::default() };
        for offer in [one(), room.clone(), one(), room, one()] {
            driver.offer(&ram, &offer).unwrap();
        }
        driver.show(&ram);
        ram.writes.take();
        for written in [0, 10, 0, 9, 0] {
            assert_eq!(queue.take(&ram, &mut chain), Ok(true));
            queue.give_back(&ram, chain.head, written).unwrap();
        }
        assert_eq!(queue.publish(&ram), Ok(true));
        // One up to the chain that has room left, and one of what comes after it; where the first of each would be.
        let writes: Vec<u64> = ram.writes.take().into_iter().map(|(at, _)| at).collect();
        let used = BASE + 0x5004;
        let wanted = if packed {
            vec![BASE + 16 * 6 + 8, BASE + 8]
        } else {
            vec![used, used + 4, used + 8 * 4, used + 8 * 4 + 4, used - 2]
        };
        assert_eq!(writes, wanted);
        let used: Vec<u32> = core::iter::from_fn(|| driver.used(&ram)).map(|used| used.1).collect();
        assert_eq!(used, [0, 10, 0, 9, 0]);
    }
}

/// RAM whose writes are noted: where, and how many bytes.
struct Watched {
    ram: GuestMemory,
    writes: RefCell<Vec<(u64, u64)>>,
}

impl Watched {
    fn note(&self, ipa: Ipa, size: usize) -> &GuestMemory {
        self.writes.borrow_mut().push((ipa.raw(), size as u64));
        &self.ram
    }
}

impl GuestRam for Watched {
    fn read_u16(&self, ipa: Ipa) -> Result<u16, OutsideRam> {
        self.ram.read(ipa)
    }
    fn write_u16(&self, ipa: Ipa, value: u16) -> Result<(), OutsideRam> {
        self.note(ipa, 2).write(ipa, value)
    }
    fn read_u32(&self, ipa: Ipa) -> Result<u32, OutsideRam> {
        self.ram.read(ipa)
    }
    fn write_u32(&self, ipa: Ipa, value: u32) -> Result<(), OutsideRam> {
        self.note(ipa, 4).write(ipa, value)
    }
    fn read_u64(&self, ipa: Ipa) -> Result<u64, OutsideRam> {
        self.ram.read(ipa)
    }
    fn write_u64(&self, ipa: Ipa, value: u64) -> Result<(), OutsideRam> {
        self.note(ipa, 8).write(ipa, value)
    }
    fn read_bytes(&self, ipa: Ipa, into: &mut [u8]) -> Result<(), OutsideRam> {
        self.ram.read_into(ipa, into)
    }
    fn write_bytes(&self, ipa: Ipa, from: &[u8]) -> Result<(), OutsideRam> {
        self.note(ipa, from.len()).write_from(ipa, from)
    }
    fn copy_from(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        unreachable!("no queue copies to or from a store")
    }
    fn copy_to(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        unreachable!("no queue copies to or from a store")
    }
    fn zero(&self, _: Region<Ipa>) -> Result<(), OutsideRam> {
        unreachable!("no queue zeroes anything")
    }
    fn holds(&self, ipas: &Region<Ipa>) -> bool {
        self.ram.contains(ipas)
    }
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

#[allow(clippy::cast_possible_truncation, reason = "the low bits are as good as any")]
impl GuestRam for Restless {
    fn read_u16(&self, _: Ipa) -> Result<u16, OutsideRam> {
        Ok(self.next() as u16)
    }
    fn write_u16(&self, _: Ipa, _: u16) -> Result<(), OutsideRam> {
        Ok(())
    }
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

/// Words that look like parts of rings more often than any would: small numbers, and a descriptor's size, flags and
/// number, as either format has them.
fn words() -> impl Strategy<Value = u64> {
    let flags = prop_oneof![
        0u64..8,
        (0u64..8).prop_map(|flags| flags | 0x80),
        any::<u16>().prop_map(u64::from)
    ];
    prop_oneof![
        0u64..16,
        (0u64..8, flags, 1u64..64, any::<bool>()).prop_map(|(number, flags, size, packed)| {
            let (high, low) = if packed { (flags, number) } else { (number, flags) };
            high << 48 | low << 32 | (size * 16)
        }),
        (0u64..0x10).prop_map(|at| DATA + 64 * at),
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(cases(512, 2))]

    #[test]
    fn whatever_is_read_a_chain_ends_and_nothing_is_read_twice(
        values in prop::collection::vec(words(), 0..200), size in 0u32..4, indirect: bool, packed: bool,
    ) {
        let size = 1u16 << size;
        let ram = Restless { values: RefCell::new(values), reads: Cell::new(0) };
        let negotiated = Negotiated { indirect, packed, ..PLAIN };
        let (mut queue, _) = of(negotiated, size, &ram);
        let mut chain = Chain::default();
        let taken = queue.take(&ram, &mut chain);
        // The index, the head, and two words of each descriptor and of the one that stands for a table; the one too many.
        prop_assert!(ram.reads.get() <= 2 + 2 * (usize::from(size) + 2));
        if taken == Ok(true) {
            prop_assert!(chain.readable().len() + chain.writable().len() <= usize::from(size));
            prop_assert!(chain.head.descriptors <= size && (packed || chain.head.id < size));
        }
    }

    #[test]
    fn whatever_is_in_a_ring_nothing_else_is_written(
        (negotiated, size) in formats(),
        steps in prop::collection::vec((0u8..8, 0u64..40, words()), 0..pick(120, 20)),
    ) {
        let ram = Watched { ram: ram(), writes: RefCell::default() };
        let (mut queue, _) = of(negotiated, size, &ram);
        let (mut chain, mut held) = (Chain::default(), VecDeque::new());
        for (step, at, word) in steps {
            match step {
                0 => ram.ram.write(Ipa::new(BASE + 8 * at), word).unwrap(),
                1 => ram.ram.write(Ipa::new(BASE + 0x4000 + 2 * (at % 8)), word & 0xf).unwrap(),
                2 | 3 => {
                    if let Ok(true) = queue.take(&ram, &mut chain) {
                        prop_assert!(chain.head.descriptors <= size);
                        held.push_back(chain.head);
                        prop_assert!(held.len() <= usize::from(size), "more than there are");
                        if step == 3 {
                            queue.untake(chain.head);
                            held.pop_back();
                        }
                    }
                }
                4 => {
                    let head = if at % 2 == 0 { held.pop_front() } else { held.pop_back() };
                    if let Some(head) = head {
                        queue.give_back(&ram, head, 1).unwrap();
                    }
                }
                5 => _ = queue.publish(&ram).unwrap(),
                _ => _ = queue.want_notification(&ram, step == 6).unwrap(),
            }
        }
        let ring = if negotiated.packed {
            BASE..BASE + 16 * u64::from(size)
        } else {
            BASE + 0x5000..BASE + 0x5000 + 8 * u64::from(size) + 6
        };
        for (at, bytes) in ram.writes.take() {
            prop_assert!(
                ring.contains(&at) && at + bytes <= ring.end || at == BASE + 0x5000, "{at:#x}");
        }
    }
}
