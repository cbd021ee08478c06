//! A ring of bytes that keeps the newest: a guest's scrollback, and the log on its way out.
//!
//! Every byte ever written has a position, counted from the first; readers keep positions and find out
//! what was overwritten by comparing.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::black_box;

/// The least a ring has, in bytes: more than a line that is kept together.
const LEAST: usize = 1024;

/// The newest bytes written.
pub struct Ring {
    bytes: Box<[u8]>,
    end: u64,
}

impl Ring {
    /// A ring of `capacity` bytes, at least 1 KiB; of less when there is not so much memory and a block of
    /// `reserve` bytes for others.
    pub fn new(capacity: usize, reserve: usize) -> Self {
        let mut others = Vec::<u8>::new();
        // An allocation of which nothing is seen could be left out.
        let enough = black_box(&mut others).try_reserve_exact(reserve).is_ok();
        let mut capacity = if enough { capacity.max(LEAST) } else { LEAST };
        let mut bytes = Vec::new();
        while capacity > LEAST && bytes.try_reserve_exact(capacity).is_err() {
            capacity /= 2;
        }
        drop(black_box(others));
        let capacity = capacity.max(LEAST);
        bytes.resize(capacity, 0);
        Self { bytes: bytes.into_boxed_slice(), end: 0 }
    }

    /// How many bytes it keeps.
    pub const fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// The position behind the newest byte: how many were ever written.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The position of the oldest byte that is kept.
    pub const fn start(&self) -> u64 {
        self.end.saturating_sub(self.bytes.len() as u64)
    }

    /// Appends `byte`, over the oldest when it is full.
    pub fn push(&mut self, byte: u8) {
        let at = self.index(self.end);
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
            self.end += 1;
        }
    }

    /// The bytes from position `from` on, as far as they are kept.
    pub fn iter_from(&self, from: u64) -> impl Iterator<Item = u8> + '_ {
        (from.max(self.start())..self.end)
            .map_while(|position| self.bytes.get(self.index(position)).copied())
    }

    fn index(&self, position: u64) -> usize {
        usize::try_from(position % (self.bytes.len() as u64).max(1)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_are_kept_with_their_positions() {
        let mut ring = Ring::new(1024, 0);
        for number in 0..3000u32 {
            ring.push(number.to_le_bytes()[0]);
        }
        assert_eq!((ring.start(), ring.end(), ring.capacity()), (1976, 3000, 1024));
        let kept: Vec<u8> = ring.iter_from(0).collect();
        let newest: Vec<u8> = (1976..3000u32).map(|number| number.to_le_bytes()[0]).collect();
        assert_eq!(kept, newest);
        assert_eq!(ring.iter_from(2999).collect::<Vec<_>>(), [183]);
        assert_eq!(ring.iter_from(3000).count(), 0);
    }
}
