//! Which of a card's receive queues a frame goes to ("Automatic receive steering in multiqueue mode").
//!
//! A conversation comes in by the pair of queues by which its guest sends it, so one vCPU has both directions. One that it
//! has not spoken in is spread by its number. It moves to another pair when some packets one after the other were sent by
//! that: a guest that answers on two vCPUs in turn would otherwise get what comes in out of order. What is kept is a hint:
//! two conversations that share an entry are steered as one.

use alloc::vec::Vec;

use crate::sync::atomic::{AtomicU8, Ordering};

/// The most pairs of a receive and a transmit queue.
pub const MAX_PAIRS: u8 = 4;

/// After how many packets by another pair a conversation moves.
const STEADY: u8 = 16;

/// How many entries there are for conversations, as a power of two.
const ORDER: u32 = 8;

/// A card's pairs of queues, and who uses which.
#[derive(Debug)]
pub struct Steering {
    /// How many the driver uses.
    pairs: AtomicU8,
    /// For some of a flow's bits: in the lower half one more than its pair, or 0, and in the upper half how many packets were
    /// sent by another one since.
    last: [AtomicU8; 1 << ORDER],
}

impl Default for Steering {
    /// One pair.
    fn default() -> Self {
        Self { pairs: AtomicU8::new(1), last: [const { AtomicU8::new(0) }; 1 << ORDER] }
    }
}

impl Steering {
    /// How many pairs are in use: 1 to [`MAX_PAIRS`].
    #[inline]
    pub fn pairs(&self) -> u8 {
        self.pairs.load(Ordering::Relaxed)
    }

    /// So many are in use from now on. Nobody puts a frame into a queue meanwhile.
    pub(super) fn set_pairs(&self, pairs: u8) {
        self.pairs.store(pairs.clamp(1, MAX_PAIRS), Ordering::Relaxed);
    }

    /// What is known of conversations, as plain data.
    pub(super) fn save(&self) -> Vec<u8> {
        self.last.iter().map(|last| last.load(Ordering::Relaxed)).collect()
    }

    /// Goes on from that, whatever it is: it only chooses queues.
    pub(super) fn restore(&self, saved: &[u8]) {
        for (last, saved) in self.last.iter().zip(saved) {
            last.store(*saved, Ordering::Relaxed);
        }
    }

    /// The guest has sent something of `flow` by `pair`.
    pub(super) fn sent(&self, flow: u32, pair: u8) {
        let Some(entry) = self.entry(flow) else { return };
        let (new, old) = (pair.saturating_add(1) & 15, entry.load(Ordering::Relaxed));
        let others = (old >> 4) + 1;
        let next = match old & 15 {
            at if at == new || at == 0 || others == STEADY => new,
            at => others << 4 | at,
        };
        if next != old {
            entry.store(next, Ordering::Relaxed);
        }
    }

    /// The pair by which a frame of `flow` comes in, which is asked for where there are several.
    #[inline]
    pub fn pair(&self, flow: impl FnOnce() -> u32) -> u8 {
        match self.pairs() {
            0 | 1 => 0,
            pairs => self.among(pairs, flow()),
        }
    }

    fn among(&self, pairs: u8, flow: u32) -> u8 {
        let last = self.entry(flow).map_or(0, |last| last.load(Ordering::Relaxed) & 15);
        match last.checked_sub(1).filter(|pair| *pair < pairs) {
            Some(pair) => pair,
            // Other bits than those that choose an entry.
            None => flow.to_le_bytes()[2] % pairs,
        }
    }

    fn entry(&self, flow: u32) -> Option<&AtomicU8> {
        self.last.get((flow >> (u32::BITS - ORDER)) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOWS: [u32; 3] = [0x0100_0000, 0x0201_0000, 0xff02_0000];

    #[test]
    fn what_its_guest_has_sent_comes_in_by_the_same_pair_and_the_rest_is_spread() {
        let steering = Steering::default();
        assert_eq!(FLOWS.map(|flow| steering.pair(|| flow)), [0; 3]);
        steering.set_pairs(4);
        assert_eq!(FLOWS.map(|flow| steering.pair(|| flow)), [0, 1, 2]);
        let sent = |pair, times| (0..times).for_each(|_| steering.sent(FLOWS[2], pair));
        // The first time at once, then when it has become steady.
        sent(3, 1);
        assert_eq!(FLOWS.map(|flow| steering.pair(|| flow)), [0, 1, 3]);
        for (before, pair) in [(3, 1), (1, 0)] {
            sent(pair, STEADY - 1);
            sent(before, 1);
            sent(pair, STEADY - 1);
            assert_eq!(FLOWS.map(|flow| steering.pair(|| flow)), [0, 1, before]);
            sent(pair, 1);
            assert_eq!(FLOWS.map(|flow| steering.pair(|| flow)), [0, 1, pair]);
        }
    }

    #[test]
    fn a_pair_that_is_not_in_use_is_never_chosen_and_one_alone_needs_no_look_at_the_frame() {
        let steering = Steering::default();
        steering.set_pairs(4);
        FLOWS.iter().for_each(|flow| steering.sent(*flow, 3));
        steering.set_pairs(2);
        assert_eq!(FLOWS.map(|flow| steering.pair(|| flow)), [0, 1, 0]);
        steering.set_pairs(1);
        assert_eq!(steering.pair(|| unreachable!("nobody asks")), 0);
        for (asked, got) in [(0, 1), (200, MAX_PAIRS)] {
            steering.set_pairs(asked);
            assert_eq!(steering.pairs(), got);
        }
    }
}
