//! One instruction chosen at run time: written to memory, made visible to the fetch, and called.

use core::cell::UnsafeCell;

use crate::MAX_CPUS;
use crate::exception::{Caught, survive};
use crate::sysreg::cpu;

/// A page, so that an emulator need not look for code where anything else is written to.
#[repr(C, align(4096))]
struct Stub(UnsafeCell<[u32; 1024]>);

// SAFETY: each CPU has its own.
unsafe impl Sync for Stub {}

static STUBS: [Stub; MAX_CPUS] = [const { Stub(UnsafeCell::new([0; 1024])) }; MAX_CPUS];

/// `MRS x0, <register>` (Arm ARM, "System instruction class encoding overview").
pub fn mrs(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    0xd530_0000 | ((op0 & 1) << 19) | (op1 << 16) | (crn << 12) | (crm << 8) | (op2 << 5)
}

/// `MSR <register>, x0`.
pub fn msr(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    mrs(op0, op1, crn, crm, op2) & !(1 << 21)
}

/// Executes `instruction` with `x0` and `x1`; what x0 is afterwards and whether it was refused.
/// The instruction may change what a call may (AAPCS64) but x30, and must not jump.
pub fn run(instruction: u32, x0: u64, x1: u64) -> (u64, Option<Caught>) {
    let stub = STUBS[cpu()].0.get().cast::<u32>();
    // SAFETY: the stub is ours, two instructions fit; no other CPU runs it.
    unsafe {
        stub.write_volatile(instruction);
        stub.add(1).write_volatile(0xd65f_03c0); // RET
        core::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb",
            in(reg) stub, options(nostack));
    }
    survive(|| {
        let mut x0 = x0;
        // SAFETY: the stub returns; an exception it raises is skipped by the vectors.
        unsafe {
            core::arch::asm!("blr {}", in(reg) stub, inout("x0") x0, in("x1") x1,
                clobber_abi("C"), options(nostack));
        }
        x0
    })
}
