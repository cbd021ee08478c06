//! The system registers a guest's access to which may trap, by name (Arm ARM, title in each line).
//!
//! `DBGDTRXX_EL0` is this file's own name for the one encoding that is `DBGDTRRX_EL0` when read and
//! `DBGDTRTX_EL0` when written.

use super::SysReg;

macro_rules! registers {
    ($($name:ident = ($op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal), $title:literal;)*) => {
        $(
            #[doc = concat!("\"", $title, "\".")]
            pub const $name: SysReg = SysReg::new($op0, $op1, $crn, $crm, $op2);
        )*

        /// Every register of this file with its name.
        pub const TABLE: &[(SysReg, &str)] = &[$(($name, stringify!($name))),*];
    };
}

registers! {
    REVIDR_EL1 = (3, 0, 0, 0, 6), "Revision ID Register";
    ID_PFR0_EL1 = (3, 0, 0, 1, 0), "AArch32 Processor Feature Register 0";
    ID_PFR1_EL1 = (3, 0, 0, 1, 1), "AArch32 Processor Feature Register 1";
    ID_DFR0_EL1 = (3, 0, 0, 1, 2), "AArch32 Debug Feature Register 0";
    ID_AFR0_EL1 = (3, 0, 0, 1, 3), "AArch32 Auxiliary Feature Register 0";
    ID_MMFR0_EL1 = (3, 0, 0, 1, 4), "AArch32 Memory Model Feature Register 0";
    ID_MMFR1_EL1 = (3, 0, 0, 1, 5), "AArch32 Memory Model Feature Register 1";
    ID_MMFR2_EL1 = (3, 0, 0, 1, 6), "AArch32 Memory Model Feature Register 2";
    ID_MMFR3_EL1 = (3, 0, 0, 1, 7), "AArch32 Memory Model Feature Register 3";
    ID_ISAR0_EL1 = (3, 0, 0, 2, 0), "AArch32 Instruction Set Attribute Register 0";
    ID_ISAR1_EL1 = (3, 0, 0, 2, 1), "AArch32 Instruction Set Attribute Register 1";
    ID_ISAR2_EL1 = (3, 0, 0, 2, 2), "AArch32 Instruction Set Attribute Register 2";
    ID_ISAR3_EL1 = (3, 0, 0, 2, 3), "AArch32 Instruction Set Attribute Register 3";
    ID_ISAR4_EL1 = (3, 0, 0, 2, 4), "AArch32 Instruction Set Attribute Register 4";
    ID_ISAR5_EL1 = (3, 0, 0, 2, 5), "AArch32 Instruction Set Attribute Register 5";
    ID_MMFR4_EL1 = (3, 0, 0, 2, 6), "AArch32 Memory Model Feature Register 4";
    ID_ISAR6_EL1 = (3, 0, 0, 2, 7), "AArch32 Instruction Set Attribute Register 6";
    MVFR0_EL1 = (3, 0, 0, 3, 0), "AArch32 Media and VFP Feature Register 0";
    MVFR1_EL1 = (3, 0, 0, 3, 1), "AArch32 Media and VFP Feature Register 1";
    MVFR2_EL1 = (3, 0, 0, 3, 2), "AArch32 Media and VFP Feature Register 2";
    ID_PFR2_EL1 = (3, 0, 0, 3, 4), "AArch32 Processor Feature Register 2";
    ID_DFR1_EL1 = (3, 0, 0, 3, 5), "Debug Feature Register 1";
    ID_MMFR5_EL1 = (3, 0, 0, 3, 6), "AArch32 Memory Model Feature Register 5";
    ID_AA64PFR0_EL1 = (3, 0, 0, 4, 0), "AArch64 Processor Feature Register 0";
    ID_AA64PFR1_EL1 = (3, 0, 0, 4, 1), "AArch64 Processor Feature Register 1";
    ID_AA64PFR2_EL1 = (3, 0, 0, 4, 2), "AArch64 Processor Feature Register 2";
    ID_AA64ZFR0_EL1 = (3, 0, 0, 4, 4), "SVE Feature ID Register 0";
    ID_AA64SMFR0_EL1 = (3, 0, 0, 4, 5), "SME Feature ID Register 0";
    ID_AA64FPFR0_EL1 = (3, 0, 0, 4, 7), "Floating-point Feature Register 0";
    ID_AA64DFR0_EL1 = (3, 0, 0, 5, 0), "AArch64 Debug Feature Register 0";
    ID_AA64DFR1_EL1 = (3, 0, 0, 5, 1), "AArch64 Debug Feature Register 1";
    ID_AA64DFR2_EL1 = (3, 0, 0, 5, 2), "AArch64 Debug Feature Register 2";
    ID_AA64AFR0_EL1 = (3, 0, 0, 5, 4), "AArch64 Auxiliary Feature Register 0";
    ID_AA64AFR1_EL1 = (3, 0, 0, 5, 5), "AArch64 Auxiliary Feature Register 1";
    ID_AA64ISAR0_EL1 = (3, 0, 0, 6, 0), "AArch64 Instruction Set Attribute Register 0";
    ID_AA64ISAR1_EL1 = (3, 0, 0, 6, 1), "AArch64 Instruction Set Attribute Register 1";
    ID_AA64ISAR2_EL1 = (3, 0, 0, 6, 2), "AArch64 Instruction Set Attribute Register 2";
    ID_AA64ISAR3_EL1 = (3, 0, 0, 6, 3), "AArch64 Instruction Set Attribute Register 3";
    ID_AA64MMFR0_EL1 = (3, 0, 0, 7, 0), "AArch64 Memory Model Feature Register 0";
    ID_AA64MMFR1_EL1 = (3, 0, 0, 7, 1), "AArch64 Memory Model Feature Register 1";
    ID_AA64MMFR2_EL1 = (3, 0, 0, 7, 2), "AArch64 Memory Model Feature Register 2";
    ID_AA64MMFR3_EL1 = (3, 0, 0, 7, 3), "AArch64 Memory Model Feature Register 3";
    ID_AA64MMFR4_EL1 = (3, 0, 0, 7, 4), "AArch64 Memory Model Feature Register 4";
    AIDR_EL1 = (3, 1, 0, 0, 7), "Auxiliary ID Register";
    ACTLR_EL1 = (3, 0, 1, 0, 1), "Auxiliary Control Register (EL1)";
    SCTLR_EL1 = (3, 0, 1, 0, 0), "System Control Register (EL1)";
    TTBR0_EL1 = (3, 0, 2, 0, 0), "Translation Table Base Register 0 (EL1)";
    TTBR1_EL1 = (3, 0, 2, 0, 1), "Translation Table Base Register 1 (EL1)";
    TCR_EL1 = (3, 0, 2, 0, 2), "Translation Control Register (EL1)";
    AFSR0_EL1 = (3, 0, 5, 1, 0), "Auxiliary Fault Status Register 0 (EL1)";
    AFSR1_EL1 = (3, 0, 5, 1, 1), "Auxiliary Fault Status Register 1 (EL1)";
    ESR_EL1 = (3, 0, 5, 2, 0), "Exception Syndrome Register (EL1)";
    FAR_EL1 = (3, 0, 6, 0, 0), "Fault Address Register (EL1)";
    MAIR_EL1 = (3, 0, 10, 2, 0), "Memory Attribute Indirection Register (EL1)";
    AMAIR_EL1 = (3, 0, 10, 3, 0), "Auxiliary Memory Attribute Indirection Register (EL1)";
    CONTEXTIDR_EL1 = (3, 0, 13, 0, 1), "Context ID Register (EL1)";
    ICC_SGI1R_EL1 = (3, 0, 12, 11, 5), "Interrupt Controller Software Generated Interrupt Group 1 Register";
    ICC_ASGI1R_EL1 = (3, 0, 12, 11, 6), "Interrupt Controller Alias Software Generated Interrupt Group 1 Register";
    ICC_SGI0R_EL1 = (3, 0, 12, 11, 7), "Interrupt Controller Software Generated Interrupt Group 0 Register";
    ICC_SRE_EL1 = (3, 0, 12, 12, 5), "Interrupt Controller System Register Enable Register (EL1)";
    CNTPCT_EL0 = (3, 3, 14, 0, 1), "Counter-timer Physical Count Register";
    CNTP_TVAL_EL0 = (3, 3, 14, 2, 0), "Counter-timer Physical Timer TimerValue Register";
    CNTP_CTL_EL0 = (3, 3, 14, 2, 1), "Counter-timer Physical Timer Control Register";
    CNTP_CVAL_EL0 = (3, 3, 14, 2, 2), "Counter-timer Physical Timer CompareValue Register";
    DC_ISW = (1, 0, 7, 6, 2), "Data or unified Cache line Invalidate by Set/Way";
    DC_CSW = (1, 0, 7, 10, 2), "Data or unified Cache line Clean by Set/Way";
    DC_CISW = (1, 0, 7, 14, 2), "Data or unified Cache line Clean and Invalidate by Set/Way";
    OSDTRRX_EL1 = (2, 0, 0, 0, 2), "OS Lock Data Transfer Register, Receive";
    MDCCINT_EL1 = (2, 0, 0, 2, 0), "Monitor DCC Interrupt Enable Register";
    MDSCR_EL1 = (2, 0, 0, 2, 2), "Monitor Debug System Control Register";
    OSDTRTX_EL1 = (2, 0, 0, 3, 2), "OS Lock Data Transfer Register, Transmit";
    OSECCR_EL1 = (2, 0, 0, 6, 2), "OS Lock Exception Catch Control Register";
    MDRAR_EL1 = (2, 0, 1, 0, 0), "Monitor Debug ROM Address Register";
    OSLAR_EL1 = (2, 0, 1, 0, 4), "OS Lock Access Register";
    OSLSR_EL1 = (2, 0, 1, 1, 4), "OS Lock Status Register";
    OSDLR_EL1 = (2, 0, 1, 3, 4), "OS Double Lock Register";
    DBGPRCR_EL1 = (2, 0, 1, 4, 4), "Debug Power Control Register";
    DBGCLAIMSET_EL1 = (2, 0, 7, 8, 6), "Debug CLAIM Tag Set Register";
    DBGCLAIMCLR_EL1 = (2, 0, 7, 9, 6), "Debug CLAIM Tag Clear Register";
    DBGAUTHSTATUS_EL1 = (2, 0, 7, 14, 6), "Debug Authentication Status Register";
    MDCCSR_EL0 = (2, 3, 0, 1, 0), "Monitor DCC Status Register";
    DBGDTR_EL0 = (2, 3, 0, 4, 0), "Debug Data Transfer Register, half-duplex";
    DBGDTRXX_EL0 = (2, 3, 0, 5, 0), "Debug Data Transfer Register, Receive (read) and Transmit (write)";
}

/// The family and number of a breakpoint or watchpoint register: `DBGBVR<n>_EL1` (Arm ARM, "Debug
/// Breakpoint Value Registers" and the three alike).
pub const fn numbered(reg: SysReg) -> Option<(&'static str, u8)> {
    if reg.op0() != 2 || reg.op1() != 0 || reg.crn() != 0 {
        return None;
    }
    match reg.op2() {
        4 => Some(("DBGBVR", reg.crm())),
        5 => Some(("DBGBCR", reg.crm())),
        6 => Some(("DBGWVR", reg.crm())),
        7 => Some(("DBGWCR", reg.crm())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_encoding_has_two_names() {
        for (i, (reg, name)) in TABLE.iter().enumerate() {
            assert!(numbered(*reg).is_none(), "{name}");
            assert!(TABLE.iter().skip(i + 1).all(|(other, _)| other != reg), "{name}");
        }
    }
}
