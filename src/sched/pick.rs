//! The choice of whom to run.
//!
//! First the servers of reservations, earliest deadline first. Then the fair vCPUs: the one whose virtual
//! runtime (time used, divided by its share of the VM's weight) is least. The running one goes on until its
//! slice is over, unless somebody woke up who is behind it by more than the granularity, or it makes room
//! (see `transfer`). A lone vCPU has no slice.

use super::Entity;
use super::lists::turn;
use super::queue::{RunQueue, Switch};
use super::record::{Record, State};
use crate::time::Ticks;

impl RunQueue {
    /// Choose what to run at `now`. The chosen one is on the CPU from now on.
    pub fn pick(&mut self, now: Ticks) -> Option<Entity> {
        let now = self.advance(now);
        self.refresh(now);
        if self.is_called() {
            self.look();
        }
        let current = self.running();
        let next = self.choose(current, now);
        let is_reserved = |index: usize| self.records[index].server.is_some();
        self.freed |= current.is_some_and(is_reserved) && !next.is_some_and(is_reserved);
        if current != next {
            if let Some(current) = current {
                self.change(current, State::Runnable, now);
            }
            if let Some(next) = next {
                self.change(next, State::Running { woken: true }, now);
            }
        }
        self.news |= current != next || self.switch != Switch::Keep;
        let over = self.slice_end.is_some_and(|end| end <= now);
        self.slice_end = match self.slice_end {
            _ if !self.somebody_waits() => None,
            Some(end) if current == next && !over => Some(end),
            _ => {
                self.news = true;
                Some(now.saturating_add(self.balance.timing.slice))
            }
        };
        self.switch = Switch::Keep;
        self.floor = self.floor.max(self.least(now).unwrap_or(self.floor));
        self.publish(now);
        next.map(|index| self.records[index].entity)
    }

    /// Book the time, begin periods that are due, follow the caps.
    pub(super) fn refresh(&mut self, now: Ticks) {
        // First what was used: it empties the bucket for all the VM's vCPUs at once.
        if let Some(running) = self.running() {
            self.records[running].settle(now);
        }
        self.watch_capped();
        // Who comes back is measured by those who are there, who may be behind the floor.
        let is_held = |index: usize| self.records[index].throttled.is_some();
        let any_held = self.running().into_iter().chain(self.watched()).any(is_held);
        let least = any_held.then(|| self.least(now)).flatten();
        let level = least.map_or(self.floor, |least| least.min(self.floor));
        let (slice, mut came_back) = (self.balance.timing.slice, false);
        let mut refresh = |record: &mut Record| {
            if let Some(server) = &mut record.server {
                server.replenish(now);
            }
            let was_held = record.throttled.is_some();
            record.follow_cap(now);
            if was_held && record.throttled.is_none() {
                // What it could not use does not count against the others, but for some slices: it may have
                // been held back only because its VM ran in a burst.
                let lowest = level.saturating_sub(record.account.price(slice).saturating_mul(4));
                record.vruntime = record.vruntime.max(lowest);
                came_back = true;
            }
        };
        if let Some(running) = self.running() {
            refresh(&mut self.records[running]);
        }
        self.review(refresh);
        if came_back && self.switch == Switch::Keep {
            self.switch = Switch::Look;
        }
    }

    /// A VM may have got a cap since its vCPU began to wait: that one is looked at from now on.
    fn watch_capped(&mut self) {
        while let Some(first) = self.lists.ready.first()
            && !self.records[first].is_plain()
        {
            self.edit(first, |_| ());
        }
    }

    fn choose(&mut self, current: Option<usize>, now: Ticks) -> Option<usize> {
        let current = current.filter(|index| self.can_run(*index));
        if let Some(server) = self.first_server(current) {
            return Some(server);
        }
        let Some(best) = self.first_waiting() else { return current };
        let Some(current) = current else { return Some(best) };
        let (mine, other) = (self.records[current].vruntime, self.records[best].vruntime);
        let over = self.slice_end.is_some_and(|end| end <= now);
        if over || self.switch == Switch::Look {
            if self.makes_room(current, best, now) {
                return Some(best);
            }
            // It would only have to come back: who waits goes elsewhere instead.
            if self.makes_room(best, current, now) {
                return Some(current);
            }
        }
        let goes = match self.switch {
            Switch::Yield => {
                // It gives up what it is owed, or it would be back at once.
                self.records[current].vruntime = mine.max(other);
                true
            }
            _ if over => other <= mine,
            Switch::Look => {
                let price = self.records[best].account.price(self.balance.timing.granularity);
                other.saturating_add(price) < mine
            }
            Switch::Keep => false,
        };
        Some(if goes { best } else { current })
    }

    /// The server with the earliest deadline among those that can run, if there is one.
    pub(super) fn first_server(&self, current: Option<usize>) -> Option<usize> {
        let servers = self.running().into_iter().chain(self.watched()).filter_map(|index| {
            let server = self.records[index].server.filter(|_| self.can_run(index))?;
            Some((index, server.deadline()))
        });
        servers.min_by_key(|(index, at)| (*at, Some(*index) != current)).map(|(index, _)| index)
    }

    /// The fair vCPU that waits here and whose [`turn`] it is.
    pub(super) fn first_waiting(&self) -> Option<usize> {
        let watched = self.watched().filter(|index| self.is_fair(*index));
        self.lists
            .ready
            .first()
            .into_iter()
            .chain(watched)
            .min_by_key(|at| turn(&self.records[*at]))
    }

    /// Who will be picked next if nothing else happens and the running one does not stay.
    pub(super) fn heir(&self) -> Option<usize> {
        if self.switch == Switch::Keep && self.running().is_some() {
            return None;
        }
        self.first_server(None).or_else(|| self.first_waiting())
    }

    /// Whether somebody waits whom only time, or another CPU, can help.
    fn somebody_waits(&self) -> bool {
        let concerned = |index: usize| {
            let record = &self.records[index];
            let fair = record.server.is_none() && record.throttled.is_none();
            fair || self.is_misplaced(index)
        };
        !self.lists.ready.is_empty() || self.watched().any(concerned)
    }

    /// Those who wait and have to be looked at one by one.
    pub(super) fn watched(&self) -> impl Iterator<Item = usize> + '_ {
        self.lists.watched.iter().copied()
    }

    /// The fair vCPUs that want this CPU, but for those that wait and are not first among them.
    fn foremost(&self) -> impl Iterator<Item = usize> + '_ {
        self.aside().chain(self.lists.ready.first())
    }

    /// The fair vCPUs that want this CPU and are not in the order of those that wait.
    pub(super) fn aside(&self) -> impl Iterator<Item = usize> + '_ {
        let aside = self.running().into_iter().chain(self.watched());
        aside.filter(|index| self.is_fair(*index))
    }

    /// Whether it wants this CPU and may use it now.
    pub(super) fn can_run(&self, index: usize) -> bool {
        self.records.get(index).is_some_and(|record| {
            record.wants_cpu()
                && !record.paused
                && record.has_allowance()
                && record.affinity.contains(self.cpu)
        })
    }

    /// The same, and it has no reservation.
    pub(super) fn is_fair(&self, index: usize) -> bool {
        self.can_run(index) && self.records[index].server.is_none()
    }

    /// Whether a fair vCPU other than `except` wants this CPU.
    pub(super) fn has_fair(&self, except: Option<usize>) -> bool {
        self.aside().chain(self.lists.ready.iter()).any(|index| Some(index) != except)
    }

    /// The least virtual runtime of the fair vCPUs that want this CPU.
    pub(super) fn least(&self, now: Ticks) -> Option<i128> {
        self.foremost().map(|index| self.vruntime_at(index, now)).min()
    }

    pub(super) fn vruntime_at(&self, index: usize, now: Ticks) -> i128 {
        let record = &self.records[index];
        if !record.is_running() {
            return record.vruntime;
        }
        let cost = record.account.cost(now.since(record.since), record.mark, now);
        record.vruntime.saturating_add(cost)
    }
}
