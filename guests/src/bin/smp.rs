//! Do all CPUs start, stop and start again, and does every SGI arrive exactly where it was sent?

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guests::gic::{self, Target, v2, v3};
use guests::machine::machine;
use guests::psci::{self, AFFINITY_OFF, AFFINITY_ON, ALREADY_ON};
use guests::report::Report;
use guests::smp::{self, number};
use guests::sysreg::{self, cpu};
use guests::timer::wait_until;
use guests::{MAX_CPUS, entry, interrupt, mmio, msr, println};

guests::payload!(main);

/// The SGI that tests send.
const SGI: u32 = 5;
const CONTEXT: u64 = 0xc0de_0000_dead_0000;

static SEEN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// GICv2: bit n is set once an SGI named CPU interface n as its source.
static SOURCES: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    interrupt::on(SGI, |acknowledged| {
        SOURCES[cpu()].fetch_or(1 << v2::source(acknowledged), Ordering::Relaxed);
    });
    sysreg::unmask_interrupts();
    println!("{} CPUs in the tree", machine().cpus().len());

    self_sgi(report);
    if machine().cpus().len() < 2 {
        report.skip("starting CPUs and SGIs between them", "one CPU");
        return;
    }
    start_in_order(report);
    let all = machine().cpus().len();
    report.equal("every CPU of the tree starts again after CPU_OFF", smp::start_all(), all);
    every_pair(report);
    broadcast(report);
    nobody(report);
}

/// What a CPU does that only says that it is there.
fn show_up(context: u64) {
    println!("CPU {:#x} is on, context id {context:#x}", sysreg::affinity());
    SEEN[cpu()].store(context, Ordering::Release);
}

fn start_in_order(report: &mut Report) {
    let (mut contexts, mut states, mut twice, mut off) = (true, true, true, true);
    for target in smp::others() {
        let context = CONTEXT + target;
        off &= psci::affinity_info(target) == AFFINITY_OFF;
        let answer = smp::start(target, show_up, context);
        let on = wait_until(5000, || SEEN[number(target)].load(Ordering::Acquire) != 0);
        contexts &= answer == 0 && on && SEEN[number(target)].load(Ordering::Acquire) == context;
        let state = entry::state(number(target));
        states &= state.masked && state.mmu_off;
        off &= wait_until(5000, || psci::affinity_info(target) == AFFINITY_OFF);
    }
    report.holds("CPU_ON starts each CPU with its context id", contexts, ());
    report.holds("a started CPU has its interrupts masked and its MMU off", states, ());
    report.holds("AFFINITY_INFO says OFF before CPU_ON and after CPU_OFF", off, ());

    let own = sysreg::affinity();
    twice &= smp::start(own, show_up, 0) == ALREADY_ON;
    report.holds("CPU_ON of the calling CPU is ALREADY_ON", twice, ());
    report.equal("AFFINITY_INFO of the calling CPU is ON", psci::affinity_info(own), AFFINITY_ON);
    let Some(target) = smp::others().next() else { return };
    let stay = |_| {
        let _ = wait_until(10_000, || SEEN[cpu()].load(Ordering::Acquire) == 1);
    };
    SEEN[number(target)].store(0, Ordering::Release);
    let first = smp::start(target, stay, 0);
    let on = wait_until(5000, || psci::affinity_info(target) == AFFINITY_ON);
    report.equal("AFFINITY_INFO of a started CPU is ON", (first, on), (0, true));
    report.equal(
        "CPU_ON of a CPU that is on is ALREADY_ON",
        smp::start(target, stay, 0),
        ALREADY_ON,
    );
    SEEN[number(target)].store(1, Ordering::Release);
    let off = wait_until(5000, || psci::affinity_info(target) == AFFINITY_OFF);
    report.holds("a CPU that called CPU_OFF gets OFF", off, ());
}

fn self_sgi(report: &mut Report) {
    let before = interrupt::count(cpu(), SGI);
    for sent in 1..=100 {
        gic::send(SGI, Target::Affinity(sysreg::affinity()));
        if !wait_until(5000, || interrupt::count(cpu(), SGI) - before == sent) {
            break;
        }
    }
    report.equal("100 SGIs to itself arrive", interrupt::count(cpu(), SGI) - before, 100);
}

/// Sends one SGI to the CPU with affinity `target` and waits until it has been taken.
fn send_and_wait(target: u64) -> u64 {
    let before = interrupt::count(number(target), SGI);
    gic::send(SGI, Target::Affinity(target));
    u64::from(wait_until(5000, || interrupt::count(number(target), SGI) != before))
}

fn counts() -> [u32; MAX_CPUS] {
    core::array::from_fn(|cpu| interrupt::count(cpu, SGI))
}

/// How many more each CPU of the tree has taken since `before`, all the same or not.
fn all_took(before: &[u32; MAX_CPUS], but: Option<usize>, want: u32) -> bool {
    let now = counts();
    (0..MAX_CPUS).all(|cpu| {
        let there = machine().cpus().iter().any(|&affinity| number(affinity) == cpu);
        let want = if there && Some(cpu) != but { want } else { 0 };
        now[cpu] - before[cpu] == want
    })
}

fn every_pair(report: &mut Report) {
    const ROUNDS: u32 = 10;
    let cpus = machine().cpus();
    let before = counts();
    let mut arrived = true;
    for &from in cpus {
        for &to in cpus {
            SOURCES[number(to)].store(0, Ordering::Relaxed);
            for _ in 0..ROUNDS {
                arrived &= if number(from) == cpu() {
                    send_and_wait(to) == 1
                } else {
                    smp::call(number(from), send_and_wait, to) == Some(1)
                };
            }
            if !gic::is_v3() {
                arrived &= SOURCES[number(to)].load(Ordering::Relaxed) == 1 << (from & 7);
            }
        }
    }
    let what = "every CPU's SGIs arrive at every CPU (GICv2: with their source)";
    report.holds(what, arrived, &SOURCES[..cpus.len()]);
    let each = ROUNDS * cpus.len() as u32;
    report.holds(
        "each CPU took as many SGIs as were sent",
        all_took(&before, None, each),
        counts(),
    );
}

fn broadcast(report: &mut Report) {
    let before = counts();
    let mut arrived = true;
    for round in 1..=20 {
        gic::send(SGI, Target::Others);
        arrived &= wait_until(5000, || all_took(&before, Some(cpu()), round));
    }
    report.holds("SGIs to all others arrive there and not here", arrived, counts());
    if gic::is_v3() {
        return;
    }
    let before = interrupt::count(cpu(), SGI);
    let others = counts();
    mmio::write32(gic::distributor() + v2::SGIR, 2 << 24 | SGI);
    let here = wait_until(5000, || interrupt::count(cpu(), SGI) == before + 1);
    let elsewhere = (0..MAX_CPUS).any(|at| at != cpu() && counts()[at] != others[at]);
    report.equal("GICD_SGIR filter 2 sends to itself only", (here, elsewhere), (true, false));
}

/// SGIs to CPUs that are not there are ignored, however they are asked for.
fn nobody(report: &mut Report) {
    let before = counts();
    if gic::is_v3() {
        let there = machine().cpus();
        let absent: u64 =
            (0..16).filter(|&aff0| !there.contains(&aff0)).fold(0, |list, aff0| list | 1 << aff0);
        let sgi = u64::from(SGI) << 24;
        for value in
            [sgi | absent, sgi | 0xff << 16 | 1, sgi | 0xff << 32 | 1, sgi | 0xff << 48 | 1, sgi]
        {
            msr!("icc_sgi1r_el1", value);
        }
    } else {
        let absent = (0..8).filter(|cpu| !machine().cpus().contains(cpu));
        let list: u32 = absent.fold(0, |list, cpu| list | 1 << cpu);
        for value in [list << 16, 0] {
            mmio::write32(gic::distributor() + v2::SGIR, value | SGI);
        }
    }
    guests::timer::spin(20_000);
    report.equal("SGIs to CPUs that are not there are ignored", counts(), before);
    // What is reserved may reach anybody, but has to leave a working controller.
    if gic::is_v3() {
        msr!("icc_sgi1r_el1", v3::sgi_value(SGI, 0xff));
        msr!("icc_sgi1r_el1", !(1 << 40 | 0xf << 24) | u64::from(SGI) << 24);
    } else {
        mmio::write32(gic::distributor() + v2::SGIR, 3 << 24 | 0xff << 16 | SGI);
    }
    guests::timer::spin(20_000);
    let alive = machine().cpus().iter().all(|&cpu| send_and_wait(cpu) == 1);
    report.holds("SGIs arrive after reserved ways to ask for one", alive, counts());
}
