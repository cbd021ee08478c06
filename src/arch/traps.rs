//! Which guest actions trap to EL2, and why: every control register of EL2 that shapes what a guest
//! can do, in one place. (Arm ARM, the registers' pages.)

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTHCTL_EL2, CNTVOFF_EL2, HCR_EL2, ID_AA64DFR0_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1,
    ID_AA64PFR0_EL1, ID_AA64PFR1_EL1, MDCR_EL2, MIDR_EL1, VMPIDR_EL2, VTTBR_EL2,
};
use tock_registers::LocalRegisterCopy;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_bitfields;

use super::regs::{
    ACTLR_EL2, AMAIR_EL2, CNTHP_CTL_EL2, CNTP_CTL_EL0, CNTPOFF_EL2, HACR_EL2, HAFGRTR_EL2,
    HCRX_EL2, HDFGRTR_EL2, HDFGWTR_EL2, HFGITR_EL2, HFGRTR_EL2, HFGWTR_EL2, HSTR_EL2, MPAM2_EL2,
    PMCR_EL0, PMSCR_EL2, SCXTNUM_EL2, TRFCR_EL2, VPIDR_EL2, VSESR_EL2,
};

register_bitfields! { u64,
    /// CPTR_EL2 with HCR_EL2.E2H = 0.
    Cptr [
        /// Traps `CPACR_EL1` accesses: the guest owns that register.
        TCPAC OFFSET(31) NUMBITS(1) [],
        /// Traps the activity monitors, which no guest is offered.
        TAM OFFSET(30) NUMBITS(1) [],
        /// Traps the trace registers, which no guest is offered.
        TTA OFFSET(20) NUMBITS(1) [],
        /// Traps SME; RES1 without it.
        TSM OFFSET(12) NUMBITS(1) [],
        /// Traps FP and SIMD: not used, that state moves eagerly with the vCPU.
        TFP OFFSET(10) NUMBITS(1) [],
        /// Traps SVE; RES1 without it.
        TZ OFFSET(8) NUMBITS(1) [],
        /// RES1.
        RES1 OFFSET(0) NUMBITS(8) [],
        /// RES1.
        RES1_9 OFFSET(9) NUMBITS(1) [],
        /// RES1.
        RES1_13 OFFSET(13) NUMBITS(1) []
    ]
}

/// `CPTR_EL2`, from the first instructions on.
pub const CPTR: u64 = Cptr::TAM::SET.value
    | Cptr::TTA::SET.value
    | Cptr::TSM::SET.value
    | Cptr::TZ::SET.value
    | 0xff << Cptr::RES1.shift
    | Cptr::RES1_9::SET.value
    | Cptr::RES1_13::SET.value;

/// `HCR_EL2` while no vCPU is loaded: the next level is AArch64 and every interrupt comes to EL2.
/// RW, AMO, IMO, FMO.
/// `E2H` and `TGE` are 0: EL2 is not a host with an EL0 of its own.
pub const HCR_IDLE: u64 = 1 << 31 | 1 << 5 | 1 << 4 | 1 << 3;

/// `HCR_EL2` while a CPU has no vCPU loaded but may still hold EL1 registers of one: stage 2 is on, and
/// leads nowhere, so that nothing is fetched on behalf of what is left in them.
pub const HCR_PARKED: u64 = HCR_IDLE | 1;

/// See [`HCR_IDLE`].
pub const fn hcr_idle() -> u64 {
    HCR_IDLE
}

/// `HCR_EL2` while a vCPU is loaded. `trap_wait`: WFI and WFE come to EL2.
/// `watch_caches`: the guest's writes to its translation registers are watched.
pub fn hcr_guest(trap_wait: bool, watch_caches: bool) -> u64 {
    let mut hcr = LocalRegisterCopy::<u64, HCR_EL2::Register>::new(hcr_idle());
    hcr.modify(
        // Stage 2 is on.
        HCR_EL2::VM::Enable
            // A clean by set/way that got through would clean and invalidate.
            + HCR_EL2::SWIO::SET
            // A page table in device memory faults instead of being walked.
            + HCR_EL2::PTW::SET
            // The guest's TLB and instruction cache maintenance reaches every CPU its vCPUs may be
            // on, and its barriers order for all of them.
            + HCR_EL2::FB::SET
            + HCR_EL2::BSU::InnerShareable
            // ID registers are presented sanitised.
            + HCR_EL2::TID3::SET
            // No guest reaches the firmware: SMC is answered here.
            + HCR_EL2::TSC::EnableTrapEl1SmcToEl2
            // IMPLEMENTATION DEFINED registers and ACTLR_EL1 would change the CPU for everybody.
            + HCR_EL2::TIDCP::SET
            + HCR_EL2::TACR::SET
            // Set/way operations see other guests' lines.
            + HCR_EL2::TSW::SET
            // Error records (FEAT_RAS) and LORegions are not offered. RES0 where absent.
            + HCR_EL2::TERR::SET
            + HCR_EL2::TLOR::SET,
    );
    // Left 0, so that they trap or are undefined: APK, API (pointer authentication), ATA (MTE),
    // EnSCXT, FIEN, AMVOFFEN, NV. Left 0 as not wanted: TVM and TRVM (on only while a guest cleans by
    // set/way), TTLB, TPU, TPCP, TDZ (the guest's own business), HCD (HVC is the guest's firmware
    // call), DC, CD, ID (attributes are the guest's), TEA (the guest takes its own aborts), VI, VF and
    // VSE (lines, driven where they are needed).
    if trap_wait {
        hcr.modify(HCR_EL2::TWI::SET + HCR_EL2::TWE::SET);
    }
    if watch_caches {
        hcr.modify(HCR_EL2::TVM::SET);
    }
    hcr.get()
}

/// `HCR_EL2.TVM`: trap writes to the EL1 virtual memory registers.
pub const HCR_TVM: u64 = 1 << 26;

/// Give every control register of EL2 that is unknown at reset its value, on this CPU.
pub fn init() {
    HCR_EL2.set(hcr_idle());
    // Debug and performance registers trap (they are emulated, or undefined), debug exceptions stay
    // with the guest (TDE = 0), no counter is reserved for EL2 (HPMN = N), no profiling buffer (E2PB)
    // and no trace buffer (E2TB) below EL2.
    let counters = if ID_AA64DFR0_EL1.read(ID_AA64DFR0_EL1::PMUVer) == 0 {
        0
    } else {
        PMCR_EL0.get() >> 11 & 0x1f
    };
    MDCR_EL2.write(
        MDCR_EL2::TPM::SET
            + MDCR_EL2::TPMCR::SET
            + MDCR_EL2::TDA::SET
            + MDCR_EL2::TDOSA::SET
            + MDCR_EL2::TDRA::SET
            + MDCR_EL2::TPMS::SET
            + MDCR_EL2::TTRF::SET
            + MDCR_EL2::HPMN.val(counters),
    );
    HSTR_EL2.set(0); // AArch32 at EL1 is not offered: nothing to trap
    HACR_EL2.set(0);
    // IMPLEMENTATION DEFINED; on Arm's CPUs each bit hands a register of theirs to EL1.
    ACTLR_EL2.set(0);
    AMAIR_EL2.set(0);
    // Physical counter and timer of EL1 trap (EL1PCTEN, EL1PCEN = 0): they are emulated on virtual
    // time. No event stream for EL2.
    CNTHCTL_EL2.set(0);
    CNTVOFF_EL2.set(0);
    CNTHP_CTL_EL2.set(0);
    CNTP_CTL_EL0.set(0);
    VPIDR_EL2.set(MIDR_EL1.get());
    VMPIDR_EL2.set(1 << 31);
    VTTBR_EL2.set(0);
    init_extensions();
    barrier::isb(barrier::SY);
}

/// The control registers that exist only with an extension.
fn init_extensions() {
    let hcx = ID_AA64MMFR1_EL1.get() >> 40 & 0xf;
    if hcx != 0 {
        HCRX_EL2.set(0);
    }
    let fgt = ID_AA64MMFR0_EL1.get() >> 56 & 0xf;
    if fgt != 0 {
        // 0 traps nothing that has its own control, and traps the registers whose bit is negative
        // (nTPIDR2_EL0, nGCS_EL1, nPIR_EL1 …): state that is not saved.
        HFGRTR_EL2.set(0);
        HFGWTR_EL2.set(0);
        HFGITR_EL2.set(0);
        HDFGRTR_EL2.set(0);
        HDFGWTR_EL2.set(0);
        if ID_AA64PFR0_EL1.get() >> 44 & 0xf != 0 {
            HAFGRTR_EL2.set(0);
        }
    }
    if ID_AA64PFR0_EL1.get() >> 28 & 0xf != 0 {
        VSESR_EL2.set(0);
    }
    let mpam = (ID_AA64PFR0_EL1.get() >> 40 & 0xf) | (ID_AA64PFR1_EL1.get() >> 16 & 0xf);
    if mpam != 0 {
        // TIDR, TRAPMPAM0EL1, TRAPMPAM1EL1: no guest chooses a partition.
        MPAM2_EL2.set(1 << 58 | 1 << 49 | 1 << 48);
    }
    if ID_AA64DFR0_EL1.get() >> 40 & 0xf != 0 {
        TRFCR_EL2.set(0);
    }
    if ID_AA64DFR0_EL1.get() >> 32 & 0xf != 0 {
        PMSCR_EL2.set(0);
    }
    if ID_AA64MMFR0_EL1.get() >> 60 & 0xf >= 2 {
        CNTPOFF_EL2.set(0);
    }
    if ID_AA64PFR0_EL1.get() >> 56 & 0xf >= 2 {
        SCXTNUM_EL2.set(0);
    }
    // Not written: ZCR_EL2 and SMCR_EL2, as CPTR_EL2 keeps SVE and SME from everybody, EL2 included.
}
