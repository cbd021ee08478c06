//! Bundles that were damaged, or that a stranger made.

use super::*;
use crate::testing::{pick, some};

#[test]
fn every_flipped_bit_of_a_bundle_is_noticed() {
    let small = VmSource { kernel: b"kernel", initrd: None, ..source("a") };
    let mut bundle = pack(&[small]).unwrap();
    let step = crate::testing::pick(1, 997);
    for at in (0..bundle.len()).step_by(step) {
        for bit in [0, 3, 7] {
            bundle[at] ^= 1 << bit;
            assert!(read(&bundle).is_err(), "bit {bit} of byte {at}");
            bundle[at] ^= 1 << bit;
        }
    }
}

#[test]
fn every_truncation_of_a_bundle_is_noticed() {
    let bundle = pack(&[source("a")]).unwrap();
    let step = crate::testing::pick(1, 997);
    for length in (0..bundle.len()).step_by(step) {
        assert!(
            matches!(refusal(&bundle[..length]), ManifestError::Truncated { have, .. } if have == length as u64)
        );
    }
}

#[test]
fn a_file_that_is_no_bundle_is_told_by_its_first_bytes() {
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    assert_eq!(refusal(&gzip), ManifestError::Magic { found: [0x1f, 0x8b, 8, 0, 0, 0, 0, 0] });
}

#[test]
fn another_format_is_refused_before_anything_else_is_believed() {
    let mut bundle = pack(&[source("a")]).unwrap();
    for found in [0, FORMAT_VERSION - 1, FORMAT_VERSION + 1, u32::MAX] {
        bundle[8..12].copy_from_slice(&found.to_le_bytes());
        assert_eq!(refusal(&bundle), ManifestError::Version { found });
    }
}

#[test]
fn a_damaged_payload_is_told_by_the_checksum() {
    let mut bundle = pack(&[source("a")]).unwrap();
    *bundle.last_mut().unwrap() ^= 1;
    assert!(matches!(refusal(&bundle), ManifestError::Checksum { .. }));
}

#[test]
fn a_table_longer_than_the_bundle_is_refused() {
    for table in some([8192, MAX_TABLE, MAX_TABLE + 1, u64::MAX]) {
        let mut bundle = forge(&[]);
        bundle[24..32].copy_from_slice(&table.to_le_bytes());
        seal(&mut bundle);
        assert_eq!(refusal(&bundle), ManifestError::TableSize { table, total: 8192 });
    }
}

#[test]
fn a_bundle_shorter_than_its_own_header_is_refused() {
    for total in (0..32u64).step_by(pick(1, 10)) {
        let mut bundle = forge(&[]);
        bundle[16..24].copy_from_slice(&total.to_le_bytes());
        bundle[12..16].copy_from_slice(&crc32fast::hash(&[]).to_le_bytes());
        assert!(read(&bundle).is_err());
    }
}

#[test]
fn a_table_that_is_not_postcard_or_has_bytes_left_over_is_refused() {
    assert_eq!(refusal(&forge(&[0xff; 20])), ManifestError::Table);
    // Four thousand million VMs in five bytes.
    let mut table = postcard::to_allocvec(&(MachineConfig::default(), 0u8)).unwrap();
    table.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(refusal(&forge(&table)), ManifestError::Table);
    let vms = [config("a")];
    let mut table = postcard::to_allocvec(&(MachineConfig::default(), 0u8, &vms[..])).unwrap();
    table.push(0);
    assert_eq!(refusal(&forge(&table)), ManifestError::Table);
}

#[test]
fn payloads_in_the_table_or_beyond_the_bundle_are_refused() {
    let outside = |offset, size| {
        let bundle = forge_vm(|vm| vm.kernel = Payload { offset, size });
        matches!(refusal(&bundle), ManifestError::PayloadOutside { kind: PayloadKind::Kernel, .. })
    };
    assert!(outside(0, 4096));
    assert!(outside(4096, 4097));
    assert!(outside(8192, 1));
    assert!(outside(u64::MAX - 4095, u64::MAX));
    assert!(read(&forge_vm(|vm| vm.kernel = Payload { offset: 4096, size: 4096 })).is_ok());

    let odd = forge_vm(|vm| vm.initrd = Some(Payload { offset: 4097, size: 1 }));
    assert!(matches!(
        refusal(&odd),
        ManifestError::PayloadUnaligned { kind: PayloadKind::Initrd, offset: 4097, .. }
    ));
    let empty = forge_vm(|vm| vm.kernel = Payload { offset: 4096, size: 0 });
    assert!(matches!(refusal(&empty), ManifestError::PayloadEmpty { .. }));
}

#[test]
fn payloads_that_share_some_bytes_but_not_all_are_refused() {
    let two = |kernel, initrd| {
        let mut first = config("first");
        let mut second = config("second");
        first.kernel = Payload { offset: 4096, size: 4096 };
        first.initrd = Some(first.kernel);
        (second.kernel, second.initrd) = (kernel, Some(initrd));
        let vms = [first, second];
        let table = postcard::to_allocvec(&(MachineConfig::default(), 0u8, &vms[..])).unwrap();
        let mut bundle = forge(&[]);
        bundle.resize(3 * 4096, 0);
        bundle[16..24].copy_from_slice(&(3u64 * 4096).to_le_bytes());
        bundle[24..32].copy_from_slice(&(table.len() as u64).to_le_bytes());
        bundle[32..32 + table.len()].copy_from_slice(&table);
        seal(&mut bundle);
        read(&bundle).map(drop)
    };
    let page = |number: u64, size| Payload { offset: 4096 * number, size };
    assert_eq!(two(page(1, 4096), page(2, 4096)), Ok(()));
    assert_eq!(two(page(2, 1), page(2, 1)), Ok(()));
    for (kernel, initrd) in some([
        (page(1, 4095), page(2, 1)),
        (page(1, 8192), page(2, 4096)),
        (page(2, 2), page(2, 1)),
        (page(2, 1), page(1, 1)),
    ]) {
        let error = two(kernel, initrd).unwrap_err();
        assert!(
            matches!(&error, ManifestError::PayloadOverlap { place, .. } if place.name == "second"),
            "{error}"
        );
    }
}

/// A bundle with all that a manifest can say.
pub fn full() -> Vec<u8> {
    let network = NetworkConfig { name: "lan", uplink: true };
    let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
    let card = |last| CardConfig { network: 0, port: PortConfig::new(mac(last)) };
    let port = |to| ConsolePort { name: "org.example.port", to };
    let named = HostDiskConfig { disk: DiskName::Serial("ssd"), part: DiskPart::Named("data") };
    let first = VmSource {
        balloon: Some(32 << 20),
        on_crash: OnCrash::Restart,
        shutdown: Shutdown::Console("poweroff\n"),
        nets: vec![card(1), card(2)],
        ports: vec![port("second")],
        vsock: Some(VsockConfig { group: Some("group"), ..VsockConfig::new(3) }),
        disks: vec![
            disk(DiskContents::Image(INITRD), "image"),
            disk(DiskContents::Empty(1 << 20), "empty"),
            disk(DiskContents::Host(named), "host"),
        ],
        ..source("first")
    };
    let second = VmSource {
        assign: vec!["/pl011@9040000"],
        agent: true,
        keys: Keys::Virtio,
        nets: vec![card(3)],
        ports: vec![port("first")],
        ..source("second")
    };
    write(&MachineConfig::default(), &[network], &[first, second]).unwrap()
}

/// Whose checksum is right all the same: a stranger's, not one that was damaged on its way.
#[test]
fn each_byte_of_a_header_or_table_may_be_another_in_a_bundle_that_is_sealed_again() {
    let bundle = full();
    assert!(read(&bundle).is_ok());
    let table = u64::from_le_bytes(bundle[24..32].try_into().unwrap());
    let end = 32 + usize::try_from(table).unwrap();
    let (mut changed, mut counts) = (bundle.clone(), [0, 0]);
    for at in (0..end).step_by(crate::testing::pick(1, 97)) {
        for flip in &[1, 2, 0x80, 0xff][crate::testing::pick(0, 3)..] {
            changed[at] ^= flip;
            seal(&mut changed);
            match read(&changed) {
                // What it says can be used.
                Ok(manifest) => {
                    for vm in manifest.vms() {
                        let initrd = vm.initrd.map_or(0, |initrd| manifest.payload(initrd).len());
                        assert!(manifest.payload(vm.kernel).len() + initrd < bundle.len());
                        assert!(!vm.name.is_empty() && vm.vcpus > 0);
                    }
                    counts[0] += 1;
                }
                Err(why) => {
                    assert!(!why.to_string().is_empty());
                    counts[1] += 1;
                }
            }
            changed[at] ^= flip;
        }
    }
    assert!(counts.iter().all(|count| *count > 0) || cfg!(miri), "{counts:?}");
}

#[test]
fn each_flipped_byte_of_a_bundle_with_all_there_is_is_noticed() {
    let mut bundle = full();
    for at in (0..bundle.len()).step_by(crate::testing::pick(1, 997)) {
        bundle[at] ^= 0xff;
        assert!(read(&bundle).is_err(), "byte {at}");
        bundle[at] ^= 0xff;
    }
}
