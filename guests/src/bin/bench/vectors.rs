//! Vectors that read the counter before anything else: when an exception arrived, when its interrupt was
//! acknowledged, and what ending it cost.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use guests::{MAX_CPUS, exception, machine, msr, sysreg};

/// What one CPU saw at its last exception. Moments are those of the virtual counter.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Stamps {
    /// The first instruction of the vector.
    pub taken: u64,
    /// The interrupt has been acknowledged.
    pub acknowledged: u64,
    /// It is about to be ended.
    pub ending: u64,
    /// It has been ended.
    pub ended: u64,
    /// How many there were.
    pub count: u64,
    /// Where the GICv2's CPU interface is; 0 for a GICv3.
    interface: u64,
    /// What the acknowledge gave.
    pub intid: u64,
    /// Called between acknowledge and end; 0 for none.
    action: u64,
}

struct PerCpu(UnsafeCell<[Stamps; MAX_CPUS]>);

// SAFETY: each CPU writes its own; others read them as plain words, after `count` has changed.
unsafe impl Sync for PerCpu {}

static STAMPS: PerCpu = PerCpu(UnsafeCell::new(
    [Stamps {
        taken: 0,
        acknowledged: 0,
        ending: 0,
        ended: 0,
        count: 0,
        interface: 0,
        intid: 0,
        action: 0,
    }; MAX_CPUS],
));

// TPIDR_EL1 points to the CPU's stamps. Only what the handler uses is saved.
global_asm!(
    r#"
    .section .text.bench, "ax"
    .macro elsewhere at
    .balign 0x80
    b       exception_vectors + \at
    .endm

    .balign 0x800
    .global bench_vectors
bench_vectors:
    elsewhere 0x000
    elsewhere 0x080
    elsewhere 0x100
    elsewhere 0x180
    // Synchronous: the instruction is skipped.
    .balign 0x80
    stp     x0, x1, [sp, #-32]!
    mrs     x0, cntvct_el0
    mrs     x1, tpidr_el1
    str     x0, [x1]
    ldr     x0, [x1, #32]
    add     x0, x0, #1
    str     x0, [x1, #32]
    mrs     x0, elr_el1
    add     x0, x0, #4
    msr     elr_el1, x0
    ldp     x0, x1, [sp], #32
    eret
    .balign 0x80
    stp     x0, x1, [sp, #-48]!
    mrs     x0, cntvct_el0
    mrs     x1, tpidr_el1
    str     x0, [x1]
    b       bench_interrupt
    elsewhere 0x300
    elsewhere 0x380
    elsewhere 0x400
    elsewhere 0x480
    elsewhere 0x500
    elsewhere 0x580
    elsewhere 0x600
    elsewhere 0x680
    elsewhere 0x700
    elsewhere 0x780

bench_interrupt:
    stp     x2, x3, [sp, #16]
    str     x30, [sp, #32]
    ldr     x2, [x1, #40]
    cbz     x2, 2f
    ldr     w3, [x2, #0xc]          // GICC_IAR
    isb
    mrs     x0, cntvct_el0
    stp     x0, xzr, [x1, #8]
    str     x3, [x1, #48]
    ldr     x0, [x1, #56]
    cbz     x0, 1f
    bl      bench_action
1:  isb
    mrs     x0, cntvct_el0
    str     w3, [x2, #0x10]         // GICC_EOIR
    isb
    mrs     x2, cntvct_el0
    b       4f
2:  mrs     x3, S3_0_C12_C12_0      // ICC_IAR1_EL1
    isb
    mrs     x0, cntvct_el0
    stp     x0, xzr, [x1, #8]
    str     x3, [x1, #48]
    ldr     x0, [x1, #56]
    cbz     x0, 3f
    bl      bench_action
3:  isb
    mrs     x0, cntvct_el0
    msr     S3_0_C12_C12_1, x3      // ICC_EOIR1_EL1
    isb
    mrs     x2, cntvct_el0
4:  stp     x0, x2, [x1, #16]
    ldr     x0, [x1, #32]
    add     x0, x0, #1
    dmb     ish
    str     x0, [x1, #32]
    ldr     x30, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp], #48
    eret

// Calls the action with x1 to x3 kept, and all that a function may change.
bench_action:
    sub     sp, sp, #176
    stp     x1, x2, [sp]
    stp     x3, x4, [sp, #16]
    stp     x5, x6, [sp, #32]
    stp     x7, x8, [sp, #48]
    stp     x9, x10, [sp, #64]
    stp     x11, x12, [sp, #80]
    stp     x13, x14, [sp, #96]
    stp     x15, x16, [sp, #112]
    stp     x17, x18, [sp, #128]
    stp     x29, x30, [sp, #144]
    blr     x0
    ldp     x29, x30, [sp, #144]
    ldp     x17, x18, [sp, #128]
    ldp     x15, x16, [sp, #112]
    ldp     x13, x14, [sp, #96]
    ldp     x11, x12, [sp, #80]
    ldp     x9, x10, [sp, #64]
    ldp     x7, x8, [sp, #48]
    ldp     x5, x6, [sp, #32]
    ldp     x3, x4, [sp, #16]
    ldp     x1, x2, [sp]
    add     sp, sp, #176
    ret
"#
);

unsafe extern "C" {
    fn bench_vectors();
}

fn place(cpu: usize) -> *mut Stamps {
    // SAFETY: within the array: a CPU without a stack never comes here.
    unsafe { STAMPS.0.get().cast::<Stamps>().add(cpu.min(MAX_CPUS - 1)) }
}

/// This CPU takes its exceptions here from now on.
pub fn install() {
    install_with(None);
}

/// The same, and `action` is called between an interrupt's acknowledge and its end.
pub fn install_with(action: Option<extern "C" fn()>) {
    let own = place(sysreg::cpu());
    let interface = match machine::machine().gic {
        machine::GicAt::V2 { cpu_interface, .. } => cpu_interface,
        machine::GicAt::V3 { .. } => 0,
    };
    let action = action.map_or(0, |action| action as usize as u64);
    // SAFETY: this CPU's own, and it takes no exceptions here yet.
    unsafe { own.write(Stamps { interface, action, ..Stamps::default() }) };
    msr!("tpidr_el1", own as u64);
    msr!("vbar_el1", bench_vectors as *const () as u64);
}

/// And no longer.
pub fn remove() {
    msr!("vbar_el1", exception::exception_vectors as *const () as u64);
}

/// What this CPU saw last.
pub fn stamps() -> Stamps {
    stamps_of(sysreg::cpu())
}

/// What another CPU saw last.
pub fn stamps_of(cpu: usize) -> Stamps {
    // SAFETY: plain words; see `PerCpu`.
    unsafe { place(cpu).read_volatile() }
}

/// How many exceptions a CPU has seen.
pub fn count_of(cpu: usize) -> u64 {
    // SAFETY: as above.
    unsafe { (&raw const (*place(cpu)).count).read_volatile() }
}

/// The counter, right here.
#[inline(always)]
pub fn now() -> u64 {
    let now: u64;
    // SAFETY: reads a counter.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) now, options(nostack)) };
    now
}

/// A load that is not expected to succeed.
#[inline(always)]
pub fn skip(address: u64) {
    // SAFETY: the vector steps over it.
    unsafe { asm!("ldr {x:w}, [{a}]", x = out(reg) _, a = in(reg) address, options(nostack)) };
}

/// Interrupts are let in until this CPU has seen one more, busily.
pub fn spin_for_one() {
    let seen = count_of(sysreg::cpu());
    sysreg::unmask_interrupts();
    while count_of(sysreg::cpu()) == seen {}
    sysreg::mask_interrupts();
}

/// The same, asleep.
pub fn sleep_for_one() {
    let seen = count_of(sysreg::cpu());
    while count_of(sysreg::cpu()) == seen {
        doze();
    }
}

/// Sleeps until something comes, and takes it. To be called with interrupts masked.
pub fn doze() {
    guests::instruction!("wfi");
    sysreg::unmask_interrupts();
    guests::instruction!("isb");
    sysreg::mask_interrupts();
}
