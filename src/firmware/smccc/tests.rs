//! Claims about the calling convention, by the function identifiers of DEN0028.

use proptest::prelude::*;

use super::*;

const NOT_SUPPORTED: u64 = u64::MAX;

fn facts(mitigations: Mitigations) -> Facts {
    let ram = Region::new(Ipa::new(0x4000_0000), 0x1000_0000).unwrap();
    Facts { ram, stolen_time: Ipa::new(0x090a_0000), mitigations }
}

fn respond(registers: [u64; 8], mitigations: Mitigations) -> Response {
    let mut entropy = |out: &mut [u8]| {
        out.fill(0x5a);
        true
    };
    let mut power = [Power::On, Power::Off];
    super::call(&registers, VcpuId(0), &mut power, &facts(mitigations), &mut entropy)
}

fn ask(function: u64, first: u64) -> Response {
    respond([function, first, 0, 0, 0, 0, 0, 0], Mitigations::default())
}

/// What `SMCCC_ARCH_FEATURES` says of a workaround, and what calling it does.
fn workaround(function: u64, mitigations: Mitigations) -> (u64, u64, Effect) {
    let feature = respond([0x8000_0001, function, 0, 0, 0, 0, 0, 0], mitigations);
    let called = respond([function, 0, 0, 0, 0, 0, 0, 0], mitigations);
    (feature.results()[0], called.results()[0], called.effect)
}

#[test]
fn the_version_is_1_2() {
    assert_eq!(ask(0x8000_0000, 0).results(), [0x1_0002]);
}

#[test]
fn an_unknown_function_is_minus_one_over_all_64_bits_and_changes_x0_only() {
    for function in
        [0, 1, 0x8000_0002, 0x8400_0020, 0x8500_0000, 0xbf00_0000, 0xc300_0001, 0x95c1_ba60]
    {
        let response = ask(function, 0);
        assert_eq!(response.results(), [NOT_SUPPORTED], "{function:#x}");
        assert_eq!(response.effect, Effect::None);
    }
}

#[test]
fn the_upper_half_of_x0_is_no_part_of_the_function() {
    assert_eq!(ask(0xffff_ffff_8000_0000, 0).results(), [0x1_0002]);
}

#[test]
fn a_function_of_the_other_width_is_another_function() {
    // PSCI_VERSION, SMCCC_VERSION, CPU_OFF and SYSTEM_OFF have 32-bit identifiers only.
    for function in [0xc400_0000, 0xc000_0000, 0xc400_0002, 0xc400_0008] {
        assert_eq!(ask(function, 0).results(), [NOT_SUPPORTED]);
    }
}

#[test]
fn a_yielding_call_is_never_one_of_ours() {
    for function in [0x0000_0000, 0x0400_0000, 0x0400_0008, 0x4400_0003, 0x0600_ff01] {
        assert_eq!(ask(function, 0).results(), [NOT_SUPPORTED]);
    }
}

#[test]
fn arch_features_names_itself_and_the_version() {
    assert_eq!(ask(0x8000_0001, 0x8000_0000).results(), [0]);
    assert_eq!(ask(0x8000_0001, 0x8000_0001).results(), [0]);
    assert_eq!(ask(0x8000_0001, 0x8000_0002).results(), [NOT_SUPPORTED]);
    assert_eq!(ask(0x8000_0001, 0xc500_0020).results(), [0]);
    // Of this one PV_TIME_FEATURES tells.
    assert_eq!(ask(0x8000_0001, 0xc500_0021).results(), [NOT_SUPPORTED]);
    assert_eq!(ask(0x8000_0001, 0x8400_0000).results(), [NOT_SUPPORTED]);
}

#[test]
fn nothing_is_claimed_about_weaknesses_nobody_knows_of() {
    for function in [0x8000_8000, 0x8000_7fff, 0x8000_3fff] {
        let answer = workaround(function, Mitigations::default());
        assert_eq!(answer, (NOT_SUPPORTED, NOT_SUPPORTED, Effect::None));
    }
}

#[test]
fn a_workaround_that_is_not_needed_is_said_so_and_harmless_to_call() {
    let none_needed = Mitigations {
        branch_target: Mitigation::NotNeeded,
        store_bypass_not_needed: true,
        branch_history: Mitigation::NotNeeded,
    };
    assert_eq!(workaround(0x8000_8000, none_needed), (1, 0, Effect::None));
    assert_eq!(workaround(0x8000_3fff, none_needed), (1, 0, Effect::None));
    // WORKAROUND_2 has a code of its own for this, and must not be called then.
    assert_eq!(workaround(0x8000_7fff, none_needed), (-2i64 as u64, NOT_SUPPORTED, Effect::None));
}

#[test]
fn a_workaround_of_the_firmware_can_be_called_and_is_all_that_can() {
    let target = Mitigations { branch_target: Mitigation::Firmware, ..Mitigations::default() };
    assert_eq!(workaround(0x8000_8000, target), (0, 0, Effect::None));
    let absent = (NOT_SUPPORTED, NOT_SUPPORTED, Effect::None);
    assert_eq!(workaround(0x8000_3fff, target), absent);
    let history = Mitigations { branch_history: Mitigation::Firmware, ..Mitigations::default() };
    assert_eq!(workaround(0x8000_3fff, history), (0, 0, Effect::None));
    assert_eq!(workaround(0x8000_8000, history), absent);
}

#[test]
fn the_hypervisor_tells_its_uuid_and_revision() {
    let uid = ask(0x8600_ff01, 0);
    assert_eq!(uid.results(), [0x6087_efe6, 0x204f_5613, 0x096d_90b4, 0x7cfa_147d]);
    assert_eq!(ask(0x8600_ff03, 0).results(), [0, 1]);
}

#[test]
fn psci_trng_and_stolen_time_are_reached_by_the_same_door() {
    assert_eq!(ask(0xc500_0021, 0).results(), [0x090a_0000]);
    assert_eq!(ask(0x8400_0000, 0).results(), [0x1_0001]);
    assert_eq!(ask(0x8400_0008, 0).effect, Effect::SystemOff);
    assert_eq!(ask(0x8400_0050, 0).results(), [0x1_0000]);
    assert_eq!(ask(0xc400_0053, 64).results(), [0, 0, 0, 0x5a5a_5a5a_5a5a_5a5a]);
}

/// Every owner, both widths, fast and yielding, and the low functions and the general queries of each.
#[test]
fn no_function_identifier_panics_or_answers_with_more_than_four_registers() {
    let step = crate::testing::pick(1, 37);
    for owner in 0..=0xffu64 {
        for function in (0..0x60).chain(0xff00..0xff10).chain(0x3ff0..0x4000).step_by(step) {
            let response = ask(owner << 24 | function, 1);
            assert!(response.results().len() <= 4);
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(1024, 1))]

    #[test]
    fn no_registers_whatever_panic(
        registers in prop::array::uniform8(any::<u64>()),
        function in prop_oneof![any::<u64>(), (0u64..0x100, 0u64..0x60).prop_map(|(owner, low)| owner << 24 | low)],
        caller in any::<u8>(),
        vcpus in 0usize..9,
        has_entropy in any::<bool>(),
    ) {
        let [_, rest @ ..] = registers;
        let mut registers = [function, 0, 0, 0, 0, 0, 0, 0];
        registers[1..].copy_from_slice(&rest);
        let mut power = [Power::On; 8];
        let facts = facts(Mitigations::default());
        super::call(&registers, VcpuId(caller), &mut power[..vcpus], &facts, &mut |_| has_entropy);
    }
}

/// Every owner, both conventions and both kinds of call, around all numbers anybody uses.
#[test]
fn a_quick_answer_is_the_one_that_a_call_gives() {
    let numbers = (0..0x120).chain(0xfeff..=0xffff);
    let mut answered = 0;
    for number in numbers.step_by(crate::testing::pick(1, 32)) {
        for top in (0..=u8::MAX).step_by(crate::testing::pick(1, 4)) {
            let function = u32::from(top) << 24 | number;
            let Some(answer) = answer(function) else { continue };
            let response = ask(function.into(), 0x1234);
            assert_eq!(response.results(), [answer], "{function:#x}");
            assert_eq!(response.effect, Effect::None, "{function:#x}");
            answered += 1;
        }
    }
    assert!(answered > 0);
    assert_eq!((answer(0x8400_0000), answer(0x8400_0008)), (Some(0x1_0001), None));
}
