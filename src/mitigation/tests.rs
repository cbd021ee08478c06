//! Real CPUs with the firmware that they come with, and any with any.

use std::fmt::Write;

use proptest::prelude::*;
use smccc::arch::{SMCCC_ARCH_WORKAROUND_1 as ONE, SMCCC_ARCH_WORKAROUND_3 as THREE};

use super::Answer::{Absent, Callable, NotNeeded};
use super::*;
use crate::machine::CpuId;

const NONE: Firmware =
    Firmware { workaround_1: Absent, workaround_2: Absent, workaround_3: Absent };
/// What TF-A says on a CPU that needs both calls, and has store bypass turned off for good.
const TF_A: Firmware =
    Firmware { workaround_1: Callable, workaround_2: NotNeeded, workaround_3: Callable };
/// The same before there was a workaround 3.
const OLD_TF_A: Firmware = Firmware { workaround_3: Absent, ..TF_A };
/// What it says on one that needs none.
const NO_NEED: Firmware =
    Firmware { workaround_1: NotNeeded, workaround_2: Absent, workaround_3: NotNeeded };

const A72_R0P3: Registers =
    Registers { midr: 0x410f_d083, pfr0: 0x2222, pfr1: 0, isar2: 0, mmfr1: 0 };
/// Since r1p0 a Cortex-A72 has CSV2.
const A72_R1P0: Registers = Registers { midr: 0x411f_d080, pfr0: 1 << 56 | 0x2222, ..A72_R0P3 };
const A53: Registers = Registers { midr: 0x410f_d034, ..A72_R0P3 };
const A57: Registers = Registers { midr: 0x411f_d070, ..A72_R0P3 };
const A73: Registers = Registers { midr: 0x410f_d092, ..A72_R0P3 };
/// A Neoverse N1 as QEMU has it: r4p1, CSV2 1, SSBS 2.
const N1: Registers = Registers {
    midr: 0x414f_d0c1,
    pfr0: 0x1100_0000_1111_1112,
    pfr1: 0x20,
    isar2: 0,
    mmfr1: 0x1021_2122,
};
/// A CPU whose number nobody knows, with CSV2 3, SSBS and ECBHB.
const NEWEST: Registers =
    Registers { midr: 0x000f_0510, pfr0: 3 << 56, pfr1: 0x20, isar2: 0, mmfr1: 1 << 60 };
const UNKNOWN: Registers = Registers { midr: 0x000f_0510, pfr0: 0, pfr1: 0, isar2: 0, mmfr1: 0 };

/// Branch targets, branch history, store bypass, and what happens at an entry.
fn of(registers: Registers, firmware: Firmware) -> (State, State, State, Entry) {
    let decision = decide(&registers, &firmware, false);
    (decision.branch_target, decision.branch_history, decision.store_bypass, decision.entry)
}

use Entry::{Branches, Clear, Nothing};
use State::{AtEntry, NotAffected, Off, Open, Register};

#[test]
fn a_cortex_a72_of_the_first_revisions_depends_on_its_firmware() {
    assert_eq!(of(A72_R0P3, NONE), (Open, Open, Open, Nothing));
    assert_eq!(of(A72_R0P3, TF_A), (AtEntry, AtEntry, NotAffected, Entry::Firmware(THREE)));
    // What empties the predictor takes the history with it.
    assert_eq!(of(A72_R0P3, OLD_TF_A), (AtEntry, AtEntry, NotAffected, Entry::Firmware(ONE)));
}

#[test]
fn a_cortex_a72_of_a_later_revision_takes_eight_branches_and_no_call() {
    assert_eq!(of(A72_R1P0, NONE), (NotAffected, AtEntry, Open, Branches(8)));
    assert_eq!(of(A72_R1P0, NO_NEED), (NotAffected, AtEntry, Open, Branches(8)));
}

#[test]
fn a_cortex_a57_is_never_done_with_branches() {
    assert_eq!(of(A57, NONE), (Open, Open, Open, Nothing));
    assert_eq!(of(A57, OLD_TF_A), (AtEntry, AtEntry, NotAffected, Entry::Firmware(ONE)));
    let with_csv2 = Registers { pfr0: 1 << 56, ..A57 };
    assert_eq!(of(with_csv2, NONE), (NotAffected, Open, Open, Nothing));
}

#[test]
fn a_cortex_a73_needs_workaround_3_for_its_history() {
    assert_eq!(of(A73, OLD_TF_A), (AtEntry, Open, NotAffected, Entry::Firmware(ONE)));
    assert_eq!(of(A73, TF_A), (AtEntry, AtEntry, NotAffected, Entry::Firmware(THREE)));
}

#[test]
fn a_cpu_that_executes_in_order_needs_nothing_whatever_its_firmware_says() {
    for firmware in [NONE, TF_A, OLD_TF_A, NO_NEED] {
        assert_eq!(of(A53, firmware), (NotAffected, NotAffected, NotAffected, Nothing));
    }
}

#[test]
fn a_neoverse_n1_takes_24_branches_though_its_firmware_says_that_a_call_is_not_needed() {
    assert_eq!(of(N1, NO_NEED), (NotAffected, AtEntry, Register, Branches(24)));
    let with_clrbhb = Registers { isar2: 1 << 28, ..N1 };
    assert_eq!(of(with_clrbhb, NO_NEED), (NotAffected, AtEntry, Register, Clear));
    let with_ecbhb = Registers { mmfr1: 1 << 60, ..N1 };
    assert_eq!(of(with_ecbhb, NO_NEED), (NotAffected, NotAffected, Register, Nothing));
}

#[test]
fn of_a_cpu_that_nobody_knows_its_registers_and_its_firmware_are_believed() {
    assert_eq!(of(NEWEST, NONE), (NotAffected, NotAffected, Register, Nothing));
    assert_eq!(of(UNKNOWN, NONE), (Open, Open, Open, Nothing));
    assert_eq!(of(UNKNOWN, NO_NEED), (NotAffected, NotAffected, Open, Nothing));
    assert_eq!(of(UNKNOWN, TF_A), (AtEntry, AtEntry, NotAffected, Entry::Firmware(THREE)));
}

#[test]
fn store_bypass_is_turned_off_where_the_firmware_can_or_the_hypervisor_has() {
    let switch = Firmware { workaround_2: Callable, ..NONE };
    assert_eq!(of(A72_R0P3, switch).2, Off);
    assert_eq!(decide(&A72_R0P3, &NONE, true).store_bypass, Off);
}

/// A firmware by a table of functions with their first argument, and what it was asked.
fn ask(answers: &[((u32, u32), i32)]) -> (Firmware, Vec<(u32, u32)>) {
    let mut asked = Vec::new();
    let firmware = Firmware::ask(|function, argument| {
        asked.push((function, argument));
        let found = answers.iter().find(|(call, _)| *call == (function, argument));
        found.map_or(-1, |(_, answer)| *answer)
    });
    (firmware, asked)
}

/// `PSCI_VERSION`, `PSCI_FEATURES(SMCCC_VERSION)`, `SMCCC_VERSION`, by the numbers of DEN0022 and DEN0028.
const NEW: [((u32, u32), i32); 3] =
    [((0x8400_0000, 0), 0x1_0001), ((0x8400_000a, 0x8000_0000), 0), ((0x8000_0000, 0), 0x1_0002)];

#[test]
fn a_firmware_is_asked_about_each_workaround_by_its_number() {
    let answers = [
        NEW.as_slice(),
        &[
            ((0x8000_0001, 0x8000_8000), 0),
            ((0x8000_0001, 0x8000_7fff), -2),
            ((0x8000_0001, 0x8000_3fff), 1),
        ],
    ]
    .concat();
    let wanted =
        Firmware { workaround_1: Callable, workaround_2: NotNeeded, workaround_3: NotNeeded };
    assert_eq!(ask(&answers).0, wanted);
    // For the others, -2 is no answer.
    let answers = [NEW.as_slice(), &[((0x8000_0001, 0x8000_8000), -2)]].concat();
    assert_eq!(ask(&answers).0, NONE);
}

#[test]
fn nothing_is_asked_that_an_older_firmware_need_not_know() {
    for (place, old) in [(0, 0x2), (0, -1), (1, -1), (2, 0x1_0000), (2, -1)] {
        let mut answers = NEW;
        answers[place].1 = old;
        let all =
            (0..=2).map(|index| ((0x8000_0001, [0x8000_8000, 0x8000_7fff, 0x8000_3fff][index]), 0));
        let answers: Vec<_> = answers.into_iter().chain(all).collect();
        let (firmware, asked) = ask(&answers);
        assert_eq!(firmware, NONE);
        assert_eq!(asked.len(), place + 1, "{asked:x?}");
    }
}

/// What the log says.
fn told(cpus: &[(u8, Registers, Firmware)]) -> Vec<(String, bool)> {
    let decisions: Vec<_> = cpus
        .iter()
        .map(|(cpu, registers, firmware)| (CpuId(*cpu), decide(registers, firmware, false)))
        .collect();
    let show = |line: &Line| {
        let mut text = String::new();
        write!(text, "{line}").unwrap();
        (text, line.is_open())
    };
    lines(&decisions).iter().map(show).collect()
}

#[test]
fn the_log_has_a_line_for_each_kind_of_cpu() {
    let cpus = [
        (0, A53, NONE),
        (1, A53, NONE),
        (2, A72_R0P3, NONE),
        (3, A72_R0P3, NONE),
        (4, A53, NONE),
        (5, A72_R0P3, TF_A),
        (6, N1, NO_NEED),
        (7, UNKNOWN, Firmware { workaround_2: Callable, ..NO_NEED }),
    ];
    let wanted = [
        ("CPU 0-1,4: Cortex-A53 r0p4: Spectre-v2, Spectre-BHB, store bypass not affected", false),
        (
            "CPU 2-3: Cortex-A72 r0p3: Spectre-v2, Spectre-BHB, store bypass NOT MITIGATED: \
          the firmware has no SMCCC_ARCH_WORKAROUND_1, _2, _3",
            true,
        ),
        (
            "CPU 5: Cortex-A72 r0p3: Spectre-v2, Spectre-BHB by firmware, store bypass not affected",
            false,
        ),
        (
            "CPU 6: Neoverse-N1 r4p1: Spectre-v2 not affected, Spectre-BHB by 24 branches, store bypass by SSBS",
            false,
        ),
        ("CPU 7: MIDR 0xf0510: Spectre-v2, Spectre-BHB not affected, store bypass off", false),
    ];
    let wanted: Vec<_> = wanted.map(|(text, open)| (text.to_owned(), open)).into();
    assert_eq!(told(&cpus), wanted);
    let (old, open) = &told(&[(0, A73, OLD_TF_A)])[0];
    assert!(old.ends_with("not affected: the firmware has no SMCCC_ARCH_WORKAROUND_3"), "{old}");
    assert!(open);
}

/// What guests are told on a machine of these.
fn guests(cpus: &[(Registers, Firmware)]) -> (Mitigation, bool, Mitigation) {
    let decisions: Vec<_> = cpus.iter().map(|(cpu, has)| decide(cpu, has, false)).collect();
    let told = for_guests(&decisions);
    (told.branch_target, told.store_bypass_not_needed, told.branch_history)
}

#[test]
fn guests_are_told_what_holds_on_every_cpu() {
    let (unknown, not_needed, firmware) =
        (Mitigation::Unknown, Mitigation::NotNeeded, Mitigation::Firmware);
    assert_eq!(guests(&[]), (unknown, false, unknown));
    assert_eq!(guests(&[(A53, NONE)]), (not_needed, true, not_needed));
    assert_eq!(guests(&[(A72_R0P3, NONE)]), (unknown, false, unknown));
    assert_eq!(guests(&[(A72_R0P3, TF_A)]), (firmware, true, firmware));
    assert_eq!(guests(&[(A72_R0P3, OLD_TF_A)]), (firmware, true, unknown));
    // Its guest has a loop itself, and its own SSBS.
    assert_eq!(guests(&[(N1, NO_NEED)]), (not_needed, false, unknown));
    assert_eq!(guests(&[(A53, NONE), (A72_R0P3, TF_A)]), (firmware, true, firmware));
    assert_eq!(guests(&[(A53, NONE), (A72_R0P3, NONE)]), (unknown, false, unknown));
    assert_eq!(guests(&[(A73, OLD_TF_A), (A72_R0P3, TF_A)]), (firmware, true, unknown));
    assert_eq!(guests(&[(A72_R1P0, TF_A), (A72_R0P3, TF_A)]), (firmware, true, firmware));
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![Just(Absent), Just(NotNeeded), Just(Callable)]
}

fn machine() -> impl Strategy<Value = (Registers, Firmware, bool)> {
    let part = prop_oneof![0xd02u64..0xd90, Just(0xac3u64), 0u64..0x1000];
    let midr = (prop_oneof![Just(0x41u64), Just(0xc0), Just(0)], part, 0u64..3, 0u64..4)
        .prop_map(|(by, part, variant, revision)| by << 24 | part << 4 | variant << 20 | revision);
    let registers =
        (midr, 0u64..4, 0u64..3, 0u64..2, 0u64..2).prop_map(|(midr, csv2, ssbs, clrbhb, ecbhb)| {
            Registers {
                midr,
                pfr0: csv2 << 56,
                pfr1: ssbs << 4,
                isar2: clrbhb << 28,
                mmfr1: ecbhb << 60,
            }
        });
    let firmware = [answer(), answer(), answer()].prop_map(|[one, two, three]| Firmware {
        workaround_1: one,
        workaround_2: two,
        workaround_3: three,
    });
    (registers, firmware, any::<bool>())
}

proptest! {
    #![proptest_config(crate::testing::cases(512, 1))]

    #[test]
    fn what_is_called_mitigated_is_done_and_what_is_called_exists((registers, firmware, ours) in machine()) {
        let it = decide(&registers, &firmware, ours);
        let at_entry = [it.branch_target, it.branch_history].contains(&AtEntry);
        prop_assert_eq!(at_entry, it.entry != Nothing, "{:?}", it);
        // Branches and CLRBHB do nothing for targets.
        let calls = matches!(it.entry, Entry::Firmware(_));
        prop_assert!(it.branch_target != AtEntry || calls, "{:?}", it);
        match it.entry {
            Entry::Firmware(ONE) => prop_assert_eq!(firmware.workaround_1, Callable),
            Entry::Firmware(function) => {
                prop_assert_eq!((function, firmware.workaround_3), (THREE, Callable));
            }
            Branches(count) => prop_assert!(count >= 8),
            Clear => prop_assert!(registers.isar2 != 0),
            Nothing => {}
        }
        // Nothing is left open where the firmware has all that there is.
        let all = Firmware { workaround_1: Callable, workaround_2: Callable, workaround_3: Callable };
        let with_all = decide(&registers, &all, ours);
        prop_assert!(![with_all.branch_target, with_all.branch_history, with_all.store_bypass].contains(&Open));
        prop_assert_eq!(it.store_bypass == Register, registers.pfr1 != 0);
    }

    #[test]
    fn what_a_guest_may_call_has_been_done_on_every_cpu_that_needs_it(
        cpus in proptest::collection::vec(machine(), 1..4),
    ) {
        let decisions: Vec<_> = cpus.iter().map(|(cpu, has, ours)| decide(cpu, has, *ours)).collect();
        let told = for_guests(&decisions);
        for it in &decisions {
            let called = matches!(it.entry, Entry::Firmware(_));
            if told.branch_target == Mitigation::Firmware {
                prop_assert!(it.branch_target == NotAffected || called);
            }
            if told.branch_target == Mitigation::NotNeeded {
                prop_assert_eq!(it.branch_target, NotAffected);
            }
            if told.branch_history == Mitigation::Firmware {
                prop_assert!(it.branch_history != Open && (!called || it.entry == Entry::Firmware(THREE)));
            }
            if told.branch_history == Mitigation::NotNeeded {
                prop_assert_eq!(it.branch_history, NotAffected);
            }
            if told.store_bypass_not_needed {
                prop_assert!(matches!(it.store_bypass, NotAffected | Off));
            }
        }
    }
}

#[test]
fn each_kind_of_cpu_has_a_line_with_its_errata() {
    let kinds = [A72_R0P3, A53, A72_R0P3, A57, A72_R1P0, N1, UNKNOWN];
    let decisions: Vec<_> =
        (0..).map(CpuId).zip(kinds.map(|kind| decide(&kind, &TF_A, false))).collect();
    let said: Vec<_> = errata(&decisions).iter().map(ToString::to_string).collect();
    let (order, unused) = ("by the order of a switch", "without AArch32 at EL1");
    let both = format!("1319367 {order}, 853709 {unused}");
    assert_eq!(
        said,
        [
            format!("CPU 0,2: Cortex-A72 r0p3: errata {both}, 859971 by CPUACTLR_EL1"),
            format!("CPU 3: Cortex-A57 r1p0: errata 1319537 {order}, 852523 {unused}"),
            format!("CPU 4: Cortex-A72 r1p0: errata {both}"),
        ]
    );
}
