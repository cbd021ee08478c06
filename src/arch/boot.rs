//! The assembly that runs before Rust is sound, and the image's own layout.

use core::arch::global_asm;
use core::mem::offset_of;

use super::mmu;
use super::smp::{NEXT, SecondaryBoot};
use super::traps;
use crate::addr::{PhysAddr, Region};

global_asm!(
    include_str!("../../boot/entry.S"),
    mair = const mmu::MAIR,
    tcr = const mmu::TCR,
    sctlr_off = const mmu::SCTLR_OFF,
    sctlr_on = const mmu::SCTLR_ON,
    tcr_el1 = const mmu::TCR_EL1,
    sctlr_el1_off = const mmu::SCTLR_EL1_OFF,
    sctlr_el1_on = const mmu::SCTLR_EL1_OFF | 1 << 12 | 1 << 2 | 1,
    hcr = const traps::HCR_IDLE,
    cptr = const traps::CPTR,
    secondary_mair = const offset_of!(SecondaryBoot, mair),
    secondary_ttbr0 = const offset_of!(SecondaryBoot, ttbr0),
    secondary_mpidr = const offset_of!(SecondaryBoot, mpidr),
    next = sym NEXT,
);

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __boot_stack_guard: u8;
    static __boot_stack_top: u8;
    static __image_end: u8;
    static plinth_secondary: u8;
    static plinth_pen: u8;
    fn plinth_early_map(address: u64, attributes: u64);
    fn plinth_early_device(address: u64);
    fn plinth_switch_tables(root: u64);
}

macro_rules! symbol {
    ($name:ident) => {
        PhysAddr::new(&raw const $name as u64)
    };
}

fn between(start: PhysAddr, end: PhysAddr) -> Region<PhysAddr> {
    Region::between(start, end).expect("the linker script orders its symbols")
}

/// Everything the image occupies.
pub fn image() -> Region<PhysAddr> {
    between(symbol!(__image_start), symbol!(__image_end))
}

/// Code.
pub fn code() -> Region<PhysAddr> {
    between(symbol!(__image_start), symbol!(__text_end))
}

/// Constants and the relocation table.
pub fn constants() -> Region<PhysAddr> {
    between(symbol!(__text_end), symbol!(__rodata_end))
}

/// Variables and the boot stack.
pub fn data() -> Region<PhysAddr> {
    between(symbol!(__rodata_end), symbol!(__image_end))
}

/// The page below the boot stack.
pub fn stack_guard() -> PhysAddr {
    symbol!(__boot_stack_guard)
}

/// The boot CPU's stack, guard page included: lowest and highest address.
pub fn stack() -> (u64, u64) {
    (symbol!(__boot_stack_guard).raw(), symbol!(__boot_stack_top).raw())
}

/// Where secondary CPUs enter.
pub fn secondary_entry() -> PhysAddr {
    symbol!(plinth_secondary)
}

/// Where CPUs enter that a spin table lets go.
pub fn pen() -> PhysAddr {
    symbol!(plinth_pen)
}

/// Change EL2's translation tables. Block sizes differ between old and new, so translation is off in
/// between (Arm ARM, "Using break-before-make").
///
/// # Safety
/// The tables at `root` map the image, the stack and all that is in use one to one.
pub unsafe fn switch_tables(root: u64) {
    // SAFETY: the caller's promise.
    unsafe { plinth_switch_tables(root) };
}

/// Make the 2 MiB block around a device's registers reachable before the final map exists.
pub fn early_map_device(address: PhysAddr) {
    // SAFETY: the early map is one to one, and a block that is mapped as memory stays so.
    unsafe { plinth_early_device(address.raw()) };
}

/// Make the 2 MiB block around `address` reachable as memory before the final map exists.
pub fn early_map_memory(address: PhysAddr) {
    // SAFETY: the early map is one to one; the caller names memory.
    unsafe { plinth_early_map(address.raw(), (1 << 10) | (3 << 8) | 1) };
}
