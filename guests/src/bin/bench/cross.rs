//! SGIs to the other CPU, and the other CPU's turn.

use core::sync::atomic::{AtomicU64, Ordering};

use guests::{gic, instruction, println, smp, sysreg};

use crate::interrupts::SGI;
use crate::sample::{SAMPLES, Samples};
use crate::vectors;

/// What the other CPU does meanwhile.
static MODE: AtomicU64 = AtomicU64::new(SPIN);
static READY: AtomicU64 = AtomicU64::new(0);

/// It spins.
const SPIN: u64 = 0;
/// It sleeps.
const SLEEP: u64 = 1;
/// It gives way.
const YIELD: u64 = 2;

fn other() -> Option<u64> {
    let target = smp::others().next();
    if target.is_none() {
        println!("bench: there is no other CPU");
    }
    target
}

/// The other CPU has a CPU of its own, or shares ours: who sends gives way after it.
pub fn measure_pair() {
    let Some(target) = other() else { return };
    gic::init();
    smp::start(target, serve, 0);
    while READY.load(Ordering::Acquire) == 0 {
        instruction!("yield");
    }
    sgi("sgi-to-running", target, SPIN);
    sgi("sgi-to-idle", target, SLEEP);
}

fn sgi(name: &str, target: u64, mode: u64) {
    let (mut handler, mut acknowledge) = (Samples::new(), Samples::new());
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
            handler.add(stamps.taken.wrapping_sub(since));
            acknowledge.add(stamps.acknowledged.wrapping_sub(since));
        }
    }
    handler.tell(name);
    acknowledge.tell(&name_of(name));
}

/// `NAME-acknowledge` without an allocator.
fn name_of(name: &str) -> &'static str {
    match name {
        "sgi-to-running" => "sgi-to-running-acknowledge",
        _ => "sgi-to-idle-acknowledge",
    }
}

/// Long enough for the other CPU to be back at what it does.
fn settle() {
    for _ in 0..2000 {
        instruction!("yield");
    }
}

fn serve(_: u64) {
    gic::init_cpu();
    vectors::install();
    READY.store(1, Ordering::Release);
    sysreg::unmask_interrupts();
    loop {
        match MODE.load(Ordering::Acquire) {
            SLEEP => instruction!("wfi"),
            YIELD => instruction!("wfe"),
            _ => instruction!("yield"),
        }
    }
}

/// Both CPUs share one: from a `WFE` to the instruction after it, the other having had its turn and given it
/// back in the same way.
pub fn measure_switch() {
    let Some(target) = other() else { return };
    gic::init();
    MODE.store(YIELD, Ordering::Release);
    smp::start(target, serve, 0);
    while READY.load(Ordering::Acquire) == 0 {
        instruction!("wfe");
    }
    crate::sample::row("vcpu-switch-there-and-back", || crate::timed!("wfe"));
    sgi("sgi-to-idle", target, SLEEP);
}
