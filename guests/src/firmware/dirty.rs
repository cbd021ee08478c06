//! A firmware that leaves nothing as a careful one would: a boot stage at EL2 that fills the registers
//! which are unknown at reset, the interrupt controller and the timers with rubbish, then enters the
//! Image that lies behind it. Not a guest: `cargo xtask test run/dirty-firmware` puts it before the
//! hypervisor.
//!
//! Kept as "Booting AArch64 Linux" and the PSCI specification want it: EL2, MMU off, DAIF masked, the
//! device tree in x0. It knows QEMU's `virt` board, as only the test uses it.

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
    .equ    NEXT, 0x200000                  // where the next Image starts, from our own start
    .equ    GICD, 0x08000000
    .equ    GICC, 0x08010000
    .equ    GICH, 0x08030000
    .equ    GICR, 0x080a0000

    .section .head, "ax"
    .global _head
_head:
    b       start
    .long   0
    .quad   0                               // text_offset
    .quad   0                               // image_size, set by whoever puts the two together
    .quad   0xa                             // little-endian, 4 KiB pages, anywhere in RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

start:
    mov     x19, x0
    ldr     x20, =0xa5a5a5a5a5a5a5a5
    mov     x21, #-1

    // Timers: expired, enabled, not masked.
    msr     CNTVOFF_EL2, x20
    msr     CNTHP_CVAL_EL2, xzr
    msr     CNTP_CVAL_EL0, xzr
    msr     CNTV_CVAL_EL0, xzr
    mov     x0, #1
    msr     CNTHP_CTL_EL2, x0
    msr     CNTP_CTL_EL0, x0
    msr     CNTV_CTL_EL0, x0
    msr     CNTHCTL_EL2, x21
    msr     CNTKCTL_EL1, x21

    mrs     x0, ID_AA64PFR0_EL1
    tst     x0, #(0xf << 24)
    b.eq    1f
    bl      dirty_gicv3
    b       2f
1:  bl      dirty_gicv2

    // Debug: a watchpoint on the UART of every machine, breakpoints all over, the OS lock open.
2:  msr     OSLAR_EL1, xzr
    ldr     x0, =0x09000000
    msr     DBGWVR0_EL1, x0
    ldr     x0, =0x1fff                     // enabled, EL1 and EL0, loads and stores, 8 bytes
    msr     DBGWCR0_EL1, x0
    ldr     x0, =0x40200000
    msr     DBGBVR0_EL1, x0
    ldr     x0, =0x1e7                      // enabled, EL1 and EL0
    msr     DBGBCR0_EL1, x0
    ldr     x0, =0xa000                     // MDE, KDE
    msr     MDSCR_EL1, x0
    mov     x0, #0x3f                       // counters on, and every overflow an interrupt
    msr     PMCR_EL0, x0
    msr     PMCNTENSET_EL0, x21
    msr     PMINTENSET_EL1, x21
    msr     PMOVSSET_EL0, x21
    msr     PMUSERENR_EL0, x21

    // The identity that guests would read, and all traps at once.
    msr     VPIDR_EL2, x20
    msr     VMPIDR_EL2, x20
    msr     MDCR_EL2, x21
    ldr     x0, =0xfff1                     // FP stays off for nobody but us
    msr     HSTR_EL2, x0
    msr     HACR_EL2, x21
    msr     CPTR_EL2, x21
    msr     ACTLR_EL2, x21

    // Translation, of a regime that is off.
    msr     TTBR0_EL2, x20
    msr     TCR_EL2, x20
    msr     MAIR_EL2, x20
    msr     AMAIR_EL2, x20
    msr     VBAR_EL2, x20
    msr     VTTBR_EL2, x20
    ldr     x0, =0x80003520
    msr     VTCR_EL2, x0
    msr     TPIDR_EL2, x20
    msr     ESR_EL2, x20
    msr     FAR_EL2, x20
    msr     HPFAR_EL2, x20
    msr     ELR_EL2, x20
    ldr     x0, =0x1d3                      // to AArch32 Supervisor, that no guest may come to
    msr     SPSR_EL2, x0

    // EL1 as if an operating system had just been left.
    ldr     x0, =0x30d5d91f
    msr     SCTLR_EL1, x0
    msr     TTBR0_EL1, x20
    msr     TTBR1_EL1, x20
    msr     TCR_EL1, x20
    msr     MAIR_EL1, x20
    msr     VBAR_EL1, x20
    msr     CPACR_EL1, x21
    msr     CONTEXTIDR_EL1, x20
    msr     TPIDR_EL1, x20
    msr     TPIDR_EL0, x20
    msr     TPIDRRO_EL0, x20
    msr     CSSELR_EL1, x21
    msr     PAR_EL1, x20
    msr     ELR_EL1, x20
    msr     SPSR_EL1, x20
    msr     SP_EL0, x20
    msr     SP_EL1, x20

    // Stage 1 stays off; alignment checks, WXN and the instruction cache are on.
    ldr     x0, =0x30cd183a
    msr     SCTLR_EL2, x0
    // Everything but NV, NV1, NV2 and AT: they change what the next stage's own accesses mean, and no
    // firmware that enters EL2 sets them. E2H where there is VHE; RW and TGE as nobody expects them.
    ldr     x0, =0x0000037f7fffffff
    mrs     x1, ID_AA64MMFR1_EL1
    tst     x1, #(0xf << 8)
    b.eq    3f
    orr     x0, x0, #(1 << 34)
    b       4f
3:  bic     x0, x0, #(1 << 34)
4:  msr     HCR_EL2, x0
    isb

    mov     sp, x20
    msr     SPSel, #0
    mov     sp, x20
    adr     x1, _head
    add     x1, x1, #NEXT
    mov     x0, x19
    mov     x2, x20
    mov     x3, x20
    mov     x4, x20
    mov     x29, x20
    mov     x30, x20
    br      x1

// Each of \count words from \base + \offset = \value. Clobbers x1 to x3.
.macro fill base, offset, count, value
    ldr     x1, =\base + \offset
    ldr     x2, =\value
    mov     x3, #\count
9:  str     w2, [x1], #4
    subs    x3, x3, #1
    b.ne    9b
.endm

// Interrupts of both groups, in a pattern, enabled, pending and active, at the highest priority.
.macro dirty_distributor
    fill    GICD, 0x084, 8, 0x5a5a5a5a      // GICD_IGROUPR
    fill    GICD, 0x104, 8, 0xffffffff      // GICD_ISENABLER
    fill    GICD, 0x204, 8, 0xffffffff      // GICD_ISPENDR
    fill    GICD, 0x304, 8, 0xffffffff      // GICD_ISACTIVER
    fill    GICD, 0x420, 64, 0x00000000     // GICD_IPRIORITYR
    fill    GICD, 0x820, 64, 0xffffffff     // GICD_ITARGETSR
    fill    GICD, 0xc08, 16, 0xaaaaaaaa     // GICD_ICFGR
.endm

dirty_gicv2:
    mov     x10, x30
    dirty_distributor
    fill    GICD, 0x080, 1, 0x5a5a5a5a      // the boot CPU's own interrupts
    fill    GICD, 0x100, 1, 0xffffffff
    fill    GICD, 0x200, 1, 0xffffffff
    fill    GICD, 0x300, 1, 0xffffffff
    fill    GICD, 0xf20, 4, 0xffffffff      // GICD_SPENDSGIR
    fill    GICD, 0x000, 1, 0x3             // GICD_CTLR
    fill    GICC, 0x004, 1, 0x00            // GICC_PMR
    fill    GICC, 0x008, 1, 0x7             // GICC_BPR
    fill    GICC, 0x0d0, 4, 0xffffffff      // GICC_APR: interrupts taken and not ended
    fill    GICC, 0x000, 1, 0x21f           // GICC_CTLR
    fill    GICH, 0x008, 1, 0xffffffff      // GICH_VMCR
    fill    GICH, 0x0f0, 1, 0xffffffff      // GICH_APR
    fill    GICH, 0x100, 4, 0xba00001b      // GICH_LR: hardware interrupts, pending and active
    fill    GICH, 0x000, 1, 0xff            // GICH_HCR
    ret     x10

dirty_gicv3:
    mov     x10, x30
    fill    GICD, 0x000, 1, 0x30            // affinity routing is on before the rest is written
    dirty_distributor
    fill    GICD, 0x6100, 64, 0x00000001    // GICD_IROUTER, to the second CPU and to none
    fill    GICD, 0x000, 1, 0x37
    ldr     x11, =GICR
5:  ldr     w12, [x11, #0x8]                // GICR_TYPER
    ldr     w0, [x11, #0x14]                // GICR_WAKER: asleep
    orr     w0, w0, #2
    str     w0, [x11, #0x14]
    add     x13, x11, #0x10000
    ldr     w0, =0x5a5a5a5a
    str     w0, [x13, #0x80]                // GICR_IGROUPR0
    mov     w0, #-1
    str     w0, [x13, #0x100]               // GICR_ISENABLER0
    str     w0, [x13, #0x200]               // GICR_ISPENDR0
    str     w0, [x13, #0x300]               // GICR_ISACTIVER0
    str     w0, [x13, #0xc04]               // GICR_ICFGR1
    mov     x1, #8
    add     x0, x13, #0x400
6:  str     wzr, [x0], #4                   // GICR_IPRIORITYR
    subs    x1, x1, #1
    b.ne    6b
    add     x11, x11, #0x20000
    tbz     w12, #4, 5b                     // Last

    // The CPU interface as system registers, to fill it; then as if it had never been enabled.
    mov     x0, #0xf
    msr     S3_4_C12_C9_5, x0               // ICC_SRE_EL2
    isb
    msr     S3_0_C4_C6_0, xzr               // ICC_PMR_EL1
    mov     x0, #7
    msr     S3_0_C12_C12_3, x0              // ICC_BPR1_EL1
    mov     x0, #3
    msr     S3_0_C12_C12_4, x0              // ICC_CTLR_EL1
    msr     S3_0_C12_C8_4, x21              // ICC_AP0R0_EL1
    msr     S3_0_C12_C9_0, x21              // ICC_AP1R0_EL1
    mov     x0, #1
    msr     S3_0_C12_C12_6, x0              // ICC_IGRPEN0_EL1
    msr     S3_0_C12_C12_7, x0              // ICC_IGRPEN1_EL1
    msr     S3_4_C12_C8_0, x21              // ICH_AP0R0_EL2
    msr     S3_4_C12_C9_0, x21              // ICH_AP1R0_EL2
    msr     S3_4_C12_C11_7, x21             // ICH_VMCR_EL2
    ldr     x0, =0xf01b00000000001b
    msr     S3_4_C12_C12_0, x0              // ICH_LR0_EL2
    msr     S3_4_C12_C12_1, x0
    msr     S3_4_C12_C12_2, x0
    msr     S3_4_C12_C12_3, x0
    mov     x0, #0xff
    msr     S3_4_C12_C11_0, x0              // ICH_HCR_EL2
    isb
    msr     S3_4_C12_C9_5, xzr
    isb
    ret     x10
"#
);
