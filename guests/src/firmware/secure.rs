//! A firmware at EL3 with the workarounds that the SMC Calling Convention (DEN0028) describes, which counts their calls. Not a
//! guest: `cargo xtask test run/workarounds` has the machine begin with it, and it enters the hypervisor.
//!
//! What it is asked for, it offers by a word that the test writes into it. Each call of workaround 1 or 3 is counted
//! in `TPIDRRO_EL0`, where the guest that runs reads it: the hypervisor leaves that register to the guest. And each leaves rubbish
//! in x0 to x3, as it may. It knows QEMU's `virt` board with `secure=on`, and no more of PSCI than Plinth asks for.

#![no_std]
#![no_main]

use core::panic::PanicInfo;

/// Never called: there is no other Rust here.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

core::arch::global_asm!(
    r#"
    .equ    NEXT, 0x40200000                // where the Image is
    .equ    TREE, 0x47000000                // where its device tree is
    .equ    GICD, 0x08000000
    .equ    GICC, 0x08010000
    .equ    GICR, 0x080a0000
    .equ    UART, 0x09000000
    .equ    POWER, 0x090b0000               // a PL061 whose first line turns the machine off
    .equ    STACKS, 0x0e000000              // memory that EL3 alone has: 4 KiB for each CPU
    .equ    SLOTS, 0x0e100000               // for each CPU where it is to go, and with what; 0 until then
    .equ    SWITCHED, 0x0e200000            // how often workaround 2 was called to turn store bypass off

    .section .head, "ax"
    .global _head
_head:
    b       start
    .balign 8
offered:                                    // bit n - 1: workaround n
    .quad   0

start:
    ldr     x0, =0x30c50830                 // SCTLR_EL3's RES1 bits
    msr     SCTLR_EL3, x0
    adr     x0, vectors
    msr     VBAR_EL3, x0
    mov     x0, #0x531                      // RW, HCE, NS
    msr     SCR_EL3, x0
    msr     CPTR_EL3, xzr
    msr     MDCR_EL3, xzr
    isb
    mrs     x19, MPIDR_EL1
    and     x19, x19, #0xff
    ldr     x0, =STACKS
    add     x1, x19, #1
    add     x0, x0, x1, lsl #12
    mov     sp, x0

    // All interrupts are the world's whose hypervisor runs.
    mov     w1, #-1
    ldr     x0, =GICD
    mrs     x2, ID_AA64PFR0_EL1
    tst     x2, #(0xf << 24)
    b.ne    2f
    mov     x2, #8
    add     x0, x0, #0x80                   // GICD_IGROUPR, the first of which each CPU has for itself
1:  str     w1, [x0], #4
    subs    x2, x2, #1
    b.ne    1b
    ldr     x0, =GICC
    mov     w1, #0xff
    str     w1, [x0, #4]                    // GICC_PMR
    b       5f
2:  mov     w2, #0x30                       // GICD_CTLR: ARE_S, ARE_NS
    str     w2, [x0]
    add     x0, x0, #0x84                   // GICD_IGROUPR1
    mov     x2, #7
3:  str     w1, [x0], #4
    subs    x2, x2, #1
    b.ne    3b
    ldr     x0, =GICR
    add     x0, x0, x19, lsl #17
    str     wzr, [x0, #0x14]                // GICR_WAKER
4:  ldr     w2, [x0, #0x14]
    tbnz    w2, #2, 4b
    add     x0, x0, #0x10000
    str     w1, [x0, #0x80]                 // GICR_IGROUPR0
    mov     x0, #0xf
    msr     S3_6_C12_C12_5, x0              // ICC_SRE_EL3
    isb
    mov     x0, #0xff
    msr     S3_0_C4_C6_0, x0                // ICC_PMR_EL1

5:  cbnz    x19, 6f
    ldr     x1, =NEXT
    ldr     x0, =TREE
    b       enter
6:  ldr     x2, =SLOTS                      // until CPU_ON
    add     x2, x2, x19, lsl #4
7:  wfe
    ldr     x1, [x2]
    cbz     x1, 7b
    ldr     x0, [x2, #8]
enter:
    msr     ELR_EL3, x1
    mov     x1, #0x3c9                      // EL2h, everything masked
    msr     SPSR_EL3, x1
    isb
    eret

    .balign 2048
vectors:
    .rept   8
    b       .
    .balign 128
    .endr
    b       call                            // synchronous, from a lower level in AArch64
    .balign 128
    .rept   7
    b       .
    .balign 128
    .endr

    // w0 = the function. x4 to x17 keep their values (DEN0028, version 1.1).
call:
    stp     x4, x5, [sp, #-16]!
    adr     x5, offered
    ldr     x5, [x5]
    ldr     w4, =0x80008000                 // SMCCC_ARCH_WORKAROUND_1
    cmp     w0, w4
    b.eq    workaround_1
    ldr     w4, =0x80003fff                 // SMCCC_ARCH_WORKAROUND_3
    cmp     w0, w4
    b.eq    workaround_3
    ldr     w4, =0x80000001                 // SMCCC_ARCH_FEATURES
    cmp     w0, w4
    b.eq    features
    ldr     w4, =0x80007fff                 // SMCCC_ARCH_WORKAROUND_2
    cmp     w0, w4
    b.eq    workaround_2
    ldr     w4, =0x84000000                 // PSCI_VERSION: 1.1
    cmp     w0, w4
    b.eq    version
    ldr     w4, =0x80000000                 // SMCCC_VERSION: 1.1
    cmp     w0, w4
    b.eq    version
    ldr     w4, =0x8400000a                 // PSCI_FEATURES
    cmp     w0, w4
    b.eq    psci_features
    ldr     w4, =0xc4000003                 // CPU_ON
    cmp     w0, w4
    b.eq    cpu_on
    ldr     w4, =0x84000008                 // SYSTEM_OFF
    cmp     w0, w4
    b.eq    system_off
not_supported:
    mov     x0, #-1
    b       return
success:
    mov     x0, #0
return:
    ldp     x4, x5, [sp], #16
    eret

version:
    ldr     x0, =0x10001
    b       return
psci_features:
    ldr     w4, =0x80000000
    cmp     w1, w4
    b.eq    success
    b       not_supported

features:
    ldr     w4, =0x80008000
    cmp     w1, w4
    b.eq    1f
    ldr     w4, =0x80007fff
    cmp     w1, w4
    b.eq    2f
    ldr     w4, =0x80003fff
    cmp     w1, w4
    b.ne    not_supported
    lsr     x5, x5, #1
2:  lsr     x5, x5, #1
1:  tbnz    x5, #0, success
    b       not_supported

workaround_1:
    tbz     x5, #0, not_supported
    mrs     x4, TPIDRRO_EL0
    add     x4, x4, #1
    b       8f
workaround_3:
    tbz     x5, #2, not_supported
    mrs     x4, TPIDRRO_EL0
    add     x4, x4, #0x10, lsl #12
8:  msr     TPIDRRO_EL0, x4
    ldr     x0, =0xdeaddeaddeaddead
    mov     x1, x0
    mov     x2, x0
    mov     x3, x0
    b       return

workaround_2:
    tbz     x5, #1, not_supported
    cbz     w1, success
    ldr     x4, =SWITCHED
    ldr     w5, [x4]                        // CPUs begin one after the other
    add     w5, w5, #1
    str     w5, [x4]
    b       success

cpu_on:
    and     x1, x1, #0xff
    ldr     x4, =SLOTS
    add     x4, x4, x1, lsl #4
    str     x3, [x4, #8]
    dmb     sy                              // what it is to have, before where it is to go
    str     x2, [x4]
    dsb     sy
    sev
    b       success

system_off:
    ldr     x4, =UART
    adr     x5, text
1:  ldrb    w0, [x5], #1
    cbz     w0, 2f
    strb    w0, [x4]
    b       1b
2:  ldr     x5, =SWITCHED
    ldr     w0, [x5]
    add     w0, w0, #'0'
    strb    w0, [x4]
    mov     w0, #'\n'
    strb    w0, [x4]
    ldr     x4, =POWER
    mov     w0, #1
    str     w0, [x4, #0x400]                // GPIODIR
    str     w0, [x4, #0x3fc]                // GPIODATA
3:  wfi
    b       3b

text:
    .asciz  "\nFIRMWARE: calls of workaround 2: "
    .balign 8
    .ltorg
"#
);
