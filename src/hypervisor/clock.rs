//! What each CPU spends its time with.
//!
//! Only the CPU itself writes; anybody may read, and sees numbers that were true a moment ago.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::sched::{Entity, VmId};
use crate::time::Ticks;
use crate::vcpu::VcpuId;

/// In [`Clock::running`]: no vCPU.
const NOBODY: u64 = u64::MAX;

/// One CPU's time. What is neither of the two is the hypervisor's.
#[derive(Debug)]
pub struct Clock {
    guest: AtomicU64,
    idle: AtomicU64,
    running: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { guest: AtomicU64::new(0), idle: AtomicU64::new(0), running: AtomicU64::new(NOBODY) }
    }
}

impl Clock {
    /// A guest ran for so long.
    pub fn add_guest(&self, span: Ticks) {
        add(&self.guest, span);
    }

    /// The CPU slept for so long.
    pub fn add_idle(&self, span: Ticks) {
        add(&self.idle, span);
    }

    /// This vCPU has the CPU now.
    pub fn set_running(&self, entity: Option<Entity>) {
        let packed =
            entity.map_or(NOBODY, |Entity { vm, vcpu }| u64::from(vm.0) << 8 | u64::from(vcpu.0));
        self.running.store(packed, Ordering::Relaxed);
    }

    /// How long guests ran.
    pub fn guest(&self) -> Ticks {
        Ticks(self.guest.load(Ordering::Relaxed))
    }

    /// How long the CPU slept.
    pub fn idle(&self) -> Ticks {
        Ticks(self.idle.load(Ordering::Relaxed))
    }

    /// The vCPU that has the CPU.
    pub fn running(&self) -> Option<Entity> {
        let packed = self.running.load(Ordering::Relaxed);
        let [.., vm_high, vm_low, vcpu] = packed.to_be_bytes();
        let vm = VmId(u16::from_be_bytes([vm_high, vm_low]));
        (packed != NOBODY).then_some(Entity { vm, vcpu: VcpuId(vcpu) })
    }
}

/// One writer: no need to be atomic as a whole.
fn add(cell: &AtomicU64, span: Ticks) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(span.0), Ordering::Relaxed);
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
}
