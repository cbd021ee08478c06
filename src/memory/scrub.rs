//! Zeroing many frames in steps, so that nobody waits for all of them.

use super::frames::{Clean, Dirty, Frames};
use super::maintenance::Maintenance;
use super::phys;
use crate::addr::{PhysAddr, Region};

/// How much one step zeroes at most, in bytes: six thousand instructions, 3 for each line of a cache.
const STEP: u64 = 128 << 10;

/// Frames on their way from [`Dirty`] to [`Clean`]. It owns them.
#[must_use = "dropped frames are lost to the pool"]
#[derive(Debug)]
pub struct Scrubbing {
    frames: Frames<Dirty>,
    /// The first block that is not clean yet.
    block: usize,
    /// What is left of it, once it was begun.
    rest: Option<Region<PhysAddr>>,
}

impl Scrubbing {
    /// None of the frames is clean yet.
    pub const fn new(frames: Frames<Dirty>) -> Self {
        Self { frames, block: 0, rest: None }
    }

    /// Zeroes some more, and cleans the zeroes to the Point of Coherency. Returns whether that was all.
    pub fn step(&mut self, cpu: &impl Maintenance) -> bool {
        let block = || self.frames.regions().nth(self.block);
        let Some(region) = self.rest.take().or_else(block) else { return true };
        let (now, rest) = region.split_front(STEP);
        phys::erase(now, cpu);
        self.rest = rest;
        self.block += usize::from(rest.is_none());
        self.is_done()
    }

    fn is_done(&self) -> bool {
        self.block >= self.frames.regions().len()
    }

    /// The frames, if all are clean; otherwise all is as it was.
    pub fn finish(self) -> Result<Frames<Clean>, Self> {
        if self.is_done() { Ok(self.frames.into_state()) } else { Err(self) }
    }

    /// The frames, for the pool.
    pub fn abandon(self) -> Frames<Dirty> {
        self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{FramePool, Operation, Ram, Recorder};
    use alloc::vec::Vec;

    const SIZE: u64 = 23 * 4096;

    fn len(region: Region<PhysAddr>) -> usize {
        usize::try_from(region.size()).unwrap()
    }

    fn dirty(pool: &mut FramePool) -> Frames<Dirty> {
        let frames = pool.allocate(SIZE).unwrap();
        for region in frames.regions() {
            phys::write_from(region.start(), &alloc::vec![0xa5; len(region)]);
        }
        frames
    }

    fn pool() -> FramePool {
        let mut pool = FramePool::new();
        pool.add(Ram::from_heap(32 * 4096, 1 << 17).unwrap(), &[]);
        pool
    }

    #[test]
    fn every_byte_is_zeroed_and_then_cleaned_once_and_no_step_is_long() {
        let (mut pool, cpu) = (pool(), Recorder::default());
        let mut scrubbing = Scrubbing::new(dirty(&mut pool));
        let mut cleaned = Vec::new();
        loop {
            let last = scrubbing.step(&cpu);
            for operation in cpu.take() {
                let Operation::CleanInvalidateToPoc(region) = operation else {
                    panic!("{operation:?}")
                };
                let mut bytes = alloc::vec![1; len(region)];
                phys::read_into(region.start(), &mut bytes);
                assert!(region.size() <= STEP && bytes == alloc::vec![0; bytes.len()]);
                cleaned.push(region);
            }
            if last {
                break;
            }
        }
        let frames = scrubbing.finish().unwrap();
        assert_eq!(cleaned.iter().map(Region::size).sum::<u64>(), SIZE);
        for block in frames.regions() {
            let inside = cleaned.iter().filter(|region| block.contains_region(region));
            assert_eq!(inside.map(Region::size).sum::<u64>(), block.size());
        }
        pool.free(frames);
    }

    #[test]
    fn frames_are_not_clean_before_the_last_step_and_none_is_lost() {
        let (mut pool, cpu) = (pool(), Recorder::default());
        let free = pool.free_bytes();
        let mut scrubbing = Scrubbing::new(dirty(&mut pool));
        while !scrubbing.step(&cpu) {
            scrubbing = match scrubbing.finish() {
                Ok(_) => panic!("it was not the last step"),
                Err(scrubbing) => scrubbing,
            };
        }
        assert!(scrubbing.step(&cpu), "a step too many changes nothing");
        pool.free(scrubbing.abandon());
        assert_eq!(pool.free_bytes(), free);
    }

    #[test]
    fn no_frames_are_clean_at_once() {
        let scrubbing = Scrubbing::new(pool().allocate(0).unwrap());
        assert_eq!(scrubbing.finish().unwrap().size(), 0);
    }
}
