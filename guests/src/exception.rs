//! Vectors of EL1, the interrupt hook, and surviving an exception one asked for.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::MAX_CPUS;
use crate::sysreg::cpu;

/// The registers at an exception, in the order the vectors store them.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// `ELR_EL1`.
    pub elr: u64,
    /// `SPSR_EL1`.
    pub spsr: u64,
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`.
    pub far: u64,
    unused: u64,
}

/// A synchronous exception that was expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caught {
    /// `ESR_EL1`.
    pub esr: u64,
    /// `FAR_EL1`.
    pub far: u64,
    /// `ELR_EL1`.
    pub elr: u64,
    /// `SPSR_EL1`.
    pub spsr: u64,
}

impl Caught {
    /// The exception class, `ESR_EL1.EC`.
    pub fn class(&self) -> u64 {
        (self.esr >> 26) & 0x3f
    }
}

/// EC: unknown reason, which is what an UNDEFINED instruction gives.
pub const UNKNOWN: u64 = 0x00;
/// EC: `SVC` from AArch64.
const SVC: u64 = 0x15;
/// `SPSR_EL1`: EL1h, everything masked.
const EL1H_MASKED: u64 = 0x3c5;
/// EC: illegal execution state.
pub const ILLEGAL_STATE: u64 = 0x0e;
/// EC: software step without a change of level.
pub const STEP: u64 = 0x33;
/// EC: watchpoint without a change of level.
pub const WATCHPOINT: u64 = 0x35;
/// `PSTATE.D`.
const DEBUG_MASKED: u64 = 1 << 9;
/// EC: instruction abort without a change of level.
pub const INSTRUCTION_ABORT: u64 = 0x21;
/// EC: PC alignment fault.
pub const PC_ALIGNMENT: u64 = 0x22;
/// EC: data abort without a change of level.
pub const DATA_ABORT: u64 = 0x25;

global_asm!(
    r#"
    .macro vector kind
    .balign 0x80
    sub     sp, sp, #288
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       exception_save
    .endm

    .section .text.vectors, "ax"
    .balign 0x800
    .global exception_vectors
exception_vectors:
    .irp kind, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vector \kind
    .endr

exception_save:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x2, elr_el1
    stp     x30, x2, [sp, #240]
    mrs     x2, spsr_el1
    mrs     x3, esr_el1
    stp     x2, x3, [sp, #256]
    mrs     x2, far_el1
    stp     x2, xzr, [sp, #272]
    mov     x1, sp
    bl      {taken}
    ldp     x2, x3, [sp, #256]
    msr     spsr_el1, x2
    ldp     x30, x2, [sp, #240]
    msr     elr_el1, x2
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp], #288
    eret
"#,
    taken = sym taken,
);

unsafe extern "C" {
    /// What `VBAR_EL1` points to.
    pub fn exception_vectors();
}

/// What one CPU expects and caught.
struct Expectation {
    expecting: AtomicBool,
    count: AtomicU32,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
    spsr: AtomicU64,
}

static EXPECTED: [Expectation; MAX_CPUS] = [const {
    Expectation {
        expecting: AtomicBool::new(false),
        count: AtomicU32::new(0),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
        elr: AtomicU64::new(0),
        spsr: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// Where each CPU goes on at the next [`LEAVE`]; 0 for nowhere.
static WAY_OUT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// `SVC` with this immediate leaves generated code, whatever level it runs at.
pub const LEAVE: u16 = 0x5a5a;

/// More exceptions than this in one attempt are no answers to it.
const MOST: u32 = 64;

static SERRORS: AtomicU32 = AtomicU32::new(0);
static HOOK: AtomicUsize = AtomicUsize::new(0);

/// How many SErrors came; they are counted, never fatal.
pub fn serrors() -> u32 {
    SERRORS.load(Ordering::Relaxed)
}

/// Calls `hook` at every interrupt of every CPU, with interrupts masked, until another is set.
pub fn on_interrupt(hook: fn(&mut Frame)) {
    HOOK.store(hook as *const () as usize, Ordering::Release);
}

/// [`LEAVE`] leads this CPU to `resume`, at EL1 with everything masked, and with the stack pointer that it entered the code
/// with.
pub fn leave_to(resume: u64) {
    WAY_OUT[cpu()].store(resume, Ordering::SeqCst);
}

/// How many exceptions the last attempt of this CPU had.
pub fn count() -> u32 {
    EXPECTED[cpu()].count.load(Ordering::SeqCst)
}

/// Runs `attempt`, whose one risky instruction may be answered with a synchronous exception: the
/// instruction is skipped then (a jump to nowhere is taken back to its link register), and the
/// exception is handed back beside the result.
pub fn survive<R>(attempt: impl FnOnce() -> R) -> (R, Option<Caught>) {
    let own = &EXPECTED[cpu()];
    own.count.store(0, Ordering::Relaxed);
    own.expecting.store(true, Ordering::SeqCst);
    let result = attempt();
    own.expecting.store(false, Ordering::SeqCst);
    let caught = (own.count.load(Ordering::SeqCst) > 0).then(|| Caught {
        esr: own.esr.load(Ordering::Relaxed),
        far: own.far.load(Ordering::Relaxed),
        elr: own.elr.load(Ordering::Relaxed),
        spsr: own.spsr.load(Ordering::Relaxed),
    });
    (result, caught)
}

extern "C" fn taken(vector: u64, frame: &mut Frame) {
    match vector & 3 {
        0 => synchronous(vector, frame),
        1 | 2 => interrupt(vector, frame),
        _ => {
            SERRORS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn interrupt(vector: u64, frame: &mut Frame) {
    let hook = HOOK.load(Ordering::Acquire);
    assert!(hook != 0, "interrupt at vector {vector}, nobody wants it");
    // SAFETY: only `on_interrupt` stores here, a function of this type.
    let hook = unsafe { core::mem::transmute::<usize, fn(&mut Frame)>(hook) };
    hook(frame);
}

fn synchronous(vector: u64, frame: &mut Frame) {
    let own = &EXPECTED[cpu()];
    let caught = Caught { esr: frame.esr, far: frame.far, elr: frame.elr, spsr: frame.spsr };
    let resume = WAY_OUT[cpu()].load(Ordering::SeqCst);
    if caught.class() == SVC && caught.esr & 0xffff == u64::from(LEAVE) && resume != 0 {
        (frame.elr, frame.spsr) = (resume, EL1H_MASKED);
        return;
    }
    if !own.expecting.load(Ordering::SeqCst) || own.count.fetch_add(1, Ordering::SeqCst) > MOST {
        own.expecting.store(false, Ordering::SeqCst);
        panic!("CPU {}: exception at vector {vector}: {caught:x?}", cpu());
    }
    own.esr.store(caught.esr, Ordering::Relaxed);
    own.far.store(caught.far, Ordering::Relaxed);
    own.elr.store(caught.elr, Ordering::Relaxed);
    own.spsr.store(caught.spsr, Ordering::Relaxed);
    // An illegal return left PSTATE.IL set, which would make every next instruction illegal.
    if caught.class() == ILLEGAL_STATE {
        frame.spsr &= !(1 << 20);
    }
    let lost = match caught.class() {
        0x20 | INSTRUCTION_ABORT | PC_ALIGNMENT => true,
        // Executed somewhere else, and whatever is there is no instruction.
        UNKNOWN => !crate::mmu::is_code(frame.elr),
        _ => false,
    };
    match (lost, caught.class()) {
        (true, _) => frame.elr = frame.x[30],
        // SVC, HVC and SMC taken here: the return address is the next instruction already.
        (_, 0x15..=0x17) => {}
        // After a step, too; the next one is not stepped.
        (_, STEP) => frame.spsr |= DEBUG_MASKED,
        _ => frame.elr += 4,
    }
}
