//! The first instructions: the arm64 Image header ("Booting AArch64 Linux"), relocation, stacks,
//! and the MMU switched on.
//!
//! The image is linked as position-independent at one address and runs at any that is a multiple of
//! 4 KiB in RAM: the boot CPU applies the `R_AARCH64_RELATIVE` entries before any Rust runs. What
//! was written with the caches off is thrown out of them before they go on.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::MAX_CPUS;
use crate::sysreg::cpu;

/// What each CPU's stack takes, a power of two.
pub const STACK_SIZE: usize = 0x8000;

#[repr(C, align(16))]
struct Stacks([[u8; STACK_SIZE]; MAX_CPUS]);

// Written through the stack pointer only.
static mut STACKS: Stacks = Stacks([[0; STACK_SIZE]; MAX_CPUS]);

/// What a CPU was like at its first instruction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EntryState {
    /// Whether debug exceptions, SErrors, IRQs and FIQs were masked (`DAIF`).
    pub masked: bool,
    /// Whether the MMU and the data cache were off (`SCTLR_EL1.M`, `.C`).
    pub mmu_off: bool,
}

static ENTRY: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Called first on each CPU with what the entry code read.
pub(crate) fn remember(daif: u64, sctlr: u64) {
    ENTRY[cpu()].store(daif | (sctlr & 5), Ordering::Release);
}

/// What CPU number `cpu` was like when it was last started.
pub fn state(cpu: usize) -> EntryState {
    let seen = ENTRY[cpu].load(Ordering::Acquire);
    EntryState { masked: seen & 0x3c0 == 0x3c0, mmu_off: seen & 5 == 0 }
}

unsafe extern "C" {
    /// Where PSCI `CPU_ON` starts a secondary CPU; x0 is the context id.
    pub fn secondary_entry();
}

core::arch::global_asm!(
    r#"
    .section .head, "ax"
    .global _head
_head:
    b       start
    .long   0
    .quad   0                       // text_offset
    .quad   __image_end - _head     // image_size
    .quad   0xa                     // little-endian, 4 KiB pages, anywhere in RAM
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

start:
    // A payload that looks at all registers does so here; for others the branch leads to the next instruction (a
    // weak symbol that nobody defines: "ELF for the Arm 64-bit Architecture", "Weak references").
    .weak   look_at_start
    b       look_at_start
    .global after_the_look_at_start
after_the_look_at_start:
    mrs     x20, daif
    mrs     x21, sctlr_el1
    msr     daifset, #0xf
    mov     x19, x0

    // Relocate: x1 = where we run less where we were linked.
    adrp    x0, _head
    add     x0, x0, :lo12:_head
    movz    x1, #0x4020, lsl #16
    sub     x1, x0, x1
    adrp    x2, __rela_start
    add     x2, x2, :lo12:__rela_start
    adrp    x3, __rela_end
    add     x3, x3, :lo12:__rela_end
1:  cmp     x2, x3
    b.hs    2f
    ldr     x4, [x2]
    ldr     x6, [x2, #16]
    add     x2, x2, #24
    add     x6, x6, x1
    str     x6, [x4, x1]
    b       1b

2:  adrp    x2, __bss_start
    add     x2, x2, :lo12:__bss_start
    adrp    x3, __bss_end
    add     x3, x3, :lo12:__bss_end
3:  cmp     x2, x3
    b.hs    4f
    stp     xzr, xzr, [x2], #16
    b       3b

    // Older clean lines must not hide what was just stored past the caches.
4:  dsb     sy
    adrp    x2, __image_end
    and     x0, x0, #~63
5:  dc      ivac, x0
    add     x0, x0, #64
    cmp     x0, x2
    b.lo    5b
    dsb     sy

    bl      mmu_on
    bl      own_stack
    mov     x0, x19
    mov     x1, x20
    mov     x2, x21
    mov     x29, xzr
    mov     x30, xzr
    b       {boot}

    .global secondary_entry
secondary_entry:
    .weak   look_at_secondary
    b       look_at_secondary
    .global after_the_look_at_secondary
after_the_look_at_secondary:
    mrs     x20, daif
    mrs     x21, sctlr_el1
    msr     daifset, #0xf
    mov     x19, x0
    bl      mmu_on
    bl      own_stack
    mov     x0, x19
    mov     x1, x20
    mov     x2, x21
    mov     x29, xzr
    mov     x30, xzr
    b       {secondary}

// SP = the end of this CPU's stack. A CPU we have no stack for stops here.
own_stack:
    mrs     x0, mpidr_el1
    and     x1, x0, #0xf
    lsr     x0, x0, #4
    and     x0, x0, #0xf0
    orr     x0, x0, x1
    cmp     x0, #{max_cpus}
    b.hs    6f
    add     x0, x0, #1
    adrp    x1, {stacks}
    add     x1, x1, :lo12:{stacks}
    add     x1, x1, x0, lsl #{stack_shift}
    msr     spsel, #1
    mov     sp, x1
    ret
6:  wfi
    b       6b

// Stage 1 with the table of mmu.rs: 39-bit addresses, 4 KiB granule, cacheable walks.
mmu_on:
    adrp    x0, {vectors}
    add     x0, x0, :lo12:{vectors}
    msr     vbar_el1, x0
    movz    x0, #0x4404             // 0: Device-nGnRE, 1: Normal non-cacheable,
    movk    x0, #0x00ff, lsl #16    // 2: Normal write-back, 3: Device-nGnRnE
    msr     mair_el1, x0
    mrs     x0, id_aa64mmfr0_el1
    and     x0, x0, #7
    lsl     x0, x0, #32             // IPS = PARange
    movz    x1, #0x3519             // T0SZ = 25, inner shareable, write-back
    movk    x1, #0x0080, lsl #16    // EPD1
    orr     x0, x0, x1
    msr     tcr_el1, x0
    adrp    x0, {table}
    add     x0, x0, :lo12:{table}
    msr     ttbr0_el1, x0
    msr     ttbr1_el1, xzr
    dsb     sy
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    movz    x0, #0x180d             // M, C, SA, RES1, I
    movk    x0, #0x30d0, lsl #16    // RES1
    msr     sctlr_el1, x0
    isb
    ret
"#,
    boot = sym crate::boot,
    secondary = sym crate::smp::secondary,
    vectors = sym crate::exception::exception_vectors,
    table = sym crate::mmu::LEVEL1,
    stacks = sym STACKS,
    stack_shift = const STACK_SIZE.ilog2(),
    max_cpus = const MAX_CPUS,
);
