//! Claims about PSCI, by the function identifiers of DEN0022.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const RAM_SIZE: u64 = 0x1000_0000;
const ENTRY: u64 = 0x4008_0000;

const SUCCESS: u64 = 0;
const NOT_SUPPORTED: u64 = -1i64 as u64;
const INVALID_PARAMETERS: u64 = -2i64 as u64;
const ALREADY_ON: u64 = -4i64 as u64;
const ON_PENDING: u64 = -5i64 as u64;
const INVALID_ADDRESS: u64 = -9i64 as u64;

const PENDING: Power = Power::OnPending { entry: Ipa::new(ENTRY), context_id: 7 };

fn ram() -> Region<Ipa> {
    Region::new(Ipa::new(0x4000_0000), RAM_SIZE).unwrap()
}

fn call_by(caller: u8, power: &mut [Power], function: u64, args: [u64; 3]) -> Response {
    let [first, second, third] = args;
    let call = Call::new(&[function, first, second, third, 0, 0, 0, 0]);
    super::call(&call, VcpuId(caller), power, ram()).expect("a function of PSCI")
}

fn ask(power: &mut [Power], function: u64, args: [u64; 3]) -> u64 {
    call_by(0, power, function, args).results()[0]
}

#[test]
fn the_version_is_1_1_and_no_trusted_os_wants_migration() {
    assert_eq!(ask(&mut [Power::On], 0x8400_0000, [0; 3]), 0x1_0001);
    assert_eq!(ask(&mut [Power::On], 0x8400_0006, [0; 3]), 2);
}

#[test]
fn features_tells_exactly_what_answers() {
    for function in (0x8400_0000..0x8400_0050).chain(0xc400_0000..0xc400_0050) {
        let call = Call::new(&[function, 0, ENTRY, 0, 0, 0, 0, 0]);
        let answers = super::call(&call, VcpuId(0), &mut [Power::On], ram()).is_some();
        let expected = if answers { SUCCESS } else { NOT_SUPPORTED };
        assert_eq!(ask(&mut [Power::On], 0x8400_000a, [function, 0, 0]), expected, "{function:#x}");
    }
    // SMCCC_VERSION, as DEN0028 wants it to be found; an architecture call that is not PSCI's.
    assert_eq!(ask(&mut [Power::On], 0x8400_000a, [0x8000_0000, 0, 0]), SUCCESS);
    assert_eq!(ask(&mut [Power::On], 0x8400_000a, [0x8000_0001, 0, 0]), NOT_SUPPORTED);
}

#[test]
fn cpu_on_of_a_vcpu_that_is_off_leaves_its_start_pending() {
    for function in [0x8400_0003, 0xc400_0003] {
        let mut power = [Power::On, Power::Off];
        let response = call_by(0, &mut power, function, [1, ENTRY, 7]);
        assert_eq!(response.results(), [SUCCESS]);
        assert_eq!(response.effect, Effect::CpuOn { target: VcpuId(1) });
        assert_eq!(power, [Power::On, PENDING]);
    }
}

#[test]
fn cpu_on_in_any_other_state_changes_nothing() {
    for (state, answer) in [(Power::On, ALREADY_ON), (PENDING, ON_PENDING)] {
        let mut power = [Power::On, state];
        let response = call_by(0, &mut power, 0xc400_0003, [1, ENTRY + 4, 8]);
        assert_eq!((response.results(), response.effect), (&[answer][..], Effect::None));
        assert_eq!(power[1], state);
    }
    assert_eq!(ask(&mut [Power::On], 0xc400_0003, [0, ENTRY, 0]), ALREADY_ON);
}

#[test]
fn cpu_on_of_no_vcpu_is_invalid_in_every_affinity_level_and_reserved_bit() {
    for target in (1..64).map(|bit| 1u64 << bit).chain([2, 8, 255, u64::MAX]) {
        let mut power = [Power::Off, Power::Off];
        let answer = ask(&mut power, 0xc400_0003, [target, ENTRY, 0]);
        if target != 0 && target != 1 {
            assert_eq!(answer, INVALID_PARAMETERS, "{target:#x}");
            assert_eq!(power, [Power::Off, Power::Off]);
        }
    }
}

#[test]
fn cpu_on_outside_ram_or_at_no_instruction_is_an_invalid_address() {
    let end = 0x4000_0000 + RAM_SIZE;
    for entry in [0, 0x3fff_fffc, ENTRY + 1, ENTRY + 2, end - 2, end, u64::MAX, !3] {
        let mut power = [Power::On, Power::Off];
        assert_eq!(ask(&mut power, 0xc400_0003, [1, entry, 0]), INVALID_ADDRESS, "{entry:#x}");
        assert_eq!(power[1], Power::Off);
    }
    for entry in [0x4000_0000, end - 4] {
        assert_eq!(ask(&mut [Power::On, Power::Off], 0xc400_0003, [1, entry, 0]), SUCCESS);
    }
}

#[test]
fn the_32_bit_cpu_on_looks_at_w_registers_only() {
    const HIGH: u64 = 0xdead_beef << 32;
    let mut power = [Power::On, Power::Off];
    let answer = ask(&mut power, HIGH | 0x8400_0003, [HIGH | 1, HIGH | ENTRY, HIGH | 7]);
    assert_eq!((answer, power[1]), (SUCCESS, PENDING));
    // The 64-bit one takes the whole context, and the whole target.
    let mut power = [Power::On, Power::Off];
    assert_eq!(ask(&mut power, 0xc400_0003, [HIGH | 1, ENTRY, 7]), INVALID_PARAMETERS);
    assert_eq!(ask(&mut power, 0xc400_0003, [1, ENTRY, HIGH | 7]), SUCCESS);
    assert_eq!(power[1].take_start().unwrap().context_id, HIGH | 7);
}

#[test]
fn only_a_pending_start_can_be_taken_and_only_once() {
    let mut power = PENDING;
    assert_eq!(power.take_start(), Some(Start { entry: Ipa::new(ENTRY), context_id: 7 }));
    assert_eq!(power, Power::On);
    assert_eq!(power.take_start(), None);
    let mut power = Power::Off;
    assert_eq!(power.take_start(), None);
    assert_eq!(power, Power::Off);
}

#[test]
fn cpu_off_does_not_return_and_the_vcpu_can_be_turned_on_again() {
    let mut power = [Power::On, Power::On];
    let response = call_by(1, &mut power, 0x8400_0002, [0; 3]);
    assert_eq!((response.results(), response.effect), (&[][..], Effect::CpuOff));
    assert_eq!(power, [Power::On, Power::Off]);
    assert_eq!(ask(&mut power, 0xc400_0003, [1, ENTRY, 7]), SUCCESS);
    assert_eq!(power[1], PENDING);
}

#[test]
fn affinity_info_of_a_vcpu_is_its_power_state() {
    for function in [0x8400_0004, 0xc400_0004] {
        for (state, answer) in [(Power::On, 0), (Power::Off, 1), (PENDING, 2)] {
            let mut power = [Power::On, state];
            assert_eq!(ask(&mut power, function, [1, 0, 0]), answer);
            assert_eq!(power[1], state);
        }
    }
}

#[test]
fn affinity_info_of_a_higher_level_is_that_of_all_vcpus() {
    for level in 1..=3 {
        // Fields below the level do not count.
        let target = (1 << (8 * level)) - 1;
        assert_eq!(ask(&mut [Power::Off, Power::On], 0xc400_0004, [target, level, 0]), 0);
        assert_eq!(ask(&mut [Power::Off, Power::Off], 0xc400_0004, [target, level, 0]), 1);
        assert_eq!(ask(&mut [Power::Off, PENDING], 0xc400_0004, [target, level, 0]), 2);
    }
    assert_eq!(ask(&mut [Power::On], 0xc400_0004, [0x100, 1, 0]), INVALID_PARAMETERS);
    assert_eq!(ask(&mut [Power::On], 0xc400_0004, [1 << 32, 3, 0]), INVALID_PARAMETERS);
}

#[test]
fn affinity_info_of_nothing_is_invalid() {
    for target in [1, 8, 0x100, 1 << 24, 1 << 31, 1 << 32, 1 << 40, 1 << 63, u64::MAX] {
        assert_eq!(ask(&mut [Power::On], 0xc400_0004, [target, 0, 0]), INVALID_PARAMETERS);
    }
    for level in [4, 255, u64::MAX] {
        assert_eq!(ask(&mut [Power::On], 0xc400_0004, [0, level, 0]), INVALID_PARAMETERS);
    }
}

#[test]
fn cpu_suspend_waits_in_standby_and_in_powerdown() {
    for function in [0x8400_0001, 0xc400_0001] {
        for power_state in [0, 0xffff, 0x1_0000, 0x1_0001] {
            let mut power = [Power::On];
            let response = call_by(0, &mut power, function, [power_state, ENTRY, 0]);
            assert_eq!((response.results(), response.effect), (&[0][..], Effect::Suspend));
            assert_eq!(power, [Power::On]);
        }
    }
}

#[test]
fn cpu_suspend_refuses_reserved_bits_higher_levels_and_bad_entries() {
    for bit in 17..32 {
        let answer = ask(&mut [Power::On], 0xc400_0001, [1 << bit, ENTRY, 0]);
        assert_eq!(answer, INVALID_PARAMETERS, "bit {bit}");
    }
    assert_eq!(ask(&mut [Power::On], 0xc400_0001, [0x1_0000, 0, 0]), INVALID_ADDRESS);
    // Standby returns where it was called: its entry does not count.
    assert_eq!(ask(&mut [Power::On], 0xc400_0001, [0, 0, 0]), SUCCESS);
}

#[test]
fn the_system_can_be_turned_off_and_reset_by_any_vcpu() {
    for (function, effect) in [
        (0x8400_0008, Effect::SystemOff),
        (0x8400_0009, Effect::SystemReset),
        (0x8400_0012, Effect::SystemReset),
        (0xc400_0012, Effect::SystemReset),
    ] {
        let response = call_by(1, &mut [Power::On, Power::On], function, [0; 3]);
        assert_eq!((response.results(), response.effect), (&[][..], effect));
    }
}

#[test]
fn system_reset2_has_the_warm_reset_only() {
    for function in [0x8400_0012, 0xc400_0012] {
        for kind in [1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            let response = call_by(0, &mut [Power::On], function, [kind, 0, 0]);
            assert_eq!(response.results(), [INVALID_PARAMETERS], "type {kind:#x}");
            assert_eq!(response.effect, Effect::None);
        }
    }
}

/// One step of one of two vCPUs that turn each other on and themselves off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    TurnOnOther { context_id: u64 },
    TurnOff,
    Start,
}

/// Does `step` by `vcpu` if it can be done in its state. Returns the context id it has started with.
fn take(step: Step, vcpu: u8, power: &mut [Power; 2], promised: &mut [Option<u64>; 2]) {
    let (me, other) = (usize::from(vcpu), usize::from(1 - vcpu));
    match step {
        Step::TurnOnOther { context_id } if power[me] == Power::On => {
            let before = power[other];
            let args = [other as u64, ENTRY, context_id];
            match (before, call_by(vcpu, power, 0xc400_0003, args).results()) {
                (Power::Off, [SUCCESS]) => promised[other] = Some(context_id),
                (Power::On, [ALREADY_ON]) | (Power::OnPending { .. }, [ON_PENDING]) => {
                    assert_eq!(power[other], before);
                }
                wrong => panic!("{wrong:?}"),
            }
        }
        Step::TurnOff if power[me] == Power::On => {
            call_by(vcpu, power, 0x8400_0002, [0; 3]);
            assert_eq!(power[me], Power::Off);
        }
        Step::Start => {
            let started = power[me].take_start().map(|start| start.context_id);
            assert_eq!(started, promised[me].take());
        }
        Step::TurnOnOther { .. } | Step::TurnOff => {}
    }
}

/// Every order in which two vCPUs can do their four steps each: each start that was promised with
/// SUCCESS happens exactly once, with its own context, and none other happens.
#[test]
fn no_start_is_lost_or_doubled_in_any_interleaving() {
    let steps = |base| {
        [
            Step::TurnOnOther { context_id: base },
            Step::TurnOff,
            Step::Start,
            Step::TurnOnOther { context_id: base + 1 },
        ]
    };
    let programs = [steps(10), steps(20)];
    for initial in [[Power::On, Power::On], [Power::On, Power::Off], [Power::On, PENDING]] {
        let orders = (0..1u32 << 8).filter(|order| order.count_ones() == 4);
        for order in orders.step_by(crate::testing::pick(1, 9)) {
            let mut power = initial;
            let mut promised = [None; 2];
            if initial[1] == PENDING {
                promised[1] = Some(7);
            }
            let mut next = [0usize; 2];
            for turn in 0..8 {
                let vcpu = (order >> turn & 1) as u8;
                let step = programs[usize::from(vcpu)][next[usize::from(vcpu)]];
                next[usize::from(vcpu)] += 1;
                take(step, vcpu, &mut power, &mut promised);
            }
            for (state, promise) in power.iter().zip(promised) {
                assert_eq!(matches!(state, Power::OnPending { .. }), promise.is_some());
            }
        }
    }
}

fn any_power() -> impl Strategy<Value = Power> {
    prop_oneof![Just(Power::Off), Just(PENDING), Just(Power::On)]
}

proptest! {
    #![proptest_config(crate::testing::cases(512, 1))]

    #[test]
    fn no_call_panics_and_only_success_changes_a_state(
        function in prop_oneof![0x8400_0000u64..0x8400_0020, 0xc400_0000u64..0xc400_0020, any::<u64>()],
        args in prop::array::uniform3(prop_oneof![0u64..9, Just(ENTRY), any::<u64>()]),
        caller in any::<u8>(),
        power in prop::collection::vec(any_power(), 0..9),
    ) {
        let [first, second, third] = args;
        let call = Call::new(&[function, first, second, third, 0, 0, 0, 0]);
        let mut after = power.clone();
        let response = super::call(&call, VcpuId(caller), &mut after, ram());
        let changed: Vec<usize> =
            (0..power.len()).filter(|index| power[*index] != after[*index]).collect();
        match response.map(|response| response.effect) {
            Some(Effect::CpuOn { target }) => prop_assert_eq!(changed, [usize::from(target.0)]),
            Some(Effect::CpuOff) => prop_assert!(changed.iter().all(|index| *index == usize::from(caller))),
            _ => prop_assert_eq!(changed, []),
        }
    }
}
