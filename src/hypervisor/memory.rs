//! The machine's memory: what is free, what is kept, and what running VMs give up and get back.

use super::lifecycle::Refusal;
use super::{Hypervisor, MemoryReport, provision};
use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::machine::Machine;
use crate::sched::VmId;

impl Hypervisor {
    /// Let a VM have `size` bytes of memory, as far as its balloon can see to that.
    ///
    /// # Errors
    /// It has no balloon, cannot have so much or so little, or what it is to get back is not free.
    pub fn balloon(&self, id: VmId, size: u64) -> Result<(), Refusal> {
        let vm = self.vm(id).ok_or(Refusal::NotCreated)?;
        let wanted = vm.wanted_for(size)?;
        let free = self.pool.lock().frames.free_bytes();
        if wanted > free {
            return Err(Refusal::NotFree { free, wanted });
        }
        Ok(vm.set_balloon(size)?)
    }

    /// The memory for VMs.
    pub fn memory(&self) -> MemoryReport {
        self.stock.lock().memory()
    }

    /// Memory that is never given back, for the heap: one aligned block of at least `bytes`. `None` when there
    /// is none, and while somebody has the pool: whoever asks may be that somebody.
    pub fn keep(&self, bytes: u64) -> Option<Region<PhysAddr>> {
        let frames = bytes.div_ceil(PAGE_SIZE).checked_next_power_of_two()?;
        let order = u8::try_from(frames.ilog2()).ok()?;
        let block = self.pool.try_lock()?.frames.allocate_block(order)?;
        Some(block.region())
    }

    /// Whether the heap has enough for a step of loading on every CPU. Asked before each: so it has when the step is done.
    pub(super) fn has_heap_to_load(&self) -> bool {
        let bytes = provision::loading(u8::try_from(self.cpus()).unwrap_or(u8::MAX));
        self.pool.lock().frames.reserve_heap(bytes)
    }

    /// What running VMs have given up is waited for until every CPU has begun its next step.
    pub(super) fn begin_round<M: Machine>(&self, machine: &mut M) {
        if self.pool.begin_round() {
            self.kick_all(machine);
            self.call(machine, machine.id());
        }
    }
}
