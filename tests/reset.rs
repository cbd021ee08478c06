//! Whole-hypervisor scenarios: `SYSTEM_RESET`, and CPUs stepped in any order.

use crate::common::*;
use plinth::cpu::Step;
use plinth::exit::{Exit, Width};
use plinth::machine::fake::Op;
use plinth::vgic::GicVersion::{self, V2, V3};
use plinth::vm::sysreg::names;
use proptest::prelude::*;

const UARTDR: u64 = 0x0900_0000;
const DIRTY: u64 = 0xd1;

/// A guest of two vCPUs whose first boot, told by a byte on its line, ends in resets by both, and
/// whose second ends in `SYSTEM_OFF`. Mark 99 is a register that was not reset.
fn reset_room(gic: GicVersion, cpus: u8, works: [u64; 3]) -> Room {
    let mut guests = vec![guest("resets", 2)];
    if works[2] > 0 {
        guests.push(guest("spins", 1));
    }
    let room = Room::new(gic, cpus, &guests);
    let fail = LOOP + 0x40;
    let boot = [
        Op::BranchUnless(0, 0x4000_0000, fail),
        Op::BranchUnless(6, 0, fail),
        Op::Mark(1),
        Op::Mov(6, DIRTY),
        Op::Store(UARTDR + 0x30, Width::Word, 0x301),
        Op::Load(UARTDR, Width::Byte, 5),
        Op::BranchUnless(5, u64::from(b'r'), THIRD),
        cpu_on(1, SECOND),
        Op::Work(works[0].max(1)),
        psci(SYSTEM_RESET),
    ];
    let second = [
        Op::BranchUnless(6, 0, fail),
        Op::Mov(6, DIRTY),
        Op::Mark(2),
        Op::Work(works[1].max(1)),
        psci(SYSTEM_RESET),
    ];
    let again = [cpu_on(1, THIRD + 0x80), Op::Work(20_000), psci(SYSTEM_OFF)];
    let third = [Op::BranchUnless(6, 0, fail), Op::Mark(3), Op::Branch(LOOP)];
    room.program(0, ENTRY, &boot)
        .program(0, SECOND, &second)
        .program(0, THIRD, &again)
        .program(0, THIRD + 0x80, &third)
        .program(0, LOOP, &wait_loop())
        .program(0, fail, &[Op::Mark(99), psci(SYSTEM_OFF)]);
    if works[2] > 0 {
        room.program(1, ENTRY, &[Op::Work(works[2]), psci(SYSTEM_OFF)]);
    }
    room.lines[0].type_in(b"r");
    room
}

fn all_finish(room: &mut Room) -> bool {
    (0..room.cpus.len()).all(|cpu| room.finished[cpu] || room.step(cpu) == Step::Finished)
}

#[test]
fn system_reset_boots_again_in_place_with_fresh_registers() {
    for (gic, cpus) in [(V2, 1), (V3, 1), (V2, 2), (V3, 2), (V3, 3)] {
        let mut room = reset_room(gic, cpus, [4000, 6000, 0]);
        assert!(room.run(3000));
        assert_eq!(room.marks(0, 0), [1, 1]);
        let second = room.marks(0, 1);
        assert!(!second.contains(&99) && second.last() == Some(&3), "{second:?}");
        assert!(all_finish(&mut room));
    }
}

fn cases(full: u32) -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 2 } else { full },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(16))]

    /// Both vCPUs reset, in any order of the CPUs' steps: the VM boots twice, never with a register of
    /// its first life, and ends.
    #[test]
    fn resets_that_race_reset_once(
        order in prop::collection::vec(0usize..6, 40),
        works in [1u64..900, 1u64..900, 0u64..2000], cpus in 1u8..4, two: bool,
    ) {
        let mut room = reset_room(if two { V2 } else { V3 }, cpus, works);
        let mut turn = 0;
        let quiet = room.run_by(9000, |awake| {
            turn += 1;
            awake[order.get(turn).copied().unwrap_or(turn) % awake.len()]
        });
        prop_assert!(quiet, "it never ends");
        prop_assert_eq!(room.marks(0, 0), [1, 1]);
        prop_assert!(!room.marks(0, 1).contains(&99));
        prop_assert!(all_finish(&mut room));
    }

    /// Whatever a guest does, nothing panics, it is never in two places, and its neighbour goes on.
    #[test]
    fn no_script_disturbs_the_neighbour(
        first in program(), second in program(), handler in program(),
        order in prop::collection::vec(0usize..6, 100), cpus in 1u8..4, two: bool, lrs in 1usize..5,
    ) {
        let gic = if two { V2 } else { V3 };
        let guests = [guest("any", 3), guest("neighbour", 1)];
        let mut room = Room::with(gic, cpus, lrs, &guests, Box::new(|_, _| {}));
        let (base, handles) = vectors();
        let ends = |ops: &[Op], to| [ops, &[Op::Branch(to)]].concat();
        room.program(0, base, &handles)
            .program(0, VECTORS + 0x200, &ends(&handler, LOOP))
            .program(0, ENTRY, &after_prologue(gic, 0, &ends(&first, SECOND)))
            .program(0, SECOND, &ends(&second, ENTRY))
            .program(0, LOOP, &wait_loop())
            .program(1, ENTRY, &[Op::Work(600), Op::Mark(1), psci(SYSTEM_OFF)]);
        let mut turn = 0;
        room.run_by(3000, |awake| {
            turn += 1;
            awake[order.get(turn).copied().unwrap_or(turn) % awake.len()]
        });
        prop_assert_eq!(room.marks(1, 0), [1]);
        prop_assert!(room.vm(1).has_stopped());
        let stopped = room.vm(0).has_stopped();
        prop_assert_eq!(room.hypervisor.has_finished(), stopped);
    }
}

fn program() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..20)
}

fn op() -> impl Strategy<Value = Op> {
    let place = prop_oneof![Just(ENTRY), Just(SECOND), Just(LOOP), Just(3), any::<u64>()];
    let device = prop_oneof![
        0x0800_0000u64..0x0800_1000,
        0x080a_0000u64..0x0810_0000,
        0x0900_0000u64..0x0900_1000,
        0x0901_0000u64..0x0901_0040,
        any::<u64>()
    ];
    let width = prop_oneof![Just(Width::Byte), Just(Width::Word), Just(Width::Double)];
    prop_oneof![
        4 => (0u64..4, place.clone()).prop_map(|(vcpu, entry)| cpu_on(vcpu, entry)),
        1 => Just(psci(CPU_OFF)),
        1 => prop_oneof![9 => Just(SYSTEM_RESET), 1 => Just(SYSTEM_OFF)].prop_map(psci),
        2 => any::<[u64; 4]>().prop_map(Op::Smc),
        4 => (device.clone(), width.clone(), 0u8..32).prop_map(|(at, w, to)| Op::Load(at, w, to)),
        6 => (device, width, any::<u64>()).prop_map(|(at, w, value)| Op::Store(at, w, value)),
        4 => (0usize..names::TABLE.len(), any::<u64>())
            .prop_map(|(n, value)| Op::Msr(names::TABLE[n].0, value)),
        4 => (0usize..names::TABLE.len(), 0u8..32).prop_map(|(n, to)| Op::Mrs(names::TABLE[n].0, to)),
        4 => (any::<bool>(), 0u64..16, 0u64..8)
            .prop_map(|(two, id, to)| sgi(if two { V2 } else { V3 }, id, to)),
        4 => (0u64..4, 0u64..900).prop_map(|(ctl, after)| Op::SetVirtualTimer(ctl, after)),
        4 => Just(Op::Wfi),
        1 => Just(Op::Wfe),
        3 => (1u64..900).prop_map(Op::Work),
        1 => Just(Op::Unmask),
        1 => Just(Op::Mask),
        1 => Just(Op::Exit(Exit::NotOffered)),
    ]
}
