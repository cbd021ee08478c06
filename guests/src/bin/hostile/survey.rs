//! Each thing that no honest guest does, in turn. An attempt may be answered with an exception or a value; what counts is
//! that the next instruction is ours again.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guests::exception::{Caught, survive};
use guests::machine::{GicAt, machine};
use guests::mmio::{read8, read16, read32, read64, write8, write16, write32, write64};
use guests::mmu::{self, Memory};
use guests::psci::{self, Conduit};
use guests::report::Report;
use guests::{code, instruction, mrs, msr, println, smp, uart};

use crate::storm::random::Random;

/// Tries things and counts the answers.
struct Attempts<'a> {
    class: &'a str,
    made: u32,
    refused: u32,
    last: Option<Caught>,
}

impl<'a> Attempts<'a> {
    fn new(class: &'a str) -> Self {
        Self { class, made: 0, refused: 0, last: None }
    }

    fn attempt<R>(&mut self, attempt: impl FnOnce() -> R) -> Option<Caught> {
        let caught = survive(attempt).1;
        self.count(caught);
        caught
    }

    fn execute(&mut self, instruction: u32, x0: u64) -> Option<u64> {
        let (value, caught) = code::run(instruction, x0, 0);
        self.count(caught);
        caught.is_none().then_some(value)
    }

    fn count(&mut self, caught: Option<Caught>) {
        self.made += 1;
        self.refused += u32::from(caught.is_some());
        self.last = caught.or(self.last);
    }

    fn survived(self, report: &mut Report) {
        let last = self.last.map_or(0, |caught| caught.esr);
        println!("{} attempts, {} refused, last syndrome {last:#x}", self.made, self.refused);
        report.pass(self.class);
    }
}

/// All of them.
pub fn make(report: &mut Report) {
    holes(report);
    jumps(report);
    calls(report);
    random_calls(report);
    odd_instructions(report);
    returns(report);
    identification(report);
    all_registers(report);
    register_writes(report);
    maintenance(report);
    undecodable(report);
    misaligned(report);
    every_register_of_every_device(report);
    interrupt_controller_writes(report);
    tables_nowhere(report);
}

/// Where nothing is: between devices, beyond RAM, at the top of every size of address space.
pub fn nowhere() -> impl Iterator<Item = u64> {
    let ram_end = machine().ram + machine().ram_size;
    let tops = (36..44).map(|bits| (1u64 << bits) - 0x1000);
    [0x0b00_0000, 0x0902_0000, 0x0a00_4000, ram_end, ram_end + 0x20_0000, 0x80_0000_0000]
        .into_iter()
        .chain(tops)
}

fn holes(report: &mut Report) {
    let mut attempts = Attempts::new("loads and stores where nothing is");
    for memory in [Memory::Device, Memory::NonCacheable, Memory::WriteBack] {
        for address in nowhere() {
            let at = mmu::alias(address, memory);
            attempts.attempt(|| read8(at + 3));
            attempts.attempt(|| read16(at + 2));
            attempts.attempt(|| read32(at));
            attempts.attempt(|| read64(at + 8));
            attempts.attempt(|| write8(at + 1, 0xff));
            attempts.attempt(|| write32(at + 4, u32::MAX));
            attempts.attempt(|| write64(at, u64::MAX));
        }
    }
    attempts.survived(report);
}

fn jumps(report: &mut Report) {
    let mut attempts = Attempts::new("jumps to 0, to devices and to where nothing is");
    for memory in [Memory::Device, Memory::NonCacheable, Memory::WriteBack] {
        for address in nowhere().chain([0, uart::BASE]) {
            let at = mmu::alias(address, memory);
            attempts.attempt(|| jump(at));
        }
    }
    attempts.attempt(|| jump(mmu::alias(machine().ram, Memory::WriteBack) + 2));
    attempts.attempt(|| jump(0));
    let refused = attempts.made == attempts.refused;
    attempts.survived(report);
    report.holds("none of them executes anything", refused, ());
}

/// Calls what is no code; the exception comes back by the link register.
fn jump(to: u64) {
    // SAFETY: there is nothing to execute there, the vectors return.
    unsafe { asm!("blr {}", in(reg) to, clobber_abi("C"), options(nostack)) };
}

const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;

fn calls(report: &mut Report) {
    let mut attempts = Attempts::new("HVC and SMC with every kind of immediate and id");
    for immediate in (1..0x1_0000).step_by(331) {
        attempts.execute(HVC | immediate << 5, 0x8400_0000);
        attempts.execute(SMC | immediate << 5, 0x8400_0000);
    }
    for owner in 0..64 {
        for kind in [0u64, 0x4000_0000, 0x8000_0000, 0xc000_0000] {
            attempts.execute(SMC, kind | owner << 24 | 0xf123);
            attempts.execute(HVC, kind | owner << 24 | 0xf123);
        }
    }
    attempts.survived(report);
}

/// Functions and arguments by chance, of which every other one is what some service could have; what SMCCC says is kept is.
fn random_calls(report: &mut Report) {
    const CALLS: u32 = 100_000;
    let mut random = Random::new(CALLS.into(), 0, 0);
    let (mut made, mut refused, mut lost) = (0, 0, None);
    while made < CALLS {
        let function = match random.once_in(2) {
            true => random.word(),
            // A kind and an owner, and a small number.
            false => random.word() & 0xff00_0000 | random.word() & 0xff,
        };
        if psci::ends(function) {
            continue;
        }
        let conduit = if random.once_in(2) { Conduit::Hvc } else { Conduit::Smc };
        let mut x = [0; 18];
        x.iter_mut().for_each(|x| *x = random.next());
        x[0] = x[0] & !0xffff_ffff | u64::from(function);
        // CPU_ON of a CPU that exists would start it somewhere.
        x[1] |= 1 << 31;
        let (after, caught) = survive(|| psci::call_registers(conduit, x));
        let kept = if caught.is_some() { after == x } else { after[4..] == x[4..] };
        if !kept {
            lost = lost.or(Some((conduit, x, after)));
        }
        made += 1;
        refused += u32::from(after[0] == u64::MAX);
    }
    println!("{made} calls by chance, {refused} of them of functions that nobody knows");
    report.equal("calls by chance keep x4 to x17", lost, None);
}

fn odd_instructions(report: &mut Report) {
    let mut attempts = Attempts::new("UDF, BRK, HLT, SVC, DCPS, DRPS, LSE, ERET variants");
    for instruction in [
        0x0000_0000, // UDF #0
        0xd420_0000, // BRK #0
        0xd43f_ffe0, // BRK #65535
        0xd440_0000, // HLT #0
        0xd45e_0000, // HLT #0xf000, semihosting
        0xd400_0001, // SVC #0
        0xd4a0_0001, // DCPS1
        0xd4a0_0002, // DCPS2
        0xd4a0_0003, // DCPS3
        0xd6bf_03e0, // DRPS
        0xb820_0020, // LDADD w0, w0, [x1]: not in ARMv8.0
        0x0420_0000, // SVE
        0xdac1_43e0, // PAC
        0xd503_245f, // BTI c
        0xd503_3f5f, // CLREX
        0xd503_221f, // ESB
        0xd503_40bf, // MSR UAO/PAN
        0xd500_419f, // MSR PAN, #1
        0xd503_42df, // MSR TCO
    ] {
        attempts.execute(instruction, 0);
    }
    attempts.survived(report);
}

fn returns(report: &mut Report) {
    let mut attempts = Attempts::new("ERET to EL2, EL3, AArch32 and reserved states");
    for state in [0x3c9, 0x3c8, 0x3cd, 0x3cc, 0x3c6, 0x3c3, 0x1d3, 0x1da, 0x1df] {
        attempts.attempt(|| {
            // SAFETY: an illegal return goes on at the label, in the same state but for IL.
            unsafe {
                asm!("adr {0}, 2f", "msr elr_el1, {0}", "msr spsr_el1, {1}", "isb", "eret",
                    "2: nop", "nop", out(reg) _, in(reg) state as u64, options(nostack));
            }
        });
    }
    let all = attempts.made == attempts.refused;
    attempts.attempt(|| {
        // SAFETY: SP_EL0 is nobody's; the fault is taken on SP_EL1, SP is itself again after.
        unsafe {
            asm!("mov {0}, sp", "msr spsel, #0", "add {0}, {0}, #8", "mov sp, {0}",
                "ldr {0}, [sp]", "msr spsel, #1", out(reg) _, options(nostack));
        }
    });
    attempts.survived(report);
    report.holds("each such return is refused", all, ());
}

fn identification(report: &mut Report) {
    let mut attempts = Attempts::new("the identification space, each register");
    let mut same = true;
    for (crm, op2) in (0..8).flat_map(|crm| (0..8).map(move |op2| (crm, op2))) {
        let first = attempts.execute(code::mrs(3, 0, 0, crm, op2), 0xbad);
        let again = attempts.execute(code::mrs(3, 0, 0, crm, op2), 0xbad);
        same &= first == again;
        attempts.execute(code::msr(3, 0, 0, crm, op2), u64::MAX);
    }
    attempts.survived(report);
    report.holds("it reads the same twice", same, ());
    let features = mrs!("id_aa64pfr0_el1");
    println!("ID_AA64PFR0_EL1 {features:#x}, ID_AA64DFR0_EL1 {:#x}", mrs!("id_aa64dfr0_el1"));
}

fn all_registers(report: &mut Report) {
    let mut attempts = Attempts::new("MRS of all 32768 encodings");
    for encoding in 0..0x8000u32 {
        let fields = (encoding >> 14, encoding >> 11 & 7, encoding >> 7 & 15, encoding >> 3 & 15);
        attempts.execute(code::mrs(fields.0, fields.1, fields.2, fields.3, encoding & 7), 0);
    }
    attempts.survived(report);
}

fn register_writes(report: &mut Report) {
    let mut attempts = Attempts::new("MSR of debug, PMU, implementation-defined and EL2 registers");
    let mut write = |op0, op1, crn, crm, op2, value| {
        attempts.execute(code::msr(op0, op1, crn, crm, op2), value);
    };
    for (crm, op2) in (0..16).flat_map(|crm| (0..8).map(move |op2| (crm, op2))) {
        for crn in 0..16 {
            for op1 in [0, 1, 3, 4] {
                write(2, op1, crn, crm, op2, 0);
            }
        }
        for op1 in 0..8 {
            write(3, op1, 11, crm, op2, 0);
            write(3, op1, 15, crm, op2, 0);
        }
        for crn in 0..16 {
            write(3, 4, crn, crm, op2, u64::MAX);
            write(3, 6, crn, crm, op2, u64::MAX);
        }
        write(3, 0, 9, crm, op2, u64::MAX);
        write(3, 3, 9, crm, op2, u64::MAX);
        if crm >= 8 {
            write(3, 3, 14, crm, op2, u64::MAX);
        }
    }
    // The counters that this may have started.
    write(3, 3, 9, 12, 0, 0);
    write(3, 3, 9, 12, 2, u64::MAX);
    write(3, 0, 9, 14, 2, u64::MAX);
    attempts.survived(report);
}

fn maintenance(report: &mut Report) {
    let mut attempts = Attempts::new("cache, TLB and address translation instructions");
    // SYS #op1, Cn, Cm, #op2 has the encoding of MSR with op0 = 1.
    let sys = |op1, crn, crm, op2| code::msr(0, op1, crn, crm, op2) & !(3 << 19) | 1 << 19;
    for set_way in [0u64, 0x40, 0x1000_0000, 2, u64::from(u32::MAX), u64::MAX] {
        for (crm, op2) in [(6, 2), (10, 2), (14, 2)] {
            attempts.execute(sys(0, 7, crm, op2), set_way);
        }
    }
    for address in nowhere().filter(|&at| at < mmu::ALIAS).chain([uart::BASE, 0, u64::MAX]) {
        for (crm, op2) in [(10, 1), (11, 1), (14, 1), (5, 1)] {
            attempts.execute(sys(3, 7, crm, op2), address);
        }
        attempts.execute(sys(0, 7, 6, 1), address);
        attempts.execute(sys(0, 7, 8, 0), address);
        attempts.execute(sys(4, 7, 8, 4), address);
    }
    for (crm, op2) in (0..16).flat_map(|crm| (0..8).map(move |op2| (crm, op2))) {
        for op1 in [0, 4, 6] {
            attempts.execute(sys(op1, 8, crm, op2), 0);
        }
    }
    attempts.survived(report);
}

/// A load or store of a device that leaves no syndrome to decode, or is not of this world.
macro_rules! odd_access {
    ($attempts:ident, $at:ident, $($text:literal),+) => {$(
        $attempts.attempt(|| {
            // SAFETY: reads a device or writes what it does not take; x10 to x13 are declared.
            unsafe {
                asm!("mov x10, {0}", "mov x11, #0", "mov x12, #0", $text, in(reg) $at,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, options(nostack));
            }
        });
    )+};
}

/// Read-only or harmless words of every device.
fn devices() -> [u64; 5] {
    let (distributor, second) = match machine().gic {
        GicAt::V2 { distributor, cpu_interface } => (distributor, cpu_interface + 0xfc),
        GicAt::V3 { distributor, redistributors } => (distributor, redistributors + 8),
    };
    // The identification registers: what DC ZVA and stores there hit is read-only.
    let rtc = machine().rtc.unwrap_or(0x901_0000);
    [uart::PERIPH_ID0, rtc + 0xfe0, distributor + 8, second & !7, 0xa00_0000]
}

fn undecodable(report: &mut Report) {
    let mut attempts =
        Attempts::new("pairs, write-back, exclusives, SIMD and cache ops on devices");
    msr!("cpacr_el1", 3 << 20);
    for device in devices() {
        for memory in [Memory::Device, Memory::NonCacheable, Memory::WriteBack] {
            let at = mmu::alias(device, memory);
            odd_access!(
                attempts,
                at,
                "ldp x11, x12, [x10]",
                "ldp w11, w12, [x10]",
                "stp w11, w12, [x10]",
                "ldpsw x11, x12, [x10]",
                "ldr w11, [x10], #4",
                "ldr w11, [x10, #4]!",
                "str w11, [x10], #4",
                "ldxr w11, [x10]",
                "ldaxr w11, [x10]",
                "ldxp w11, w12, [x10]",
                "stxr w13, w11, [x10]",
                "stlxr w13, w11, [x10]",
                "ldar w11, [x10]",
                "ldtr w11, [x10]",
                "ldrsb x11, [x10]",
                "ldrsw x11, [x10]",
                "ldr wzr, [x10]",
                "str wzr, [x10]",
                "dc zva, x10",
                "dc civac, x10",
                "dc ivac, x10",
                "dc cvau, x10",
                "ic ivau, x10",
                "prfm pldl1keep, [x10]",
                "at s1e1r, x10",
                ".arch_extension simd\nldr q0, [x10]",
                ".arch_extension simd\nldr s0, [x10]",
                ".arch_extension simd\nld1 {{v0.4s, v1.4s}}, [x10]",
                ".arch_extension simd\nldp q0, q1, [x10]",
                ".arch_extension simd\nstr d0, [x10]"
            );
        }
    }
    instruction!("clrex");
    attempts.survived(report);
}

fn misaligned(report: &mut Report) {
    let mut attempts =
        Attempts::new("misaligned accesses, and across the ends of pages and devices");
    for device in devices() {
        for memory in [Memory::Device, Memory::NonCacheable] {
            let at = mmu::alias(device, memory);
            for offset in 0..16 {
                attempts.attempt(|| read8(at + offset));
                attempts.attempt(|| read16(at + offset));
                attempts.attempt(|| read32(at + offset));
                attempts.attempt(|| read64(at + offset));
            }
            let end = (at | 0xfff) + 1;
            for before in 1..8 {
                attempts.attempt(|| read16(end - before));
                attempts.attempt(|| read32(end - before));
                attempts.attempt(|| read64(end - before));
            }
        }
    }
    // Half in RAM and half out of it, and at the very top of what stage 1 maps.
    let end = mmu::alias(machine().ram + machine().ram_size - 8, Memory::NonCacheable);
    for offset in 1..16 {
        attempts.attempt(|| read64(end + offset));
        attempts.attempt(|| write64(end + offset, 0));
        attempts.attempt(|| read64(0x7f_ffff_fff0 + offset));
    }
    attempts.survived(report);
}

/// Every word where registers are, and one in each 64 bytes where there are none.
fn words(size: u64) -> impl Iterator<Item = u64> {
    let dense = |offset: u64| {
        matches!(offset & 0xffff, 0..0x1100 | 0x6000..0x6800 | 0xff00..)
            || offset.is_multiple_of(64)
    };
    (0..size).step_by(4).filter(move |&offset| dense(offset))
}

fn every_register_of_every_device(report: &mut Report) {
    let mut attempts = Attempts::new("every word of every device is read");
    for device in devices() {
        for offset in words(0x1_0000) {
            attempts.attempt(|| read32((device & !0xffff) + offset));
        }
    }
    attempts.survived(report);
}

/// Interrupts are masked and no other CPU runs, so nobody suffers but the model.
fn interrupt_controller_writes(report: &mut Report) {
    let mut attempts = Attempts::new("every word of the interrupt controller is written");
    let (distributor, second, size) = match machine().gic {
        GicAt::V2 { distributor, cpu_interface } => (distributor, cpu_interface, 0x2000),
        GicAt::V3 { distributor, redistributors } => (distributor, redistributors, 0x2_0000),
    };
    let mut random = 0x2545_f491u32;
    for (base, size) in [(distributor, 0x1_0000), (second, size)] {
        for offset in words(size) {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            let at = base + offset;
            for value in [u32::MAX, random, 0] {
                attempts.attempt(|| write32(at, value));
            }
            attempts.attempt(|| write8(at + 1, 0xa5));
            attempts.attempt(|| write16(at + 2, 0xa5a5));
            attempts.attempt(|| read32(at));
        }
    }
    attempts.survived(report);
}

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static UPPER: Table = Table([const { AtomicU64::new(0) }; 512]);

/// The upper half of the address space with tables where there are none; ours stay as they are.
fn tables_nowhere(report: &mut Report) {
    let mut attempts = Attempts::new("stage-1 tables in devices and where nothing is");
    const EPD1: u64 = 1 << 23;
    const UPPER_HALF: u64 = 0xffff_ff80_0000_0000;
    let before = mrs!("tcr_el1");
    // T1SZ = 25, TG1 = 4 KiB, as the lower half.
    msr!("tcr_el1", before & !EPD1 | 25 << 16 | 0xb500_0000);
    let mut walk = |root: u64| {
        msr!("ttbr1_el1", root);
        instruction!("tlbi vmalle1");
        instruction!("dsb ish");
        instruction!("isb");
        attempts.attempt(|| read64(UPPER_HALF));
        attempts.attempt(|| write64(UPPER_HALF + 0x4000_0000, 0));
        attempts.attempt(|| jump(UPPER_HALF));
    };
    for root in nowhere().chain([uart::BASE, 0x800_0000, 0]) {
        walk(root & !0xfff);
    }
    for (entry, next) in UPPER.0.iter().zip(nowhere()) {
        entry.store(next & !0xfff | 3, Ordering::Relaxed);
    }
    walk(&raw const UPPER as u64);
    msr!("ttbr1_el1", 0);
    msr!("tcr_el1", before);
    instruction!("tlbi vmalle1");
    instruction!("dsb ish");
    instruction!("isb");
    let refused = attempts.made == attempts.refused;
    // Where EPD1 is set, a translation fault of level 0 is all that there is.
    let walked = attempts.last.is_some_and(|last| last.esr & 0x3f != 0b000100);
    attempts.survived(report);
    report.holds("there was a walk", walked, ());
    // A hypervisor's or QEMU's idea of a table in a device may be a fault or a walk through zeros.
    report.holds("each such walk is refused", refused, ());
    println!("{} other CPUs were left alone", smp::others().count());
}
