//! An exit and a wake-up among many guests, and what the many do.

use guests::timer::{self, Timer};
use guests::{gic, instruction, psci};

use crate::counted;
use crate::interrupts;
use crate::sample::row;
use crate::timed;
use crate::vectors;

/// How long it sleeps before it measures, in microseconds: each of the others has had its turn by then, and nobody is
/// ahead of it any more.
const SETTLING: u64 = 200_000;

/// No measurement takes longer, in microseconds.
const LONGEST: u64 = 2 * SETTLING;

/// How far ahead the timer is set that wakes it, in ticks: longer than anything takes.
const AHEAD: u64 = 100_000;

/// Rows `exit-NAME` and `wake-NAME`.
pub fn measure(name: &str) {
    settle();
    let version = u64::from(psci::VERSION);
    let call = || timed!("hvc #0", inout("x0") version => _, out("x1") _, out("x2") _, out("x3") _);
    row(format_args!("exit-{name}"), call);
    gic::init();
    vectors::install();
    interrupts::timer(format_args!("wake-{name}"), AHEAD, vectors::sleep_for_one);
    vectors::remove();
}

fn settle() {
    sleep(SETTLING);
}

/// Sleeps for so many microseconds.
fn sleep(micros: u64) {
    gic::init();
    vectors::install_with(Some(interrupts::stop));
    gic::enable(Timer::Virtual.intid());
    Timer::Virtual.set_cval(Timer::Virtual.count() + timer::microseconds(micros));
    Timer::Virtual.set_ctl(timer::ENABLE);
    vectors::sleep_for_one();
    gic::disable(Timer::Virtual.intid());
    vectors::remove();
}

/// What is counted of a second of sleep.
pub fn asleep() {
    counted::row("asleep", 1, || sleep(1_000_000));
}

/// Sleeps until all has been measured.
pub fn idle() {
    sleep(2 * LONGEST);
}

/// Is busy until all has been measured.
pub fn spin() {
    let end = timer::now() + timer::microseconds(LONGEST);
    while timer::now() < end {
        // The time is not looked at often.
        (0..1000).for_each(|index| _ = core::hint::black_box(index));
    }
}

/// Is busy for ever, and gives way after a few instructions, where QEMU runs one CPU after the other.
pub fn give_way() -> ! {
    loop {
        instruction!("yield");
    }
}

/// Asks for a reset.
pub fn reset() -> ! {
    psci::call(psci::SYSTEM_RESET, [0; 3]);
    loop {
        instruction!("wfi");
    }
}
