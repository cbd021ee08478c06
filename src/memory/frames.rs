//! The frame pool, and the states a frame passes on its way to a guest.
//!
//! Frames are handed out in naturally aligned power-of-two blocks, the largest first, so that a set
//! laid out one block after the other keeps the blocks' alignment and stage 2 can use blocks too.
//! A set costs what was asked for, rounded up to whole frames, and not the next power of two.
//!
//! Ownership is the bookkeeping: a block is neither `Clone` nor made anywhere but here, so it cannot
//! be freed twice. One that is dropped instead of freed is lost, not unsafe.
//!
//! The buddy allocator keeps its free lists on the hypervisor's heap: one node for each free block.

use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use buddy_system_allocator::FrameAllocator;

use super::maintenance::Maintenance;
use super::phys::{self, Ram};
use crate::addr::{PAGE_SIZE, PhysAddr, Region};

/// Holds whatever its last owner wrote.
#[derive(Debug)]
pub enum Dirty {}
/// Holds zeroes, some of them perhaps only in a cache.
#[derive(Debug)]
pub enum Scrubbed {}
/// Holds zeroes in memory itself, where a guest with its caches off reads.
#[derive(Debug)]
pub enum Clean {}

/// `2^order` frames in a row, aligned to their size. Neither `Clone` nor `Copy`: to have it is to own
/// the frames.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Run {
    start: PhysAddr,
    order: u8,
}

impl Run {
    pub(super) const fn start(&self) -> PhysAddr {
        self.start
    }

    pub(super) const fn size(&self) -> u64 {
        PAGE_SIZE << self.order
    }

    pub(super) fn region(&self) -> Region<PhysAddr> {
        Region::new(self.start, self.size()).expect("the pool's addresses have 48 bits")
    }
}

/// One naturally aligned power-of-two block of frames.
#[must_use = "dropped frames are lost to the pool"]
#[derive(Debug)]
pub struct Block<S> {
    run: Run,
    state: PhantomData<S>,
}

impl<S> Block<S> {
    /// Where it lies.
    pub fn region(&self) -> Region<PhysAddr> {
        self.run.region()
    }

    /// The start alone; the caller keeps the ownership in mind and gives it back with `adopt`.
    pub(super) fn into_start(self) -> PhysAddr {
        self.run.start
    }

    /// The block of `2^order` frames that `into_start` took apart.
    pub(super) fn adopt(start: PhysAddr, order: u8) -> Self {
        Self { run: Run { start, order }, state: PhantomData }
    }

    fn into_state<T>(self) -> Block<T> {
        Block { run: self.run, state: PhantomData }
    }
}

impl Block<Dirty> {
    /// Zeroes it.
    pub fn scrub(self) -> Block<Scrubbed> {
        phys::zero(self.region());
        self.into_state()
    }
}

impl Block<Scrubbed> {
    /// Cleans the zeroes to the Point of Coherency.
    pub fn clean(self, cpu: &impl Maintenance) -> Block<Clean> {
        cpu.clean_to_poc(self.region());
        self.into_state()
    }
}

/// A set of blocks in descending order of size.
#[must_use = "dropped frames are lost to the pool"]
pub struct Frames<S> {
    runs: Vec<Run>,
    state: PhantomData<S>,
}

impl<S> Frames<S> {
    /// How many bytes in all.
    pub fn size(&self) -> u64 {
        self.runs.iter().map(Run::size).sum()
    }

    /// Where the blocks lie, in the order in which they are to be laid out.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = Region<PhysAddr>> {
        self.runs.iter().map(Run::region)
    }

    pub(super) fn into_runs(self) -> Vec<Run> {
        self.runs
    }

    fn into_state<T>(self) -> Frames<T> {
        Frames { runs: self.runs, state: PhantomData }
    }
}

impl Frames<Dirty> {
    /// Zeroes all.
    pub fn scrub(self) -> Frames<Scrubbed> {
        self.regions().for_each(phys::zero);
        self.into_state()
    }
}

impl Frames<Scrubbed> {
    /// Cleans the zeroes to the Point of Coherency: after this a guest may have the frames.
    pub fn clean(self, cpu: &impl Maintenance) -> Frames<Clean> {
        self.regions().for_each(|region| cpu.clean_to_poc(region));
        self.into_state()
    }
}

impl<S> fmt::Debug for Frames<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}

/// There are not that many free frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{wanted} bytes of memory were asked for, {free} are free")]
pub struct OutOfFrames {
    /// How many bytes were asked for.
    pub wanted: u64,
    /// How many are free.
    pub free: u64,
}

/// A block may have any size up to the whole of a 48-bit space.
const ORDERS: usize = 37;
const MAX_ORDER: u8 = 36;

/// All RAM that is not the hypervisor's own. It has no lock: its owner has one.
pub struct FramePool {
    free: FrameAllocator<ORDERS>,
    /// What was added, each byte once.
    ram: Vec<Region<PhysAddr>>,
    free_frames: u64,
    total_frames: u64,
}

impl FramePool {
    /// A pool without frames.
    pub const fn new() -> Self {
        Self { free: FrameAllocator::new(), ram: Vec::new(), free_frames: 0, total_frames: 0 }
    }

    /// Adds the whole frames of `ram` that touch none of `reserved`. What was added before is not added
    /// again, nor is the frame at address zero, which is no place for a Rust pointer, nor what lies
    /// beyond 48 bits, which no descriptor reaches.
    pub fn add(&mut self, ram: Ram, reserved: &[Region<PhysAddr>]) {
        let usable = Region::new(PhysAddr::new(PAGE_SIZE), (1 << 48) - PAGE_SIZE);
        let whole = usable.and_then(|all| all.intersection(&ram.region()));
        let mut left: Vec<_> =
            whole.and_then(|region| region.shrink_to(PAGE_SIZE)).into_iter().collect();
        for hole in reserved.iter().chain(&self.ram) {
            let hole = hole.grow_to(PAGE_SIZE);
            left = left.iter().flat_map(|region| region.without(&hole)).flatten().collect();
        }
        for region in left {
            let first = frame_number(region.start());
            let count = region.size() / PAGE_SIZE;
            self.free.add_frame(first, first + to_usize(count));
            self.ram.push(region);
            self.free_frames += count;
            self.total_frames += count;
        }
    }

    /// How many bytes are free.
    pub const fn free_bytes(&self) -> u64 {
        self.free_frames * PAGE_SIZE
    }

    /// How many bytes were added.
    pub const fn total_bytes(&self) -> u64 {
        self.total_frames * PAGE_SIZE
    }

    /// Frames for `bytes` bytes, rounded up to whole frames: the largest blocks there are, in
    /// descending order of size. All of them or none.
    pub fn allocate(&mut self, bytes: u64) -> Result<Frames<Dirty>, OutOfFrames> {
        let error = OutOfFrames { wanted: bytes, free: self.free_bytes() };
        let mut left = bytes.div_ceil(PAGE_SIZE);
        if left > self.free_frames {
            return Err(error);
        }
        let mut frames = Frames { runs: Vec::new(), state: PhantomData };
        let mut order = MAX_ORDER;
        while let Some(log2) = left.checked_ilog2() {
            order = order.min(u8::try_from(log2).unwrap_or(MAX_ORDER));
            let run = if frames.runs.try_reserve(1).is_ok() { self.take(order) } else { None };
            match run {
                Some(run) => {
                    left -= 1 << order;
                    frames.runs.push(run);
                }
                // No block of this size, so none larger: later blocks are not larger either.
                None if order > 0 => order -= 1,
                None => {
                    self.free(frames);
                    return Err(error);
                }
            }
        }
        Ok(frames)
    }

    /// One block of `2^order` frames, aligned to its size.
    pub fn allocate_block(&mut self, order: u8) -> Option<Block<Dirty>> {
        let run = (order <= MAX_ORDER).then(|| self.take(order))??;
        Some(Block { run, state: PhantomData })
    }

    /// Takes frames back, in whatever state. No guest, TLB or device may reach them any more.
    pub fn free<S>(&mut self, frames: Frames<S>) {
        frames.runs.into_iter().for_each(|run| self.give_back(run));
    }

    /// Takes a block back, in whatever state, as [`free`](Self::free) does.
    pub fn free_block<S>(&mut self, block: Block<S>) {
        self.give_back(block.run);
    }

    fn take(&mut self, order: u8) -> Option<Run> {
        let number = self.free.alloc(1 << order)?;
        self.free_frames -= 1 << order;
        Some(Run { start: PhysAddr::new(number as u64 * PAGE_SIZE), order })
    }

    pub(super) fn give_back(&mut self, run: Run) {
        // A block can span two regions that touch, so ask for its ends.
        let ours = |at| self.ram.iter().any(|region| region.contains(at));
        assert!(ours(run.start) && ours(run.region().last()), "freed to another pool: {run:?}");
        self.free.dealloc(frame_number(run.start), 1 << run.order);
        self.free_frames += 1 << run.order;
    }
}

impl Default for FramePool {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramePool")
            .field("ram", &self.ram)
            .field("free_bytes", &self.free_bytes())
            .finish_non_exhaustive()
    }
}

fn frame_number(at: PhysAddr) -> usize {
    to_usize(at.raw() / PAGE_SIZE)
}

fn to_usize(frames: u64) -> usize {
    usize::try_from(frames).expect("addresses have as many bits as pointers")
}
