// Copies bytes of Normal memory at any alignment: `SCTLR_EL2.A` is off, so loads and stores there may be unaligned. It is
// `memcpy` as well, which the compiler calls also for a few bytes, as code for a CPU that checks alignment has to.
//
// Up to 64 bytes, all is read before anything is written: the first and the last words, which overlap where there are fewer.
// Many go through vector registers, which are the guest's, or the one's before, and are put back (`docs/decisions/0007`).
//
// x0: to, kept for the caller. x1: from. x2: how many bytes. x4, x5: where these end.

.equ MANY, 320

.macro vectors op:req, at:req, offset=0
    \op q0, q1, [\at, #\offset]
    \op q2, q3, [\at, #\offset + 32]
    \op q4, q5, [\at, #\offset + 64]
    \op q6, q7, [\at, #\offset + 96]
.endm

.macro both, load:req, store:req, a:req, b:req, size:req
    \load \a, [x1]
    \load \b, [x4, #-\size]
    \store \a, [x0]
    \store \b, [x5, #-\size]
    ret
.endm

.section .text.plinth_copy, "ax"
.balign 16
.global plinth_copy
.type plinth_copy, %function
plinth_copy:
    add x4, x1, x2
    add x5, x0, x2
    cmp x2, #16
    b.hi 3f
    cmp x2, #8
    b.lo 1f
    both ldur, stur, x6, x7, 8
1:  tbz x2, #2, 2f
    both ldur, stur, w6, w7, 4
2:  cbz x2, 9f
    cmp x2, #1
    b.ls 8f
    both ldurh, sturh, w6, w7, 2
8:  ldrb w6, [x1]
    strb w6, [x0]
9:  ret
3:  cmp x2, #32
    b.hi 4f
    ldp x6, x7, [x1]
    ldp x8, x9, [x4, #-16]
    stp x6, x7, [x0]
    stp x8, x9, [x5, #-16]
    ret
4:  cmp x2, #64
    b.hi 5f
    ldp x6, x7, [x1]
    ldp x8, x9, [x1, #16]
    ldp x10, x11, [x4, #-32]
    ldp x12, x13, [x4, #-16]
    stp x6, x7, [x0]
    stp x8, x9, [x0, #16]
    stp x10, x11, [x5, #-32]
    stp x12, x13, [x5, #-16]
    ret
    // The first 16 bytes; from the next multiple of 16 on, 64 in each turn, or 128; the last 64, or 128.
5:  ldp x6, x7, [x1]
    orr x3, x0, #15
    add x3, x3, #1
    sub x8, x3, x0
    add x1, x1, x8
    stp x6, x7, [x0]
    cmp x2, #MANY
    b.hs 10f
    sub x2, x5, #64
    cmp x3, x2
    b.hs 7f
6:  ldp x8, x9, [x1, #16]
    ldp x10, x11, [x1, #32]
    ldp x12, x13, [x1, #48]
    ldp x6, x7, [x1], #64
    stp x8, x9, [x3, #16]
    stp x10, x11, [x3, #32]
    stp x12, x13, [x3, #48]
    stp x6, x7, [x3], #64
    cmp x3, x2
    b.lo 6b
7:  ldp x6, x7, [x4, #-64]
    ldp x8, x9, [x4, #-48]
    ldp x10, x11, [x4, #-32]
    ldp x12, x13, [x4, #-16]
    stp x6, x7, [x5, #-64]
    stp x8, x9, [x5, #-48]
    stp x10, x11, [x5, #-32]
    stp x12, x13, [x5, #-16]
    ret
.arch_extension fp
.arch_extension simd
10: sub sp, sp, #128
    vectors stp, sp
    sub x2, x5, #128
11: ldp q2, q3, [x1, #32]
    ldp q4, q5, [x1, #64]
    ldp q6, q7, [x1, #96]
    ldp q0, q1, [x1], #128
    stp q2, q3, [x3, #32]
    stp q4, q5, [x3, #64]
    stp q6, q7, [x3, #96]
    stp q0, q1, [x3], #128
    cmp x3, x2
    b.lo 11b
    vectors ldp, x4, -128
    vectors stp, x5, -128
    vectors ldp, sp
    // What a guest had in its registers does not outlive it on this stack.
    .irp at, 0, 16, 32, 48, 64, 80, 96, 112
    stp xzr, xzr, [sp, #\at]
    .endr
    add sp, sp, #128
    ret
.arch_extension nosimd
.arch_extension nofp
.size plinth_copy, . - plinth_copy

// Fills bytes of Normal memory, in the same way; it is `memset` as well.
//
// x0: where, kept for the caller. w1: with which byte. x2: how many. x5: where they end.
.section .text.plinth_fill, "ax"
.balign 16
.global plinth_fill
.type plinth_fill, %function
plinth_fill:
    and w1, w1, #0xff
    orr w1, w1, w1, lsl #8
    orr w1, w1, w1, lsl #16
    orr x1, x1, x1, lsl #32
    add x5, x0, x2
    cmp x2, #16
    b.hi 3f
    cmp x2, #8
    b.lo 1f
    str x1, [x0]
    stur x1, [x5, #-8]
    ret
1:  tbz x2, #2, 2f
    str w1, [x0]
    stur w1, [x5, #-4]
    ret
2:  cbz x2, 9f
    strb w1, [x0]
    strb w1, [x5, #-1]
    cmp x2, #3
    b.lo 9f
    strb w1, [x0, #1]
9:  ret
3:  stp x1, x1, [x0]
    stp x1, x1, [x5, #-16]
    cmp x2, #32
    b.ls 9b
    cmp x2, #64
    b.hi 5f
    stp x1, x1, [x0, #16]
    stp x1, x1, [x5, #-32]
    ret
    // From the next multiple of 16 on, 64 in each turn; the last 64, of which 16 are filled.
5:  orr x3, x0, #15
    add x3, x3, #1
    sub x2, x5, #64
    cmp x3, x2
    b.hs 7f
6:  stp x1, x1, [x3, #16]
    stp x1, x1, [x3, #32]
    stp x1, x1, [x3, #48]
    stp x1, x1, [x3], #64
    cmp x3, x2
    b.lo 6b
7:  stp x1, x1, [x5, #-64]
    stp x1, x1, [x5, #-48]
    stp x1, x1, [x5, #-32]
    ret
.size plinth_fill, . - plinth_fill
