//! The world switch: into a guest, and back out through the exception vectors.
//!
//! [`enter`] is one long instruction to the compiler: it loads the guest's registers, and when the guest
//! exits the vector stores them and goes on behind it, with every other register changed. So what the run
//! loop needs afterwards is kept where the compiler thinks best, and nothing is saved for its own sake.
//! EL2 runs with all exceptions masked, so whatever arrives through the current-EL vectors is fatal, with two
//! exceptions: an SError inside the window that `take_serror` opens to find out who caused it, and the FIQ of the
//! [`watchdog`](super::watchdog), which is masked in here alone, while `ELR_EL2` and `SPSR_EL2` have something.
//!
//! There is a vector table for each [`Entry`], and each CPU has its own: what has to happen against speculation when a guest is
//! left happens before the first branch whose target could be guessed (the `ret` that ends `leave`), and a CPU that needs
//! nothing executes nothing for it.

use core::arch::{asm, global_asm};
use core::mem::offset_of;

use super::crash::{CrashFrame, EMERGENCY_FRAME};
use super::percpu::{self, PerCpu};
use crate::mitigation::Entry;
use crate::vcpu::GuestRegs;

// `X30` and the PC are moved as a pair.
const _: () = assert!(offset_of!(GuestRegs, pc) == 248);

global_asm!(
    r#"
.section .text.hot, "ax"

.macro xpairs op, base
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
    \op x28, x29, [\base, #224]
.endm

// x1 = whether by an interrupt; on the stack are the guest's x0 and x1, and above them what `enter` left there.
.macro leave
    ldr     x0, [sp, #32]               // &mut GuestRegs
    xpairs  stp, x0
    ldp     x2, x3, [sp], #16
    mrs     x4, ELR_EL2
    stp     x2, x3, [x0]
    mrs     x5, SPSR_EL2
    stp     x30, x4, [x0, #240]
    str     x5, [x0, #{PSTATE}]
    ldr     x30, [sp, #24]
    ret
.endm

// What was interrupted, into the frame at \base. Clobbers x2 and x3.
.macro keep base
    mov     x2, sp
    str     x2, [\base, #{SP}]
    mrs     x2, ELR_EL2
    mrs     x3, SPSR_EL2
    stp     x2, x3, [\base, #{ELR}]
    mrs     x2, ESR_EL2
    mrs     x3, FAR_EL2
    stp     x2, x3, [\base, #{ESR}]
.endm

.macro from_guest entry, interrupt
.balign 128
    stp     x0, x1, [sp, #-16]!
    \entry
    mov     x1, #\interrupt
.ifc \entry, nothing
    leave                               // there is room for it
.else
    b       plinth_leave
.endif
.endm

// What happens at an entry. x0 and x1 are free.
.macro nothing
.endm

// The firmware's workaround. It changes x0 to x3 at most (DEN0028, version 1.1).
.macro call_firmware
    mrs     x0, TPIDR_EL2
    stp     x2, x3, [sp, #-16]!
    ldr     w0, [x0, #{ENTRY}]
    smc     #0
    ldp     x2, x3, [sp], #16
.endm

// Branches that are taken, two a round, each to where it would have gone anyway or back.
.macro take_branches
    mrs     x0, TPIDR_EL2
    ldr     x0, [x0, #{ENTRY}]
1:  b       2f
2:  subs    x0, x0, #1
    b.ne    1b
    dsb     nsh
    isb
.endm

.macro clear_history
    hint    #22                         // CLRBHB
    isb
.endm

.macro fatal kind
.balign 128
    msr     SP_EL0, x0                  // the guest's is lost, and so is the guest
    mov     x0, #\kind
    b       plinth_fatal
.endm

plinth_leave:
    leave

.macro vector_table name, entry
.global \name
.balign 2048
\name:
    fatal 0                             // current EL with SP_EL0: never used
    fatal 1
    fatal 2
    fatal 3
    fatal 4                             // current EL with SP_EL2
    fatal 5
.balign 128                             // FIQ: the watchdog's
    stp     x0, x1, [sp, #-16]!
    b       plinth_own_fiq
.balign 128                             // SError at EL2: expected in the window alone
    msr     SP_EL0, x0
    b       plinth_serror
    from_guest \entry, 0                // lower EL, AArch64: synchronous, IRQ, FIQ, SError
    from_guest \entry, 1
    from_guest \entry, 1
    from_guest \entry, 0
    from_guest \entry, 0                // lower EL, AArch32
    from_guest \entry, 1
    from_guest \entry, 1
    from_guest \entry, 0
.endm

    vector_table plinth_vectors, nothing
    vector_table plinth_vectors_firmware, call_firmware
    vector_table plinth_vectors_branches, take_branches
    vector_table plinth_vectors_clear, clear_history

// What goes on afterwards has its x0 and x1 on its stack; all else of it is put on the emergency stack, and back.
plinth_own_fiq:
    mrs     x0, TPIDR_EL2
    ldr     x0, [x0, #{EMERGENCY}]
    sub     x0, x0, #{FRAME}
    xpairs  stp, x0
    str     x30, [x0, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    keep    x0
    mov     sp, x0
    mov     x19, x0
    bl      plinth_fiq
    ldp     x2, x3, [x19, #{ELR}]
    msr     ELR_EL2, x2
    msr     SPSR_EL2, x3
    ldr     x2, [x19, #{SP}]
    mov     sp, x2
    mov     x0, x19
    ldr     x30, [x0, #240]
    xpairs  ldp, x0
    ldp     x0, x1, [x0]
    eret
    dsb     nsh
    isb

// The interrupted x0 is in SP_EL0.
plinth_serror:
    mrs     x0, TPIDR_EL2
    ldr     x0, [x0, #{SERROR_WINDOW}]
    cbz     x0, 1f
    str     x1, [sp, #-16]!
    mrs     x0, TPIDR_EL2
    mov     x1, #2                      // taken
    str     x1, [x0, #{SERROR_WINDOW}]
    ldr     x1, [sp], #16
    mrs     x0, SP_EL0
    eret
    dsb     nsh
    isb
1:  mov     x0, #7
    b       plinth_fatal

// x0 = which vector; the interrupted x0 is in SP_EL0. The stack pointer may be what is broken, so
// the frame goes to this CPU's emergency stack.
plinth_fatal:
    msr     TPIDRRO_EL0, x1
    mrs     x1, TPIDR_EL2
    ldr     x1, [x1, #{EMERGENCY}]
    sub     x1, x1, #{FRAME}
    xpairs  stp, x1
    str     x30, [x1, #240]
    str     x0, [x1, #{KIND}]
    mrs     x2, SP_EL0
    mrs     x3, TPIDRRO_EL0
    stp     x2, x3, [x1]
    keep    x1
    mov     sp, x1
    mov     x0, x1
    b       plinth_crash

// plinth_take_serror(x0 = &mut window) -> x0 = whether: let pending SErrors be taken here and now. The
// vector leaves 2 in the window when there was one.
.global plinth_take_serror
plinth_take_serror:
    mov     x1, #1
    str     x1, [x0]
    dsb     sy                          // what the guest started has completed, or failed
    isb
    msr     DAIFClr, #4
    isb
    msr     DAIFSet, #4
    ldr     x2, [x0]
    str     xzr, [x0]
    cmp     x2, x1
    cset    x0, ne
    ret
"#,
    PSTATE = const offset_of!(GuestRegs, pstate),
    ENTRY = const offset_of!(PerCpu, entry),
    SERROR_WINDOW = const offset_of!(PerCpu, serror_window),
    EMERGENCY = const offset_of!(PerCpu, emergency_stack),
    FRAME = const EMERGENCY_FRAME,
    KIND = const offset_of!(CrashFrame, kind),
    SP = const offset_of!(CrashFrame, sp),
    ELR = const offset_of!(CrashFrame, elr),
    ESR = const offset_of!(CrashFrame, esr),
);

unsafe extern "C" {
    fn plinth_take_serror(window: *mut u64) -> u64;
    static plinth_vectors: u8;
    static plinth_vectors_firmware: u8;
    static plinth_vectors_branches: u8;
    static plinth_vectors_clear: u8;
}

/// Run the guest whose other registers are loaded, until something brings it back to EL2. Returns whether that was
/// an interrupt; if not, `ESR_EL2` has the reason.
#[inline(always)]
pub fn enter(regs: &mut GuestRegs) -> bool {
    let interrupt: u64;
    // SAFETY: `regs` is valid for the whole time and nothing else refers to it. The lower-EL vectors come
    // back to the label with the stack as it was; x19 and x29, which cannot be named as changed, are put back,
    // and all other registers are named.
    unsafe {
        asm!(
            "stp x29, x19, [sp, #-32]!",
            "adr x30, 2f",
            "stp x0, x30, [sp, #16]",
            "ldp x30, x1, [x0, #240]",
            "ldr x2, [x0, #{PSTATE}]",
            "msr DAIFSet, #1",
            "msr ELR_EL2, x1",
            "msr SPSR_EL2, x2",
            "ldp x2, x3, [x0, #16]",
            "ldp x4, x5, [x0, #32]",
            "ldp x6, x7, [x0, #48]",
            "ldp x8, x9, [x0, #64]",
            "ldp x10, x11, [x0, #80]",
            "ldp x12, x13, [x0, #96]",
            "ldp x14, x15, [x0, #112]",
            "ldp x16, x17, [x0, #128]",
            "ldp x18, x19, [x0, #144]",
            "ldp x20, x21, [x0, #160]",
            "ldp x22, x23, [x0, #176]",
            "ldp x24, x25, [x0, #192]",
            "ldp x26, x27, [x0, #208]",
            "ldp x28, x29, [x0, #224]",
            "ldp x0, x1, [x0]",
            "eret",
            "dsb nsh", // no speculation past the return
            "isb",
            "2: msr DAIFClr, #1",
            "ldp x29, x19, [sp], #32",
            PSTATE = const offset_of!(GuestRegs, pstate),
            inout("x0") regs => _, lateout("x1") interrupt,
            out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
            out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _, out("x18") _, out("x20") _, out("x21") _,
            out("x22") _, out("x23") _, out("x24") _, out("x25") _, out("x26") _, out("x27") _,
            out("x28") _, out("x30") _,
        );
    }
    interrupt != 0
}

/// Take an SError that is pending now, if any. Returns whether there was one.
pub fn take_serror() -> bool {
    let block = percpu::current();
    // SAFETY: the block is this CPU's own and lives for ever; the vector returns to the interrupted
    // instruction with all registers intact.
    unsafe { plinth_take_serror(&raw mut (*block).serror_window) != 0 }
}

/// Where the vector table is, for `VBAR_EL2`, of a CPU on which this happens at each entry from a guest, and what it wants to
/// find in [`PerCpu::entry`].
pub fn vectors(entry: Entry) -> (u64, u64) {
    match entry {
        Entry::Nothing => (&raw const plinth_vectors as u64, 0),
        Entry::Firmware(function) => (&raw const plinth_vectors_firmware as u64, function.into()),
        Entry::Branches(count) => (&raw const plinth_vectors_branches as u64, count.into()),
        Entry::Clear => (&raw const plinth_vectors_clear as u64, 0),
    }
}
