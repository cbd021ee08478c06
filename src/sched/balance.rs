//! What queues know of each other, without a lock: how busy each is, and how its virtual clock stands.
//!
//! It may be out of date, so it only says where to look. Each queue has a virtual clock of its own, which the others
//! see; how far apart those may be is the matter of `gaps`.

use alloc::boxed::Box;

use super::gaps::{self, Gaps, Standing};
use super::policy::CpuSet;
use crate::machine::CpuId;
use crate::sync::SpinMutex;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use crate::time::Ticks;

/// The lengths of time that scheduling goes by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// How long a fair vCPU runs while others wait.
    pub slice: Ticks,
    /// How much further behind than the running one a vCPU that wakes has to be to take its CPU at once.
    pub granularity: Ticks,
    /// What a vCPU that waited for an event is owed at most for the time it was away.
    pub credit: Ticks,
    /// What caps are measured over.
    pub cap_period: Ticks,
}

impl Timing {
    /// In proportion to a slice: granularity a fifth, credit a half, cap period four slices.
    pub fn of_slice(slice: Ticks) -> Self {
        let slice = slice.0.max(4);
        Self {
            slice: Ticks(slice),
            granularity: Ticks(slice / 5),
            credit: Ticks(slice / 2),
            cap_period: Ticks(slice.saturating_mul(4)),
        }
    }
}

pub(super) const IDLE: u8 = 0;
/// It runs a reservation, and no fair vCPU wants it.
pub(super) const RESERVED: u8 = 1;
pub(super) const FAIR: u8 = 2;
/// It runs a reservation, and fair vCPUs wait: who came would wait too.
pub(super) const BOTH: u8 = 3;

/// What one queue tells the others.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) state: AtomicU8,
    /// The queue's virtual clock, modulo 2^64, ...
    pub(super) clock: AtomicU64,
    /// ... at this moment ...
    pub(super) at: AtomicU64,
    /// ... and what it gains in each tick, when it is known to go on.
    pub(super) rate: AtomicU64,
    /// What is to be added to compare it with others'.
    pub(super) shift: AtomicU64,
    /// The most that a slice costs one of its vCPUs.
    pub(super) step: AtomicU64,
    /// The CPUs that those who wait may go to, modulo 64.
    pub(super) offers: AtomicU64,
    /// The CPUs below 64 that the only fair vCPU here may go to while it runs.
    pub(super) exits: AtomicU64,
    /// The CPUs below 64 that the running fair vCPU may go to, and who waits here may not.
    pub(super) detours: AtomicU64,
    /// Another CPU asks this one to choose anew.
    pub(super) called: AtomicBool,
    /// The CPU that wants this one to come for somebody, + 1.
    pub(super) invited_by: AtomicU16,
    /// The CPUs below 64 that would have invited it too.
    pub(super) missed: AtomicU64,
    /// The vCPUs that are on, may run here, and may not run everywhere.
    pub(super) restricted: AtomicU32,
}

/// What all queues know of each other.
#[derive(Debug)]
pub struct Balance {
    pub(super) loads: Box<[Load]>,
    /// All CPUs that there are.
    pub(super) all: CpuSet,
    /// The vCPUs that are on and may run everywhere.
    unrestricted: AtomicU32,
    /// Locked after a queue, and before nothing.
    gaps: SpinMutex<Gaps>,
    pub(super) timing: Timing,
}

impl Balance {
    /// For CPUs 0 to `cpus` - 1.
    pub fn new(cpus: usize, timing: Timing) -> Self {
        Self {
            loads: (0..cpus).map(|_| Load::default()).collect(),
            all: CpuSet::first(cpus),
            unrestricted: AtomicU32::new(0),
            gaps: SpinMutex::new(Gaps::new(cpus)),
            timing,
        }
    }

    /// The lengths of time that scheduling goes by.
    pub const fn timing(&self) -> Timing {
        self.timing
    }

    /// Whether somebody other than a vCPU with this affinity may come to want `cpu`, so that it has to
    /// give it up when it waits (`HCR_EL2.TWI`). Not so when each vCPU that is on can have a CPU to itself:
    /// nobody who may not run everywhere may use `cpu`, and the others are at most as many as the
    /// CPUs that nobody of that kind may use. Then who wakes up here finds an idle CPU to go to.
    pub fn is_contended(&self, cpu: CpuId, affinity: CpuSet) -> bool {
        let mine = u32::from(!self.is_everywhere(affinity));
        let here =
            self.loads.get(cpu.index()).map_or(0, |load| load.restricted.load(Ordering::Relaxed));
        let free = self.loads.iter().filter(|load| load.restricted.load(Ordering::Relaxed) == 0);
        let roaming = self.unrestricted.load(Ordering::Relaxed);
        here > mine || usize::try_from(roaming).unwrap_or(usize::MAX) > free.count()
    }

    /// A vCPU with this affinity goes on or off.
    pub(super) fn count(&self, affinity: CpuSet, on: bool) {
        let add = |counter: &AtomicU32| match on {
            true => counter.fetch_add(1, Ordering::Relaxed),
            false => counter.fetch_sub(1, Ordering::Relaxed),
        };
        if self.is_everywhere(affinity) {
            add(&self.unrestricted);
            return;
        }
        for (load, cpu) in self.loads.iter().zip((0..=u8::MAX).map(CpuId)) {
            if affinity.contains(cpu) {
                add(&load.restricted);
            }
        }
    }

    fn is_everywhere(&self, affinity: CpuSet) -> bool {
        affinity.includes(self.all)
    }

    /// The first fair vCPU comes to a CPU whose clock stood at `floor`: it begins where the CPU that is
    /// most behind is, if any is busy.
    pub(super) fn align(&self, cpu: CpuId, floor: i128, now: Ticks) {
        let mut least: Option<u64> = None;
        for (index, load) in self.loads.iter().enumerate() {
            if index != cpu.index()
                && let Some(clock) = load.clock(now)
                && least.is_none_or(|least| ahead(least, clock) > 0)
            {
                least = Some(clock);
            }
        }
        if let (Some(least), Some(load)) = (least, self.loads.get(cpu.index())) {
            load.shift.store(least.wrapping_sub(low(floor)), Ordering::Relaxed);
        }
    }

    /// Whether there is one CPU, which has nobody to share with.
    pub(super) fn is_lone(&self) -> bool {
        self.loads.len() <= 1
    }

    /// Whether one of `cpus` is idle.
    pub(super) fn has_idle(&self, cpus: u64) -> bool {
        let idle = |load: &Load| load.state.load(Ordering::Relaxed) == IDLE;
        (0..64).zip(&self.loads).any(|(cpu, load)| cpus >> cpu & 1 != 0 && idle(load))
    }

    /// How far ahead of `clock` the CPU is that is most ahead, of `cpus` and those to which lone vCPUs can go
    /// on from there to make room, less `step` for each that has to; without those in `seen`. One that has been invited
    /// is promised to somebody: two chains that end on it would have two vCPUs wait there for each other.
    pub(super) fn lead(
        &self,
        cpus: u64,
        mut seen: u64,
        clock: u64,
        step: u64,
        now: Ticks,
    ) -> Option<i64> {
        seen |= !self.all.first_64();
        let (mut layer, mut best, mut toll) = (cpus & !seen, None, 0u64);
        while layer != 0 {
            let mut next = 0;
            seen |= layer;
            while layer != 0 {
                let load = self.loads.get(layer.trailing_zeros() as usize);
                layer &= layer - 1;
                if let Some(load) = load
                    && load.invited_by.load(Ordering::Relaxed) == 0
                {
                    best = best
                        .max(load.lead(clock, now).map(|lead| lead.saturating_sub_unsigned(toll)));
                    next |= load.exits.load(Ordering::Relaxed);
                }
            }
            layer = next & !seen;
            toll = toll.saturating_add(step);
        }
        best
    }

    /// Close the gaps between the clocks of all CPUs, unless another CPU is at it.
    pub(super) fn close_gaps(&self, now: Ticks) {
        if let Some(mut gaps) = self.gaps.try_lock() {
            self.close(&mut gaps, gaps::SLICES, now);
        }
    }

    /// Affinities have changed, so CPUs compete that did not: nobody is owed anything for what one had more than the
    /// other before.
    pub(super) fn start_anew(&self, now: Ticks) {
        self.close(&mut self.gaps.lock(), 0, now);
    }

    fn close(&self, gaps: &mut Gaps, slices: u64, now: Ticks) {
        let mut first = None;
        let standings = self.loads.iter().enumerate().filter_map(|(cpu, load)| {
            let clock = load.clock(now)?;
            let height = ahead(clock, *first.get_or_insert(clock));
            Some(Standing { height, step: load.step.load(Ordering::Relaxed), cpu })
        });
        gaps.close(standings, slices, |cpu, by| {
            if let Some(load) = self.loads.get(cpu) {
                load.shift.fetch_add(by, Ordering::Relaxed);
            }
        });
    }
}

impl Load {
    /// By how much this CPU is ahead of `clock`.
    pub(super) fn lead(&self, clock: u64, now: Ticks) -> Option<i64> {
        match self.state.load(Ordering::Relaxed) {
            IDLE => Some(i64::MAX),
            FAIR => self.clock(now).map(|mine| ahead(mine, clock)),
            _ => None,
        }
    }

    /// The virtual clock about `now`, if fair vCPUs want the CPU.
    #[inline]
    pub(super) fn clock(&self, now: Ticks) -> Option<u64> {
        matches!(self.state.load(Ordering::Relaxed), FAIR | BOTH).then(|| {
            let since = now.0.saturating_sub(self.at.load(Ordering::Relaxed));
            let gained = since.saturating_mul(self.rate.load(Ordering::Relaxed)).min(1 << 62);
            let clock = self.clock.load(Ordering::Relaxed).wrapping_add(gained);
            clock.wrapping_add(self.shift.load(Ordering::Relaxed))
        })
    }
}

/// By how much `a` is ahead of `b`, both modulo 2^64.
pub(super) fn ahead(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b).cast_signed()
}

/// The set of one CPU, if it is below 64.
pub(super) fn bit(cpu: CpuId) -> u64 {
    1u64.checked_shl(cpu.0.into()).unwrap_or(0)
}

/// A virtual time modulo 2^64.
#[expect(clippy::cast_possible_truncation, reason = "clocks are compared modulo 2^64")]
pub(super) fn low(vruntime: i128) -> u64 {
    vruntime as u64
}

pub(super) fn saturated(virtual_span: i128) -> u64 {
    u64::try_from(virtual_span).unwrap_or(u64::MAX)
}
