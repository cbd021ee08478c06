//! All registers of a CPU at once: what they were at its first instruction, and whether they stay what they are
//! made while somebody else has the CPU.
//!
//! Both are done with the MMU off, by code that needs nothing but one register, so that the registers which
//! translation, the stack and the vectors are made of can hold anything too.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use guests::MAX_CPUS;
use guests::sysreg::cpu;

/// Calls a macro with the system registers: the name, and the bits that may hold anything. `SCTLR_EL1` comes first: its
/// other bits stay what they are, with the MMU off. The others' are 0.
macro_rules! system_registers {
    ($with:ident) => {
        $with! {
            // UCI, E0E, WXN, nTWE, nTWI, UCT, DZE, UMA, SA0.
            "sctlr_el1": 0x050d_c210,
            // FPEN, TTA.
            "cpacr_el1": 0x1030_0000,
            "ttbr0_el1": u64::MAX,
            "ttbr1_el1": u64::MAX,
            "tcr_el1": 0x3f_ffff_ffff,
            "mair_el1": u64::MAX,
            "amair_el1": u64::MAX,
            "vbar_el1": !0x7ff,
            "contextidr_el1": 0xffff_ffff,
            "tpidr_el0": u64::MAX,
            "tpidrro_el0": u64::MAX,
            "tpidr_el1": u64::MAX,
            "sp_el0": u64::MAX,
            "elr_el1": u64::MAX,
            "spsr_el1": 0xf000_03cf,
            "esr_el1": 0xffff_ffff,
            "far_el1": u64::MAX,
            "afsr0_el1": 0xffff_ffff,
            "afsr1_el1": 0xffff_ffff,
            "par_el1": 0x0000_ffff_ffff_f000,
            "csselr_el1": 0b1,
            "cntkctl_el1": 0x3ff,
            "cntv_cval_el0": u64::MAX,
            "cntv_ctl_el0": 0b11,
            "cntp_cval_el0": u64::MAX,
            "cntp_ctl_el0": 0b11,
            // SS, TDCC, KDE, MDE: debug exceptions are masked.
            "mdscr_el1": 0xb001,
            // Never enabled.
            "dbgbvr0_el1": 0x0000_ffff_ffff_fffc,
            "dbgbcr0_el1": 0x007f_01e6,
            "dbgbvr1_el1": 0x0000_ffff_ffff_fffc,
            "dbgbcr1_el1": 0x007f_01e6,
            "dbgwvr0_el1": 0x0000_ffff_ffff_fffc,
            "dbgwcr0_el1": 0x1f1f_1ffe,
            "dbgwvr1_el1": 0x0000_ffff_ffff_fffc,
            "dbgwcr1_el1": 0x1f1f_1ffe,
        }
    };
}

macro_rules! names_and_bits {
    ($($name:literal: $bits:expr),* $(,)?) => {
        const NAMES: &[&str] = &[$($name),*];
        const BITS: [u64; NAMES.len()] = [$($bits),*];
    };
}
system_registers!(names_and_bits);

mod assembly;

/// One CPU's registers.
#[derive(Clone, Copy)]
#[repr(C, align(2048))]
pub struct State {
    /// `x0` to `x30`.
    pub x: [u64; 31],
    sp: u64,
    v: [u128; 32],
    fpcr: u64,
    fpsr: u64,
    system: [u64; NAMES.len()],
}

impl State {
    const NONE: Self =
        Self { x: [0; 31], sp: 0, v: [0; 32], fpcr: 0, fpsr: 0, system: [0; NAMES.len()] };

    /// In each bit that may hold anything what `value` gives for the register's number.
    fn with(value: impl Fn(u64) -> u64) -> Self {
        let mut state = Self::NONE;
        let mut at = 0..;
        let mut next = || value(at.next().unwrap_or(0));
        state.x.fill_with(&mut next);
        state.sp = next();
        state.v.fill_with(|| u128::from(next()) << 64 | u128::from(next()));
        // RMode, FZ, DN; QC and the cumulative exceptions.
        state.fpcr = next() & 0xf << 22;
        state.fpsr = next() & 0x0800_009f;
        for (register, bits) in state.system.iter_mut().zip(BITS) {
            *register = next() & bits;
        }
        state.system[0] |= guests::mrs!("sctlr_el1") & !BITS[0] & !MMU_AND_CACHES;
        state
    }

    /// Everything of another value for each seed.
    pub fn pattern(seed: u64) -> Self {
        let mut state = Self::with(|at| mixed(seed << 16 | at));
        // The virtual timer does not interrupt.
        *state.system(CNTV_CTL) |= 2;
        state
    }

    /// The place of a system register.
    fn system(&mut self, name: &str) -> &mut u64 {
        let at = NAMES.iter().position(|&other| other == name).expect("a register of the table");
        &mut self.system[at]
    }

    /// The first register that is not as in `want`, of the bits in `bits`: its name, what it is, and what it was to be.
    pub fn differs(&self, want: &Self, bits: &Self) -> Option<(&'static str, u64, u64)> {
        let low = |v: u128| v as u64;
        let high = |v: u128| (v >> 64) as u64;
        let x = X.iter().zip(self.x.iter().zip(want.x).zip(bits.x));
        let x = x.map(|(&name, ((&got, want), bits))| (name, got, want, bits));
        let v = self.v.iter().zip(want.v);
        let v = v.flat_map(|(&got, want)| {
            [("v", low(got), low(want), u64::MAX), ("v", high(got), high(want), u64::MAX)]
        });
        let rest = [
            ("sp_el1", self.sp, want.sp, bits.sp),
            ("fpcr", self.fpcr, want.fpcr, bits.fpcr),
            ("fpsr", self.fpsr, want.fpsr, bits.fpsr),
        ];
        let system = NAMES.iter().zip(self.system.iter().zip(want.system).zip(bits.system));
        let system = system.map(|(&name, ((&got, want), bits))| (name, got, want, bits));
        let differs = |&(_, got, want, bits): &(_, u64, u64, u64)| (got ^ want) & bits != 0;
        let found = x.chain(rest).chain(v).chain(system).find(differs);
        found.map(|(name, got, want, _)| (name, got, want))
    }
}

const X: [&str; 31] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
    "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27",
    "x28", "x29", "x30",
];
const CNTV_CTL: &str = "cntv_ctl_el0";
/// `SCTLR_EL1.M`, `.A`, `.C`, `.I`.
const MMU_AND_CACHES: u64 = 0x1007;

/// The bits of a number, mixed well (the finaliser of MurmurHash3).
pub fn mixed(value: u64) -> u64 {
    let value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

/// What the registers were at each CPU's first instruction. Not among what is zeroed after that.
#[unsafe(link_section = ".data.at_entry")]
static mut AT_ENTRY: [State; MAX_CPUS] = [State::NONE; MAX_CPUS];

/// What this CPU's registers were at its first instruction. The last two have 1 in place of what they were, if either was not 0.
pub fn at_entry() -> State {
    // SAFETY: written by this CPU alone, before it ran any Rust.
    unsafe { (&raw const AT_ENTRY).cast::<State>().add(cpu()).read_volatile() }
}

/// What they are to be: 0, but x0, and the bits of `SCTLR_EL1` that are RES1.
pub fn at_reset(x0: u64) -> State {
    let mut state = State::NONE;
    state.x[0] = x0;
    state.system[0] = 0x30d0_0800;
    state
}

/// Every bit.
pub fn all_bits() -> State {
    State {
        x: [u64::MAX; 31],
        sp: u64::MAX,
        v: [u128::MAX; 32],
        fpcr: u64::MAX,
        fpsr: u64::MAX,
        system: [u64::MAX; NAMES.len()],
    }
}

/// What comes between the write and the read of all registers.
#[derive(Clone, Copy)]
pub enum Meanwhile {
    /// `WFI`, which the physical timer ends so many ticks later.
    Wait(u64),
    /// Nothing, for so many ticks.
    Spin(u64),
    /// `HVC` for `PSCI_VERSION` again and again, for so many ticks.
    Call(u64),
}

/// Fits the assembly.
#[repr(C, align(2048))]
struct Round {
    want: State,
    found: State,
    own: State,
    own_sctlr: u64,
    how: u64,
    until: u64,
}

/// Each CPU's, as they are too large for a stack.
static mut WORK: [Round; MAX_CPUS] = [const {
    Round {
        want: State::NONE,
        found: State::NONE,
        own: State::NONE,
        own_sctlr: 0,
        how: 0,
        until: 0,
    }
}; MAX_CPUS];

fn work() -> *mut Round {
    (&raw mut WORK).cast::<Round>().wrapping_add(cpu())
}

/// Makes this CPU's registers `want`, and returns what they are after a while. Interrupts are masked.
fn run(want: &State, how: u64, until: u64) -> &'static State {
    // SAFETY: this CPU's own, and whoever had a reference to it is done.
    let round = unsafe { &mut *work() };
    round.want = *want;
    (round.how, round.until) = (how, until);
    let at = &raw mut *round;
    past_the_caches(at);
    // SAFETY: all registers are put back but those that a call may change; interrupts are masked.
    unsafe { asm!("bl secrets_round", inout("x0") at => _, clobber_abi("C")) };
    past_the_caches(at);
    &round.found
}

/// The MMU is off where it is written and read, or will be.
fn past_the_caches(round: *const Round) {
    for line in (0..size_of::<Round>() as u64).step_by(16) {
        // SAFETY: cleans and invalidates a line of our own.
        unsafe { asm!("dc civac, {}", in(reg) round as u64 + line, options(nostack)) };
    }
    guests::instruction!("dsb sy");
}

/// The bits that keep what is written to them; some registers have fewer on some CPUs.
pub fn bits_that_stick() -> State {
    let keeps = |value: u64| {
        let mut want = State::with(|_| value);
        *want.system(CNTV_CTL) |= 2;
        // Nothing is due.
        *want.system("cntp_ctl_el0") &= 2;
        *run(&want, 1, 0)
    };
    let (ones, zeros) = (keeps(u64::MAX), keeps(0));
    let mut bits = all_bits();
    bits.fpcr = ones.fpcr & !zeros.fpcr;
    bits.fpsr = ones.fpsr & !zeros.fpsr;
    let both = ones.system.iter().zip(zeros.system).zip(BITS);
    for (bits, ((&ones, zeros), may)) in bits.system.iter_mut().zip(both) {
        *bits = ones & !zeros & may;
    }
    // They are the same in both rounds, and kept. Bit 2 of the timers' is their own affair.
    *bits.system(CNTV_CTL) = 0b11;
    *bits.system("cntp_ctl_el0") = 0b11;
    bits
}

/// Writes all registers, lets time pass, and looks for one that holds something else. Interrupts are masked, and that of the
/// physical timer is enabled.
pub fn round(
    pattern: &State,
    meanwhile: Meanwhile,
    bits: &State,
) -> Option<(&'static str, u64, u64)> {
    let mut want = *pattern;
    let (how, ticks) = match meanwhile {
        Meanwhile::Wait(ticks) => (0, ticks),
        Meanwhile::Spin(ticks) => (1, ticks),
        Meanwhile::Call(ticks) => (2, ticks),
    };
    let until = guests::timer::now() + ticks;
    if how == 0 {
        *want.system("cntp_cval_el0") = until;
        *want.system("cntp_ctl_el0") = 1;
    } else {
        *want.system("cntp_ctl_el0") |= 2;
    }
    // By which the assembly finds all others.
    want.x[30] = work() as u64;
    if how == 2 {
        want.x[0] = u64::from(guests::psci::VERSION);
    }
    run(&want, how, until).differs(&want, bits)
}

/// Calls a function of the firmware that does not return, with all registers full; 0 is none, and the CPU spins for ever.
pub fn leave_dirty(pattern: &State, function: u32) {
    let mut want = *pattern;
    want.x[0] = u64::from(function);
    *want.system("cntp_ctl_el0") |= 2;
    run(&want, if function == 0 { 1 } else { 2 }, u64::MAX);
}

/// How often all registers were looked at, by all CPUs.
pub static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// One more.
pub fn count_round() {
    ROUNDS.fetch_add(1, Ordering::Relaxed);
}

const _: () = assert!(size_of::<State>() == 2048 && offset_of!(Round, how) == 6144 + 8);
