//! How much of the CPU does this guest get? All its CPUs do the same small piece of work over and over,
//! and the boot CPU says four times a second how many pieces are done. It never ends: whoever runs
//! several of these compares them.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guests::report::Report;
use guests::timer::{microseconds, now};
use guests::{println, smp};

guests::payload!(main);

static DONE: AtomicU64 = AtomicU64::new(0);

fn main(_: &mut Report) {
    for other in smp::others() {
        smp::start(other, work, 0);
    }
    let start = now();
    for quarter in 1.. {
        let end = start + quarter * microseconds(250_000);
        while now() < end {
            piece();
        }
        println!("share: {quarter} {}", DONE.load(Ordering::Relaxed));
    }
}

fn work(_: u64) {
    loop {
        piece();
    }
}

/// A few microseconds' work that touches nothing but registers.
fn piece() {
    for _ in 0..1000 {
        guests::instruction!("nop");
    }
    DONE.fetch_add(1, Ordering::Relaxed);
}
