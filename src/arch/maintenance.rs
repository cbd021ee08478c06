//! Cache and TLB maintenance (Arm ARM, "Cache maintenance instructions", "TLB maintenance").

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{SCTLR_EL1, TCR_EL1, VTTBR_EL2};
use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};

use super::regs::CTR_EL0;
use crate::addr::{Ipa, PhysAddr, Region};
use crate::memory::{Maintenance, Vttbr};

/// Maintenance on this CPU, for all of the inner shareable domain.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep;

macro_rules! by_line {
    ($op:literal, $region:expr) => {
        for line in lines($region) {
            // SAFETY: maintenance by address changes no content that memory does not have already.
            unsafe { asm!(concat!($op, ", {}"), in(reg) line, options(nostack, preserves_flags)) };
        }
    };
}

/// The cache lines of `region`, by the smallest line of all data caches (`CTR_EL0.DminLine`).
fn lines(region: Region<PhysAddr>) -> impl Iterator<Item = u64> {
    let size = 4u64 << (CTR_EL0.get() >> 16 & 0xf);
    let first = region.start().raw() & !(size - 1);
    let count = (region.last().raw() - first) / size + 1;
    (0..count).map(move |line| first + line * size)
}

impl Maintenance for Upkeep {
    fn clean_to_poc(&self, region: Region<PhysAddr>) {
        by_line!("dc cvac", region);
        barrier::dsb(barrier::SY);
    }

    fn clean_invalidate_to_poc(&self, region: Region<PhysAddr>) {
        by_line!("dc civac", region);
        barrier::dsb(barrier::SY);
    }

    fn invalidate_instructions(&self) {
        // SAFETY: invalidating instruction caches changes nothing but speed.
        unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
        barrier::dsb(barrier::ISH);
        barrier::isb(barrier::SY);
    }

    fn publish_descriptors(&self) {
        barrier::dsb(barrier::ISHST);
    }

    fn invalidate_ipa(&self, vttbr: Vttbr, ipa: Ipa) {
        with_vttbr(vttbr, || {
            // SAFETY: removing TLB entries changes nothing but speed.
            unsafe {
                asm!("tlbi ipas2e1is, {page}", "dsb ish", "tlbi vmalle1is", "dsb ish", "isb",
                    page = in(reg) ipa.raw() >> 12, options(nostack, preserves_flags));
            }
        });
    }

    fn invalidate_vm(&self, vttbr: Vttbr) {
        with_vttbr(vttbr, || {
            // SAFETY: removing TLB entries changes nothing but speed.
            unsafe {
                asm!("tlbi vmalls12e1is", "dsb ish", "isb", options(nostack, preserves_flags));
            }
        });
    }
}

/// Let `invalidate` run with `vttbr` in its register, which names the VMID. Meanwhile EL1's stage 1 is on
/// and its walks are off, so that nothing of another VM's stage 1 is fetched under that VMID (Cortex-A72
/// erratum 1319367).
fn with_vttbr(vttbr: Vttbr, invalidate: impl FnOnce()) {
    let current = VTTBR_EL2.get();
    barrier::dsb(barrier::ISHST); // descriptors first, then the invalidation
    if current == vttbr.raw() {
        return invalidate();
    }
    let (tcr, sctlr) = (TCR_EL1.get(), SCTLR_EL1.get());
    TCR_EL1.modify(TCR_EL1::EPD0::DisableTTBR0Walks + TCR_EL1::EPD1::DisableTTBR1Walks);
    barrier::isb(barrier::SY); // no walk before stage 1 is on, should it be off
    SCTLR_EL1.modify(SCTLR_EL1::M::Enable);
    barrier::isb(barrier::SY);
    VTTBR_EL2.set(vttbr.raw());
    barrier::isb(barrier::SY);
    invalidate();
    VTTBR_EL2.set(current);
    barrier::isb(barrier::SY);
    SCTLR_EL1.set(sctlr);
    barrier::isb(barrier::SY);
    TCR_EL1.set(tcr);
    barrier::isb(barrier::SY);
}

/// Forget what this CPU's TLB holds of stage 1 under the VMID in `VTTBR_EL2`.
pub fn invalidate_this_vm_here() {
    // SAFETY: removing TLB entries changes nothing but speed.
    unsafe {
        asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags));
    }
}

/// Forget what every TLB holds of every guest: firmware may have left anything.
pub fn invalidate_all_guests() {
    // SAFETY: removing TLB entries changes nothing but speed.
    unsafe {
        asm!("tlbi alle1is", "dsb ish", "isb", options(nostack, preserves_flags));
    }
}

/// Forget what this CPU's TLB holds of EL2's own map.
pub fn invalidate_el2() {
    // SAFETY: removing TLB entries changes nothing but speed.
    unsafe {
        asm!("tlbi alle2", "dsb nsh", "isb", options(nostack, preserves_flags));
    }
}
