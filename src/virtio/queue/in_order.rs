//! Chains that are used in the order in which they were made available ("In-order use of descriptors").
//!
//! One element tells of several: that of the last, in the place of the first. The driver takes the others for used
//! completely, so a chain whose buffers were not all written to their ends is the last that its element tells of.

use serde::{Deserialize, Serialize};

/// What tells the driver of a chain that was used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Used {
    pub id: u16,
    pub written: u32,
}

/// Chains that were given back, and that nothing in the ring tells of yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Batch {
    /// Where what tells of them belongs.
    pub at: u16,
    /// Of the last.
    pub used: Used,
}

impl Batch {
    /// Adds `next`, which was used completely or not, to what is open. Returns what became of that when it does not go on.
    #[inline(always)]
    pub fn add(open: &mut Option<Self>, next: Self, complete: bool) -> Option<Self> {
        let at = open.take().map_or(next.at, |batch| batch.at);
        let batch = Self { at, ..next };
        if complete {
            *open = Some(batch);
            return None;
        }
        Some(batch)
    }
}
