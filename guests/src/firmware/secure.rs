//! A firmware at EL3 with the workarounds that the SMC Calling Convention (DEN0028) describes, which counts their calls. Not a
//! guest: `cargo xtask test run/workarounds` has the machine begin with it, and it enters the hypervisor.
//!
//! What it is asked for, it offers by a word that the test writes into it. Each call of workaround 1 or 3 is counted
//! in `TPIDRRO_EL0`, where the guest that runs reads it: the hypervisor leaves that register to the guest. And each leaves rubbish
//! in x0 to x3, as it may. It knows QEMU's `virt` board with `secure=on`, and no more of PSCI than Plinth asks for.
//!
//! A function of its own, 0x8300_005f, it answers with 0x5f: no guest is to be told that.
//!
//! By another word it hands asynchronous aborts (SErrors) down, of which QEMU has none itself, as if they had been taken at EL2: it
//! enters EL2's vector with EL2's syndrome. Only when EL2 could take one: while a guest runs and `HCR_EL2` routes them to EL2,
//! looked at a thousand times a second by a secure timer; and at EL2 where `PSTATE.A` is clear, when asked by a call, or by an
//! `SMC #0x5e` that the test puts in place of the `ISB` behind which EL2 lets them in. A guest asks by `TPIDRRO_EL0`, see
//! `bin/aborts.rs`.

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
    .equ    TICK, 62500                     // of the secure timer: 1 ms
    .equ    RUNS, 0x5e0000                  // in TPIDRRO_EL0: an abort while the guest runs
    .equ    LEAVES, 0x5e0001                // ... or when EL2 waits for what it left outstanding
    .equ    RUNS_EL0, 0x5e0002              // ... or while it runs at EL0

    .section .head, "ax"
    .global _head
_head:
    b       start
    .balign 8
offered:                                    // bit n - 1: workaround n
    .quad   0
aborts:                                     // not 0: there are asynchronous aborts
    .quad   0

start:
    ldr     x0, =0x30c50830                 // SCTLR_EL3's RES1 bits
    msr     SCTLR_EL3, x0
    adr     x0, vectors
    msr     VBAR_EL3, x0
    mov     x0, #0x535                      // RW, HCE, FIQ, NS: secure interrupts come here
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

5:  adr     x0, aborts
    ldr     x0, [x0]
    cbz     x0, 5f
    bl      start_timer
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

    // The secure timer's interrupt (PPI 29) is group 0, which is an FIQ. x0 to x2 are free.
start_timer:
    mov     w1, #(1 << 29)
    mvn     w2, w1
    mrs     x0, ID_AA64PFR0_EL1
    tst     x0, #(0xf << 24)
    b.ne    1f
    ldr     x0, =GICD
    str     w2, [x0, #0x80]                 // GICD_IGROUPR0
    str     w1, [x0, #0x100]                // GICD_ISENABLER0
    mov     w1, #1
    str     w1, [x0]                        // GICD_CTLR: EnableGrp0
    ldr     x0, =GICC
    mov     w1, #9
    str     w1, [x0]                        // GICC_CTLR: EnableGrp0, FIQEn
    b       2f
1:  ldr     x0, =GICR + 0x10000
    add     x0, x0, x19, lsl #17
    str     w2, [x0, #0x80]                 // GICR_IGROUPR0
    str     w1, [x0, #0x100]                // GICR_ISENABLER0
    ldr     x0, =GICD
    mov     w1, #0x31
    str     w1, [x0]                        // GICD_CTLR: EnableGrp0, ARE_S, ARE_NS
    mov     x0, #1
    msr     S3_0_C12_C12_6, x0              // ICC_IGRPEN0_EL1
2:  mov     x0, #TICK
    msr     S3_7_C14_C2_0, x0               // CNTPS_TVAL_EL1
    mov     x0, #1
    msr     S3_7_C14_C2_1, x0               // CNTPS_CTL_EL1: ENABLE
    isb
    ret

    .balign 2048
vectors:
    .rept   8
    b       .
    .balign 128
    .endr
    b       call                            // from below; EL2 is in AArch64, whatever is interrupted: synchronous
    .balign 128
    b       .
    .balign 128
    b       tick                            // FIQ
    .balign 128
    .rept   5
    b       .
    .balign 128
    .endr

    // The interrupt is over when the timer is set anew: its line is a level, and it was not acknowledged.
tick:
    stp     x4, x5, [sp, #-16]!
    mov     x4, #TICK
    msr     S3_7_C14_C2_0, x4               // CNTPS_TVAL_EL1
    isb
    mrs     x4, SPSR_EL3
    tbnz    x4, #3, return                  // EL2, where they are masked
    mrs     x4, HCR_EL2
    tbz     x4, #5, return                  // AMO
    mrs     x4, TPIDRRO_EL0
    ldr     x5, =RUNS
    cmp     x4, x5
    b.eq    1f
    ldr     x5, =RUNS_EL0
    cmp     x4, x5
    b.ne    return
    mrs     x4, SPSR_EL3
    tst     x4, #0xf                        // EL0, in either state
    b.ne    return
1:  mov     x4, #0x580                      // SError, from below
    b       abort

    // The hypervisor has unmasked them, and waited for what was outstanding.
window:
    mrs     x4, SPSR_EL3
    tbnz    x4, #8, return                  // A
    mrs     x4, TPIDRRO_EL0
    ldr     x5, =LEAVES
    cmp     x4, x5
    b.ne    return
    mov     x4, #0x380                      // SError, from EL2 on its own stack
    b       abort

    // The hypervisor asks for one.
asked:
    mrs     x4, SPSR_EL3
    tbnz    x4, #8, not_supported           // A
    mov     x4, #0x380

    // EL2 takes an SError at its vector x4 (Arm ARM, "Exception entry").
abort:
    mrs     x5, VBAR_EL2
    add     x4, x4, x5
    mrs     x5, ELR_EL3
    msr     ELR_EL2, x5
    mrs     x5, SPSR_EL3
    msr     SPSR_EL2, x5
    ldr     x5, =0xbf000002                 // a Cortex-A72's: a slave error
    msr     ESR_EL2, x5
    msr     ELR_EL3, x4
    mov     x5, #0x3c9                      // EL2h, everything masked
    msr     SPSR_EL3, x5
    b       return

    // w0 = the function. x4 to x17 keep their values (DEN0028, version 1.1).
call:
    stp     x4, x5, [sp, #-16]!
    mrs     x5, ESR_EL3
    and     x5, x5, #0xffff
    cmp     x5, #0x5e
    b.eq    window
    ldr     w4, =0x8300005e                 // one of our own
    cmp     w0, w4
    b.eq    asked
    ldr     w4, =0x8300005f                 // another, for whoever reaches us
    cmp     w0, w4
    b.eq    reached
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
reached:
    mov     x0, #0x5f
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
8:  adr     x5, aborts
    ldr     x5, [x5]
    cbnz    x5, 9f                          // or nobody could ask for one
    msr     TPIDRRO_EL0, x4
9:
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
