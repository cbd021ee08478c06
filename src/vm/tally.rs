//! How often a vCPU left the guest, why, and what that cost.
//!
//! Only the CPU that has the vCPU writes; anybody may read, and sees numbers that were true a moment ago.

use crate::exit::Exit;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::time::Ticks;

/// Why a vCPU left the guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// A physical interrupt.
    Interrupt,
    /// An access to a device or to the interrupt controller in memory.
    Mmio,
    /// A trapped system register or instruction.
    Sysreg,
    /// `HVC`.
    Hvc,
    /// `SMC`.
    Smc,
    /// `WFI`.
    Wfi,
    /// `WFE`.
    Wfe,
    /// A stage-2 fault or external abort that is no device access.
    Fault,
    /// Anything else.
    Other,
}

impl Reason {
    /// Every reason, in the order of the arrays here.
    pub const ALL: [Self; 9] = [
        Self::Interrupt,
        Self::Mmio,
        Self::Sysreg,
        Self::Hvc,
        Self::Smc,
        Self::Wfi,
        Self::Wfe,
        Self::Fault,
        Self::Other,
    ];

    /// The reason of `exit`.
    pub const fn of(exit: &Exit) -> Self {
        match exit {
            Exit::Irq => Self::Interrupt,
            Exit::Mmio(_) => Self::Mmio,
            Exit::Sysreg { .. } => Self::Sysreg,
            Exit::Hvc(_) => Self::Hvc,
            Exit::Smc(_) => Self::Smc,
            Exit::Wfi => Self::Wfi,
            Exit::Wfe => Self::Wfe,
            Exit::Fault(_) | Exit::ExternalAbort(_) => Self::Fault,
            Exit::NotOffered | Exit::SError { .. } | Exit::Unexpected { .. } => Self::Other,
        }
    }

    /// What it is called in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Mmio => "mmio",
            Self::Sysreg => "sysreg",
            Self::Hvc => "hvc",
            Self::Smc => "smc",
            Self::Wfi => "wfi",
            Self::Wfe => "wfe",
            Self::Fault => "fault",
            Self::Other => "other",
        }
    }
}

/// The exits of one reason.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Exits {
    /// How many.
    pub count: u64,
    /// What they cost in all: from leaving the guest until it, or another vCPU, runs again or the CPU
    /// sleeps.
    pub cost: Ticks,
}

const REASONS: usize = Reason::ALL.len();

/// The exits of a vCPU by reason.
#[derive(Debug, Default)]
pub struct Tally {
    counts: [AtomicU64; REASONS],
    costs: [AtomicU64; REASONS],
    /// What both were when somebody last began to count anew.
    bases: [(AtomicU64, AtomicU64); REASONS],
}

impl Tally {
    /// An exit is over. Only to be called by the CPU that has the vCPU.
    pub fn add(&self, reason: Reason, cost: Ticks) {
        self.count(reason);
        add(&self.costs[reason as usize], cost.0);
    }

    /// An exit was answered at once, in less than it would take to look at the clock twice. Only to be called by
    /// the CPU that has the vCPU.
    #[inline(always)]
    pub fn count(&self, reason: Reason) {
        add(&self.counts[reason as usize], 1);
    }

    /// The exits of `reason` since the last [`Self::reset`].
    pub fn exits(&self, reason: Reason) -> Exits {
        let index = reason as usize;
        let (count, cost) = &self.bases[index];
        let since = |cell: &AtomicU64, base: &AtomicU64| {
            cell.load(Ordering::Relaxed).wrapping_sub(base.load(Ordering::Relaxed))
        };
        Exits {
            count: since(&self.counts[index], count),
            cost: Ticks(since(&self.costs[index], cost)),
        }
    }

    /// Begin to count anew.
    pub fn reset(&self) {
        for (index, (count, cost)) in self.bases.iter().enumerate() {
            count.store(self.counts[index].load(Ordering::Relaxed), Ordering::Relaxed);
            cost.store(self.costs[index].load(Ordering::Relaxed), Ordering::Relaxed);
        }
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
    fn every_reason_has_a_place_of_its_own() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn a_reset_begins_anew_and_disturbs_no_writer() {
        let tally = Tally::default();
        tally.add(Reason::Wfi, Ticks(5));
        tally.reset();
        assert_eq!(tally.exits(Reason::Wfi), Exits::default());
        tally.add(Reason::Wfi, Ticks(7));
        tally.add(Reason::Mmio, Ticks(1));
        assert_eq!(tally.exits(Reason::Wfi), Exits { count: 1, cost: Ticks(7) });
        assert_eq!(tally.exits(Reason::Hvc).count, 0);
    }
}
