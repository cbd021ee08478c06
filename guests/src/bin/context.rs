//! Does every CPU keep its own system registers, whatever the CPU under it runs meanwhile? Worth most
//! with more vCPUs than CPUs: between writing and reading, somebody else has had the CPU.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use guests::gic;
use guests::report::Report;
use guests::smp::{self, number};
use guests::sysreg::{cpu, mask_interrupts};
use guests::timer::{Timer, microseconds, wait_until};
use guests::{MAX_CPUS, instruction, interrupt, mrs, msr, timer};

guests::payload!(main);

const ROUNDS: u64 = 24;
/// Longer than any hypervisor's time slice should be, in microseconds.
const LONG: u64 = 12_000;
/// How many CPUs are through.
static THROUGH: AtomicU32 = AtomicU32::new(0);

macro_rules! registers {
    ($($name:literal: $bits:expr),* $(,)?) => {
        const NAMES: &[&str] = &[$($name),*];

        /// Writes another value to each register; `bits` are those that may hold anything.
        fn write(seed: u64) {
            let mut seed = seed;
            $(
                seed = next(seed);
                msr!($name, mrs!($name) & !$bits | seed & $bits);
            )*
        }

        /// A bit for each register that does not hold what [`write`] wrote, of what it can hold: some
        /// registers have fewer bits on some CPUs, `can` says which stick.
        fn differ(seed: u64, can: &[u64]) -> u64 {
            let mut seed = seed;
            let mut wrong = 0;
            let mut at = 0;
            $(
                seed = next(seed);
                let holds: u64 = $bits & can[at];
                wrong |= u64::from(mrs!($name) & holds != seed & holds) << at;
                at += 1;
            )*
            let _ = at;
            wrong
        }

        /// The bits of each register that keep what is written.
        fn stick() -> [u64; NAMES.len()] {
            let mut can = [0; NAMES.len()];
            let mut at = 0;
            $(
                let before = mrs!($name);
                msr!($name, before | $bits);
                let ones = mrs!($name);
                msr!($name, before & !$bits);
                let zeros = mrs!($name);
                msr!($name, before);
                can[at] = ones & !zeros & $bits;
                at += 1;
            )*
            let _ = at;
            can
        }
    };
}

registers! {
    "tpidr_el0": u64::MAX,
    "tpidrro_el0": u64::MAX,
    "tpidr_el1": u64::MAX,
    "contextidr_el1": 0xffff_ffff,
    "far_el1": u64::MAX,
    "esr_el1": 0xffff_ffff,
    "elr_el1": u64::MAX,
    "spsr_el1": 0xf000_03cf,
    "afsr0_el1": 0xffff_ffff,
    "afsr1_el1": 0xffff_ffff,
    "par_el1": 0x0000_ffff_ffff_f000,
    "amair_el1": u64::MAX,
    // Attributes 4 to 7 are not used by the map.
    "mair_el1": 0xffff_ffff_0000_0000,
    "csselr_el1": 0b1,
    "cntkctl_el1": 0x303,
    "cntv_cval_el0": 0xffff_ffff,
    "sp_el0": u64::MAX,
    "dbgbvr0_el1": 0x0000_ffff_ffff_fffc,
    "dbgwvr0_el1": 0x0000_ffff_ffff_fffc,
}

/// The next of a sequence without pattern (a linear congruential generator, its bits mixed).
fn next(seed: u64) -> u64 {
    let seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    seed ^ seed >> 29
}

fn main(report: &mut Report) {
    mask_interrupts();
    gic::init();
    interrupt::take();
    let cpus = smp::start_all();
    for other in smp::others() {
        smp::post(number(other), keeps_registers, 0);
    }
    let mut wrong = [0; MAX_CPUS];
    wrong[cpu()] = keeps_registers(0);
    for other in smp::others() {
        wait_until(60_000, || THROUGH.load(Ordering::Acquire) as usize == cpus);
        wrong[number(other)] = smp::finished(number(other)).unwrap_or(u64::MAX);
    }
    for (bit, name) in NAMES.iter().enumerate() {
        let by_cpu = wrong.iter().filter(|wrong| *wrong >> bit & 1 == 1).count();
        report.equal(name, by_cpu, 0);
    }
    report.equal("every CPU came to the end", wrong.contains(&u64::MAX), false);
}

/// A bit for each register that held something else in some round.
fn keeps_registers(_: u64) -> u64 {
    mask_interrupts();
    gic::enable(Timer::Physical.intid());
    let can = stick();
    let own = cpu() as u64;
    let mut wrong = 0;
    for round in 0..ROUNDS {
        let seed = own << 32 | round << 8 | 0x5a;
        write(seed);
        if round % 2 == 0 {
            timer::spin(LONG);
        } else {
            // Masked, the WFI ends by the timer, and others run until then.
            let timer = Timer::Physical;
            timer.arm(microseconds(200));
            instruction!("wfi");
            timer.stop();
        }
        wrong |= differ(seed, &can);
    }
    THROUGH.fetch_add(1, Ordering::Release);
    wrong
}
