//! A vCPU as its run queue knows it.

use alloc::sync::Arc;

use super::Entity;
use super::account::{Account, Usage};
use super::lists::Listed;
use super::policy::CpuSet;
use super::reservation::{Reservation, Server};
use crate::time::Ticks;

/// Whether a vCPU wants a CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// Powered off, or its VM is stopped: nothing wakes it but a start.
    Off,
    /// Waiting for an interrupt; until the deadline at the latest.
    Blocked { deadline: Option<Ticks> },
    /// Waiting for the CPU.
    Runnable,
    /// On the CPU. `woken` keeps a wake-up that arrives before it blocks.
    Running { woken: bool },
}

/// How one vCPU is scheduled, apart from what its VM's [`Account`] says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Terms {
    /// The CPUs it may run on; with a reservation, only the one it was admitted to.
    pub affinity: CpuSet,
    /// `None`: it shares what is left.
    pub reservation: Option<Reservation>,
}

/// One vCPU.
#[derive(Debug)]
pub(super) struct Record {
    pub entity: Entity,
    pub account: Arc<Account>,
    pub affinity: CpuSet,
    pub server: Option<Server>,
    pub state: State,
    /// It does not run whatever its state says.
    pub paused: bool,
    /// Virtual runtime, by the queue's clock.
    pub vruntime: i128,
    /// Its VM's cap is used up; until then.
    pub throttled: Option<Ticks>,
    pub usage: Usage,
    /// Since when it has been running or waiting.
    pub since: Ticks,
    /// [`Account::demand`] at `since`.
    pub mark: u64,
    /// When it came from another CPU.
    pub came: Ticks,
    /// The list of its queue that it is in.
    pub listed: Listed,
}

impl Record {
    /// A vCPU that is off.
    pub fn new(entity: Entity, account: Arc<Account>, terms: Terms) -> Self {
        Self {
            entity,
            account,
            affinity: terms.affinity,
            server: terms.reservation.map(Server::new),
            state: State::Off,
            paused: false,
            vruntime: i128::MIN,
            throttled: None,
            usage: Usage::default(),
            since: Ticks(0),
            mark: 0,
            came: Ticks(0),
            listed: Listed::Nowhere,
        }
    }

    /// Whether it is on the CPU.
    pub const fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether it waits for a CPU.
    pub fn is_waiting(&self) -> bool {
        self.state == State::Runnable && !self.paused
    }

    /// Whether it could use a CPU now.
    pub fn wants_cpu(&self) -> bool {
        self.is_running() || self.is_waiting()
    }

    /// Whether it is on, running or not.
    pub fn is_online(&self) -> bool {
        self.state != State::Off
    }

    /// Whether cap and budget let it run.
    pub fn has_allowance(&self) -> bool {
        self.throttled.is_none() && self.server.as_ref().is_none_or(Server::has_budget)
    }

    /// Whether nothing but its virtual runtime decides when it runs: no reservation, no cap.
    pub fn is_plain(&self) -> bool {
        self.server.is_none() && self.throttled.is_none() && !self.account.bucket.is_capped()
    }

    /// Book the time since the last booking.
    pub fn settle(&mut self, now: Ticks) {
        let span = now.since(self.since);
        if self.is_running() {
            self.usage.ran = self.usage.ran.saturating_add(span);
            self.account.add_ran(span);
            match &mut self.server {
                Some(server) => server.spend(span),
                None => {
                    let cost = self.account.cost(span, self.mark, now);
                    self.vruntime = self.vruntime.saturating_add(cost);
                }
            }
            self.mark = self.account.demand(now);
        } else if self.is_waiting() {
            self.usage.waited = self.usage.waited.saturating_add(span);
            self.account.add_waited(span);
        }
        self.since = now;
    }

    /// Change whether it wants a CPU, and has one.
    pub fn change(&mut self, state: State, paused: bool, now: Ticks) {
        self.settle(now);
        let (wanted, ran) = (self.wants_cpu(), self.is_running());
        (self.state, self.paused) = (state, paused);
        match (wanted, self.wants_cpu()) {
            (false, true) => self.account.enter(now),
            (true, false) => self.account.leave(now),
            _ => {}
        }
        match (ran, self.is_running()) {
            (false, true) => self.account.goes_on(),
            (true, false) => self.account.goes_off(),
            _ => {}
        }
        self.mark = self.account.demand(now);
    }

    /// Follow the cap: hold it back when the bucket is empty, let it go when there is enough again.
    pub fn follow_cap(&mut self, now: Ticks) {
        let bucket = &self.account.bucket;
        if self.server.is_some() || !bucket.is_capped() {
            self.throttled = None;
        } else if self.throttled.is_some() || bucket.is_empty(now) {
            self.throttled = bucket.ready_at(now);
        }
    }

    /// What it used up to `now`.
    pub fn usage_at(&self, now: Ticks) -> Usage {
        let span = now.since(self.since);
        let mut usage = self.usage;
        if self.is_running() {
            usage.ran = usage.ran.saturating_add(span);
        } else if self.is_waiting() {
            usage.waited = usage.waited.saturating_add(span);
        }
        usage
    }
}
