//! Claims about single registers, and every encoding against a reviewed table (`golden.txt`).

extern crate std;

use super::*;
use crate::vm::idregs::IdFacts;
use crate::vm::sysreg::SysReg;
use std::fmt::Write;
use std::string::String;

const DIRECTIONS: [Direction; 2] = [Direction::Read, Direction::Write];
const LEVELS: [GuestLevel; 2] = [GuestLevel::El0, GuestLevel::El1];
const ACTLR: u64 = 0x42;

/// A VM on a Cortex-A72: 6 breakpoints, 4 watchpoints.
struct Case {
    ids: IdRegs,
    gic: GicVersion,
}

impl Case {
    fn new(gic: GicVersion) -> Self {
        let facts = IdFacts { ipa_bits: 40, gicv3: gic == GicVersion::V3 };
        let ids = IdRegs::new(&facts, |reg| match reg {
            names::ID_AA64PFR0_EL1 => 0x0100_0222,
            names::ID_AA64DFR0_EL1 => 0x1030_5106,
            names::ID_AA64ISAR0_EL1 => 0x1_1120,
            names::ID_AA64MMFR0_EL1 => 0x1124,
            _ => 0,
        });
        Self { ids, gic }
    }

    fn decide(&self, reg: SysReg, direction: Direction, level: GuestLevel) -> Action {
        let facts = TrapFacts { ids: &self.ids, actlr: ACTLR, gic: self.gic };
        decide(Access { reg, direction, level }, &facts)
    }

    fn el1(&self, reg: SysReg) -> (Action, Action) {
        (
            self.decide(reg, Direction::Read, GuestLevel::El1),
            self.decide(reg, Direction::Write, GuestLevel::El1),
        )
    }
}

fn v2() -> Case {
    Case::new(GicVersion::V2)
}

fn v3() -> Case {
    Case::new(GicVersion::V3)
}

const UNDEFINED: (Action, Action) = (Action::Undefined, Action::Undefined);
const READS_AS_ZERO: (Action, Action) = (Action::Read(0), Action::Ignore);

/// Every encoding of `op0` 0 to 3; the registers proper are the 32,768 of `op0` 2 and 3.
fn every_encoding() -> impl Iterator<Item = SysReg> {
    let step = crate::testing::pick(1, 4099);
    (0..=u16::MAX).step_by(step).map(SysReg::from_bits)
}

#[test]
fn software_generated_interrupts_exist_for_a_gicv3_guest_alone() {
    let group1 = (Action::Undefined, Action::Sgi(SgiRegister::Sgi1r));
    let other = (Action::Undefined, Action::Sgi(SgiRegister::Asgi1r));
    let group0 = (Action::Undefined, Action::Sgi(SgiRegister::Sgi0r));
    assert_eq!(v3().el1(SysReg::new(3, 0, 12, 11, 5)), group1);
    assert_eq!(v3().el1(SysReg::new(3, 0, 12, 11, 6)), other);
    assert_eq!(v3().el1(SysReg::new(3, 0, 12, 11, 7)), group0);
    assert_eq!(v3().el1(SysReg::new(3, 0, 12, 12, 5)), (Action::Read(7), Action::Ignore));
    for (crm, op2) in [(11, 5), (11, 6), (11, 7), (12, 5)] {
        assert_eq!(v2().el1(SysReg::new(3, 0, 12, crm, op2)), UNDEFINED);
    }
}

#[test]
fn the_id_space_reads_as_the_table_says_and_cannot_be_written() {
    for crm in 1..=7 {
        for op2 in 0..=7 {
            let (read, write) = v3().el1(SysReg::new(3, 0, 0, crm, op2));
            assert!(matches!(read, Action::Read(_)), "C{crm}_{op2}");
            assert_eq!(write, Action::Undefined);
        }
    }
    assert_eq!(v3().el1(SysReg::new(3, 0, 0, 4, 0)).0, Action::Read(0x0100_0011));
    assert_eq!(v2().el1(SysReg::new(3, 0, 0, 4, 0)).0, Action::Read(0x11));
}

#[test]
fn actlr_reads_its_reset_value_and_ignores_writes() {
    assert_eq!(v3().el1(SysReg::new(3, 0, 1, 0, 1)), (Action::Read(ACTLR), Action::Ignore));
}

#[test]
fn the_physical_timer_can_be_used_from_both_levels_and_its_counter_only_read() {
    for (op2, timer) in [(0, TimerReg::Tval), (1, TimerReg::Ctl), (2, TimerReg::Cval)] {
        for direction in DIRECTIONS {
            for level in LEVELS {
                let action = v3().decide(SysReg::new(3, 3, 14, 2, op2), direction, level);
                assert_eq!(action, Action::PhysicalTimer(timer));
            }
        }
    }
    let count = SysReg::new(3, 3, 14, 0, 1);
    assert_eq!(v3().el1(count), (Action::ReadCounter, Action::Undefined));
    // The secure timer, and FEAT_ECV's self-synchronised counter.
    assert_eq!(v3().el1(SysReg::new(3, 7, 14, 2, 1)), UNDEFINED);
    assert_eq!(v3().el1(SysReg::new(3, 3, 14, 0, 5)), UNDEFINED);
}

#[test]
fn set_way_maintenance_is_an_action_and_its_tag_variants_are_not() {
    for (crm, kind) in [(6, SetWay::Invalidate), (10, SetWay::Clean), (14, SetWay::CleanInvalidate)]
    {
        let expected = (Action::Undefined, Action::SetWay(kind));
        assert_eq!(v3().el1(SysReg::new(1, 0, 7, crm, 2)), expected);
        assert_eq!(v3().el1(SysReg::new(1, 0, 7, crm, 4)), UNDEFINED);
    }
}

#[test]
fn breakpoints_and_watchpoints_end_where_the_id_register_says() {
    for n in 0..16 {
        let both = |exists: bool, reg| match exists {
            true => (Action::Debug(reg), Action::Debug(reg)),
            false => UNDEFINED,
        };
        let at = |op2| v3().el1(SysReg::new(2, 0, 0, n, op2));
        assert_eq!(at(4), both(n < 6, DebugReg::Bvr(n)));
        assert_eq!(at(5), both(n < 6, DebugReg::Bcr(n)));
        assert_eq!(at(6), both(n < 4, DebugReg::Wvr(n)));
        assert_eq!(at(7), both(n < 4, DebugReg::Wcr(n)));
    }
}

#[test]
fn the_os_lock_is_the_vcpus_and_the_double_lock_reads_as_zero() {
    let oslar = SysReg::new(2, 0, 1, 0, 4);
    let oslsr = SysReg::new(2, 0, 1, 1, 4);
    assert_eq!(v3().el1(oslar), (Action::Undefined, Action::Debug(DebugReg::OsLar)));
    assert_eq!(v3().el1(oslsr), (Action::Debug(DebugReg::OsLsr), Action::Undefined));
    assert_eq!(v3().el1(SysReg::new(2, 0, 1, 3, 4)), READS_AS_ZERO);
    assert_eq!(v3().el1(SysReg::new(2, 0, 1, 4, 4)), READS_AS_ZERO);
}

#[test]
fn what_the_id_registers_hide_is_undefined() {
    for (op1, crn, crm, op2, name) in [
        (3, 9, 12, 0, "PMCR_EL0"),
        (3, 9, 13, 0, "PMCCNTR_EL0"),
        (3, 9, 14, 0, "PMUSERENR_EL0"),
        (0, 9, 14, 1, "PMINTENSET_EL1"),
        (3, 14, 8, 0, "PMEVCNTR0_EL0"),
        (3, 14, 15, 7, "PMCCFILTR_EL0"),
        (0, 9, 9, 0, "PMSCR_EL1"),
        (0, 1, 2, 0, "ZCR_EL1"),
        (0, 1, 2, 6, "SMCR_EL1"),
        (0, 1, 2, 1, "TRFCR_EL1"),
        (0, 1, 0, 5, "RGSR_EL1"),
        (0, 2, 1, 0, "APIAKeyLo_EL1"),
        (0, 2, 3, 1, "APGAKeyHi_EL1"),
        (0, 5, 3, 0, "ERRIDR_EL1"),
        (0, 5, 4, 0, "ERXFR_EL1"),
        (0, 10, 4, 7, "LORID_EL1"),
        (0, 10, 4, 0, "LORSA_EL1"),
        (0, 13, 0, 7, "SCXTNUM_EL1"),
        (3, 13, 0, 7, "SCXTNUM_EL0"),
        (3, 13, 2, 0, "AMCR_EL0"),
        (3, 2, 4, 0, "RNDR"),
        (0, 2, 0, 3, "TCR2_EL1"),
        (0, 15, 0, 0, "IMPLEMENTATION DEFINED"),
        (0, 11, 3, 2, "IMPLEMENTATION DEFINED"),
        (3, 15, 15, 7, "IMPLEMENTATION DEFINED"),
    ] {
        assert_eq!(v3().el1(SysReg::new(3, op1, crn, crm, op2)), UNDEFINED, "{name}");
    }
}

/// The whole list of what a process of the guest can bring about by a trap.
#[test]
fn el0_reaches_the_timer_the_counter_and_an_empty_debug_channel_and_nothing_else() {
    let case = v3();
    for reg in every_encoding() {
        for direction in DIRECTIONS {
            let action = case.decide(reg, direction, GuestLevel::El0);
            let allowed = match action {
                Action::Undefined => true,
                Action::PhysicalTimer(_) | Action::ReadCounter => reg.crn() == 14,
                Action::Read(0) | Action::Ignore => reg.op0() == 2 && reg.crn() == 0,
                _ => false,
            };
            assert!(allowed && (action == Action::Undefined || reg.op1() == 3), "{reg} {action:?}");
        }
    }
}

#[test]
fn an_action_fits_its_direction() {
    for case in [v2(), v3()] {
        for reg in every_encoding() {
            let (read, write) = case.el1(reg);
            assert!(
                !matches!(read, Action::Ignore | Action::Sgi(_) | Action::SetWay(_)),
                "{reg} {read:?}"
            );
            assert!(!matches!(write, Action::Read(_) | Action::ReadCounter), "{reg} {write:?}");
        }
    }
}

/// What is not UNDEFINED, of all encodings, both directions and both levels.
fn summary(case: &Case) -> (String, usize) {
    let mut table = String::new();
    let mut undefined = 0;
    for reg in every_encoding() {
        for level in LEVELS {
            let [read, write] = DIRECTIONS.map(|direction| case.decide(reg, direction, level));
            undefined += [read, write].iter().filter(|&&a| a == Action::Undefined).count();
            if (read, write) == UNDEFINED {
                continue;
            }
            let text = |action| match action {
                Action::Read(value) => std::format!("{value:#x}"),
                Action::Undefined => "-".into(),
                other => std::format!("{other:?}"),
            };
            let level = if level == GuestLevel::El0 { "EL0" } else { "EL1" };
            let reg = std::format!("{reg}");
            writeln!(table, "{level} {reg:<34} {:<22} {}", text(read), text(write)).unwrap();
        }
    }
    (table, undefined)
}

/// To accept a change: run this test with `PLINTH_BLESS` set, and review the difference.
#[test]
#[cfg_attr(miri, ignore = "every encoding there is: the claims above are about some")]
fn every_encoding_is_decided_as_the_reviewed_table_says() {
    let (three, undefined_three) = summary(&v3());
    let (two, undefined_two) = summary(&v2());
    let mut golden = String::from(
        "Trapped system register accesses that are not UNDEFINED: level, register, read, write (-: UNDEFINED).\n\
         A Cortex-A72, 40 bits of IPA, ACTLR_EL1 0x42. Of 65,536 encodings, both levels, both directions.\n",
    );
    writeln!(golden, "\nGICv3 guest; UNDEFINED: {undefined_three} of 262144\n\n{three}").unwrap();
    writeln!(golden, "GICv2 guest, where it differs; UNDEFINED: {undefined_two} of 262144\n")
        .unwrap();
    for line in two.lines().filter(|line| !three.lines().any(|other| other == *line)) {
        writeln!(golden, "+ {line}").unwrap();
    }
    for line in three.lines().filter(|line| !two.lines().any(|other| other == *line)) {
        writeln!(golden, "- {line}").unwrap();
    }
    if std::env::var_os("PLINTH_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/vm/sysreg/trap/golden.txt");
        std::fs::write(path, &golden).unwrap();
        return;
    }
    let reviewed = include_str!("golden.txt");
    for (now, then) in golden.lines().zip(reviewed.lines()) {
        assert_eq!(now, then);
    }
    assert_eq!(golden.lines().count(), reviewed.lines().count());
}
