//! One virtual CPU's state, as plain data: what the world switch moves at every exit, what moves
//! only when a CPU changes its vCPU, and the exceptions that are put into it.

use serde::{Deserialize, Serialize};

use crate::exit::Gpr;
use crate::vm::debug::DebugRegs;
use crate::vm::ptimer::PhysicalTimer;

/// A virtual CPU of one VM, by its index: 0 is the boot vCPU. Its affinity (`MPIDR_EL1.Aff0`) is the
/// same number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct VcpuId(pub u8);

impl VcpuId {
    /// The index into a VM's vCPUs.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// What the guest reads from `MPIDR_EL1`: affinity and the RES1 bit 31 (Arm ARM, "MPIDR_EL1").
    pub const fn mpidr(self) -> u64 {
        1 << 31 | self.0 as u64
    }
}

/// The most vCPUs one VM can have. GICv2 has eight CPU interfaces (IHI 0048, "Distributor").
pub const MAX_VCPUS: usize = 8;

/// What every exit saves and every entry restores. The world switch knows the offsets.
#[repr(C)]
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct GuestRegs {
    /// `X0` to `X30`.
    pub x: [u64; 31],
    /// The address of the next instruction (`ELR_EL2`).
    pub pc: u64,
    /// The processor state (`SPSR_EL2`).
    pub pstate: u64,
}

impl GuestRegs {
    /// What an instruction reads from `gpr`.
    #[inline(always)]
    pub fn read(&self, gpr: Gpr) -> u64 {
        gpr.index().map_or(0, |index| self.x[index])
    }

    /// What an instruction writes to `gpr`.
    #[inline(always)]
    pub fn write(&mut self, gpr: Gpr, value: u64) {
        if let Some(index) = gpr.index() {
            self.x[index] = value;
        }
    }

    /// Step over the trapped instruction. Single-stepping continues behind it: a completed
    /// instruction clears `PSTATE.SS` (Arm ARM, "Software Step exceptions").
    #[inline(always)]
    pub fn skip_instruction(&mut self) {
        self.pc = self.pc.wrapping_add(4);
        self.pstate &= !pstate::SS;
    }
}

/// Bits of `SPSR_EL2` (Arm ARM, "SPSR_EL2, Saved Program Status Register (EL2)").
pub mod pstate {
    /// Mode: EL0t.
    pub const EL0T: u64 = 0b0000;
    /// Mode: EL1t.
    pub const EL1T: u64 = 0b0100;
    /// Mode: EL1h.
    pub const EL1H: u64 = 0b0101;
    /// The mode field, AArch64.
    pub const MODE: u64 = 0b1111;
    /// The source runs AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// Debug, SError, IRQ and FIQ masked.
    pub const DAIF: u64 = 0b1111 << 6;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// Speculative store bypass safe.
    pub const SSBS: u64 = 1 << 12;
    /// Condition flags.
    pub const NZCV: u64 = 0b1111 << 28;
    /// Data independent timing.
    pub const DIT: u64 = 1 << 24;

    /// Whether this is the state of EL0, in either execution state.
    pub const fn is_el0(pstate: u64) -> bool {
        pstate & AARCH32 != 0 || pstate & MODE == EL0T
    }
}

/// The FP and SIMD registers.
#[repr(C, align(16))]
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct FpRegs {
    /// `V0` to `V31`.
    pub v: [u128; 32],
    /// `FPSR`.
    pub fpsr: u64,
    /// `FPCR`.
    pub fpcr: u64,
}

/// Calls a macro with the table of registers that belong to a vCPU and stay in the CPU while it is
/// loaded: the one list that the structure and the world switch are made of.
#[macro_export]
macro_rules! el1_registers {
    ($with:ident) => {
        $with! {
            sctlr_el1: "SCTLR_EL1", cpacr_el1: "CPACR_EL1", ttbr0_el1: "TTBR0_EL1",
            ttbr1_el1: "TTBR1_EL1", tcr_el1: "TCR_EL1", esr_el1: "ESR_EL1", far_el1: "FAR_EL1",
            afsr0_el1: "AFSR0_EL1", afsr1_el1: "AFSR1_EL1", mair_el1: "MAIR_EL1",
            amair_el1: "AMAIR_EL1", vbar_el1: "VBAR_EL1", contextidr_el1: "CONTEXTIDR_EL1",
            tpidr_el0: "TPIDR_EL0", tpidrro_el0: "TPIDRRO_EL0", tpidr_el1: "TPIDR_EL1",
            sp_el0: "SP_EL0", sp_el1: "SP_EL1", elr_el1: "ELR_EL1", spsr_el1: "SPSR_EL1",
            par_el1: "PAR_EL1", csselr_el1: "CSSELR_EL1", cntkctl_el1: "CNTKCTL_EL1",
            cntv_cval_el0: "CNTV_CVAL_EL0", cntv_ctl_el0: "CNTV_CTL_EL0",
        }
    };
}

macro_rules! define_el1_context {
    ($($field:ident: $name:literal),* $(,)?) => {
        /// The registers of the EL1 and EL0 translation regime and of the virtual timer. They are in
        /// the CPU while the vCPU is loaded, and here otherwise.
        #[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
        pub struct El1Context {
            $(#[doc = concat!("`", $name, "`.")] pub $field: u64,)*
        }
    };
}
el1_registers!(define_el1_context);

/// `SCTLR_EL1` with MMU and caches off: its RES1 bits in Armv8.0 (Arm ARM, "SCTLR_EL1").
const SCTLR_EL1_RESET: u64 = 0x30d0_0800;

/// The GIC virtual CPU interface's state apart from the list registers, which fold into the vGIC
/// (`ICH_VMCR_EL2`, `ICH_AP0R<n>_EL2`, `ICH_AP1R<n>_EL2`, or their `GICH_` twins).
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct GicCpuContext {
    /// Priority mask, binary points, group enables.
    pub vmcr: u32,
    /// Active priorities of group 0 (GICv2: of both groups, in the first).
    pub ap0: [u32; 4],
    /// Active priorities of group 1.
    pub ap1: [u32; 4],
}

/// One virtual CPU.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Vcpu {
    /// Moved at every exit.
    pub regs: GuestRegs,
    /// Moved when a CPU changes its vCPU.
    pub el1: El1Context,
    /// Moved when a CPU changes its vCPU, whether it was used or not.
    pub fp: FpRegs,
    /// Moved when a CPU changes its vCPU.
    pub gic: GicCpuContext,
    /// Moved when a CPU changes its vCPU, once it is used.
    pub debug: DebugRegs,
    /// It waits for an interrupt (`WFI`, PSCI's `CPU_SUSPEND`): it does not run until one can be
    /// delivered.
    pub waiting: bool,
    /// The guest cleans its caches by set/way: writes to its translation registers trap until its
    /// caches are on.
    pub watch_caches: bool,
    /// How much of RAM a cache operation by set/way has cleaned so far, in bytes.
    pub flushed: u64,
    /// The address of the instruction that it was cleaned for.
    pub flushed_for: u64,
    /// The EL1 physical timer, which is emulated.
    pub physical_timer: PhysicalTimer,
    /// How often in a row it was found unable to fetch its exception vector.
    pub lost: u8,
}

impl Vcpu {
    /// A vCPU out of reset, about to run its first instruction at `entry` with `x0` (PSCI, DEN0022,
    /// "CPU_ON": EL1h, MMU and caches off, exceptions masked). Every register that the architecture
    /// leaves unknown at reset has a value.
    pub fn at_reset(entry: u64, x0: u64) -> Self {
        let mut vcpu = Self::default();
        vcpu.regs.x[0] = x0;
        vcpu.regs.pc = entry;
        vcpu.regs.pstate = pstate::EL1H | pstate::DAIF;
        vcpu.el1.sctlr_el1 = SCTLR_EL1_RESET;
        vcpu
    }
}

/// What was in a guest's registers is nobody's any more, and does not stay behind on the heap.
impl Drop for Vcpu {
    fn drop(&mut self) {
        let Self { regs, el1, fp, gic, debug, physical_timer, .. } = self;
        *regs = GuestRegs::default();
        *el1 = El1Context::default();
        *fp = FpRegs::default();
        *gic = GicCpuContext::default();
        *debug = DebugRegs::default();
        *physical_timer = PhysicalTimer::default();
        // To the compiler nothing reads these zeroes.
        core::hint::black_box(self);
    }
}

/// An exception the hypervisor gives a guest's EL1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exception {
    /// The instruction is UNDEFINED.
    Undefined,
    /// A synchronous external abort on a data access.
    DataAbort {
        /// The faulting virtual address, where it is known.
        far: Option<u64>,
        /// On a page-table walk.
        walk: bool,
        /// A store.
        write: bool,
    },
    /// A synchronous external abort on an instruction fetch.
    InstructionAbort {
        /// The faulting virtual address, where it is known.
        far: Option<u64>,
        /// On a page-table walk.
        walk: bool,
    },
}

/// What taking an exception to EL1 leaves in the registers (Arm ARM, "AArch64.TakeException").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExceptionEntry {
    /// The vector's address.
    pub pc: u64,
    /// The new processor state.
    pub pstate: u64,
    /// `ELR_EL1`.
    pub elr: u64,
    /// `SPSR_EL1`.
    pub spsr: u64,
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`; `None` leaves it.
    pub far: Option<u64>,
}

impl Exception {
    /// What EL1 sees when it takes this exception at `regs`, with its `vbar` and `sctlr`.
    pub fn enter(self, regs: &GuestRegs, vbar: u64, sctlr: u64) -> ExceptionEntry {
        const SCTLR_SPAN: u64 = 1 << 23;
        const SCTLR_DSSBS: u64 = 1 << 44;
        let mode = regs.pstate & pstate::MODE;
        let lower = pstate::is_el0(regs.pstate);
        let vector = if regs.pstate & pstate::AARCH32 != 0 {
            0x600
        } else if mode == pstate::EL0T {
            0x400
        } else if mode == pstate::EL1T {
            0x000
        } else {
            0x200
        };
        let mut new = pstate::EL1H | pstate::DAIF;
        new |= regs.pstate & (pstate::NZCV | pstate::PAN | pstate::DIT);
        if sctlr & SCTLR_SPAN == 0 {
            new |= pstate::PAN;
        }
        if sctlr & SCTLR_DSSBS != 0 {
            new |= pstate::SSBS;
        }
        ExceptionEntry {
            pc: vbar.wrapping_add(vector),
            pstate: new,
            elr: regs.pc,
            spsr: regs.pstate,
            esr: self.syndrome(lower),
            far: match self {
                Self::Undefined => None,
                Self::DataAbort { far, .. } | Self::InstructionAbort { far, .. } => far,
            },
        }
    }

    /// `ESR_EL1`: class, `IL` = 1, and for aborts the status code of a synchronous external abort
    /// (on a walk: of level 0, the one that claims least) with `FnV` when there is no address.
    fn syndrome(self, from_lower: bool) -> u64 {
        const IL: u64 = 1 << 25;
        const FNV: u64 = 1 << 10;
        const WNR: u64 = 1 << 6;
        const EXTERNAL: u64 = 0b01_0000;
        const EXTERNAL_ON_WALK: u64 = 0b01_0100;
        let same = u64::from(!from_lower);
        let (class, iss) = match self {
            Self::Undefined => (0x00, 0),
            Self::InstructionAbort { far, walk } | Self::DataAbort { far, walk, .. } => {
                let class = if matches!(self, Self::DataAbort { .. }) { 0x24 } else { 0x20 };
                let status = if walk { EXTERNAL_ON_WALK } else { EXTERNAL };
                // FnV means nothing on a walk's abort.
                let fnv = if far.is_none() && !walk { FNV } else { 0 };
                let wnr = if matches!(self, Self::DataAbort { write: true, .. }) { WNR } else { 0 };
                (class | same, status | fnv | wnr)
            }
        };
        class << 26 | IL | iss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_secrets_writes_every_register_that_is_switched() {
        let payload = include_str!("../guests/src/bin/secrets/registers.rs");
        macro_rules! names {
            ($($field:ident: $name:literal),* $(,)?) => { [$(stringify!($field)),*] };
        }
        for name in el1_registers!(names) {
            // The stack pointer, beside the system registers.
            let is_there = name == "sp_el1" || payload.contains(&alloc::format!("\"{name}\": "));
            assert!(is_there, "{name}");
        }
    }

    fn regs(pstate: u64) -> GuestRegs {
        GuestRegs { pc: 0x4000_1000, pstate, ..GuestRegs::default() }
    }

    #[test]
    fn the_vector_follows_where_the_exception_came_from() {
        let vector = |from| Exception::Undefined.enter(&regs(from), 0x8000, SCTLR_EL1_RESET).pc;
        assert_eq!(vector(pstate::EL1T), 0x8000);
        assert_eq!(vector(pstate::EL1H), 0x8200);
        assert_eq!(vector(pstate::EL0T), 0x8400);
        assert_eq!(vector(pstate::AARCH32), 0x8600);
    }

    #[test]
    fn an_undefined_instruction_is_returned_to_and_not_skipped() {
        let entry = Exception::Undefined.enter(&regs(pstate::EL1H), 0, SCTLR_EL1_RESET);
        assert_eq!((entry.elr, entry.esr), (0x4000_1000, 1 << 25));
        assert_eq!(entry.pstate & (pstate::DAIF | pstate::MODE), pstate::DAIF | pstate::EL1H);
    }

    #[test]
    fn an_abort_from_el0_and_from_el1_differ_in_class_alone() {
        let abort = Exception::DataAbort { far: Some(0x99), walk: false, write: true };
        let from_el0 = abort.enter(&regs(pstate::EL0T), 0, 0);
        let from_el1 = abort.enter(&regs(pstate::EL1H), 0, 0);
        assert_eq!(from_el0.esr >> 26, 0x24);
        assert_eq!(from_el1.esr >> 26, 0x25);
        assert_eq!(from_el1.far, Some(0x99));
        assert_eq!(from_el1.esr & 0x7f, 1 << 6 | 0b01_0000);
    }

    #[test]
    fn an_abort_without_an_address_says_so() {
        let abort = Exception::InstructionAbort { far: None, walk: false };
        assert_ne!(abort.enter(&regs(pstate::EL1H), 0, 0).esr & 1 << 10, 0);
    }

    #[test]
    fn privileged_access_never_is_set_on_entry_unless_the_guest_spans_it() {
        let pan = |sctlr| Exception::Undefined.enter(&regs(pstate::EL0T), 0, sctlr).pstate;
        assert_ne!(pan(0) & pstate::PAN, 0);
        assert_eq!(pan(SCTLR_EL1_RESET) & pstate::PAN, 0);
    }

    #[test]
    fn stepping_over_an_emulated_instruction_completes_the_step() {
        let mut regs = regs(pstate::EL0T | pstate::SS);
        regs.skip_instruction();
        assert_eq!((regs.pc, regs.pstate), (0x4000_1004, pstate::EL0T));
    }
}
