//! Blobs that are no trees, or damaged ones.

use super::*;
use crate::addr::PAGE_SIZE;
use crate::platform::tree::Tree;

#[test]
fn a_blob_that_is_no_tree_says_why() {
    let flaw = |blob: &[u8]| match Board::read(blob, AT) {
        Err(BoardError::Tree(TreeError { flaw, .. })) => Some(flaw),
        _ => None,
    };
    assert_eq!(flaw(&[]), Some(Flaw::Truncated));
    assert_eq!(flaw(&[0; 64]), Some(Flaw::Magic));
    assert_eq!(flaw(&VIRT_GICV2[..0x1000]), Some(Flaw::Truncated));
    for (offset, value, expected) in [
        (4, 39u32, Flaw::Size),
        (4, 0x20_0001, Flaw::Size),
        (20, 16, Flaw::Version),
        (24, 18, Flaw::Version),
        (8, u32::MAX, Flaw::Truncated),
        (16, u32::MAX, Flaw::Truncated),
        (36, 0x100, Flaw::Truncated),
        (word(VIRT_GICV2, 8), 2, Flaw::Nesting), // the root's end first
        (word(VIRT_GICV2, 8), 9, Flaw::Nesting),
        (word(VIRT_GICV2, 8) + 8, 7, Flaw::Token),
        (word(VIRT_GICV2, 8) + 16, u32::MAX, Flaw::Name),
    ] {
        let mut blob = VIRT_GICV2.to_vec();
        blob[offset..][..4].copy_from_slice(&value.to_be_bytes());
        assert_eq!(flaw(&blob), Some(expected), "{value:#x} at {offset:#x}");
    }
}

#[test]
fn the_room_that_a_loader_leaves_behind_a_tree_is_not_reserved_and_need_not_be_there() {
    let mut blob = VIRT_GICV2.to_vec();
    let used = blob.len();
    let room = pick(0x10_0000u32, 0x4000);
    blob[4..8].copy_from_slice(&room.to_be_bytes());
    for length in some([used, used + 5, usize::try_from(room).unwrap()]) {
        blob.resize(length, 0xa5);
        let mut board = Board::read(&blob, AT).unwrap();
        let tree = region(AT.raw(), used as u64);
        assert_eq!(board.reserved, [tree]);
        board.release(tree);
        assert_eq!(board.usable_memory(&[]), board.memory);
    }
}

/// The paths of the nodes that a copy without those compatible with `unused` has.
fn left(blob: &[u8], unused: &str) -> Vec<String> {
    let copy = CheckedBlob::copy_without(blob, unused).unwrap();
    let tree = Tree::new(&copy).unwrap();
    tree.nodes().map(|node| node.path()).collect()
}

#[test]
fn what_is_not_used_is_left_out_and_nothing_else_is() {
    for blob in &[VIRT_GICV2, VIRT_GICV3][pick(0, 1)..] {
        let whole = left(blob, "none");
        let is_slot = |path: &&String| path.starts_with("/virtio_mmio@");
        assert_eq!(whole.iter().filter(is_slot).count(), 32);
        let others: Vec<_> = whole.iter().filter(|path| !is_slot(path)).cloned().collect();
        assert_eq!(left(blob, UNUSED), others);
        let board = Board::read(blob, AT).unwrap();
        let mut without = virt_with(blob, 32);
        for path in whole.iter().filter(is_slot) {
            without.root.remove_child(&path[1..]);
        }
        assert_eq!(Board { reserved: board.reserved.clone(), ..read(&without).unwrap() }, board);
    }
}

#[test]
fn a_node_that_is_more_than_what_is_not_used_stays() {
    let mut tree = virt(VIRT_GICV2);
    let slot = |name: &str| with(node(name), "compatible", UNUSED);
    let mut bus = slot("bus");
    bus.add_child(slot("within"));
    tree.root.add_child(bus);
    tree.root.add_child(with(node("both"), "compatible", "virtio,mmio\0other"));
    tree.root.add_child(with(node("looks-like-it"), "other", UNUSED));
    let paths = left(&tree.to_dtb(), UNUSED);
    let has = |path: &str| paths.iter().any(|other| other == path);
    for (path, stays) in
        [("/bus", true), ("/bus/within", false), ("/both", true), ("/looks-like-it", true)]
    {
        assert_eq!(has(path), stays, "{path}");
    }
}

#[test]
fn a_tree_nested_too_deeply_is_refused() {
    let mut tree = virt(VIRT_GICV2);
    let deep = (0..40).fold(node("deepest"), |inner, _| {
        let mut outer = node("deep");
        outer.add_child(inner);
        outer
    });
    tree.root.add_child(deep);
    let error = read(&tree).unwrap_err();
    assert!(matches!(error, BoardError::Tree(TreeError { flaw: Flaw::TooLarge, .. })));
}

#[test]
fn a_tree_cut_off_anywhere_is_an_error() {
    let step = pick(7, 3989);
    for length in (0..VIRT_GICV2.len()).step_by(step) {
        let mut blob = VIRT_GICV2[..length].to_vec();
        assert!(Board::read(&blob, AT).is_err());
        // The same with a header that owns up to it.
        if let Some(size) = blob.get_mut(4..8) {
            size.copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            let _ = Board::read(&blob, AT);
        }
    }
}

/// What a blob is read as: a board whose memory is whole pages that nothing else takes, or the reason why not.
pub fn is_read(blob: &[u8]) -> bool {
    let said = |why: BoardError| assert!(!format!("{why}").is_empty());
    let _ = Board::read_uart(blob).map_err(said);
    let _ = Board::read_power(blob).map_err(said);
    let board = match Board::read(blob, AT) {
        Ok(board) => board,
        Err(why) => {
            said(why);
            return false;
        }
    };
    let own = region(0x4100_0000, 0x12_3456);
    let usable = board.usable_memory(&[own]);
    for (index, region) in usable.iter().enumerate() {
        assert!(region.start().is_aligned(PAGE_SIZE) && region.size().is_multiple_of(PAGE_SIZE));
        let taken = board.reserved.iter().any(|taken| taken.overlaps(region));
        assert!(!taken && !region.overlaps(&own));
        assert!(usable[..index].iter().all(|before| before.last() < region.start()));
    }
    true
}

/// Flips the lowest bit or all of each byte in turn: some make no difference that is seen, some do.
fn flip_each_byte(blob: &[u8]) {
    assert!(is_read(blob));
    let mut changed = blob.to_vec();
    let mut read = [0, 0];
    for at in (0..blob.len()).step_by(pick(1, 3989)) {
        for flip in [1, 0xff] {
            changed[at] ^= flip;
            read[usize::from(is_read(&changed))] += 1;
            changed[at] ^= flip;
        }
    }
    assert!(read.iter().all(|count| *count > 0) || cfg!(miri), "{read:?}");
}

#[test]
fn every_byte_of_qemus_tree_with_a_gicv2_may_be_wrong() {
    flip_each_byte(VIRT_GICV2);
}

#[test]
fn every_byte_of_qemus_tree_with_a_gicv3_may_be_wrong() {
    flip_each_byte(VIRT_GICV3);
}

#[test]
fn every_byte_of_a_tree_like_the_pis_may_be_wrong() {
    flip_each_byte(&pi().to_dtb());
}

proptest! {
    #![proptest_config(crate::testing::cases(512, 1))]
    #[test]
    fn no_tree_with_a_few_wrong_bytes_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        v3: bool,
    ) {
        let mut blob = if v3 { VIRT_GICV3 } else { VIRT_GICV2 }.to_vec();
        for (index, value) in changes {
            *index.get_mut(&mut blob) = value;
        }
        let _ = Board::read(&blob, AT);
        let _ = Board::read_uart(&blob);
    }
}
