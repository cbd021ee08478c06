//! Stage-2 translation: what a VM's IPAs mean (Arm ARM, DDI 0487, "VMSAv8-64 address translation").
//!
//! 4 KiB granule; blocks of 2 MiB and 1 GiB wherever IPA, physical address and length allow. Every
//! operation happens wholly or, with an error, not at all. Changes follow the architecture's order:
//! descriptors are stored, published, the TLBs invalidated, and only then tables are freed and the
//! caller may free what was mapped. Blocks are split with break-before-make, in which window a vCPU on
//! another CPU may fault: whoever handles a translation fault walks again under this object's lock
//! and lets the guest retry when there is a mapping.
//!
//! Not done: merging pages into blocks again, the Contiguous hint, hardware access and dirty flags.

mod descriptor;
mod geometry;
mod table;
mod teardown;
#[cfg(test)]
mod tests;
mod vmid;

pub use descriptor::{Mapping, MemoryType, Perms};
pub use geometry::{Geometry, Level, PaRange};
pub use teardown::Teardown;
pub use vmid::{Vmid, Vmids};

use core::fmt;

use self::descriptor::Entry;
use self::table::{Changes, Split, Table};
use super::frames::{Block, Dirty, FramePool};
use super::maintenance::{Maintenance, Vttbr};
use crate::addr::{Ipa, PAGE_SIZE, PhysAddr, Region};
use crate::{ghost, speculation};

/// Where tables come from and go to.
pub trait TableFrames {
    /// `2^order` frames, aligned to their size.
    fn allocate(&mut self, order: u8) -> Option<Block<Dirty>>;
    /// Takes such a block back.
    fn free(&mut self, block: Block<Dirty>);
}

impl TableFrames for FramePool {
    fn allocate(&mut self, order: u8) -> Option<Block<Dirty>> {
        let block = self.allocate_block(order)?;
        ghost::make_table(block.region());
        Some(block)
    }

    fn free(&mut self, block: Block<Dirty>) {
        self.free_block(block);
    }
}

/// Why a translation could not be created.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Stage2Error {
    /// 255 VMs exist.
    #[error("all VMIDs are taken")]
    OutOfVmids,
    /// No frames for the root tables.
    #[error("no memory for the stage-2 root tables")]
    OutOfTables,
}

/// Why a translation could not be changed; it is as it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MapError {
    /// Only whole pages have a translation.
    #[error("{0} is not a multiple of 4 KiB")]
    Misaligned(u64),
    /// Not all of the region can be translated.
    #[error("{0} is beyond the guest's address space")]
    OutsideIpaSpace(Region<Ipa>),
    /// The machine has no such physical addresses.
    #[error("{0} is beyond the machine's address space")]
    OutsidePaSpace(PhysAddr),
    /// Something is mapped there already.
    #[error("{0} is mapped already")]
    Occupied(Ipa),
    /// No frame for a table.
    #[error("no memory for a stage-2 table")]
    OutOfTables,
}

/// A page or block, and what it is translated to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Leaf {
    /// The addresses it translates.
    pub ipas: Region<Ipa>,
    /// What the first of them is translated to.
    pub mapping: Mapping,
}

/// A VM's translation: its tables and its VMID.
///
/// One owner at a time may change it, so it belongs behind the VM's lock; table walkers need none.
#[must_use = "its tables and its VMID are lost unless it is destroyed"]
pub struct Stage2 {
    root: Block<Dirty>,
    geometry: Geometry,
    vmid: Vmid,
}

impl Stage2 {
    /// A translation in which nothing is mapped. Whatever TLBs hold from the VMID's last owner is gone
    /// when this returns.
    pub fn new(
        geometry: Geometry,
        vmids: &mut Vmids,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<Self, Stage2Error> {
        let order = geometry.root_order();
        let vmid = vmids.allocate().ok_or(Stage2Error::OutOfVmids)?;
        let Some(root) = tables.allocate(order) else {
            vmids.release(vmid);
            return Err(Stage2Error::OutOfTables);
        };
        let root = Block::adopt(root.scrub().into_start(), order);
        let stage2 = Self { root, geometry, vmid };
        cpu.publish_descriptors();
        cpu.invalidate_vm(stage2.vttbr());
        Ok(stage2)
    }

    /// Gives back the tables and the VMID. No CPU has [`vttbr`](Self::vttbr) loaded any more. When this
    /// returns the VM's frames may be freed.
    pub fn destroy(self, vmids: &mut Vmids, tables: &mut impl TableFrames, cpu: &impl Maintenance) {
        let mut teardown = self.tear_down(cpu);
        while !teardown.step(vmids, tables) {}
    }

    /// The same, a step at a time. The VM's frames may be freed from now on.
    pub fn tear_down(self, cpu: &impl Maintenance) -> Teardown {
        // Nobody walks these tables any more. What walks have left in TLBs goes first, so nothing needs unmapping.
        cpu.invalidate_vm(self.vttbr());
        self.watch(&self.geometry.ipas(), ghost::unmap);
        let table = self.table();
        Teardown::new(self.root, table, self.vmid)
    }

    /// What to load into `VTTBR_EL2` to run this VM.
    #[inline]
    pub fn vttbr(&self) -> Vttbr {
        Vttbr::new(self.root.region().start(), self.vmid)
    }

    /// The VM's tag.
    pub const fn vmid(&self) -> Vmid {
        self.vmid
    }

    /// The shape, and the value of `VTCR_EL2`.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What `ipa` is translated to, to the byte.
    #[inline]
    pub fn translate(&self, ipa: Ipa) -> Option<Mapping> {
        let ipas = self.geometry.ipas();
        let offset = ipa.offset_from(ipas.start())?;
        let offset = speculation::within(offset, ipas.size().wrapping_sub(1))?;
        let leaf = self.first_leaf(&Region::new(ipas.start().checked_add(offset)?, 1)?)?;
        Some(leaf.mapping.advanced(ipa.offset_from(leaf.ipas.start())?))
    }

    /// The first page or block that translates an address of `ipas`.
    #[inline]
    pub fn first_leaf(&self, ipas: &Region<Ipa>) -> Option<Leaf> {
        let inside = self.geometry.ipas().intersection(ipas)?;
        let (slot, mapping) = self.table().first_leaf(&inside)?;
        Some(Leaf { ipas: slot.ipas, mapping })
    }

    /// Maps a device's registers at `pa` as Device-nGnRE, execute-never. RAM is mapped by
    /// [`GuestMemory::map`](super::GuestMemory::map), which knows it to be clean.
    pub fn map_device(
        &mut self,
        ipas: Region<Ipa>,
        pa: PhysAddr,
        perms: Perms,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<(), MapError> {
        self.map(ipas, Mapping { pa, memory: MemoryType::Device, perms }, tables, cpu)
    }

    /// Maps `ipas` to the physical addresses from `to.pa` on. Nothing may be mapped there yet.
    pub(in crate::memory) fn map(
        &mut self,
        ipas: Region<Ipa>,
        to: Mapping,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<(), MapError> {
        self.check(&ipas)?;
        if !to.pa.is_aligned(PAGE_SIZE) {
            return Err(MapError::Misaligned(to.pa.raw()));
        }
        let room = self.geometry.pa_size().checked_sub(ipas.size());
        if room.is_none_or(|room| to.pa.raw() > room) {
            return Err(MapError::OutsidePaSpace(to.pa));
        }
        if let Some(leaf) = self.first_leaf(&ipas) {
            return Err(MapError::Occupied(leaf.ipas.start().max(ipas.start())));
        }
        if self.table().fill(&ipas, to, tables, cpu).is_ok() {
            cpu.publish_descriptors();
            self.watch(&ipas, ghost::map);
            return Ok(());
        }
        // Nothing was mapped in there before, so all that is there now has to go. The table for which
        // there was no frame may leave an empty parent behind, which goes as well.
        self.remove(&ipas, tables, cpu);
        Err(MapError::OutOfTables)
    }

    /// Unmaps what is mapped in `ipas`. When this returns no CPU can reach it through this translation.
    pub fn unmap(
        &mut self,
        ipas: Region<Ipa>,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<(), MapError> {
        self.check(&ipas)?;
        self.split(&ipas, |_| true, tables, cpu)?;
        self.watch(&ipas, ghost::unmap);
        self.remove(&ipas, tables, cpu);
        Ok(())
    }

    /// Gives what is mapped in `ipas` the permissions `perms`. When this returns every CPU obeys them.
    pub fn protect(
        &mut self,
        ipas: Region<Ipa>,
        perms: Perms,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<(), MapError> {
        self.check(&ipas)?;
        self.split(&ipas, |old| old.with_perms(perms) != old, tables, cpu)?;
        let mut changes = Changes::default();
        self.table().protect(&ipas, perms, &mut changes, cpu);
        changes.finish(self.vttbr(), tables, cpu);
        Ok(())
    }

    /// Where tests run, what becomes of the frames that are mapped in `ipas` is written down: see `ghost.rs`.
    fn watch(&self, ipas: &Region<Ipa>, becomes: fn(Region<PhysAddr>, PhysAddr)) {
        let mut left = Some(*ipas).filter(|_| ghost::WATCHES);
        while let Some(rest) = left
            && let Some(leaf) = self.first_leaf(&rest)
        {
            let Mapping { pa, memory, .. } = leaf.mapping;
            if memory == MemoryType::Ram
                && let Some(frames) = Region::new(pa, leaf.ipas.size())
            {
                becomes(frames, self.root.region().start());
            }
            left = leaf.ipas.end().and_then(|end| Region::new(end, rest.end()?.offset_from(end)?));
        }
    }

    fn table(&self) -> Table {
        Table::root(self.root.region().start(), self.geometry)
    }

    fn check(&self, ipas: &Region<Ipa>) -> Result<(), MapError> {
        if !self.geometry.ipas().contains_region(ipas) {
            return Err(MapError::OutsideIpaSpace(*ipas));
        }
        let bounds = [ipas.start().raw(), ipas.size()];
        match bounds.into_iter().find(|bound| bound % PAGE_SIZE != 0) {
            Some(bound) => Err(MapError::Misaligned(bound)),
            None => Ok(()),
        }
    }

    fn remove(
        &mut self,
        ipas: &Region<Ipa>,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) {
        let mut changes = Changes::default();
        self.table().clear(ipas, &mut changes, cpu);
        changes.finish(self.vttbr(), tables, cpu);
    }

    /// Splits the leaves that an end of `ipas` cuts. The frames for that are taken beforehand, so
    /// that it happens wholly or not at all.
    fn split(
        &mut self,
        ipas: &Region<Ipa>,
        concerns: impl Fn(Mapping) -> bool,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<(), MapError> {
        let splits = table::splits(self.table(), ipas, concerns);
        let mut steps: [Option<(Split, Block<Dirty>)>; 4] = [const { None }; 4];
        for (step, split) in steps.iter_mut().zip(splits.into_iter().flatten()) {
            let Some(frame) = tables.allocate(0) else {
                steps.into_iter().flatten().for_each(|(_, frame)| tables.free(frame));
                return Err(MapError::OutOfTables);
            };
            *step = Some((split, frame));
        }
        for (split, frame) in steps.into_iter().flatten() {
            let page = Region::new(split.ipa, PAGE_SIZE);
            match page.and_then(|page| self.table().first_leaf(&page)) {
                Some((slot, mapping)) => {
                    debug_assert!(slot.load() == Entry::Leaf(mapping));
                    slot.split(mapping, frame.scrub().into_start(), self.vttbr(), cpu);
                }
                None => tables.free(frame),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Stage2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage2")
            .field("vttbr", &self.vttbr())
            .field("geometry", &self.geometry)
            .finish()
    }
}
