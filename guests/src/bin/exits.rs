//! Does what is left and come back to stay as it was? Every immediate of `HVC` and `SMC`; all registers around each way out of a
//! guest; states with bits that mean nothing; big-endian accesses; a step and a watchpoint where the hypervisor emulates.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::mem::offset_of;

use guests::exception::{self, survive};
use guests::report::Report;
use guests::timer::Timer;
use guests::user::{self, A64, User};
use guests::{fp, gic, instruction, machine, mmu, mrs, msr, println, psci, uart};

guests::payload!(main);

const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;
const SVC: u32 = 0xd400_0001;
const RET: u32 = 0xd65f_03c0;
/// `ESR_EL1` of an UNDEFINED instruction.
const UNDEFINED: u64 = 1 << 25;

fn main(report: &mut Report) {
    fp::enable();
    gic::init();
    gic::enable(Timer::Virtual.intid());
    for (name, call) in [("HVC", HVC), ("SMC", SMC)] {
        println!("{name}:");
        immediates(report, call);
    }
    registers(report);
    states(report);
    big_endian(report);
    user::prepare();
    big_endian_user(report);
    msr!("oslar_el1", 0);
    debug_user(report);
    debug(report);
}

/// How many instructions stand behind each other: the vectors bear no more exceptions.
const ROW: u32 = 64;

#[repr(C, align(4096))]
struct Code([u32; ROW as usize + 1]);

static mut CODE: Code = Code([0; ROW as usize + 1]);

/// All that there are: each but 0 is UNDEFINED, at its own address, and 0 is a call.
fn immediates(report: &mut Report, call: u32) {
    let code = (&raw mut CODE).cast::<u32>();
    let mut wrong = None;
    for first in (0..0x1_0000).step_by(ROW as usize) {
        for at in 0..ROW {
            // SAFETY: in the array, which is referred to by nobody.
            unsafe { code.add(at as usize).write_volatile(call | (first + at) << 5) };
        }
        // SAFETY: as above; then maintenance of the payload's own memory.
        unsafe {
            code.add(ROW as usize).write_volatile(RET);
            for line in (0..size_of::<Code>()).step_by(64) {
                asm!("dc cvau, {0}", in(reg) code as usize + line, options(nostack));
            }
            asm!("dsb ish", "ic iallu", "dsb ish", "isb", options(nostack));
        }
        let (version, last) = survive(|| {
            let mut x0 = u64::from(psci::VERSION);
            // SAFETY: calls the firmware with a function that changes nothing, or is refused.
            unsafe {
                asm!("blr {}", in(reg) code, inout("x0") x0, clobber_abi("C"), options(nostack));
            }
            x0
        });
        let refused = if first == 0 { ROW - 1 } else { ROW };
        let end = code as u64 + 4 * u64::from(ROW - 1);
        let told = last.map(|last| (last.esr, last.elr)) == Some((UNDEFINED, end));
        let answered = (version == u64::from(psci::VERSION)) != (first == 0);
        if exception::count() != refused || !told || !answered {
            wrong = wrong.or(Some((first, exception::count(), version, last)));
        }
    }
    report.holds("0 is a call, and each other immediate UNDEFINED", wrong.is_none(), wrong);
}

/// What a way out of the guest must leave alone.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct State {
    x: [u64; 31],
    sp_el0: u64,
    nzcv: u64,
    fpcr: u64,
    fpsr: u64,
    tpidr: u64,
    v: [u128; 32],
}

global_asm!(
    r#"
    .arch_extension simd
    .macro xs op
    \op      x2, x3, [x0, #16]
    \op      x4, x5, [x0, #32]
    \op      x6, x7, [x0, #48]
    \op      x8, x9, [x0, #64]
    \op      x10, x11, [x0, #80]
    \op      x12, x13, [x0, #96]
    \op      x14, x15, [x0, #112]
    \op      x16, x17, [x0, #128]
    \op      x18, x19, [x0, #144]
    \op      x20, x21, [x0, #160]
    \op      x22, x23, [x0, #176]
    \op      x24, x25, [x0, #192]
    \op      x26, x27, [x0, #208]
    \op      x28, x29, [x0, #224]
    .endm
    .section .text.around, "ax"
    .global exits_around
exits_around:
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #96]
    ldp     x1, x2, [x0, #{SP_EL0}]
    msr     SP_EL0, x1
    ldp     x3, x4, [x0, #{FPCR}]
    msr     FPCR, x3
    msr     FPSR, x4
    ldr     x5, [x0, #{TPIDR}]
    msr     TPIDR_EL0, x5
    add     x6, x0, #{V}
    .irp n, 0, 4, 8, 12, 16, 20, 24, 28
    ld1     {{v\n\().2d}}, [x6], #16
    .endr
    add     x6, x0, #{V} + 128
    ldp     q1, q2, [x6], #32
    ldp     q3, q5, [x6], #32
    ldp     q6, q7, [x6], #32
    ldp     q9, q10, [x6], #32
    ldp     q11, q13, [x6], #32
    ldp     q14, q15, [x6], #32
    ldp     q17, q18, [x6], #32
    ldp     q19, q21, [x6], #32
    ldp     q22, q23, [x6], #32
    ldp     q25, q26, [x6], #32
    ldp     q27, q29, [x6], #32
    ldp     q30, q31, [x6], #32
    msr     NZCV, x2
    ldr     x30, [x0, #240]
    xs      ldp
    ldp     x0, x1, [x0]
    .balign 64
    .global exits_slot
exits_slot:
    nop
    stp     x0, x1, [sp, #-16]!
    ldr     x0, [sp, #112]
    xs      stp
    str     x30, [x0, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mrs     x1, SP_EL0
    mrs     x2, NZCV
    stp     x1, x2, [x0, #{SP_EL0}]
    mrs     x3, FPCR
    mrs     x4, FPSR
    stp     x3, x4, [x0, #{FPCR}]
    mrs     x5, TPIDR_EL0
    str     x5, [x0, #{TPIDR}]
    msr     FPCR, xzr
    add     x6, x0, #{V}
    .irp n, 0, 4, 8, 12, 16, 20, 24, 28
    st1     {{v\n\().2d}}, [x6], #16
    .endr
    add     x6, x0, #{V} + 128
    stp     q1, q2, [x6], #32
    stp     q3, q5, [x6], #32
    stp     q6, q7, [x6], #32
    stp     q9, q10, [x6], #32
    stp     q11, q13, [x6], #32
    stp     q14, q15, [x6], #32
    stp     q17, q18, [x6], #32
    stp     q19, q21, [x6], #32
    stp     q22, q23, [x6], #32
    stp     q25, q26, [x6], #32
    stp     q27, q29, [x6], #32
    stp     q30, q31, [x6], #32
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret
"#,
    SP_EL0 = const offset_of!(State, sp_el0),
    FPCR = const offset_of!(State, fpcr),
    TPIDR = const offset_of!(State, tpidr),
    V = const offset_of!(State, v),
);

unsafe extern "C" {
    fn exits_around(state: *mut State);
    static mut exits_slot: u32;
}

/// A way out: its instruction, and which of `x0` to `x30` it may change. `x6` has the address of the UART's flags.
const WAYS: [(&str, u32, u32); 8] = [
    ("HVC", HVC, 0b1111),
    ("SMC", SMC, 0b1111),
    ("LDR of a device", 0xb940_00c5, 1 << 5),
    ("STR to a device", 0xb900_00c5, 0),
    ("LDP of a device", 0x2940_1cc5, 1 << 5 | 1 << 7),
    ("MRS of an ID register", 0xd538_0407, 1 << 7),
    ("WFI, until an interrupt", 0xd503_207f, 0),
    ("WFE", 0xd503_205f, 0),
];

/// How often each is taken, unless the command line has `rounds=`.
const ROUNDS: u64 = 4_000;

/// All registers have random values, and keep them.
fn registers(report: &mut Report) {
    let mut random = 0x0ddb_1a5e_5bad_5eed_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let rounds = machine::number("rounds").unwrap_or(ROUNDS);
    for (way, word, changes) in WAYS {
        // SAFETY: the slot is one instruction; nobody executes it meanwhile.
        unsafe {
            let slot = &raw mut exits_slot;
            slot.write_volatile(word);
            asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) slot,
                options(nostack));
        }
        let mut wrong = None;
        for _ in 0..rounds {
            let mut before = State {
                x: core::array::from_fn(|_| next()),
                sp_el0: next(),
                nzcv: next() & 0xf << 28,
                fpcr: next() & 0x07c0_0000,
                fpsr: next() & 0x0800_009f,
                tpidr: next(),
                v: core::array::from_fn(|_| u128::from(next()) << 64 | u128::from(next())),
            };
            before.x[0] = psci::VERSION.into();
            before.x[6] = uart::BASE + 0x18;
            if word == 0xd503_207f {
                Timer::Virtual.set_cval(Timer::Virtual.count() + 500);
                Timer::Virtual.set_ctl(1);
            } else {
                instruction!("sev");
            }
            let mut after = before;
            // SAFETY: it leaves the stack and what callees preserve as they were.
            unsafe { exits_around(&mut after) };
            for (register, value) in before.x.iter_mut().enumerate() {
                if changes & 1 << register != 0 {
                    *value = after.x[register];
                }
            }
            if before != after {
                let at = before.x.iter().zip(&after.x).position(|(before, after)| before != after);
                wrong = wrong.or(Some((at, before.nzcv, after.nzcv)));
            }
        }
        Timer::Virtual.set_ctl(0);
        println!("{way}, {rounds} times:");
        report.holds("a way out keeps all registers", wrong.is_none(), wrong);
    }
}

/// Returns to states with bits that mean nothing, or nothing here, and leaves the guest in each: what becomes of the bit is what
/// becomes of it where the guest is not left.
fn states(report: &mut Report) {
    let mut wrong = None;
    for bit in (10..20).chain(22..28).chain(32..64) {
        let state = 0x3c5 | 1 << bit;
        let ((stays, _), left) = (in_state(state, false), in_state(state, true));
        let ((after, version), before) = (left, stays);
        if before != after || before.is_none() || version == psci::VERSION || version >> 16 > 1 {
            wrong = wrong.or(Some((bit, before, after, version)));
        }
    }
    report.holds("a state with any reserved bit is left and come back to", wrong.is_none(), wrong);
}

/// Takes on a `PSTATE` by an exception return, and leaves the guest, if it is to. Returns what that is then, in the next
/// exception, and what the firmware has answered.
fn in_state(state: u64, leave: bool) -> (Option<u64>, u32) {
    let (version, caught) = survive(|| {
        let mut x0 = u64::from(psci::VERSION);
        // SAFETY: goes on at the label, where the firmware is called and the state is put right.
        unsafe {
            asm!("adr {0}, 2f", "msr elr_el1, {0}", "msr spsr_el1, {1}", "isb", "eret",
                "2: cbz {2}, 4f", "hvc #0", "4: svc #0", "adr {0}, 3f", "msr elr_el1, {0}",
                "mov {0}, #0x3c5", "msr spsr_el1, {0}", "isb", "eret", "3:",
                out(reg) _, in(reg) state, in(reg) u64::from(leave), inout("x0") x0,
                out("x1") _, out("x2") _, out("x3") _, options(nostack));
        }
        x0
    });
    (caught.map(|caught| caught.spsr), version as u32)
}

/// `LDR` and `STR` of devices with `SCTLR_EL1.EE` set. The MMU is off, as its tables would be read that way, too.
fn big_endian(report: &mut Report) {
    let (word, half, byte): (u64, u64, u64);
    // SAFETY: no memory is accessed but the device; all is as before at the end.
    unsafe {
        asm!("mrs {old}, sctlr_el1", "mov {new}, #0x1005", "bic {new}, {old}, {new}",
            "orr {new}, {new}, #1 << 25", "dsb sy", "msr sctlr_el1, {new}", "isb",
            "ldr {word:w}, [{at}]", "ldrh {half:w}, [{at}]", "ldrb {byte:w}, [{at}]",
            "msr sctlr_el1, {old}", "isb",
            old = out(reg) _, new = out(reg) _, at = in(reg) uart::PERIPH_ID0,
            word = out(reg) word, half = out(reg) half, byte = out(reg) byte, options(nostack));
    }
    report.equal("EL1 reads a device big-endian", (word, half, byte), (0x1100_0000, 0x1100, 0x11));
}

/// The same at EL0, with `SCTLR_EL1.E0E`.
fn big_endian_user(report: &mut Report) {
    const E0E: u64 = 1 << 24;
    // LDR W0, [X4]; LDRH W2, [X4]; LDP W5, W6, [X4]
    user::write32([0xb940_0080, 0x7940_0082, 0x2940_1885, SVC].into_iter());
    let mut user = User { pc: user::code(), spsr: A64, ..User::default() };
    user.r[4] = mmu::LOW_DEVICES + uart::PERIPH_ID0;
    msr!("sctlr_el1", mrs!("sctlr_el1") | E0E);
    user::run(&mut user);
    msr!("sctlr_el1", mrs!("sctlr_el1") & !E0E);
    let read = (user.class(), user.r[0], user.r[2], user.r[5], user.r[6]);
    let wanted = (0x15, 0x1100_0000, 0x1100, 0x1100_0000, 0x1000_0000);
    report.equal("EL0 reads a device big-endian", read, wanted);
}

/// Exception classes of a step and of a watchpoint, from EL0.
const USER_STEP: u64 = 0x32;
const USER_WATCHPOINT: u64 = 0x34;

/// EL0 is stepped over what the hypervisor emulates, and watched.
fn debug_user(report: &mut Report) {
    // LDR W0, [X4]; LDP W5, W6, [X4]; LDR W2, [X7]: two of a device, one of memory.
    user::write32([0xb940_0080, 0x2940_1885, 0xb940_00e2, SVC].into_iter());
    let code = user::code();
    let mut user = User { pc: code, spsr: A64, ..User::default() };
    user.r[4] = mmu::LOW_DEVICES + uart::PERIPH_ID0;
    user.r[7] = code;
    msr!("mdscr_el1", mrs!("mdscr_el1") | 1);
    for step in 1..=3 {
        user.spsr = A64 & !(1 << 9) | 1 << 21;
        user::run(&mut user);
        report.equal(
            "a step is one instruction",
            (user.class(), user.pc),
            (USER_STEP, code + 4 * step),
        );
    }
    msr!("mdscr_el1", mrs!("mdscr_el1") & !1);
    let read = (user.r[0], user.r[5], user.r[6], user.r[2]);
    report.equal("what is stepped over is done", read, (0x11, 0x11, 0x10, 0xb940_0080));

    msr!("dbgwvr0_el1", code);
    // All bytes, loads and stores, EL0, enabled.
    msr!("dbgwcr0_el1", 0xff << 5 | 0b11 << 3 | 0b10 << 1 | 1);
    msr!("mdscr_el1", mrs!("mdscr_el1") | 1 << 15);
    (user.pc, user.spsr) = (code, A64 & !(1 << 9));
    user::run(&mut user);
    msr!("mdscr_el1", mrs!("mdscr_el1") & !(1 << 15));
    msr!("dbgwcr0_el1", 0);
    let told = (user.class(), user.pc, user.far);
    report.equal("a watchpoint is the guest's own", told, (USER_WATCHPOINT, code + 8, code));
}

/// `MDSCR_EL1.SS`, `KDE` (at EL1, too), `MDE`.
const SOFTWARE_STEP: u64 = 1;
const KERNEL_DEBUG: u64 = 1 << 13;
const MONITOR_DEBUG: u64 = 1 << 15;
/// EL1h, all masked but debug exceptions.
const DEBUGGED: u64 = 0x1c5;

/// The same at EL1, which debugs itself; a watchpoint on what the hypervisor emulates is silent, as on a CPU that finds the
/// address not translated first.
fn debug(report: &mut Report) {
    let before = mrs!("mdscr_el1");
    let at = uart::PERIPH_ID0;
    msr!("mdscr_el1", before | SOFTWARE_STEP | KERNEL_DEBUG);
    let ((read, next), step) = survive(|| {
        let (read, next): (u64, u64);
        // SAFETY: goes on at the label, with one instruction stepped; the vectors end that.
        unsafe {
            asm!("adr {1}, 2f", "msr elr_el1, {1}", "msr spsr_el1, {2}", "add {1}, {1}, #4", "isb",
                "eret", "2: ldr {0:w}, [{3}]", "nop",
                out(reg) read, out(reg) next, in(reg) DEBUGGED | 1 << 21, in(reg) at,
                options(nostack));
        }
        (read, next)
    });
    msr!("mdscr_el1", before);
    let told = step.map(|step| (step.class(), step.elr));
    report.equal("EL1 steps over what is emulated", told, Some((exception::STEP, next)));
    report.equal("and that is done", (read, exception::count()), (0x11, 1));

    let mut watch = |question: &str, at: u64, wanted: Option<(u64, u64)>| {
        msr!("dbgwvr0_el1", at);
        // All bytes, loads and stores, EL1, enabled.
        msr!("dbgwcr0_el1", 0xff << 5 | 0b11 << 3 | 0b01 << 1 | 1);
        msr!("mdscr_el1", before | MONITOR_DEBUG | KERNEL_DEBUG);
        let (_, caught) = survive(|| {
            // SAFETY: reads what may be read.
            unsafe {
                asm!("msr daifclr, #8", "isb", "ldr {0:w}, [{0}]", "msr daifset, #8",
                    inout(reg) at => _, options(nostack));
            }
        });
        msr!("mdscr_el1", before);
        msr!("dbgwcr0_el1", 0);
        report.equal(question, caught.map(|caught| (caught.class(), caught.far)), wanted);
    };
    let memory = (&raw const CODE) as u64;
    let hit = Some((exception::WATCHPOINT, memory));
    watch("EL1 has a watchpoint of its own", memory, hit);
    watch("on a device that is emulated it is silent", at, None);
}
