//! Do others go on beside a guest that masks interrupts and never lets go of its CPUs? This one never
//! ends: whoever runs it watches the others.

#![no_std]
#![no_main]

use guests::report::Report;
use guests::{println, smp, sysreg};

guests::payload!(main);

fn main(_: &mut Report) {
    for other in smp::others() {
        smp::start(other, spin, 0);
    }
    println!("spin: all CPUs spin for ever, interrupts masked");
    spin(0);
}

fn spin(_: u64) {
    sysreg::mask_interrupts();
    loop {
        // Not even a hint that would let a hypervisor know.
        guests::instruction!("nop");
    }
}
