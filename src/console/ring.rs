//! A ring of bytes that keeps the newest: a guest's scrollback, and the log on its way out.
//!
//! Every byte ever written has a position, counted from the first; readers keep positions and find out
//! what was overwritten by comparing.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::hint::black_box;

/// The least a ring has, in bytes: more than a line that is kept together.
const LEAST: usize = 1024;
/// What a ring has from the start, if it may: what a guest may be ahead of the line.
const FIRST: usize = 4096;
/// How much it grows by at most, in bytes, as who writes waits for that, and its CPU with it.
const PART: usize = 16 << 10;

/// The newest bytes written.
pub struct Ring {
    /// All but the first and the last are [`PART`] long, and the first as long as there is another one.
    parts: Vec<Vec<u8>>,
    /// How long they are together.
    capacity: usize,
    end: u64,
    /// The part that the next byte goes into, and where in it: behind its end if another one is to be found first.
    next: (usize, usize),
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
        let first = limit.min(FIRST);
        let parts = alloc::vec![alloc::vec![0; first]];
        Self { parts, capacity: first, end: 0, next: (0, 0), limit, reserve }
    }

    /// More room behind what there is. Nothing was overwritten so far: every byte stays where it is.
    #[cold]
    fn grow(&mut self) {
        let mut others = Vec::<u8>::new();
        // An allocation of which nothing is seen could be left out.
        let enough = black_box(&mut others).try_reserve_exact(self.reserve).is_ok();
        if !enough || self.add().is_err() {
            self.limit = self.capacity;
        }
        drop(black_box(others));
    }

    fn add(&mut self) -> Result<(), TryReserveError> {
        let room = self.limit.saturating_sub(self.capacity);
        match self.parts.as_mut_slice() {
            [only] if only.len() < PART => {
                let more = room.min(only.len()).min(PART.saturating_sub(only.len()));
                only.try_reserve_exact(more)?;
                only.resize(only.len().saturating_add(more), 0);
                self.capacity = self.capacity.saturating_add(more);
            }
            _ => {
                let (mut part, size) = (Vec::new(), room.min(PART));
                part.try_reserve_exact(size)?;
                self.parts.try_reserve(1)?;
                part.resize(size, 0);
                self.parts.push(part);
                self.capacity = self.capacity.saturating_add(size);
            }
        }
        Ok(())
    }

    /// How many bytes it keeps at the moment.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// The position behind the newest byte: how many were ever written.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The position of the oldest byte that is kept.
    pub const fn start(&self) -> u64 {
        self.end.saturating_sub(self.capacity as u64)
    }

    /// Appends `byte`, over the oldest when it is full.
    #[inline]
    pub fn push(&mut self, byte: u8) {
        let (part, at) = self.next;
        if self.parts.get(part).is_none_or(|part| at >= part.len()) {
            self.turn();
        }
        let (part, at) = self.next;
        if let Some(slot) = self.parts.get_mut(part).and_then(|part| part.get_mut(at)) {
            *slot = byte;
            self.end = self.end.wrapping_add(1);
            self.next.1 = at.wrapping_add(1);
        }
    }

    /// A part is full: where it goes on.
    #[cold]
    #[inline(never)]
    fn turn(&mut self) {
        if self.capacity < self.limit && self.end == self.capacity as u64 {
            self.grow();
        }
        let (part, at) = self.next;
        if self.parts.get(part).is_some_and(|part| at < part.len()) {
            return; // it has grown
        }
        let after = part.wrapping_add(1);
        self.next = (if after < self.parts.len() { after } else { 0 }, 0);
    }

    /// The bytes from position `from` on, as far as they are kept.
    pub fn iter_from(&self, from: u64) -> impl Iterator<Item = u8> + '_ {
        let from = from.max(self.start());
        let (mut part, mut at) = self.place(from);
        let mut bytes = self.part(part);
        (from..self.end).map_while(move |_| {
            if at >= bytes.len() {
                let after = part.wrapping_add(1);
                part = if after < self.parts.len() { after } else { 0 };
                (bytes, at) = (self.part(part), 0);
            }
            let byte = bytes.get(at).copied();
            at = at.wrapping_add(1);
            byte
        })
    }

    fn part(&self, number: usize) -> &[u8] {
        self.parts.get(number).map_or(&[], Vec::as_slice)
    }

    fn place(&self, position: u64) -> (usize, usize) {
        let index = position % (self.capacity as u64).max(1);
        let index = usize::try_from(index).unwrap_or(0);
        (index / PART, index % PART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pick;

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
        let limits = [5000, 100, 16384, 20000, 49152, 50000];
        let all = pick(120_000, 6000u64);
        for limit in limits.into_iter().take(pick(limits.len(), 1)) {
            let mut ring = Ring::new(limit, 0);
            let byte = |position: u64| position.to_le_bytes()[0] ^ position.to_le_bytes()[1];
            for position in 0..all {
                ring.push(byte(position));
                let most = limit.max(1024) as u64;
                assert_eq!(ring.start(), (position + 1).saturating_sub(most));
                assert!(ring.capacity() as u64 <= most);
            }
            let newest: Vec<u8> = (ring.start()..all).map(byte).collect();
            assert!(ring.iter_from(0).eq(newest));
        }
        assert_eq!(Ring::new(1 << 20, 0).capacity(), 4096);
    }
}
