//! Instructions by chance (Arm ARM, "A64 instruction set encoding"), and the registers they need.

use guests::gic::lines;
use guests::machine::{GicAt, machine};
use guests::mmu::{self, Memory};
use guests::{entry, smp, uart};

use super::random::Random;
use super::sandbox::{Block, user};
use crate::survey::nowhere;

/// What blocks may write to: memory from a place on, and as much before it.
#[derive(Clone, Copy)]
pub struct Scratch {
    /// The middle of it.
    pub middle: u64,
    /// A call's arguments.
    pub arguments: u64,
}

/// What a block is made of.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Kind {
    /// Loads and stores, system instructions, or all sorts.
    Any,
    /// Branches to addresses where nothing is to be executed.
    Jumps,
    /// `HVC` and `SMC`.
    Calls,
}

/// Fills the block with one kind of instructions.
pub fn fill(block: &mut Block, random: &mut Random) -> Kind {
    block.user = random.once_in(4);
    block.unmasked = random.once_in(8);
    match random.below(16) {
        0..7 => (0..block.room()).for_each(|_| block.push(transfer(random))),
        7..11 => (0..block.room()).for_each(|_| block.push(system(random))),
        11 => {
            jumps(block, random);
            return Kind::Jumps;
        }
        12 | 13 => {
            calls(block, random);
            return Kind::Calls;
        }
        _ => {
            for _ in 0..block.room() {
                let instruction = match random.below(8) {
                    0..4 => transfer(random),
                    4..7 => system(random),
                    _ => odd(random),
                };
                block.push(instruction);
            }
        }
    }
    Kind::Any
}

/// Fills the registers that the block runs with, and what they lead to.
pub fn operands(block: &mut Block, kind: Kind, random: &mut Random, scratch: Scratch) {
    let ways = [Memory::Device, Memory::NonCacheable, Memory::WriteBack];
    let alias = random.once_in(16).then(|| mmu::alias(0, random.one_of(&ways)));
    for register in 0..8 {
        let at = address(random, scratch);
        block.registers[register] = match alias {
            _ if block.user => user(at),
            Some(alias) if at >> 30 == 0 => alias + at,
            _ => at,
        };
    }
    for register in 8..16 {
        block.registers[register] = random.value(scratch.middle);
    }
    for register in 16..20 {
        let added = [0, 1, 4, 8, 16, 0xff8, 0x1000, u64::MAX, 0xffff_fff8, 1 << 36, 1 << 62];
        block.registers[register] = random.one_of(&added);
    }
    block.registers[21] = if block.user { user(scratch.arguments) } else { scratch.arguments };
    match kind {
        Kind::Any => {}
        Kind::Jumps => block.registers[..8].iter_mut().for_each(|at| lead_nowhere(at, random)),
        Kind::Calls => (0..CALLS).for_each(|call| arguments(call, random, scratch)),
    }
}

/// Where an access may go.
fn address(random: &mut Random, scratch: Scratch) -> u64 {
    let machine = machine();
    match random.below(20) {
        0..6 => interrupt_controller(random),
        6..8 => 0x0a00_0000 + random.below(32 * 0x200),
        8 => uart::BASE + 0x200 + random.below(0xe00),
        9 => 0x0900_0000 + random.below(0xe_0000).max(0x1000),
        10 => machine.rtc.unwrap_or(0x0901_0000) + random.below(0x1000),
        11 => machine.gpio.unwrap_or(0x0903_0000) + random.below(0x1000),
        12..14 => nowhere().nth(random.below(14) as usize).unwrap_or(0),
        14 => 1 << random.below(40) | 1 << 39 | random.below(0x1000),
        // Beyond what stage 1 maps: a fault of the guest's own.
        15 => random.next() | 1 << 47,
        16 => machine.ram + machine.ram_size - 32 + random.below(64),
        _ => scratch.middle + random.below(0x2000),
    }
}

/// A place among its registers, mostly where there is one.
fn interrupt_controller(random: &mut Random) -> u64 {
    let (distributor, second, size) = match machine().gic {
        GicAt::V2 { distributor, cpu_interface } => (distributor, cpu_interface, 0x2000),
        GicAt::V3 { distributor, redistributors } => (distributor, redistributors, 0x8_0000),
    };
    let register = random.one_of(&[0, 0x80, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380]);
    let spread = u64::from(lines()) / 8;
    match random.below(8) {
        0 => distributor + random.below(0x1_0000),
        1 => distributor + random.one_of(&[0x400, 0x800, 0xc00, 0xf00, 0x6100]) + random.below(256),
        2..5 => distributor + register + random.below(spread),
        5 => second + random.below(size),
        6 => second + random.below(0x60) % size,
        _ => second + (0x1_0000 + register + random.below(8)) % size,
    }
}

const fn bits(value: u32, width: u32, at: u32) -> u32 {
    (value & ((1 << width) - 1)) << at
}

fn value_register(random: &mut Random) -> u32 {
    if random.once_in(8) { 31 } else { 8 + random.word() % 8 }
}

/// A load or store of any kind but literals, by `x0` to `x7`.
fn transfer(random: &mut Random) -> u32 {
    let any = random.word();
    let base = bits(any >> 5, 3, 5);
    let (first, second) = (value_register(random), value_register(random));
    let index = 16 + random.word() % 4;
    // Bits 29 to 27 and 25 are the class; which fields hold registers goes by it.
    match random.below(8) {
        0..3 => {
            // Pairs.
            any & !(0b111 << 27 | 1 << 25 | 0x7fff) | 0b101 << 27 | second << 10 | base | first
        }
        3 => {
            // Exclusives and ordered: a status register, too.
            let fixed = any & 0xc0e0_8000 | 0b00_1000 << 24;
            fixed | value_register(random) << 16 | second << 10 | base | first
        }
        4 => {
            // Structures of SIMD registers.
            let fixed = any & 0x40df_fc00 | 0b00_1100 << 24 | bits(any >> 24, 1, 24);
            let by = if any & 1 << 23 != 0 { index } else { 0 };
            fixed & !(0b1_1111 << 16) | by << 16 | base | any & 0x1f
        }
        kind => {
            // Single registers; with a register for the offset, bits 20 to 16 name it.
            let mut one = any & !(0b111 << 27 | 1 << 25 | 0x3ff) | 0b111 << 27 | base | first;
            if kind == 5 {
                one = one & !(0b1_1111 << 16 | 1 << 24) | 1 << 21 | 0b10 << 10 | index << 16;
            } else if one & 1 << 24 == 0 {
                // An atomic's second register.
                one = one & !(0b1_1111 << 16) | (8 + (one >> 16 & 7)) << 16;
            }
            one
        }
    }
}

/// `MSR`, `MRS`, `SYS`, `SYSL`, barriers and hints: anything but what the payload itself lives by.
fn system(random: &mut Random) -> u32 {
    loop {
        let any = random.word();
        let op0 = random.one_of(&[0, 1, 1, 2, 3, 3, 3, 3]);
        let mut crn = bits(any >> 12, 4, 0);
        if op0 == 3 && random.once_in(2) {
            // Where there are registers.
            crn = random.one_of(&[0, 1, 2, 5, 9, 10, 12, 13, 14, 14, 15]);
        }
        let fields = any & 0x0007_0fe0 | crn << 12;
        let read = any >> 21 & 1;
        let maintenance = op0 == 1 && crn == 7;
        let rt = if maintenance { random.word() % 8 } else { value_register(random) };
        let instruction = 0xd500_0000 | read << 21 | op0 << 19 | fields | rt;
        if !is_vital(instruction) {
            return instruction;
        }
    }
}

/// Whether the payload would not survive this itself, or would learn an address of its own.
fn is_vital(instruction: u32) -> bool {
    let field = |at: u32, width: u32| instruction >> at & ((1 << width) - 1);
    let (op0, op1, crn, crm, op2) =
        (field(19, 2), field(16, 3), field(12, 4), field(8, 4), field(5, 3));
    match (op0, op1, crn) {
        // WFI and WFIT: nobody may wake it. What follows WFE goes on by itself.
        (0, 3, 2) => crm == 0 && op2 == 3,
        (0, 3, 1) => true,
        // TTBR0, TCR, SCTLR, MAIR, VBAR; what holds an address of the payload's.
        (3, 0 | 5, 1 | 2 | 4 | 6 | 12 | 13) => crn != 12 || crm < 8 || is_binary_point(crm, op2),
        (3, 0 | 5, 10) => true,
        (3, 3, 4) => crm == 2 || crm == 5,
        (3, 0 | 5, 7) => true,
        _ => false,
    }
}

/// `ICC_BPR1_EL1`: QEMU (10.0) takes it whole and keeps three bits, so 8 becomes 0, at which an assertion of its own fails.
const fn is_binary_point(crm: u32, op2: u32) -> bool {
    crm == 12 && op2 == 3
}

/// What is no load, no store and no system instruction, and returns to the next one.
fn odd(random: &mut Random) -> u32 {
    let immediate = bits(random.word(), 16, 5);
    match random.below(8) {
        0 => random.word() & 0xffff,                    // UDF
        1 => 0xd420_0000 | immediate,                   // BRK
        2 => 0xd440_0000 | immediate,                   // HLT
        3 => 0xd400_0001 | immediate & !(1 << 9),       // SVC, and not the one that leaves
        4 => 0xd4a0_0001 + random.word() % 3,           // DCPS1 to DCPS3
        5 => 0x0400_0000 | random.word() & 0x01ff_ffff, // SVE
        6 => 0xdac1_0000 | bits(random.word(), 6, 10) | 31 << 5 | (8 + random.word() % 8), // PAC
        _ => 0xd503_201f | bits(random.word() & 0b1_1111, 5, 7) | 0b100 << 5, // hints from SEV on
    }
}

/// Branches to addresses where nothing is to be executed: the link register leads back.
fn jumps(block: &mut Block, random: &mut Random) {
    for _ in 0..8 {
        block.push(0xd63f_0000 | (random.word() % 8) << 5); // BLR
    }
}

/// An address at which there may be something to execute becomes another one.
fn lead_nowhere(address: &mut u64, random: &mut Random) {
    let at = *address;
    let code = at >> 30 == 1 || at & !(1 << 30) >= mmu::USER_RAM && at < mmu::USER_RAM + (1 << 30);
    if code || at >> 30 >= 2 && at >> 30 < 4 {
        *address = random.below(1 << 26) | random.below(4) << 47;
    }
}

/// Functions of the firmware by number.
const FUNCTIONS: [u32; 24] = [
    0x8400_0000,
    0x8400_0003,
    0xc400_0003,
    0x8400_0004,
    0xc400_0004,
    0x8400_0005,
    0xc400_0005,
    0x8400_0006,
    0x8400_0007,
    0xc400_0007,
    0x8400_000a,
    0x8400_000c,
    0x8400_000d,
    0x8400_000f,
    0x8000_0000,
    0x8000_0001,
    0x8000_8000,
    0x8000_3fff,
    0x8400_0050,
    0x8400_0053,
    0xc400_0053,
    0xc500_0020,
    0xc500_0021,
    0x8600_ff01,
];

/// Whether a call would end the machine or the CPU, or wait.
fn ends(function: u32) -> bool {
    // The upper bits of such a number say by which convention.
    matches!(
        function & !(1 << 30),
        0x8400_0001 | 0x8400_0002 | 0x8400_0008 | 0x8400_0009 | 0x8400_000e | 0x8400_0012
    )
}

const CALLS: u64 = 8;

/// `HVC` and `SMC`, of which one in eight has an immediate.
fn calls(block: &mut Block, random: &mut Random) {
    for _ in 0..CALLS {
        block.push(0xa8c1_0400 | 21 << 5); // ldp x0, x1, [x21], #16
        block.push(0xa8c1_0000 | 21 << 5 | (3 << 10) | 2); // ldp x2, x3, [x21], #16
        let immediate = if random.once_in(8) { bits(random.word(), 16, 5) } else { 0 };
        block.push(if random.once_in(2) { 0xd400_0002 } else { 0xd400_0003 } | immediate);
    }
}

/// What a call of the block's is to be made with.
fn arguments(call: u64, random: &mut Random, scratch: Scratch) {
    let mut function = random.one_of(&FUNCTIONS);
    if random.once_in(4) {
        function = random.word();
    }
    if ends(function) {
        function = 0x8400_0000;
    }
    let upper = if random.once_in(4) { random.next() & !0xffff_ffff } else { 0 };
    let mut arguments = [upper | u64::from(function), 0, 0, 0];
    arguments[1..].iter_mut().for_each(|argument| *argument = random.value(scratch.middle));
    if function & !(1 << 30) == 0x8400_0003 {
        // CPU_ON: what it starts must be the payload.
        arguments[1] = target(random);
        arguments[2] = random.one_of(&[
            entry::secondary_entry as *const () as u64,
            entry::secondary_entry as *const () as u64 + 2,
            0,
            uart::BASE,
            1 << 38,
            u64::MAX - 3,
        ]);
    }
    for (at, argument) in (0..).zip(arguments) {
        let place = (scratch.arguments + 32 * call + 8 * at) as *mut u64;
        // SAFETY: the arguments' place is this CPU's own.
        unsafe { place.write_volatile(argument) };
    }
}

/// A CPU: another, this one, or none.
fn target(random: &mut Random) -> u64 {
    let cpus = machine().cpus();
    match random.below(8) {
        0 => random.next(),
        1 => u64::MAX,
        2 => 1 << random.below(64),
        _ => random.one_of(cpus),
    }
}

/// How many other CPUs there are.
pub fn others() -> usize {
    smp::others().count()
}
