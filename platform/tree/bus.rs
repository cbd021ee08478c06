//! Where a node's registers lie (Devicetree Specification v0.4, "reg" and "ranges").
//!
//! A `reg` is in the addresses of the bus the node stands on. Each bus says with `ranges` where its
//! addresses lie on the bus above; an empty one means in the same place, and none at all that they
//! cannot be reached. The Raspberry Pi's peripherals are at 0x7e00_0000 of theirs.

use alloc::vec::Vec;

use super::{Cells, Node};
use crate::addr::{PhysAddr, Region};
use crate::platform::error::BoardError;

/// The most cells a number can have here: PCI's addresses have three.
const MAX_CELLS: u32 = 4;
/// The most entries a `reg` can have here.
const MAX_ENTRIES: usize = 512;
/// How many bits an address has that a CPU can reach: there are larger ones (FEAT_LPA), which nobody here uses.
const MAX_BITS: u32 = 48;

/// Whether a CPU can reach all of it.
pub fn is_reachable(region: &Region<PhysAddr>) -> bool {
    region.last().raw() >> MAX_BITS == 0
}

impl Node<'_, '_> {
    /// The entries of `reg` as this machine's bus sees them, an empty one as `None`. None at all where
    /// there is no `reg`.
    pub fn regions(self) -> Result<Vec<Option<Region<PhysAddr>>>, BoardError> {
        let (Some(reg), Some(bus)) = (self.property("reg"), self.parent()) else {
            return Ok(Vec::new());
        };
        let (address_cells, size_cells) = (bus.address_cells()?, bus.size_cells()?);
        if address_cells + size_cells == 0 {
            return Err(self.malformed("reg"));
        }
        let mut reg = Cells(reg);
        let mut regions = Vec::new();
        while !reg.is_empty() {
            let address = reg.take(address_cells).ok_or_else(|| self.malformed("reg"))?;
            let size = reg.take(size_cells).ok_or_else(|| self.malformed("reg"))?;
            if regions.len() == MAX_ENTRIES {
                return Err(self.malformed("reg"));
            }
            regions.push(match size {
                0 => None,
                _ => Some(self.reach(address, size)?),
            });
        }
        Ok(regions)
    }

    /// Entry `index` of `reg`, which the node must have.
    pub fn region(self, index: usize) -> Result<Region<PhysAddr>, BoardError> {
        if self.property("reg").is_none() {
            return Err(self.lacks("reg"));
        }
        self.regions()?.get(index).copied().flatten().ok_or_else(|| self.malformed("reg"))
    }

    /// The `size` bytes from `address` on the bus this node stands on, as this machine's bus sees them.
    fn reach(self, address: u128, size: u128) -> Result<Region<PhysAddr>, BoardError> {
        let mut address = address;
        let mut bus = self.parent();
        while let Some(here) = bus {
            let Some(above) = here.parent() else { break };
            address = here
                .translate(above, address, size)?
                .ok_or_else(|| BoardError::Unreachable { path: self.path() })?;
            bus = Some(above);
        }
        let region = u64::try_from(address).ok().zip(u64::try_from(size).ok());
        region
            .and_then(|(start, size)| Region::new(PhysAddr::new(start), size))
            .filter(is_reachable)
            .ok_or_else(|| self.malformed("reg"))
    }

    /// Where this bus's `address` lies on the bus `above`.
    fn translate(self, above: Self, address: u128, size: u128) -> Result<Option<u128>, BoardError> {
        let Some(ranges) = self.property("ranges") else { return Ok(None) };
        if ranges.is_empty() {
            return Ok(Some(address));
        }
        let cells = (self.address_cells()?, above.address_cells()?, self.size_cells()?);
        let malformed = || self.malformed("ranges");
        if cells == (0, 0, 0) {
            return Err(malformed());
        }
        let mut ranges = Cells(ranges);
        while !ranges.is_empty() {
            let child = ranges.take(cells.0).ok_or_else(malformed)?;
            let parent = ranges.take(cells.1).ok_or_else(malformed)?;
            let length = ranges.take(cells.2).ok_or_else(malformed)?;
            let offset = address.checked_sub(child);
            let fits = |offset: &u128| length.checked_sub(size).is_some_and(|most| *offset <= most);
            if let Some(offset) = offset.filter(fits) {
                return parent.checked_add(offset).map(Some).ok_or_else(malformed);
            }
        }
        Ok(None)
    }

    /// How many cells an address on this bus has.
    pub(super) fn address_cells(self) -> Result<usize, BoardError> {
        self.cells("#address-cells", 2)
    }

    /// How many cells a size on this bus has.
    pub(super) fn size_cells(self) -> Result<usize, BoardError> {
        self.cells("#size-cells", 1)
    }

    fn cells(self, property: &'static str, default: usize) -> Result<usize, BoardError> {
        if self.property(property).is_none() {
            return Ok(default);
        }
        match self.u32(property) {
            Some(cells) if cells <= MAX_CELLS => Ok(cells as usize),
            _ => Err(self.malformed(property)),
        }
    }
}
