//! Does a guest that never lets the hypervisor rest take more than its share? What it does without end
//! on all its CPUs, its command line says: `storm=wfe`, `wfi`, `sgi` or `timer`; or on one, with a network card or a disk:
//! `net`, `frames`, `disk`. Whoever runs it watches the others.

#![no_std]
#![no_main]

mod devices;

use guests::gic::{self, Target};
use guests::report::Report;
use guests::sysreg::{affinity, mask_interrupts, unmask_interrupts};
use guests::timer::{ENABLE, Timer};
use guests::{instruction, interrupt, machine, println, smp};

guests::payload!(main);

const SGI: u32 = 3;

fn main(_: &mut Report) {
    let tree = machine::tree();
    let arguments = tree.chosen().bootargs().unwrap_or_default();
    let kind = arguments.split(' ').find_map(|word| word.strip_prefix("storm=")).unwrap_or("wfe");
    let storm = match kind {
        "wfi" => wfi,
        "sgi" => sgi,
        "timer" => timer,
        "net" => devices::net,
        "frames" => devices::frames,
        "disk" => devices::disk,
        _ => wfe,
    };
    gic::init();
    interrupt::take();
    // It has passed as soon as it is set, again and again.
    interrupt::on(Timer::Virtual.intid(), |_| Timer::Virtual.set_cval(0));
    for other in smp::others() {
        smp::start(other, storm, 0);
    }
    println!("storm: {kind} for ever");
    storm(0);
}

/// Waits that end at once, and tell a hypervisor to let somebody else run.
fn wfe(_: u64) {
    loop {
        instruction!("sevl");
        instruction!("wfe");
    }
}

/// Waits for an interrupt that is there, and never taken.
fn wfi(_: u64) {
    mask_interrupts();
    loop {
        gic::send(SGI, Target::Affinity(affinity()));
        instruction!("wfi");
    }
}

/// SGIs to all others, and to itself.
fn sgi(_: u64) {
    gic::init_cpu();
    unmask_interrupts();
    loop {
        gic::send(SGI, Target::Others);
        gic::send(SGI, Target::Affinity(affinity()));
    }
}

/// A timer in the past, whose handler sets it there again.
fn timer(_: u64) {
    gic::init_cpu();
    gic::enable(Timer::Virtual.intid());
    Timer::Virtual.set_cval(0);
    Timer::Virtual.set_ctl(ENABLE);
    unmask_interrupts();
    loop {
        instruction!("nop");
    }
}
