//! Does a guest that provokes a report with each of thousands of odd things keep others from being
//! heard? It ends; whoever runs it looks at the hypervisor's log and at the others' progress.

#![no_std]
#![no_main]

use core::arch::asm;

use guests::exception::survive;
use guests::report::Report;
use guests::{mmu, psci};

guests::payload!(main);

const ROUNDS: u32 = 5000;

fn main(report: &mut Report) {
    for _ in 0..ROUNDS {
        // Nothing there, by load and by store.
        survive(|| guests::mmio::read32(mmu::ALIAS - 0x1000));
        survive(|| guests::mmio::write32(mmu::ALIAS - 0x1000, 1));
        // Registers nobody has, calls nobody answers.
        survive(|| {
            // SAFETY: reads an implementation-defined register to nowhere.
            unsafe { asm!("mrs {}, s3_0_c15_c0_7", out(reg) _, options(nostack)) };
        });
        psci::call(0xc600_1234, [0; 3]);
        survive(|| {
            // SAFETY: a call with an immediate that means nothing; SMCCC lets it change x0 to x17.
            unsafe { asm!("hvc #0x1234", clobber_abi("C"), options(nostack)) };
        });
    }
    report.pass("thousands of odd things are survived");
}
