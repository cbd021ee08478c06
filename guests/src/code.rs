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
    write(&[instruction]);
    call(x0, x1)
}

/// How many instructions [`write`] takes.
const MOST: usize = 1023;

/// Writes instructions for [`call`], which may do what [`run`]'s may; where the first of them is.
pub fn write(instructions: &[u32]) -> u64 {
    assert!(instructions.len() <= MOST, "the stub is a page");
    let stub = STUBS[cpu()].0.get().cast::<u32>();
    // SAFETY: the stub is ours, the instructions and a RET fit; no other CPU runs it.
    unsafe {
        for (at, instruction) in instructions.iter().enumerate() {
            stub.add(at).write_volatile(*instruction);
        }
        stub.add(instructions.len()).write_volatile(0xd65f_03c0); // RET
        // The shortest cache line there is: 16 bytes.
        for at in (0..=instructions.len()).step_by(4).chain([instructions.len()]) {
            core::arch::asm!("dc cvau, {0}", in(reg) stub.add(at), options(nostack));
        }
        core::arch::asm!("dsb ish", options(nostack));
        for at in (0..=instructions.len()).step_by(4).chain([instructions.len()]) {
            core::arch::asm!("ic ivau, {0}", in(reg) stub.add(at), options(nostack));
        }
        core::arch::asm!("dsb ish", "isb", options(nostack));
    }
    stub as u64
}

/// Executes what was written; as [`run`].
pub fn call(x0: u64, x1: u64) -> (u64, Option<Caught>) {
    let stub = STUBS[cpu()].0.get();
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
