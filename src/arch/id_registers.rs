//! What this CPU's ID registers say, for [`IdRegs`].

use core::arch::asm;

use crate::vm::idregs::{IdFacts, IdRegs};
use crate::vm::sysreg::{SysReg, names};

/// The ID registers of a guest on this CPU.
pub fn for_guests(facts: &IdFacts) -> IdRegs {
    IdRegs::new(facts, raw)
}

/// What this CPU has in `reg`; 0 for one that guests learn nothing of.
pub fn raw(reg: SysReg) -> u64 {
    macro_rules! read {
        ($($name:ident)*) => {
            match reg {
                $(names::$name => {
                    let value: u64;
                    // SAFETY: reading an ID register has no effect. (Those the CPU does not know read
                    // as zero: Arm ARM, "ID registers".)
                    unsafe {
                        asm!(concat!("mrs {}, ", id!($name)), out(reg) value, options(nomem, nostack));
                    }
                    value
                })*
                _ => 0,
            }
        };
    }
    macro_rules! id {
        (ID_AA64PFR0_EL1) => {
            "S3_0_C0_C4_0"
        };
        (ID_AA64PFR1_EL1) => {
            "S3_0_C0_C4_1"
        };
        (ID_AA64DFR0_EL1) => {
            "S3_0_C0_C5_0"
        };
        (ID_AA64ISAR0_EL1) => {
            "S3_0_C0_C6_0"
        };
        (ID_AA64ISAR1_EL1) => {
            "S3_0_C0_C6_1"
        };
        (ID_AA64ISAR2_EL1) => {
            "S3_0_C0_C6_2"
        };
        (ID_AA64MMFR0_EL1) => {
            "S3_0_C0_C7_0"
        };
        (ID_AA64MMFR1_EL1) => {
            "S3_0_C0_C7_1"
        };
        (ID_AA64MMFR2_EL1) => {
            "S3_0_C0_C7_2"
        };
    }
    read! {
        ID_AA64PFR0_EL1 ID_AA64PFR1_EL1 ID_AA64DFR0_EL1 ID_AA64ISAR0_EL1 ID_AA64ISAR1_EL1
        ID_AA64ISAR2_EL1 ID_AA64MMFR0_EL1 ID_AA64MMFR1_EL1 ID_AA64MMFR2_EL1
    }
}
