//! A look, now and then, at the next CPU: does it still take interrupts?

use super::Cpu;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::watchdog::{Finding, Hang, Watch};
use crate::machine::{CpuId, Machine};
use crate::time::Ticks;

/// What a CPU needs for watching another one.
pub(super) struct Watching {
    watch: Watch,
    /// The next CPU; that of the last is the first.
    cpu: CpuId,
    interval: Ticks,
    /// When the next look is due.
    pub(super) due: Ticks,
    /// What becomes of a CPU that hangs.
    report: fn(&Hypervisor, Hang),
}

impl<M: Machine> Cpu<'_, M> {
    /// Looks at the next CPU each `interval`, and calls `report` for one that hangs, as `looks` looks find
    /// ([`crate::hypervisor::watchdog`]). With one CPU there is nobody to watch.
    #[must_use]
    pub fn with_watchdog(self, interval: Ticks, looks: u32, report: fn(&Hypervisor, Hang)) -> Self {
        let next = (self.machine.id().index() + 1) % self.hypervisor.cpus();
        let cpu = CpuId(u8::try_from(next).unwrap_or(0));
        if cpu == self.machine.id() {
            return self;
        }
        let due = self.machine.now().saturating_add(interval);
        Self {
            watching: Some(Watching { watch: Watch::new(looks), cpu, interval, due, report }),
            ..self
        }
    }

    /// Look, if it is time. No lock is taken: whoever hangs may hold it.
    #[inline(never)]
    pub(super) fn watch(&mut self) {
        let (by, now) = (self.machine.id(), self.machine.now());
        let Some(watching) = self.watching.as_mut().filter(|it| it.due <= now) else { return };
        // From now on, not from when it was due: looks that were missed are not made up for.
        watching.due = now.saturating_add(watching.interval);
        let clock = self.hypervisor.clock(watching.cpu);
        match watching.watch.look(clock.signs()) {
            Finding::Lives => {}
            Finding::Ask => self.machine.kick(watching.cpu),
            Finding::Hangs => {
                let ticks = watching.watch.patience(watching.interval);
                (watching.report)(self.hypervisor, Hang::of(clock, watching.cpu, by, ticks));
            }
        }
    }
}
