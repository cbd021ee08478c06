//! What waits for one end of a stream: a ring of bytes that is filled and emptied where it is, so that they are copied
//! once on their way in and once on their way out.

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
    /// With room for so many, if there is memory.
    pub fn new(room: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room).ok()?;
        bytes.resize(room, 0);
        Some(Self { bytes, first: 0, count: 0 })
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
        #![proptest_config(crate::testing::cases(256, 4))]

        #[test]
        fn what_is_put_in_comes_out_in_its_order(
            room in 0usize..20,
            steps in prop::collection::vec((0usize..25, 0usize..25), 0..60),
        ) {
            let mut buffer = Buffer::new(room).unwrap();
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
