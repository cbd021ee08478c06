//! What this CPU's ID registers say, for [`IdRegs`].

use alloc::vec::Vec;
use core::arch::asm;

use spin::mutex::TicketMutex;

use crate::machine::CpuId;
use crate::memory::PaRange;
use crate::vm::idregs::{CpuIds, IdFacts, IdRegs};
use crate::vm::sysreg::{SysReg, names};

/// Those of each CPU that runs, in the order in which they came.
static CPUS: TicketMutex<Vec<CpuIds>> = TicketMutex::new(Vec::new());

/// Note those of this CPU, before guests are built.
pub fn note(cpu: CpuId) {
    let ids = CpuIds::read(cpu, raw);
    CPUS.lock().push(ids);
}

/// The ID registers of a guest, when all CPUs have come that will. Where they differ, the log says so.
pub fn for_guests(facts: &IdFacts) -> IdRegs {
    let (shown, less) = IdRegs::common(facts, &CPUS.lock());
    for less in less {
        log::warn!("{less}");
    }
    shown
}

/// How many physical address bits all of them have.
pub fn pa_range() -> PaRange {
    let least = CPUS.lock().iter().map(CpuIds::pa_range).min();
    least.unwrap_or(PaRange::Bits32)
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
