//! System registers by their encoding, and what a guest's trapped access to one does.
//!
//! A [`SysReg`] is the `op0, op1, CRn, CRm, op2` of an `MRS`, `MSR` or `SYS` instruction (Arm ARM DDI 0487,
//! "System register encodings"). [`names`] knows those this hypervisor has something to say about;
//! [`trap::decide`] answers an access without touching any state, and the run loop performs the answer.

use core::fmt;

pub mod names;
pub mod trap;

pub use trap::{Access, Action, Direction, GuestLevel, TrapFacts, decide};

/// The encoding of a system register or system instruction, packed as in the instruction word:
/// `op0[15:14] op1[13:11] CRn[10:7] CRm[6:3] op2[2:0]`.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SysReg(u16);

impl SysReg {
    /// The register with these fields; bits too wide for a field are dropped.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(
            (op0 as u16 & 3) << 14
                | (op1 as u16 & 7) << 11
                | (crn as u16 & 15) << 7
                | (crm as u16 & 15) << 3
                | (op2 as u16 & 7),
        )
    }

    /// The register with the packed encoding `bits`.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The packed encoding.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// `op0`: 1 system instruction, 2 debug and trace, 3 all other registers.
    #[allow(clippy::cast_possible_truncation)] // masked to the field's width
    pub const fn op0(self) -> u8 {
        (self.0 >> 14) as u8
    }

    /// `op1`: 0 an EL1 register, 3 one that EL0 may be given, 4 and up those of higher levels.
    #[allow(clippy::cast_possible_truncation)] // masked to the field's width
    pub const fn op1(self) -> u8 {
        (self.0 >> 11) as u8 & 7
    }

    /// `CRn`.
    #[allow(clippy::cast_possible_truncation)] // masked to the field's width
    pub const fn crn(self) -> u8 {
        (self.0 >> 7) as u8 & 15
    }

    /// `CRm`.
    #[allow(clippy::cast_possible_truncation)] // masked to the field's width
    pub const fn crm(self) -> u8 {
        (self.0 >> 3) as u8 & 15
    }

    /// `op2`.
    #[allow(clippy::cast_possible_truncation)] // masked to the field's width
    pub const fn op2(self) -> u8 {
        self.0 as u8 & 7
    }

    /// The register, the direction and the general register `Rt` (31: `XZR`) of a trapped access: the
    /// fields `Op0[21:20] Op2[19:17] Op1[16:14] CRn[13:10] Rt[9:5] CRm[4:1] Direction[0]`.
    ///
    /// (Arm ARM, "ISS encoding for an exception from MSR, MRS, or System instruction execution in
    /// AArch64 state".)
    #[allow(clippy::cast_possible_truncation)] // each field is masked to its width
    #[inline]
    pub const fn from_iss(iss: u32) -> (Self, Direction, u8) {
        let reg = Self::new(
            (iss >> 20) as u8 & 3,
            (iss >> 14) as u8 & 7,
            (iss >> 10) as u8 & 15,
            (iss >> 1) as u8 & 15,
            (iss >> 17) as u8 & 7,
        );
        let direction = if iss & 1 == 1 { Direction::Read } else { Direction::Write };
        (reg, direction, (iss >> 5) as u8 & 31)
    }

    /// Whether a name is known, and which: numbered debug registers are named by [`fmt::Display`] alone.
    pub fn name(self) -> Option<&'static str> {
        names::TABLE.iter().find(|(reg, _)| *reg == self).map(|(_, name)| *name)
    }
}

impl fmt::Debug for SysReg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (op0, op1, crn, crm, op2) =
            (self.op0(), self.op1(), self.crn(), self.crm(), self.op2());
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

impl fmt::Display for SysReg {
    /// The generic name of the assembler and, where known, the manual's: `S3_0_C1_C0_1 ACTLR_EL1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)?;
        if let Some(name) = self.name() {
            return write!(f, " {name}");
        }
        match names::numbered(*self) {
            Some((name, n)) => write!(f, " {name}{n}_EL1"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_survives_packing_and_the_syndrome() {
        for bits in (0..=u16::MAX).step_by(crate::testing::pick(1, 251)) {
            let reg = SysReg::from_bits(bits);
            let (op0, op1, crn, crm, op2) = (reg.op0(), reg.op1(), reg.crn(), reg.crm(), reg.op2());
            assert_eq!(SysReg::new(op0, op1, crn, crm, op2), reg);
            let iss = u32::from(op0) << 20
                | u32::from(op2) << 17
                | u32::from(op1) << 14
                | u32::from(crn) << 10
                | 17 << 5
                | u32::from(crm) << 1;
            assert_eq!(SysReg::from_iss(iss), (reg, Direction::Write, 17));
            assert_eq!(SysReg::from_iss(iss | 1), (reg, Direction::Read, 17));
        }
    }

    /// `mrs x3, actlr_el1` assembles to 0xd538_1023: op0 3, op1 0, CRn 1, CRm 0, op2 1.
    #[test]
    fn the_syndrome_of_an_actlr_read_names_actlr() {
        let iss = 3 << 20 | 1 << 17 | 1 << 10 | 3 << 5 | 1;
        let (reg, direction, rt) = SysReg::from_iss(iss);
        assert_eq!((reg, direction, rt), (names::ACTLR_EL1, Direction::Read, 3));
    }

    #[test]
    fn a_register_prints_as_the_assembler_and_the_manual_name_it() {
        extern crate std;
        use std::format;
        assert_eq!(format!("{}", names::ACTLR_EL1), "S3_0_C1_C0_1 ACTLR_EL1");
        assert_eq!(format!("{}", SysReg::new(2, 0, 0, 15, 7)), "S2_0_C0_C15_7 DBGWCR15_EL1");
        assert_eq!(format!("{}", SysReg::new(3, 0, 15, 2, 1)), "S3_0_C15_C2_1");
    }
}
