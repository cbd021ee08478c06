//! How chains are told of that were used together: which words are written, and in which order.

use core::cell::RefCell;

use super::super::fake::Offer;
use super::super::*;
use super::watched::Watched;
use super::{BASE, DATA, PLAIN, buffer, of, one, ram};

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
