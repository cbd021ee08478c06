//! Which vCPU a CPU runs next: one run queue per CPU, round robin with a time slice.
//!
//! Pure: the caller brings the time and performs what is decided. A CPU with a single runnable vCPU
//! is given no slice, so it takes no scheduler interrupt.

pub mod policy;

use alloc::vec::Vec;

use crate::time::Ticks;
use crate::vcpu::VcpuId;

/// A virtual machine, by its place in the bundle.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VmId(pub u16);

impl VmId {
    /// The index into the list of VMs.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a run queue schedules: one vCPU.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Entity {
    /// Its VM.
    pub vm: VmId,
    /// Which of the VM's vCPUs.
    pub vcpu: VcpuId,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Powered off, or its VM is stopped: nothing wakes it but a start.
    Off,
    /// It is held, whatever it waited for: nothing wakes it but a resume.
    Paused,
    /// Waiting for an interrupt; until the deadline at the latest.
    Blocked { deadline: Option<Ticks> },
    /// Waiting for the CPU.
    Runnable,
    /// On the CPU. `woken` keeps a wake-up that arrives before it blocks.
    Running { woken: bool },
}

/// What a wake-up found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Woken {
    /// It is off, or waits for the CPU already.
    Nothing,
    /// It waits for the CPU now: the CPU should look at its queue.
    Queued,
    /// It is on the CPU: the CPU should look at its requests.
    Running,
}

/// What retiring found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retired {
    /// It was off already.
    WasOff,
    /// It is off now.
    Off,
    /// It is on the CPU, which has to take it off itself.
    Running,
}

/// One CPU's run queue.
#[derive(Debug)]
pub struct RunQueue {
    entities: Vec<(Entity, State)>,
    /// Those that wait for the CPU, the next one first.
    queue: Vec<Entity>,
    slice: Ticks,
    slice_end: Option<Ticks>,
    /// How many have gone before the others since one of these was last picked.
    boosts: u8,
}

/// How many in a row may go before those that used up their slices.
const MAX_BOOSTS: u8 = 4;

impl RunQueue {
    /// An empty queue with time slices of `slice`.
    pub const fn new(slice: Ticks) -> Self {
        Self { entities: Vec::new(), queue: Vec::new(), slice, slice_end: None, boosts: 0 }
    }

    /// Make `entity` belong to this CPU. It is off.
    pub fn add(&mut self, entity: Entity) {
        self.entities.push((entity, State::Off));
    }

    /// Make `entity`, which is off, belong to no CPU.
    pub fn remove(&mut self, entity: Entity) {
        self.entities.retain(|(known, _)| *known != entity);
        self.queue.retain(|queued| *queued != entity);
    }

    /// What an entity does, in a word.
    pub fn state_of(&mut self, entity: Entity) -> Option<&'static str> {
        self.state(entity).map(|state| match state {
            State::Off => "off",
            State::Paused => "paused",
            State::Blocked { .. } => "waiting",
            State::Runnable => "ready",
            State::Running { .. } => "running",
        })
    }

    /// How many wait for the CPU.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many entities belong to this CPU.
    pub fn len(&self) -> usize {
        self.entities.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }

    /// An entity that was off waits for the CPU. Returns whether it was off.
    pub fn start(&mut self, entity: Entity) -> bool {
        self.start_at(entity, None)
    }

    /// An entity that was off waits for the CPU from `at` on, if that is given. Returns whether it was
    /// off.
    pub fn start_at(&mut self, entity: Entity, at: Option<Ticks>) -> bool {
        let Some(state) = self.state(entity) else { return false };
        if *state != State::Off {
            return false;
        }
        if at.is_some() {
            *state = State::Blocked { deadline: at };
            return true;
        }
        *state = State::Runnable;
        self.queue.push(entity);
        true
    }

    /// Something has happened that `entity` should see.
    pub fn wake(&mut self, entity: Entity) -> Woken {
        let Some(state) = self.state(entity) else { return Woken::Nothing };
        match state {
            State::Off | State::Paused | State::Runnable => Woken::Nothing,
            State::Blocked { .. } => {
                *state = State::Runnable;
                // Who waited for an event goes before those who used up their slice, but not for ever:
                // two that keep waking each other would have the CPU to themselves.
                if self.boosts < MAX_BOOSTS {
                    self.boosts += 1;
                    self.queue.insert(0, entity);
                } else {
                    self.queue.push(entity);
                    self.boosts = 0;
                }
                Woken::Queued
            }
            State::Running { woken } => {
                *woken = true;
                Woken::Running
            }
        }
    }

    /// Choose what to run at `now`. The chosen one is on the CPU from now on.
    pub fn pick(&mut self, now: Ticks) -> Option<Entity> {
        let current = self.current();
        let slice_over = self.slice_end.is_some_and(|end| end <= now);
        match current {
            Some(entity) if self.queue.is_empty() => {
                self.slice_end = None;
                return Some(entity);
            }
            Some(entity) if !slice_over => {
                self.slice_end.get_or_insert(now.saturating_add(self.slice));
                return Some(entity);
            }
            Some(entity) => self.preempt(entity),
            None => {}
        }
        if self.queue.is_empty() {
            self.slice_end = None;
            return None;
        }
        let next = self.queue.remove(0);
        if let Some(state) = self.state(next) {
            *state = State::Running { woken: true };
        }
        self.slice_end = (!self.queue.is_empty()).then(|| now.saturating_add(self.slice));
        Some(next)
    }

    /// The running entity gives the CPU to the others that wait for it, if any.
    pub fn yield_now(&mut self) {
        if !self.queue.is_empty() {
            self.slice_end = Some(Ticks(0));
        }
    }

    /// The running entity waits for an event. Returns false, and lets it run on, when it was woken
    /// since [`Self::attend`].
    pub fn block(&mut self, entity: Entity) -> bool {
        match self.state(entity) {
            Some(state @ State::Running { woken: false }) => {
                *state = State::Blocked { deadline: None };
                true
            }
            _ => false,
        }
    }

    /// The CPU gives up the registers of a blocked entity: its timers no longer run in hardware, so
    /// the queue has to wake it at `deadline`.
    pub fn set_deadline(&mut self, entity: Entity, deadline: Option<Ticks>) {
        if let Some(State::Blocked { deadline: at }) = self.state(entity) {
            *at = deadline;
        }
    }

    /// The running entity is about to look at everything that could have woken it.
    pub fn attend(&mut self, entity: Entity) {
        if let Some(State::Running { woken }) = self.state(entity) {
            *woken = false;
        }
    }

    /// Turn an entity off, unless it is on the CPU.
    pub fn retire(&mut self, entity: Entity) -> Retired {
        let Some(state) = self.state(entity) else { return Retired::WasOff };
        match state {
            State::Off => Retired::WasOff,
            State::Running { .. } => Retired::Running,
            State::Paused | State::Blocked { .. } | State::Runnable => {
                *state = State::Off;
                self.queue.retain(|queued| *queued != entity);
                Retired::Off
            }
        }
    }

    /// The CPU has taken the running entity off.
    pub fn turn_off(&mut self, entity: Entity) {
        if let Some(state) = self.state(entity) {
            *state = State::Off;
        }
    }

    /// Hold an entity that is not off. One that is on the CPU is held once the CPU calls this with
    /// [`Self::hold`].
    pub fn pause(&mut self, entity: Entity) {
        if let Some(state @ (State::Blocked { .. } | State::Runnable)) = self.state(entity) {
            *state = State::Paused;
            self.queue.retain(|queued| *queued != entity);
        }
    }

    /// The CPU has taken the running entity off, as it is to be held.
    pub fn hold(&mut self, entity: Entity) {
        if let Some(state @ State::Running { .. }) = self.state(entity) {
            *state = State::Paused;
        }
    }

    /// Let a held entity look at everything it may have missed. Returns whether it was held.
    pub fn resume(&mut self, entity: Entity) -> bool {
        let Some(state @ State::Paused) = self.state(entity) else { return false };
        *state = State::Runnable;
        self.queue.push(entity);
        true
    }

    /// The next moment at which this queue has something to do by itself.
    pub fn next_event(&self) -> Option<Ticks> {
        let deadlines = self.entities.iter().filter_map(|(_, state)| match state {
            State::Blocked { deadline } => *deadline,
            _ => None,
        });
        deadlines.chain(self.slice_end).min()
    }

    /// Wake one entity whose deadline has passed.
    pub fn expire(&mut self, now: Ticks) -> Option<Entity> {
        let entity = self.entities.iter().find_map(|(entity, state)| match state {
            State::Blocked { deadline: Some(at) } if *at <= now => Some(*entity),
            _ => None,
        })?;
        self.wake(entity);
        Some(entity)
    }

    fn current(&self) -> Option<Entity> {
        let running = |state: &State| matches!(state, State::Running { .. });
        self.entities.iter().find(|(_, state)| running(state)).map(|(entity, _)| *entity)
    }

    fn preempt(&mut self, entity: Entity) {
        if let Some(state) = self.state(entity) {
            *state = State::Runnable;
        }
        self.queue.push(entity);
    }

    fn state(&mut self, entity: Entity) -> Option<&mut State> {
        self.entities.iter_mut().find(|(known, _)| *known == entity).map(|(_, state)| state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Entity = Entity { vm: VmId(0), vcpu: VcpuId(0) };
    const B: Entity = Entity { vm: VmId(1), vcpu: VcpuId(0) };

    fn queue(entities: &[Entity]) -> RunQueue {
        let mut queue = RunQueue::new(Ticks(10));
        for entity in entities {
            queue.add(*entity);
            assert!(queue.start(*entity));
        }
        queue
    }

    #[test]
    fn a_lone_entity_runs_on_without_a_slice() {
        let mut queue = queue(&[A]);
        assert_eq!(queue.pick(Ticks(0)), Some(A));
        assert_eq!(queue.next_event(), None);
        assert_eq!(queue.pick(Ticks(1_000_000)), Some(A));
    }

    #[test]
    fn two_take_turns_at_the_end_of_each_slice() {
        let mut queue = queue(&[A, B]);
        assert_eq!(queue.pick(Ticks(0)), Some(A));
        assert_eq!(queue.pick(Ticks(9)), Some(A));
        assert_eq!(queue.next_event(), Some(Ticks(10)));
        assert_eq!(queue.pick(Ticks(10)), Some(B));
        assert_eq!(queue.pick(Ticks(20)), Some(A));
    }

    #[test]
    fn a_wake_up_between_the_last_look_and_blocking_is_not_lost() {
        let mut queue = queue(&[A]);
        queue.pick(Ticks(0));
        queue.attend(A);
        assert_eq!(queue.wake(A), Woken::Running);
        assert!(!queue.block(A));
        queue.attend(A);
        assert!(queue.block(A));
        assert_eq!(queue.pick(Ticks(1)), None);
        assert_eq!(queue.wake(A), Woken::Queued);
        assert_eq!(queue.pick(Ticks(2)), Some(A));
    }

    #[test]
    fn a_deadline_wakes_who_is_blocked() {
        let mut queue = queue(&[A]);
        queue.pick(Ticks(0));
        queue.attend(A);
        assert!(queue.block(A));
        queue.set_deadline(A, Some(Ticks(50)));
        assert_eq!(queue.next_event(), Some(Ticks(50)));
        assert_eq!(queue.expire(Ticks(49)), None);
        assert_eq!(queue.expire(Ticks(50)), Some(A));
        assert_eq!(queue.expire(Ticks(50)), None);
        assert_eq!(queue.pick(Ticks(50)), Some(A));
    }

    #[test]
    fn a_late_start_waits_for_its_time() {
        let mut queue = RunQueue::new(Ticks(10));
        queue.add(A);
        assert!(queue.start_at(A, Some(Ticks(100))));
        assert!(!queue.start(A), "it is on already");
        assert_eq!(queue.pick(Ticks(99)), None);
        assert_eq!(queue.next_event(), Some(Ticks(100)));
        assert_eq!(queue.expire(Ticks(100)), Some(A));
        assert_eq!(queue.pick(Ticks(100)), Some(A));
    }

    #[test]
    fn only_its_own_cpu_takes_a_running_entity_off() {
        let mut queue = queue(&[A, B]);
        queue.pick(Ticks(0));
        assert_eq!(queue.retire(A), Retired::Running);
        assert_eq!(queue.retire(B), Retired::Off);
        queue.turn_off(A);
        assert_eq!(queue.retire(A), Retired::WasOff);
        assert_eq!(queue.pick(Ticks(0)), None);
    }

    #[test]
    fn nothing_wakes_who_is_held_until_it_is_resumed() {
        let mut queue = queue(&[A, B]);
        queue.pick(Ticks(0));
        queue.pause(B);
        queue.pause(A); // it is on the CPU, which has to let go first
        queue.hold(A);
        for entity in [A, B] {
            assert_eq!(queue.wake(entity), Woken::Nothing);
            assert!(!queue.start(entity));
        }
        assert_eq!(queue.pick(Ticks(1)), None);
        assert!(queue.resume(B) && !queue.resume(B));
        assert_eq!(queue.pick(Ticks(2)), Some(B));
        assert_eq!(queue.retire(A), Retired::Off);
        assert!(!queue.resume(A));
    }

    #[test]
    fn who_yields_goes_behind_the_others() {
        let mut queue = queue(&[A, B]);
        assert_eq!(queue.pick(Ticks(0)), Some(A));
        queue.yield_now();
        assert_eq!(queue.pick(Ticks(1)), Some(B));
    }

    #[test]
    fn two_that_wake_each_other_do_not_starve_a_third() {
        let c = Entity { vm: VmId(2), vcpu: VcpuId(0) };
        let mut queue = queue(&[A, B, c]);
        let mut turns = 0;
        let mut running = queue.pick(Ticks(0)).unwrap();
        for now in 1..1000 {
            if running == c {
                turns += 1;
                running = queue.pick(Ticks(now)).unwrap();
                continue;
            }
            queue.wake(if running == A { B } else { A });
            queue.attend(running);
            queue.block(running);
            running = queue.pick(Ticks(now)).unwrap();
        }
        assert!(turns >= 100, "{turns}");
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 2))]

        /// Spinning entities share the CPU to within a slice, whatever moments it is asked at.
        #[test]
        fn nobody_who_wants_the_cpu_starves(steps in prop::collection::vec(1u64..15, 200)) {
            let all: Vec<Entity> =
                (0..5).map(|vm| Entity { vm: VmId(vm), vcpu: VcpuId(0) }).collect();
            let mut queue = queue(&all);
            let mut now = 0;
            let mut used = [0u64; 5];
            let mut running = queue.pick(Ticks(0)).unwrap();
            for step in steps {
                now += step;
                used[running.vm.index()] += step;
                running = queue.pick(Ticks(now)).unwrap();
            }
            let (least, most) = (used.iter().min().unwrap(), used.iter().max().unwrap());
            // A slice of 10, overrun by at most one step of 14, per turn.
            prop_assert!(most - least <= 24 * (now / 50 + 1) / 2 + 24, "{used:?}");
        }

        /// At most one entity runs, and an entity is in the queue exactly while it is runnable.
        #[test]
        fn states_and_queue_agree(ops in prop::collection::vec((0u8..10, 0u16..4), 0..300)) {
            let mut queue = RunQueue::new(Ticks(10));
            for vm in 0..4 {
                queue.add(Entity { vm: VmId(vm), vcpu: VcpuId(0) });
            }
            for (now, (op, vm)) in ops.into_iter().enumerate() {
                let entity = Entity { vm: VmId(vm), vcpu: VcpuId(0) };
                let now = Ticks(now as u64);
                match op {
                    0 => { queue.start(entity); }
                    1 => { queue.wake(entity); }
                    2 => { queue.pick(now); }
                    3 => { queue.attend(entity); queue.block(entity); queue.set_deadline(entity, Some(now)); }
                    4 => { queue.retire(entity); }
                    5 => { queue.expire(now); }
                    6 => queue.pause(entity),
                    7 => queue.hold(entity),
                    8 => { queue.resume(entity); }
                    _ => queue.yield_now(),
                }
                let running = queue.entities.iter()
                    .filter(|(_, state)| matches!(state, State::Running { .. })).count();
                prop_assert!(running <= 1);
                for (entity, state) in &queue.entities {
                    let queued = queue.queue.iter().filter(|other| *other == entity).count();
                    prop_assert_eq!(queued, usize::from(*state == State::Runnable));
                }
            }
        }
    }
}
