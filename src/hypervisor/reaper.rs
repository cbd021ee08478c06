//! VMs that have stopped for good are taken apart when no CPU holds anything of them.

use alloc::sync::Arc;

use super::stock::Cleared;
use super::{Hypervisor, Stock};
use crate::machine::Machine;
use crate::sched::Entity;
use crate::sync::atomic::Ordering;
use crate::vcpu::VcpuId;
use crate::vm::Vm;

impl Hypervisor {
    /// Take a stopped VM out of its slot; it is taken apart when no CPU holds anything of it.
    pub(super) fn bury<M: Machine>(&self, machine: &mut M, vm: &Arc<Vm>) {
        let Some(slot) = self.vms.get(vm.id().index()) else { return };
        // One of those who want it gone gets it.
        let taken = slot.lock().take_if(|there| Arc::ptr_eq(there, vm));
        let Some(taken) = taken else { return };
        for index in 0..vm.vcpu_count() {
            let vcpu = VcpuId(index);
            let (now, entity) = (machine.now(), Entity { vm: vm.id(), vcpu });
            self.at_home(vm, vcpu, |queue| queue.remove(entity, now));
        }
        self.unschedule(vm.id());
        vm.abandon_disks();
        let _ = vm.serial_input(machine.now()); // what its UART has not sent yet
        let mut doomed = self.doomed.lock();
        doomed.push(taken);
        self.doomed_count.fetch_add(1, Ordering::Release);
        drop(doomed);
        self.kick_all(machine);
    }

    /// Take apart the VMs that were buried and that nobody holds any more. Every CPU calls this
    /// whenever it has let go of something. Returns true when interrupts are to be looked at before it goes on: it has to be
    /// called again then.
    pub fn reap<M: Machine>(&self, machine: &mut M) -> bool {
        self.doomed_count.load(Ordering::Acquire) != 0 && self.take_apart(machine)
    }

    #[inline(never)] // what it puts on the stack is not to be in the run loop's frame
    fn take_apart<M: Machine>(&self, machine: &mut M) -> bool {
        loop {
            // Another CPU may have the stock, and nobody waits for it. If that one takes VMs apart it looks again: it may have
            // found one still held by this CPU. If it builds one, it comes by `reap` afterwards.
            let stock = self.stock.try_lock().or_else(|| self.word.leave(&self.stock));
            let Some(mut stock) = stock else { return false };
            match self.take_apart_some(machine, &mut stock) {
                cleared @ (Cleared::Some | Cleared::All(_)) => {
                    drop(stock); // the log may be slow
                    cleared.tell();
                }
                Cleared::Nothing => {
                    drop(stock);
                    if self.word.was_left() {
                        continue;
                    }
                    return false;
                }
            }
            if machine.interrupt_pending() {
                return true;
            }
        }
    }

    /// One step: some of what is left of a VM is given back, or the next one that nobody holds is begun with.
    pub(super) fn take_apart_some<M: Machine>(&self, machine: &M, stock: &mut Stock) -> Cleared {
        let cleared = stock.clear(machine.upkeep());
        match cleared {
            Cleared::Some => {}
            Cleared::All(_) => {
                self.doomed_count.fetch_sub(1, Ordering::Release);
            }
            Cleared::Nothing => {
                if let Some(vm) = self.next_doomed() {
                    stock.take_apart(vm);
                    return Cleared::Some;
                }
            }
        }
        cleared
    }

    /// A VM that was buried and that nobody holds any more.
    fn next_doomed(&self) -> Option<Vm> {
        let mut doomed = self.doomed.lock();
        // Nobody can find it any more, so a count of one stays one; and no disk gets more of its memory.
        let is_free = |vm: &Arc<Vm>| Arc::strong_count(vm) == 1 && !vm.has_lent_memory();
        let free = doomed.iter().position(is_free)?;
        Arc::into_inner(doomed.swap_remove(free))
    }
}
