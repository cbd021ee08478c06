//! The frame pool, and the states a frame passes on its way to a guest.
//!
//! Frames are handed out in naturally aligned power-of-two blocks, the largest first, so that a set
//! laid out one block after the other keeps the blocks' alignment and stage 2 can use blocks too.
//! A set costs what was asked for, rounded up to whole frames, and not the next power of two.
//!
//! Ownership is the bookkeeping: a block is neither `Clone` nor made anywhere but here, so it cannot
//! be freed twice. One that is dropped instead of freed is lost, not unsafe.
//!
//! The buddy allocator keeps its free lists on the hypervisor's heap: an entry for each free block. Who gives many back
//! has the heap given some of them.

use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use buddy_system_allocator::FrameAllocator;

use super::elastic::UNIT;
use super::maintenance::Maintenance;
use super::phys::{self, Ram};
use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::ghost;

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

    /// `phys::erase` has gone over all of it.
    pub(super) fn was_erased(self) -> Block<Clean> {
        self.into_state()
    }
}

impl Block<Scrubbed> {
    /// Cleans the zeroes to the Point of Coherency.
    pub fn clean(self, cpu: &impl Maintenance) -> Block<Clean> {
        cpu.clean_invalidate_to_poc(self.region());
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

    /// What is in them is nobody's any more.
    pub(crate) fn into_dirty(self) -> Frames<Dirty> {
        self.into_state()
    }

    pub(super) fn into_runs(self) -> Vec<Run> {
        self.runs
    }

    pub(super) fn into_state<T>(self) -> Frames<T> {
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
        self.regions().for_each(|region| cpu.clean_invalidate_to_poc(region));
        self.into_state()
    }
}

impl<S> fmt::Debug for Frames<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}

/// There are not that many free frames, or they are in too many pieces.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{wanted} bytes of memory were asked for, {free} are free{}",
    if free < wanted { "" } else { ", but in too many pieces" }
)]
pub struct OutOfFrames {
    /// How many bytes were asked for.
    pub wanted: u64,
    /// How many are free.
    pub free: u64,
}

/// Lets so many bytes of the heap be free, with frames of the pool where they are not; or says that it cannot.
pub type ReserveHeap = fn(&mut FramePool, u64) -> bool;

/// A block may have any size up to the whole of a 48-bit space.
const ORDERS: usize = 37;
const MAX_ORDER: u8 = 36;

/// A set of frames has at most one block for each [`UNIT`] of it and this many, or the heap is seen to once more: its lists
/// grow with the blocks.
pub const FEW_BLOCKS: u64 = 64;

/// What a block takes of the heap, in bytes: in the list that it is allocated to, which grows by doubling, in the one that
/// it is moved to, and in the pool's own.
pub const HEAP_OF_BLOCK: u64 = 96;

/// How many blocks are taken back in one step.
const FEW: usize = 32;

/// After so many blocks that came back the heap is seen to, and how much is to be free then at least, in bytes.
const SOME_BLOCKS: u32 = 64;
const HEAP_OF_SOME: u64 = 16 << 10;

/// All RAM that is not the hypervisor's own. It has no lock: its owner has one.
pub struct FramePool {
    free: FrameAllocator<ORDERS>,
    /// What was added, each byte once.
    ram: Vec<Region<PhysAddr>>,
    free_frames: u64,
    total_frames: u64,
    reserve_heap: Option<ReserveHeap>,
    /// How much of the heap was promised last, in bytes.
    promised: u64,
    /// How many blocks have come back.
    given_back: u32,
}

impl FramePool {
    /// A pool without frames.
    pub const fn new() -> Self {
        Self {
            free: FrameAllocator::new(),
            ram: Vec::new(),
            free_frames: 0,
            total_frames: 0,
            reserve_heap: None,
            promised: 0,
            given_back: 0,
        }
    }

    /// The heap that its lists are on can be given memory so.
    pub fn set_reserve_heap(&mut self, reserve: ReserveHeap) {
        self.reserve_heap = Some(reserve);
    }

    /// Lets so many bytes of the heap be free. Returns whether they are; where nobody has said how, they are.
    pub fn reserve_heap(&mut self, bytes: u64) -> bool {
        self.reserve_heap.is_none_or(|reserve| reserve(self, bytes))
    }

    /// The same for who has much to do for which he allocates frames, too: where they are in many pieces there is more then.
    pub fn promise_heap(&mut self, bytes: u64) -> bool {
        self.promised = bytes;
        self.reserve_heap(bytes)
    }

    /// Whether there is heap for as many blocks again as there are in a set of `bytes` bytes by now.
    fn has_heap_for_more(&mut self, blocks: usize, bytes: u64) -> bool {
        let few = blocks as u64 <= bytes / UNIT + FEW_BLOCKS;
        few || self.reserve_heap(self.promised + blocks as u64 * 2 * HEAP_OF_BLOCK)
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

    /// The size of the largest block that is free, in bytes.
    pub fn largest_block(&mut self) -> u64 {
        let run = (0..=MAX_ORDER).rev().find_map(|order| self.take(order));
        let Some(run) = run else { return 0 };
        let size = run.size();
        self.give_back(run);
        size
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
            let has_room = frames.runs.len() < frames.runs.capacity()
                || self.has_heap_for_more(frames.runs.len(), bytes)
                    && frames.runs.try_reserve(1).is_ok();
            let run = if has_room { self.take(order) } else { None };
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

    /// Takes some of `frames` back. Returns whether that was all.
    pub fn free_some<S>(&mut self, frames: &mut Frames<S>) -> bool {
        self.take_some(&mut frames.runs, |run| run)
    }

    /// Takes a few blocks of a list back: as many as take some thousand instructions. Returns whether that was all.
    pub(super) fn take_some<T>(&mut self, list: &mut Vec<T>, run: impl Fn(T) -> Run) -> bool {
        for _ in 0..FEW {
            let Some(last) = list.pop() else { return true };
            self.give_back(run(last));
        }
        list.is_empty()
    }

    /// Takes a block back, in whatever state, as [`free`](Self::free) does.
    pub fn free_block<S>(&mut self, block: Block<S>) {
        self.give_back(block.run);
    }

    fn take(&mut self, order: u8) -> Option<Run> {
        let number = self.free.alloc(1 << order)?;
        self.free_frames -= 1 << order;
        let run = Run { start: PhysAddr::new(number as u64 * PAGE_SIZE), order };
        ghost::take(run.region());
        Some(run)
    }

    pub(super) fn give_back(&mut self, run: Run) {
        // A block can span two regions that touch, so ask for its ends.
        let ours = |at| self.ram.iter().any(|region| region.contains(at));
        assert!(ours(run.start) && ours(run.region().last()), "freed to another pool: {run:?}");
        ghost::give_back(run.region());
        self.free.dealloc(frame_number(run.start), 1 << run.order);
        self.free_frames += 1 << run.order;
        self.given_back = self.given_back.wrapping_add(1);
        if self.given_back.is_multiple_of(SOME_BLOCKS) {
            // If there is none, the next ones may do with what there is.
            let _ = self.reserve_heap(HEAP_OF_SOME);
        }
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

#[cfg(test)]
mod exhaustive;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pick;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_largest_free_block_is_what_can_be_had_in_one_piece() {
        let mut pool = pool(0x4000_0000, GIB + PAGE_SIZE);
        assert_eq!(pool.largest_block(), GIB);
        let block = pool.allocate_block(18).unwrap();
        assert_eq!((pool.largest_block(), pool.free_bytes()), (PAGE_SIZE, PAGE_SIZE));
        pool.free_block(block);
        assert_eq!(FramePool::new().largest_block(), 0);
    }

    fn region(start: u64, size: u64) -> Region<PhysAddr> {
        Region::new(PhysAddr::new(start), size).unwrap()
    }

    /// A pool over RAM that does not exist: no test here touches it.
    fn pool(start: u64, size: u64) -> FramePool {
        let mut pool = FramePool::new();
        pool.add(Ram::imaginary(start, size), &[]);
        pool
    }

    fn sizes(frames: &Frames<Dirty>) -> Vec<u64> {
        frames.regions().map(|region| region.size()).collect()
    }

    #[test]
    fn three_gibibytes_cost_three_gibibytes_in_two_blocks() {
        let mut pool = pool(0x4000_0000, 8 * GIB);
        let frames = pool.allocate(3 * GIB).unwrap();
        assert_eq!(sizes(&frames), [2 * GIB, GIB]);
        assert_eq!(pool.free_bytes(), 5 * GIB);
        assert!(frames.regions().all(|block| block.start().is_aligned(block.size())));
        pool.free(frames);
        assert_eq!(pool.free_bytes(), 8 * GIB);
    }

    #[test]
    fn an_odd_size_wastes_less_than_a_frame() {
        let mut pool = pool(0x4000_0000, GIB);
        let frames = pool.allocate((7 << 20) + 1).unwrap();
        assert_eq!(sizes(&frames), [4 << 20, 2 << 20, 1 << 20, 4096]);
        pool.free(frames);
        assert_eq!(pool.allocate(0).unwrap().size(), 0);
    }

    #[test]
    fn fragmented_memory_is_used_to_the_last_frame() {
        let mut pool = pool(0x1000_0000, 64 * 4096);
        let single: Vec<_> = (0..64).map(|_| pool.allocate_block(0).unwrap()).collect();
        let (free, kept): (Vec<_>, Vec<_>) =
            single.into_iter().partition(|block| block.region().start().is_aligned(8192));
        free.into_iter().for_each(|block| pool.free_block(block));
        let frames = pool.allocate(32 * 4096).unwrap();
        assert_eq!(sizes(&frames), [4096; 32]);
        assert_eq!(pool.allocate(1).unwrap_err(), OutOfFrames { wanted: 1, free: 0 });
        pool.free(frames);
        kept.into_iter().for_each(|block| pool.free_block(block));
        assert_eq!(sizes(&pool.allocate(64 * 4096).unwrap()), [64 * 4096]);
    }

    #[test]
    fn more_than_there_is_changes_nothing() {
        let mut pool = pool(0x1000_0000, 5 * 4096);
        for wanted in [5 * 4096 + 1, GIB, u64::MAX] {
            assert_eq!(pool.allocate(wanted).unwrap_err(), OutOfFrames { wanted, free: 5 * 4096 });
        }
        assert!(pool.allocate_block(3).is_none());
        assert!(pool.allocate_block(MAX_ORDER).is_none());
        assert!(pool.allocate_block(u8::MAX).is_none());
        assert_eq!(pool.allocate(5 * 4096).unwrap().size(), 5 * 4096);
    }

    #[test]
    fn what_is_reserved_even_in_part_is_never_handed_out() {
        let mut pool = FramePool::new();
        let reserved = [region(0x1000_0800, 1), region(0x1000_4fff, 2), region(0, 0x1000_0001)];
        pool.add(Ram::imaginary(0x0fff_f800, 0x9000), &reserved);
        // Frames 0x1000_0 (twice), 4 and 5 are reserved, 7 and the first are not whole.
        assert_eq!(pool.free_bytes(), 5 * 4096);
        let frames = pool.allocate(5 * 4096).unwrap();
        for hole in reserved {
            assert!(frames.regions().all(|block| !block.overlaps(&hole)));
        }
    }

    #[test]
    fn memory_that_is_added_twice_is_there_once() {
        let mut pool = pool(0x1000_0000, 0x4000);
        pool.add(Ram::imaginary(0x1000_2000, 0x4000), &[]);
        assert_eq!(pool.total_bytes(), 0x6000);
        let frames = pool.allocate(0x6000).unwrap();
        let starts: BTreeSet<_> = frames.regions().map(|block| block.start()).collect();
        assert_eq!(starts.len(), frames.regions().len());
    }

    #[test]
    fn neither_frame_zero_nor_what_lies_beyond_48_bits_is_used() {
        let mut pool = pool(0, 0x3000);
        assert_eq!(pool.total_bytes(), 0x2000);
        pool.add(Ram::imaginary((1 << 48) - 0x1000, u64::MAX - (1 << 48)), &[]);
        assert_eq!(pool.total_bytes(), 0x3000);
        pool.add(Ram::imaginary(0x10_0001, 0x1ffd), &[]);
        assert_eq!(pool.total_bytes(), 0x3000);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u64),
        Block(u8),
        Free(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..pick(200, 20) * 4096u64).prop_map(Step::Allocate),
            (0..8u8).prop_map(Step::Block),
            any::<prop::sample::Index>().prop_map(Step::Free),
        ]
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]
        #[test]
        fn every_frame_has_one_owner_and_the_count_is_exact(
            start in 1..600u64,
            steps in prop::collection::vec(step(), 1..pick(40, 8)),
        ) {
            const TOTAL: u64 = pick(555, 55);
            let mut pool = pool(start * 4096, TOTAL * 4096);
            let all: BTreeSet<u64> = (start..start + TOTAL).collect();
            let mut owned: BTreeSet<u64> = BTreeSet::new();
            let mut held: Vec<Frames<Dirty>> = Vec::new();
            let numbers = |block: Region<PhysAddr>| {
                block.start().raw() / 4096..=block.last().raw() / 4096
            };
            for step in steps {
                let free = TOTAL - owned.len() as u64;
                let got = match step {
                    Step::Allocate(bytes) => {
                        let frames = pool.allocate(bytes);
                        prop_assert_eq!(frames.is_ok(), bytes.div_ceil(4096) <= free);
                        frames.ok().inspect(|frames| {
                            assert_eq!(frames.size(), bytes.div_ceil(4096) * 4096);
                        })
                    }
                    Step::Block(order) => pool
                        .allocate_block(order)
                        .map(|block| Frames { runs: vec![block.run], state: PhantomData }),
                    Step::Free(index) if !held.is_empty() => {
                        let frames = held.swap_remove(index.index(held.len()));
                        for number in frames.regions().flat_map(numbers) {
                            prop_assert!(owned.remove(&number));
                        }
                        pool.free(frames);
                        None
                    }
                    Step::Free(_) => None,
                };
                if let Some(frames) = got {
                    prop_assert!(sizes(&frames).is_sorted_by(|a, b| a >= b));
                    for block in frames.regions() {
                        prop_assert!(block.start().is_aligned(block.size()));
                    }
                    for number in frames.regions().flat_map(numbers) {
                        prop_assert!(all.contains(&number) && owned.insert(number));
                    }
                    held.push(frames);
                }
                prop_assert_eq!(pool.free_bytes(), (TOTAL - owned.len() as u64) * 4096);
            }
            held.into_iter().for_each(|frames| pool.free(frames));
            prop_assert_eq!(pool.allocate(TOTAL * 4096).map(|frames| frames.size()), Ok(TOTAL * 4096));
        }
    }
}
