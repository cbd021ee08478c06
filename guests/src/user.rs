//! EL0, in AArch32 or AArch64: code that is written here, registers and a state to run it with, and what brings EL1 back.

use core::arch::{asm, global_asm};
use core::mem::offset_of;

use crate::exception::exception_vectors;
use crate::{mmu, msr};

/// `SPSR_EL1` of EL0 in AArch64, everything masked.
pub const A64: u64 = 0x3c0;
/// The same in A32.
pub const A32: u64 = 0x1d0;
/// The same in T32.
pub const T32: u64 = A32 | 1 << 5;
/// `SPSR_EL1.Z`.
pub const Z: u64 = 1 << 30;

/// How many instructions of 32 bits there are at most.
pub const MOST: usize = 1024;

/// EL0's registers, and why it was left.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct User {
    /// `R0` to `R14`, which are `X0` to `X14`.
    pub r: [u64; 15],
    /// Where it goes on, or was left: in [`MOST`] instructions from [`code`] on.
    pub pc: u64,
    /// Its state.
    pub spsr: u64,
    /// `ESR_EL1`, when it was left.
    pub esr: u64,
    /// `FAR_EL1`, when it was left.
    pub far: u64,
}

impl User {
    /// The exception class.
    pub fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }
}

#[repr(C, align(4096))]
struct Code([u16; 2 * MOST]);

static mut CODE: Code = Code([0; 2 * MOST]);

global_asm!(
    r#"
    .section .text.vectors32, "ax"
    .balign 0x800
vectors32:
    .irp kind, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    .balign 0x80
    .if \kind == 12 || \kind == 8
    stp     x0, x1, [sp, #-16]!
    b       user_left
    .elseif \kind == 4
    stp     x0, x1, [sp, #-16]!
    b       illegal
    .else
    b       {vectors} + 0x80 * \kind
    .endif
    .endr

    // An illegal return is how a CPU says that it has no AArch32.
illegal:
    mrs     x0, ESR_EL1
    lsr     x0, x0, #26
    cmp     x0, #0x0e
    b.eq    user_left
    ldp     x0, x1, [sp], #16
    b       {vectors} + 0x200

    .global user_enter
user_enter:
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #96]
    ldp     x1, x2, [x0, #{PC}]
    msr     ELR_EL1, x1
    msr     SPSR_EL1, x2
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldr     x14, [x0, #112]
    ldp     x0, x1, [x0]
    isb
    eret

user_left:
    ldr     x0, [sp, #112]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    str     x14, [x0, #112]
    ldp     x1, x2, [sp], #16
    stp     x1, x2, [x0]
    mrs     x1, ELR_EL1
    mrs     x2, SPSR_EL1
    stp     x1, x2, [x0, #{PC}]
    mrs     x1, ESR_EL1
    mrs     x2, FAR_EL1
    stp     x1, x2, [x0, #{ESR}]
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #112
    ret
"#,
    vectors = sym exception_vectors,
    PC = const offset_of!(User, pc),
    ESR = const offset_of!(User, esr),
);

unsafe extern "C" {
    fn user_enter(user: *mut User);
    static vectors32: u8;
}

/// Makes EL0 possible, in AArch32 if the CPU can do it.
pub fn prepare() {
    mmu::map_low();
    msr!("vbar_el1", &raw const vectors32 as u64);
}

/// Where EL0 finds its code.
pub fn code() -> u64 {
    mmu::LOW_RAM + (&raw const CODE as u64) % (1 << 30)
}

/// Writes instructions of 32 bits.
pub fn write32(words: impl Iterator<Item = u32>) {
    write16(words.flat_map(|word| [word as u16, (word >> 16) as u16]));
}

/// Writes T32 instructions, those of 32 bits as two halves.
pub fn write16(halves: impl Iterator<Item = u16>) {
    let code = (&raw mut CODE).cast::<u16>();
    for (at, half) in halves.take(2 * MOST).enumerate() {
        // SAFETY: in the array, which is referred to by nobody.
        unsafe { code.add(at).write_volatile(half) };
    }
    for line in (0..size_of::<Code>()).step_by(64) {
        // SAFETY: maintenance of the payload's own memory.
        unsafe {
            asm!("dc cvau, {0}", in(reg) code as usize + line, options(nostack));
        }
    }
    // SAFETY: as above.
    unsafe { asm!("dsb ish", "ic iallu", "dsb ish", "isb", options(nostack)) };
}

/// Runs EL0 until something brings EL1 back.
pub fn run(user: &mut User) {
    // SAFETY: EL0 reaches the payload's memory, but what is written here stores to none that matters; the vectors come back
    // with what compiled code relies on.
    unsafe { user_enter(user) };
}
