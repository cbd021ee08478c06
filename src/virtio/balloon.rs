//! The memory balloon (VIRTIO 1.2, "Traditional Memory Balloon Device"), with free page reporting.
//!
//! The guest names pages that it does without: those in its balloon, until it takes them out again, and free ones, until
//! it uses them. What it does without goes back to the pool in [units](crate::memory::elastic) of 2 MiB: one whose pages
//! are all in the balloon, or are reported together. What is used again is filled with zeroes where it is used.
//!
//! The target is the monitor's. The guest keeps so much as its manifest says, whatever it names.
//!
//! A driver that has negotiated `MUST_TELL_HOST` uses a page when it has been taken out of the balloon. Of one that has not,
//! nothing is taken that is in the balloon: it may have been used already.
//!
//! Not offered: `DEFLATE_ON_OOM`, as it is the monitor that says how much the guest has; hints of free pages, which are
//! for migration.

use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::backend::{Backend, Completed, Served};
use super::queue::{Bad, Buffer, Chain, Head};
use super::ram::GuestRam;
use crate::addr::{Ipa, PAGE_SIZE};
use crate::exit::Width;
use crate::memory::Elastic;
use crate::memory::elastic::{Taken, UNIT};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// "Feature bits".
mod feature {
    pub const MUST_TELL_HOST: u64 = 1 << 0;
    pub const STATS_VQ: u64 = 1 << 1;
    pub const PAGE_POISON: u64 = 1 << 4;
    pub const REPORTING: u64 = 1 << 5;
}

/// "Virtqueues". Linux leaves no number out for the queues that it does not use, so reporting is queue 3 there.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const QUEUES: [u16; 5] = [128, 128, 8, 32, 32];

/// "Device configuration layout".
const NUM_PAGES: u64 = 0;
const ACTUAL: u64 = 4;
const POISON_VAL: u64 = 12;

/// How many pages a serving looks at.
const PAGES_AT_ONCE: usize = 256;
/// How many units a serving takes; each costs some two thousand instructions.
const UNITS_AT_ONCE: u32 = 8;
/// How many units of what is reported a serving looks at.
const LOOKS_AT_ONCE: u32 = 512;

/// How many statistics there are ("Memory Statistics Tags").
pub const STATISTICS_TAGS: usize = 16;
/// What a statistic that was never told reads as.
pub const UNTOLD: u64 = u64::MAX;

/// Pages of a unit.
const UNIT_PAGES: usize = 512;
const WORDS: usize = UNIT_PAGES / 64;

/// What the monitor and the device know of each other.
#[derive(Debug)]
pub struct BalloonState {
    /// How many pages are to be in the balloon.
    target: AtomicU32,
    /// How many there are, as the driver says.
    actual: AtomicU32,
    /// How many pages were reported and taken, in all.
    reported: AtomicU64,
    /// The driver is to tell its statistics anew.
    refresh: AtomicBool,
    statistics: [AtomicU64; STATISTICS_TAGS],
}

impl Default for BalloonState {
    fn default() -> Self {
        Self {
            target: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            reported: AtomicU64::new(0),
            refresh: AtomicBool::new(false),
            statistics: [const { AtomicU64::new(UNTOLD) }; STATISTICS_TAGS],
        }
    }
}

impl BalloonState {
    /// So many bytes are to be in the balloon. The device is rung afterwards.
    pub fn set_target(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        self.target.store(pages, Ordering::Release);
    }

    /// How many bytes are to be in the balloon.
    pub fn target(&self) -> u64 {
        u64::from(self.target.load(Ordering::Acquire)) * PAGE_SIZE
    }

    /// How many bytes are, as the guest says.
    pub fn actual(&self) -> u64 {
        u64::from(self.actual.load(Ordering::Acquire)) * PAGE_SIZE
    }

    /// How many bytes were reported as free and taken, in all.
    pub fn reported(&self) -> u64 {
        self.reported.load(Ordering::Relaxed)
    }

    /// The statistics are to be told anew. The device is rung afterwards.
    pub fn ask(&self) {
        self.refresh.store(true, Ordering::Release);
    }

    /// The statistic with this tag, if the guest has told it.
    pub fn statistic(&self, tag: usize) -> Option<u64> {
        let value = self.statistics.get(tag)?.load(Ordering::Relaxed);
        (value != UNTOLD).then_some(value)
    }
}

/// How far a queue's chain in hand has been looked at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct Progress {
    buffer: usize,
    offset: u32,
}

impl Progress {
    /// At the beginning of the next buffer.
    const fn next(self) -> Self {
        Self { buffer: self.buffer.saturating_add(1), offset: 0 }
    }
}

/// What a guest can change.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct State {
    /// For each unit, a bit for each page of it that is in the balloon.
    pages: Vec<[u64; WORDS]>,
    /// The target that the driver was told of.
    told: u32,
    /// How many pages the driver says to be in the balloon.
    actual: u32,
    poison: u32,
    features: u64,
    progress: [Progress; QUEUES.len()],
    statistics: Option<Head>,
}

/// The balloon.
#[derive(Debug)]
pub struct Balloon {
    state: State,
    shared: Arc<BalloonState>,
}

impl Balloon {
    /// The balloon of a guest with so many bytes of RAM, which begins at a multiple of a unit's size.
    pub fn new(ram: u64, shared: Arc<BalloonState>) -> Self {
        let units = usize::try_from(ram.div_ceil(UNIT)).unwrap_or(0);
        let state = State { pages: alloc::vec![[0; WORDS]; units], ..State::default() };
        Self { state, shared }
    }

    /// Goes on with pages by number.
    fn pages(
        &mut self,
        queue: usize,
        chain: &Chain,
        ram: &impl GuestRam,
        elastic: Option<&Elastic>,
    ) -> Result<Served, Bad> {
        let inflate = queue == INFLATE;
        let takes = self.state.features & feature::MUST_TELL_HOST != 0;
        let (mut left, mut units) = (PAGES_AT_ONCE, UNITS_AT_ONCE);
        let Some(mut at) = self.state.progress.get(queue).copied() else {
            return Ok(Served::Done(0));
        };
        let buffers = chain.readable();
        while let Some(Buffer { ipa, size }) = buffers.get(at.buffer) {
            if size.saturating_sub(at.offset) < 4 {
                at = at.next();
                continue;
            }
            if left == 0 {
                return Ok(self.later(queue, at));
            }
            let mut number = [0; 4];
            let from = ipa.checked_add(at.offset.into()).unwrap_or(*ipa);
            ram.read_bytes(from, &mut number)?;
            let page = Ipa::new(u64::from(u32::from_le_bytes(number)) * PAGE_SIZE);
            if let Some(elastic) = elastic
                && self.mark(elastic, page, inflate)
                && takes
                && let Some(unit) = elastic.unit_of(page)
            {
                if units == 0 {
                    return Ok(self.later(queue, at));
                }
                match elastic.take(unit) {
                    Taken::Taken => units -= 1,
                    Taken::Kept => {}
                    Taken::Later => return Ok(self.later(queue, at)),
                }
            }
            left -= 1;
            at.offset += 4;
        }
        Ok(self.done(queue))
    }

    /// Queue `queue` goes on from `at`.
    fn later(&mut self, queue: usize, at: Progress) -> Served {
        if let Some(progress) = self.state.progress.get_mut(queue) {
            *progress = at;
        }
        Served::More
    }

    /// All of its chain has been looked at.
    fn done(&mut self, queue: usize) -> Served {
        let _ = self.later(queue, Progress::default());
        Served::Done(0)
    }

    /// `page` goes into the balloon, or out of it. Returns whether all of its unit is in it now.
    fn mark(&mut self, elastic: &Elastic, page: Ipa, inflate: bool) -> bool {
        let Some(words) = elastic.unit_of(page).and_then(|unit| self.state.pages.get_mut(unit))
        else {
            return false;
        };
        let number = usize::try_from(page.raw() % UNIT / PAGE_SIZE).unwrap_or(0);
        let Some(word) = words.get_mut(number / 64) else { return false };
        if inflate {
            *word |= 1 << (number % 64);
        } else {
            *word &= !(1 << (number % 64));
        }
        inflate && words.iter().all(|word| *word == u64::MAX)
    }

    /// Goes on with what is reported as free.
    fn report(&mut self, queue: usize, chain: &Chain, elastic: &Elastic) -> Served {
        let (mut looks, mut units) = (LOOKS_AT_ONCE, UNITS_AT_ONCE);
        let Some(mut at) = self.state.progress.get(queue).copied() else { return Served::Done(0) };
        let buffers = chain.writable();
        while let Some(Buffer { ipa, size }) = buffers.get(at.buffer) {
            let start = ipa.checked_add(at.offset.into()).and_then(|at| at.align_up(UNIT));
            let end = ipa.checked_add((*size).into());
            let (Some(start), Some(end)) = (start, end) else {
                at = at.next();
                continue;
            };
            // Only what is reported as a whole.
            let whole = end.offset_from(start).is_some_and(|rest| rest >= UNIT);
            let Some(unit) = elastic.unit_of(start).filter(|_| whole) else {
                at = at.next();
                continue;
            };
            if looks == 0 || units == 0 {
                return self.later(queue, at);
            }
            looks -= 1;
            match elastic.take(unit) {
                Taken::Taken => {
                    units -= 1;
                    self.shared.reported.fetch_add(UNIT, Ordering::Relaxed);
                }
                Taken::Kept => {}
                Taken::Later => return self.later(queue, at),
            }
            let behind = start.offset_from(*ipa).and_then(|at| u32::try_from(at + UNIT).ok());
            at = match behind {
                Some(offset) => Progress { offset, ..at },
                None => at.next(),
            };
        }
        self.done(queue)
    }

    /// Takes down what the guest tells of its memory.
    fn note(&mut self, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        const SIZE: u64 = 10;
        let (Some(buffer), None) = (chain.readable().first(), self.state.statistics) else {
            return Ok(Served::Done(0));
        };
        let count = (u64::from(buffer.size) / SIZE).min(STATISTICS_TAGS as u64);
        for index in 0..count {
            let mut bytes = [0; 10];
            let at = buffer.ipa.checked_add(index * SIZE).unwrap_or(buffer.ipa);
            ram.read_bytes(at, &mut bytes)?;
            let [a, b, value @ ..] = bytes;
            let tag = usize::from(u16::from_le_bytes([a, b]));
            if let Some(statistic) = self.shared.statistics.get(tag) {
                statistic.store(u64::from_le_bytes(value), Ordering::Relaxed);
            }
        }
        self.state.statistics = Some(chain.head);
        Ok(Served::Later)
    }
}

impl Backend for Balloon {
    const ID: u32 = 5;
    const ATTENDS: bool = true;
    const AT_ONCE: usize = 1;
    const FILLS: bool = false;

    fn features(&self) -> u64 {
        feature::MUST_TELL_HOST | feature::STATS_VQ | feature::PAGE_POISON | feature::REPORTING
    }

    fn queues(&self) -> &[u16] {
        &QUEUES
    }

    fn read_config(&self, offset: u64, width: Width) -> u64 {
        let word = match offset & !3 {
            NUM_PAGES => self.shared.target.load(Ordering::Acquire),
            ACTUAL => self.state.actual,
            POISON_VAL => self.state.poison,
            _ => 0,
        };
        (u64::from(word) >> (8 * (offset & 3))) & width.mask()
    }

    fn write_config(&mut self, offset: u64, width: Width, value: u64) {
        let Ok(value) = u32::try_from(value) else { return };
        match (offset, width) {
            (ACTUAL, Width::Word) => {
                self.state.actual = value;
                self.shared.actual.store(value, Ordering::Release);
            }
            (POISON_VAL, Width::Word) => self.state.poison = value,
            _ => {}
        }
    }

    fn begin(&mut self, features: u64) {
        self.state.features = features;
        self.state.told = self.shared.target.load(Ordering::Acquire);
    }

    fn serve(&mut self, queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let elastic = ram.memory().and_then(|memory| memory.elastic());
        let statistics = self.state.features & feature::STATS_VQ != 0;
        match queue {
            INFLATE | DEFLATE => self.pages(queue, chain, ram, elastic),
            STATISTICS if statistics => self.note(chain, ram),
            // Pages that are to hold a pattern would be found with zeroes.
            _ if self.state.poison != 0 => Ok(Served::Done(0)),
            _ => Ok(elastic.map_or(Served::Done(0), |elastic| self.report(queue, chain, elastic))),
        }
    }

    fn completed(&mut self) -> Option<Completed> {
        let head = self.state.statistics?;
        if !self.shared.refresh.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.state.statistics = None;
        Some(Completed { queue: STATISTICS, head, written: 0 })
    }

    fn has_changed(&mut self) -> bool {
        let target = self.shared.target.load(Ordering::Acquire);
        core::mem::replace(&mut self.state.told, target) != target
    }

    fn looks_into(&self) -> u32 {
        // Linux offers its first statistics before it has set DRIVER_OK, and does not say so again.
        let State { features, statistics, .. } = self.state;
        let wanted = features & feature::STATS_VQ != 0 && statistics.is_none();
        u32::from(wanted && self.shared.refresh.load(Ordering::Acquire)) << STATISTICS
    }

    fn generation(&self) -> u32 {
        // One word is all that changes.
        self.state.told
    }

    fn is_due(&self, ram: &impl GuestRam) -> bool {
        ram.memory().and_then(|memory| memory.elastic()).is_some_and(Elastic::is_wanted)
    }

    fn attend(&mut self, ram: &impl GuestRam) {
        if let Some(elastic) = ram.memory().and_then(|memory| memory.elastic()) {
            elastic.fill_wanted();
        }
    }

    fn stop(&mut self, queue: usize) {
        let _ = self.done(queue);
        if queue == STATISTICS {
            self.state.statistics = None;
        }
    }

    fn reset(&mut self) {
        let mut pages = core::mem::take(&mut self.state.pages);
        pages.iter_mut().for_each(|unit| *unit = [0; WORDS]);
        self.state = State { pages, ..State::default() };
        self.shared.actual.store(0, Ordering::Release);
    }
}

mod saved;
#[cfg(test)]
mod tests;
