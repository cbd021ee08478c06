//! Does every CPU keep its own FP and SIMD registers through interrupts, WFI and whatever else the
//! CPU under it does meanwhile? Worth most with more vCPUs than CPUs, several machines at once.

#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use guests::fp::Registers;
use guests::gic::{self, Target};
use guests::report::Report;
use guests::smp::{self, number};
use guests::sysreg::{cpu, mask_interrupts, unmask_interrupts};
use guests::timer::{Timer, microseconds, wait_until};
use guests::{MAX_CPUS, instruction, interrupt, machine, msr, timer};

guests::payload!(main);

/// For each CPU, unless the command line has `rounds=`.
const ROUNDS: u64 = 200;
const SGI: u32 = 3;
/// How many CPUs are through; the others keep sending to them.
static THROUGH: AtomicU32 = AtomicU32::new(0);

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    interrupt::on(Timer::Virtual.intid(), |_| Timer::Virtual.stop());
    let rounds = machine::number("rounds").unwrap_or(ROUNDS);
    let cpus = smp::start_all();
    for other in smp::others() {
        smp::post(number(other), keeps_registers, rounds);
    }
    unmask_interrupts();
    let mut wrong = [0; MAX_CPUS];
    wrong[cpu()] = keeps_registers(rounds);
    for other in smp::others() {
        wait_until(10_000 * rounds.div_ceil(ROUNDS), || {
            THROUGH.load(Ordering::Acquire) as usize == cpus
        });
        wrong[number(other)] = smp::finished(number(other)).unwrap_or(u64::MAX);
    }
    mask_interrupts();
    report.equal("CPU rounds with a wrong FP register", wrong, [0; MAX_CPUS]);

    // CPACR_EL1.FPEN: switched off, the first use traps with class 0x07; the registers stay.
    let pattern = Registers::pattern(77, 77);
    pattern.load();
    msr!("cpacr_el1", 0);
    let use_fp = || {
        // SAFETY: reads a register to nowhere.
        unsafe { asm!(".arch_extension fp", "fmov {}, d0", out(reg) _, options(nostack)) };
    };
    let class = guests::exception::survive(use_fp).1.map(|caught| caught.class());
    msr!("cpacr_el1", 3 << 20);
    report.equal("FP traps to EL1 while CPACR_EL1 has it off", class, Some(7));
    report.holds("and its registers are kept meanwhile", Registers::store() == pattern, ());
}

/// How many rounds ended with registers other than they began with.
fn keeps_registers(rounds: u64) -> u64 {
    guests::fp::enable();
    gic::enable(Timer::Virtual.intid());
    let own = cpu() as u64;
    let mut wrong = 0;
    for round in 0..rounds {
        let pattern = Registers::pattern(own, round);
        pattern.load();
        match round % 4 {
            0 => timer::spin(50),
            1 => {
                let before = interrupt::count(cpu(), Timer::Virtual.intid());
                Timer::Virtual.arm(microseconds(30));
                wait_until(1000, || interrupt::count(cpu(), Timer::Virtual.intid()) != before);
            }
            2 => gic::send(SGI, Target::Others),
            _ => {
                // Masked, the WFI ends by the timer whenever that fires.
                mask_interrupts();
                Timer::Virtual.arm(microseconds(30));
                instruction!("wfi");
                unmask_interrupts();
                instruction!("yield");
            }
        }
        wrong += u64::from(Registers::store() != pattern);
    }
    Timer::Virtual.stop();
    THROUGH.fetch_add(1, Ordering::Release);
    wrong
}
