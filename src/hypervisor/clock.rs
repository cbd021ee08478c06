//! What each CPU spends its time with, and how often it was interrupted.
//!
//! Only the CPU itself writes; anybody may read, and sees numbers that were true a moment ago.

use crate::machine::Interrupt;
use crate::sched::{Entity, VmId};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::time::Ticks;
use crate::vcpu::VcpuId;
use crate::vm::tally::Reason;

/// In [`Clock::running`]: no vCPU.
const NOBODY: u64 = u64::MAX;

/// What a CPU is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// The hypervisor's own work.
    Hypervisor,
    /// A guest.
    Guest,
    /// Nothing: it sleeps.
    Idle,
}

/// How many kinds of interrupts are told apart.
pub const INTERRUPT_KINDS: usize = 5;

/// The place of an interrupt's kind among the counts, and in [`crate::vm::create::Host::interrupts`].
#[inline(always)]
const fn kind(interrupt: Interrupt) -> Option<usize> {
    Some(match interrupt {
        Interrupt::Kick => 0,
        Interrupt::Deadline => 1,
        Interrupt::VirtualTimer => 2,
        Interrupt::Maintenance => 3,
        Interrupt::Device(_) => 4,
        // A VM's, not the hypervisor's own.
        Interrupt::Assigned(_) => return None,
    })
}

/// One CPU's time and interrupts.
#[derive(Debug)]
pub struct Clock {
    spent: [AtomicU64; 3],
    phase: AtomicU8,
    /// Since when.
    since: AtomicU64,
    running: AtomicU64,
    affinity: AtomicU64,
    interrupts: [AtomicU64; INTERRUPT_KINDS],
    /// It takes part in what the others can see of it.
    works: AtomicBool,
    /// Why it left a guest last, as the reason's place in [`Reason::ALL`].
    last_exit: AtomicU8,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            spent: Default::default(),
            phase: AtomicU8::new(Phase::Hypervisor as u8),
            since: AtomicU64::new(0),
            running: AtomicU64::new(NOBODY),
            affinity: AtomicU64::new(0),
            interrupts: Default::default(),
            works: AtomicBool::new(false),
            last_exit: AtomicU8::new(u8::MAX),
        }
    }
}

impl Clock {
    /// The CPU, whose affinity this is, begins to work.
    pub fn start(&self, affinity: u64, now: Ticks) {
        self.affinity.store(affinity, Ordering::Relaxed);
        self.since.store(now.0, Ordering::Relaxed);
        self.works.store(true, Ordering::Release);
    }

    /// What it does.
    pub fn phase(&self) -> Phase {
        const GUEST: u8 = Phase::Guest as u8;
        const IDLE: u8 = Phase::Idle as u8;
        match self.phase.load(Ordering::Relaxed) {
            GUEST => Phase::Guest,
            IDLE => Phase::Idle,
            _ => Phase::Hypervisor,
        }
    }

    /// How many interrupts it has taken, which is a number that changes as long as it lives and is kicked. `None` while it sleeps, and
    /// before it begins to work.
    pub fn signs(&self) -> Option<u64> {
        let works = self.works.load(Ordering::Acquire) && self.phase() != Phase::Idle;
        works.then(|| self.counts().into_iter().fold(0, u64::wrapping_add))
    }

    /// A guest was left for this reason.
    #[inline(always)]
    pub fn left_by(&self, reason: Reason) {
        self.last_exit.store(reason as u8, Ordering::Relaxed);
    }

    /// Why a guest was left last, but for what is answered at once.
    pub fn last_exit(&self) -> Option<Reason> {
        Reason::ALL.get(usize::from(self.last_exit.load(Ordering::Relaxed))).copied()
    }

    /// From now on the CPU does something else.
    pub fn enter(&self, phase: Phase, now: Ticks) {
        let since = self.since.load(Ordering::Relaxed);
        let before = usize::from(self.phase.load(Ordering::Relaxed));
        if let Some(spent) = self.spent.get(before) {
            add(spent, now.0.saturating_sub(since));
        }
        self.since.store(now.0, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// How long it has done this, until now.
    pub fn spent(&self, phase: Phase, now: Ticks) -> Ticks {
        let spent = self.spent[phase as usize].load(Ordering::Relaxed);
        let current = self.phase.load(Ordering::Relaxed) == phase as u8;
        let since = self.since.load(Ordering::Relaxed);
        let more = if current && since != 0 { now.0.saturating_sub(since) } else { 0 };
        Ticks(spent.saturating_add(more))
    }

    /// This vCPU has the CPU now.
    pub fn set_running(&self, entity: Option<Entity>) {
        let packed =
            entity.map_or(NOBODY, |Entity { vm, vcpu }| u64::from(vm.0) << 8 | u64::from(vcpu.0));
        self.running.store(packed, Ordering::Relaxed);
    }

    /// The vCPU that has the CPU.
    pub fn running(&self) -> Option<Entity> {
        let packed = self.running.load(Ordering::Relaxed);
        let [.., vm_high, vm_low, vcpu] = packed.to_be_bytes();
        let vm = VmId(u16::from_be_bytes([vm_high, vm_low]));
        (packed != NOBODY).then_some(Entity { vm, vcpu: VcpuId(vcpu) })
    }

    /// The affinity fields of its `MPIDR_EL1`.
    pub fn affinity(&self) -> u64 {
        self.affinity.load(Ordering::Relaxed)
    }

    /// An interrupt was taken.
    #[inline(always)]
    pub fn count(&self, interrupt: Interrupt) {
        if let Some(count) = kind(interrupt).and_then(|kind| self.interrupts.get(kind)) {
            add(count, 1);
        }
    }

    /// How many interrupts of each kind were taken.
    pub fn counts(&self) -> [u64; INTERRUPT_KINDS] {
        core::array::from_fn(|kind| self.interrupts[kind].load(Ordering::Relaxed))
    }
}

/// One writer: no need to be atomic as a whole.
#[inline(always)]
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_is_told_as_it_was_said() {
        let clock = Clock::default();
        assert_eq!(clock.running(), None);
        for (vm, vcpu) in [(0, 0), (63, 7), (u16::MAX, u8::MAX)] {
            let entity = Entity { vm: VmId(vm), vcpu: VcpuId(vcpu) };
            clock.set_running(Some(entity));
            assert_eq!(clock.running(), Some(entity));
        }
        clock.set_running(None);
        assert_eq!(clock.running(), None);
    }

    #[test]
    fn signs_are_given_from_the_start_on_except_in_sleep() {
        let clock = Clock::default();
        assert_eq!((clock.signs(), clock.last_exit()), (None, None));
        clock.start(0, Ticks(0));
        assert_eq!(clock.signs(), Some(0));
        for phase in [Phase::Idle, Phase::Guest, Phase::Hypervisor] {
            clock.enter(phase, Ticks(1));
            clock.count(Interrupt::Kick);
            assert_eq!((clock.phase(), clock.signs().is_none()), (phase, phase == Phase::Idle));
        }
        assert_eq!(clock.signs(), Some(3));
        for reason in Reason::ALL {
            clock.left_by(reason);
            assert_eq!(clock.last_exit(), Some(reason));
        }
    }

    #[test]
    fn every_moment_belongs_to_one_phase_and_the_present_one_counts() {
        let clock = Clock::default();
        clock.start(0x80000000, Ticks(100));
        clock.enter(Phase::Guest, Ticks(110));
        clock.enter(Phase::Hypervisor, Ticks(140));
        clock.enter(Phase::Idle, Ticks(141));
        let spent = [Phase::Hypervisor, Phase::Guest, Phase::Idle]
            .map(|phase| clock.spent(phase, Ticks(200)).0);
        assert_eq!(spent, [11, 30, 59]);
    }
}
