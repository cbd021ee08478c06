//! What waits for one end of a stream: a ring of bytes that is filled and emptied where it is, so that they are copied
//! once on their way in and once on their way out. Its memory is there from the beginning: no guest's packet takes any of the heap.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Bytes in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Where the first is.
    first: usize,
    /// How many there are.
    count: usize,
}

impl Buffer {
    /// One that is to have room for so many, if there is memory. It has none before it is [opened](Self::open).
    pub fn new(room: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room).ok()?;
        Some(Self { bytes, first: 0, count: 0 })
    }

    /// Nothing is in it, and there is room. What was in it before cannot be reached: only what was filled can.
    pub fn open(&mut self) {
        // Here, and not where the memory of all of a guest's buffers is taken: that would be much at one go.
        self.bytes.resize(self.bytes.capacity(), 0);
        self.clear();
    }

    /// Nothing is in it.
    pub const fn clear(&mut self) {
        (self.first, self.count) = (0, 0);
    }

    /// How many bytes there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Where the next `count` bytes go: those that there is room for, in two pieces.
    pub fn room(&mut self, count: usize) -> [&mut [u8]; 2] {
        let count = count.min(self.bytes.len() - self.count);
        let at = self.wrapped(self.first + self.count);
        let (start, end) = self.bytes.split_at_mut(at);
        let first = count.min(end.len());
        [&mut end[..first], &mut start[..count - first]]
    }

    /// So many were put where there is room.
    pub fn fill(&mut self, count: usize) {
        self.count += count.min(self.bytes.len() - self.count);
    }

    /// The first `count` bytes, in two pieces.
    pub fn front(&self, count: usize) -> [&[u8]; 2] {
        let count = count.min(self.count);
        let (start, end) = self.bytes.split_at(self.first);
        let first = count.min(end.len());
        [&end[..first], &start[..count - first]]
    }

    /// The first `count` bytes are not needed any more.
    pub fn take(&mut self, count: usize) {
        let count = count.min(self.count);
        self.first = self.wrapped(self.first + count);
        self.count -= count;
    }

    /// A place at most twice the ring's size from its start.
    const fn wrapped(&self, at: usize) -> usize {
        if at >= self.bytes.len() { at - self.bytes.len() } else { at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn what_is_put_in_comes_out_in_its_order(
            room in 0usize..20,
            steps in prop::collection::vec((0usize..25, 0usize..25), 0..60),
        ) {
            let mut buffer = Buffer::new(room).unwrap();
            prop_assert!(buffer.room(1).concat().is_empty());
            buffer.open();
            let room = buffer.bytes.len();
            let mut plain = VecDeque::new();
            let mut next = 0u8;
            for (put, taken) in steps {
                let mut filled = 0;
                for byte in buffer.room(put).into_iter().flatten() {
                    *byte = next;
                    plain.push_back(next);
                    next = next.wrapping_add(1);
                    filled += 1;
                }
                prop_assert_eq!(filled, put.min(room - buffer.len()));
                buffer.fill(filled);
                let front: Vec<u8> = buffer.front(taken).concat();
                let want: Vec<u8> = plain.iter().copied().take(taken).collect();
                prop_assert_eq!(front, want);
                buffer.take(taken);
                plain.drain(..taken.min(plain.len()));
                prop_assert_eq!(buffer.len(), plain.len());
            }
        }
    }
}
