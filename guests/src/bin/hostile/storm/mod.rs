//! Anything at all, by chance, from EL1 and EL0 and on every CPU: what survives is what counts. A sequence of operations is
//! made from a seed, so it comes again where time does, too (QEMU's `-icount`).

mod generate;
pub mod random;
mod routines;
mod sandbox;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guests::exception::{self, Frame};
use guests::report::Report;
use guests::sysreg::cpu;
use guests::virtio::memory;
use guests::{MAX_CPUS, fp, gic, mrs, msr, println, smp, timer};

use generate::{Kind, Scratch};
use random::Random;
use sandbox::Block;

static SEED: AtomicU64 = AtomicU64::new(0);
/// How many operations are left for all CPUs.
static LEFT: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// How often each CPU has begun.
static BEGUN: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static RUNNING: AtomicU32 = AtomicU32::new(0);
/// Interrupts since the CPU began its block.
static TAKEN: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// What each CPU may write to, and how far from its middle a block may come.
const SCRATCH: u64 = 0x8_0000;
static MIDDLE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// As many operations as that, on all CPUs.
pub fn rage(report: &mut Report, seed: u64, operations: u64) {
    println!("storm: seed {seed}, {operations} operations on {} CPUs", generate::others() + 1);
    for middle in MIDDLE.iter().take(generate::others() + 1) {
        middle.store(memory::take(SCRATCH, 4096) + SCRATCH / 2, Ordering::Relaxed);
    }
    SEED.store(seed, Ordering::Relaxed);
    LEFT.store(operations, Ordering::Relaxed);
    gic::init();
    exception::on_interrupt(interrupted);
    for target in smp::others() {
        smp::start(target, storm, 0);
    }
    storm(0);
    // The others end by themselves, once they are awake.
    let calm = timer::wait_until(60_000, || {
        routines::heal();
        RUNNING.load(Ordering::SeqCst) == 0
    });
    routines::restore();
    let refused = REFUSED.load(Ordering::Relaxed);
    let interrupts = INTERRUPTS.load(Ordering::Relaxed);
    let begun: u64 = BEGUN.iter().map(|begun| begun.load(Ordering::Relaxed)).sum();
    println!("storm: {refused} refused, {interrupts} interrupts, {begun} times a CPU began");
    report.holds("the storm is over on every CPU", calm, RUNNING.load(Ordering::SeqCst));
    report.holds("some of it was refused", refused > 0 || operations < 1000, refused);
}

/// What a CPU does until there is nothing left to do, or it turns itself off.
fn storm(_: u64) {
    RUNNING.fetch_add(1, Ordering::SeqCst);
    fp::enable();
    let (own, first) = (cpu(), mrs!("mpidr_el1") & 0xff == 0);
    let time = BEGUN[own].fetch_add(1, Ordering::Relaxed);
    let mut random = Random::new(SEED.load(Ordering::Relaxed), own, time);
    let middle = MIDDLE[own].load(Ordering::Relaxed);
    let scratch = Scratch { middle, arguments: middle + SCRATCH / 2 - 0x1000 };
    let mut current = Current::new(&mut random);
    let alone = generate::others() == 0;
    while LEFT.load(Ordering::Relaxed) > 0 {
        let done = match random.below(64) {
            0 => routines::timers(&mut random),
            // Somebody has to be awake to mend what keeps others asleep.
            1 if alone || !first => routines::waits(&mut random),
            2 => routines::tables(&mut random, middle),
            3..6 => routines::virtqueues(&mut random, middle),
            6 if first && !alone => {
                routines::heal();
                1
            }
            7 if !first && random.once_in(16) => break,
            _ => current.run(&mut random, scratch),
        };
        let take = |left: u64| Some(left.saturating_sub(done.max(1)));
        let _ = LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    }
    RUNNING.fetch_sub(1, Ordering::SeqCst);
}

/// How often a block runs, each time with other registers and mostly with something else before it: to make one takes an
/// emulator longer than to run it.
const TIMES: u64 = 16;

/// The block that a CPU runs.
struct Current {
    block: Block,
    kind: Kind,
}

impl Current {
    fn new(random: &mut Random) -> Self {
        let mut block = Block::new();
        let kind = generate::fill(&mut block, random);
        block.write();
        Self { block, kind }
    }

    /// Returns how many instructions there were.
    fn run(&mut self, random: &mut Random, scratch: Scratch) -> u64 {
        if random.once_in(TIMES) {
            *self = Self::new(random);
        }
        generate::operands(&mut self.block, self.kind, random, scratch);
        TAKEN[cpu()].store(0, Ordering::Relaxed);
        let refused = self.block.run();
        REFUSED.fetch_add(refused.into(), Ordering::Relaxed);
        // What a block may have changed that the next one, or the payload, would see.
        msr!("mdscr_el1", 0);
        msr!("cpacr_el1", 3 << 20);
        self.block.len() as u64
    }
}

/// Whatever it is, it is acknowledged and ended. If more and more come, the block goes on without.
fn interrupted(frame: &mut Frame) {
    const ENOUGH: u32 = 4;
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    let acknowledged = gic::acknowledge();
    if gic::intid(acknowledged) < gic::SPECIAL {
        gic::end(acknowledged);
    }
    if TAKEN[cpu()].fetch_add(1, Ordering::Relaxed) >= ENOUGH {
        frame.spsr |= 0x1c0;
    }
}
