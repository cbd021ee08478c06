//! SGIs to the other CPU, and the other CPU's turn where both share one.

use core::sync::atomic::{AtomicU64, Ordering};

use guests::{gic, instruction, println, smp, sysreg};

use crate::interrupts::SGI;
use crate::sample::{SAMPLES, Samples};
use crate::vectors;

/// What the other CPU does meanwhile.
static MODE: AtomicU64 = AtomicU64::new(SPIN);
static READY: AtomicU64 = AtomicU64::new(0);
/// Whom the other CPU answers: an affinity.
static CALLER: AtomicU64 = AtomicU64::new(0);

/// It spins.
const SPIN: u64 = 0;
/// It sleeps.
const SLEEP: u64 = 1;

/// The SGI that comes back.
const ANSWER: u32 = SGI + 1;

fn other() -> Option<u64> {
    let target = smp::others().next();
    if target.is_none() {
        println!("bench: there is no other CPU");
    }
    target
}

/// Each CPU is on its own. Both give way after a few instructions, for QEMU runs one after the other.
pub fn measure_pair() {
    let Some(target) = start() else { return };
    sgi(["sgi-to-running-handler", "sgi-to-running-acknowledge"], target, SPIN);
    sgi(["sgi-to-idle-handler", "sgi-to-idle-acknowledge"], target, SLEEP);
}

/// The other shares its CPU with a guest that is busy, which goes on while the other sleeps.
pub fn measure_descheduled() {
    let Some(target) = start() else { return };
    let names = ["sgi-to-descheduled-handler", "sgi-to-descheduled-acknowledge"];
    sgi(names, target, SLEEP);
}

fn start() -> Option<u64> {
    let target = other()?;
    gic::init();
    smp::start(target, serve, 0);
    while READY.load(Ordering::Acquire) == 0 {
        instruction!("yield");
    }
    Some(target)
}

fn sgi(names: [&str; 2], target: u64, mode: u64) {
    let mut rows = [Samples::new(), Samples::new()];
    let cpu = smp::number(target);
    MODE.store(mode, Ordering::Release);
    // It reads its orders when something comes.
    gic::send(SGI, gic::Target::Affinity(target));
    for index in 0..=SAMPLES {
        settle();
        let seen = vectors::count_of(cpu);
        let since = vectors::now();
        gic::send(SGI, gic::Target::Affinity(target));
        while vectors::count_of(cpu) == seen {
            instruction!("yield");
        }
        let stamps = vectors::stamps_of(cpu);
        if index > 0 {
            rows[0].add(stamps.taken.wrapping_sub(since));
            rows[1].add(stamps.acknowledged.wrapping_sub(since));
        }
    }
    for (row, name) in rows.iter_mut().zip(names) {
        row.tell(name);
    }
}

/// Long enough for the other CPU to be back at what it does.
fn settle() {
    for _ in 0..2000 {
        instruction!("yield");
    }
}

/// What the other CPU runs; `answers`: it answers each SGI with one.
fn serve(answers: u64) {
    gic::init_cpu();
    vectors::install_with((answers != 0).then_some(answer));
    READY.store(1, Ordering::Release);
    sysreg::unmask_interrupts();
    loop {
        match MODE.load(Ordering::Acquire) {
            SLEEP => instruction!("wfi"),
            _ => instruction!("yield"),
        }
    }
}

extern "C" fn answer() {
    gic::send(ANSWER, gic::Target::Affinity(CALLER.load(Ordering::Relaxed)));
}

/// Both share one CPU, and sleep while they have nothing to do: an SGI to the other, which answers with one. There
/// and back are two switches.
pub fn measure_switch() {
    let Some(target) = other() else { return };
    gic::init();
    vectors::install();
    CALLER.store(sysreg::affinity(), Ordering::Relaxed);
    MODE.store(SLEEP, Ordering::Release);
    smp::start(target, serve, 1);
    while READY.load(Ordering::Acquire) == 0 {
        vectors::doze();
    }
    let (mut there, mut switch) = (Samples::new(), Samples::new());
    for index in 0..=SAMPLES {
        let since = vectors::now();
        let seen = vectors::count_of(sysreg::cpu());
        gic::send(SGI, gic::Target::Affinity(target));
        while vectors::count_of(sysreg::cpu()) == seen {
            vectors::doze();
        }
        if index > 0 {
            there.add(vectors::stamps_of(smp::number(target)).acknowledged.wrapping_sub(since));
            switch.add(vectors::stamps().taken.wrapping_sub(since) / 2);
        }
    }
    there.tell("sgi-same-cpu-acknowledge");
    switch.tell("vcpu-switch");
    vectors::remove();
}
