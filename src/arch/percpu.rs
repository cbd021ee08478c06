//! What the exception vectors need of the CPU they run on; `TPIDR_EL2` points to it.

use aarch64_cpu::registers::TPIDR_EL2;
use alloc::boxed::Box;
use core::mem::MaybeUninit;
use tock_registers::interfaces::{Readable, Writeable};

use super::watchdog::Own;
use crate::addr::PhysAddr;
use crate::machine::CpuId;

/// One CPU's block. The vectors know the offsets.
#[repr(C)]
#[derive(Debug)]
pub struct PerCpu {
    /// The top of a stack that nothing but the crash report and the watchdog's FIQ use.
    pub emergency_stack: u64,
    /// Not 0 while an SError at EL2 is expected.
    pub serror_window: u64,
    /// What the vectors need for what happens at each entry from a guest
    /// ([`Entry`](crate::mitigation::Entry)): a function of the firmware, or how many branches.
    pub entry: u64,
    /// Which CPU.
    pub cpu: CpuId,
    /// The stack it normally runs on, lowest and highest address: a backtrace keeps inside.
    pub stack: (u64, u64),
    /// The watchdog's, which alone uses it.
    pub own: Option<Own>,
}

/// How large an emergency stack is: room for the report's formatting.
pub const EMERGENCY_STACK: usize = 16 * 1024;

/// With its guard page, whose size is the alignment below.
const BOOT_EMERGENCY: usize = EMERGENCY_STACK + 4096;

#[repr(C, align(4096))]
struct Stack(MaybeUninit<[u8; BOOT_EMERGENCY]>);

/// Not a part of `.bss`, which is filled with zeros.
#[unsafe(link_section = ".uninit")]
static mut BOOT_EMERGENCY_STACK: Stack = Stack(MaybeUninit::uninit());
static mut BOOT: PerCpu = PerCpu {
    emergency_stack: 0,
    serror_window: 0,
    entry: 0,
    cpu: CpuId(0),
    stack: (0, 0),
    own: None,
};

/// Make the boot CPU able to report its own crash, before there is a heap.
pub fn install_boot(stack: (u64, u64)) {
    let top = &raw const BOOT_EMERGENCY_STACK as u64 + BOOT_EMERGENCY as u64;
    // SAFETY: called once, first thing on the boot CPU while no other runs.
    unsafe {
        BOOT.emergency_stack = top;
        BOOT.stack = stack;
    }
    TPIDR_EL2.set(&raw const BOOT as u64);
}

/// The page below the boot CPU's emergency stack, for the final map to leave out.
pub fn boot_emergency_guard() -> PhysAddr {
    PhysAddr::new(&raw const BOOT_EMERGENCY_STACK as u64)
}

/// Make a secondary CPU able to report its own crash, on the emergency stack that ends at `emergency`. The block lives for
/// ever.
pub fn install(cpu: CpuId, stack: (u64, u64), emergency: u64) {
    let block =
        PerCpu { emergency_stack: emergency, serror_window: 0, entry: 0, cpu, stack, own: None };
    TPIDR_EL2.set(&raw const *Box::leak(Box::new(block)) as u64);
}

/// This CPU's block.
pub fn current() -> *mut PerCpu {
    TPIDR_EL2.get() as *mut PerCpu
}
