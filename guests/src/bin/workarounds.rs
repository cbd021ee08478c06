//! What does the machine's firmware interface say of speculation, and is what it promises done?
//!
//! Under `src/firmware/secure.rs` the command line has what is to be answered for workarounds 1, 2 and 3, and by how much
//! `TPIDRRO_EL0` grows each time that the guest is left: that firmware counts its calls there.

#![no_std]
#![no_main]

use guests::psci::{self, Conduit, low};
use guests::report::Report;
use guests::sysreg::mask_interrupts;
use guests::timer::{Timer, wait_until};
use guests::{gic, instruction, interrupt, machine, mmio, mrs, println, smp, uart};

guests::payload!(main);

/// `SMCCC_ARCH_FEATURES` (DEN0028).
const FEATURES: u32 = 0x8000_0001;
/// `SMCCC_ARCH_WORKAROUND_1` to `_3`.
const WORKAROUNDS: [u32; 3] = [0x8000_8000, 0x8000_7fff, 0x8000_3fff];
/// A function that no convention has, and that firmware (`src/firmware/secure.rs`).
const THEIR_OWN: u32 = 0x8300_005f;
/// How often each way out is taken.
const ROUNDS: u64 = 500;
/// How often something else may be a reason to leave the guest meanwhile.
const OTHERS: u64 = 50;
/// The machine's UART: its flag register, whose read nobody minds.
const UARTFR: u64 = uart::BASE + 0x18;

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    let answers = WORKAROUNDS.map(|function| low(psci::call(FEATURES, [function.into(), 0, 0])));
    println!("workarounds 1 to 3: {answers:?}");
    for (index, (function, answer)) in WORKAROUNDS.into_iter().zip(answers).enumerate() {
        report.holds(
            "an answer is one that the convention has",
            (-2..=1).contains(&answer),
            answer,
        );
        // Workaround 2 must not be called where it is not required.
        if index != 1 && answer >= 0 {
            report.equal("what is offered can be called", low(psci::call(function, [0; 3])), 0);
        }
        if answer == psci::NOT_SUPPORTED {
            let called = low(psci::call(function, [0; 3]));
            report.equal("what is not offered cannot be called", called, psci::NOT_SUPPORTED);
        }
    }
    for conduit in [Conduit::Hvc, Conduit::Smc] {
        let answer = low(psci::call_by(conduit, THEIR_OWN, [0; 3]));
        report.equal("the firmware's own functions are not reached", answer, psci::NOT_SUPPORTED);
    }
    let words = machine::tree().chosen().bootargs().unwrap_or_default();
    let mut numbers = words.split_ascii_whitespace().map_while(|word| word.parse::<i64>().ok());
    let mut next = || numbers.next();
    let (Some(one), Some(two), Some(three), Some(each)) = (next(), next(), next(), next()) else {
        report.skip("each exit is a call of the firmware's", "nobody says what is to be expected");
        return;
    };
    report.equal("the answers are those that the firmware's make", answers, [one, two, three]);
    let each = each as u64;
    gic::enable(Timer::Virtual.intid());
    mask_interrupts();
    quiet(report);
    for (way, leave) in WAYS {
        let (exactly, wrong) = counted(leave, each);
        println!("{way}: {exactly} of {ROUNDS} times {each:#x}, {wrong} times none of it");
        report.holds(way, well(exactly, wrong), (exactly, wrong));
    }
    let cpus = smp::start_all();
    for cpu in 1..cpus {
        let both = smp::call(cpu, on_another, each).unwrap_or(0);
        let (exactly, wrong) = (both >> 32, both & 0xffff_ffff);
        println!("CPU {cpu}: {exactly} of {ROUNDS} times {each:#x}, {wrong} times none of it");
        report.holds("and so it is on another CPU", well(exactly, wrong), (exactly, wrong));
    }
}

type Leave = fn();

/// The ways out of a guest: by a synchronous exception, and by an interrupt.
const WAYS: [(&str, Leave); 5] = [
    ("each HVC is one call", || {
        psci::call_by(Conduit::Hvc, psci::VERSION, [0; 3]);
    }),
    ("each SMC is one call", || {
        psci::call_by(Conduit::Smc, psci::VERSION, [0; 3]);
    }),
    ("each access to a device is one call", || {
        mmio::read32(UARTFR);
    }),
    ("each register that traps is one call", || {
        mrs!("id_aa64pfr0_el1");
    }),
    ("each interrupt is one call", fire),
];

/// The virtual timer's interrupt comes, which is EL2's first. Masked, the guest only sees it pending.
fn fire() {
    // Nothing in here is a reason to leave the guest but the interrupt itself: the timer is the guest's own.
    guests::msr!("cntv_cval_el0", mrs!("cntvct_el0"));
    guests::msr!("cntv_ctl_el0", 1u64);
    instruction!("isb");
    for _ in 0..100_000 {
        if mrs!("isr_el1") & 1 << 7 != 0 {
            break;
        }
    }
    guests::msr!("cntv_ctl_el0", 0u64);
    instruction!("isb");
}

/// How often it was exactly `each`, and how often no multiple of it, or nothing.
fn counted(leave: Leave, each: u64) -> (u64, u64) {
    let by_interrupt = leave as *const () == fire as *const ();
    let (mut exactly, mut wrong) = (0, 0);
    for _ in 0..ROUNDS {
        let before = mrs!("tpidrro_el0");
        leave();
        let grown = mrs!("tpidrro_el0").wrapping_sub(before);
        if by_interrupt {
            end_interrupt();
        }
        match each {
            0 => wrong += u64::from(grown != 0),
            _ => wrong += u64::from(grown == 0 || grown % each != 0),
        }
        exactly += u64::from(grown == each);
    }
    (exactly, wrong)
}

fn end_interrupt() {
    let taken = gic::acknowledge();
    if gic::intid(taken) < 1020 {
        gic::end(taken);
    }
    wait_until(100, || mrs!("isr_el1") & 1 << 7 == 0);
}

fn well(exactly: u64, wrong: u64) -> bool {
    wrong == 0 && exactly >= ROUNDS - OTHERS
}

/// What is no exit is no call.
fn quiet(report: &mut Report) {
    let mut still = 0;
    for _ in 0..ROUNDS {
        let before = mrs!("tpidrro_el0");
        instruction!("isb");
        still += u64::from(mrs!("tpidrro_el0") == before);
    }
    report.holds("without an exit there is no call", still >= ROUNDS - OTHERS, still);
}

fn on_another(each: u64) -> u64 {
    let (exactly, wrong) = counted(WAYS[0].1, each);
    exactly << 32 | wrong
}
