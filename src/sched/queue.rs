//! One CPU's run queue: what becomes of its vCPUs when something happens.
//!
//! Operations look only at those vCPUs that they concern (see `lists`), and none but [`RunQueue::add`]
//! allocates.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::account::{Account, Usage};
use super::balance::Balance;
use super::lists::Lists;
use super::record::{Record, State, Terms};
use super::reservation::Server;
use super::{Entity, Retired, Woken};
use crate::machine::CpuId;
use crate::time::Ticks;

/// How many vCPUs a queue has room for from the start; beyond that it only grows by [`RunQueue::add`].
pub const ROOM: usize = 32;

/// Why the running vCPU may have to go before its slice is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Switch {
    Keep,
    /// Somebody woke up, or came.
    Look,
    /// It gave way.
    Yield,
}

/// One CPU's run queue.
#[derive(Debug)]
pub struct RunQueue {
    pub(super) cpu: CpuId,
    pub(super) balance: Arc<Balance>,
    pub(super) records: Vec<Record>,
    pub(super) lists: Lists,
    /// Whose registers are in the CPU: it cannot go elsewhere.
    pub(super) resident: Option<Entity>,
    /// The latest time anybody brought.
    pub(super) clock: Ticks,
    /// The least virtual runtime of those who want the CPU; never goes back.
    pub(super) floor: i128,
    pub(super) slice_end: Option<Ticks>,
    pub(super) switch: Switch,
    /// Who waits may have changed since [`Self::invite`] looked.
    pub(super) news: bool,
    /// A reservation has given up the CPU since [`Self::invite`] looked.
    pub(super) freed: bool,
    /// When the virtual clocks were last compared.
    pub(super) compared: Ticks,
    /// The most that a slice costs a fair vCPU that wants the CPU, or wanted it since then.
    pub(super) step: i128,
    /// The same of those who wanted it lately, or with whom somebody waited elsewhere who came from there: it falls by an
    /// eighth with each slice.
    pub(super) lately: i128,
}

impl RunQueue {
    /// The empty queue of `cpu`.
    pub fn new(cpu: CpuId, balance: Arc<Balance>) -> Self {
        let mut queue = Self {
            cpu,
            balance,
            records: Vec::new(),
            lists: Lists::default(),
            resident: None,
            clock: Ticks(0),
            floor: 0,
            slice_end: None,
            switch: Switch::Keep,
            news: false,
            freed: false,
            compared: Ticks(0),
            step: 0,
            lately: 0,
        };
        queue.make_room(ROOM);
        queue
    }

    /// Make `entity` belong to this CPU. It is off.
    pub fn add(&mut self, entity: Entity, account: Arc<Account>, terms: Terms) {
        if self.records.len() == self.records.capacity() {
            self.make_room(2 * self.records.len());
        }
        self.push(Record::new(entity, account, terms));
    }

    /// Forget `entity`, which is not on the CPU. Returns whether it is gone.
    pub fn remove(&mut self, entity: Entity, now: Ticks) -> bool {
        let Some(index) = self.position(entity) else { return true };
        if self.retire(entity, now) == Retired::Running {
            return false;
        }
        self.take(index);
        self.resident = self.resident.filter(|resident| *resident != entity);
        true
    }

    /// Whether `entity` belongs to this CPU.
    pub fn contains(&self, entity: Entity) -> bool {
        self.position(entity).is_some()
    }

    /// What an entity does, in a word; `None` when it does not belong to this CPU.
    pub fn state_of(&self, entity: Entity) -> Option<&'static str> {
        let record = &self.records[self.position(entity)?];
        Some(match record.state {
            State::Off => "off",
            _ if record.paused => "paused",
            State::Blocked { .. } => "waiting",
            State::Runnable => "ready",
            State::Running { .. } => "running",
        })
    }

    /// Whether an entity of this CPU could run, and does not.
    pub fn is_kept_waiting(&self, entity: Entity) -> bool {
        self.position(entity).is_some_and(|at| self.records[at].is_waiting())
    }

    /// How many wait for this CPU.
    pub fn waiting(&self) -> usize {
        self.lists.ready.len() + self.lists.watched.len()
    }

    /// How many entities belong to this CPU.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Change how `entity` is scheduled. Its CPU should look at its queue. If it may no longer use this
    /// CPU, [`Self::invite`] tells which one should come for it. Returns whether it belongs here.
    pub fn set_terms(&mut self, entity: Entity, terms: Terms, now: Ticks) -> bool {
        let now = self.advance(now);
        let Some(index) = self.position(entity) else { return false };
        let before = self.edit(index, |record| {
            record.settle(now);
            (core::mem::replace(&mut record.affinity, terms.affinity), record.server)
        });
        if self.records[index].is_online() {
            self.balance.count(before.0, false);
            self.balance.count(terms.affinity, true);
        }
        if before.1.map(|server| server.terms()) != terms.reservation {
            self.edit(index, |record| {
                record.server = terms.reservation.map(Server::new);
                if let Some(server) = &mut record.server
                    && record.state != State::Off
                {
                    server.wake(now);
                }
            });
            if terms.reservation.is_none() {
                self.place(index, Ticks(0), now);
            }
        }
        if before.0 != terms.affinity {
            self.balance.start_anew(now);
        }
        self.look();
        true
    }

    /// An entity that was off waits for the CPU. Returns whether it was off.
    pub fn start(&mut self, entity: Entity, now: Ticks) -> bool {
        self.start_at(entity, None, now)
    }

    /// An entity that was off waits for the CPU from `at` on, if that is given. Returns whether it was
    /// off.
    pub fn start_at(&mut self, entity: Entity, at: Option<Ticks>, now: Ticks) -> bool {
        let now = self.advance(now);
        let Some(index) = self.position(entity) else { return false };
        if self.records[index].is_online() {
            return false;
        }
        match at {
            Some(_) => self.change(index, State::Blocked { deadline: at }, now),
            None => self.enqueue(index, Ticks(0), now),
        }
        true
    }

    /// Something has happened that `entity` should see.
    pub fn wake(&mut self, entity: Entity, now: Ticks) -> Woken {
        let now = self.advance(now);
        let Some(index) = self.position(entity) else { return Woken::Elsewhere };
        match &mut self.records[index].state {
            State::Off | State::Runnable => Woken::Nothing,
            State::Blocked { .. } => {
                self.enqueue(index, self.balance.timing.credit, now);
                if self.records[index].paused { Woken::Nothing } else { Woken::Queued }
            }
            State::Running { woken } => {
                *woken = true;
                Woken::Running
            }
        }
    }

    /// The running entity gives the CPU to the others that wait for it, if any. Nobody takes the budget
    /// of a reservation, so one that has a reservation goes on.
    pub fn yield_now(&mut self) {
        self.switch = Switch::Yield;
    }

    /// The running entity waits for an event. Returns false, and lets it run on, when it was woken
    /// since [`Self::attend`].
    pub fn block(&mut self, entity: Entity, now: Ticks) -> bool {
        let now = self.advance(now);
        let Some(index) = self.position(entity) else { return false };
        if self.records[index].state != (State::Running { woken: false }) {
            return false;
        }
        self.change(index, State::Blocked { deadline: None }, now);
        true
    }

    /// The CPU has taken in the registers of `entity`.
    pub fn load(&mut self, entity: Entity) {
        self.resident = Some(entity);
    }

    /// The CPU has given up the registers of `entity`, which are where any CPU can load them from. From
    /// now on it can go elsewhere.
    pub fn unload(&mut self, entity: Entity) {
        if self.resident == Some(entity) {
            self.resident = None;
            self.news = true;
        }
    }

    /// Whether the CPU has to give up the registers it holds although nobody else needs it: their vCPU
    /// is paused, or has to go to another CPU.
    pub fn must_unload(&self) -> bool {
        self.resident.and_then(|resident| self.position(resident)).is_some_and(|index| {
            let record = &self.records[index];
            !record.is_running() && (record.paused || !record.affinity.contains(self.cpu))
        })
    }

    /// The timers of a blocked entity no longer run in hardware, so the queue has to wake it at
    /// `deadline`.
    pub fn set_deadline(&mut self, entity: Entity, deadline: Option<Ticks>) {
        if let Some(index) = self.position(entity)
            && let State::Blocked { deadline: before } = self.records[index].state
            && before != deadline
        {
            self.edit(index, |record| record.state = State::Blocked { deadline });
        }
    }

    /// The running entity is about to look at everything that could have woken it.
    #[inline]
    pub fn attend(&mut self, entity: Entity) {
        if let Some(index) = self.position(entity)
            && let State::Running { woken } = &mut self.records[index].state
        {
            *woken = false;
        }
    }

    /// Turn an entity off, unless it is on the CPU.
    pub fn retire(&mut self, entity: Entity, now: Ticks) -> Retired {
        let now = self.advance(now);
        let Some(index) = self.position(entity) else { return Retired::WasOff };
        match self.records[index].state {
            State::Off => Retired::WasOff,
            State::Running { .. } => Retired::Running,
            State::Blocked { .. } | State::Runnable => {
                self.change(index, State::Off, now);
                Retired::Off
            }
        }
    }

    /// The CPU has taken the running entity off.
    pub fn turn_off(&mut self, entity: Entity, now: Ticks) {
        let now = self.advance(now);
        if let Some(index) = self.position(entity) {
            self.change(index, State::Off, now);
        }
    }

    /// Keep `entity` off the CPU until it is resumed, whatever wakes it. On [`Retired::Running`] the CPU
    /// has to be kicked; its next pick takes the entity off.
    pub fn pause(&mut self, entity: Entity, now: Ticks) -> Retired {
        let now = self.advance(now);
        let Some(index) = self.position(entity) else { return Retired::WasOff };
        let record = &mut self.records[index];
        if record.is_running() {
            // A paused vCPU does not count as running once it has left the CPU; until then it does.
            record.paused = true;
            self.look();
            return Retired::Running;
        }
        let was = record.paused;
        self.edit(index, |record| record.change(record.state, true, now));
        if was { Retired::WasOff } else { Retired::Off }
    }

    /// End a pause. Whoever was blocked waits for the CPU, and looks whether there is something to do.
    /// Returns whether the CPU should look at its queue.
    pub fn resume(&mut self, entity: Entity, now: Ticks) -> bool {
        let now = self.advance(now);
        let Some(index) = self.position(entity) else { return false };
        if !self.records[index].paused {
            return false;
        }
        let waits = self.edit(index, |record| {
            record.paused = false;
            let waits = matches!(record.state, State::Blocked { .. } | State::Runnable);
            if waits {
                // As a pause left it: it does not want the CPU yet.
                record.state = State::Blocked { deadline: None };
                record.since = now;
            }
            waits
        });
        if waits {
            self.enqueue(index, Ticks(0), now);
        }
        true
    }

    /// Whether `entity` is neither on the CPU nor are its registers in it.
    pub fn is_away(&self, entity: Entity) -> bool {
        let running = self.position(entity).is_some_and(|index| self.records[index].is_running());
        !running && self.resident != Some(entity)
    }

    /// What `entity` used and waited for, up to `now`.
    pub fn usage(&self, entity: Entity, now: Ticks) -> Option<Usage> {
        let now = now.max(self.clock);
        self.position(entity).map(|index| self.records[index].usage_at(now))
    }

    /// The next moment at which this queue has something to do by itself.
    pub fn next_event(&self) -> Option<Ticks> {
        let lone = self.lists.running.iter().chain(&self.lists.watched);
        let own = lone.filter_map(|index| self.next_of(&self.records[*index]));
        let blocked = self.first_deadline().map(|(_, at)| at);
        own.chain(blocked).chain(self.slice_end).min()
    }

    /// Wake one entity whose deadline has passed.
    pub fn expire(&mut self, now: Ticks) -> Option<Entity> {
        let (index, _) = self.first_deadline().filter(|(_, at)| *at <= now)?;
        let entity = self.records[index].entity;
        self.wake(entity, now);
        Some(entity)
    }

    /// When the queue has to look at one that wants the CPU.
    fn next_of(&self, record: &Record) -> Option<Ticks> {
        if record.paused {
            return None;
        }
        match (record.state, &record.server) {
            (State::Off | State::Blocked { .. }, _) => None,
            (State::Running { .. }, Some(server)) => Some(server.exhausted_at(record.since)),
            (State::Running { .. }, None) => {
                record.account.bucket.look_at(self.clock, record.account.running())
            }
            (State::Runnable, Some(server)) => (!server.has_budget()).then(|| server.deadline()),
            (State::Runnable, None) => record.throttled,
        }
    }

    /// An entity wants the CPU from now on.
    fn enqueue(&mut self, index: usize, credit: Ticks, now: Ticks) {
        if self.records[index].server.is_some() {
            self.edit(index, |record| record.server.iter_mut().for_each(|it| it.wake(now)));
        }
        self.place(index, credit, now);
        self.change(index, State::Runnable, now);
        self.look();
    }

    /// Where a vCPU that comes stands among the others: what it did not use while it was away is
    /// forgotten but for `credit`, what it used in advance is not, within limits.
    pub(super) fn place(&mut self, index: usize, credit: Ticks, now: Ticks) {
        let least = self.least(now);
        self.floor = self.floor.max(least.unwrap_or(self.floor));
        if !self.has_fair(Some(index)) {
            self.balance.align(self.cpu, self.floor, now);
        }
        // Somebody who came from another CPU may be behind the floor.
        let from = least.unwrap_or(self.floor);
        let account = &self.records[index].account;
        let slice = account.price(self.balance.timing.slice);
        let lowest = from.saturating_sub(account.price(credit));
        let highest = self.floor.saturating_add(slice.saturating_mul(2));
        self.step = self.step.max(slice);
        self.edit(index, |record| record.vruntime = record.vruntime.clamp(lowest, highest));
    }

    pub(super) fn change(&mut self, index: usize, state: State, now: Ticks) {
        let (was, affinity) = (self.records[index].is_online(), self.records[index].affinity);
        self.edit(index, |record| record.change(state, record.paused, now));
        if was != self.records[index].is_online() {
            self.balance.count(affinity, !was);
        }
    }

    /// The next pick considers everybody anew.
    pub(super) fn look(&mut self) {
        if self.switch == Switch::Keep {
            self.switch = Switch::Look;
        }
        self.news = true;
    }

    /// Time does not go back, whichever CPU read it.
    pub(super) fn advance(&mut self, now: Ticks) -> Ticks {
        self.clock = self.clock.max(now);
        self.clock
    }
}
