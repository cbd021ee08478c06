//! The frame pool as all CPUs share it, and the way back to it of what a VM gives up while it runs.
//!
//! CPUs read and write guests' RAM without a lock: they look up where it is, and copy. So a block that was taken from a
//! VM may still be read or written by a CPU that looked it up before. It waits in *limbo* until every CPU has been at a
//! place where it has looked up nothing (between two steps of its loop), and is free then. Who reads and writes pays
//! nothing for that; who takes has every CPU called once for all that has come together.
//!
//! Lock order: a VM's stage 2, the limbo, the pool.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::frames::{Block, Dirty, FramePool};
use super::maintenance::Maintenance;
use super::stage2::TableFrames;
use crate::addr::PAGE_SIZE;
use crate::machine::CpuId;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{TicketMutex, TicketMutexGuard};

/// Caches and TLBs, for who has no machine at hand.
pub type Upkeep = &'static (dyn Maintenance + Send + Sync);

/// How many blocks can be in limbo.
const LIMBO: usize = 64;

/// What the pool's lists can need of the heap at most for as many blocks, in bytes.
const HEAP_OF_LIMBO: u64 = 16 << 10;

/// The pool, and how much of it VMs have.
#[derive(Debug, Default)]
pub struct Lender {
    /// The pool.
    pub frames: FramePool,
    /// What VMs have of it, in bytes.
    pub lent: u64,
}

/// The frame pool of a machine.
pub struct SharedPool {
    lender: TicketMutex<Lender>,
    /// Blocks, each with the round that every CPU has to have seen.
    limbo: TicketMutex<Vec<(Block<Dirty>, u64)>>,
    /// How many they are.
    in_limbo: AtomicUsize,
    /// What the CPUs are to see.
    round: AtomicU64,
    /// What each has seen.
    seen: Box<[AtomicU64]>,
    upkeep: Upkeep,
}

impl SharedPool {
    /// `frames`, on a machine with so many CPUs.
    pub fn new(frames: FramePool, cpus: usize, upkeep: Upkeep) -> Self {
        Self {
            lender: TicketMutex::new(Lender { frames, lent: 0 }),
            limbo: TicketMutex::new(Vec::with_capacity(LIMBO)),
            in_limbo: AtomicUsize::new(0),
            round: AtomicU64::new(0),
            seen: (0..cpus).map(|_| AtomicU64::new(0)).collect(),
            upkeep,
        }
    }

    /// The pool itself.
    pub fn lock(&self) -> TicketMutexGuard<'_, Lender> {
        self.lender.lock()
    }

    /// The pool itself, if nobody has it.
    pub fn try_lock(&self) -> Option<TicketMutexGuard<'_, Lender>> {
        self.lender.try_lock()
    }

    /// Caches and TLBs.
    pub const fn upkeep(&self) -> Upkeep {
        self.upkeep
    }

    /// A block for a VM.
    pub(super) fn lend(&self, order: u8) -> Option<Block<Dirty>> {
        let mut lender = self.lender.lock();
        let block = lender.frames.allocate_block(order)?;
        lender.lent += block.region().size();
        Some(block)
    }

    /// A VM gives a block back that nobody can reach.
    pub(super) fn take_back<S>(&self, block: Block<S>) {
        let mut lender = self.lender.lock();
        lender.lent = lender.lent.saturating_sub(block.region().size());
        lender.frames.free_block(block);
    }

    /// The limbo, if there is room in it.
    pub(super) fn limbo(&self) -> Option<Limbo<'_>> {
        let blocks = self.limbo.lock();
        (blocks.len() < LIMBO).then_some(Limbo { pool: self, blocks })
    }

    /// Blocks wait that no round was begun for: begin one. Whoever gets true has every CPU come to
    /// [`heed`](Self::heed).
    pub fn begin_round(&self) -> bool {
        if self.in_limbo.load(Ordering::Acquire) == 0 {
            return false;
        }
        let limbo = self.limbo.lock();
        let round = self.round.load(Ordering::Relaxed);
        let wanted = limbo.iter().any(|(_, wanted)| *wanted > round);
        if wanted {
            self.round.store(round + 1, Ordering::Release);
        }
        wanted
    }

    /// `cpu` has looked up nothing of any guest's RAM.
    pub fn heed(&self, cpu: CpuId) {
        // Whoever sees the round sees what was taken before it was begun; whoever sees that it was seen knows that
        // what this CPU did before is done.
        let round = self.round.load(Ordering::Acquire);
        if let Some(seen) = self.seen.get(cpu.index()) {
            seen.store(round, Ordering::Release);
        }
        if self.in_limbo.load(Ordering::Acquire) > 0 {
            self.free_what_can_be();
        }
    }

    #[cold]
    fn free_what_can_be(&self) {
        let mut limbo = self.limbo.lock();
        let seen = self.seen.iter().map(|seen| seen.load(Ordering::Acquire)).min().unwrap_or(0);
        if !limbo.iter().any(|(_, wanted)| *wanted <= seen) {
            return;
        }
        let mut lender = self.lender.lock();
        let Lender { frames, lent } = &mut *lender;
        if !frames.reserve_heap(HEAP_OF_LIMBO) {
            return;
        }
        let mut index = 0;
        while let Some((_, wanted)) = limbo.get(index) {
            if *wanted > seen {
                index += 1;
                continue;
            }
            let (block, _) = limbo.swap_remove(index);
            *lent = lent.saturating_sub(block.region().size());
            frames.free_block(block);
        }
        self.in_limbo.store(limbo.len(), Ordering::Release);
    }
}

/// A place in limbo.
pub(super) struct Limbo<'a> {
    pool: &'a SharedPool,
    blocks: TicketMutexGuard<'a, Vec<(Block<Dirty>, u64)>>,
}

impl Limbo<'_> {
    /// `block` was taken from a VM: nobody finds it any more who has not found it yet.
    pub(super) fn put(mut self, block: Block<Dirty>) {
        let round = self.pool.round.load(Ordering::Relaxed) + 1;
        self.blocks.push((block, round));
        self.pool.in_limbo.store(self.blocks.len(), Ordering::Release);
    }
}

/// Translation tables of a VM that runs.
impl TableFrames for &SharedPool {
    fn allocate(&mut self, order: u8) -> Option<Block<Dirty>> {
        self.lend(order)
    }

    fn free(&mut self, block: Block<Dirty>) {
        self.take_back(block);
    }
}

impl core::fmt::Debug for SharedPool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let free = self.try_lock().map(|lender| lender.frames.free_bytes() / PAGE_SIZE);
        f.debug_struct("SharedPool").field("free_frames", &free).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Ram, Uncached};

    const SIZE: u64 = 4 << 20;

    fn pool(cpus: usize) -> SharedPool {
        let mut frames = FramePool::new();
        frames.add(Ram::imaginary(SIZE, SIZE), &[]);
        SharedPool::new(frames, cpus, &Uncached)
    }

    fn free(pool: &SharedPool) -> u64 {
        pool.lock().frames.free_bytes()
    }

    fn give(pool: &SharedPool) {
        let block = pool.lend(0).unwrap();
        pool.limbo().unwrap().put(block);
    }

    #[test]
    fn a_block_is_free_when_every_cpu_has_seen_a_round_that_began_after_it_was_taken() {
        let pool = pool(2);
        give(&pool);
        assert!(pool.begin_round() && !pool.begin_round(), "one round for all that came together");
        give(&pool);
        pool.heed(CpuId(0));
        assert_eq!(free(&pool), SIZE - 8192, "the other may still write to it");
        pool.heed(CpuId(1));
        assert_eq!((free(&pool), pool.lock().lent), (SIZE - 4096, 4096));
        // Both have seen a round, but none for the second block.
        pool.heed(CpuId(0));
        assert_eq!(free(&pool), SIZE - 4096);
        assert!(pool.begin_round());
        pool.heed(CpuId(1));
        pool.heed(CpuId(0));
        assert_eq!((free(&pool), pool.lock().lent), (SIZE, 0));
        assert!(!pool.begin_round());
    }

    #[test]
    fn limbo_is_bounded_and_keeps_what_there_is_no_heap_for() {
        let pool = pool(1);
        (0..LIMBO).for_each(|_| give(&pool));
        assert!(pool.limbo().is_none());
        pool.lock().frames.set_reserve_heap(|frames, _| frames.free_bytes() > SIZE);
        assert!(pool.begin_round());
        pool.heed(CpuId(0));
        assert_eq!(free(&pool), SIZE - 64 * 4096);
        assert!(pool.limbo().is_none());
    }
}
