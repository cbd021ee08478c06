//! Interrupts to itself: SGIs, and the virtual timer.

use core::fmt::Display;

use guests::timer::Timer;
use guests::{gic, sysreg};

use crate::sample::{SAMPLES, Samples};
use crate::vectors;

/// The SGI that is sent.
pub const SGI: u32 = 3;

/// How far ahead the timer is set, in ticks: longer than anything takes.
const AHEAD: u64 = 20_000;

pub fn measure() {
    gic::init();
    vectors::install();
    own_sgi();
    timer("virtual-timer-spinning", AHEAD, vectors::spin_for_one);
    timer("virtual-timer-in-wfi", AHEAD, vectors::sleep_for_one);
    vectors::remove();
}

/// Where an interrupt goes, in order.
struct Rows {
    handler: Samples,
    acknowledge: Samples,
    end: Samples,
}

impl Rows {
    const fn new() -> Self {
        Self { handler: Samples::new(), acknowledge: Samples::new(), end: Samples::new() }
    }

    /// The first of a row is for nothing.
    fn add(&mut self, index: usize, since: u64, stamps: &vectors::Stamps) {
        if index > 0 {
            self.handler.add(stamps.taken.wrapping_sub(since));
            self.acknowledge.add(stamps.acknowledged.wrapping_sub(since));
            let end = stamps.ended - stamps.ending;
            self.end.add(end.saturating_sub(crate::sample::reading()));
        }
    }
}

fn own_sgi() {
    let mut rows = Rows::new();
    let target = gic::Target::Affinity(sysreg::affinity());
    for index in 0..=SAMPLES {
        let seen = vectors::count_of(sysreg::cpu());
        sysreg::unmask_interrupts();
        let since = vectors::now();
        gic::send(SGI, target);
        while vectors::count_of(sysreg::cpu()) == seen {}
        sysreg::mask_interrupts();
        rows.add(index, since, &vectors::stamps());
    }
    rows.handler.tell("self-sgi-to-handler");
    rows.acknowledge.tell("self-sgi-to-acknowledge");
    rows.end.tell("eoi");
}

/// The virtual timer's interrupt, for which it waits in this way from `ahead` ticks before it comes.
pub fn timer(name: impl Display, ahead: u64, wait: fn()) {
    let mut rows = Rows::new();
    gic::enable(Timer::Virtual.intid());
    vectors::install_with(Some(stop));
    for index in 0..=SAMPLES {
        let at = Timer::Virtual.count() + ahead;
        Timer::Virtual.set_cval(at);
        Timer::Virtual.set_ctl(guests::timer::ENABLE);
        wait();
        rows.add(index, at, &vectors::stamps());
    }
    rows.handler.tell(name);
    gic::disable(Timer::Virtual.intid());
    vectors::install();
}

/// The interrupt is over when the timer is off.
pub extern "C" fn stop() {
    Timer::Virtual.stop();
}
