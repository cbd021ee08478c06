//! EL2's own address space: stage 1 of the EL2 regime, one to one, W^X, guard pages unmapped.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{MAIR_EL2, SCTLR_EL2, TCR_EL2, TTBR0_EL2};
use aarch64_paging::descriptor::El23Attributes;
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{El2, MemoryRegion};
use spin::Once;
use spin::mutex::TicketMutex;
use tock_registers::interfaces::{ReadWriteable, Readable};

use crate::addr::{PAGE_SIZE, PhysAddr, Region};

/// `MAIR_EL2`: attribute 0 is Normal write-back, attribute 1 Device-nGnRE.
pub const MAIR: u64 = 0x04ff;

/// `TCR_EL2` without `PS`: 48-bit addresses, 4 KiB granule, walks inner shareable and write-back
/// cacheable, the RES1 bits 23 and 31.
pub const TCR: u64 = 1 << 31 | 1 << 23 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | 16;

/// `TCR_EL1` for the early map, should we be entered at EL1: the same, nothing in the upper half.
pub const TCR_EL1: u64 = 1 << 23 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | 16;

/// `SCTLR_EL1` with everything off: its RES1 bits.
pub const SCTLR_EL1_OFF: u64 = 0x30d0_0800;

/// `SCTLR_EL2` with everything off: its RES1 bits (Arm ARM, "SCTLR_EL2").
pub const SCTLR_OFF: u64 = 0x30c5_0830;

/// `SCTLR_EL2` with MMU, alignment check of SP and both caches on.
pub const SCTLR_ON: u64 = SCTLR_OFF | 1 << 12 | 1 << 3 | 1 << 2 | 1;

const NORMAL: El23Attributes = El23Attributes::VALID
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::INNER_SHAREABLE)
    .union(El23Attributes::ATTRIBUTE_INDEX_0)
    .union(El23Attributes::USER_RES1);
const DEVICE: El23Attributes = El23Attributes::VALID
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::ATTRIBUTE_INDEX_1)
    .union(El23Attributes::USER_RES1)
    .union(El23Attributes::XN);

/// What a region of EL2's address space may be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// The image's code: read and execute.
    Code,
    /// The image's constants and the bundle: read.
    Constants,
    /// Memory: read and write.
    Data,
    /// Device registers: read and write.
    Device,
}

/// The tables in use.
static SPACE: Once<TicketMutex<AddressSpace>> = Once::new();

/// EL2's translation tables.
#[derive(Debug)]
pub struct AddressSpace {
    map: IdMap<El2>,
}

impl Default for AddressSpace {
    /// Tables that map nothing.
    fn default() -> Self {
        Self { map: IdMap::new(0, El2) }
    }
}

impl AddressSpace {
    /// Map whole pages around `region`. What was mapped there is replaced.
    pub fn map(&mut self, region: Region<PhysAddr>, usage: Use) {
        let attributes = match usage {
            Use::Code => NORMAL | El23Attributes::READ_ONLY,
            Use::Constants => NORMAL | El23Attributes::READ_ONLY | El23Attributes::XN,
            Use::Data => NORMAL | El23Attributes::XN,
            Use::Device => DEVICE,
        };
        self.set(region, attributes);
    }

    /// Unmap the page at `page`.
    pub fn unmap_page(&mut self, page: PhysAddr) {
        if let Some(region) = Region::new(page.page(), PAGE_SIZE) {
            self.set(region, El23Attributes::empty());
        }
    }

    fn set(&mut self, region: Region<PhysAddr>, attributes: El23Attributes) {
        let pages = region.grow_to(PAGE_SIZE);
        let start = usize::try_from(pages.start().raw()).unwrap_or(usize::MAX);
        let last = usize::try_from(pages.last().raw()).unwrap_or(usize::MAX);
        let range = MemoryRegion::new(start, last.saturating_add(1));
        if let Err(error) = self.map.map_range(&range, attributes) {
            panic!("EL2 map of {region}: {error}");
        }
    }

    /// Use these tables on this CPU from now on, instead of the early ones.
    ///
    /// # Safety
    /// The image, the stacks and every device in use are mapped.
    pub unsafe fn activate(mut self) -> u64 {
        self.map.mark_active();
        let root = self.map.root_address().0 as u64;
        SPACE.call_once(|| TicketMutex::new(self));
        barrier::dsb(barrier::ISHST); // the walker sees the tables before it is sent there
        // SAFETY: everything in use is mapped one to one before and after, and the code in between
        // touches no memory.
        unsafe { super::boot::switch_tables(root) };
        enforce_wxn();
        root
    }
}

/// Map the whole pages around `registers`, where nothing was mapped before, while the tables are in use.
pub fn map_registers(registers: Region<PhysAddr>) {
    if let Some(space) = SPACE.get() {
        space.lock().map(registers, Use::Device);
        barrier::dsb(barrier::ISHST); // every CPU's walker sees the new entries; no TLB has kept invalid ones
        barrier::isb(barrier::SY);
    }
}

/// What a secondary CPU loads before it turns its MMU on: `MAIR_EL2`, `TCR_EL2`, `TTBR0_EL2`.
pub fn registers() -> (u64, u64, u64) {
    (MAIR_EL2.get(), TCR_EL2.get(), TTBR0_EL2.get())
}

/// Writable memory is not executable, on this CPU.
pub fn enforce_wxn() {
    SCTLR_EL2.modify(SCTLR_EL2::WXN::Enable);
    barrier::isb(barrier::SY);
}
