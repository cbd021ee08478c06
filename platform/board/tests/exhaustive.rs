//! Every single bit that can be wrong where a tree begins, and every length to which it can be cut.

use super::blob::is_read;
use super::*;
use crate::testing::bound;

/// So much of a tree has each of its bits turned.
const BYTES: usize = 4096;

/// What is read stays a board or an error that says why, whichever bit is another.
fn turn_each_bit(blob: &[u8]) {
    let mut changed = blob.to_vec();
    let mut read = [0, 0];
    for bit in (0..8 * BYTES.min(blob.len())).step_by(bound(1, 61, 9973)) {
        changed[bit / 8] ^= 1 << (bit % 8);
        read[usize::from(is_read(&changed))] += 1;
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    println!("{read:?} refused and read");
    assert!(read.iter().all(|count| *count > 0) || cfg!(miri), "{read:?}");
}

/// A tree that ends too early is refused, and if its header says that it ends there, what is read is sound.
fn cut_everywhere(blob: &[u8]) {
    for length in (0..blob.len()).step_by(bound(1, 61, 3989)) {
        let mut cut = blob[..length].to_vec();
        assert!(!is_read(&cut), "{length}");
        if let Some(size) = cut.get_mut(4..8) {
            size.copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            is_read(&cut);
        }
    }
}

#[test]
fn every_bit_of_the_first_4_kib_of_qemus_trees_may_be_wrong() {
    turn_each_bit(VIRT_GICV2);
    turn_each_bit(VIRT_GICV3);
}

#[test]
fn every_bit_of_the_first_4_kib_of_a_tree_like_the_pis_may_be_wrong() {
    turn_each_bit(&pi().to_dtb());
}

#[test]
fn a_tree_may_end_at_every_byte() {
    cut_everywhere(VIRT_GICV2);
    cut_everywhere(VIRT_GICV3);
    cut_everywhere(&pi().to_dtb());
}
