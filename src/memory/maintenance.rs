//! Caches and TLBs: what only a CPU can do for memory.
//!
//! `arch` implements [`Maintenance`] with instructions. [`Recorder`] writes down what was asked for,
//! so that tests can claim an order.

use alloc::vec::Vec;
use core::cell::RefCell;

use aarch64_cpu::registers::VTTBR_EL2;
use tock_registers::LocalRegisterCopy;

use super::phys::Erasable;
use super::stage2::{Level, Vmid};
use crate::addr::{Ipa, PhysAddr, Region};

/// Which translation: the root table and the VMID that tags it in the TLBs (Arm ARM, "VTTBR_EL2,
/// Virtualization Translation Table Base Register").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Vttbr(u64);

impl Vttbr {
    /// The register's value for the tables at `root`, tagged `vmid`.
    pub fn new(root: PhysAddr, vmid: Vmid) -> Self {
        let mut value = LocalRegisterCopy::<u64, VTTBR_EL2::Register>::new(0);
        value.modify(
            VTTBR_EL2::VMID.val(u64::from(vmid.raw())) + VTTBR_EL2::BADDR.val(root.raw() >> 1),
        );
        Self(value.get())
    }

    /// The register's value.
    pub const fn raw(self) -> u64 {
        self.0
    }
}

/// What only a CPU can do for memory. Every operation has completed, on every CPU of the Inner
/// Shareable domain, when it returns.
///
/// TLB operations name the translation by its [`Vttbr`]: the implementor loads it (with an ISB) when
/// another is in the register, and puts that one back.
pub trait Maintenance {
    /// `DC CVAC` over `region`, then `DSB SY`: a guest with its caches off reads what was written.
    fn clean_to_poc(&self, region: Region<PhysAddr>);

    /// `DC CIVAC` over `region`, then `DSB SY`: as cleaning, and no line of it stays in a cache.
    fn clean_invalidate_to_poc(&self, region: Region<PhysAddr>);

    /// Zeroes `memory`, then [`clean_invalidate_to_poc`](Self::clean_invalidate_to_poc): a guest with its
    /// caches off reads zeroes. A CPU may have a quicker way than one after the other.
    fn erase(&self, memory: &Erasable) {
        memory.zero();
        self.clean_invalidate_to_poc(memory.region());
    }

    /// `IC IALLUIS`, `DSB ISH`, `ISB`: instructions that were written and cleaned can be executed.
    fn invalidate_instructions(&self);

    /// `DSB ISHST`: table walkers see every descriptor stored so far.
    fn publish_descriptors(&self);

    /// Forgets what the TLBs hold for the page or block at `ipa`: `TLBI IPAS2E1IS`, `DSB ISH`,
    /// `TLBI VMALLE1IS` (combined stage 1 and 2 entries know no IPA), `DSB ISH`, `ISB`.
    fn invalidate_ipa(&self, vttbr: Vttbr, ipa: Ipa);

    /// Forgets all that the TLBs hold for the VM: `TLBI VMALLS12E1IS`, `DSB ISH`, `ISB`.
    fn invalidate_vm(&self, vttbr: Vttbr);

    /// The descriptor of `level` at `slot`, for the addresses from `ipa` on, was changed. A CPU has
    /// nothing to do; checkers of break-before-make watch here.
    fn descriptor_stored(&self, slot: PhysAddr, ipa: Ipa, level: Level, old: u64, new: u64) {
        let _ = (slot, ipa, level, old, new);
    }
}

impl<T: Maintenance + ?Sized> Maintenance for &T {
    fn clean_to_poc(&self, region: Region<PhysAddr>) {
        T::clean_to_poc(self, region);
    }

    fn clean_invalidate_to_poc(&self, region: Region<PhysAddr>) {
        T::clean_invalidate_to_poc(self, region);
    }

    fn erase(&self, memory: &Erasable) {
        T::erase(self, memory);
    }

    fn invalidate_instructions(&self) {
        T::invalidate_instructions(self);
    }

    fn publish_descriptors(&self) {
        T::publish_descriptors(self);
    }

    fn invalidate_ipa(&self, vttbr: Vttbr, ipa: Ipa) {
        T::invalidate_ipa(self, vttbr, ipa);
    }

    fn invalidate_vm(&self, vttbr: Vttbr) {
        T::invalidate_vm(self, vttbr);
    }

    fn descriptor_stored(&self, slot: PhysAddr, ipa: Ipa, level: Level, old: u64, new: u64) {
        T::descriptor_stored(self, slot, ipa, level, old, new);
    }
}

/// A CPU without caches and TLBs.
#[derive(Clone, Copy, Debug)]
pub struct Uncached;

impl Maintenance for Uncached {
    fn clean_to_poc(&self, _: Region<PhysAddr>) {}

    fn clean_invalidate_to_poc(&self, _: Region<PhysAddr>) {}

    fn invalidate_instructions(&self) {}

    fn publish_descriptors(&self) {}

    fn invalidate_ipa(&self, _: Vttbr, _: Ipa) {}

    fn invalidate_vm(&self, _: Vttbr) {}
}

/// One request to a [`Recorder`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// [`Maintenance::clean_to_poc`].
    CleanToPoc(Region<PhysAddr>),
    /// [`Maintenance::clean_invalidate_to_poc`].
    CleanInvalidateToPoc(Region<PhysAddr>),
    /// [`Maintenance::invalidate_instructions`].
    InvalidateInstructions,
    /// [`Maintenance::publish_descriptors`].
    PublishDescriptors,
    /// [`Maintenance::invalidate_ipa`].
    InvalidateIpa(Vttbr, Ipa),
    /// [`Maintenance::invalidate_vm`].
    InvalidateVm(Vttbr),
    /// [`Maintenance::descriptor_stored`], without the slot.
    Stored {
        /// The first address the descriptor is for.
        ipa: Ipa,
        /// The table's level.
        level: Level,
        /// What was there.
        old: u64,
        /// What is there now.
        new: u64,
    },
}

/// A CPU without caches and TLBs that remembers what it was asked for.
#[derive(Debug, Default)]
pub struct Recorder(RefCell<Vec<Operation>>);

impl Recorder {
    /// What was asked for since the last call, in order.
    pub fn take(&self) -> Vec<Operation> {
        self.0.take()
    }

    fn push(&self, operation: Operation) {
        self.0.borrow_mut().push(operation);
    }
}

impl Maintenance for Recorder {
    fn clean_to_poc(&self, region: Region<PhysAddr>) {
        self.push(Operation::CleanToPoc(region));
    }

    fn clean_invalidate_to_poc(&self, region: Region<PhysAddr>) {
        self.push(Operation::CleanInvalidateToPoc(region));
    }

    fn invalidate_instructions(&self) {
        self.push(Operation::InvalidateInstructions);
    }

    fn publish_descriptors(&self) {
        self.push(Operation::PublishDescriptors);
    }

    fn invalidate_ipa(&self, vttbr: Vttbr, ipa: Ipa) {
        self.push(Operation::InvalidateIpa(vttbr, ipa));
    }

    fn invalidate_vm(&self, vttbr: Vttbr) {
        self.push(Operation::InvalidateVm(vttbr));
    }

    fn descriptor_stored(&self, _: PhysAddr, ipa: Ipa, level: Level, old: u64, new: u64) {
        self.push(Operation::Stored { ipa, level, old, new });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Vmids;

    #[test]
    fn vttbr_holds_the_vmid_above_the_root_address() {
        let mut vmids = Vmids::new();
        assert_eq!(vmids.allocate().map(Vmid::raw), Some(1));
        let vmid = vmids.allocate().unwrap();
        let vttbr = Vttbr::new(PhysAddr::new(0x8_1234_5000), vmid);
        assert_eq!(vttbr.raw(), 0x0002_0008_1234_5000);
    }
}
