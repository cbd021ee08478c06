//! Every single bit that can be wrong in a bundle's first 4 KiB, and every length to which it can be cut.

use super::damage::full;
use super::*;
use crate::testing::bound;

/// A bundle is refused with a reason, or what it says can be used.
fn is_read(bundle: &[u8]) -> bool {
    match read(bundle) {
        Ok(manifest) => {
            for vm in manifest.vms() {
                let initrd = vm.initrd.map_or(0, |initrd| manifest.payload(initrd).len());
                assert!(manifest.payload(vm.kernel).len() + initrd < bundle.len());
                assert!(!vm.name.is_empty() && vm.vcpus > 0);
            }
            true
        }
        Err(why) => {
            assert!(!why.to_string().is_empty());
            false
        }
    }
}

#[test]
fn every_bit_of_the_first_4_kib_of_a_bundle_may_be_wrong() {
    let bundle = full();
    let mut changed = bundle.clone();
    let mut sealed = [0, 0];
    for bit in (0..8 * bundle.len().min(4096)).step_by(bound(1, 61, 9973)) {
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_read(&changed), "bit {bit} is not missed");
        // A stranger has the checksum right.
        let crc = changed[12..16].to_vec();
        seal(&mut changed);
        sealed[usize::from(is_read(&changed))] += 1;
        changed[12..16].copy_from_slice(&crc);
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(changed, bundle);
    println!("{sealed:?} refused and read, sealed again");
    assert!(sealed.iter().all(|count| *count > 0) || cfg!(miri), "{sealed:?}");
}

#[test]
fn a_bundle_may_end_at_every_byte() {
    let bundle = full();
    for length in (0..bundle.len()).step_by(bound(1, 61, 997)) {
        assert!(!is_read(&bundle[..length]));
    }
}
