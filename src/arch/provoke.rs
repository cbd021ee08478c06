//! Faults on request, so that a test can see what becomes of one.
//!
//! The boot argument `provoke=KIND@CPU` (`@0` may be left out) makes that CPU do, when all is set up and
//! before its first guest instruction, what a bug might: `panic`, `undefined`, `data-abort`,
//! `stack-overflow`, `write-code` or `execute-data`. It may be given several times. Whoever can write
//! the hypervisor's boot arguments owns the machine anyway.

use alloc::boxed::Box;
use core::arch::asm;
use core::hint::black_box;

use crate::machine::CpuId;

/// Do what `bootargs` ask of `cpu`, if anything. What is survived is a panic: a protection is missing.
pub fn on_request(bootargs: &str, cpu: CpuId) {
    for request in
        bootargs.split_ascii_whitespace().filter_map(|word| word.strip_prefix("provoke="))
    {
        let (kind, on) = request.split_once('@').unwrap_or((request, "0"));
        if on.parse() != Ok(cpu.0) {
            continue;
        }
        match kind {
            "panic" => panic!("provoked by the boot arguments"),
            "undefined" => undefined(),
            "data-abort" => data_abort(),
            "stack-overflow" => _ = overflow_stack(0),
            "write-code" => write_code(),
            "execute-data" => execute_data(),
            _ => {
                log::error!("provoke={kind}: not known");
                continue;
            }
        }
        panic!("provoke={kind}: survived");
    }
}

#[inline(never)]
fn undefined() {
    // SAFETY: permanently undefined (Arm ARM, "UDF"): it never completes.
    unsafe { asm!("udf #0") };
}

/// Reads where nothing is mapped: the top of what 48 bits can address.
#[inline(never)]
fn data_abort() {
    // SAFETY: a load into no register; it faults, or changes nothing.
    unsafe { asm!("ldr xzr, [{}]", in(reg) 0xffff_ffff_f000_u64, options(nostack)) };
}

/// Calls itself until the stack is used up. A frame is much smaller than the guard page.
#[inline(never)]
fn overflow_stack(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    let deeper = if depth == u64::MAX { 0 } else { overflow_stack(depth + 1) };
    deeper ^ black_box(frame)[0]
}

/// Writes into its own instructions what is there already.
#[inline(never)]
fn write_code() {
    // SAFETY: it faults, or stores the value that was loaded.
    unsafe {
        asm!("ldr {value:w}, [{at}]", "str {value:w}, [{at}]",
            at = in(reg) write_code as *const () as u64, value = out(reg) _, options(nostack));
    }
}

/// Calls a RET on the heap.
#[inline(never)]
fn execute_data() {
    const RET: u32 = 0xd65f_03c0;
    let code = Box::new(black_box(RET));
    // SAFETY: it faults, or returns at once.
    unsafe { asm!("blr {}", in(reg) &raw const *code, clobber_abi("C")) };
    drop(code);
}
