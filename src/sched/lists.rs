//! Who of a queue's vCPUs is where, kept up so that nobody has to be looked for.
//!
//! What a queue does then costs the same however many vCPUs are blocked, and hardly more when many wait:
//!
//! | list | who | in the order of |
//! |---|---|---|
//! | `names` | all | VM and vCPU |
//! | `running` | the one on the CPU | |
//! | `ready` | who waits, with neither reservation nor cap, and may use the CPU | virtual runtime |
//! | `watched` | who else waits: each is looked at with each choice | |
//! | `timed` | who is blocked with a deadline | deadline |

use alloc::vec::Vec;
use core::cell::Cell;

use super::Entity;
use super::order::Order;
use super::queue::RunQueue;
use super::record::{Record, State};
use crate::machine::CpuId;
use crate::time::Ticks;

/// The list that a record is in, apart from the names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Listed {
    /// Off, paused, or blocked without a deadline.
    #[default]
    Nowhere,
    Running,
    Ready,
    Watched,
    Timed,
}

/// The lists of one queue.
#[derive(Debug, Default)]
pub(super) struct Lists {
    names: Order,
    pub running: Option<usize>,
    pub ready: Order,
    pub watched: Vec<usize>,
    timed: Order,
    /// Whom [`RunQueue::position`] has found last, and before: a switch is about two.
    last: [Cell<usize>; 2],
}

impl Lists {
    fn make_room(&mut self, count: usize) {
        for order in [&mut self.names, &mut self.ready, &mut self.timed] {
            order.make_room(count);
        }
        self.watched.reserve(count.saturating_sub(self.watched.len()));
    }

    fn put(&mut self, records: &mut [Record], index: usize, cpu: CpuId) {
        let listed = listed(&records[index], cpu);
        match listed {
            Listed::Nowhere => {}
            Listed::Running => self.running = Some(index),
            Listed::Ready => self.ready.insert(index, |at| turn(&records[at])),
            Listed::Watched => self.watched.push(index),
            Listed::Timed => self.timed.insert(index, |at| deadline(&records[at])),
        }
        records[index].listed = listed;
    }

    fn take(&mut self, records: &[Record], index: usize) {
        match records[index].listed {
            Listed::Nowhere => {}
            Listed::Running => self.running = None,
            Listed::Ready => self.ready.remove(index, |at| turn(&records[at])),
            Listed::Watched => self.watched.retain(|other| *other != index),
            Listed::Timed => self.timed.remove(index, |at| deadline(&records[at])),
        }
    }
}

/// Where a record belongs in the queue of `cpu`.
fn listed(record: &Record, cpu: CpuId) -> Listed {
    match record.state {
        State::Running { .. } => Listed::Running,
        _ if record.paused => Listed::Nowhere,
        State::Blocked { deadline: Some(_) } => Listed::Timed,
        State::Off | State::Blocked { deadline: None } => Listed::Nowhere,
        State::Runnable if record.is_plain() && record.affinity.contains(cpu) => Listed::Ready,
        State::Runnable => Listed::Watched,
    }
}

/// Among those who wait, the least comes first: who is most behind; of those that are alike, as vCPUs are that a cap
/// held back, the one that has waited longest.
pub(super) fn turn(record: &Record) -> (i128, Ticks) {
    (record.vruntime, record.since)
}

fn deadline(record: &Record) -> Option<Ticks> {
    match record.state {
        State::Blocked { deadline } => deadline,
        _ => None,
    }
}

impl RunQueue {
    /// Change a record. All but the running one's virtual runtime and times is changed here, so that the lists are true.
    pub(super) fn edit<T>(&mut self, index: usize, change: impl FnOnce(&mut Record) -> T) -> T {
        self.lists.take(&self.records, index);
        let result = change(&mut self.records[index]);
        self.lists.put(&mut self.records, index, self.cpu);
        result
    }

    /// Take a record in. Only [`Self::make_room`] allocates.
    pub(super) fn push(&mut self, record: Record) {
        let index = self.records.len();
        self.records.push(record);
        self.lists.names.insert(index, |at| self.records[at].entity);
        self.lists.put(&mut self.records, index, self.cpu);
    }

    /// Give a record away.
    pub(super) fn take(&mut self, index: usize) -> Record {
        self.lists.take(&self.records, index);
        self.lists.names.remove(index, |at| self.records[at].entity);
        let record = self.records.swap_remove(index);
        let last = self.records.len();
        // Who was last is in its place.
        if index < last {
            let Lists { names, running, ready, watched, timed, .. } = &mut self.lists;
            for order in [names, ready, timed] {
                order.rename(last, index);
            }
            for place in watched.iter_mut().chain(running) {
                if *place == last {
                    *place = index;
                }
            }
        }
        record
    }

    /// Let so many records be taken in.
    pub(super) fn make_room(&mut self, count: usize) {
        self.records.reserve(count.saturating_sub(self.records.len()));
        self.lists.make_room(self.records.capacity());
    }

    /// Change each of those that are looked at one by one; who need not be any more is listed where it belongs.
    pub(super) fn review(&mut self, mut change: impl FnMut(&mut Record)) {
        let mut at = 0;
        while let Some(index) = self.lists.watched.get(at).copied() {
            let record = &mut self.records[index];
            change(record);
            if listed(record, self.cpu) == Listed::Watched {
                at += 1;
            } else {
                self.lists.watched.remove(at);
                self.lists.put(&mut self.records, index, self.cpu);
            }
        }
    }

    /// Where the record of `entity` is.
    #[inline]
    pub(super) fn position(&self, entity: Entity) -> Option<usize> {
        let [last, before] = &self.lists.last;
        let is_here =
            |at: &usize| self.records.get(*at).is_some_and(|record| record.entity == entity);
        if let Some(known) = [last.get(), before.get()].into_iter().find(is_here) {
            return Some(known);
        }
        let found = self.lists.names.find(&entity, |at| self.records[at].entity)?;
        before.set(last.replace(found));
        Some(found)
    }

    /// Who is on the CPU.
    pub(super) fn running(&self) -> Option<usize> {
        self.lists.running
    }

    /// All that wait for the CPU, and the one that is on it.
    pub(super) fn wanting(&self) -> impl Iterator<Item = usize> + '_ {
        let Lists { running, ready, watched, .. } = &self.lists;
        running.iter().copied().chain(ready.iter()).chain(watched.iter().copied())
    }

    /// Who is blocked and has to be woken first, and when.
    pub(super) fn first_deadline(&self) -> Option<(usize, Ticks)> {
        let first = self.lists.timed.first()?;
        Some((first, deadline(&self.records[first])?))
    }
}

#[cfg(test)]
impl RunQueue {
    /// Whether what the lists say is what a look at each record finds.
    pub(super) fn lists_are_true(&self) -> bool {
        let all = || 0..self.records.len();
        let of =
            |kind: Listed| all().filter(move |at| listed(&self.records[*at], self.cpu) == kind);
        let mut watched = self.lists.watched.clone();
        watched.sort_unstable();
        let is_sorted = |order: &Order, in_order: &dyn Fn(usize, usize) -> bool| {
            order.iter().zip(order.iter().skip(1)).all(|(one, next)| in_order(one, next))
        };
        let has_all = |order: &Order, kind: Listed| {
            let mut places: Vec<usize> = order.iter().collect();
            places.sort_unstable();
            of(kind).eq(places)
        };
        // One may have got a cap without the queue's knowledge: that is found out with the next choice.
        let capped = self.lists.ready.iter().any(|at| !self.records[at].is_plain());
        let turns = |one: usize, next: usize| turn(&self.records[one]) <= turn(&self.records[next]);
        let times = |one, next| deadline(&self.records[one]) <= deadline(&self.records[next]);
        let least = self.first_waiting().map(|at| turn(&self.records[at]));
        let waiting = all().filter(|at| self.is_fair(*at) && self.records[*at].is_waiting());
        all().all(|at| self.position(self.records[at].entity) == Some(at))
            && of(Listed::Running).eq(self.lists.running)
            && (capped
                || has_all(&self.lists.ready, Listed::Ready) && of(Listed::Watched).eq(watched))
            && has_all(&self.lists.timed, Listed::Timed)
            && is_sorted(&self.lists.ready, &turns)
            && is_sorted(&self.lists.timed, &times)
            && least == waiting.map(|at| turn(&self.records[at])).min()
    }
}
