//! A vCPU's registers come into the CPU and leave it.

use alloc::sync::Arc;

use super::{Cpu, Loaded};
use crate::machine::Machine;
use crate::sched::Entity;
use crate::sync::atomic::{Ordering, fence};
use crate::time::Ticks;
use crate::vgic::ListRegisters;
use crate::vm::layout::VIRTUAL_TIMER_IRQ;
use crate::vm::snapshot::Registers;
use crate::vm::{Requests, Stop, Vm};

impl<M: Machine> Cpu<'_, M> {
    /// The loaded vCPU, unless its VM has been reset since.
    pub(super) fn current(&self) -> Option<&Loaded> {
        self.loaded.as_ref().filter(|loaded| loaded.incarnation == loaded.vm.incarnation())
    }

    /// Load a vCPU into the empty CPU, out of reset if it was started. It has yet to look at its interrupts.
    pub(super) fn load(&mut self, entity: Entity, vm: &Arc<Vm>, requests: Requests) -> Option<()> {
        let me = entity.vcpu;
        if !vm.enter_cpu(self.machine.now()) {
            vm.give_back(me, requests);
            self.hold(entity);
            return None;
        }
        let vcpu = if requests.start { vm.reset_vcpu(me) } else { vm.resume_vcpu(me) };
        let Some((vcpu, tally)) = vcpu.zip(vm.tally(me).cloned()) else {
            log::error!("{}: vCPU {} is to run but has no state", vm.name(), me.0);
            let now = self.machine.now();
            self.hypervisor.queue(self.machine.id()).lock().turn_off(entity, now);
            vm.leave_cpu(now);
            self.hypervisor.retired(&mut self.machine, vm, me);
            return None;
        };
        let now = self.machine.now();
        let mut queue = self.hypervisor.queue(self.machine.id()).lock();
        let shared = queue.is_contended(entity);
        let usage = queue.usage(entity, now);
        queue.load(entity);
        drop(queue);
        vm.publish_stolen(me, usage.unwrap_or_default().waited);
        let traps_wait = vm.traps_wait();
        let mut space = vm.space(me, self.machine.id(), shared || traps_wait);
        // Out of reset with an empty TLB.
        space.stale_tlb |= requests.start;
        self.machine.load(&vcpu, &space);
        let in_hand = vm.vgic().lock().holds_physical(me, VIRTUAL_TIMER_IRQ);
        self.machine.set_virtual_timer_active(in_hand);
        let incarnation = vm.incarnation();
        self.loaded = Some(Loaded { entity, vm: vm.clone(), incarnation, traps_wait, tally, vcpu });
        // Who asks for them says so first and then looks where they are.
        fence(Ordering::SeqCst);
        self.offer_registers();
        // Whoever was here before can be taken elsewhere from now on.
        self.hypervisor.invite(&mut self.machine);
        Some(())
    }

    /// Leave a copy of the loaded vCPU's registers, if somebody wants them.
    pub(super) fn offer_registers(&self) {
        let Some(loaded) = self.current() else { return };
        loaded.vm.offer_registers(loaded.entity.vcpu, || Registers {
            regs: loaded.vcpu.regs.clone(),
            el1: self.machine.copy_el1(),
        });
    }

    /// Bring timer lines and list registers of the loaded vCPU up to date.
    pub(super) fn sync(&mut self) {
        let Some(loaded) = &mut self.loaded else { return };
        let me = loaded.entity.vcpu;
        let mut vgic = loaded.vm.sample_timers(&self.machine, me, &loaded.vcpu);
        let notify = vgic.sync(me, self.machine.list_registers());
        drop(vgic);
        self.hypervisor.notify(&mut self.machine, &loaded.vm, notify);
    }

    /// Take the loaded vCPU's registers out of the CPU, unless its VM has been reset meanwhile.
    pub(super) fn unload(&mut self) {
        self.unload_until(None);
    }

    /// The same, and where the vCPU sleeps it does so until `until`, if that is given, and else until its timers want it.
    pub(super) fn unload_until(&mut self, until: Option<Ticks>) {
        let Some(mut loaded) = self.loaded.take() else { return };
        self.settle_exit(&loaded);
        let me = loaded.entity.vcpu;
        let serror = self.machine.unload(&mut loaded.vcpu);
        let now = self.machine.now();
        if loaded.incarnation != loaded.vm.incarnation() {
            let lrs = self.machine.list_registers();
            for index in 0..lrs.count() {
                lrs.write(index, None);
            }
            lrs.set_maintenance(false, false);
            self.hypervisor.queue(self.machine.id()).lock().unload(loaded.entity);
            return loaded.vm.leave_cpu(now);
        }
        let notify = loaded.vm.vgic().lock().unload(me, self.machine.list_registers());
        self.hypervisor.notify(&mut self.machine, &loaded.vm, notify);
        let deadline = until.or_else(|| loaded.vm.deadline(me, &loaded.vcpu, now));
        loaded.vm.park_vcpu(me, loaded.vcpu);
        let mut queue = self.hypervisor.queue(self.machine.id()).lock();
        queue.unload(loaded.entity);
        queue.set_deadline(loaded.entity, deadline);
        drop(queue);
        loaded.vm.leave_cpu(now);
        if serror {
            loaded.vm.report_serror(me);
            self.hypervisor.begin_stop(&mut self.machine, &loaded.vm, Stop::Crashed);
        }
    }

    /// Take registers out of the CPU whose VM has been reset since, or is held: their timers and list
    /// registers would go on asking.
    pub(super) fn let_go(&mut self) {
        let held = self.loaded.as_ref().is_some_and(|loaded| loaded.vm.is_paused());
        if held || (self.loaded.is_some() && self.current().is_none()) {
            self.unload();
        }
    }
}
