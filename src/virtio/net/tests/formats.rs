//! Queues of each format ("Reserved Feature Bits"), and who has to say what by them.

use super::*;
use crate::testing::pick;

const EVENT_IDX: u64 = 1 << 29;
const RING_PACKED: u64 = 1 << 34;

/// Every combination of what changes how queues work.
fn formats() -> impl Iterator<Item = u64> {
    let [one, two, three] = [EVENT_IDX, RING_PACKED, IN_ORDER];
    (0..8)
        .step_by(pick(1, 3))
        .map(move |n| [one * (n & 1), two * (n >> 1 & 1), three * (n >> 2)].iter().sum())
}

fn two_by(format: u64) -> Vec<Card> {
    cards(vec![(Vlans::default(), feature::ALL | format); 2]).0
}

#[test]
fn frames_come_whole_and_in_order_by_queues_of_each_format() {
    for format in formats() {
        let mut cards = two_by(format);
        for round in 0..pick(40, 1) {
            // Some fill their buffers to the end, some are divided over several, and none of those is told of without its length.
            let frames = [28, 28 + round, 100, 28, 200].map(|payload| tcp(payload, 0));
            for (header, frame) in &frames {
                let buffers = (header.len() + frame.len()).div_ceil(94);
                cards[1].expect(&vec![94; buffers]);
            }
            for (header, frame) in &frames {
                cards[0].send(header, frame, &[]);
                cards[0].go_on();
            }
            for (_, frame) in &frames {
                let (_, got) = cards[1].received().unwrap();
                assert!(got == *frame, "{format:#x}, round {round}");
                assert_eq!(cards[0].sent().map(|sent| sent.1), Some(0));
            }
            assert!(cards[1].received().is_none() && cards[0].sent().is_none());
            cards[1].next = RECEIVED;
        }
    }
}

#[test]
fn no_card_wants_to_be_notified_of_receive_buffers_more_than_once() {
    for format in formats() {
        let mut card = two_by(format).remove(1);
        let ram = card.ram.clone();
        let ram = ram.get().unwrap();
        let asked: Vec<bool> = (0..4)
            .map(|at| {
                let buffer = Buffer { ipa: Ipa::new(RECEIVED + 2048 * at), size: 2048 };
                let offer = Offer { writable: vec![buffer], ..Offer::default() };
                card.receive.offer(ram, &offer).unwrap();
                let asked = card.receive.show(ram);
                if asked {
                    card.device.write(0x050, Width::Word, 0, NOW);
                }
                asked
            })
            .collect();
        assert_eq!(asked, [true, false, false, false], "{format:#x}");
    }
}
