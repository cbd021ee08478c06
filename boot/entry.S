// The image's first instructions: the arm64 Image header (Linux, "Booting AArch64 Linux"), the way
// from the loader to the first line of Rust, and that of the secondary CPUs.
//
// In: x0 = device tree (boot CPU) or &SecondaryBoot (secondary CPU), MMU and data cache off.
// Until the early map is on, memory is Device: no unaligned access, no exclusives.

.equ PAGE_SHIFT, 12
.equ BLOCK_SHIFT, 21

// Early descriptors (Arm ARM, "VMSAv8-64 block descriptor"): AF, inner shareable, block, AttrIndx.
.equ EARLY_NORMAL, (1 << 10) | (3 << 8) | (0 << 2) | 1
.equ EARLY_DEVICE, (1 << 54) | (1 << 10) | (1 << 2) | 1
.equ EARLY_TABLES, 12

.section .head, "ax"
.global _start
_start:
    b       primary                     // code0
    .long   0                           // code1
    .quad   0                           // text_offset: any 2 MiB-aligned place
    .quad   __image_size                // image_size, .bss and all
    .quad   0b1010                      // flags: little-endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

primary:
    msr     DAIFSet, #0xf
    mov     x19, x0                     // device tree
    adrp    x20, __image_start          // where we are
    bl      zero_bss
    bl      relocate
    msr     SPSel, #1
    adrp    x1, __boot_stack_top
    mov     sp, x1
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    not_el2
    bl      reset_el2
    bl      map_early
    ldr     x0, ={mair}
    msr     MAIR_EL2, x0
    ldr     x0, ={tcr}
    mrs     x1, ID_AA64MMFR0_EL1        // PS = what the CPU has, 48 bits at most
    and     x1, x1, #0xf
    mov     x2, #5
    cmp     x1, x2
    csel    x1, x2, x1, hi
    orr     x0, x0, x1, lsl #16
    msr     TCR_EL2, x0
    adrp    x0, early_tables
    msr     TTBR0_EL2, x0
    bl      enable_mmu
    mov     x0, x19
    mov     x1, x20
    mov     x29, xzr                    // backtraces end here
    mov     x30, xzr
    b       plinth_main

// Entered below EL2: the same map in EL1's registers, and Rust says so on the tree's UART. (At EL3 no
// loader of Images would start us.)
not_el2:
    cmp     x1, #(1 << 2)
    b.ne    2f
    ldr     x0, ={sctlr_el1_off}
    msr     SCTLR_EL1, x0
    mov     x0, #(3 << 20)              // FPEN: copies use vector registers
    msr     CPACR_EL1, x0
    isb
    bl      map_early
    ldr     x0, ={mair}
    msr     MAIR_EL1, x0
    ldr     x0, ={tcr_el1}
    mrs     x1, ID_AA64MMFR0_EL1
    and     x1, x1, #0xf
    mov     x2, #5
    cmp     x1, x2
    csel    x1, x2, x1, hi
    orr     x0, x0, x1, lsl #32
    msr     TCR_EL1, x0
    adrp    x0, early_tables
    msr     TTBR0_EL1, x0
    tlbi    VMALLE1
    ic      IALLU
    dsb     NSH
    isb
    ldr     x0, ={sctlr_el1_on}
    msr     SCTLR_EL1, x0
    isb
    mov     x0, x19
    mov     x29, xzr
    bl      plinth_below_el2
2:  wfi
    b       2b

// CPUs that a spin table lets go (Devicetree Specification, "enable-method") have nothing in their
// registers. They wait here, their caches off, until one of them is awaited.
.global plinth_pen
plinth_pen:
    msr     DAIFSet, #0xf
    ldr     x3, =0xff00ffffff           // MPIDR_EL1: Aff3, Aff2 to Aff0
    mrs     x1, MPIDR_EL1
    and     x1, x1, x3
    adrp    x2, {next}
1:  wfe
    ldr     x0, [x2, :lo12:{next}]
    cbz     x0, 1b
    ldr     x3, [x0, #{secondary_mpidr}]
    cmp     x3, x1
    b.ne    1b

.global plinth_secondary
plinth_secondary:
    msr     DAIFSet, #0xf
    mov     x19, x0
    msr     SPSel, #1
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    3f
    bl      reset_el2
    ldp     x1, x2, [x19, #{secondary_mair}]
    msr     MAIR_EL2, x1
    msr     TCR_EL2, x2
    ldp     x1, x2, [x19, #{secondary_ttbr0}]
    msr     TTBR0_EL2, x1
    mov     sp, x2
    bl      enable_mmu
    mov     x0, x19
    mov     x29, xzr
    mov     x30, xzr
    b       plinth_secondary_main
3:  wfi
    b       3b

// Fill .bss with zeros, 64 bytes at a time, which both of its ends are a multiple of. Clobbers x1, x2.
zero_bss:
    adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
4:  stp     xzr, xzr, [x1]
    stp     xzr, xzr, [x1, #16]
    stp     xzr, xzr, [x1, #32]
    stp     xzr, xzr, [x1, #48]
    add     x1, x1, #64
    cmp     x1, x2
    b.lo    4b
    ret

// Add where we are to every word that holds an address (ELF gABI, "SHT_RELR"): an even entry is the
// place of one such word; an odd one says with bits 1 to 63 which of the 63 words behind it are others.
// Clobbers x1 to x7.
relocate:
    adrp    x1, __relr_start
    add     x1, x1, :lo12:__relr_start
    adrp    x2, __relr_end
    add     x2, x2, :lo12:__relr_end
5:  cmp     x1, x2
    b.hs    8f
    ldr     x3, [x1], #8
    tbnz    x3, #0, 6f
    add     x4, x3, x20                 // the word, and from here on the one behind what is done
    ldr     x5, [x4]
    add     x5, x5, x20
    str     x5, [x4], #8
    b       5b
6:  mov     x6, x4
    add     x4, x4, #(63 * 8)
    lsr     x3, x3, #1
7:  cbz     x3, 5b
    rbit    x7, x3
    clz     x7, x7                      // the lowest bit that is set
    ldr     x5, [x6, x7, lsl #3]
    add     x5, x5, x20
    str     x5, [x6, x7, lsl #3]
    sub     x5, x3, #1
    and     x3, x3, x5
    b       7b
8:  ret

// The early map: our own image, and room for a device tree of 2 MiB anywhere. x19 = device tree,
// x20 = image. Clobbers x0 to x7, x21, x22.
map_early:
    mov     x22, x30
    mov     x21, x20
1:  mov     x0, x21
    ldr     x1, =EARLY_NORMAL
    bl      plinth_early_map
    add     x21, x21, #(1 << BLOCK_SHIFT)
    adrp    x2, __image_end
    cmp     x21, x2
    b.lo    1b
    mov     x0, x19
    ldr     x1, =EARLY_NORMAL
    bl      plinth_early_map
    add     x0, x19, #(1 << BLOCK_SHIFT)
    ldr     x1, =EARLY_NORMAL
    bl      plinth_early_map
    // What we wrote with the caches off must not be hidden by lines that somebody left in them.
    adrp    x0, __written_start
    add     x0, x0, :lo12:__written_start
    adrp    x1, __bss_end
    add     x1, x1, :lo12:__bss_end
    bl      invalidate
    ret     x22

// Put the EL2 registers that decide how the next instructions run into a known state.
reset_el2:
    ldr     x1, ={hcr}                  // not VHE's EL2&0 regime, whatever the firmware left
    msr     HCR_EL2, x1
    ldr     x1, ={sctlr_off}
    msr     SCTLR_EL2, x1
    isb
    ldr     x1, ={cptr}                 // copies use vector registers; its layout is the one without VHE
    msr     CPTR_EL2, x1
    isb
    ret

// Caches and MMU on. Clobbers x1.
enable_mmu:
    tlbi    ALLE2
    ic      IALLU
    dsb     NSH                         // the invalidations are complete before translation starts
    isb
    ldr     x1, ={sctlr_on}
    msr     SCTLR_EL2, x1
    isb
    ret

// plinth_switch_tables(x0 = root): no memory is touched while the MMU is off, so the caches may keep
// what they have.
.global plinth_switch_tables
plinth_switch_tables:
    mrs     x1, SCTLR_EL2
    bic     x2, x1, #1
    dsb     SY                          // what was stored has been stored
    msr     SCTLR_EL2, x2
    isb
    msr     TTBR0_EL2, x0
    isb
    tlbi    ALLE2
    dsb     NSH
    isb
    msr     SCTLR_EL2, x1
    isb
    ret

// Invalidate the data cache lines of [x0, x1) to the point of coherency. Clobbers x0, x2, x3.
invalidate:
    mrs     x2, CTR_EL0
    ubfx    x2, x2, #16, #4             // DminLine, in words
    mov     x3, #4
    lsl     x2, x3, x2
    sub     x3, x2, #1
    bic     x0, x0, x3
7:  dc      IVAC, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    7b
    dsb     SY
    ret

// plinth_early_map(x0 = address, x1 = block attributes): map the 2 MiB block around x0 one to one in
// the early tables, unless it is mapped. Tables come from a small static pool; when it is empty, or
// the address lies outside 48 bits, the block stays unmapped. Clobbers x0 to x7.
.global plinth_early_map
plinth_early_map:
    lsr     x2, x0, #48
    cbnz    x2, 10f
    adrp    x3, early_tables            // the table of the current level, first the root
    mov     x4, #39                     // the current level's shift
8:  lsr     x5, x0, x4
    and     x5, x5, #0x1ff
    add     x5, x3, x5, lsl #3          // the descriptor
    ldr     x6, [x5]
    cmp     x4, #BLOCK_SHIFT
    b.eq    9f
    sub     x4, x4, #9
    tbnz    x6, #0, 11f
    adrp    x7, early_tables_used
    add     x7, x7, :lo12:early_tables_used
    ldr     x6, [x7]
    add     x6, x6, #1
    cmp     x6, #EARLY_TABLES
    b.hs    10f
    str     x6, [x7]
    adrp    x7, early_tables
    add     x6, x7, x6, lsl #PAGE_SHIFT
    orr     x7, x6, #3                  // a table descriptor
    str     x7, [x5]
    mov     x3, x6
    b       8b
11: and     x3, x6, #0x0000fffffffff000
    b       8b
9:  tbnz    x6, #0, 10f
    lsr     x0, x0, #BLOCK_SHIFT
    lsl     x0, x0, #BLOCK_SHIFT
    orr     x0, x0, x1
    str     x0, [x5]
    dsb     ISHST                       // the walker sees the descriptor before the next access
    isb
10: ret

.global plinth_early_device
plinth_early_device:
    ldr     x1, =EARLY_DEVICE
    b       plinth_early_map

.ltorg

.section .early_tables, "aw", @nobits
.balign 4096
early_tables: .skip EARLY_TABLES << PAGE_SHIFT
early_tables_used: .skip 8
