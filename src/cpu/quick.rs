//! The short way round: what a guest is left for and comes back to at once.
//!
//! Most exits concern nobody but the vCPU that is loaded. They are dealt with here, without a look at the run queue,
//! at deadlines or at the time. Everything else leaves by the long way, [`Cpu::step`]'s, with nothing lost: an
//! interrupt that was acknowledged goes along, and whoever wants more of this CPU than that it look at its vCPU's
//! requests has *called* it ([`Hypervisor::call`](crate::hypervisor::Hypervisor::call)).

use super::{Cpu, Leave, Loaded};
use crate::exit::Exit;
use crate::machine::{Interrupt, Machine};
use crate::vgic::Notify;
use crate::vm::Vm;
use crate::vm::quick::Touched;
use crate::vm::tally::Reason;

impl<M: Machine> Cpu<'_, M> {
    /// Run the vCPU until there is an exit that takes longer.
    #[inline(always)]
    pub(super) fn run_quickly(&mut self, loaded: &mut Loaded) -> Leave {
        let me = loaded.entity.vcpu;
        loop {
            let exit = self.machine.run(&mut loaded.vcpu.regs);
            if matches!(exit, Exit::Irq) {
                match self.interrupt_quickly(loaded) {
                    Ok(()) => continue,
                    Err(interrupt) => return Leave::Interrupted(interrupt),
                }
            }
            let Some(answer) = loaded.vm.answer(&mut self.machine, me, &mut loaded.vcpu, exit)
            else {
                return Leave::Exit;
            };
            loaded.tally.count(answer.reason);
            if answer.device != Touched::Nothing
                && self.after_device(loaded, answer.device == Touched::DueSooner)
            {
                return Leave::Interrupted(None);
            }
            if !answer.others.is_empty() && self.tell(loaded, answer.others) {
                return Leave::Interrupted(None);
            }
        }
    }

    /// Deal with a physical interrupt, if it concerns nobody but the loaded vCPU.
    ///
    /// # Errors
    /// What takes longer: the interrupt, if it has been acknowledged.
    #[inline(always)]
    fn interrupt_quickly(&mut self, loaded: &mut Loaded) -> Result<(), Option<Interrupt>> {
        // It may be unable to go on: that has to be found out.
        if Vm::may_be_lost(&loaded.vcpu.regs) {
            return Err(None);
        }
        let interrupt = self.machine.acknowledge().ok_or(None)?;
        let (vm, me) = (&loaded.vm, loaded.entity.vcpu);
        let others = match interrupt {
            Interrupt::VirtualTimer => {
                self.clock.count(Interrupt::VirtualTimer);
                vm.virtual_timer_fired(&mut self.machine, me)
            }
            Interrupt::Kick if !self.hypervisor.is_called(self.machine.id()) => {
                let requests = vm.take_requests(me);
                if requests.start {
                    vm.give_back(me, requests);
                    return Err(Some(interrupt));
                }
                self.clock.count(Interrupt::Kick);
                if vm.sync_at_once(&mut self.machine, me) {
                    loaded.tally.count(Reason::Interrupt);
                    return Ok(());
                }
                vm.sync(&mut self.machine, me)
            }
            Interrupt::Maintenance => {
                self.clock.count(Interrupt::Maintenance);
                vm.maintain(&mut self.machine, me)
            }
            Interrupt::Assigned(intid) if self.hypervisor.owner(intid) == Some(vm.id()) => {
                vm.assigned_fired_here(&mut self.machine, me, intid)
            }
            _ => return Err(Some(interrupt)),
        };
        loaded.tally.count(Reason::Interrupt);
        if !others.is_empty() && self.tell(loaded, others) {
            return Err(None);
        }
        Ok(())
    }

    /// Have other vCPUs look at their interrupts. Returns whether one of them now waits for this CPU.
    #[inline(never)]
    fn tell(&mut self, loaded: &Loaded, others: Notify) -> bool {
        self.hypervisor.notify(&mut self.machine, &loaded.vm, others)
    }
}
