//! Cache and TLB maintenance (Arm ARM, "Cache maintenance instructions", "TLB maintenance").

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{SCTLR_EL1, TCR_EL1, VTTBR_EL2};
use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};

use super::regs::CTR_EL0;
use crate::addr::{Ipa, PhysAddr, Region};
use crate::memory::{Erasable, Maintenance, Vttbr};

/// Maintenance on this CPU, for all of the inner shareable domain.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep;

/// `DC` by address over a region: eight lines, and then eight more, as what is not maintenance counts, too.
macro_rules! by_line {
    ($op:literal, $region:expr) => {{
        let Lines { mut first, mut count, size } = lines($region);
        while count >= 8 {
            // SAFETY: maintenance by address changes no content that memory does not have already.
            unsafe {
                asm!(
                    ".rept 8",
                    concat!($op, ", {line}"),
                    "add {line}, {line}, {size}",
                    ".endr",
                    line = inout(reg) first,
                    size = in(reg) size,
                    options(nostack, preserves_flags)
                );
            }
            count -= 8;
        }
        for _ in 0..count {
            // SAFETY: as above.
            unsafe { asm!(concat!($op, ", {}"), in(reg) first, options(nostack, preserves_flags)) };
            first = first.wrapping_add(size);
        }
    }};
}

/// The cache lines of a region, by the smallest line of all data caches (`CTR_EL0.DminLine`).
struct Lines {
    first: u64,
    count: u64,
    size: u64,
}

fn lines(region: Region<PhysAddr>) -> Lines {
    let size = line_size();
    let first = region.start().raw() & !(size - 1);
    let count = (region.last().raw() - first) / size + 1;
    Lines { first, count, size }
}

fn line_size() -> u64 {
    4 << (CTR_EL0.get() >> 16 & 0xf)
}

/// How many bytes `DC ZVA` zeroes; `None` where it is not to be used (Arm ARM, "DCZID_EL0").
fn zeroing_size() -> Option<u64> {
    let id: u64;
    // SAFETY: reading an ID register changes nothing.
    unsafe { asm!("mrs {}, DCZID_EL0", out(reg) id, options(nomem, nostack, preserves_flags)) };
    (id & 1 << 4 == 0).then_some(4 << (id & 0xf))
}

/// How many lines [`erase_lines`] does at once: a page.
const GROUP: u64 = 64;
/// The only size of a line, of `DC ZVA` and of maintenance, that [`erase_lines`] knows.
const LINE: u64 = 64;

/// Zero `groups` times [`GROUP`] lines from `start` on, and clean and invalidate each: sixteen lines have a register
/// each, so that both instructions share one addition.
///
/// # Safety
/// All of it may be written to. Both instructions work on [`LINE`] bytes.
unsafe fn erase_lines(start: u64, groups: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            ".irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "add x\\n, x0, #(\\n * 64)",
            ".endr",
            "2:",
            ".rept 4",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "dc zva, x\\n",
            ".endr",
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "dc civac, x\\n",
            "add x\\n, x\\n, #(16 * 64)",
            ".endr",
            ".endr",
            "sub {groups}, {groups}, #1",
            "cbnz {groups}, 2b",
            groups = inout(reg) groups => _,
            inout("x0") start => _, out("x1") _, out("x2") _, out("x3") _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _,
            out("x8") _, out("x9") _, out("x10") _, out("x11") _,
            out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            options(nostack, preserves_flags)
        );
    }
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

    fn erase(&self, memory: &Erasable) {
        let region = memory.region();
        let fits =
            region.start().is_aligned(GROUP * LINE) && region.size().is_multiple_of(GROUP * LINE);
        if !fits || zeroing_size() != Some(LINE) || line_size() != LINE {
            memory.zero();
            return self.clean_invalidate_to_poc(region);
        }
        // SAFETY: whoever has an `Erasable` may write to all of it, and the sizes were just looked at.
        unsafe { erase_lines(region.start().raw(), region.size() / (GROUP * LINE)) };
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
