//! From CPU to CPU: how queues know of each other, and how a vCPU goes from one to another.
//!
//! What another CPU may want to know of a queue is published in atomics; it may be out of date, so it only
//! says where to look. There are two ways to move a vCPU that waits, and both end in [`RunQueue::pull`]
//! with both queues locked, in the order of their CPUs:
//!
//! * A CPU with nothing to run looks for a queue with somebody who may come ([`RunQueue::source`]).
//! * A CPU where somebody waits looks, whenever it chooses anew, for a CPU that is idle, or that runs
//!   somebody who has had more than who waits here, and *invites* it ([`RunQueue::invite`]). So a CPU with
//!   a single vCPU needs no tick to find out that it should share.
//!
//! No wake-up is lost: a vCPU changes queues while both are locked, and whoever wakes it finds it in one
//! of them, or is told that it is [`super::Woken::Elsewhere`] and looks again where it belongs now.
//!
//! Each queue has a virtual clock of its own. Clocks of CPUs that exchange vCPUs keep together by that;
//! others drift apart for good reason (a vCPU whose weight is worth more than a CPU, a busier set of CPUs).
//! That difference must not become a claim when the situation changes. So gaps between the clocks of all
//! CPUs, and only gaps, are closed to a few slices; clocks on the same side of a gap keep their order.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::Entity;
use super::policy::CpuSet;
use super::queue::RunQueue;
use super::record::Record;
use crate::machine::CpuId;
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

const IDLE: u8 = 0;
/// It runs a reservation, and no fair vCPU wants it.
const RESERVED: u8 = 1;
const FAIR: u8 = 2;
/// It runs a reservation, and fair vCPUs wait: who came would wait too.
const BOTH: u8 = 3;

/// What one queue tells the others.
#[derive(Debug, Default)]
struct Load {
    state: AtomicU8,
    /// The queue's virtual clock, modulo 2^64, ...
    clock: AtomicU64,
    /// ... at this moment ...
    at: AtomicU64,
    /// ... and what it gains in each tick, when it is known to go on.
    rate: AtomicU64,
    /// What is to be added to compare it with others'.
    shift: AtomicU64,
    /// The most that a slice costs one of its vCPUs.
    step: AtomicU64,
    /// The CPUs that those who wait may go to, modulo 64.
    offers: AtomicU64,
    /// The CPU that wants this one to come for somebody, + 1.
    invited_by: AtomicU16,
    /// The vCPUs that are on, may run here, and may not run everywhere.
    restricted: AtomicU32,
}

/// What all queues know of each other.
#[derive(Debug)]
pub struct Balance {
    loads: Box<[Load]>,
    /// The vCPUs that are on and may run everywhere.
    unrestricted: AtomicU32,
    closing_gaps: AtomicBool,
    pub(super) timing: Timing,
}

impl Balance {
    /// For CPUs 0 to `cpus` - 1.
    pub fn new(cpus: usize, timing: Timing) -> Self {
        Self {
            loads: (0..cpus).map(|_| Load::default()).collect(),
            unrestricted: AtomicU32::new(0),
            closing_gaps: AtomicBool::new(false),
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
        let all = CpuSet::first(self.loads.len());
        affinity.and(all) == all
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

    /// Close the gaps on both sides of a queue's clock.
    fn close_gaps(&self, cpu: CpuId, now: Ticks) {
        let Some(mine) = self.loads.get(cpu.index()) else { return };
        let Some(clock) = mine.clock(now) else { return };
        if self.closing_gaps.swap(true, Ordering::Acquire) {
            return;
        }
        let others = || {
            let clocks = self.loads.iter().filter_map(|load| Some((load.clock(now)?, load)));
            clocks.map(|(other, load)| (ahead(other, clock), load))
        };
        let above = others().filter(|(gap, _)| *gap > 0).min_by_key(|(gap, _)| *gap);
        let below = others().filter(|(gap, _)| *gap < 0).max_by_key(|(gap, _)| *gap);
        for (neighbour, highest) in [(above, 0), (below, -1)] {
            let Some((gap, load)) = neighbour else { continue };
            let step = mine.step.load(Ordering::Relaxed).max(load.step.load(Ordering::Relaxed));
            let Some(excess) = gap.unsigned_abs().checked_sub(step.saturating_mul(4)) else {
                continue;
            };
            for (_, load) in others().filter(|(gap, _)| *gap <= highest) {
                load.shift.fetch_add(excess, Ordering::Relaxed);
            }
            if highest == 0 {
                // The clock this was measured from has moved with the others.
                break;
            }
        }
        self.closing_gaps.store(false, Ordering::Release);
    }
}

impl Load {
    /// The virtual clock about `now`, if fair vCPUs want the CPU.
    fn clock(&self, now: Ticks) -> Option<u64> {
        matches!(self.state.load(Ordering::Relaxed), FAIR | BOTH).then(|| {
            let since = now.0.saturating_sub(self.at.load(Ordering::Relaxed));
            let gained = since.saturating_mul(self.rate.load(Ordering::Relaxed)).min(1 << 62);
            let clock = self.clock.load(Ordering::Relaxed).wrapping_add(gained);
            clock.wrapping_add(self.shift.load(Ordering::Relaxed))
        })
    }
}

/// By how much `a` is ahead of `b`, both modulo 2^64.
fn ahead(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b).cast_signed()
}

/// A virtual time modulo 2^64.
#[expect(clippy::cast_possible_truncation, reason = "clocks are compared modulo 2^64")]
fn low(vruntime: i128) -> u64 {
    vruntime as u64
}

fn saturated(virtual_span: i128) -> u64 {
    u64::try_from(virtual_span).unwrap_or(u64::MAX)
}

impl RunQueue {
    /// Whether `entity` has to give up this CPU when it waits: see [`Balance::is_contended`].
    pub fn is_contended(&self, entity: Entity) -> bool {
        let affinity = self.position(entity).map(|index| self.records[index].affinity);
        affinity.is_none_or(|affinity| self.balance.is_contended(self.cpu, affinity))
    }

    /// Where this CPU should look for somebody to take over with [`Self::pull`], if it should.
    pub fn source(&mut self) -> Option<CpuId> {
        let (balance, me) = (&self.balance, self.cpu);
        let invited_by = balance.loads.get(me.index())?.invited_by.swap(0, Ordering::AcqRel);
        if let Some(host) = invited_by.checked_sub(1) {
            return u8::try_from(host).ok().map(CpuId);
        }
        if (0..self.records.len()).any(|index| self.can_run(index)) {
            return None;
        }
        let all = || (0..=u8::MAX).map(CpuId).zip(&balance.loads);
        let round = all().skip(me.index() + 1).chain(all().take(me.index()));
        let bit = 1 << (me.index() % 64);
        let offers = |load: &Load| load.offers.load(Ordering::Relaxed) & bit != 0;
        round.filter(|(_, load)| offers(load)).map(|(cpu, _)| cpu).next()
    }

    /// Whether another CPU should come here: the one to kick. To be asked after every wake-up, and once
    /// the CPU has loaded what it picked.
    pub fn invite(&mut self, now: Ticks) -> Option<CpuId> {
        if !core::mem::take(&mut self.news) {
            return None;
        }
        let now = self.advance(now);
        self.publish(now);
        if self.offers() == 0 {
            return None;
        }
        let heir = self.heir();
        let mut best: Option<(i64, CpuId)> = None;
        for (cpu, load) in (0..=u8::MAX).map(CpuId).zip(&self.balance.loads) {
            if cpu == self.cpu || load.invited_by.load(Ordering::Relaxed) != 0 {
                continue;
            }
            let worth = match (load.state.load(Ordering::Relaxed), load.clock(now)) {
                (IDLE, _) => self.candidate(cpu, heir).map(|_| i64::MAX),
                (FAIR, Some(clock)) => self.gain(cpu, clock, heir),
                _ => self.candidate(cpu, heir).filter(|index| self.is_misplaced(*index)).map(|_| 1),
            };
            if worth > best.map(|(worth, _)| worth) {
                best = worth.map(|worth| (worth, cpu));
            }
        }
        let (_, cpu) = best?;
        let load = self.balance.loads.get(cpu.index())?;
        load.invited_by.store(u16::from(self.cpu.0) + 1, Ordering::Release);
        Some(cpu)
    }

    /// Take over the most deserving of those who wait at `from` and may come here, if this CPU is idle, or
    /// if who runs here is ahead of it by more than a slice. The caller holds both queues' locks, picks next, tells
    /// whoever wants to wake the entity that it is here now, and asks `from` whom it [`Self::invite`]s next.
    pub fn pull(&mut self, from: &mut Self, now: Ticks) -> Option<Entity> {
        if self.records.len() == self.records.capacity() {
            return None;
        }
        let now = from.advance(self.advance(now));
        self.refresh(now);
        // Only who has to stop: who may go on again is the business of that CPU's next pick.
        for record in from.records.iter_mut().filter(|record| record.is_waiting()) {
            if record.throttled.is_none() {
                record.follow_cap(now);
            }
        }
        let pulled = self.take_from(from, now);
        self.publish(now);
        from.publish(now);
        // If what was published here was out of date, somebody else may be invited.
        from.news = true;
        pulled
    }

    fn take_from(&mut self, from: &mut Self, now: Ticks) -> Option<Entity> {
        let heir = from.heir();
        let index = from.candidate(self.cpu, heir)?;
        let reserved = self.first_server(None).is_some();
        let idle = !reserved && !self.has_fair(None);
        let least = self.least(now);
        // Up to now: a lone vCPU may not have been looked at for long.
        self.floor = self.floor.max(least.unwrap_or(self.floor));
        if reserved && !from.is_misplaced(index) {
            return None;
        }
        if !idle && !from.is_misplaced(index) {
            let clock = low(least?).wrapping_add(self.shift());
            from.gain(self.cpu, clock, heir)?;
        }
        from.records[index].settle(now);
        let arriving = low(from.records[index].vruntime).wrapping_add(from.shift());
        let mut record = from.records.swap_remove(index);
        if least.is_none()
            && let Some(load) = self.balance.loads.get(self.cpu.index())
        {
            load.shift.store(arriving.wrapping_sub(low(self.floor)), Ordering::Relaxed);
        }
        let distance = ahead(arriving, low(self.floor).wrapping_add(self.shift()));
        let step = |queue: &Self| {
            let load = queue.balance.loads.get(queue.cpu.index());
            load.map_or(0, |load| load.step.load(Ordering::Relaxed))
        };
        let step = i128::from(step(self).max(step(from)));
        let step = step.max(record.account.price(self.balance.timing.slice));
        let distance = i128::from(distance).clamp(step.saturating_mul(-4), step.saturating_mul(4));
        record.vruntime = self.floor.saturating_add(distance);
        let entity = record.entity;
        self.records.push(record);
        self.look();
        Some(entity)
    }

    /// Tell the others how things stand here.
    pub(super) fn publish(&mut self, now: Ticks) {
        let Some(load) = self.balance.loads.get(self.cpu.index()) else { return };
        let fair = |index: &usize| self.is_fair(*index);
        let count = (0..self.records.len()).filter(fair).count();
        let running = self.records.iter().position(Record::is_running);
        let lone = running.filter(|index| count == 1 && self.is_fair(*index));
        let rate = lone.map_or(0, |index| saturated(self.records[index].account.price(Ticks(1))));
        let price = |index: usize| self.records[index].account.price(self.balance.timing.slice);
        let step = (0..self.records.len()).filter(fair).map(price).max();
        if let Some(least) = self.least(now) {
            load.clock.store(low(least), Ordering::Relaxed);
            load.at.store(now.0, Ordering::Relaxed);
            load.rate.store(rate, Ordering::Relaxed);
            load.step.store(step.map_or(0, saturated), Ordering::Relaxed);
        }
        let state = match (self.first_server(None).is_some(), count > 0) {
            (false, false) => IDLE,
            (true, false) => RESERVED,
            (false, true) => FAIR,
            (true, true) => BOTH,
        };
        load.state.store(state, Ordering::Relaxed);
        load.offers.store(self.offers(), Ordering::Relaxed);
        if self.compared.saturating_add(self.balance.timing.slice) <= now {
            self.compared = now;
            self.balance.close_gaps(self.cpu, now);
        }
    }

    /// The CPUs that those who wait here may go to, modulo 64.
    fn offers(&self) -> u64 {
        let heir = self.heir();
        let movable = (0..self.records.len()).filter(|index| self.can_move(*index, heir));
        let others = movable.map(|index| self.records[index].affinity.folded());
        others.fold(0, |all, cpus| all | cpus)
    }

    /// Who waits here, may run on `cpu`, and deserves it most.
    fn candidate(&self, cpu: CpuId, heir: Option<usize>) -> Option<usize> {
        let movable = (0..self.records.len()).filter(|index| {
            self.can_move(*index, heir) && self.records[*index].affinity.contains(cpu)
        });
        movable.min_by_key(|index| (!self.is_misplaced(*index), self.records[*index].vruntime))
    }

    /// By how much more than a slice the candidate for `cpu` is behind `clock`.
    fn gain(&self, cpu: CpuId, clock: u64, heir: Option<usize>) -> Option<i64> {
        let index = self.candidate(cpu, heir)?;
        if self.is_misplaced(index) {
            return Some(i64::MAX);
        }
        let record = &self.records[index];
        let mine = low(record.vruntime).wrapping_add(self.shift());
        let step = saturated(record.account.price(self.balance.timing.slice));
        ahead(clock, mine).checked_sub_unsigned(step).filter(|gain| *gain > 0)
    }

    /// Whether it waits, its registers are in no CPU, and it has a choice of CPUs or is not allowed here.
    fn can_move(&self, index: usize, heir: Option<usize>) -> bool {
        let record = &self.records[index];
        record.is_waiting()
            && self.resident != Some(record.entity)
            && Some(index) != heir
            && (self.is_misplaced(index) || self.is_fair(index))
    }

    fn is_misplaced(&self, index: usize) -> bool {
        !self.records[index].affinity.contains(self.cpu)
    }

    fn shift(&self) -> u64 {
        let load = self.balance.loads.get(self.cpu.index());
        load.map_or(0, |load| load.shift.load(Ordering::Relaxed))
    }
}
