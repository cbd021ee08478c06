//! Whose is an asynchronous abort (SError)? There is none before `src/firmware/secure.rs` hears of it in `TPIDRRO_EL0`: then this
//! machine goes on until one comes, which is the end of it. The command line says where: `el1` or `el0` while it runs, there or
//! in `a32`, which is EL0 in AArch32; or `leaves`, when another machine gets its CPU.

#![no_std]
#![no_main]

use core::arch::asm;

use guests::report::Report;
use guests::{exception, instruction, machine, mmu, msr, println, timer};

guests::payload!(main);

/// What the firmware looks for: an abort while this runs, or one that is outstanding when it is left, or one while EL0 runs.
const RUNS: u64 = 0x5e_0000;
const LEAVES: u64 = 0x5e_0001;
const RUNS_EL0: u64 = 0x5e_0002;

/// `SPSR_EL1` of EL1 on its own stack, of EL0, and of EL0 in AArch32, all with everything masked.
const EL1H: u64 = 0x3c5;
const EL0: u64 = 0x3c0;
const A32: u64 = 0x1d0;

/// `B .`, and the same in A32.
static SPIN: [u32; 2] = [0x1400_0000, 0xeaff_fffe];

fn main(report: &mut Report) {
    mmu::map_low();
    let tree = machine::tree();
    let place = tree.chosen().bootargs().unwrap_or_default();
    let code = &raw const SPIN as u64;
    let in_ram = code % (1 << 30);
    let (asks, code, state) = match place {
        "el1" => (RUNS, code, EL1H),
        "el0" => (RUNS_EL0, mmu::USER_RAM + in_ram, EL0),
        "a32" => (RUNS_EL0, mmu::LOW_RAM + in_ram + 4, A32),
        "leaves" => (LEAVES, code, EL1H),
        _ => {
            instruction!("msr daifclr, #4");
            timer::spin(1000);
            instruction!("msr daifset, #4");
            let came = exception::serrors();
            report.equal("no asynchronous abort comes of itself", came, 0);
            return report.skip("an abort ends this machine", "nobody says where it comes");
        }
    };
    println!("aborts: {place}");
    msr!("tpidrro_el0", asks);
    // SAFETY: nothing comes back from there.
    unsafe {
        asm!("msr elr_el1, {code}", "msr spsr_el1, {state}", "isb", "eret",
            code = in(reg) code, state = in(reg) state, options(noreturn));
    }
}
