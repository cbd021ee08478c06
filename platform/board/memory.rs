//! Which memory there is, and which of it is taken (Devicetree Specification v0.4, "/memory node" and
//! "/reserved-memory Node").

use alloc::vec::Vec;

use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::platform::error::BoardError;
use crate::platform::tree::{Node, Tree};

/// All RAM: every entry of every memory node, without the empty ones that firmware did not fill.
pub(super) fn ram(tree: &Tree<'_>) -> Result<Vec<Region<PhysAddr>>, BoardError> {
    let mut memory = Vec::new();
    for node in tree.root().children() {
        if node.text("device_type") == Some("memory") && node.is_available() {
            memory.extend(node.regions()?.into_iter().flatten());
            bounded(&memory, node)?;
        }
    }
    if memory.is_empty() {
        return Err(BoardError::Missing { what: "memory" });
    }
    Ok(memory)
}

/// What the tree says is taken: the memory reservation block, and each child of `/reserved-memory` that
/// has a place. One that has only a size is a wish of the operating system's, and none of ours.
pub(super) fn reserved(tree: &Tree<'_>) -> Result<Vec<Region<PhysAddr>>, BoardError> {
    let mut reserved = tree.reservations().to_vec();
    bounded(&reserved, tree.root())?;
    if let Some(parent) = tree.root().child("reserved-memory") {
        for node in parent.children().filter(|node| node.is_available()) {
            reserved.extend(node.regions()?.into_iter().flatten());
            bounded(&reserved, node)?;
        }
    }
    Ok(reserved)
}

/// There are not more than any board has, with the last ones from `node`.
fn bounded(regions: &[Region<PhysAddr>], node: Node<'_, '_>) -> Result<(), BoardError> {
    const MOST: usize = 1024;
    if regions.len() > MOST { Err(node.malformed("reg")) } else { Ok(()) }
}

/// What is left of `memory` without `taken`: whole pages, by rising address, none next to another.
/// Either list may overlap itself and be in any order.
pub fn usable(memory: &[Region<PhysAddr>], taken: &[Region<PhysAddr>]) -> Vec<Region<PhysAddr>> {
    let mut left = merged(memory);
    for hole in taken {
        left = left.iter().flat_map(|region| region.without(hole)).flatten().collect();
    }
    left.iter().filter_map(|region| region.shrink_to(PAGE_SIZE)).collect()
}

/// The same bytes by rising address, each run of them as one region.
fn merged(regions: &[Region<PhysAddr>]) -> Vec<Region<PhysAddr>> {
    let mut sorted: Vec<Region<PhysAddr>> = Vec::with_capacity(regions.len());
    for region in regions {
        let at = sorted.partition_point(|other| other.start() < region.start());
        sorted.insert(at, *region);
    }
    let mut merged: Vec<Region<PhysAddr>> = Vec::with_capacity(sorted.len());
    for region in sorted {
        let joined = merged.last().copied().and_then(|before| join(before, region));
        match (joined, merged.last_mut()) {
            (Some(joined), Some(before)) => *before = joined,
            _ => merged.push(region),
        }
    }
    merged
}

/// The two as one region, where `after`, which does not start before `before`, leaves no gap.
fn join(before: Region<PhysAddr>, after: Region<PhysAddr>) -> Option<Region<PhysAddr>> {
    if before.end().is_some_and(|end| end < after.start()) {
        return None;
    }
    let last = before.last().max(after.last());
    Region::new(before.start(), last.offset_from(before.start())?.checked_add(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region((start, size): (u64, u64)) -> Region<PhysAddr> {
        Region::new(PhysAddr::new(start), size).unwrap()
    }

    #[test]
    fn regions_that_touch_become_one_whatever_their_order() {
        let memory = [(0x8000, 0x2000), (0x1000, 0x1000), (0x2000, 0x6000)].map(region);
        assert_eq!(usable(&memory, &[]), [region((0x1000, 0x9000))]);
    }

    #[test]
    fn a_page_of_which_one_byte_is_taken_is_not_usable() {
        let taken = [(0x1fff, 2)].map(region);
        assert_eq!(
            usable(&[region((0, 0x5000))], &taken),
            [region((0, 0x1000)), region((0x3000, 0x2000))]
        );
    }

    #[test]
    fn memory_may_touch_the_top_of_the_address_space() {
        let top = region((u64::MAX - 0xfff, 0x1000));
        assert_eq!(usable(&[top, top], &[]), [top]);
        assert_eq!(usable(&[top], &[top]), []);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(128, 1))]
        /// Against one flag for each page.
        #[test]
        fn a_page_is_usable_if_it_is_all_memory_and_none_of_it_is_taken(
            memory in proptest::collection::vec((0u64..0x8000, 1u64..0x4000), 0..5),
            taken in proptest::collection::vec((0u64..0x8000, 1u64..0x2000), 0..5),
        ) {
            let memory: Vec<_> = memory.into_iter().map(region).collect();
            let taken: Vec<_> = taken.into_iter().map(region).collect();
            let got = usable(&memory, &taken);
            for page in (0..16).step_by(crate::testing::pick(1, 15)) {
                let bytes = region((page * PAGE_SIZE, PAGE_SIZE));
                let covered: u64 = usable_bytes(&memory, &bytes);
                let free = covered == PAGE_SIZE && !taken.iter().any(|hole| hole.overlaps(&bytes));
                let within = got.iter().filter(|region| region.contains_region(&bytes)).count();
                prop_assert_eq!(within, usize::from(free));
            }
            for pair in got.windows(2) {
                prop_assert!(pair[0].last() < pair[1].start());
            }
        }
    }

    /// How many bytes of `page` are in one of `memory`.
    fn usable_bytes(memory: &[Region<PhysAddr>], page: &Region<PhysAddr>) -> u64 {
        (page.start().raw()..=page.last().raw())
            .filter(|byte| memory.iter().any(|region| region.contains(PhysAddr::new(*byte))))
            .count() as u64
    }
}
