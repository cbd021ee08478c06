//! Frames that the hypervisor keeps something in: bytes in a row, reached by value at offsets from the first one.
//!
//! What does not fit on the heap is kept here: the blocks of disks, and the tables that say where they are. Frames come as
//! whoever had them last has left them; who keeps a store reads nothing that he has not written.

use alloc::vec::Vec;

use super::frames::{FramePool, OutOfFrames, Run};
use super::phys;
use super::segment::Segment;
use crate::addr::{PhysAddr, Region};

/// One block of frames, and where in the store it ends.
#[derive(Debug)]
struct Piece {
    end: u64,
    run: Run,
}

/// Bytes in frames. It owns the frames.
#[must_use = "its frames are lost unless they are released"]
#[derive(Debug, Default)]
pub struct Store {
    pieces: Vec<Piece>,
}

impl Store {
    /// Frames for `bytes` bytes, rounded up to whole frames. Nothing has been written to them.
    ///
    /// # Errors
    /// There are not so many, or no room on the heap to note them.
    pub fn take(pool: &mut FramePool, bytes: u64) -> Result<Self, OutOfFrames> {
        let frames = pool.allocate(bytes)?;
        let mut pieces = Vec::new();
        if pieces.try_reserve_exact(frames.regions().len()).is_err() {
            pool.free(frames);
            return Err(OutOfFrames { wanted: bytes, free: pool.free_bytes() });
        }
        let mut end = 0;
        for run in frames.into_runs() {
            end += run.size();
            pieces.push(Piece { end, run });
        }
        Ok(Self { pieces })
    }

    /// Gives all frames back to the pool.
    pub fn release(self, pool: &mut FramePool) {
        self.pieces.into_iter().for_each(|piece| pool.give_back(piece.run));
    }

    /// Gives some of its frames back, the last ones. Returns whether that was all.
    pub fn release_some(&mut self, pool: &mut FramePool) -> bool {
        pool.take_some(&mut self.pieces, |piece| piece.run)
    }

    /// How many bytes.
    pub fn size(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.end)
    }

    /// Reads the word at `offset`, a multiple of 4.
    ///
    /// # Panics
    /// It lies outside.
    pub fn word(&self, offset: u64) -> u32 {
        phys::read(self.within(offset, 4))
    }

    /// Writes the word at `offset`, a multiple of 4.
    ///
    /// # Panics
    /// It lies outside.
    pub fn set_word(&self, offset: u64, value: u32) {
        phys::write(self.within(offset, 4), value);
    }

    /// Writes `bytes` from `offset` on.
    ///
    /// # Panics
    /// Not all of them lie inside.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in self.pieces(offset, bytes.len() as u64) {
            let size = usize::try_from(piece.size()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(size.min(rest.len()));
            phys::write_from(piece.start(), now);
            rest = later;
        }
    }

    /// Zeroes `size` bytes from `offset` on.
    ///
    /// # Panics
    /// Not all of them lie inside.
    pub fn zero(&self, offset: u64, size: u64) {
        self.pieces(offset, size).for_each(phys::zero);
    }

    /// Copies `size` bytes, which neither there nor here leave a frame, from `at` of the store `from`. If that is this one, they do not overlap.
    ///
    /// # Panics
    /// Not all of them lie inside.
    pub fn copy(&self, offset: u64, from: &Self, at: u64, size: u64) {
        phys::copy(from.within(at, size), self.within(offset, size), size);
    }

    /// The `size` bytes from `offset` on for a device of the machine's.
    ///
    /// # Panics
    /// Not all of them lie inside.
    pub fn segments(&self, offset: u64, size: u64) -> impl Iterator<Item = Segment> {
        self.pieces(offset, size).map(Segment::new)
    }

    /// Where `size` bytes from `offset` on lie, which leave no frame.
    pub(super) fn within(&self, offset: u64, size: u64) -> PhysAddr {
        let first = match self.pieces.as_slice() {
            [only] => Some(only),
            all => all.get(all.partition_point(|piece| piece.end <= offset)),
        };
        let found = first.and_then(|piece| {
            let within = offset.wrapping_sub(piece.end - piece.run.size());
            // What lies there is copied, and nobody goes by it: a CPU may guess.
            let inside = within <= piece.run.size() && size <= piece.run.size() - within;
            (inside && size != 0).then(|| piece.run.start().raw().wrapping_add(within))
        });
        PhysAddr::new(found.expect("bytes of a frame of this store"))
    }

    /// Where the bytes lie.
    fn pieces(&self, offset: u64, size: u64) -> impl Iterator<Item = Region<PhysAddr>> {
        let end = offset.checked_add(size).filter(|end| *end <= self.size());
        let end = end.expect("bytes of this store");
        let first = self.pieces.partition_point(|piece| piece.end <= offset);
        let touched = self.pieces.get(first..).unwrap_or_default().iter();
        touched.map_while(move |piece| {
            let start = piece.end - piece.run.size();
            let (from, to) = (offset.max(start), end.min(piece.end));
            Region::new(piece.run.start().checked_add(from - start)?, to.checked_sub(from)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Ipa;
    use crate::memory::{GuestMemory, Ram, Recorder};

    const SIZE: u64 = 7 * 4096;

    fn pool() -> FramePool {
        let mut pool = FramePool::new();
        pool.add(Ram::from_heap(16 * 4096, 16 * 4096).unwrap(), &[]);
        pool
    }

    fn bytes(of: &Store) -> Vec<u8> {
        let mut all = Vec::new();
        for piece in of.pieces(0, of.size()) {
            let before = all.len();
            all.resize(before + usize::try_from(piece.size()).unwrap(), 0);
            phys::read_into(piece.start(), &mut all[before..]);
        }
        all
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn what_is_written_at_any_place_is_there_and_nothing_else_changes() {
        let mut pool = pool();
        let store = Store::take(&mut pool, SIZE - 10).unwrap();
        assert_eq!(store.size(), SIZE);
        store.zero(0, SIZE);
        let mut model = alloc::vec![0u8; 7 * 4096];
        for (at, size) in [(0, 5), (4090, 20), (16380, 9000), (28671, 1), (5, 0)] {
            let text: Vec<u8> = (0..size).map(|n: u32| (n % 251 + 1).to_le_bytes()[0]).collect();
            store.write(at, &text);
            let at = usize::try_from(at).unwrap();
            model[at..at + text.len()].copy_from_slice(&text);
        }
        store.zero(8191, 8000);
        model[8191..16191].fill(0);
        store.set_word(12, 0x1234_5678);
        model[12..16].copy_from_slice(&0x1234_5678u32.to_le_bytes());
        assert!(bytes(&store) == model);
        assert_eq!((store.word(12), store.word(8188)), (0x1234_5678, word(&model, 8188)));
        store.release(&mut pool);
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }

    #[test]
    #[should_panic(expected = "bytes of this store")]
    fn nothing_beyond_the_end_is_reached() {
        Store::take(&mut pool(), SIZE).unwrap().zero(SIZE - 1, 2);
    }

    #[test]
    fn guests_and_stores_copy_at_every_alignment() {
        let mut pool = pool();
        let (store, back) = (Store::take(&mut pool, 4096), Store::take(&mut pool, 4096));
        let (store, back) = (store.unwrap(), back.unwrap());
        let base = Ipa::new(0x4000_0000);
        let frames = pool.allocate(3 * 4096).unwrap().scrub().clean(&Recorder::default());
        let mut ram = GuestMemory::new();
        ram.add(base, frames).unwrap();
        let text: Vec<u8> = (0..4096u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
        store.write(0, &text);
        let zeroes = [0; 4096];
        let step = crate::testing::pick(1, 9);
        for from in (0..17).step_by(step) {
            for to in (0..19).step_by(step) {
                for size in [1u64, 7, 15, 16, 33, 64, 100, 200]
                    .into_iter()
                    .step_by(crate::testing::pick(1, 3))
                {
                    back.zero(0, 4096);
                    // Across the end of a frame of the guest's, which is the end of a piece.
                    let ipa = base.checked_add(8192 - 90 + to).unwrap();
                    ram.copy_from(ipa, &store, from, size).unwrap();
                    ram.copy_to(ipa, &back, 2 * from, size).unwrap();
                    let all = bytes(&back);
                    let [from, size] = [from, size].map(|n| usize::try_from(n).unwrap());
                    assert_eq!(all[2 * from..2 * from + size], text[from..from + size]);
                    assert!(all[..2 * from] == zeroes[..2 * from]);
                    assert!(all[2 * from + size..] == zeroes[2 * from + size..]);
                }
            }
        }
        let beyond = base.checked_add(3 * 4096 - 1).unwrap();
        assert!(ram.copy_from(beyond, &store, 0, 2).is_err());
        assert!(ram.copy_to(beyond, &store, 0, 2).is_err());
        assert!(bytes(&store) == text);
    }
}
