//! Does every CPU keep its own FP and SIMD registers through interrupts, WFI and whatever else the
//! CPU under it does meanwhile? Worth most with more vCPUs than CPUs, several machines at once.

#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use guests::gic::{self, Target};
use guests::report::Report;
use guests::smp::{self, number};
use guests::sysreg::{cpu, mask_interrupts, unmask_interrupts};
use guests::timer::{Timer, microseconds, wait_until};
use guests::{MAX_CPUS, instruction, interrupt, mrs, msr, timer};

guests::payload!(main);

const ROUNDS: u64 = 200;
const SGI: u32 = 3;
/// How many CPUs are through; the others keep sending to them.
static THROUGH: AtomicU32 = AtomicU32::new(0);

/// v0 to v31, FPCR and FPSR.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(C, align(16))]
struct Registers {
    v: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

impl Registers {
    /// Different for each CPU, round and register; FPCR and FPSR with the bits that every CPU has.
    fn pattern(cpu: u64, round: u64) -> Self {
        let mut v = [0; 32];
        for (n, v) in (0u64..).zip(&mut v) {
            let seed = (cpu << 48 | round << 16 | n) + 1;
            let low = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let high = low.rotate_left(23) ^ seed.wrapping_mul(0xd6e8_feb8_6659_fd93);
            *v = u128::from(high) << 64 | u128::from(low);
        }
        // RMode, FZ, DN; and the cumulative exceptions with QC.
        let fpcr = ((cpu + round) & 0xf) << 22;
        let fpsr = ((cpu ^ round) & 0x1f) | (round & 1) << 27;
        Self { v, fpcr, fpsr }
    }

    fn load(&self) {
        // SAFETY: compiled code has no FP registers on this target, nobody misses them.
        unsafe {
            asm!(
                ".arch_extension fp", ".arch_extension simd",
                "ldp q0, q1, [{v}]", "ldp q2, q3, [{v}, #32]", "ldp q4, q5, [{v}, #64]",
                "ldp q6, q7, [{v}, #96]", "ldp q8, q9, [{v}, #128]", "ldp q10, q11, [{v}, #160]",
                "ldp q12, q13, [{v}, #192]", "ldp q14, q15, [{v}, #224]",
                "ldp q16, q17, [{v}, #256]", "ldp q18, q19, [{v}, #288]",
                "ldp q20, q21, [{v}, #320]", "ldp q22, q23, [{v}, #352]",
                "ldp q24, q25, [{v}, #384]", "ldp q26, q27, [{v}, #416]",
                "ldp q28, q29, [{v}, #448]", "ldp q30, q31, [{v}, #480]",
                "msr fpcr, {fpcr}", "msr fpsr, {fpsr}",
                v = in(reg) &self.v, fpcr = in(reg) self.fpcr, fpsr = in(reg) self.fpsr,
                options(nostack)
            );
        }
    }

    fn store() -> Self {
        let mut own = Self { v: [0; 32], fpcr: 0, fpsr: 0 };
        // SAFETY: as for the load, and all that is written is `own`.
        unsafe {
            asm!(
                ".arch_extension fp", ".arch_extension simd",
                "stp q0, q1, [{v}]", "stp q2, q3, [{v}, #32]", "stp q4, q5, [{v}, #64]",
                "stp q6, q7, [{v}, #96]", "stp q8, q9, [{v}, #128]", "stp q10, q11, [{v}, #160]",
                "stp q12, q13, [{v}, #192]", "stp q14, q15, [{v}, #224]",
                "stp q16, q17, [{v}, #256]", "stp q18, q19, [{v}, #288]",
                "stp q20, q21, [{v}, #320]", "stp q22, q23, [{v}, #352]",
                "stp q24, q25, [{v}, #384]", "stp q26, q27, [{v}, #416]",
                "stp q28, q29, [{v}, #448]", "stp q30, q31, [{v}, #480]",
                "mrs {fpcr}, fpcr", "mrs {fpsr}, fpsr",
                v = in(reg) &mut own.v, fpcr = out(reg) own.fpcr, fpsr = out(reg) own.fpsr,
                options(nostack)
            );
        }
        own
    }
}

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    interrupt::on(Timer::Virtual.intid(), |_| Timer::Virtual.stop());
    let cpus = smp::start_all();
    for other in smp::others() {
        smp::post(number(other), keeps_registers, 0);
    }
    unmask_interrupts();
    let mut wrong = [0; MAX_CPUS];
    wrong[cpu()] = keeps_registers(0);
    for other in smp::others() {
        wait_until(10_000, || THROUGH.load(Ordering::Acquire) as usize == cpus);
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
fn keeps_registers(_: u64) -> u64 {
    msr!("cpacr_el1", mrs!("cpacr_el1") | 3 << 20);
    gic::enable(Timer::Virtual.intid());
    let own = cpu() as u64;
    let mut wrong = 0;
    for round in 0..ROUNDS {
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
