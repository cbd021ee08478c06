//! Faults on request, so that a test can see what becomes of one.
//!
//! The boot argument `provoke=KIND@CPU` (`@0` may be left out) makes that CPU do, when all is set up and
//! before its first guest instruction, what a bug might: `panic`, `undefined`, `data-abort`,
//! `stack-overflow`, `emergency-overflow`, `write-code`, `write-constants`, `write-bundle`, `execute-data`,
//! `execute-stack`, `execute-device`, `execute-guest`, `serror` (by `guests/src/firmware/secure.rs`), `hang` or `hang-deaf` (also for the watchdog's FIQ); or, after a thousand
//! steps, `hang-late`. It may be given several times. Whoever can write the hypervisor's boot arguments owns the machine anyway.

use alloc::boxed::Box;
use core::arch::asm;
use core::hint::black_box;

use super::percpu;
use crate::addr::PhysAddr;
use crate::machine::CpuId;
use crate::platform::board::Board;

/// Do what the boot arguments ask of `cpu`, if anything. What is survived is a panic: a protection is missing.
pub fn on_request(board: &Board, cpu: CpuId) {
    let words = board.chosen.bootargs.split_ascii_whitespace();
    for request in words.filter_map(|word| word.strip_prefix("provoke=")) {
        let (kind, on) = request.split_once('@').unwrap_or((request, "0"));
        if on.parse() != Ok(cpu.0) {
            continue;
        }
        match kind {
            "panic" => panic!("provoked by the boot arguments"),
            "undefined" => undefined(),
            "data-abort" => data_abort(),
            "stack-overflow" => _ = overflow_stack(0),
            "emergency-overflow" => overflow_emergency_stack(),
            "hang" | "hang-late" => hang(),
            "hang-deaf" => hang_deaf(),
            "serror" => serror(),
            "write-code" => write_code(),
            "write-constants" => write_constants(),
            "write-bundle" => {
                board.chosen.initrd.into_iter().for_each(|it| write_bundle(it.start()))
            }
            "execute-data" => execute_data(),
            "execute-stack" => execute_stack(),
            "execute-device" => execute_device(board.uart.registers.start()),
            "execute-guest" => board.usable_memory(&[]).last().into_iter().for_each(|memory| {
                // The pool hands out from the end of memory as from anywhere.
                execute_guest(PhysAddr::new(memory.last().raw() & !3));
            }),
            _ => {
                log::error!("provoke={kind}: not known");
                continue;
            }
        }
        panic!("provoke={kind}: survived");
    }
}

/// Whether `cpu` is asked to hang when it has run guests for a while.
pub fn hangs_late(board: &Board, cpu: CpuId) -> bool {
    let mut words = board.chosen.bootargs.split_ascii_whitespace();
    let on = |word: &str| word.strip_prefix("provoke=hang-late@")?.parse().ok();
    words.any(|word| on(word) == Some(cpu.0))
}

/// Takes no interrupt any more, whatever comes.
#[inline(never)]
fn hang() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// The same, and the watchdog is masked as well.
#[inline(never)]
fn hang_deaf() -> ! {
    // SAFETY: nothing is interrupted any more.
    unsafe { asm!("msr DAIFSet, #0xf", options(nomem, nostack)) };
    hang()
}

/// An SError where none is expected: unmasked, and asked of the firmware, of which no other than the tests' knows the function.
#[inline(never)]
fn serror() {
    // SAFETY: there is no other SError to come, and if there is it is fatal as it should be; the call changes what is named
    // (DEN0028, version 1.0).
    unsafe {
        asm!("msr DAIFClr, #4", "isb", "smc #0", "msr DAIFSet, #4", inout("x0") 0x8300_005e_u64 => _,
            clobber_abi("C"), options(nostack));
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

/// The same on the stack that is kept for reports.
#[inline(never)]
fn overflow_emergency_stack() {
    extern "C" fn overflow() {
        let _ = black_box(overflow_stack(0));
    }
    // SAFETY: the block is this CPU's own; nobody else uses the stack before there is a report. It faults.
    unsafe {
        asm!("mov x19, sp", "mov sp, {top}", "bl {overflow}", "mov sp, x19",
            top = in(reg) (*percpu::current()).emergency_stack, overflow = sym overflow,
            out("x20") _, clobber_abi("C"));
    }
}

/// Writes what is there already.
#[inline(always)]
fn write(address: u64) {
    // SAFETY: it faults, or stores the value that was loaded.
    unsafe {
        asm!("ldr {value:w}, [{at}]", "str {value:w}, [{at}]",
            at = in(reg) address, value = out(reg) _, options(nostack));
    }
}

/// Calls what is there, which is a RET if it is an instruction at all.
#[inline(always)]
fn execute(address: u64) {
    // SAFETY: it faults, or returns at once.
    unsafe { asm!("blr {}", in(reg) address, clobber_abi("C")) };
}

/// Into its own instructions.
#[inline(never)]
fn write_code() {
    write(write_code as *const () as u64);
}

#[inline(never)]
fn write_constants() {
    static CONSTANT: u32 = RET;
    write(&raw const CONSTANT as u64);
}

#[inline(never)]
fn write_bundle(bundle: PhysAddr) {
    write(bundle.raw());
}

/// `RET`.
const RET: u32 = 0xd65f_03c0;

/// On the heap.
#[inline(never)]
fn execute_data() {
    let code = Box::new(black_box(RET));
    execute(&raw const *code as u64);
    drop(code);
}

#[inline(never)]
fn execute_stack() {
    let code = black_box(RET);
    execute(&raw const code as u64);
}

#[inline(never)]
fn execute_device(registers: PhysAddr) {
    execute(registers.raw());
}

#[inline(never)]
fn execute_guest(memory: PhysAddr) {
    execute(memory.raw());
}
