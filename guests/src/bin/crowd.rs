//! Is each of all shared interrupts, pending at once and far more than there are list registers, taken once by one CPU, whatever
//! is changed meanwhile: what is in a list register is disabled, sent to another CPU, or becomes more or less urgent?

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guests::gic;
use guests::report::Report;
use guests::sysreg::{affinity, mask_interrupts, unmask_interrupts};
use guests::timer::{self, wait_until};
use guests::{interrupt, println, smp};

guests::payload!(main);

/// The first SPI.
const FIRST: u32 = 32;
const ROUNDS: u32 = 40;
/// How many interrupts each handler changes something of.
const CHANGES: u32 = 3;

static RANDOM: AtomicU64 = AtomicU64::new(0x5eed_0f0f_c0de);

/// Any number below `count`, for any CPU.
fn below(count: u64) -> u64 {
    let step = |seed: u64| {
        Some(seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f))
    };
    let seed = RANDOM.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(0);
    (seed >> 33) % count
}

fn any() -> u32 {
    FIRST + below(u64::from(gic::lines() - FIRST)) as u32
}

/// One of the CPUs.
fn anybody() -> u64 {
    let others = smp::others().count() as u64;
    smp::others().nth(below(others + 1) as usize).unwrap_or(affinity())
}

fn priority() -> u8 {
    0x10 + 0x10 * below(12) as u8
}

/// What a handler does while its own interrupt is active.
fn meddle(_: u32) {
    for _ in 0..CHANGES {
        let intid = any();
        match below(3) {
            0 => gic::set_priority(intid, priority()),
            1 => gic::route(intid, anybody()),
            _ => {
                gic::disable(intid);
                gic::settle();
                gic::enable(intid);
            }
        }
    }
}

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    let cpus = smp::start_all();
    let count = gic::lines() - FIRST;
    println!("{count} SPIs, {cpus} CPUs");
    let intids = || FIRST..FIRST + count;
    for intid in intids() {
        gic::disable(intid);
        interrupt::on(intid, meddle);
    }
    let taken = |intid| (0..guests::MAX_CPUS).map(|cpu| interrupt::count(cpu, intid)).sum::<u32>();
    let (mut wrong, mut left) = (None, None);
    for round in 1..=ROUNDS {
        gic::set_forwarding(false);
        gic::settle();
        for intid in intids() {
            gic::set_edge(intid, below(2) == 0);
            gic::set_priority(intid, priority());
            gic::route(intid, anybody());
            gic::clear_pending(intid);
            gic::enable(intid);
            gic::set_pending(intid);
        }
        gic::set_forwarding(true);
        unmask_interrupts();
        wait_until(5000, || intids().all(|intid| taken(intid) >= round));
        timer::spin(3000);
        mask_interrupts();
        for intid in intids() {
            gic::disable(intid);
            if taken(intid) != round {
                wrong = wrong.or(Some((round, intid, taken(intid))));
            }
            // What another CPU's interface has in hand is told as soon as that CPU has been asked.
            if !wait_until(2000, || !gic::is_pending(intid) && !gic::is_active(intid)) {
                let state = (gic::is_pending(intid), gic::is_active(intid));
                left = left.or(Some((round, intid, state)));
            }
        }
        if wrong.is_some() || left.is_some() {
            break;
        }
    }
    report.holds(
        "each of all is taken once, whatever is changed meanwhile",
        wrong.is_none(),
        wrong,
    );
    report.holds("none is left pending or active", left.is_none(), left);
}
