//! Whole-hypervisor scenarios: accesses to devices that the syndrome does not describe.

use crate::common::*;
use plinth::addr::Ipa;
use plinth::exit::{Exit, FaultSource, StageTwoFault, Width};
use plinth::machine::El1Register;
use plinth::machine::fake::{Op, SYNC_VECTOR};
use plinth::vgic::GicVersion::{self, V2, V3};
use plinth::vm::layout;

const UART: u64 = layout::UART.base.raw();
const RTC: u64 = layout::RTC.base.raw();
const GICD: u64 = layout::GICD.base.raw();
/// `GICD_IPRIORITYR8` to `11`: priorities of 16 SPIs.
const PRIORITIES: u64 = GICD + 0x420;
/// Where the PL011 says what it is: eight words, each with a byte of it.
const IDENTITY: u64 = UART + 0xfe0;
const NAME: [u64; 8] = [0x11, 0x10, 0x14, 0, 0x0d, 0xf0, 0x05, 0xb1];

/// `ESR_EL1` of a synchronous external abort on a load; on a store it has `WnR`.
const ABORT: u64 = 0x25 << 26 | 1 << 25 | 0b01_0000;
const WNR: u64 = 1 << 6;

const LDP_W: u32 = 0x2940_0000;
const STP_W: u32 = 0x2900_0000;
const LDP_S: u32 = 0x2d40_0000;
const STP_S: u32 = 0x2d00_0000;
const LDR_W_POST: u32 = 0xb840_0400;
const STR_W_PRE: u32 = 0xb800_0c00;
const LDRSB_X_POST: u32 = 0x3880_0400;
const LDR_Q: u32 = 0x3dc0_0000;
const STR_Q: u32 = 0x3d80_0000;
const LDR_S: u32 = 0xbd40_0000;
const STR_S: u32 = 0xbd00_0000;
const STR_D: u32 = 0xfd00_0000;

/// An instruction that moves `rt`, and `rt2` where there is one, by `rn`.
const fn by(form: u32, rt: u32, rt2: u32, rn: u32) -> u32 {
    form | rt2 << 10 | rn << 5 | rt
}

enum Step {
    Does(Op),
    /// An access that fails at this address, by this instruction.
    Accesses(u32, u64),
    /// The same, but the instruction that has failed was a store where this is a load, or the other way round.
    HasChanged(u32, u64),
}
use Step::{Accesses, Does, HasChanged};

/// A guest goes through these steps. The marks that it has left, and the exceptions that it was given.
fn run(gic: GicVersion, steps: Vec<Step>) -> (Vec<u64>, Vec<u64>) {
    // `L` of a pair; `opc` of one, which is more than 1 for a load with a sign and for a store of a 128-bit register.
    let is_load = |instruction: u32| match (instruction >> 27 & 0b111, instruction >> 26 & 1) {
        (0b101, _) => instruction >> 22 & 1 != 0,
        (_, 0) => instruction >> 22 & 0b11 != 0,
        _ => instruction >> 22 & 1 != 0,
    };
    let (mut ops, mut code) = (vec![], vec![]);
    let fails = |at, write| {
        let (ipa, far, source) = (Some(Ipa::new(at)), Some(at), FaultSource::Data { write });
        Op::Exit(Exit::Fault(StageTwoFault { ipa, far, source, walk: false }))
    };
    for step in steps {
        let (op, word) = match step {
            Does(op) => (op, 0),
            Accesses(instruction, at) => (fails(at, !is_load(instruction)), instruction),
            HasChanged(instruction, at) => (fails(at, is_load(instruction)), instruction),
        };
        ops.push(op);
        code.extend(word.to_le_bytes());
    }
    ops.push(psci(SYSTEM_OFF));
    let kernel = elf(ENTRY, &code, 0x2000);
    let mut room = Room::new(gic, 1, &[Guest { kernel, ..guest("one", 1) }]);
    room.program(0, ENTRY, &ops);
    room.program(0, VECTORS + SYNC_VECTOR, &[Op::Mark(0xdead), psci(SYSTEM_OFF)]);
    assert!(room.run(400), "it comes to an end");
    (room.marks(0, 0), room.injected(0, 0))
}

/// Leaves a mark if a register has this value, and ends if not.
fn has(register: u8, value: u64) -> [Step; 2] {
    [Does(Op::BranchUnless(register, value, LOOP)), Does(Op::Mark(value))]
}

fn begin() -> Vec<Step> {
    vec![Does(Op::SetVector(VECTORS))]
}

#[test]
fn a_pair_is_loaded_and_stored_and_the_next_instruction_follows() {
    for gic in [V2, V3] {
        let mut steps = begin();
        steps.push(Does(Op::Mov(1, IDENTITY)));
        steps.push(Accesses(by(LDP_W, 2, 3, 1), IDENTITY));
        steps.extend(has(2, NAME[0]).into_iter().chain(has(3, NAME[1])));
        for (register, value) in [(4, 0x1010_2020), (5, 0x3030_4040), (6, PRIORITIES)] {
            steps.push(Does(Op::Mov(register, value)));
        }
        steps.push(Accesses(by(STP_W, 4, 5, 6), PRIORITIES));
        steps.push(Does(Op::Load(PRIORITIES, Width::Word, 7)));
        steps.push(Does(Op::Load(PRIORITIES + 4, Width::Word, 8)));
        steps.extend(has(7, 0x1010_2020).into_iter().chain(has(8, 0x3030_4040)));
        steps.push(Accesses(by(LDP_W, 9, 31, 6), PRIORITIES));
        steps.extend(has(9, 0x1010_2020).into_iter().chain(has(6, PRIORITIES)));
        let marks = vec![0x11, 0x10, 0x1010_2020, 0x3030_4040, 0x1010_2020, PRIORITIES];
        assert_eq!(run(gic, steps), (marks, vec![]));
    }
}

#[test]
fn a_base_is_written_back_and_a_sign_is_extended() {
    let mut steps = begin();
    steps.push(Does(Op::Mov(1, IDENTITY)));
    // Post-indexed by 4, twice.
    steps.push(Accesses(by(LDR_W_POST | 4 << 12, 2, 0, 1), IDENTITY));
    steps.push(Accesses(by(LDR_W_POST | 4 << 12, 3, 0, 1), IDENTITY + 4));
    steps.extend(has(2, NAME[0]).into_iter().chain(has(3, NAME[1])).chain(has(1, IDENTITY + 8)));
    // Pre-indexed by 4, from the data register to the match register.
    for (register, value) in [(4, RTC), (5, 0x1234_5678)] {
        steps.push(Does(Op::Mov(register, value)));
    }
    steps.push(Accesses(by(STR_W_PRE | 4 << 12, 5, 0, 4), RTC + 4));
    steps.push(Does(Op::Load(RTC + 4, Width::Word, 6)));
    steps.extend(has(6, 0x1234_5678).into_iter().chain(has(4, RTC + 4)));
    // A byte of a priority, negative.
    steps.push(Does(Op::Store(PRIORITIES, Width::Word, 0xf0)));
    steps.push(Does(Op::Mov(7, PRIORITIES)));
    steps.push(Accesses(by(LDRSB_X_POST | 0x1ff << 12, 8, 0, 7), PRIORITIES));
    steps.extend(has(8, 0xffff_ffff_ffff_fff0).into_iter().chain(has(7, PRIORITIES - 1)));
    let marks =
        vec![0x11, 0x10, IDENTITY + 8, 0x1234_5678, RTC + 4, 0xffff_ffff_ffff_fff0, PRIORITIES - 1];
    assert_eq!(run(V2, steps), (marks, vec![]));
}

#[test]
fn simd_registers_move_as_others_do() {
    let mut steps = begin();
    for (register, value) in [(1, IDENTITY + 16), (2, PRIORITIES), (3, RTC + 4)] {
        steps.push(Does(Op::Mov(register, value)));
    }
    steps.push(Accesses(by(LDP_S, 30, 31, 1), IDENTITY + 16));
    steps.push(Accesses(by(STP_S, 31, 30, 2), PRIORITIES));
    steps.push(Does(Op::Load(PRIORITIES, Width::Word, 4)));
    steps.push(Does(Op::Load(PRIORITIES + 4, Width::Word, 5)));
    // Of a priority, five bits are kept.
    steps.extend(has(4, NAME[5]).into_iter().chain(has(5, NAME[4] & 0xf8)));
    steps.push(Does(Op::Store(RTC + 4, Width::Word, 0x89ab_cdef)));
    steps.push(Accesses(by(LDR_S, 7, 0, 3), RTC + 4));
    steps.push(Does(Op::Store(RTC + 4, Width::Word, 0)));
    steps.push(Accesses(by(STR_S, 7, 0, 3), RTC + 4));
    steps.push(Does(Op::Load(RTC + 4, Width::Word, 6)));
    steps.extend(has(6, 0x89ab_cdef));
    assert_eq!(run(V2, steps), (vec![0xf0, 0x08, 0x89ab_cdef], vec![]));
}

/// A big-endian guest's bytes change places within each register.
#[test]
fn a_big_endian_guest_moves_the_same_bytes_the_other_way_round() {
    for big_endian in [false, true] {
        let mut steps = begin();
        let sctlr = if big_endian { 1 << 25 } else { 0 };
        steps.push(Does(Op::SetEl1(El1Register::Sctlr, sctlr)));
        for (register, value) in [(1, IDENTITY), (2, PRIORITIES)] {
            steps.push(Does(Op::Mov(register, value)));
        }
        let order = |word: u32| u64::from(if big_endian { word.swap_bytes() } else { word });
        steps.push(Accesses(by(LDP_W, 4, 5, 1), IDENTITY));
        steps.extend(has(4, order(0x11)).into_iter().chain(has(5, order(0x10))));
        let marks = vec![order(0x11), order(0x10)];
        assert_eq!(run(V2, steps), (marks, vec![]), "{big_endian}");
    }
}

#[test]
fn what_is_not_decoded_or_does_not_fit_is_an_abort() {
    let lone = |instruction, base, at| {
        let mut steps = begin();
        steps.push(Does(Op::Mov(1, base)));
        steps.push(Accesses(instruction, at));
        steps.push(Does(Op::Mark(1)));
        run(V3, steps)
    };
    let refused = (vec![0xdead], vec![ABORT]);
    // An exclusive, and structures of one register.
    assert_eq!(lone(0x885f_7c22, IDENTITY, IDENTITY), refused, "ldxr w2, [x1]");
    // The registers lead elsewhere, to before it and behind it.
    let pair = by(LDP_W, 2, 3, 1);
    assert_eq!(lone(pair, IDENTITY + 4, IDENTITY), refused);
    assert_eq!(lone(pair, IDENTITY - 8, IDENTITY), refused);
    // Its second half is what has failed: the first is in the same page.
    assert_eq!(lone(pair, IDENTITY - 4, IDENTITY), (vec![1], vec![]));
    // Half of it is behind the device; it is not aligned; nothing is there.
    assert_eq!(lone(pair, UART + 0xffc, UART + 0xffc), refused);
    assert_eq!(lone(pair, IDENTITY + 1, IDENTITY + 1), refused);
    assert_eq!(lone(pair, 0x2000_0000, 0x2000_0000), refused);
    // By the stack pointer; a base that is loaded as well.
    assert_eq!(lone(by(LDP_W, 2, 3, 31), IDENTITY, IDENTITY), refused);
    assert_eq!(lone(by(LDR_W_POST, 1, 0, 1), IDENTITY, IDENTITY), refused);
}

/// A register of 128 bits is one number: in a big-endian guest its lower half is what is at the higher address.
#[test]
fn the_halves_of_a_long_register_are_in_the_guests_order() {
    // GICD_IROUTER<n> of three SPIs, to vCPU 0 but for the second.
    let route = |spi: u64| GICD + 0x6000 + 8 * (32 + spi);
    for big_endian in [false, true] {
        let order = |double: u64| if big_endian { double.swap_bytes() } else { double };
        let mut steps = begin();
        let sctlr = if big_endian { 1 << 25 } else { 0 };
        steps.push(Does(Op::SetEl1(El1Register::Sctlr, sctlr)));
        for (register, value) in [(1, route(0)), (2, route(2))] {
            steps.push(Does(Op::Mov(register, value)));
        }
        steps.push(Does(Op::Store(route(1), Width::Double, order(1))));
        steps.push(Accesses(by(LDR_Q, 3, 0, 1), route(0)));
        steps.push(Accesses(by(STR_D, 3, 0, 2), route(2)));
        steps.push(Does(Op::Load(route(2), Width::Double, 4)));
        let lower = if big_endian { order(1) } else { 0 };
        steps.extend(has(4, lower));
        // All of it, back to where it came from in the same order.
        steps.push(Accesses(by(STR_Q, 3, 0, 2), route(2)));
        steps.push(Does(Op::Load(route(2), Width::Double, 5)));
        steps.push(Does(Op::Load(route(3), Width::Double, 6)));
        steps.extend(has(5, 0).into_iter().chain(has(6, order(1))));
        assert_eq!(run(V3, steps), (vec![lower, 0, order(1)], vec![]), "{big_endian}");
    }
}

#[test]
fn a_store_that_has_become_a_load_or_a_load_a_store_is_not_carried_out() {
    let changed = |instruction| {
        let mut steps = begin();
        steps.push(Does(Op::Mov(1, RTC + 4)));
        steps.push(HasChanged(instruction, RTC + 4));
        steps.push(Does(Op::Mark(1)));
        run(V2, steps)
    };
    assert_eq!(changed(by(LDR_S, 2, 0, 1)), (vec![0xdead], vec![ABORT | WNR]));
    assert_eq!(changed(by(STR_S, 2, 0, 1)), (vec![0xdead], vec![ABORT]));
}
