//! Does a machine that does nothing wrong have what is its own, whatever others do beside it? Each CPU keeps all FP and SIMD registers,
//! finds that time never goes back, on itself and from CPU to CPU, and has a timer's beat in every period, none of them early.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guests::fp::{self, Registers};
use guests::report::Report;
use guests::smp::{self, number};
use guests::sysreg::{cpu, mask_interrupts, unmask_interrupts};
use guests::timer::{ENABLE, Timer, frequency, microseconds, now};
use guests::{MAX_CPUS, gic, instruction, interrupt, println};

guests::payload!(main);

/// How many beats each CPU has, and how far from each other, in microseconds.
const BEATS: u64 = 400;
const PERIOD: u64 = 10_000;

/// The latest time that any CPU has seen.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// How often a CPU had another FP register, an earlier time, and a beat too early or another number of them.
static LOST: AtomicU32 = AtomicU32::new(0);
static BACK: AtomicU32 = AtomicU32::new(0);
static WRONG: AtomicU32 = AtomicU32::new(0);
/// The longest that a beat was late, in ticks.
static LATE: AtomicU64 = AtomicU64::new(0);

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    interrupt::on(Timer::Virtual.intid(), |_| Timer::Virtual.stop());
    smp::start_all();
    for other in smp::others() {
        smp::post(number(other), beats, 0);
    }
    beats(0);
    let mut through = [true; MAX_CPUS];
    for other in smp::others() {
        // Others that mean harm may have its CPU for long.
        through[number(other)] = (0..30).any(|_| smp::finished(number(other)).is_some());
    }
    report.equal("each CPU has had its beats", through, [true; MAX_CPUS]);
    report.equal("FP registers that were not kept", LOST.load(Ordering::SeqCst), 0);
    report.equal("times that went back", BACK.load(Ordering::SeqCst), 0);
    report.equal("beats that were early, missing or too many", WRONG.load(Ordering::SeqCst), 0);
    let late = LATE.load(Ordering::SeqCst) * 1_000_000 / frequency();
    println!("victim: a beat was late by {late} us at most");
}

/// The time, which is not before what anybody has seen.
fn look() -> u64 {
    let before = LATEST.load(Ordering::SeqCst);
    let time = now();
    if time < before {
        BACK.fetch_add(1, Ordering::SeqCst);
    }
    LATEST.fetch_max(time, Ordering::SeqCst);
    time
}

/// One beat after the other, waited for in turn by looking at the time and by WFI.
fn beats(_: u64) -> u64 {
    fp::enable();
    gic::enable(Timer::Virtual.intid());
    let own = cpu();
    let taken = || u64::from(interrupt::count(own, Timer::Virtual.intid()));
    let first = taken();
    let mut due = look();
    for beat in 1..=BEATS {
        let pattern = Registers::pattern(own as u64, beat);
        pattern.load();
        due += microseconds(PERIOD);
        mask_interrupts();
        Timer::Virtual.set_cval(due);
        Timer::Virtual.set_ctl(ENABLE);
        while taken() == first + beat - 1 {
            if beat % 2 == 0 {
                instruction!("wfi");
            }
            unmask_interrupts();
            look();
            mask_interrupts();
        }
        let time = look();
        unmask_interrupts();
        if time < due || taken() != first + beat {
            WRONG.fetch_add(1, Ordering::SeqCst);
        }
        LATE.fetch_max(time.saturating_sub(due), Ordering::SeqCst);
        if Registers::store() != pattern {
            LOST.fetch_add(1, Ordering::SeqCst);
        }
    }
    0
}
