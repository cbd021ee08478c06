//! CPUs of several kinds in one machine: a guest may run on any of them, and is shown of each field what the least of them has.

use alloc::vec::Vec;
use core::fmt;

use super::{FIELDS, IdFacts, IdRegs, Rule, SLOTS, slot};
use crate::machine::CpuId;
use crate::memory::PaRange;
use crate::vm::sysreg::SysReg;
use crate::vm::sysreg::names::ID_AA64MMFR0_EL1;

/// What one CPU's ID registers say, of those that guests learn something of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CpuIds {
    cpu: CpuId,
    values: Vec<(SysReg, u64)>,
}

impl CpuIds {
    /// Those of `cpu`, where `raw` reads them.
    pub fn read(cpu: CpuId, mut raw: impl FnMut(SysReg) -> u64) -> Self {
        let mut values: Vec<(SysReg, u64)> = Vec::new();
        for &(reg, ..) in FIELDS {
            if values.last().is_none_or(|(last, _)| *last != reg) {
                values.push((reg, raw(reg)));
            }
        }
        Self { cpu, values }
    }

    fn raw(&self, reg: SysReg) -> u64 {
        self.values.iter().find(|(of, _)| *of == reg).map_or(0, |(_, value)| *value)
    }

    /// How many physical address bits it has.
    pub fn pa_range(&self) -> PaRange {
        PaRange::from_field(self.raw(ID_AA64MMFR0_EL1) & 0xf)
    }
}

/// A CPU has less in a field than those before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Less {
    cpu: CpuId,
    reg: SysReg,
    /// The lowest bit of the field.
    low: u8,
    has: u64,
    /// What those before it have.
    others: u64,
}

impl fmt::Display for Less {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, reg, low, has, others } = self;
        write!(f, "CPU {}: {}", cpu.0, reg.name().unwrap_or("?"))?;
        write!(f, "[{}:{low}] is {has:#x}, and {others:#x} before: guests see {has:#x}", low + 3)
    }
}

impl IdRegs {
    /// The registers of a guest on a machine with these CPUs, and where one has less than those before it.
    pub fn common(facts: &IdFacts, cpus: &[CpuIds]) -> (Self, Vec<Less>) {
        let (mut values, mut less) = ([0; SLOTS], Vec::new());
        for &(reg, low, rule) in FIELDS {
            let mut common = None;
            for cpu in cpus {
                let has = rule.apply(cpu.raw(reg) >> low & 0xf, facts);
                match common {
                    Some(others) if rule.is_less(has, others) => {
                        less.push(Less { cpu: cpu.cpu, reg, low, has, others });
                    }
                    Some(_) => continue,
                    None => {}
                }
                common = Some(has);
            }
            if let Some(value) = slot(reg).and_then(|slot| values.get_mut(slot)) {
                *value |= common.unwrap_or(0) << low;
            }
        }
        (Self(values), less)
    }
}

impl Rule {
    /// Whether a field that says `one` offers less than one that says `other`.
    const fn is_less(self, one: u64, other: u64) -> bool {
        match self {
            // 0xf, "not implemented", is the least.
            Self::SignedUpTo(_) => (one ^ 8) < (other ^ 8),
            _ => one < other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::idregs::wants_raw;
    use crate::vm::sysreg::names::{self, ID_AA64DFR0_EL1, ID_AA64ISAR0_EL1, ID_AA64PFR0_EL1};
    use alloc::string::ToString;
    use proptest::prelude::*;

    const FACTS: IdFacts = IdFacts { ipa_bits: 40, gicv3: true };

    /// A Cortex-A53's registers, and an A72's with what a licensee may leave out or add.
    fn small(reg: SysReg) -> u64 {
        match reg {
            ID_AA64PFR0_EL1 => 0x0100_2222,
            ID_AA64DFR0_EL1 => 0x1030_5106,
            ID_AA64ISAR0_EL1 => 0x1_0000,
            ID_AA64MMFR0_EL1 => 0x1122,
            _ => 0,
        }
    }

    fn big(reg: SysReg) -> u64 {
        match reg {
            ID_AA64PFR0_EL1 => 0x1111_0000_0111_2222,
            ID_AA64DFR0_EL1 => 0x1050_5106,
            ID_AA64ISAR0_EL1 => 0x21_1120,
            ID_AA64MMFR0_EL1 => 0x1124,
            _ => 0,
        }
    }

    fn cpus(kinds: &[fn(SysReg) -> u64]) -> Vec<CpuIds> {
        (0..).zip(kinds).map(|(cpu, raw)| CpuIds::read(CpuId(cpu), raw)).collect()
    }

    #[test]
    fn cpus_of_one_kind_show_what_one_of_them_shows() {
        for kind in [small as fn(SysReg) -> u64, big] {
            let (shown, less) = IdRegs::common(&FACTS, &cpus(&[kind; 4]));
            assert_eq!((shown, less), (IdRegs::new(&FACTS, kind), Vec::new()));
        }
    }

    #[test]
    fn guests_are_shown_what_the_least_cpu_has_and_each_field_is_told_once() {
        let (shown, less) = IdRegs::common(&FACTS, &cpus(&[big, big, small, small]));
        assert_eq!(shown.get(ID_AA64ISAR0_EL1), Some(0x1_0000));
        // Floating point is one that is signed: half precision is more than none of it.
        assert_eq!(shown.get(ID_AA64PFR0_EL1), Some(0x0100_0011));
        assert_eq!(shown.breakpoints(), 6);
        assert_eq!(shown.watchpoints(), 4);
        let lines: Vec<_> = less.iter().map(ToString::to_string).collect();
        let atomics = "CPU 2: ID_AA64ISAR0_EL1[23:20] is 0x0, and 0x2 before: guests see 0x0";
        assert!(lines.iter().any(|line| line == atomics), "{lines:?}");
        assert!(less.iter().all(|less| less.cpu == CpuId(2)), "{lines:?}");
        // The other way round: those that come later have more, which is not told.
        let (other, less) = IdRegs::common(&FACTS, &cpus(&[small, big]));
        assert_eq!((other.get(ID_AA64ISAR0_EL1), less.len()), (Some(0x1_0000), 0));
    }

    #[test]
    fn a_cpu_without_floating_point_is_the_least() {
        let without = |reg| if reg == ID_AA64PFR0_EL1 { 0x00ff_0011 } else { small(reg) };
        for order in [[small, without as fn(SysReg) -> u64], [without, small]] {
            let (shown, _) = IdRegs::common(&FACTS, &cpus(&order));
            assert_eq!(shown.get(ID_AA64PFR0_EL1).map(|value| value >> 16 & 0xff), Some(0xff));
        }
    }

    #[test]
    fn addresses_are_as_wide_as_the_narrowest_cpus() {
        let narrow = |reg| if reg == ID_AA64MMFR0_EL1 { 0x1121 } else { big(reg) };
        let all = cpus(&[big, narrow]);
        assert_eq!(all.iter().map(CpuIds::pa_range).min(), Some(PaRange::Bits36));
        let (shown, _) = IdRegs::common(&FACTS, &all);
        assert_eq!(shown.get(ID_AA64MMFR0_EL1).map(|value| value & 0xf), Some(1));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        /// In no field do guests see more than any CPU alone would show, and in each what one of them would.
        #[test]
        fn no_cpu_has_less_than_is_shown(values: [u64; 3]) {
            let kinds: Vec<_> =
                values.iter().map(|value| CpuIds::read(CpuId(0), |_| *value)).collect();
            let (shown, _) = IdRegs::common(&FACTS, &kinds);
            let alone = values.map(|value| IdRegs::new(&FACTS, |_| value));
            for &(reg, low, rule) in FIELDS {
                let field = |of: &IdRegs| of.get(reg).unwrap() >> low & 0xf;
                let all = alone.each_ref().map(field);
                prop_assert!(all.iter().all(|one| !rule.is_less(*one, field(&shown))));
                prop_assert!(all.contains(&field(&shown)));
            }
        }
    }

    #[test]
    fn each_register_is_read_once() {
        let mut read = Vec::new();
        CpuIds::read(CpuId(0), |reg| {
            read.push(reg);
            0
        });
        assert!(read.iter().all(|reg| wants_raw(*reg)));
        assert_eq!(read.len(), 9);
        assert!(read.contains(&names::ID_AA64MMFR2_EL1));
    }
}
