//! System registers that `aarch64-cpu` does not have. Unlike that crate's, these accesses are not
//! `nomem`: the compiler keeps them in order with memory accesses.

use core::arch::asm;

macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = $encoding:literal;)*) => {
        $(
            $(#[$doc])*
            #[allow(non_camel_case_types, reason = "the manual's names")]
            pub struct $name;

            #[allow(dead_code, reason = "one macro defines both directions of every register")]
            impl $name {
                /// Read the register.
                #[inline(always)]
                pub fn get(&self) -> u64 {
                    let value: u64;
                    // SAFETY: a read of this register of EL2 or below changes no memory that Rust
                    // knows of.
                    unsafe { asm!(concat!("mrs {}, ", $encoding), out(reg) value, options(nostack)) };
                    value
                }

                /// Write the register. It takes effect at the next context synchronisation event.
                #[inline(always)]
                pub fn set(&self, value: u64) {
                    // SAFETY: the registers defined here control guests, interrupts and timers; none
                    // changes how EL2's own memory is translated.
                    unsafe { asm!(concat!("msr ", $encoding, ", {}"), in(reg) value, options(nostack)) };
                }
            }
        )*
    };
}

registers! {
    /// Interrupt Status Register.
    ISR_EL1 = "S3_0_C12_C1_0";
    /// CPU Auxiliary Control Register, EL1, of the Cortex-A57 and A72.
    CPUACTLR_EL1 = "S3_1_C15_C2_0";
    /// Cache Type Register.
    CTR_EL0 = "S3_3_C0_C0_1";
    /// Virtualization Processor ID Register: what a guest reads from `MIDR_EL1`.
    VPIDR_EL2 = "S3_4_C0_C0_0";
    /// Hypervisor Auxiliary Control Register.
    HACR_EL2 = "S3_4_C1_C1_7";
    /// Auxiliary Control Register (EL2).
    ACTLR_EL2 = "S3_4_C1_C0_1";
    /// Counter-timer Physical Offset Register (FEAT_ECV_POFF).
    CNTPOFF_EL2 = "S3_4_C14_C0_6";
    /// Statistical Profiling Control Register (EL2) (FEAT_SPE).
    PMSCR_EL2 = "S3_4_C9_C9_0";
    /// EL2 Read/Write Software Context Number (FEAT_CSV2_2).
    SCXTNUM_EL2 = "S3_4_C13_C0_7";
    /// Hypervisor System Trap Register.
    HSTR_EL2 = "S3_4_C1_C1_3";
    /// Architectural Feature Trap Register (EL2).
    CPTR_EL2 = "S3_4_C1_C1_2";
    /// Auxiliary Memory Attribute Indirection Register (EL2).
    AMAIR_EL2 = "S3_4_C10_C3_0";
    /// Counter-timer Hypervisor Physical Timer CompareValue.
    CNTHP_CVAL_EL2 = "S3_4_C14_C2_2";
    /// Counter-timer Hypervisor Physical Timer Control.
    CNTHP_CTL_EL2 = "S3_4_C14_C2_1";
    /// Counter-timer Physical Timer CompareValue. Guests' accesses trap: the timer is the hypervisor's.
    CNTP_CVAL_EL0 = "S3_3_C14_C2_2";
    /// Counter-timer Physical Timer Control.
    CNTP_CTL_EL0 = "S3_3_C14_C2_1";
    /// Performance Monitors Control Register: `N`, the number of counters, goes into `MDCR_EL2.HPMN`.
    PMCR_EL0 = "S3_3_C9_C12_0";
    /// Extended Hypervisor Configuration Register (FEAT_HCX).
    HCRX_EL2 = "S3_4_C1_C2_2";
    /// Hypervisor Fine-Grained Read Trap Register (FEAT_FGT).
    HFGRTR_EL2 = "S3_4_C1_C1_4";
    /// Hypervisor Fine-Grained Write Trap Register (FEAT_FGT).
    HFGWTR_EL2 = "S3_4_C1_C1_5";
    /// Hypervisor Fine-Grained Instruction Trap Register (FEAT_FGT).
    HFGITR_EL2 = "S3_4_C1_C1_6";
    /// Hypervisor Debug Fine-Grained Read Trap Register (FEAT_FGT).
    HDFGRTR_EL2 = "S3_4_C3_C1_4";
    /// Hypervisor Debug Fine-Grained Write Trap Register (FEAT_FGT).
    HDFGWTR_EL2 = "S3_4_C3_C1_5";
    /// Hypervisor Activity Monitors Fine-Grained Read Trap Register (FEAT_FGT and FEAT_AMU).
    HAFGRTR_EL2 = "S3_4_C3_C1_6";
    /// MPAM Hypervisor Control Register.
    MPAM2_EL2 = "S3_4_C10_C5_0";
    /// Virtual deferred SError status (FEAT_RAS): the syndrome of a virtual SError.
    VSESR_EL2 = "S3_4_C5_C2_3";
    /// Trace Filter Control Register (EL2) (FEAT_TRF).
    TRFCR_EL2 = "S3_4_C1_C2_1";

    /// Interrupt Controller Interrupt Acknowledge Register 1. Reading it makes the interrupt active.
    ICC_IAR1_EL1 = "S3_0_C12_C12_0";
    /// Interrupt Controller End Of Interrupt Register 1: priority drop, with `EOImode` = 1.
    ICC_EOIR1_EL1 = "S3_0_C12_C12_1";
    /// Interrupt Controller Deactivate Interrupt Register.
    ICC_DIR_EL1 = "S3_0_C12_C11_1";
    /// Interrupt Controller Interrupt Priority Mask Register.
    ICC_PMR_EL1 = "S3_0_C4_C6_0";
    /// Interrupt Controller Binary Point Register 1.
    ICC_BPR1_EL1 = "S3_0_C12_C12_3";
    /// Interrupt Controller Control Register (EL1).
    ICC_CTLR_EL1 = "S3_0_C12_C12_4";
    /// Interrupt Controller Binary Point Register 0.
    ICC_BPR0_EL1 = "S3_0_C12_C8_3";
    /// Interrupt Controller Interrupt Group 0 Enable Register.
    ICC_IGRPEN0_EL1 = "S3_0_C12_C12_6";
    /// Interrupt Controller Interrupt Group 1 Enable Register.
    ICC_IGRPEN1_EL1 = "S3_0_C12_C12_7";
    /// Interrupt Controller Software Generated Interrupt Group 1 Register.
    ICC_SGI1R_EL1 = "S3_0_C12_C11_5";
    /// Interrupt Controller System Register Enable Register (EL1).
    ICC_SRE_EL1 = "S3_0_C12_C12_5";
    /// Interrupt Controller System Register Enable Register (EL2).
    ICC_SRE_EL2 = "S3_4_C12_C9_5";
    /// Interrupt Controller Hyp Control Register.
    ICH_HCR_EL2 = "S3_4_C12_C11_0";
    /// Interrupt Controller VGIC Type Register.
    ICH_VTR_EL2 = "S3_4_C12_C11_1";
    /// Interrupt Controller End of Interrupt Status Register.
    ICH_EISR_EL2 = "S3_4_C12_C11_3";
    /// Interrupt Controller Empty List Register Status Register.
    ICH_ELRSR_EL2 = "S3_4_C12_C11_5";
    /// Interrupt Controller Virtual Machine Control Register.
    ICH_VMCR_EL2 = "S3_4_C12_C11_7";
}

/// An access to one of sixteen registers that differ in their last encoding fields only.
macro_rules! indexed {
    ($(#[$doc:meta])* $read:ident, $write:ident: $($index:literal => $encoding:literal),* $(,)?) => {
        $(#[$doc])*
        #[inline]
        pub fn $read(index: usize) -> u64 {
            let value: u64;
            match index {
                // SAFETY: as for the registers above; the caller keeps to the indexes the CPU has.
                $($index => unsafe {
                    asm!(concat!("mrs {}, ", $encoding), out(reg) value, options(nostack));
                },)*
                _ => value = 0,
            }
            value
        }

        $(#[$doc])*
        #[inline]
        pub fn $write(index: usize, value: u64) {
            match index {
                // SAFETY: as for the registers above; the caller keeps to the indexes the CPU has.
                $($index => unsafe {
                    asm!(concat!("msr ", $encoding, ", {}"), in(reg) value, options(nostack));
                },)*
                _ => {}
            }
        }
    };
}

indexed! {
    /// Interrupt Controller List Registers, `ICH_LR<n>_EL2`.
    read_ich_lr, write_ich_lr:
    0 => "S3_4_C12_C12_0", 1 => "S3_4_C12_C12_1", 2 => "S3_4_C12_C12_2", 3 => "S3_4_C12_C12_3",
    4 => "S3_4_C12_C12_4", 5 => "S3_4_C12_C12_5", 6 => "S3_4_C12_C12_6", 7 => "S3_4_C12_C12_7",
    8 => "S3_4_C12_C13_0", 9 => "S3_4_C12_C13_1", 10 => "S3_4_C12_C13_2", 11 => "S3_4_C12_C13_3",
    12 => "S3_4_C12_C13_4", 13 => "S3_4_C12_C13_5", 14 => "S3_4_C12_C13_6", 15 => "S3_4_C12_C13_7",
}

indexed! {
    /// Interrupt Controller Active Priorities Group 0 Registers, `ICC_AP0R<n>_EL1`.
    read_icc_ap0r, write_icc_ap0r:
    0 => "S3_0_C12_C8_4", 1 => "S3_0_C12_C8_5", 2 => "S3_0_C12_C8_6", 3 => "S3_0_C12_C8_7",
}

indexed! {
    /// Interrupt Controller Active Priorities Group 1 Registers, `ICC_AP1R<n>_EL1`.
    read_icc_ap1r, write_icc_ap1r:
    0 => "S3_0_C12_C9_0", 1 => "S3_0_C12_C9_1", 2 => "S3_0_C12_C9_2", 3 => "S3_0_C12_C9_3",
}

indexed! {
    /// Interrupt Controller Hyp Active Priorities Group 0 Registers, `ICH_AP0R<n>_EL2`.
    read_ich_ap0r, write_ich_ap0r:
    0 => "S3_4_C12_C8_0", 1 => "S3_4_C12_C8_1", 2 => "S3_4_C12_C8_2", 3 => "S3_4_C12_C8_3",
}

indexed! {
    /// Interrupt Controller Hyp Active Priorities Group 1 Registers, `ICH_AP1R<n>_EL2`.
    read_ich_ap1r, write_ich_ap1r:
    0 => "S3_4_C12_C9_0", 1 => "S3_4_C12_C9_1", 2 => "S3_4_C12_C9_2", 3 => "S3_4_C12_C9_3",
}

indexed! {
    /// Debug Breakpoint Value Registers, `DBGBVR<n>_EL1`.
    read_dbgbvr, write_dbgbvr:
    0 => "S2_0_C0_C0_4", 1 => "S2_0_C0_C1_4", 2 => "S2_0_C0_C2_4", 3 => "S2_0_C0_C3_4",
    4 => "S2_0_C0_C4_4", 5 => "S2_0_C0_C5_4", 6 => "S2_0_C0_C6_4", 7 => "S2_0_C0_C7_4",
    8 => "S2_0_C0_C8_4", 9 => "S2_0_C0_C9_4", 10 => "S2_0_C0_C10_4", 11 => "S2_0_C0_C11_4",
    12 => "S2_0_C0_C12_4", 13 => "S2_0_C0_C13_4", 14 => "S2_0_C0_C14_4", 15 => "S2_0_C0_C15_4",
}

indexed! {
    /// Debug Breakpoint Control Registers, `DBGBCR<n>_EL1`.
    read_dbgbcr, write_dbgbcr:
    0 => "S2_0_C0_C0_5", 1 => "S2_0_C0_C1_5", 2 => "S2_0_C0_C2_5", 3 => "S2_0_C0_C3_5",
    4 => "S2_0_C0_C4_5", 5 => "S2_0_C0_C5_5", 6 => "S2_0_C0_C6_5", 7 => "S2_0_C0_C7_5",
    8 => "S2_0_C0_C8_5", 9 => "S2_0_C0_C9_5", 10 => "S2_0_C0_C10_5", 11 => "S2_0_C0_C11_5",
    12 => "S2_0_C0_C12_5", 13 => "S2_0_C0_C13_5", 14 => "S2_0_C0_C14_5", 15 => "S2_0_C0_C15_5",
}

indexed! {
    /// Debug Watchpoint Value Registers, `DBGWVR<n>_EL1`.
    read_dbgwvr, write_dbgwvr:
    0 => "S2_0_C0_C0_6", 1 => "S2_0_C0_C1_6", 2 => "S2_0_C0_C2_6", 3 => "S2_0_C0_C3_6",
    4 => "S2_0_C0_C4_6", 5 => "S2_0_C0_C5_6", 6 => "S2_0_C0_C6_6", 7 => "S2_0_C0_C7_6",
    8 => "S2_0_C0_C8_6", 9 => "S2_0_C0_C9_6", 10 => "S2_0_C0_C10_6", 11 => "S2_0_C0_C11_6",
    12 => "S2_0_C0_C12_6", 13 => "S2_0_C0_C13_6", 14 => "S2_0_C0_C14_6", 15 => "S2_0_C0_C15_6",
}

indexed! {
    /// Debug Watchpoint Control Registers, `DBGWCR<n>_EL1`.
    read_dbgwcr, write_dbgwcr:
    0 => "S2_0_C0_C0_7", 1 => "S2_0_C0_C1_7", 2 => "S2_0_C0_C2_7", 3 => "S2_0_C0_C3_7",
    4 => "S2_0_C0_C4_7", 5 => "S2_0_C0_C5_7", 6 => "S2_0_C0_C6_7", 7 => "S2_0_C0_C7_7",
    8 => "S2_0_C0_C8_7", 9 => "S2_0_C0_C9_7", 10 => "S2_0_C0_C10_7", 11 => "S2_0_C0_C11_7",
    12 => "S2_0_C0_C12_7", 13 => "S2_0_C0_C13_7", 14 => "S2_0_C0_C14_7", 15 => "S2_0_C0_C15_7",
}
