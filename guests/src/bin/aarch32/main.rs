//! What comes of AArch32 at EL0? The CPU may have it though the machine does not offer it. Whatever is done there is answered: by
//! an exception of EL1's own, at the instruction and with its state, where the hypervisor is asked for what is not offered, and
//! as ever where it is not.

#![no_std]
#![no_main]

mod a32;

use guests::report::Report;
use guests::timer::Timer;
use guests::{gic, instruction, interrupt, mmu, mrs, msr, println, sysreg, uart};

use a32::{AL, NE, ldc, mcr, mcrr, mrc, mrrc, stc};
use guests::user::{self, A32, MOST, T32, User, Z, code, run, write16, write32};

guests::payload!(main);

/// Exception classes: unknown reason, SVC from AArch32, a data abort from below.
const UNKNOWN: u64 = 0x00;
const SVC: u64 = 0x11;
const ABORT: u64 = 0x24;
/// `ESR_EL1` of an UNDEFINED instruction: `IL` and nothing else.
const UNDEFINED: u64 = 1 << 25;

/// A device's register, as EL0 reaches it: the UART's flags.
const FLAGS: u64 = mmu::LOW_DEVICES + uart::BASE + 0x18;

fn main(report: &mut Report) {
    user::prepare();
    let user = one(AL | a32::SVC, A32);
    if user.class() != SVC {
        report.holds("a CPU without AArch32 refuses to enter it", user.class() == 0xe, user);
        return;
    }
    report.equal(
        "SVC comes to EL1",
        (user.pc, user.spsr, user.esr),
        (code() + 4, A32, 0x4600_0000),
    );
    let offered = mrs!("id_aa64pfr0_el1") & 0xf == 2;
    println!("AArch32 at EL0 is {}offered", if offered { "" } else { "not " });
    // EL0 may read the physical counter and timer, as far as EL1 is concerned, and wait.
    msr!("cntkctl_el1", 0x303);
    msr!("sctlr_el1", mrs!("sctlr_el1") | 1 << 16 | 1 << 18);
    coprocessors(report);
    calls(report);
    if offered {
        report.skip("what is not offered is UNDEFINED", "it is offered");
    } else {
        not_offered(report);
    }
    conditions(report);
    devices(report, offered);
    thumb(report, offered);
    waits(report);
    interrupts(report);
}

/// Runs one A32 instruction, in a state.
fn one(word: u32, spsr: u64) -> User {
    write32([word, a32::SVC].into_iter());
    let mut user = fresh(spsr);
    run(&mut user);
    user
}

/// Registers with values that are known, R1 a device's register and R4 memory that nobody uses.
fn fresh(spsr: u64) -> User {
    let mut user = User { pc: code(), spsr, ..User::default() };
    for (at, value) in user.r.iter_mut().enumerate() {
        *value = 0x0101_0101 * at as u64;
    }
    user.r[1] = FLAGS;
    user.r[4] = code() + 4 * (MOST as u64 - 8);
    user
}

/// It went on behind the instruction.
fn done(user: &User, spsr: u64) -> bool {
    user.class() == SVC && user.pc == code() + 8 && user.spsr == spsr
}

/// EL1 was told that it is UNDEFINED, at the instruction and with its state, and no register has changed.
fn undefined(user: &User, spsr: u64) -> bool {
    user.esr == UNDEFINED && user.pc == code() && user.spsr == spsr && user.r == fresh(spsr).r
}

/// Every encoding that names a coprocessor register, of both that there are.
fn coprocessors(report: &mut Report) {
    let (mut refused, mut trapped, mut wrong, mut made) = (0u32, 0u32, 0u32, 0u32);
    let mut last = User::default();
    for which in 0..64u32 {
        // Each page has all that differ in CRn, CRm and the low bits of opc2.
        let word = |at: u32| {
            let (n, m, low) = (at >> 6 & 15, at >> 2 & 15, at & 3);
            let (coprocessor, opc1, opc2) = (14 | which & 1, which >> 1 & 7, low | which >> 2 & 4);
            let make = if which & 32 == 0 { mcr } else { mrc };
            AL | make(coprocessor, opc1, n, m, opc2)
        };
        sweep(1020, word, &mut |user| match judge(user) {
            Some(true) => refused += 1,
            Some(false) => trapped += 1,
            None => (wrong, last) = (wrong + 1, *user),
        });
        made += 1020;
    }
    for which in 0..4u32 {
        let word = |at: u32| {
            let make = [mcrr, mrrc, stc_of, ldc_of][which as usize];
            AL | make(14 | at & 1, at >> 1 & 15, at >> 5 & 15)
        };
        sweep(512, word, &mut |user| match judge(user) {
            Some(true) => refused += 1,
            Some(false) => trapped += 1,
            None => (wrong, last) = (wrong + 1, *user),
        });
        made += 512;
    }
    println!("{made} encodings: {refused} UNDEFINED, {trapped} trapped to EL1");
    report.holds(
        "each coprocessor access is done or an exception at it",
        wrong == 0,
        (wrong, last),
    );
    report.holds("nearly all are refused", refused + trapped > made * 9 / 10, (refused, trapped));
}

fn stc_of(coprocessor: u32, d: u32, _: u32) -> u32 {
    stc(coprocessor, d)
}

fn ldc_of(coprocessor: u32, d: u32, _: u32) -> u32 {
    ldc(coprocessor, d)
}

/// Runs so many instructions one behind the other, past each that is answered with an exception.
fn sweep(count: u32, word: impl Fn(u32) -> u32, each: &mut dyn FnMut(&User)) {
    write32((0..count).map(word).chain([a32::SVC]));
    let mut user = fresh(A32);
    let end = code() + 4 * u64::from(count) + 4;
    for _ in 0..=count {
        let from = user.pc;
        run(&mut user);
        if user.class() == SVC && user.pc == end {
            return;
        }
        // Never behind what was to be executed, nor before it.
        if user.pc < from || user.pc >= end - 4 || !user.pc.is_multiple_of(4) {
            user.esr = u64::MAX;
        }
        each(&user);
        if user.esr == u64::MAX {
            return;
        }
        user.pc += 4;
        user.spsr = A32;
    }
}

/// UNDEFINED, or trapped by EL1's own controls; `None` for what is neither.
fn judge(user: &User) -> Option<bool> {
    let state = user.spsr & !0xf000_0000 == A32;
    match user.class() {
        UNKNOWN if user.esr == UNDEFINED && state => Some(true),
        0x03..=0x06 | 0x0c if state => Some(false),
        _ => None,
    }
}

/// No call leaves EL0.
fn calls(report: &mut Report) {
    for (name, word) in [("HVC", a32::HVC), ("SMC", AL | a32::SMC)] {
        let user = one(word, A32);
        println!("{name}:");
        report.holds("a call is UNDEFINED", undefined(&user, A32), user);
    }
}

/// What traps to the hypervisor, and would be done if it did not.
fn not_offered(report: &mut Report) {
    for (name, word) in [
        ("MRRC of CNTPCT", mrrc(15, 0, 14)),
        ("MRC of CNTP_CTL", mrc(15, 0, 14, 2, 1)),
        ("MCR of CNTP_TVAL", mcr(15, 0, 14, 2, 0)),
        ("MCRR of CNTP_CVAL", mcrr(15, 2, 14)),
        ("MRC of DBGDSCRint", mrc(14, 0, 0, 1, 0)),
        ("MRC of DBGDIDR", mrc(14, 0, 0, 0, 0)),
    ] {
        let user = one(AL | word, A32);
        println!("{name}: {:#x}", user.esr);
        report.holds("what is not offered is UNDEFINED", undefined(&user, A32), user);
    }
    let user = one(AL | mrrc(15, 1, 14), A32);
    report.holds(
        "the virtual counter is read",
        done(&user, A32) && user.r[2] != fresh(A32).r[2],
        user,
    );
}

/// An instruction whose condition fails does nothing, whatever it is.
fn conditions(report: &mut Report) {
    let load = 0x0591_2000; // LDR R2, [R1]
    let mut bad = None;
    for word in [
        mrrc(15, 0, 14),
        mcrr(15, 2, 14),
        mrc(15, 0, 14, 2, 1),
        mcr(15, 0, 14, 2, 0),
        mrc(14, 0, 0, 1, 0),
        ldc(14, 5),
        stc(14, 5),
        a32::SMC,
        a32::WFI,
        a32::WFE,
        load,
        load & !(1 << 20),
    ] {
        let user = one(NE | word, A32 | Z);
        let skipped = done(&user, A32 | Z) && user.r == fresh(A32 | Z).r;
        bad = bad.or((!skipped).then_some((word, user)));
    }
    report.holds("an instruction whose condition fails is none", bad.is_none(), bad);
}

/// Loads and stores of a device, and whether they are stores: described by the syndrome or not.
const ACCESSES: [(&str, u32, bool); 14] = [
    ("LDR", 0xe591_2000, false),
    ("STR", 0xe581_2000, true),
    ("LDRB", 0xe5d1_2000, false),
    ("STRH", 0xe1c1_20b0, true),
    ("LDRSH", 0xe1d1_20f0, false),
    ("LDRT", 0xe4b1_2000, false),
    ("LDR, write-back", 0xe5b1_2004, false),
    ("LDR, post-indexed", 0xe491_2004, false),
    ("STR, post-indexed", 0xe481_2004, true),
    ("LDRD", 0xe1c1_20d0, false),
    ("STRD", 0xe1c1_20f0, true),
    ("LDM", 0xe8b1_000c, false),
    ("STM", 0xe8a1_000c, true),
    ("LDREX", 0xe191_2f9f, false),
];

fn devices(report: &mut Report, offered: bool) {
    for (name, word, store) in ACCESSES {
        let user = one(word, A32);
        println!("{name}: {:#x} at {:#x}", user.esr, user.far);
        let described = user.class() == ABORT
            && user.esr & 0x3f == 0x10
            && (user.esr & 1 << 6 != 0) == store
            && user.far & !7 == FLAGS & !7
            && user.pc == code()
            && user.spsr == A32
            && user.r == fresh(A32).r;
        let answered = described || offered && done(&user, A32);
        report.holds("a device is not reached, and nothing has changed", answered, user);
    }
}

/// The same in T32, inside and outside of IT blocks.
fn thumb(report: &mut Report, offered: bool) {
    const SVC16: u16 = 0xdf00;
    // `MRC p15, 0, R2, c14, c2, 1`: CNTP_CTL. T32 has A32's encoding, its higher half first.
    let mrc = AL | mrc(15, 0, 14, 2, 1);
    let halves = [(mrc >> 16) as u16, mrc as u16];
    // ITTE EQ; the second of three is what is asked for. Z is set.
    let nop = 0xbf00;
    write16([0xbf06, nop, halves[0], halves[1], nop, SVC16].into_iter());
    let mut user = fresh(T32 | Z);
    run(&mut user);
    // ITSTATE is 0000_0110 at the first, of which each instruction shifts the lower five: 0000_1100, 0001_1000.
    let second = T32 | Z | 0b11 << 10;
    let told = user.esr == UNDEFINED && (user.pc, user.spsr) == (code() + 4, second);
    let done = (user.class(), user.pc, user.spsr) == (SVC, code() + 12, T32 | Z);
    report.holds("an IT block is left at its second instruction", told || offered && done, user);
    if told {
        // EL1 goes on behind it, in the block's last, which is not executed: R5 keeps its value.
        write16([0xbf06, nop, nop, 0xbf00, 0x2500, SVC16].into_iter());
        (user.pc, user.spsr) = (code() + 8, T32 | Z | 0b110 << 10);
        run(&mut user);
        let end = (user.class(), user.pc, user.spsr, user.r[5]);
        report.equal(
            "and can be gone on with behind it",
            end,
            (SVC, code() + 12, T32 | Z, fresh(0).r[5]),
        );
    }
    // Not executed in the block: IT NE.
    write16([0xbf18, halves[0], halves[1], SVC16].into_iter());
    let mut user = fresh(T32 | Z);
    run(&mut user);
    let end = (user.class(), user.pc, user.spsr, user.r);
    report.equal(
        "what its block leaves out is left out",
        end,
        (SVC, code() + 8, T32 | Z, fresh(0).r),
    );
    for (name, halves) in [("HVC", [0xf7e0, 0x8000]), ("SMC", [0xf7f0, 0x8000])] {
        write16(halves.into_iter().chain([SVC16]));
        let mut user = fresh(T32);
        run(&mut user);
        println!("{name} in T32:");
        report.holds("a call is UNDEFINED", undefined(&user, T32), user);
    }
}

/// Waits end, or are UNDEFINED: the hypervisor may have trapped them or not.
fn waits(report: &mut Report) {
    gic::init();
    gic::enable(Timer::Virtual.intid());
    // Pending though masked: nobody waits for long.
    Timer::Virtual.set_cval(0);
    Timer::Virtual.set_ctl(1);
    for (name, word) in [("WFI", a32::WFI), ("WFE", a32::WFE)] {
        instruction!("sev");
        let user = one(AL | word, A32);
        println!("{name}: {:#x}", user.esr);
        let answered = undefined(&user, A32) || done(&user, A32) && user.r == fresh(A32).r;
        report.holds("a wait is UNDEFINED or over", answered, user);
    }
    Timer::Virtual.set_ctl(0);
}

/// Interrupts that come amid IT blocks.
fn interrupts(report: &mut Report) {
    const ROUNDS: u32 = 200_000;
    const ENOUGH: u32 = 20;
    interrupt::take();
    // Some 5000 times a second.
    interrupt::on(Timer::Virtual.intid(), |_| again());
    // R5 is added to R6 in the odd rounds, and to R7 in the even ones.
    write16(
        [
            0x07c1, // LSLS R1, R0, #31
            0xbf0c, // ITE EQ
            0x197f, // ADDEQ R7, R7, R5
            0x1976, // ADDNE R6, R6, R5
            0x3801, // SUBS R0, #1
            0xd1f9, // BNE: back to the first
            0xdf00, // SVC #0
        ]
        .into_iter(),
    );
    let taken = || interrupt::count(sysreg::cpu(), Timer::Virtual.intid());
    let half = u64::from(ROUNDS / 2 * 3);
    let mut wrong = None;
    again();
    // A busy PC's timers may be late.
    for _ in 0..200 {
        let mut user = fresh(T32 & !(1 << 7));
        (user.r[0], user.r[5], user.r[6], user.r[7]) = (ROUNDS.into(), 3, 0, 0);
        run(&mut user);
        let well = user.class() == SVC && (user.r[6], user.r[7]) == (half, half);
        wrong = wrong.or((!well).then_some(user));
        if taken() >= ENOUGH {
            break;
        }
    }
    Timer::Virtual.set_ctl(0);
    println!("{} interrupts", taken());
    report.holds("a block goes on as it was when it is interrupted", wrong.is_none(), wrong);
    report.holds("it was interrupted", taken() >= ENOUGH, taken());
}

fn again() {
    Timer::Virtual.set_cval(Timer::Virtual.count() + mrs!("cntfrq_el0") / 5000);
    Timer::Virtual.set_ctl(1);
}
