//! RAM of a VM that can be taken from it while it runs, and comes back when it is used.
//!
//! Such RAM is kept in *units* of 2 MiB, each a block of frames of its own. A word for each says where it is, or that
//! there is a *hole*: stage 2 maps nothing there, and the hypervisor's own accesses find nothing. Words are read without
//! a lock; who changes one has the VM's stage 2 locked, so that the two always say the same.
//!
//! A unit is taken only as a whole, and goes to the pool by way of [`limbo`](super::shared). A hole is filled with
//! zeroes in steps, by whoever has need of it. A unit that a device of the machine's reads or writes is *pinned* and not
//! taken.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::frames::{Block, Clean, Dirty, FramePool, Run};
use super::maintenance::Maintenance;
use super::phys;
use super::shared::SharedPool;
use super::stage2::{Mapping, MemoryType, Perms, Stage2};
use crate::addr::{Ipa, PhysAddr, Region};
use crate::speculation;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::time::Ticks;

/// How much is taken and comes back at one go, in bytes: a block of stage 2's, and what Linux reports.
pub const UNIT: u64 = 2 << 20;

/// The same, as iterators want it.
const STRIDE: usize = 2 << 20;

/// `2^ORDER` frames are a unit.
const ORDER: u8 = 9;
/// How many are given back in one step.
const FEW: usize = 32;

/// How much of a unit one step zeroes, in bytes: some ten thousand instructions.
const STEP: u64 = 256 << 10;

/// A word: nothing is there.
const HOLE: u64 = 0;
/// A word: what is there is no unit, and stays.
const FIXED: u64 = 1 << 20;
/// A word, beside where the unit is: how many have pinned it.
const PINS: u64 = FIXED - 1;

/// What became of a unit that the guest does not need.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// It was taken.
    Taken,
    /// It stays: it is none, or was taken before, or is in use, or the VM keeps so much.
    Kept,
    /// It can be taken once what was taken before is free.
    Later,
}

/// How far the filling of a hole is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Filled {
    /// There is RAM, or there is none to be filled.
    There,
    /// There is more to be done.
    More,
    /// The pool has no memory for it.
    NoFrames,
}

/// A unit's frames on their way into a hole. Which hole is seen at the end.
#[derive(Debug)]
enum Filling {
    Scrub { block: Block<Dirty>, rest: Region<PhysAddr> },
    Ready(Block<Clean>),
}

/// What is asked for when there is work for the one that fills holes for others.
type Ring = Box<dyn Fn() + Send + Sync>;

/// What elastic RAM needs of its VM.
pub struct Means {
    /// The VM's translation.
    pub stage2: Arc<TicketMutex<Stage2>>,
    /// Where frames come from and go to.
    pub pool: Arc<SharedPool>,
    /// How much the VM keeps whatever happens, in bytes.
    pub keep: u64,
    /// How long who waits for memory sleeps before it looks again.
    pub patience: Ticks,
    /// Makes somebody call [`Elastic::fill_wanted`].
    pub ring: Ring,
}

/// The units of a VM's RAM.
pub struct Elastic {
    ram: Region<Ipa>,
    units: Box<[AtomicU64]>,
    /// How many of them have been given back, as its VM is no more.
    released: usize,
    /// How many are holes, and how many may be.
    holes: AtomicU32,
    most: u32,
    patience: Ticks,
    filling: TicketMutex<Option<Filling>>,
    /// The number + 1 of a unit that somebody else than its VM would write to.
    wanted: AtomicU64,
    /// Somebody waits for memory.
    starved: AtomicBool,
    /// That was told.
    told: AtomicBool,
    pool: Arc<SharedPool>,
    stage2: Option<Arc<TicketMutex<Stage2>>>,
    ring: Ring,
}

impl Elastic {
    /// RAM whose units are yet to be put in. `None` when there is no heap for their words.
    pub(super) fn new(ram: Region<Ipa>, means: Means) -> Option<Self> {
        let count = usize::try_from(ram.size().div_ceil(UNIT)).ok()?;
        let mut units = alloc::vec::Vec::new();
        units.try_reserve_exact(count).ok()?;
        units.extend((0..count).map(|_| AtomicU64::new(FIXED)));
        let most = ram.size().saturating_sub(means.keep) / UNIT;
        Some(Self {
            ram,
            units: units.into(),
            released: 0,
            holes: AtomicU32::new(0),
            most: u32::try_from(most).unwrap_or(u32::MAX),
            patience: means.patience,
            filling: TicketMutex::new(None),
            wanted: AtomicU64::new(0),
            starved: AtomicBool::new(false),
            told: AtomicBool::new(false),
            pool: means.pool,
            stage2: Some(means.stage2),
            ring: means.ring,
        })
    }

    /// Takes over the frames of `run` at `ipas`, if they are whole units; or gives it back.
    pub(super) fn put(&self, ipas: Region<Ipa>, run: Run) -> Result<(), Run> {
        let first = ipas.start().offset_from(self.ram.start());
        let Some(first) = first.filter(|at| run.size() >= UNIT && at.is_multiple_of(UNIT)) else {
            return Err(run);
        };
        let start = run.start().raw();
        for offset in (0..run.size()).step_by(STRIDE) {
            if let Some(word) = self.units.get(index((first + offset) / UNIT)) {
                word.store(start + offset, Ordering::Release);
            }
        }
        Ok(())
    }

    /// All of the VM's RAM, holes and all.
    pub const fn ram(&self) -> Region<Ipa> {
        self.ram
    }

    /// Which unit `ipa` is in, if it is RAM.
    pub fn unit_of(&self, ipa: Ipa) -> Option<usize> {
        let offset = ipa.offset_from(self.ram.start())?;
        let offset = speculation::within(offset, self.ram.size().wrapping_sub(1))?;
        Some(index(offset / UNIT))
    }

    /// The addresses of a unit.
    pub fn ipas(&self, unit: usize) -> Option<Region<Ipa>> {
        let start = self.ram.start().checked_add((unit as u64).checked_mul(UNIT)?)?;
        Region::new(start, UNIT).filter(|ipas| self.ram.contains_region(ipas))
    }

    /// Where `ipa` is.
    #[inline]
    pub(super) fn find(&self, ipa: Ipa) -> Place {
        let Some(offset) = ipa.offset_from(self.ram.start()) else { return Place::Fixed };
        let unit = speculation::get(&self.units, index(offset / UNIT));
        match unit.map(|word| word.load(Ordering::Acquire)) {
            None | Some(FIXED) => Place::Fixed,
            Some(HOLE) => Place::Hole,
            Some(word) => Place::At(PhysAddr::new((word & !(UNIT - 1)) + offset % UNIT)),
        }
    }

    /// Where `size` bytes from `ipa` on are, if all are in one unit.
    #[inline]
    pub(super) fn in_one_unit(&self, ipa: Ipa, size: u64) -> Option<PhysAddr> {
        match self.find(ipa) {
            Place::At(at) if size != 0 && size <= UNIT - ipa.raw() % UNIT => Some(at),
            _ => None,
        }
    }

    /// How much was taken and has not come back, in bytes.
    pub fn given_back(&self) -> u64 {
        u64::from(self.holes.load(Ordering::Relaxed)) * UNIT
    }

    /// How long who waits for memory sleeps before it looks again: nobody tells it that there is some.
    pub const fn patience(&self) -> Ticks {
        self.patience
    }

    /// Whether somebody waits for memory that others have.
    pub fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
    }

    /// Who waited is gone: the guest begins again.
    pub fn waits_no_more(&self) {
        self.starved.store(false, Ordering::Relaxed);
        self.told.store(false, Ordering::Relaxed);
    }

    /// The VM waits for memory. Returns whether nobody has been told of that.
    pub fn begins_to_wait(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    /// Whether there is a hole in `ipas`.
    pub fn has_hole(&self, ipas: &Region<Ipa>) -> bool {
        self.first_hole(ipas).is_some()
    }

    /// The first hole in `ipas`.
    pub fn first_hole(&self, ipas: &Region<Ipa>) -> Option<usize> {
        let ipas = self.ram.intersection(ipas)?;
        let (first, last) = (self.unit_of(ipas.start())?, self.unit_of(ipas.last())?);
        (first..=last).find(|unit| self.is_hole(*unit))
    }

    fn is_hole(&self, unit: usize) -> bool {
        self.units.get(unit).is_some_and(|word| word.load(Ordering::Acquire) == HOLE)
    }

    /// The guest does not need what is in `unit`.
    pub fn take(&self, unit: usize) -> Taken {
        let (Some(word), Some(ipas)) = (self.units.get(unit), self.ipas(unit)) else {
            return Taken::Kept;
        };
        let is_free = |word: u64| word != HOLE && word & (FIXED | PINS) == 0;
        if !is_free(word.load(Ordering::Relaxed)) {
            return Taken::Kept;
        }
        let Some(stage2) = &self.stage2 else { return Taken::Kept };
        let mut stage2 = stage2.lock();
        if self.holes.load(Ordering::Relaxed) >= self.most {
            return Taken::Kept;
        }
        let Some(limbo) = self.pool.limbo() else { return Taken::Later };
        let old = word.load(Ordering::Relaxed);
        // First: from here on nobody pins it.
        let taken = is_free(old)
            && word.compare_exchange(old, HOLE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !taken {
            return Taken::Kept;
        }
        if stage2.unmap(ipas, &mut &*self.pool, &self.pool.upkeep()).is_err() {
            word.store(old, Ordering::Release);
            return Taken::Kept;
        }
        self.holes.fetch_add(1, Ordering::Relaxed);
        limbo.put(Block::adopt(PhysAddr::new(old), ORDER));
        drop(stage2);
        // Somebody begins a round.
        (self.ring)();
        Taken::Taken
    }

    /// Does some of what lets `unit` be RAM again.
    pub fn fill_step(&self, unit: usize) -> Filled {
        if !self.is_hole(unit) {
            return Filled::There;
        }
        let Some(ipas) = self.ipas(unit) else { return Filled::There };
        let Some(stage2) = &self.stage2 else { return Filled::There };
        let mut filling = self.filling.lock();
        let upkeep = &self.pool.upkeep();
        let block = match filling.take() {
            Some(Filling::Ready(block)) => block,
            begun => {
                let (block, rest) = match begun {
                    Some(Filling::Scrub { block, rest }) => (block, rest),
                    _ => {
                        let Some(block) = self.pool.lend(ORDER) else {
                            self.starved.store(true, Ordering::Relaxed);
                            return Filled::NoFrames;
                        };
                        let all = block.region();
                        (block, all)
                    }
                };
                let (now, rest) = rest.split_front(STEP);
                phys::erase(now, upkeep);
                if let Some(rest) = rest {
                    *filling = Some(Filling::Scrub { block, rest });
                    return Filled::More;
                }
                // Code may be put there, and what the frames held before may be known as code.
                upkeep.invalidate_instructions();
                block.was_erased()
            }
        };
        let mut stage2 = stage2.lock();
        let pa = block.region().start();
        let to = Mapping { pa, memory: MemoryType::Ram, perms: Perms::RWX };
        let word = self.units.get(unit).filter(|_| self.is_hole(unit));
        let Some(word) = word else {
            // Somebody has filled it meanwhile; this is for the next hole.
            *filling = Some(Filling::Ready(block));
            return Filled::There;
        };
        if stage2.map(ipas, to, &mut &*self.pool, upkeep).is_err() {
            *filling = Some(Filling::Ready(block));
            self.starved.store(true, Ordering::Relaxed);
            return Filled::NoFrames;
        }
        word.store(block.into_start().raw(), Ordering::Release);
        self.holes.fetch_sub(1, Ordering::Relaxed);
        self.starved.store(false, Ordering::Relaxed);
        self.told.store(false, Ordering::Relaxed);
        Filled::There
    }

    /// Somebody else would write to `ipas`, which he cannot fill himself. Returns whether there is a hole.
    pub fn want(&self, ipas: &Region<Ipa>) -> bool {
        let Some(unit) = self.first_hole(ipas) else { return false };
        if self.wanted.swap(unit as u64 + 1, Ordering::AcqRel) == 0 {
            (self.ring)();
        }
        true
    }

    /// Whether something is wanted.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) != 0
    }

    /// Does some of what others want.
    pub fn fill_wanted(&self) {
        let wanted = self.wanted.load(Ordering::Acquire);
        let Some(unit) = wanted.checked_sub(1) else { return };
        if self.fill_step(index(unit)) != Filled::More {
            let unset = (Ordering::AcqRel, Ordering::Relaxed);
            let _ = self.wanted.compare_exchange(wanted, 0, unset.0, unset.1);
        }
    }

    /// Nobody takes the units of `ipas` until [`unpin`](Self::unpin). Returns false, and nothing is pinned, when there is
    /// a hole.
    pub(super) fn pin(&self, ipas: &Region<Ipa>) -> bool {
        let (Some(first), Some(last)) = (self.unit_of(ipas.start()), self.unit_of(ipas.last()))
        else {
            return false;
        };
        for unit in first..=last {
            let Some(word) = self.units.get(unit) else { continue };
            let pin = |word: u64| match word {
                HOLE => None,
                // Pinned for ever, rather than too seldom.
                word if word & FIXED != 0 || word & PINS == PINS => Some(word),
                word => Some(word + 1),
            };
            if word.fetch_update(Ordering::AcqRel, Ordering::Acquire, pin).is_err() {
                (first..unit).for_each(|unit| self.unpin_unit(unit));
                return false;
            }
        }
        true
    }

    /// Undoes a [`pin`](Self::pin) of the same addresses.
    pub(super) fn unpin(&self, ipas: &Region<Ipa>) {
        if let (Some(first), Some(last)) = (self.unit_of(ipas.start()), self.unit_of(ipas.last())) {
            (first..=last).for_each(|unit| self.unpin_unit(unit));
        }
    }

    fn unpin_unit(&self, unit: usize) {
        let Some(word) = self.units.get(unit) else { return };
        let unpin = |word: u64| {
            let pins = word & PINS;
            (word & FIXED == 0 && (1..PINS).contains(&pins)).then(|| word - 1)
        };
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, unpin);
    }

    /// What there is, in pieces as large as its frames allow.
    pub(super) fn present(&self) -> impl Iterator<Item = (Region<Ipa>, PhysAddr)> {
        let at = |unit: usize| {
            let word = self.units.get(unit)?.load(Ordering::Acquire);
            (word != HOLE && word & FIXED == 0).then_some(word & !(UNIT - 1))
        };
        let mut next = 0;
        core::iter::from_fn(move || {
            while next < self.units.len() && at(next).is_none() {
                next += 1;
            }
            let (first, start) = (next, at(next)?);
            while at(next) == Some(start + (next - first) as u64 * UNIT) {
                next += 1;
            }
            let ipa = self.ram.start().checked_add(first as u64 * UNIT)?;
            let ipas = Region::new(ipa, (next - first) as u64 * UNIT)?;
            Some((ipas, PhysAddr::new(start)))
        })
    }

    /// Its VM's translation is about to go.
    pub(super) fn close(&mut self) {
        self.stage2 = None;
    }

    /// Gives some of what is there back. The translation is gone, and nobody has anything pinned. Returns whether that was all.
    pub(super) fn release_some(&mut self, pool: &mut FramePool) -> bool {
        match self.filling.get_mut().take() {
            Some(Filling::Scrub { block, .. }) => pool.free_block(block),
            Some(Filling::Ready(block)) => pool.free_block(block),
            None => {}
        }
        let end = self.units.len().min(self.released.saturating_add(FEW));
        for word in self.units.get_mut(self.released..end).unwrap_or_default() {
            let word = *word.get_mut();
            if word != HOLE && word & FIXED == 0 {
                let at = PhysAddr::new(word & !(UNIT - 1));
                pool.free_block(Block::<Dirty>::adopt(at, ORDER));
            }
        }
        self.released = end;
        end == self.units.len()
    }
}

/// Where some address of elastic RAM is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Here.
    At(PhysAddr),
    /// Nowhere.
    Hole,
    /// Not in a unit.
    Fixed,
}

fn index(unit: u64) -> usize {
    usize::try_from(unit).unwrap_or(usize::MAX)
}

impl core::fmt::Debug for Elastic {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Elastic")
            .field("ram", &self.ram)
            .field("holes", &self.holes)
            .finish_non_exhaustive()
    }
}

pub mod fake;
#[cfg(test)]
mod tests;
