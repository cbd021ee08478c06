//! One translation table, and the walks over trees of them.
//!
//! Invariants: no table but the root is ever empty, and no leaf lies where a table could be reached
//! through it. Descriptors are atomic, because table walkers read them at any time.

use super::TableFrames;
use super::descriptor::{Entry, Mapping, Perms};
use super::geometry::{Geometry, Level};
use crate::addr::{Ipa, PAGE_SIZE, PhysAddr, Region};
use crate::memory::frames::{Block, Dirty};
use crate::memory::maintenance::{Maintenance, Vttbr};
use crate::memory::phys;

const ENTRY_SIZE: u64 = 8;

/// A table, and the addresses it is for.
#[derive(Clone, Copy)]
pub(super) struct Table {
    at: PhysAddr,
    level: Level,
    ipas: Region<Ipa>,
}

/// One entry of a table, and the addresses it is for.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    at: PhysAddr,
    pub(super) level: Level,
    pub(super) ipas: Region<Ipa>,
}

impl Slot {
    pub(super) fn load(&self) -> Entry {
        Entry::decode(phys::load_descriptor(self.at), self.level)
    }

    pub(super) fn store(&self, entry: Entry, cpu: &impl Maintenance) {
        let new = entry.encode(self.level);
        let old = phys::load_descriptor(self.at);
        phys::store_descriptor(self.at, new);
        cpu.descriptor_stored(self.at, self.ipas.start(), self.level, old, new);
    }

    /// The table at `at` that this entry leads to. Level 3 entries lead to none.
    fn table(&self, at: PhysAddr) -> Option<Table> {
        Some(Table { at, level: self.level.next()?, ipas: self.ipas })
    }

    /// Replaces the leaf `mapping` by the table at `at` full of smaller leaves. The table is filled
    /// first, so that the time in which the addresses are not mapped is short; a vCPU that faults
    /// then has to try again.
    pub(super) fn split(
        &self,
        mapping: Mapping,
        at: PhysAddr,
        vttbr: Vttbr,
        cpu: &impl Maintenance,
    ) {
        let Some(table) = self.table(at) else { return };
        for slot in table.slots(&self.ipas) {
            let offset = slot.ipas.start().raw() - self.ipas.start().raw();
            slot.store(Entry::Leaf(mapping.advanced(offset)), cpu);
        }
        self.store(Entry::Invalid, cpu);
        cpu.publish_descriptors();
        cpu.invalidate_ipa(vttbr, self.ipas.start());
        self.store(Entry::Table(at), cpu);
        cpu.publish_descriptors();
    }
}

/// There was no frame for a table.
pub(super) struct NoTable;

impl Table {
    /// The root tables at `at`, concatenated.
    pub(super) fn root(at: PhysAddr, geometry: Geometry) -> Self {
        Self { at, level: geometry.start_level(), ipas: geometry.ipas() }
    }

    /// The entries for the addresses of `part`, which lies inside the table's.
    pub(super) fn slots(self, part: &Region<Ipa>) -> impl Iterator<Item = Slot> + use<> {
        let size = self.level.size();
        let base = self.ipas.start().raw();
        let index = move |ipa: Ipa| (ipa.raw() - base) / size;
        (index(part.start())..=index(part.last())).filter_map(move |index| {
            let ipas = Region::new(Ipa::new(base + index * size), size)?;
            let at = PhysAddr::new(self.at.raw() + index * ENTRY_SIZE);
            Some(Slot { at, level: self.level, ipas })
        })
    }

    /// The first leaf that translates an address of `part`.
    pub(super) fn first_leaf(self, part: &Region<Ipa>) -> Option<(Slot, Mapping)> {
        self.slots(part).find_map(|slot| match slot.load() {
            Entry::Invalid => None,
            Entry::Leaf(mapping) => Some((slot, mapping)),
            Entry::Table(at) => slot.table(at)?.first_leaf(&slot.ipas.intersection(part)?),
        })
    }

    /// Maps `part`, which nothing is mapped in, from `to` on, with the largest leaves.
    pub(super) fn fill(
        self,
        part: &Region<Ipa>,
        to: Mapping,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<(), NoTable> {
        for slot in self.slots(part) {
            let Some(within) = slot.ipas.intersection(part) else { continue };
            let to = to.advanced(within.start().raw() - part.start().raw());
            let whole = within == slot.ipas && to.pa.is_aligned(slot.level.size());
            let at = match slot.load() {
                Entry::Table(at) => at,
                _ if whole && slot.level.maps() => {
                    slot.store(Entry::Leaf(to), cpu);
                    continue;
                }
                _ => {
                    let at = tables.allocate(0).ok_or(NoTable)?.scrub().into_start();
                    // Walkers must find the zeroes before they find the table.
                    cpu.publish_descriptors();
                    slot.store(Entry::Table(at), cpu);
                    at
                }
            };
            let next = slot.table(at).expect("level 3 maps whatever pages there are");
            next.fill(&within, to, tables, cpu)?;
        }
        Ok(())
    }

    /// Unmaps `part`, at whose ends no leaf is cut.
    pub(super) fn clear(self, part: &Region<Ipa>, changes: &mut Changes, cpu: &impl Maintenance) {
        for slot in self.slots(part) {
            let Some(within) = slot.ipas.intersection(part) else { continue };
            match slot.load() {
                Entry::Invalid => {}
                Entry::Leaf(_) => {
                    debug_assert!(within == slot.ipas, "unmapping cuts a leaf at {}", slot.ipas);
                    slot.store(Entry::Invalid, cpu);
                    changes.add(&slot);
                }
                Entry::Table(at) => {
                    let Some(next) = slot.table(at) else { continue };
                    next.clear(&within, changes, cpu);
                    if next.is_empty() {
                        slot.store(Entry::Invalid, cpu);
                        changes.retire(next);
                    }
                }
            }
        }
    }

    /// The first table below this one from entry `next` on, which becomes the entry behind it. Looks at `budget` entries at
    /// most, and takes off what it looks at. With a budget left there is none.
    pub(super) fn next_below(self, next: &mut u64, budget: &mut u64) -> Option<Self> {
        let below = self.level.next()?;
        let (size, end) = (self.level.size(), self.entries());
        while *next < end && *budget > 0 {
            let index = *next;
            let at = self.at.raw().wrapping_add(index.wrapping_mul(ENTRY_SIZE));
            let descriptor = phys::load_descriptor(PhysAddr::new(at));
            (*next, *budget) = (index.wrapping_add(1), budget.wrapping_sub(1));
            // Mostly there is nothing.
            if descriptor != 0
                && let Entry::Table(at) = Entry::decode(descriptor, self.level)
                && let base = self.ipas.start().raw().wrapping_add(index.wrapping_mul(size))
                && let Some(ipas) = Region::new(Ipa::new(base), size)
            {
                return Some(Self { at, level: below, ipas });
            }
        }
        None
    }

    fn entries(self) -> u64 {
        self.ipas.size() / self.level.size()
    }

    /// Whether there can be tables below it.
    pub(super) fn has_tables(self) -> bool {
        self.level.next().is_some()
    }

    /// Its frame, which no walker reads any more. It is no root.
    pub(super) fn into_block(self) -> Block<Dirty> {
        Block::adopt(self.at, 0)
    }

    /// Gives `part`, at whose ends no leaf is cut that has other ones, the permissions `perms`.
    pub(super) fn protect(
        self,
        part: &Region<Ipa>,
        perms: Perms,
        changes: &mut Changes,
        cpu: &impl Maintenance,
    ) {
        for slot in self.slots(part) {
            let Some(within) = slot.ipas.intersection(part) else { continue };
            match slot.load() {
                Entry::Invalid => {}
                Entry::Leaf(old) => {
                    let new = old.with_perms(perms);
                    if new != old {
                        debug_assert!(within == slot.ipas, "protecting cuts {}", slot.ipas);
                        slot.store(Entry::Leaf(new), cpu);
                        changes.add(&slot);
                    }
                }
                Entry::Table(at) => {
                    if let Some(next) = slot.table(at) {
                        next.protect(&within, perms, changes, cpu);
                    }
                }
            }
        }
    }

    fn is_empty(self) -> bool {
        self.slots(&self.ipas).all(|slot| slot.load() == Entry::Invalid)
    }
}

/// What was taken out of live tables and is yet to be forgotten by the TLBs.
///
/// The tables taken out form a list through their own first entries: a table's address has bit 0
/// clear, so that a walker that still knows the table reads an invalid descriptor.
#[derive(Default)]
pub(super) struct Changes {
    leaves: u64,
    last: Ipa,
    retired: Option<PhysAddr>,
}

impl Changes {
    fn add(&mut self, slot: &Slot) {
        self.leaves += 1;
        self.last = slot.ipas.start();
    }

    fn retire(&mut self, table: Table) {
        phys::store_descriptor(table.at, self.retired.map_or(0, PhysAddr::raw));
        self.retired = Some(table.at);
    }

    /// Has the TLBs forget, and only then frees the tables.
    pub(super) fn finish(
        self,
        vttbr: Vttbr,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) {
        match (self.leaves, self.retired) {
            (0, None) => return,
            (1, None) => {
                cpu.publish_descriptors();
                cpu.invalidate_ipa(vttbr, self.last);
            }
            // One operation for the whole VM, instead of one for each leaf with every CPU waiting.
            _ => {
                cpu.publish_descriptors();
                cpu.invalidate_vm(vttbr);
            }
        }
        let mut next = self.retired;
        while let Some(table) = next {
            let link = phys::load_descriptor(table);
            next = (link != 0).then(|| PhysAddr::new(link));
            tables.free(Block::adopt(table, 0));
        }
    }
}

/// A leaf that has to be split: of this level, from this address on.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) struct Split {
    pub(super) ipa: Ipa,
    level: Level,
}

/// The splits after which no leaf that `concerns` the change is cut at an end of `part`: at most two
/// at either end, a parent always before its child.
pub(super) fn splits(
    root: Table,
    part: &Region<Ipa>,
    concerns: impl Fn(Mapping) -> bool,
) -> [Option<Split>; 4] {
    let mut splits = [None; 4];
    let mut free = 0;
    let end = part.end().filter(|end| root.ipas.contains(*end));
    for cut in [Some(part.start()), end].into_iter().flatten() {
        let Some(page) = Region::new(cut, PAGE_SIZE) else { continue };
        let Some((slot, mapping)) = root.first_leaf(&page) else { continue };
        let mut level = Some(slot.level).filter(|_| concerns(mapping));
        while let Some(of) = level {
            let split = Split { ipa: cut.align_down(of.size()), level: of };
            if split.ipa == cut {
                break;
            }
            if !splits.contains(&Some(split)) && free < splits.len() {
                splits[free] = Some(split);
                free += 1;
            }
            level = of.next();
        }
    }
    splits
}
