//! A translation's tables go back to the pool, some entries at a time.

use super::TableFrames;
use super::table::Table;
use super::vmid::{Vmid, Vmids};
use crate::memory::frames::{Block, Dirty};

/// How many entries are looked at in one step.
const STEP: u64 = 512;
/// What it costs to give a table back, in entries.
const TABLE: u64 = 16;
/// How many levels have tables below them: 0 to 2.
const LEVELS: usize = 3;

/// The tables that are left, in the order in which they are gone through: one is free when all below it are.
#[must_use = "its tables and its VMID are lost unless it is gone through"]
pub struct Teardown {
    root: Option<(Block<Dirty>, Vmid)>,
    /// From the root down to the table that is looked at, and the next entry of each.
    path: [Option<(Table, u64)>; LEVELS],
}

impl Teardown {
    /// Nobody walks these tables any more, and no TLB has anything of them.
    pub(super) const fn new(root: Block<Dirty>, table: Table, vmid: Vmid) -> Self {
        Self { root: Some((root, vmid)), path: [Some((table, 0)), None, None] }
    }

    /// Goes on. Returns whether all is given back.
    pub fn step(&mut self, vmids: &mut Vmids, tables: &mut impl TableFrames) -> bool {
        let mut budget = STEP;
        while let Some(depth) = self.path.iter().rposition(Option::is_some) {
            let Some(Some((table, next))) = self.path.get_mut(depth) else { break };
            let table = *table;
            match table.next_below(next, &mut budget) {
                Some(below) if below.has_tables() => {
                    if let Some(place) = self.path.get_mut(depth + 1) {
                        *place = Some((below, 0));
                    }
                }
                Some(below) => tables.free(below.into_block()),
                None if budget == 0 => return false,
                None => {
                    if let Some(place) = self.path.get_mut(depth) {
                        *place = None;
                    }
                    if depth > 0 {
                        tables.free(table.into_block());
                    }
                }
            }
            // A table costs as much as some entries.
            budget = budget.saturating_sub(TABLE);
            if budget == 0 {
                return false;
            }
        }
        if let Some((root, vmid)) = self.root.take() {
            tables.free(root);
            vmids.release(vmid);
        }
        true
    }
}
