//! Does every wait end: WFI by interrupts masked or not, WFE by events and interrupts, thousands of
//! times without one lost wake-up?

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use guests::gic::{self, Target};
use guests::report::Report;
use guests::smp::{self, number};
use guests::sysreg::{self, cpu, mask_interrupts, unmask_interrupts};
use guests::timer::{IMASK, Timer, frequency, microseconds, wait_until};
use guests::{instruction, interrupt, machine, mrs, msr, println, timer};

guests::payload!(main);

const SGI: u32 = 7;
/// What only ends the wait where the wake-up was lost.
const WATCHDOG: Timer = Timer::Physical;

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    // Masked, not stopped: that it fired is what the waits look at.
    interrupt::on(WATCHDOG.intid(), |_| WATCHDOG.set_ctl(1 | IMASK));
    interrupt::on(Timer::Virtual.intid(), |_| Timer::Virtual.stop());
    gic::enable(WATCHDOG.intid());
    gic::enable(Timer::Virtual.intid());
    if machine::tree().chosen().bootargs() == Some("bounce") {
        return bounces(report);
    }

    pending(report);
    many(report);
    events(report);
    let Some(other) = smp::others().next() else {
        report.skip("waits that another CPU ends", "one CPU");
        return;
    };
    smp::start_all();
    between(report, other);
}

/// Whether `wait` ended by itself rather than by the watchdog, 3 s later. Interrupts are masked.
fn ends(wait: impl FnOnce()) -> bool {
    WATCHDOG.arm(microseconds(3_000_000));
    wait();
    let late = WATCHDOG.fired();
    WATCHDOG.stop();
    !late
}

fn pending(report: &mut Report) {
    mask_interrupts();
    gic::send(SGI, Target::Affinity(sysreg::affinity()));
    let ended = ends(|| {
        for _ in 0..100 {
            instruction!("wfi");
        }
    });
    report.holds("WFI ends at once with an interrupt pending and masked", ended, ());
    let before = interrupt::count(cpu(), SGI);
    unmask_interrupts();
    let taken = wait_until(1000, || interrupt::count(cpu(), SGI) == before + 1);
    report.holds("which is taken once unmasked", taken, ());

    mask_interrupts();
    let start = timer::now();
    Timer::Virtual.arm(microseconds(20_000));
    let ended = ends(|| {
        while !Timer::Virtual.fired() && !WATCHDOG.fired() {
            instruction!("wfi");
        }
    });
    let slept = timer::now() - start;
    report.holds("WFI ends by a timer whose interrupt is masked", ended, slept);
    unmask_interrupts();

    // Masked at its source there is no interrupt, only ISTATUS: nothing to wait for but another.
    mask_interrupts();
    Timer::Virtual.set_cval(0);
    Timer::Virtual.set_ctl(1 | IMASK);
    WATCHDOG.arm(microseconds(10_000));
    let mut wakes = 0u32;
    while !WATCHDOG.fired() {
        instruction!("wfi");
        wakes += 1;
    }
    WATCHDOG.stop();
    Timer::Virtual.stop();
    println!("{wakes} WFI until a timer of 10 ms, beside one whose output is masked");
    // A vCPU that had to wait for its CPU sees none; one that is not put to sleep, thousands.
    report.holds("WFI sleeps beside a timer masked at its source", wakes < 500, wakes);
    unmask_interrupts();
}

fn many(report: &mut Report) {
    const ROUNDS: u64 = 2000;
    mask_interrupts();
    let mut lost = 0;
    let start = timer::now();
    for round in 0..ROUNDS {
        // From already passed to comfortably later: before, at and after the WFI.
        Timer::Virtual.arm(microseconds(round % 60));
        let ended = ends(|| {
            while !Timer::Virtual.fired() && !WATCHDOG.fired() {
                instruction!("wfi");
            }
        });
        Timer::Virtual.stop();
        lost += u32::from(!ended);
        if lost > 1 {
            break;
        }
    }
    let took = (timer::now() - start) * 1_000_000 / frequency() / ROUNDS;
    println!("{ROUNDS} WFI with a timer wake-up: {took} us each");
    report.equal("2000 WFI with timer wake-ups, lost", lost, 0);

    let taken = || interrupt::count(cpu(), Timer::Virtual.intid());
    let before = taken();
    let mut lost = 0;
    for round in 1..=500u32 {
        Timer::Virtual.arm(microseconds(u64::from(round % 40)));
        let ended = ends(|| {
            while taken() - before < round && !WATCHDOG.fired() {
                instruction!("wfi");
                unmask_interrupts();
                instruction!("isb");
                mask_interrupts();
            }
        });
        lost += u32::from(!ended);
        if lost > 1 {
            break;
        }
    }
    unmask_interrupts();
    report.equal("500 WFI whose interrupt is taken, once each", (lost, taken() - before), (0, 500));
}

fn events(report: &mut Report) {
    mask_interrupts();
    let ended = ends(|| {
        for _ in 0..1000 {
            instruction!("sevl");
            instruction!("wfe");
        }
        instruction!("sev");
        instruction!("wfe");
    });
    report.holds("SEVL and SEV end the own WFE", ended, ());

    Timer::Virtual.arm(microseconds(1000));
    let ended = ends(|| {
        while !Timer::Virtual.fired() && !WATCHDOG.fired() {
            instruction!("wfe");
        }
    });
    Timer::Virtual.stop();
    report.holds("WFE ends though its interrupt is masked", ended, ());

    // CNTKCTL_EL1: EVNTEN, each time bit 12 of the counter goes up.
    let before = mrs!("cntkctl_el1");
    msr!("cntkctl_el1", before | 1 << 2 | 12 << 4);
    let ended = ends(|| {
        for _ in 0..10 {
            instruction!("wfe");
        }
    });
    msr!("cntkctl_el1", before);
    report.holds("the event stream ends WFE", ended, ());
    unmask_interrupts();
}

static BALL: AtomicU32 = AtomicU32::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static ANSWERED: AtomicU32 = AtomicU32::new(0);
const BOUNCES: u32 = 500;
/// How often it is to bounce, and until when.
static ENOUGH: AtomicU32 = AtomicU32::new(BOUNCES);
static UNTIL: AtomicU64 = AtomicU64::new(u64::MAX);

/// The two bounce for three seconds: with others on their CPU, which is one, each SEV is for one that may be anywhere.
fn bounces(report: &mut Report) {
    let other = smp::others().next().expect("another CPU");
    smp::start_all();
    ENOUGH.store(u32::MAX, Ordering::Relaxed);
    UNTIL.store(timer::now() + microseconds(3_000_000), Ordering::Relaxed);
    mask_interrupts();
    smp::post(number(other), bounce, 1);
    let here = bounce(0);
    let there = smp::finished(number(other));
    report.equal("two CPUs bounce by SEV and WFE", (here, there), (0, Some(0)));
    let times = BALL.load(Ordering::Relaxed);
    println!("wfi: bounced {times} times");
    report.holds("they bounce often", times > 20, times);
}

/// Waits by WFE until the ball is `mine`, passes it on by SEV, until it has bounced enough.
fn bounce(mine: u64) -> u64 {
    let end = timer::now() + microseconds(8_000_000);
    loop {
        let ball = BALL.load(Ordering::Acquire);
        if ball >= ENOUGH.load(Ordering::Relaxed) || timer::now() > UNTIL.load(Ordering::Relaxed) {
            instruction!("sev");
            return 0;
        }
        if u64::from(ball & 1) == mine {
            BALL.store(ball + 1, Ordering::Release);
            instruction!("dsb ish");
            instruction!("sev");
        } else if timer::now() > end {
            return 1;
        } else {
            instruction!("wfe");
        }
    }
}

/// Answers each SGI with one, waiting by WFI.
fn answer(back: u64) -> u64 {
    let taken = || interrupt::count(cpu(), SGI);
    let mut answered = ANSWERED.load(Ordering::Relaxed);
    mask_interrupts();
    while !STOP.load(Ordering::Acquire) {
        if taken() != answered {
            answered += 1;
            gic::send(SGI, Target::Affinity(back));
        } else {
            instruction!("wfi");
        }
        unmask_interrupts();
        instruction!("isb");
        mask_interrupts();
    }
    unmask_interrupts();
    0
}

fn between(report: &mut Report, other: u64) {
    mask_interrupts();
    smp::post(number(other), bounce, 1);
    let here = bounce(0);
    let there = smp::finished(number(other));
    report.equal("two CPUs bounce by SEV and WFE", (here, there), (0, Some(0)));

    ANSWERED.store(interrupt::count(number(other), SGI), Ordering::Relaxed);
    smp::post(number(other), answer, sysreg::affinity());
    let taken = || interrupt::count(cpu(), SGI);
    let before = taken();
    let mut lost = 0;
    for round in 1..=500u32 {
        gic::send(SGI, Target::Affinity(other));
        let ended = ends(|| {
            while taken() - before < round && !WATCHDOG.fired() {
                instruction!("wfi");
                unmask_interrupts();
                instruction!("isb");
                mask_interrupts();
            }
        });
        lost += u32::from(!ended);
        if lost > 1 {
            break;
        }
    }
    STOP.store(true, Ordering::Release);
    gic::send(SGI, Target::Affinity(other));
    unmask_interrupts();
    let stopped = smp::finished(number(other));
    report.equal("two CPUs answer SGIs out of WFI, lost", (lost, stopped), (0, Some(0)));
}
