//! A copy of a vCPU's registers, for who asks while a CPU has them.
//!
//! Whoever wants them says so in the vCPU's slot and kicks the CPU it belongs to; that one leaves a copy
//! before it runs a guest again. Nobody waits: who asked looks again later. A vCPU that changes CPUs
//! meanwhile is parked on its way, where its registers can be read, or leaves the copy as it is loaded.

use super::Vm;
use crate::machine::CpuId;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::vcpu::{El1Context, GuestRegs, Vcpu, VcpuId};

/// What of a vCPU's registers is shown.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Registers {
    /// The general registers, where it is, and its `PSTATE`.
    pub regs: GuestRegs,
    /// EL1's.
    pub el1: El1Context,
}

impl Registers {
    fn of(vcpu: &Vcpu) -> Self {
        Self { regs: vcpu.regs.clone(), el1: vcpu.el1.clone() }
    }

    /// Those of EL1 that tell what became of a guest, with their names.
    pub fn system(&self) -> [(&'static str, u64); 12] {
        let el1 = &self.el1;
        [
            ("sp_el0", el1.sp_el0),
            ("sp_el1", el1.sp_el1),
            ("elr_el1", el1.elr_el1),
            ("spsr_el1", el1.spsr_el1),
            ("esr_el1", el1.esr_el1),
            ("far_el1", el1.far_el1),
            ("vbar_el1", el1.vbar_el1),
            ("sctlr_el1", el1.sctlr_el1),
            ("ttbr0_el1", el1.ttbr0_el1),
            ("ttbr1_el1", el1.ttbr1_el1),
            ("tcr_el1", el1.tcr_el1),
            ("mair_el1", el1.mair_el1),
        ]
    }
}

/// A place for the copy in a vCPU's slot.
#[derive(Default)]
pub(super) struct Snapshot {
    wanted: AtomicBool,
    taken: TicketMutex<Option<Registers>>,
}

impl Vm {
    /// Ask for a vCPU's registers, to be had from [`Self::registers`] soon. Returns the CPU that has to be
    /// kicked; `None` when no CPU has them.
    pub fn want_registers(&self, vcpu: VcpuId) -> Option<CpuId> {
        let slot = self.vcpus.get(vcpu.index())?;
        *slot.snapshot.taken.lock() = None;
        slot.snapshot.wanted.store(true, Ordering::SeqCst);
        // First this, then the question who has them; a CPU that loads the vCPU goes the other way.
        fence(Ordering::SeqCst);
        if self.has_registers(vcpu) { None } else { self.home(vcpu) }
    }

    /// Whether there is a copy of the registers that were asked for. Where no CPU has them it is made now: one may
    /// have loaded them again by the time that they are shown.
    pub fn has_registers(&self, vcpu: VcpuId) -> bool {
        let Some(slot) = self.vcpus.get(vcpu.index()) else { return false };
        if !slot.snapshot.wanted.load(Ordering::SeqCst) {
            return true;
        }
        let Some(copy) = slot.parked.lock().as_deref().map(Registers::of) else { return false };
        *slot.snapshot.taken.lock() = Some(copy);
        slot.snapshot.wanted.store(false, Ordering::SeqCst);
        true
    }

    /// The CPU that has a vCPU loaded leaves a copy of its registers, if they are wanted.
    pub fn offer_registers(&self, vcpu: VcpuId, copy: impl FnOnce() -> Registers) {
        let Some(slot) = self.vcpus.get(vcpu.index()) else { return };
        if slot.snapshot.wanted.load(Ordering::SeqCst) {
            *slot.snapshot.taken.lock() = Some(copy());
            slot.snapshot.wanted.store(false, Ordering::SeqCst);
        }
    }

    /// A vCPU's registers: as they are while no CPU has them, and else as they were left on request.
    pub fn registers(&self, vcpu: VcpuId) -> Option<Registers> {
        let slot = self.vcpus.get(vcpu.index())?;
        slot.snapshot.wanted.store(false, Ordering::SeqCst);
        let parked = slot.parked.lock().as_deref().map(Registers::of);
        parked.or_else(|| slot.snapshot.taken.lock().clone())
    }
}
