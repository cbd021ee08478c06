//! The one big seam: a physical CPU as the logic sees it. Running a guest is a function call that
//! returns an [`Exit`]. `arch::ThisCpu` is the real one, [`fake::Scripted`] the one tests run on.

pub mod fake;

use crate::addr::{Ipa, PhysAddr};
use crate::exit::Exit;
use crate::memory::Maintenance;
use crate::platform::WiredInterrupt;
use crate::time::Ticks;
use crate::vcpu::{El1Context, Exception, ExceptionEntry, FpRegs, GuestRegs, Vcpu};
use crate::vgic::{IntId, ListRegisters};

/// A physical CPU, by its place in the device tree's list.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CpuId(pub u8);

impl CpuId {
    /// The index into per-CPU arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a CPU needs to know of a VM to run one of its vCPUs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Space {
    /// `VTTBR_EL2`: root table and VMID.
    pub vttbr: u64,
    /// `VTCR_EL2`.
    pub vtcr: u64,
    /// `CNTVOFF_EL2`, the same for all vCPUs of a VM.
    pub counter_offset: u64,
    /// `VMPIDR_EL2`.
    pub mpidr: u64,
    /// Trap WFI and WFE: somebody else could use the CPU, or the VM's policy wants it.
    pub trap_wait: bool,
    /// Another vCPU of this VM ran on this CPU since: what it left in the TLB under this VMID and
    /// with its own ASIDs must go.
    pub stale_tlb: bool,
}

/// A physical interrupt, acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interrupt {
    /// Another CPU wants this one to look at its requests.
    Kick,
    /// The hypervisor's own deadline has passed.
    Deadline,
    /// The loaded vCPU's virtual timer has fired. It stays active until the guest deactivates it.
    VirtualTimer,
    /// The list registers want attention.
    Maintenance,
    /// A device that a VM has for its own. It stays active until the guest deactivates it.
    Assigned(IntId),
    /// A device of the hypervisor.
    Device(IntId),
}

/// A register of the EL1 regime: one that a trapped instruction writes (`HCR_EL2.TVM`), or `ELR_EL1`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum El1Register {
    /// `SCTLR_EL1`.
    Sctlr,
    /// `TTBR0_EL1`.
    Ttbr0,
    /// `TTBR1_EL1`.
    Ttbr1,
    /// `TCR_EL1`.
    Tcr,
    /// `ESR_EL1`.
    Esr,
    /// `FAR_EL1`.
    Far,
    /// `AFSR0_EL1`.
    Afsr0,
    /// `AFSR1_EL1`.
    Afsr1,
    /// `MAIR_EL1`.
    Mair,
    /// `AMAIR_EL1`.
    Amair,
    /// `ELR_EL1`.
    Elr,
    /// `CONTEXTIDR_EL1`.
    Contextidr,
}

/// Why a virtual address of a guest leads nowhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoAddress {
    /// The guest's own tables say so.
    AtAll,
    /// Its tables could not be read: stage 2 did not map them, which may be about to change.
    ForNow,
}

/// A physical CPU.
pub trait Machine {
    /// Its list registers.
    type Lrs: ListRegisters;
    /// Its cache and TLB maintenance.
    type Upkeep: Maintenance;

    /// Which CPU this is.
    fn id(&self) -> CpuId;
    /// The affinity fields of its `MPIDR_EL1`.
    fn affinity(&self) -> u64;
    /// The system counter now.
    fn now(&self) -> Ticks;
    /// The system counter, perhaps as it was a few instructions earlier: for statistics.
    fn stamp(&self) -> Ticks;

    /// Put a vCPU's registers into the CPU. No other is loaded.
    fn load(&mut self, vcpu: &Vcpu, space: &Space);
    /// Take the loaded vCPU's registers out again. Returns whether an asynchronous abort that the
    /// vCPU caused was still outstanding.
    fn unload(&mut self, vcpu: &mut Vcpu) -> bool;
    /// Run the loaded vCPU until it exits.
    fn run(&mut self, regs: &mut GuestRegs) -> Exit;
    /// The last exit once more, which was no interrupt, as long as nothing has run since: who has asked
    /// [`Self::run`] need not keep it.
    fn last_exit(&self) -> Exit;

    /// The loaded vCPU's `VBAR_EL1` and `SCTLR_EL1`.
    fn vector_base(&self) -> (u64, u64);
    /// Put the EL1 side of an exception entry into the loaded vCPU's registers.
    fn set_exception(&mut self, entry: &ExceptionEntry);
    /// Read a register of the loaded vCPU.
    fn read_el1(&self, register: El1Register) -> u64;
    /// A copy of the loaded vCPU's EL1 registers, which stay in the CPU.
    fn copy_el1(&self) -> El1Context;
    /// Where the loaded vCPU's kernel reads from when it reads from this virtual address.
    ///
    /// # Errors
    /// Its translation leads nowhere.
    fn translate(&self, address: u64) -> Result<Ipa, NoAddress>;
    /// A copy of the loaded vCPU's FP and SIMD registers, which stay in the CPU.
    fn copy_fp(&self) -> FpRegs;
    /// Write the loaded vCPU's FP and SIMD registers.
    fn write_fp(&mut self, fp: &FpRegs);
    /// Write a register of the loaded vCPU.
    fn write_el1(&mut self, register: El1Register, value: u64);
    /// Put the loaded vCPU's debug registers into the CPU after a change.
    fn write_debug(&mut self, vcpu: &Vcpu);
    /// Turn the trap of writes to the EL1 virtual memory registers (`HCR_EL2.TVM`) on or off.
    fn trap_vm_registers(&mut self, on: bool);

    /// The list registers of the loaded vCPU.
    fn list_registers(&mut self) -> &mut Self::Lrs;
    /// Whether the loaded vCPU's virtual timer asserts its output now.
    fn virtual_timer_asserted(&self) -> bool;
    /// Set the physical active state of the virtual timer's interrupt on this CPU: active keeps it
    /// from firing again while the loaded vCPU has it in hand.
    fn set_virtual_timer_active(&mut self, active: bool);

    /// Whether a physical interrupt or an asynchronous abort is pending.
    fn interrupt_pending(&mut self) -> bool;
    /// Take the most urgent pending physical interrupt and finish it, apart from what
    /// [`Interrupt::VirtualTimer`] says.
    fn acknowledge(&mut self) -> Option<Interrupt>;
    /// Let the interrupt of a VM's own device through, to this CPU.
    fn open_interrupt(&mut self, interrupt: WiredInterrupt);
    /// Let it through no more; it is neither pending nor active afterwards.
    fn close_interrupt(&mut self, intid: IntId);
    /// Ask for [`Interrupt::Deadline`] at `at`; `None` for never.
    fn set_deadline(&mut self, at: Option<Ticks>);
    /// Sleep until a physical interrupt is pending. Returns false without sleeping when an asynchronous
    /// abort of the loaded vCPU is pending, which keeps the CPU awake.
    fn idle(&mut self) -> bool;
    /// Make `cpu` stop its guest and look at its requests.
    fn kick(&mut self, cpu: CpuId);
    /// Cache and TLB maintenance.
    fn upkeep(&self) -> &Self::Upkeep;

    /// Give the loaded vCPU an exception at its current instruction. Returns false, and changes nothing,
    /// when that instruction is the first of the exception's own vector: it would never end.
    fn inject(&mut self, regs: &mut GuestRegs, exception: Exception) -> bool {
        let (vbar, sctlr) = self.vector_base();
        let entry = exception.enter(regs, vbar, sctlr);
        if entry.pc == regs.pc {
            return false;
        }
        regs.pc = entry.pc;
        regs.pstate = entry.pstate;
        self.set_exception(&entry);
        true
    }
}

/// Where a VM's stage-2 root lies, packed with its VMID as `VTTBR_EL2` wants it (8-bit VMIDs).
pub const fn vttbr(root: PhysAddr, vmid: u8) -> u64 {
    (vmid as u64) << 48 | root.raw()
}
