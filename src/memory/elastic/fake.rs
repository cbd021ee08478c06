//! RAM of a guest that can be taken away, on the developer's PC: for tests of whoever takes, fills, and uses it.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::{Elastic, Means};
use crate::addr::{Ipa, PhysAddr};
use crate::machine::CpuId;
use crate::memory::{
    FramePool, Geometry, GuestMemory, PaRange, Perms, Ram, SharedPool, Stage2, Uncached, Vmids,
};
use crate::sync::Once;
use crate::sync::TicketMutex;
use crate::time::Ticks;

/// How long who waits for memory sleeps.
pub const PATIENCE: Ticks = Ticks(500);

/// A guest's RAM, its translation, and the pool that both are from.
#[derive(Debug)]
pub struct Room {
    /// The pool.
    pub pool: Arc<SharedPool>,
    /// The RAM, as devices have it.
    pub ram: Arc<Once<GuestMemory>>,
    stage2: Arc<TicketMutex<Stage2>>,
    vmids: Vmids,
    cpus: u8,
    free: u64,
}

impl Room {
    /// A guest with `size` bytes of RAM from `base` on, of which it keeps `keep`, in `frames`, which are more than it
    /// needs, on a machine with so many CPUs. `ring` is its balloon's bell.
    ///
    /// # Panics
    /// There is not so much memory.
    pub fn new(
        base: Ipa,
        size: u64,
        keep: u64,
        frames: FramePool,
        cpus: u8,
        ring: super::Ring,
    ) -> Self {
        let free = frames.free_bytes();
        let pool = Arc::new(SharedPool::new(frames, cpus.into(), &Uncached));
        let mut vmids = Vmids::new();
        let geometry = Geometry::new(39, PaRange::Bits48).expect("it is possible");
        let ours = pool.lock().frames.allocate(size).expect("there is as much");
        let stage2 = Stage2::new(geometry, &mut vmids, &mut &*pool, &Uncached).expect("as before");
        let stage2 = Arc::new(TicketMutex::new(stage2));
        let mut memory = GuestMemory::new();
        memory.add(base, ours.scrub().clean(&Uncached)).expect("there is nothing else");
        let means =
            Means { stage2: stage2.clone(), pool: pool.clone(), keep, patience: PATIENCE, ring };
        memory.make_elastic(means).expect("it is in one piece");
        memory
            .map(&mut stage2.lock(), Perms::RWX, &mut &*pool, &Uncached)
            .expect("nothing else is mapped");
        let ram = Arc::new(Once::initialized(memory));
        Self { pool, ram, stage2, vmids, cpus, free }
    }

    /// The same with `beside` bytes for others and for tables, and a bell that nobody hears.
    pub fn quiet(base: Ipa, size: u64, keep: u64, beside: u64) -> Self {
        let size_of_all = size.next_multiple_of(super::UNIT) + beside;
        let mut frames = FramePool::new();
        frames.add(Ram::from_heap(size_of_all, super::UNIT).expect("there is as much"), &[]);
        Self::new(base, size, keep, frames, 2, Box::new(|| ()))
    }

    /// The RAM.
    pub fn memory(&self) -> &GuestMemory {
        self.ram.get().expect("it is there from the start")
    }

    /// Its units.
    pub fn elastic(&self) -> &Elastic {
        self.memory().elastic().expect("it is elastic from the start")
    }

    /// Others give up pages until no more can be on their way to the pool. Returns how many they were.
    pub fn crowd(&self) -> u64 {
        let mut pages = 0;
        while self.pool.limbo().is_some() {
            let Some(block) = self.pool.lend(0) else { break };
            self.pool.limbo().expect("nobody else is here").put(block);
            pages += 1;
        }
        pages
    }

    /// Every CPU begins a step.
    pub fn settle(&self) {
        self.pool.begin_round();
        (0..self.cpus).for_each(|cpu| self.pool.heed(CpuId(cpu)));
    }

    /// Where the guest itself finds `ipa`.
    pub fn translate(&self, ipa: Ipa) -> Option<PhysAddr> {
        self.stage2.lock().translate(ipa).map(|to| to.pa)
    }

    /// How much is free, in bytes.
    pub fn free(&self) -> u64 {
        self.pool.lock().frames.free_bytes()
    }

    /// Takes the guest apart: nobody has its RAM any more.
    ///
    /// # Panics
    /// Somebody has, or some of the pool's frames are not back.
    pub fn end(self) {
        self.settle();
        let Self { pool, mut vmids, stage2, ram, free, .. } = self;
        let ram = Arc::into_inner(ram).and_then(Once::try_into_inner);
        let mut memory = ram.expect("nobody has its RAM");
        memory.close();
        let stage2 = Arc::into_inner(stage2).expect("nobody has its translation").into_inner();
        stage2.destroy(&mut vmids, &mut &*pool, &Uncached);
        memory.release(&mut pool.lock().frames);
        assert_eq!(pool.lock().frames.free_bytes(), free, "all of it is back");
    }
}
