//! A ring of bytes that keeps the newest: a guest's scrollback, and the log on its way out.
//!
//! Every byte ever written has a position, counted from the first; readers keep positions and find out
//! what was overwritten by comparing.

use alloc::vec::Vec;
use core::hint::black_box;

/// The least a ring has, in bytes: more than a line that is kept together.
const LEAST: usize = 1024;
/// What a ring has from the start, if it may: what a guest may be ahead of the line.
const FIRST: usize = 4096;

/// The newest bytes written.
pub struct Ring {
    bytes: Vec<u8>,
    end: u64,
    /// What it grows to when there is more to keep, in bytes.
    limit: usize,
    /// What of memory it leaves to others when it grows, in bytes.
    reserve: usize,
}

impl Ring {
    /// A ring of up to `capacity` bytes, at least 1 KiB. It takes them when it is full, and as long as there is
    /// that much memory and a block of `reserve` bytes for others.
    pub fn new(capacity: usize, reserve: usize) -> Self {
        let limit = capacity.max(LEAST);
        Self { bytes: alloc::vec![0; limit.min(FIRST)], end: 0, limit, reserve }
    }

    /// Twice as much. Nothing was overwritten so far: every byte stays where it is.
    #[cold]
    fn grow(&mut self) {
        let larger = self.bytes.len().saturating_mul(2).min(self.limit);
        let mut others = Vec::<u8>::new();
        // An allocation of which nothing is seen could be left out.
        let enough = black_box(&mut others).try_reserve_exact(self.reserve).is_ok();
        let more = larger - self.bytes.len();
        if enough && self.bytes.try_reserve_exact(more).is_ok() {
            self.bytes.resize(larger, 0);
        } else {
            self.limit = self.bytes.len();
        }
        drop(black_box(others));
    }

    /// How many bytes it keeps at the moment.
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
        if self.bytes.len() < self.limit && self.end == self.bytes.len() as u64 {
            self.grow();
        }
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

    #[test]
    fn it_grows_when_it_is_full_and_no_further_than_it_may() {
        for limit in [100, 5000, 16384, 20000] {
            let mut ring = Ring::new(limit, 0);
            let byte = |position: u64| position.to_le_bytes()[0] ^ position.to_le_bytes()[1];
            for position in 0..50_000u64 {
                ring.push(byte(position));
                let most = limit.max(1024) as u64;
                assert_eq!(ring.start(), (position + 1).saturating_sub(most));
                assert!(ring.capacity() as u64 <= most && ring.capacity() <= 4096 * 8);
            }
            let newest: Vec<u8> = (ring.start()..50_000).map(byte).collect();
            assert!(ring.iter_from(0).eq(newest));
        }
        assert_eq!(Ring::new(1 << 20, 0).capacity(), 4096);
    }
}
