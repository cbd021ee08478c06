//! What a change stores, splits and invalidates.

use super::*;

#[test]
fn blocks_are_as_large_as_both_addresses_allow() {
    on_empty(|stage2, pool, cpu: &Checker| {
        let sizes = |stage2: &Stage2| -> Vec<u64> {
            leaves(stage2).iter().map(|leaf| leaf.ipas.size()).collect()
        };
        let all = region(GIB, 3 * GIB);
        stage2.map(all, ram(2 * GIB), pool, cpu).unwrap();
        assert_eq!(sizes(stage2), [GIB; 3]);
        stage2.unmap(all, pool, cpu).unwrap();
        let count = crate::testing::pick(512, 8);
        stage2.map(region(GIB, count * MIB2), ram(GIB + MIB2), pool, cpu).unwrap();
        assert_eq!(sizes(stage2), vec![MIB2; usize::try_from(count).unwrap()]);
        stage2.unmap(all, pool, cpu).unwrap();
        stage2.map(region(MIB2 - KIB4, MIB2 + 2 * KIB4), ram(GIB - KIB4), pool, cpu).unwrap();
        assert_eq!(sizes(stage2), [KIB4, MIB2, KIB4]);
    });
}

#[test]
fn unmapping_a_page_is_stored_then_published_then_invalidated() {
    on_empty(|stage2, pool, cpu: &Recorder| {
        stage2.map(region(0, 2 * KIB4), ram(GIB), pool, cpu).unwrap();
        cpu.take();
        stage2.unmap(region(KIB4, KIB4), pool, cpu).unwrap();
        let ipa = Ipa::new(KIB4);
        let old = Entry::Leaf(ram(GIB + KIB4)).encode(Level::Three);
        let expected = [
            Operation::Stored { ipa, level: Level::Three, old, new: 0 },
            Operation::PublishDescriptors,
            Operation::InvalidateIpa(stage2.vttbr(), ipa),
        ];
        assert_eq!(cpu.take(), expected);
    });
}

#[test]
fn a_block_is_broken_before_smaller_ones_are_made() {
    on_empty(|stage2, pool, cpu: &Recorder| {
        stage2.map(region(0, GIB), ram(GIB), pool, cpu).unwrap();
        cpu.take();
        stage2.protect(region(0, MIB2), Perms::RX, pool, cpu).unwrap();
        let log = cpu.take();
        assert_eq!(log.len(), 512 + 5 + 3);
        // Filled out of sight; then break, publish, invalidate, make, publish.
        let (filled, rest) = log.split_at(512);
        assert!(filled.iter().all(|op| matches!(op, Operation::Stored { old: 0, .. })));
        assert!(matches!(
            rest,
            [
                Operation::Stored { level: Level::One, new: 0, .. },
                Operation::PublishDescriptors,
                Operation::InvalidateIpa(..),
                Operation::Stored { level: Level::One, old: 0, .. },
                Operation::PublishDescriptors,
                Operation::Stored { level: Level::Two, .. },
                Operation::PublishDescriptors,
                Operation::InvalidateIpa(..),
            ]
        ));
    });
}

#[test]
fn a_new_translation_has_nothing_of_its_vmids_last_owner() {
    on_empty(|stage2, _, cpu: &Recorder| {
        let expected = [Operation::PublishDescriptors, Operation::InvalidateVm(stage2.vttbr())];
        assert_eq!(cpu.take(), expected);
    });
}

#[test]
fn permissions_that_are_what_they_were_cost_neither_split_nor_invalidation() {
    on_empty(|stage2, pool, cpu: &Recorder| {
        stage2.map(region(0, GIB), ram(GIB), pool, cpu).unwrap();
        cpu.take();
        stage2.protect(region(KIB4, KIB4), Perms::RWX, pool, cpu).unwrap();
        assert_eq!((cpu.take(), leaves(stage2).len()), (vec![], 1));
    });
}

#[test]
fn a_device_is_mapped_never_to_be_executed() {
    on_empty(|stage2, pool, cpu: &Checker| {
        let page = region(0x0900_0000, KIB4);
        let pa = PhysAddr::new(0xfe20_1000);
        stage2.map_device(page, pa, Perms::RWX, pool, cpu).unwrap();
        stage2.protect(page, Perms::RWX, pool, cpu).unwrap();
        let expected = Mapping { pa, memory: MemoryType::Device, perms: Perms::RW };
        assert_eq!(stage2.translate(page.start()), Some(expected));
        let again = stage2.map_device(page, pa, Perms::RW, pool, cpu);
        assert_eq!(again, Err(MapError::Occupied(page.start())));
    });
}
