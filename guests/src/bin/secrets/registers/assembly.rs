//! All registers written and read, by code that needs nothing but `x30`.

use core::arch::global_asm;
use core::mem::offset_of;

use super::{AT_ENTRY, State};

/// Stores all of them, x0 each, from x29 on.
macro_rules! read_all {
    ($($name:literal: $bits:expr),* $(,)?) => {
        concat!($("mrs x0, ", $name, "\nstr x0, [x29], #8\n"),*)
    };
}

/// Loads all of them, x0 each, from x29 on.
macro_rules! write_all {
    ($($name:literal: $bits:expr),* $(,)?) => {
        concat!($("ldr x0, [x29], #8\nmsr ", $name, ", x0\n"),*)
    };
}

global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd

    // op = stp or ldp; v0 to v31 from \base on.
    .macro vectors op, base
    \op q0, q1, [\base]
    \op q2, q3, [\base, #32]
    \op q4, q5, [\base, #64]
    \op q6, q7, [\base, #96]
    \op q8, q9, [\base, #128]
    \op q10, q11, [\base, #160]
    \op q12, q13, [\base, #192]
    \op q14, q15, [\base, #224]
    \op q16, q17, [\base, #256]
    \op q18, q19, [\base, #288]
    \op q20, q21, [\base, #320]
    \op q22, q23, [\base, #352]
    \op q24, q25, [\base, #384]
    \op q26, q27, [\base, #416]
    \op q28, q29, [\base, #448]
    \op q30, q31, [\base, #480]
    .endm

    // op = stp or ldp; x0 to x27 from \base on.
    .macro generals op, base
    \op x0, x1, [\base]
    \op x2, x3, [\base, #16]
    \op x4, x5, [\base, #32]
    \op x6, x7, [\base, #48]
    \op x8, x9, [\base, #64]
    \op x10, x11, [\base, #80]
    \op x12, x13, [\base, #96]
    \op x14, x15, [\base, #112]
    \op x16, x17, [\base, #128]
    \op x18, x19, [\base, #144]
    \op x20, x21, [\base, #160]
    \op x22, x23, [\base, #176]
    \op x24, x25, [\base, #192]
    \op x26, x27, [\base, #208]
    .endm

    // All registers into this CPU's State, the MMU off; x0 stays.
    .macro look
    cmp     x29, #0
    ccmp    x30, #0, #0, eq
    mrs     x30, mpidr_el1
    and     x30, x30, #0xf
    adrp    x29, {at_entry}
    add     x29, x29, :lo12:{at_entry}
    add     x30, x29, x30, lsl #11
    generals stp, x30
    str     x28, [x30, #224]
    cset    x0, ne
    stp     x0, x0, [x30, #232]
    mov     x0, sp
    str     x0, [x30, #{SP}]
    add     x29, x30, #{SYSTEM}
"#,
    system_registers!(read_all),
    r#"
    mrs     x1, cpacr_el1
    orr     x0, x1, #(3 << 20)
    msr     cpacr_el1, x0
    isb
    add     x29, x30, #{V}
    vectors stp, x29
    mrs     x0, fpcr
    str     x0, [x30, #{FPCR}]
    mrs     x0, fpsr
    str     x0, [x30, #{FPSR}]
    msr     cpacr_el1, x1
    isb
    // Older clean lines must not hide what was just stored past the caches.
    dsb     sy
    mov     x0, #32
8:  dc      ivac, x30
    add     x30, x30, #64
    subs    x0, x0, #1
    b.ne    8b
    dsb     sy
    sub     x30, x30, #2048
    ldr     x0, [x30]
    .endm

    .section .text.look, "ax"
    .global look_at_start
look_at_start:
    look
    b       after_the_look_at_start

    .global look_at_secondary
look_at_secondary:
    look
    b       after_the_look_at_secondary

    // x0 = &mut Round, whose parts are 2048 bytes each.
    .global secrets_round
secrets_round:
    stp     x19, x20, [sp, #-96]!
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    mov     x30, x0
    mrs     x1, sctlr_el1
    ldr     x2, =0x1005
    bic     x2, x1, x2
    dsb     sy
    msr     sctlr_el1, x2
    isb
    add     x29, x30, #4096
    str     x1, [x29, #2048]            // own_sctlr
    mov     x0, sp
    str     x0, [x29, #{SP}]
    add     x29, x29, #{SYSTEM}
"#,
    system_registers!(read_all),
    r#"
    mov     x0, #(3 << 20)
    msr     cpacr_el1, x0
    isb
    add     x29, x30, #{V}
    vectors ldp, x29
    ldr     x0, [x30, #{FPCR}]
    msr     fpcr, x0
    ldr     x0, [x30, #{FPSR}]
    msr     fpsr, x0
    add     x29, x30, #{SYSTEM}
"#,
    system_registers!(write_all),
    r#"
    add     x29, x30, #4096
    add     x29, x29, #2048
    ldp     x1, x2, [x29, #8]           // how, until
    ldr     x0, [x30, #{SP}]
    mov     sp, x0
    isb
    cmp     x1, #1
    mov     x29, x2
    b.eq    2f
    b.hi    3f

    generals ldp, x30
    ldp     x28, x29, [x30, #224]
    wfi
    b       5f

2:  generals ldp, x30
1:  mrs     x28, cntvct_el0
    cmp     x28, x29
    b.lo    1b
    b       4f

3:  generals ldp, x30
1:  ldr     x0, [x30]
    hvc     #0
    mrs     x28, cntvct_el0
    cmp     x28, x29
    b.lo    1b
    ldr     x0, [x30]

4:  ldp     x28, x29, [x30, #224]       // they were needed
5:  str     x30, [x30, #(2048 + 240)]
    add     x30, x30, #2048
    generals stp, x30
    stp     x28, x29, [x30, #224]
    mov     x0, sp
    str     x0, [x30, #{SP}]
    isb
    add     x29, x30, #{SYSTEM}
"#,
    system_registers!(read_all),
    r#"
    mov     x0, #(3 << 20)
    msr     cpacr_el1, x0
    isb
    add     x29, x30, #{V}
    vectors stp, x29
    mrs     x0, fpcr
    str     x0, [x30, #{FPCR}]
    mrs     x0, fpsr
    str     x0, [x30, #{FPSR}]
    add     x30, x30, #2048
    ldr     x0, [x30, #{SP}]
    mov     sp, x0
    add     x29, x30, #{SYSTEM}
"#,
    system_registers!(write_all),
    r#"
    isb
    ldr     x0, [x30, #2048]            // own_sctlr
    dsb     sy
    msr     sctlr_el1, x0
    isb
    ldp     x29, x30, [sp, #80]
    ldp     x27, x28, [sp, #64]
    ldp     x25, x26, [sp, #48]
    ldp     x23, x24, [sp, #32]
    ldp     x21, x22, [sp, #16]
    ldp     x19, x20, [sp], #96
    ret
    .ltorg
"#,
    at_entry = sym AT_ENTRY,
    SP = const offset_of!(State, sp),
    V = const offset_of!(State, v),
    FPCR = const offset_of!(State, fpcr),
    FPSR = const offset_of!(State, fpsr),
    SYSTEM = const offset_of!(State, system),
);
