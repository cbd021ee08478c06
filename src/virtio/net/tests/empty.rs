//! Claims about descriptors of no bytes: they are allowed, and who has many of them takes nobody's time but its own.

use super::*;
use crate::testing::pick;

const INDIRECT: u64 = 1 << 28;
const PACKED: u64 = 1 << 34;
/// How many descriptors each chain here has.
const EACH: usize = 16;

/// Buffers of no bytes, and one at `at`.
fn nearly_empty(at: u64, size: u32) -> Vec<Buffer> {
    let mut buffers = vec![Buffer { ipa: Ipa::new(SENT), size: 0 }; EACH - 1];
    buffers.push(Buffer { ipa: Ipa::new(at), size });
    buffers
}

impl Card {
    /// Offers so many receive buffers of `size` bytes, each behind others of none.
    fn expect_behind_empty(&mut self, count: usize, size: u32) {
        for _ in 0..count {
            let writable = nearly_empty(self.next, size);
            let buffer = writable[EACH - 1];
            self.next += u64::from(size);
            let offer = Offer { writable, indirect: true, ..Offer::default() };
            let name = self.receive.offer(self.ram.get().unwrap(), &offer).unwrap();
            self.buffers.push((name, buffer));
        }
        self.receive.show(self.ram.get().unwrap());
    }
}

#[test]
fn a_frame_is_not_put_into_chains_that_take_long_to_look_at() {
    for format in [0, PACKED].into_iter().skip(pick(0, 1)) {
        let features = feature::ALL | INDIRECT | format;
        let mut cards = two(features);
        // 64 chains have room enough for this one, but take 1024 descriptors.
        cards[1].expect_behind_empty(64, 20);
        let frame = |length: usize| {
            let mut frame = [&mac(1).0[..], &mac(0).0, &[0x88, 0xb5]].concat();
            frame.resize(length, 9);
            frame
        };
        cards[0].send(&[0; 12], &frame(400), &[]);
        cards[0].go_on();
        assert_eq!(cards[1].received(), None);
        assert_eq!(cards[1].receive.waiting(), 64);
        // Nothing is lost by that, and ordinary ones come.
        cards[0].send(&[0; 12], &frame(60), &[]);
        cards[0].go_on();
        assert_eq!(cards[1].received().expect("one that takes few chains").1, frame(60));
    }
}

#[test]
fn chains_that_take_long_to_look_at_are_few_at_one_go() {
    for format in [0, PACKED].into_iter().skip(pick(0, 1)) {
        let mut cards = two(feature::ALL);
        let lan = cards.remove(0).device.backend().lan.clone();
        let bells = Arc::new(Doorbells::new(1));
        let bell = Doorbell::new(bells, VmId(0), 0);
        let port = lan.switch().ports().next().unwrap();
        let features = feature::ALL | INDIRECT | format;
        let mut card = Card::new(&lan, port, mac(0), bell, features);
        for _ in 0..64 {
            // Too short to be a frame.
            let readable = nearly_empty(SENT, 1);
            let offer = Offer { readable, indirect: true, ..Offer::default() };
            card.transmit.offer(card.ram.get().unwrap(), &offer).unwrap();
        }
        card.transmit.show(card.ram.get().unwrap());
        let mut goes = vec![];
        card.device.write(0x050, Width::Word, 1, NOW);
        while card.transmit.waiting() > 0 {
            goes.push(core::iter::from_fn(|| card.sent()).count());
            if card.device.deadline().is_some() {
                card.device.advance(NOW);
            }
        }
        // Each of so many descriptors counts as two.
        assert!(goes.iter().all(|chains| (1..=16).contains(chains)), "{goes:?}");
    }
}
