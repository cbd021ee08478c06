//! VMs are made, a step at a time: interrupts wait for each.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::lifecycle::Refusal;
use super::stock::{Build, Cleared, Stock};
use super::{Hypervisor, TicketMutex};
use crate::machine::Machine;
use crate::sched::VmId;
use crate::sync::TicketMutexGuard;
use crate::sync::atomic::Ordering;
use crate::vm::Vm;

impl Hypervisor {
    /// Build a VM of the bundle at one go. Its vCPUs are spread over the CPUs, and off.
    ///
    /// # Errors
    /// Why it cannot be; nothing is left of it then.
    pub fn create<M: Machine>(&self, machine: &mut M, id: VmId) -> Result<Arc<Vm>, Refusal> {
        loop {
            match self.create_step(machine, id) {
                Ok(None) => {}
                Ok(Some(vm)) => return Ok(vm),
                // What is left is another's.
                Err(Refusal::Stopping) => return Err(Refusal::Stopping),
                Err(refusal) => {
                    self.clear(machine, id);
                    return Err(refusal);
                }
            }
        }
    }

    /// Take apart at one go what is left of a VM that could not be built.
    fn clear<M: Machine>(&self, machine: &M, id: VmId) {
        loop {
            let mut stock = self.stock.lock();
            if !stock.has_remains_of(id) {
                return;
            }
            let cleared = self.take_apart_some(machine, &mut stock);
            drop(stock);
            cleared.tell();
        }
    }

    /// Begin to build a VM of the bundle, or build some more of it: some thousand instructions. The VM, when that was all.
    ///
    /// # Errors
    /// Why it cannot be; what there is of it by then is [reaped](Self::reap).
    #[inline(never)] // what it puts on the stack is not to be in the run loop's frame
    pub fn create_step<M: Machine>(
        &self,
        machine: &mut M,
        id: VmId,
    ) -> Result<Option<Arc<Vm>>, Refusal> {
        let slot = self.vms.get(id.index()).ok_or(Refusal::NoSuchVm)?;
        // Held throughout: of two who want to build it, the second goes on with it or finds it built.
        let mut stock = self.stock.lock();
        if slot.lock().is_some() {
            return Err(Refusal::Running);
        }
        if stock.is_to_have_room(id) {
            match self.take_apart_some(machine, &mut stock) {
                Cleared::Nothing => stock.has_room(id),
                cleared => {
                    drop(stock);
                    cleared.tell();
                    return Ok(None);
                }
            }
        }
        // A CPU may still be about to leave its predecessor, and take the one for the other.
        let has_left = || !self.doomed.lock().iter().any(|vm| vm.id() == id);
        if !stock.is_building(id) && (stock.has_remains_of(id) || !has_left()) {
            return Err(Refusal::Stopping);
        }
        let others = self.doomed_count.load(Ordering::Acquire);
        let built = stock.build(id, machine.now(), machine.upkeep()).ok_or(Refusal::NoSuchVm)?;
        let (error, is_left) = match built {
            Build::More => return Ok(None),
            Build::All(vm) => return self.complete(stock, slot, vm),
            Build::Refused(error) => (error, 0),
            Build::Failed(error) => (error, 1),
        };
        self.doomed_count.fetch_add(is_left, Ordering::Release);
        // What it lacks may be what others had that are being taken apart.
        let again = others != 0 && stock.make_room(id);
        if again { Ok(None) } else { Err(error.into()) }
    }

    /// A VM is built: from now on it is there.
    fn complete(
        &self,
        mut stock: TicketMutexGuard<'_, Stock>,
        slot: &TicketMutex<Option<Arc<Vm>>>,
        mut vm: Box<Vm>,
    ) -> Result<Option<Arc<Vm>>, Refusal> {
        let refusal = if !self.population.join() {
            Some(Refusal::Finished)
        } else if let Err(error) = self.place(&mut vm) {
            self.population.leave_quietly();
            Some(error.into())
        } else {
            None
        };
        if let Some(refusal) = refusal {
            stock.take_apart(*vm);
            self.doomed_count.fetch_add(1, Ordering::Release);
            return Err(refusal);
        }
        let vm = Arc::<Vm>::from(vm);
        *slot.lock() = Some(vm.clone());
        drop(stock);
        let (vcpus, memory) = (vm.vcpu_count(), vm.memory_size() >> 20);
        let plural = if vcpus == 1 { "" } else { "s" };
        log::info!("{}: {memory} MiB, {vcpus} vCPU{plural}", vm.name());
        Ok(Some(vm))
    }

    /// Create every VM of the bundle that starts by itself. One that cannot be built is refused, and the
    /// others run. Returns how many should have been created.
    pub fn create_all<M: Machine>(&self, machine: &mut M) -> usize {
        let mut wanted = 0;
        for index in 0..self.vm_count() {
            let id = VmId(u16::try_from(index).unwrap_or(u16::MAX));
            if !self.stock.lock().configs().get(index).is_some_and(|config| config.autostart) {
                continue;
            }
            wanted += 1;
            if let Err(refusal) = self.create(machine, id) {
                let stock = self.stock.lock();
                let name = stock.configs().get(index).map_or("?", |config| config.name.as_str());
                log::error!("{name}: refused: {refusal}");
            }
        }
        wanted
    }
}
