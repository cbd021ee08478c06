//! From CPU to CPU: how a vCPU goes from one queue to another.
//!
//! Only one that waits moves. There are two ways, and both end in [`RunQueue::pull`] with both queues
//! locked, in the order of their CPUs:
//!
//! * A CPU with nothing to run looks for a queue with somebody who may come ([`RunQueue::source`]).
//! * A CPU where somebody waits looks, whenever it chooses anew, for a CPU that is idle, or that runs
//!   somebody who has had more than who waits here, and *invites* it ([`RunQueue::invite`]). So a CPU with
//!   a single vCPU needs no tick to find out that it should share.
//!
//! Virtual time is the potential that vCPUs follow: they go where it is furthest. One whose weight is
//! worth more than a CPU follows no potential, as it never waits; it may be in the way of others that
//! have fewer CPUs to choose from. So, first, a CPU with such a vCPU counts as being as far ahead as the
//! CPUs that this one could go on to (`Balance::lead`, a search for the best end of a chain). Second,
//! once somebody has come there, the running vCPU *makes room*: it has to wait although its virtual
//! runtime is less, and so goes on to the next CPU of the chain.
//!
//! No wake-up is lost: a vCPU changes queues while both are locked, and whoever wakes it finds it in one
//! of them, or is told that it is [`super::Woken::Elsewhere`] and looks again where it belongs now.
//!
//! Nobody moves twice within a slice for the sake of fairness. So there is an end to what happens at one
//! moment, whatever is out of date.

use super::Entity;
use super::balance::{BOTH, FAIR, IDLE, Load, RESERVED, ahead, bit, low, saturated};
use super::queue::RunQueue;
use crate::machine::CpuId;
use crate::sync::atomic::Ordering;
use crate::time::Ticks;

/// So many vCPUs are looked at one by one.
const FEW: usize = 4;

impl RunQueue {
    /// Whether `entity` has to give up this CPU when it waits: see [`super::Balance::is_contended`].
    pub fn is_contended(&self, entity: Entity) -> bool {
        let affinity = self.position(entity).map(|index| self.records[index].affinity);
        affinity.is_none_or(|affinity| self.balance.is_contended(self.cpu, affinity))
    }

    /// Where this CPU should look for somebody to take over with [`Self::pull`], if it should.
    pub fn source(&mut self) -> Option<CpuId> {
        let (balance, me) = (&self.balance, self.cpu);
        if balance.is_lone() {
            return None;
        }
        let invited_by = balance.loads.get(me.index())?.invited_by.swap(0, Ordering::AcqRel);
        if let Some(host) = invited_by.checked_sub(1) {
            return u8::try_from(host).ok().map(CpuId);
        }
        if self.wanting().any(|index| self.can_run(index)) {
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
        if !core::mem::take(&mut self.news) || self.balance.is_lone() {
            return None;
        }
        let now = self.advance(now);
        self.publish(now);
        let freed = core::mem::take(&mut self.freed);
        self.find_guest(now).or_else(|| self.call(freed))
    }

    /// The CPU that should most come for somebody who waits here.
    fn find_guest(&self, now: Ticks) -> Option<CpuId> {
        if self.offers() == 0 {
            return None;
        }
        let heir = self.heir();
        let mut best: Option<(i64, CpuId)> = None;
        for (cpu, load) in (0..=u8::MAX).map(CpuId).zip(&self.balance.loads) {
            if cpu == self.cpu {
                continue;
            }
            let worth = self.worth(cpu, load, heir, now);
            if worth.is_some() && load.invited_by.load(Ordering::Relaxed) != 0 {
                load.missed.fetch_or(bit(self.cpu), Ordering::Relaxed);
                continue;
            }
            if worth > best.map(|(worth, _)| worth) {
                best = worth.map(|worth| (worth, cpu));
            }
        }
        let (_, cpu) = best?;
        let load = self.balance.loads.get(cpu.index())?;
        load.invited_by.store(u16::from(self.cpu.0) + 1, Ordering::Release);
        Some(cpu)
    }

    /// The CPU that should choose anew for the sake of this one: it would have invited this one while
    /// another did; somebody there could run here, where nobody does, instead of keeping another waiting; or
    /// somebody waits there for the end of a reservation, as this one's has just `freed` the CPU.
    fn call(&self, freed: bool) -> Option<CpuId> {
        let (mine, me) = (self.balance.loads.get(self.cpu.index())?, bit(self.cpu));
        let missed = match mine.missed.load(Ordering::Relaxed) {
            0 => 0,
            _ => mine.missed.swap(0, Ordering::Relaxed),
        };
        let idle = mine.state.load(Ordering::Relaxed) == IDLE;
        let concerns = |cpu: CpuId, load: &Load| {
            let state = load.state.load(Ordering::Relaxed);
            let offers = load.offers.load(Ordering::Relaxed) & me != 0;
            let detour = load.detours.load(Ordering::Relaxed) & me != 0;
            missed & bit(cpu) != 0 || idle && detour || freed && state == BOTH && offers
        };
        let others = (0..=u8::MAX).map(CpuId).zip(&self.balance.loads);
        let mut others = others.filter(|(cpu, load)| *cpu != self.cpu && concerns(*cpu, load));
        let found = others.find(|(_, load)| !load.called.swap(true, Ordering::AcqRel));
        found.map(|(cpu, _)| cpu)
    }

    /// Whether another CPU asks this one to choose anew, since the last time.
    pub(super) fn is_called(&self) -> bool {
        let load = self.balance.loads.get(self.cpu.index());
        // Looked at with each choice, and rarely so.
        load.is_some_and(|load| {
            load.called.load(Ordering::Relaxed) && load.called.swap(false, Ordering::AcqRel)
        })
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
        from.review(|record| {
            if record.throttled.is_none() {
                record.follow_cap(now);
            }
        });
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
        let least = self.least(now);
        // Up to now: a lone vCPU may not have been looked at for long.
        self.floor = self.floor.max(least.unwrap_or(self.floor));
        self.publish(now);
        from.worth(self.cpu, self.balance.loads.get(self.cpu.index())?, heir, now)?;
        let forced = from.is_misplaced(index);
        let mut record = from.take(index);
        record.settle(now);
        let arriving = low(record.vruntime).wrapping_add(from.shift());
        if least.is_none()
            && let Some(load) = self.balance.loads.get(self.cpu.index())
        {
            load.shift.store(arriving.wrapping_sub(low(self.floor)), Ordering::Relaxed);
        }
        let distance = ahead(arriving, low(self.floor).wrapping_add(self.shift()));
        let price = record.account.price(self.balance.timing.slice);
        let step = if forced { price } else { self.step.max(from.step).max(price) };
        self.step = self.step.max(price);
        self.lately = self.lately.max(from.lately).max(price);
        // Who comes by itself may be far ahead of one that makes room for it. Who has to leave a CPU, as its
        // affinity has changed, owes and is owed no more than slices of its own.
        let highest = if forced { price.saturating_mul(4) } else { i128::MAX };
        let arriving = self.floor.saturating_add(i128::from(distance).min(highest));
        let lowest = least.map_or(self.floor, |least| least.min(self.floor));
        record.vruntime = arriving.max(lowest.saturating_sub(step.saturating_mul(4)));
        record.came = now;
        let entity = record.entity;
        self.push(record);
        self.look();
        Some(entity)
    }

    /// Tell the others how things stand here.
    pub(super) fn publish(&mut self, now: Ticks) {
        let Some(load) = self.balance.loads.get(self.cpu.index()) else { return };
        if self.balance.is_lone() {
            return;
        }
        let running = self.running();
        let count = self.lists.ready.len() + self.aside().count();
        let lone = running.filter(|index| count == 1 && self.is_fair(*index));
        let rate = lone.map_or(0, |index| saturated(self.records[index].account.price(Ticks(1))));
        let slice = self.balance.timing.slice;
        let compares = self.compared.saturating_add(slice) <= now;
        // With many it is enough that it is right again within a slice, as somebody has one then.
        if count <= FEW || compares {
            let price = |index: usize| self.records[index].account.price(slice);
            let all = self.aside().chain(self.lists.ready.iter());
            self.step = all.map(price).max().unwrap_or(0);
        }
        if compares {
            let slices = (now.since(self.compared).0 / slice.0.max(1)).min(8);
            self.lately -= self.lately.saturating_mul(slices.into()) / 8;
        }
        self.lately = self.lately.max(self.step);
        if let Some(least) = self.level(now, self.step) {
            load.clock.store(low(least), Ordering::Relaxed);
            load.at.store(now.0, Ordering::Relaxed);
            load.rate.store(rate, Ordering::Relaxed);
            load.step.store(saturated(self.lately), Ordering::Relaxed);
        }
        let state = match (self.first_server(None).is_some(), count > 0) {
            (false, false) => IDLE,
            (true, false) => RESERVED,
            (false, true) => FAIR,
            (true, true) => BOTH,
        };
        load.state.store(state, Ordering::Relaxed);
        load.offers.store(self.offers(), Ordering::Relaxed);
        let exits =
            lone.map_or(0, |index| self.records[index].affinity.first_64() & !bit(self.cpu));
        load.exits.store(exits, Ordering::Relaxed);
        let waiting = running.filter(|index| self.is_fair(*index)).zip(self.first_waiting());
        let detours = waiting.map_or(0, |(running, waiting)| self.detours(running, waiting));
        load.detours.store(detours, Ordering::Relaxed);
        if compares {
            self.compared = now;
            self.balance.close_gaps(now);
        }
    }

    /// The virtual clock that others are to compare theirs with: the least virtual runtime, but for those
    /// who are behind by more than two slices, as only those are whose weight is worth more than a CPU.
    fn level(&self, now: Ticks, step: i128) -> Option<i128> {
        let runtime = |index: usize| self.vruntime_at(index, now);
        let aside = || self.aside().map(runtime);
        let ready = &self.lists.ready;
        let mut at = aside().chain(ready.first().map(runtime)).min()?;
        let largest = aside().chain(ready.last().map(runtime)).max()?;
        let mut level = at;
        // There is rarely more than one of these.
        for _ in 0..8 {
            if largest <= at.saturating_add(step.saturating_mul(2)) {
                break;
            }
            let behind = ready.first_from(|index| runtime(index) > at).map(runtime);
            let others = aside().filter(|other| *other > at);
            let Some(next) = others.chain(behind).min() else { break };
            if at.saturating_add(step.saturating_mul(2)) < next {
                level = next;
            }
            at = next;
        }
        Some(level)
    }

    /// The CPUs that those who wait here may go to, modulo 64.
    fn offers(&self) -> u64 {
        let (heir, all) = (self.heir(), self.balance.all.folded());
        let waiting = self.watched().chain(self.lists.ready.iter());
        let mut offers = 0;
        for index in waiting.filter(|index| self.can_move(*index, heir)) {
            offers |= self.records[index].affinity.folded();
            if offers & all == all {
                break;
            }
        }
        offers
    }

    /// Who waits here, may run on `cpu`, and deserves it most.
    fn candidate(&self, cpu: CpuId, heir: Option<usize>) -> Option<usize> {
        let can_go = |index: &usize| {
            self.can_move(*index, heir) && self.records[*index].affinity.contains(cpu)
        };
        let ready = self.lists.ready.iter().find(can_go);
        let watched = self.watched().filter(can_go);
        let worst_off = |at: &usize| (!self.is_misplaced(*at), self.records[*at].vruntime);
        watched.chain(ready).min_by_key(worst_off)
    }

    /// How good it would be if `cpu` came for somebody, if at all.
    fn worth(&self, cpu: CpuId, load: &Load, heir: Option<usize>, now: Ticks) -> Option<i64> {
        match (load.state.load(Ordering::Relaxed), load.clock(now)) {
            (IDLE, _) => self.candidate(cpu, heir).map(|_| i64::MAX),
            (FAIR, Some(clock)) => self.gain(cpu, load, clock, heir, now),
            _ => self.candidate(cpu, heir).filter(|index| self.is_misplaced(*index)).map(|_| 1),
        }
    }

    /// By how much more than a slice the candidate for `cpu` is behind `clock`, or behind where it would
    /// end who runs there now.
    fn gain(
        &self,
        cpu: CpuId,
        load: &Load,
        clock: u64,
        heir: Option<usize>,
        now: Ticks,
    ) -> Option<i64> {
        let index = self.candidate(cpu, heir)?;
        if self.is_misplaced(index) {
            return Some(i64::MAX);
        }
        // One that a reservation has taken the CPU from may flee at once.
        if self.is_new(index, now) && self.first_server(None).is_none() {
            return None;
        }
        let (mine, step) = self.stands(index);
        let exits = load.exits.load(Ordering::Relaxed);
        let beyond = self.balance.lead(exits, bit(self.cpu) | bit(cpu), mine, step, now);
        let beyond = beyond.map(|lead| lead.saturating_sub_unsigned(step));
        let lead = beyond.max(Some(ahead(clock, mine)))?;
        lead.checked_sub_unsigned(step).filter(|gain| *gain > 0)
    }

    /// Whether the running vCPU should go elsewhere for the sake of the one that waits most: it can go to an
    /// idle CPU, or where virtual time is ahead of that one's by more than a slice, and that one cannot.
    pub(super) fn makes_room(&self, running: usize, waiting: usize, now: Ticks) -> bool {
        let (mine, step) = self.stands(waiting);
        let could_go = |index: usize| {
            let cpus = self.records[index].affinity.first_64();
            let lead = self.balance.lead(cpus, bit(self.cpu), mine, step, now);
            lead.and_then(|lead| lead.checked_sub_unsigned(step)).is_some_and(|gain| gain > 0)
        };
        if self.balance.is_lone() {
            return false;
        }
        if self.is_fair(running) && self.balance.has_idle(self.detours(running, waiting)) {
            return true;
        }
        self.is_fair(running)
            && !self.is_new(running, now)
            && could_go(running)
            && (self.is_new(waiting, now) || !could_go(waiting))
    }

    /// The CPUs below 64 that `one` may go to and `other` may not.
    fn detours(&self, one: usize, other: usize) -> u64 {
        let cpus = |index: usize| self.records[index].affinity.first_64();
        cpus(one) & !cpus(other) & !bit(self.cpu)
    }

    /// The virtual runtime of a vCPU, up to the last booking, by the common clock, and what a slice costs it.
    fn stands(&self, index: usize) -> (u64, u64) {
        let record = &self.records[index];
        let price = record.account.price(self.balance.timing.slice);
        (low(record.vruntime).wrapping_add(self.shift()), saturated(price))
    }

    /// Whether it came less than a slice ago.
    fn is_new(&self, index: usize, now: Ticks) -> bool {
        now.since(self.records[index].came) < self.balance.timing.slice
    }

    /// Whether it waits, its registers are in no CPU, and it has a choice of CPUs or is not allowed here.
    fn can_move(&self, index: usize, heir: Option<usize>) -> bool {
        let record = &self.records[index];
        record.is_waiting()
            && self.resident != Some(record.entity)
            && Some(index) != heir
            && (self.is_misplaced(index) || self.is_fair(index))
    }

    pub(super) fn is_misplaced(&self, index: usize) -> bool {
        !self.records[index].affinity.contains(self.cpu)
    }

    fn shift(&self) -> u64 {
        let load = self.balance.loads.get(self.cpu.index());
        load.map_or(0, |load| load.shift.load(Ordering::Relaxed))
    }
}
