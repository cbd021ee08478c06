//! A machine of several CPUs on a fake clock that run the real queues, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::machine::CpuId;
use crate::sched::policy::CpuSet;
use crate::sched::{Account, Balance, Entity, Retired, RunQueue, Terms, Timing, VmId, Woken};
use crate::time::Ticks;
use crate::vcpu::VcpuId;

pub const SLICE: u64 = 500;

/// What a vCPU does with the time it gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Life {
    Spins,
    /// It runs so long, then waits so long, again and again.
    Waits {
        run: u64,
        wait: u64,
        /// What it waits for comes from elsewhere, not from its timer.
        by_event: bool,
    },
    /// It gives way whenever it has run so long.
    Yields(u64),
}

#[derive(Clone, Debug)]
pub struct Task {
    pub entity: Entity,
    pub life: Life,
    pub affinity: CpuSet,
    pub reserved: bool,
    pub home: usize,
    /// How long it runs on before it waits or yields.
    left: u64,
    /// When the event comes that it waits for.
    event: Option<u64>,
    pub ran: u64,
    pub migrations: u64,
    /// The longest it has waited for a CPU, and since when it does.
    pub longest_wait: u64,
    wants_since: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Core {
    running: Option<usize>,
    loaded: Option<usize>,
    kicked: bool,
    steps: u64,
}

pub struct Sim {
    pub balance: Arc<Balance>,
    pub queues: Vec<RunQueue>,
    pub tasks: Vec<Task>,
    pub accounts: Vec<Arc<Account>>,
    cores: Vec<Core>,
    pub now: u64,
    /// The longest a CPU was idle while somebody who could have used it waited.
    pub longest_idle: u64,
    idle_since: Option<u64>,
    /// For how long each set of CPUs (by bits) was left by the reservations, all others being reserved.
    pub left: BTreeMap<u32, u64>,
}

fn id(index: usize) -> CpuId {
    CpuId(u8::try_from(index).unwrap())
}

impl Sim {
    pub fn new(cpus: usize) -> Self {
        let balance = Arc::new(Balance::new(cpus, Timing::of_slice(Ticks(SLICE))));
        Self {
            queues: (0..cpus).map(|cpu| RunQueue::new(id(cpu), balance.clone())).collect(),
            balance,
            tasks: Vec::new(),
            accounts: Vec::new(),
            cores: vec![Core::default(); cpus],
            now: 1_000_000,
            longest_idle: 0,
            idle_since: None,
            left: BTreeMap::new(),
        }
    }

    /// A VM whose vCPUs all live like that; they start now. Returns the first one's number.
    pub fn vm(&mut self, weight: u16, cap: Option<u16>, lives: &[Life], terms: Terms) -> usize {
        let account = Arc::new(Account::new(weight, cap, self.balance.timing().cap_period));
        let (vm, first) = (VmId(u16::try_from(self.accounts.len()).unwrap()), self.tasks.len());
        for (vcpu, life) in lives.iter().enumerate() {
            let entity = Entity { vm, vcpu: VcpuId(u8::try_from(vcpu).unwrap()) };
            let cpus: Vec<usize> =
                (0..self.queues.len()).filter(|cpu| terms.affinity.contains(id(*cpu))).collect();
            let home = cpus[self.tasks.len() % cpus.len()];
            self.queues[home].add(entity, account.clone(), terms);
            self.queues[home].start(entity, Ticks(self.now));
            self.cores[home].kicked = true;
            let left = match life {
                Life::Spins => u64::MAX,
                Life::Waits { run, .. } | Life::Yields(run) => *run,
            };
            self.tasks.push(Task {
                entity,
                life: *life,
                affinity: terms.affinity,
                reserved: terms.reservation.is_some(),
                home,
                left,
                event: None,
                ran: 0,
                migrations: 0,
                longest_wait: 0,
                wants_since: Some(self.now),
            });
        }
        self.accounts.push(account);
        first
    }

    pub fn run(&mut self, span: u64) {
        let end = self.now + span;
        self.settle();
        while self.now < end {
            let next = self.next_moment().unwrap_or(end).min(end);
            self.pass(next.max(self.now));
            self.settle();
        }
    }

    fn next_moment(&self) -> Option<u64> {
        let queues = self.queues.iter().filter_map(|queue| queue.next_event().map(|at| at.0));
        let ends = self.cores.iter().filter_map(|core| {
            core.running.map(|task| self.now.saturating_add(self.tasks[task].left))
        });
        queues.chain(ends).chain(self.tasks.iter().filter_map(|task| task.event)).min()
    }

    fn pass(&mut self, to: u64) {
        let span = to - self.now;
        let is_reserved = |core: &Core| core.running.is_some_and(|task| self.tasks[task].reserved);
        let cores = self.cores.iter().enumerate().filter(|(_, core)| !is_reserved(core));
        let left = cores.fold(0, |set, (cpu, _)| set | 1 << cpu);
        *self.left.entry(left).or_default() += span;
        for core in &self.cores {
            if let Some(task) = core.running {
                self.tasks[task].ran += span;
                self.tasks[task].left = self.tasks[task].left.saturating_sub(span);
            }
        }
        self.now = to;
        if let Some(since) = self.idle_since {
            self.longest_idle = self.longest_idle.max(to - since);
        }
    }

    /// Everything that happens at this moment.
    fn settle(&mut self) {
        for task in 0..self.tasks.len() {
            if self.tasks[task].event.is_some_and(|at| at <= self.now) {
                self.tasks[task].event = None;
                self.wake(task);
            }
        }
        for round in 0.. {
            assert!(round < 200, "no end at {}", self.now);
            let mut quiet = true;
            for cpu in 0..self.queues.len() {
                let due = self.queues[cpu].next_event().is_some_and(|at| at.0 <= self.now);
                let ended = self.cores[cpu].running.is_some_and(|task| self.tasks[task].left == 0);
                if due || ended || std::mem::take(&mut self.cores[cpu].kicked) {
                    while let Some(entity) = self.queues[cpu].expire(Ticks(self.now)) {
                        let task = self.task(entity);
                        self.tasks[task].wants_since = Some(self.now);
                    }
                    self.step(cpu);
                    quiet = false;
                }
            }
            if quiet {
                break;
            }
        }
        self.check();
    }

    pub fn wake(&mut self, task: usize) {
        let (home, entity) = (self.tasks[task].home, self.tasks[task].entity);
        match self.queues[home].wake(entity, Ticks(self.now)) {
            Woken::Elsewhere => panic!("{entity:?} is lost"),
            Woken::Nothing => {}
            Woken::Queued | Woken::Running => {
                self.tasks[task].wants_since.get_or_insert(self.now);
                self.cores[home].kicked = true;
            }
        }
        self.invite(home);
    }

    fn invite(&mut self, cpu: usize) {
        if let Some(guest) = self.queues[cpu].invite(Ticks(self.now)) {
            self.cores[guest.index()].kicked = true;
        }
    }

    fn fetch(&mut self, cpu: usize) -> bool {
        let Some(from) = self.queues[cpu].source() else { return false };
        let Ok([to, from]) = self.queues.get_disjoint_mut([cpu, from.index()]) else {
            panic!("{cpu} looks at itself")
        };
        let pulled = to.pull(from, Ticks(self.now));
        if let Some(next) = from.invite(Ticks(self.now)) {
            self.cores[next.index()].kicked = true;
        }
        if let Some(entity) = pulled {
            let task = self.task(entity);
            self.tasks[task].home = cpu;
            self.tasks[task].migrations += 1;
        }
        true
    }

    fn step(&mut self, cpu: usize) {
        self.cores[cpu].steps += 1;
        loop {
            self.fetch(cpu);
            let now = Ticks(self.now);
            let mut picked = self.queues[cpu].pick(now);
            if picked.is_none() && self.fetch(cpu) {
                picked = self.queues[cpu].pick(now);
            }
            if let Some(before) = self.cores[cpu].running {
                self.tasks[before].wants_since.get_or_insert(self.now);
            }
            let Some(entity) = picked else {
                self.cores[cpu].running = None;
                if self.queues[cpu].must_unload()
                    && let Some(old) = self.cores[cpu].loaded.take()
                {
                    self.queues[cpu].unload(self.tasks[old].entity);
                }
                return self.invite(cpu);
            };
            let task = self.task(entity);
            let waited = self.now - self.tasks[task].wants_since.take().unwrap_or(self.now);
            self.tasks[task].longest_wait = self.tasks[task].longest_wait.max(waited);
            self.queues[cpu].attend(entity);
            if let Some(old) = self.cores[cpu].loaded.filter(|old| *old != task) {
                self.queues[cpu].unload(self.tasks[old].entity);
            }
            self.cores[cpu].loaded = Some(task);
            self.queues[cpu].load(entity);
            self.cores[cpu].running = Some(task);
            if self.tasks[task].left == 0 {
                match self.tasks[task].life {
                    Life::Spins => {}
                    Life::Yields(run) => {
                        self.tasks[task].left = run;
                        self.queues[cpu].yield_now();
                    }
                    Life::Waits { run, wait, by_event } => {
                        self.tasks[task].left = run;
                        assert!(self.queues[cpu].block(entity, now));
                        self.cores[cpu].running = None;
                        match by_event {
                            true => self.tasks[task].event = Some(self.now + wait),
                            false => {
                                self.queues[cpu].set_deadline(entity, Some(Ticks(self.now + wait)))
                            }
                        }
                    }
                }
                continue;
            }
            return self.invite(cpu);
        }
    }

    pub fn pause(&mut self, task: usize) {
        let (home, entity) = (self.tasks[task].home, self.tasks[task].entity);
        if self.queues[home].pause(entity, Ticks(self.now)) == Retired::Running {
            self.cores[home].kicked = true;
        }
        self.settle();
        self.tasks[task].wants_since = None;
    }

    pub fn resume(&mut self, task: usize) {
        let (home, entity) = (self.tasks[task].home, self.tasks[task].entity);
        self.queues[home].resume(entity, Ticks(self.now));
        self.tasks[task].wants_since = Some(self.now);
        self.cores[home].kicked = true;
    }

    pub fn set_terms(&mut self, task: usize, terms: Terms) {
        let (home, entity) = (self.tasks[task].home, self.tasks[task].entity);
        self.tasks[task].affinity = terms.affinity;
        self.queues[home].set_terms(entity, terms, Ticks(self.now));
        self.cores[home].kicked = true;
    }

    pub fn off(&mut self, task: usize) {
        let (home, entity) = (self.tasks[task].home, self.tasks[task].entity);
        self.queues[home].turn_off(entity, Ticks(self.now));
        self.cores[home].kicked = true;
        self.settle();
    }

    /// How often a CPU has left its guest.
    pub fn steps_of(&self, cpu: usize) -> u64 {
        self.cores[cpu].steps
    }

    /// How often a vCPU has changed CPUs.
    pub fn migrations(&self) -> u64 {
        self.tasks.iter().map(|task| task.migrations).sum()
    }

    fn task(&self, entity: Entity) -> usize {
        self.tasks.iter().position(|task| task.entity == entity).unwrap()
    }

    fn check(&mut self) {
        for (cpu, core) in self.cores.iter().enumerate() {
            let Some(task) = core.running else { continue };
            let task = &self.tasks[task];
            assert!(task.affinity.contains(id(cpu)), "{task:?} on {cpu}");
            assert_eq!(task.home, cpu);
        }
        assert!(self.queues.iter().all(RunQueue::lists_are_true));
        let mut idle = (0..self.cores.len()).filter(|cpu| self.cores[*cpu].running.is_none());
        let wasted = idle.any(|cpu| self.queues.iter().any(|queue| queue.could_run_on(id(cpu))));
        self.idle_since = wasted.then_some(self.idle_since.unwrap_or(self.now));
    }
}

impl RunQueue {
    /// Whether somebody waits here, is allowed to run, and may do so on `cpu`.
    fn could_run_on(&self, cpu: CpuId) -> bool {
        self.records.iter().any(|record| {
            record.is_waiting() && record.has_allowance() && record.affinity.contains(cpu)
        })
    }
}
