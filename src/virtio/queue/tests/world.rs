//! Whatever is offered arrives once and comes back, and nobody sleeps for ever.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::fake::{Driver, Offer};
use super::super::*;
use super::{formats, of, offers, one, ram};
use crate::memory::GuestMemory;
use crate::testing::{cases, pick};

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
    #![proptest_config(cases(256, 1))]

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
}
