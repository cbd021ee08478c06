//! The ID registers as a guest sees them (Arm ARM, "ID_AA64PFR0_EL1" to "ID_AA64MMFR4_EL1"), for
//! `HCR_EL2.TID3`.
//!
//! An allow-list: a field that is not in `FIELDS` reads 0, a field that is reads what this CPU has, up
//! to the value in the list. What needs state that the world switch does not move, or a trap that nothing
//! answers, is not in the list: SVE and SME (vector state), MTE (tag memory, `GCR_EL1`), PAuth (keys), RAS
//! (`ERR*` registers), AMU, MPAM, SPE, TRBE, trace, PMU, nested virtualisation, `SCXTNUM_EL1` (CSV2 2),
//! TCR2 and what came with it, 52-bit addresses (stage 2 is built for 48).
//! Not listed though stateless: `WFxT` (its timeout would need a timer when `WFET` traps), BTI (emulating an
//! instruction would have to clear `PSTATE.BTYPE`), TME, LS64, MOPS and XS (`HCRX_EL2` is not programmed).
//!
//! Where a machine has CPUs of several kinds, that is what the least of them has (`cpus`): a guest may run on any.
//!
//! AArch32 is not offered, so its ID registers read as zero. An encoding of the ID space that this file
//! does not know reads as zero too, as the architecture asks of unallocated ones.

mod cpus;

pub use cpus::{CpuIds, Less};

use super::sysreg::SysReg;
use super::sysreg::names::{
    ID_AA64DFR0_EL1, ID_AA64ISAR0_EL1, ID_AA64ISAR1_EL1, ID_AA64ISAR2_EL1, ID_AA64MMFR0_EL1,
    ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1, ID_AA64PFR0_EL1, ID_AA64PFR1_EL1,
};
use crate::exit::Gpr;

/// What a VM's ID registers depend on besides the CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IdFacts {
    /// The size of the guest's physical address space, in bits.
    pub ipa_bits: u8,
    /// Whether the guest has the GICv3 system registers.
    pub gicv3: bool,
}

/// How one 4-bit field is derived from this CPU's value.
#[derive(Clone, Copy)]
enum Rule {
    /// At most this much; an unsigned field.
    UpTo(u8),
    /// At most this much; a signed field, where 0xf says "not implemented".
    SignedUpTo(i8),
    /// This, whatever the CPU says.
    Exactly(u8),
    /// The CPU's value.
    Real,
    /// 1 if the CPU and the guest have the GICv3 system registers.
    Gic,
    /// The physical address size, limited to the guest's.
    PaRange,
}

use Rule::{Exactly, Gic, PaRange, Real, SignedUpTo, UpTo};

/// Register, lowest bit of the field, rule. The manual's field name and the reason in the comment.
const FIELDS: &[(SysReg, u8, Rule)] = &[
    // Exception levels: EL0 and EL1 in AArch64 alone. AArch32 at EL0 would bring its own traps
    // and ID registers; EL2 and EL3 are not the guest's.
    (ID_AA64PFR0_EL1, 0, Exactly(1)),     // EL0
    (ID_AA64PFR0_EL1, 4, Exactly(1)),     // EL1
    (ID_AA64PFR0_EL1, 16, SignedUpTo(1)), // FP: V registers, FPCR and FPSR are switched
    (ID_AA64PFR0_EL1, 20, SignedUpTo(1)), // AdvSIMD: as FP
    (ID_AA64PFR0_EL1, 24, Gic),           // GIC
    (ID_AA64PFR0_EL1, 48, UpTo(1)),       // DIT: PSTATE.DIT lives in SPSR
    (ID_AA64PFR0_EL1, 56, UpTo(1)),       // CSV2: what the CPU promises; 2 has SCXTNUM
    (ID_AA64PFR0_EL1, 60, UpTo(1)),       // CSV3: what the CPU promises
    (ID_AA64PFR1_EL1, 4, UpTo(2)),        // SSBS: in SPSR and SCTLR_EL1.DSSBS
    (ID_AA64PFR1_EL1, 32, UpTo(1)),       // CSV2_frac: 2 has SCXTNUM
    // Debug: version 6 is Armv8.0's. The double lock is not there: OSDLR_EL1 is RAZ/WI.
    (ID_AA64DFR0_EL1, 0, UpTo(6)),         // DebugVer
    (ID_AA64DFR0_EL1, 12, Real),           // BRPs: the registers are switched
    (ID_AA64DFR0_EL1, 20, Real),           // WRPs: as BRPs
    (ID_AA64DFR0_EL1, 28, Real),           // CTX_CMPs: as BRPs
    (ID_AA64DFR0_EL1, 36, SignedUpTo(-1)), // DoubleLock
    // Instructions on general and V registers: no state but what is switched anyway.
    (ID_AA64ISAR0_EL1, 4, UpTo(2)),  // AES, PMULL
    (ID_AA64ISAR0_EL1, 8, UpTo(1)),  // SHA1
    (ID_AA64ISAR0_EL1, 12, UpTo(2)), // SHA2: SHA256, SHA512
    (ID_AA64ISAR0_EL1, 16, UpTo(1)), // CRC32
    (ID_AA64ISAR0_EL1, 20, UpTo(2)), // Atomic: LSE; 3 is LSE128
    (ID_AA64ISAR0_EL1, 28, UpTo(1)), // RDM
    (ID_AA64ISAR0_EL1, 32, UpTo(1)), // SHA3
    (ID_AA64ISAR0_EL1, 36, UpTo(1)), // SM3
    (ID_AA64ISAR0_EL1, 40, UpTo(1)), // SM4
    (ID_AA64ISAR0_EL1, 44, UpTo(1)), // DP
    (ID_AA64ISAR0_EL1, 48, UpTo(1)), // FHM
    (ID_AA64ISAR0_EL1, 52, UpTo(2)), // TS: FlagM, FlagM2; the flags live in SPSR
    (ID_AA64ISAR0_EL1, 56, UpTo(2)), // TLB: outer shareable and range, within the VMID
    (ID_AA64ISAR0_EL1, 60, UpTo(1)), // RNDR: stateless
    (ID_AA64ISAR1_EL1, 0, UpTo(2)),  // DPB: DC CVAP, DC CVADP
    (ID_AA64ISAR1_EL1, 12, UpTo(1)), // JSCVT
    (ID_AA64ISAR1_EL1, 16, UpTo(1)), // FCMA
    (ID_AA64ISAR1_EL1, 20, UpTo(2)), // LRCPC
    (ID_AA64ISAR1_EL1, 32, UpTo(1)), // FRINTTS
    (ID_AA64ISAR1_EL1, 36, UpTo(1)), // SB
    (ID_AA64ISAR1_EL1, 44, UpTo(1)), // BF16: 2 adds FPCR.EBF
    (ID_AA64ISAR1_EL1, 48, UpTo(1)), // DGH: a hint
    (ID_AA64ISAR1_EL1, 52, UpTo(1)), // I8MM
    (ID_AA64ISAR2_EL1, 20, UpTo(1)), // BC: a branch with a hint
    (ID_AA64ISAR2_EL1, 28, UpTo(1)), // CLRBHB: a barrier
    (ID_AA64ISAR2_EL1, 52, UpTo(1)), // CSSC: integer instructions
    // Stage 1 is the guest's own: SCTLR, TCR and TTBR are switched whole. The stage-2 fields
    // (TGran*_2, VMIDBits, XNX, FWB, BBM, EVT, NV) and VH, FGT, ECV are EL2's.
    (ID_AA64MMFR0_EL1, 0, PaRange),        // PARange
    (ID_AA64MMFR0_EL1, 4, UpTo(2)),        // ASIDBits
    (ID_AA64MMFR0_EL1, 8, UpTo(1)),        // BigEnd
    (ID_AA64MMFR0_EL1, 16, UpTo(1)),       // BigEndEL0
    (ID_AA64MMFR0_EL1, 20, UpTo(1)),       // TGran16: 2 is LPA2
    (ID_AA64MMFR0_EL1, 24, SignedUpTo(0)), // TGran64
    (ID_AA64MMFR0_EL1, 28, SignedUpTo(0)), // TGran4: 1 is LPA2
    (ID_AA64MMFR1_EL1, 0, UpTo(2)),        // HAFDBS
    (ID_AA64MMFR1_EL1, 12, UpTo(2)),       // HPDS: in TCR_EL1
    (ID_AA64MMFR1_EL1, 20, UpTo(3)),       // PAN: in SPSR and SCTLR_EL1
    (ID_AA64MMFR1_EL1, 60, UpTo(1)),       // ECBHB: what the CPU promises
    (ID_AA64MMFR2_EL1, 0, UpTo(1)),        // CnP
    (ID_AA64MMFR2_EL1, 4, UpTo(1)),        // UAO: in SPSR
    (ID_AA64MMFR2_EL1, 20, UpTo(1)),       // CCIDX: the format of CCSIDR_EL1, read directly
    (ID_AA64MMFR2_EL1, 28, UpTo(1)),       // ST
    (ID_AA64MMFR2_EL1, 32, UpTo(1)),       // AT: LSE2
    (ID_AA64MMFR2_EL1, 48, UpTo(1)),       // TTL: a hint
    (ID_AA64MMFR2_EL1, 60, UpTo(1)),       // E0PD: in TCR_EL1
];

/// Whether `reg` lies in the ID space that `HCR_EL2.TID3` traps: `op0 3, op1 0, CRn 0, CRm 1 to 7`.
pub const fn is_id_register(reg: SysReg) -> bool {
    slot(reg).is_some()
}

/// Whether what a guest reads from `reg` depends on what this CPU has there; if not, the CPU need not
/// be asked.
pub fn wants_raw(reg: SysReg) -> bool {
    FIELDS.iter().any(|(of, _, _)| *of == reg)
}

/// What a guest reads from `reg`, where this CPU reads `raw`.
pub fn read(reg: SysReg, raw: u64, facts: &IdFacts) -> u64 {
    FIELDS
        .iter()
        .filter(|(of, _, _)| *of == reg)
        .fold(0, |seen, &(_, low, rule)| seen | rule.apply(raw >> low & 0xf, facts) << low)
}

/// The ID registers of one VM, the same on every CPU it runs on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IdRegs([u64; SLOTS]);

/// `CRm` 0 to 7, of which 0 is no ID register of this space; eight of `op2` each.
const SLOTS: usize = 8 * 8;

impl IdRegs {
    /// The registers of a guest on a CPU where `raw` reads them; it is called for those alone that
    /// [`wants_raw`].
    pub fn new(facts: &IdFacts, mut raw: impl FnMut(SysReg) -> u64) -> Self {
        let mut values = [0; SLOTS];
        let mut last = None;
        for &(reg, low, rule) in FIELDS {
            let read = match last {
                Some((of, read)) if of == reg => read,
                _ => raw(reg),
            };
            last = Some((reg, read));
            if let Some(value) = slot(reg).and_then(|slot| values.get_mut(slot)) {
                *value |= rule.apply(read >> low & 0xf, facts) << low;
            }
        }
        Self(values)
    }

    /// What the guest reads from `reg`; `None` outside the ID space.
    #[inline]
    pub fn get(&self, reg: SysReg) -> Option<u64> {
        self.0.get(slot(reg)?).copied()
    }

    /// The value for a trapped access with this ISS, and the register it is for, if it is a read of the ID space.
    #[inline(always)]
    pub fn answer(&self, iss: u32) -> Option<(u64, Gpr)> {
        // Op0 3, Op1 0, CRn 0, CRm up to 7, and the direction; CRm and Op2 are what is left, and Rt.
        const FIXED: u32 = 3 << 20 | 7 << 14 | 15 << 10 | 1 << 4 | 1;
        const READ: u32 = 3 << 20 | 1;
        // Six bits, and as many values: also what the CPU does speculatively stays in the table.
        let (crm, op2) = (iss >> 1 & 7, iss >> 17 & 7);
        let value = self.0.get(crm as usize * 8 + op2 as usize);
        let value = value.filter(|_| iss & FIXED == READ && crm != 0)?;
        Some((*value, Gpr::new(iss >> 5)))
    }

    /// How many breakpoints the guest has (`ID_AA64DFR0_EL1.BRPs`).
    pub fn breakpoints(&self) -> u8 {
        self.one_more_than(12)
    }

    /// How many watchpoints the guest has (`ID_AA64DFR0_EL1.WRPs`).
    pub fn watchpoints(&self) -> u8 {
        self.one_more_than(20)
    }

    #[allow(clippy::cast_possible_truncation)] // four bits
    #[inline]
    fn one_more_than(&self, low: u8) -> u8 {
        (self.get(ID_AA64DFR0_EL1).unwrap_or(0) >> low & 0xf) as u8 + 1
    }
}

impl Rule {
    /// The field's value for the guest, where the CPU has `raw` (four bits).
    fn apply(self, raw: u64, facts: &IdFacts) -> u64 {
        match self {
            UpTo(max) => raw.min(max.into()),
            SignedUpTo(max) => {
                let raw = if raw & 8 == 0 { raw } else { raw | !0xf };
                raw.cast_signed().min(max.into()).cast_unsigned() & 0xf
            }
            Exactly(value) => value.into(),
            Real => raw,
            Gic => u64::from(facts.gicv3 && raw != 0),
            PaRange => raw.min(pa_range(facts.ipa_bits)),
        }
    }
}

/// The largest `PARange` whose size is at most `bits`, and not the 52 bits of LPA.
const fn pa_range(bits: u8) -> u64 {
    match bits {
        0..36 => 0,
        36..40 => 1,
        40..42 => 2,
        42..44 => 3,
        44..48 => 4,
        48.. => 5,
    }
}

#[inline]
const fn slot(reg: SysReg) -> Option<usize> {
    if reg.op0() != 3 || reg.op1() != 0 || reg.crn() != 0 {
        return None;
    }
    match reg.crm() {
        crm @ 1..=7 => Some(crm as usize * 8 + reg.op2() as usize),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::sysreg::names;
    use proptest::prelude::*;

    const V3_40: IdFacts = IdFacts { ipa_bits: 40, gicv3: true };

    fn field(value: u64, low: u32) -> u64 {
        value >> low & 0xf
    }

    #[test]
    fn a_cortex_a72_shows_its_own_features_less_el2_and_aarch32() {
        let id = IdRegs::new(&V3_40, |reg| match reg {
            names::ID_AA64PFR0_EL1 => 0x0100_0222,
            names::ID_AA64MMFR0_EL1 => 0x1124,
            names::ID_AA64ISAR0_EL1 => 0x1_1120,
            names::ID_AA64DFR0_EL1 => 0x1030_5106,
            _ => 0,
        });
        for (reg, seen) in [
            (names::ID_AA64PFR0_EL1, 0x0100_0011),
            (names::ID_AA64PFR1_EL1, 0),
            // 44 bits are limited to the guest's 40; no SNSMem.
            (names::ID_AA64MMFR0_EL1, 0x0122),
            (names::ID_AA64MMFR1_EL1, 0),
            (names::ID_AA64ISAR0_EL1, 0x1_1120),
            // No PMU, no double lock; 6 breakpoints, 4 watchpoints, 2 context-aware.
            (names::ID_AA64DFR0_EL1, 0xf0_1030_5006),
        ] {
            assert_eq!(id.get(reg), Some(seen), "{reg}");
        }
        assert_eq!((id.breakpoints(), id.watchpoints()), (6, 4));
    }

    #[test]
    fn a_neoverse_n1_keeps_its_instructions_and_loses_ras_vhe_and_the_pmu() {
        let id = IdRegs::new(&IdFacts { ipa_bits: 48, gicv3: true }, |reg| match reg {
            names::ID_AA64PFR0_EL1 => 0x1100_0000_1111_1112,
            names::ID_AA64PFR1_EL1 => 0x20,
            names::ID_AA64DFR0_EL1 => 0x0000_0001_1030_5408,
            names::ID_AA64ISAR0_EL1 => 0x0000_1000_1021_1120,
            names::ID_AA64ISAR1_EL1 => 0x0010_0001,
            names::ID_AA64MMFR0_EL1 => 0x0010_1125,
            names::ID_AA64MMFR1_EL1 => 0x1021_2122,
            names::ID_AA64MMFR2_EL1 => 0x1011,
            _ => 0,
        });
        for (reg, seen) in [
            (names::ID_AA64PFR0_EL1, 0x1100_0000_0111_0011),
            (names::ID_AA64PFR1_EL1, 0x20),
            (names::ID_AA64DFR0_EL1, 0xf0_1030_5006),
            (names::ID_AA64ISAR0_EL1, 0x0000_1000_1021_1120),
            (names::ID_AA64ISAR1_EL1, 0x0010_0001),
            (names::ID_AA64MMFR0_EL1, 0x0010_0125),
            // HAFDBS, HPDS and PAN stay; VMIDBits, VH, XNX and LO go.
            (names::ID_AA64MMFR1_EL1, 0x0020_2002),
            (names::ID_AA64MMFR2_EL1, 0x11),
        ] {
            assert_eq!(id.get(reg), Some(seen), "{reg}");
        }
    }

    /// For any CPU, and so for QEMU's `max`: what is not switched is not shown.
    #[test]
    fn whatever_the_cpu_has_no_unswitched_state_is_shown() {
        let hidden: &[(SysReg, &[u32])] = &[
            // EL2 and EL3, RAS, SVE, SEL2, MPAM, AMU, RME
            (names::ID_AA64PFR0_EL1, &[8, 12, 28, 32, 36, 40, 44, 52]),
            // BT, MTE, RAS_frac, MPAM_frac, SME, RNDR_trap, NMI, MTE_frac, GCS, THE, MTEX, DF2, PFAR
            (names::ID_AA64PFR1_EL1, &[0, 8, 12, 16, 20, 24, 28, 36, 40, 44, 48, 52, 56, 60]),
            // TraceVer, PMUVer, PMSS, SEBEP, PMSVer, TraceFilt, TraceBuffer, MTPMU, BRBE, HPMN0
            (names::ID_AA64DFR0_EL1, &[4, 8, 16, 24, 32, 40, 44, 48, 52, 56, 60]),
            // TME
            (names::ID_AA64ISAR0_EL1, &[0, 24]),
            // APA, API, GPA, GPI, SPECRES, XS, LS64
            (names::ID_AA64ISAR1_EL1, &[4, 8, 24, 28, 40, 56, 60]),
            // WFxT, RPRES, GPA3, APA3, MOPS, PAC_frac, SYSREG_128, SYSINSTR_128, ATS1A
            (names::ID_AA64ISAR2_EL1, &[0, 4, 8, 12, 16, 24, 32, 36, 60]),
            // TGran16_2, TGran64_2, TGran4_2, FGT, ECV
            (names::ID_AA64MMFR0_EL1, &[12, 32, 36, 40, 44, 48, 52, 56, 60]),
            // VMIDBits, VH, LO, SpecSEI, XNX, TWED, ETS, HCX, AFP, nTLBPA, TIDCP1, CMOW
            (names::ID_AA64MMFR1_EL1, &[4, 8, 16, 24, 28, 32, 36, 40, 44, 48, 52, 56]),
            // LSM, IESB, VARange, NV, IDS, FWB, BBM, EVT
            (names::ID_AA64MMFR2_EL1, &[8, 12, 16, 24, 36, 40, 44, 52, 56]),
        ];
        for raw in (0..=0xf).map(|nibble: u64| nibble * 0x1111_1111_1111_1111) {
            let id = IdRegs::new(&V3_40, |_| raw);
            for (reg, fields) in hidden {
                for low in *fields {
                    assert_eq!(field(id.get(*reg).unwrap(), *low), 0, "{reg}[{low}], {raw:#x}");
                }
            }
            for slot in 0..56u8 {
                let reg = SysReg::new(3, 0, 0, 1 + slot / 8, slot % 8);
                if !hidden.iter().any(|(of, _)| *of == reg) {
                    assert_eq!(id.get(reg), Some(0), "{reg}");
                }
            }
        }
    }

    #[test]
    fn a_cpu_without_floating_point_says_so() {
        let seen = read(names::ID_AA64PFR0_EL1, 0x00ff_0011, &V3_40);
        assert_eq!((field(seen, 16), field(seen, 20)), (0xf, 0xf));
    }

    #[test]
    fn half_precision_is_shown_and_nothing_above_it() {
        let seen = read(names::ID_AA64PFR0_EL1, 0x0022_0011, &V3_40);
        assert_eq!((field(seen, 16), field(seen, 20)), (1, 1));
    }

    #[test]
    fn a_granule_the_cpu_lacks_stays_lacking() {
        let seen = read(names::ID_AA64MMFR0_EL1, 0xff00_0000, &V3_40);
        assert_eq!((field(seen, 20), field(seen, 24), field(seen, 28)), (0, 0xf, 0xf));
    }

    #[test]
    fn a_gicv2_guest_is_shown_no_gic_system_registers() {
        let v2 = IdFacts { gicv3: false, ..V3_40 };
        assert_eq!(field(read(names::ID_AA64PFR0_EL1, 0x0300_0011, &v2), 24), 0);
        assert_eq!(field(read(names::ID_AA64PFR0_EL1, 0x0300_0011, &V3_40), 24), 1);
    }

    #[test]
    fn the_physical_address_size_is_never_more_than_the_guests() {
        for (ipa_bits, raw, seen) in [
            (31, 5, 0),
            (32, 5, 0),
            (36, 5, 1),
            (39, 5, 1),
            (40, 5, 2),
            (42, 5, 3),
            (44, 5, 4),
            (47, 5, 4),
            (48, 5, 5),
            (52, 6, 5),
            (48, 4, 4),
            (40, 0, 0),
            (255, 15, 5),
        ] {
            let facts = IdFacts { ipa_bits, gicv3: true };
            assert_eq!(field(read(names::ID_AA64MMFR0_EL1, raw, &facts), 0), seen, "{ipa_bits}");
        }
    }

    #[test]
    fn the_aarch32_registers_read_as_zero_and_the_cpu_is_not_asked() {
        for crm in 1..=3 {
            for op2 in 0..8 {
                let reg = SysReg::new(3, 0, 0, crm, op2);
                assert!(is_id_register(reg) && !wants_raw(reg));
                assert_eq!(read(reg, u64::MAX, &V3_40), 0);
            }
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn a_field_never_shows_more_than_the_cpu_has(raw: u64, gicv3: bool, ipa_bits: u8) {
            let id = IdRegs::new(&IdFacts { ipa_bits, gicv3 }, |_| raw);
            for &(reg, low, rule) in FIELDS {
                let (seen, real) = (field(id.get(reg).unwrap(), low.into()), field(raw, low.into()));
                match rule {
                    Exactly(value) => prop_assert_eq!(seen, u64::from(value)),
                    SignedUpTo(_) => prop_assert!(
                        (seen ^ 8) <= (real ^ 8), "{}[{}]: {:#x} of {:#x}", reg, low, seen, real
                    ),
                    _ => prop_assert!(seen <= real),
                }
            }
        }
    }

    #[test]
    fn a_quick_answer_is_the_registers_value_and_for_reads_of_the_id_space_alone() {
        let id = IdRegs::new(&V3_40, |reg| 0x1111_1111_1111_1111 * u64::from(reg.op2() + 1));
        let mut answered = 0;
        for bits in (0..=u16::MAX).step_by(crate::testing::pick(1, 251)) {
            let reg = SysReg::from_bits(bits);
            let iss = u32::from(reg.op0()) << 20
                | u32::from(reg.op2()) << 17
                | u32::from(reg.op1()) << 14
                | u32::from(reg.crn()) << 10
                | 7 << 5
                | u32::from(reg.crm()) << 1;
            assert_eq!(id.answer(iss), None, "a write of {reg}");
            let answer = id.answer(iss | 1);
            assert_eq!(answer.map(|(value, _)| value), id.get(reg), "{reg}");
            assert!(answer.is_none_or(|(_, gpr)| gpr == Gpr::new(7)));
            answered += u32::from(answer.is_some());
        }
        assert!(answered > 0);
    }
}
