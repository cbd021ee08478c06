//! Where things stand in a bundle, and what is read back.

use super::*;

#[test]
fn what_is_written_is_read_back() {
    let other = VmSource { initrd: None, cmdline: "", vcpus: 8, ..source("other") };
    let bundle = pack(&[source("first"), other]).unwrap();
    let manifest = read(&bundle).unwrap();
    let [first, second] = manifest.vms() else { panic!("two VMs") };
    assert_eq!((first.name.as_str(), second.name.as_str()), ("first", "other"));
    assert_eq!((first.memory, first.vcpus, second.vcpus), (256 << 20, 2, 8));
    assert_eq!(first.cmdline, "console=ttyAMA0");
    assert_eq!(manifest.payload(first.kernel), KERNEL);
    assert_eq!(manifest.payload(first.initrd.unwrap()), INITRD);
    assert_eq!(second.initrd, None);
}

/// The example of `docs/src/manifests.md`: bundles of one format have one meaning.
#[test]
fn the_table_is_byte_by_byte_as_the_book_has_it() {
    let class = Class::Reserved { budget: 1000, period: 20_000 };
    let vm = VmSource {
        memory: 64 << 20,
        balloon: Some(16 << 20),
        vcpus: 2,
        policy: Policy {
            class,
            affinity: CpuSet::EMPTY.with(CpuId(0)).with(CpuId(1)),
            wfi: Wfi::Trap,
        },
        on_crash: OnCrash::Restart,
        on_bad_access: OnBadAccess::Crash,
        shutdown: Shutdown::Console("halt\n"),
        devices: Devices::NONE,
        nets: vec![CardConfig {
            network: 0,
            port: PortConfig {
                vlans: Vlans::Trunk { tagged: vec![10, 200], native: Some(1) },
                spoof: true,
                rate: Some(Rate { bits: 100_000_000, burst: 65536 }),
                storm: 1000,
                ..PortConfig::new(MacAddr([0x52, 0x54, 0, 0x12, 0x34, 1]))
            },
        }],
        keys: Keys::Virtio,
        agent: true,
        vsock: Some(VsockConfig { cid: 300, monitor: Rights::Read, group: Some("g") }),
        cmdline: "quiet",
        disks: vec![
            DiskConfig {
                contents: DiskContents::Empty(128 << 20),
                space: Some(4 << 20),
                read_only: false,
                serial: "log",
            },
            DiskConfig {
                contents: DiskContents::Host(HostDiskConfig {
                    disk: DiskName::Serial("data"),
                    part: DiskPart::Range(1 << 20, None),
                }),
                space: None,
                read_only: true,
                serial: "rest",
            },
        ],
        ..VmSource::new("rt", b"boot")
    };
    let table = [
        &[1, 0, 0x80, 0x80, 4, 0][..],
        &[1, 3, b'l', b'a', b'n', 1],
        &[1, 2, b'r', b't', 0x80, 0x80, 0x80, 0x20, 1, 0x80, 0x80, 0x80, 8],
        &[0x80, 0x80, 0x80, 0x80, 4, 2],
        &[1, 0xe8, 7, 0xa0, 0x9c, 1, 3, 0, 0, 0, 1],
        &[1, 1, 0, 1, 1, 5, b'h', b'a', b'l', b't', b'\n', 0, 0],
        &[1, 0, 0x52, 0x54, 0, 0x12, 0x34, 1, 1, 2, 10, 0xc8, 1, 1, 1],
        &[1, 1, 0x80, 0xc2, 0xd7, 0x2f, 0x80, 0x80, 4, 0xe8, 7, 1, 0],
        &[1],
        &[1, 0xac, 2, 1, 1, 1, b'g'],
        &[0x80, 0x20, 4, 0, 5, b'q', b'u', b'i', b'e', b't'],
        &[2, 0, 0x80, 0x80, 0x80, 0x40, 1, 0x80, 0x80, 0x80, 2, 0, 3, b'l', b'o', b'g'],
        &[2, 1, 4, b'd', b'a', b't', b'a', 3, 0x80, 0x80, 0x40, 0],
        &[0, 1, 4, b'r', b'e', b's', b't'],
    ]
    .concat();
    let lan = NetworkSource { name: "lan", uplink: true };
    let bundle = write(&MachineConfig::default(), &[lan], &[vm]).unwrap();
    assert_eq!(bundle[24..32], (table.len() as u64).to_le_bytes());
    assert_eq!(bundle[32..32 + table.len()], table);
    assert_eq!(bundle[4096..], *b"boot");
}

#[test]
fn payloads_start_at_page_boundaries_and_equal_ones_are_stored_once() {
    let bundle = pack(&[source("a"), source("b")]).unwrap();
    let manifest = read(&bundle).unwrap();
    assert_eq!(manifest.vms()[0].kernel, manifest.vms()[1].kernel);
    assert!(manifest.vms()[0].kernel.offset().is_multiple_of(4096));
    assert!(manifest.vms()[0].initrd.unwrap().offset().is_multiple_of(4096));
    assert_eq!(bundle.len(), 4096 + 8192 + INITRD.len());
}

#[test]
fn a_disk_image_is_stored_once_however_many_disks_begin_with_it() {
    let image = |serial| disk(DiskContents::Image(&[0x33; 5000][..]), serial);
    let disks = |serials: [&'static str; 2]| serials.map(image).to_vec();
    let one = VmSource { disks: disks(["a", "b"]), initrd: None, ..source("one") };
    let two = VmSource { disks: disks(["c", "d"]), initrd: None, ..source("two") };
    let bundle = pack(&[one, two]).unwrap();
    let manifest = read(&bundle).unwrap();
    let images = manifest.vms().iter().flat_map(|vm| &vm.disks).map(|disk| *disk.image().unwrap());
    let images: Vec<_> = images.collect();
    assert_eq!(images, [images[0]; 4]);
    assert_eq!(manifest.payload(images[0]), [0x33; 5000]);
    assert_eq!(manifest.vms()[1].disks[1].serial, "d");
}

#[test]
fn bytes_after_the_bundle_are_ignored() {
    let mut bundle = pack(&[source("a")]).unwrap();
    bundle.extend([0x55; 100]);
    assert!(read(&bundle).is_ok());
}

#[test]
fn a_payload_of_another_manifest_has_no_bytes_outside_this_one() {
    let bundle = pack(&[source("a")]).unwrap();
    let manifest = read(&bundle).unwrap();
    assert_eq!(manifest.payload(Payload { offset: u64::MAX, size: 2 }), b"");
    assert_eq!(manifest.payload(Payload { offset: 0, size: 1 << 40 }), b"");
}

#[test]
fn the_book_is_about_this_format() {
    let book = include_str!("../../../docs/src/manifests.md");
    assert!(book.contains(&format!("### Format {FORMAT_VERSION}, byte by byte")));
    assert!(book.contains(&format!("| the format, {FORMAT_VERSION} |")));
}

#[test]
fn parts_of_a_disk_overlap_if_something_is_certainly_in_both() {
    let on = |disk: u8, part| HostDiskConfig { disk: DiskName::Number(disk), part };
    let range = |start, size| on(0, DiskPart::Range(start, size));
    let named = |name: &str| on(0, DiskPart::Named(name.to_owned()));
    let cases = [
        (on(0, DiskPart::Whole), on(0, DiskPart::Partition(3)), true),
        (on(0, DiskPart::Whole), on(1, DiskPart::Whole), false),
        (on(0, DiskPart::Partition(1)), on(0, DiskPart::Partition(2)), false),
        (on(0, DiskPart::Partition(2)), on(0, DiskPart::Partition(2)), true),
        (named("a"), named("a"), true),
        (named("a"), named("b"), false),
        // That is found out when there is a disk.
        (named("a"), on(0, DiskPart::Partition(1)), false),
        (named("a"), range(0, None), false),
        (range(0, Some(512)), range(512, Some(512)), false),
        (range(0, Some(513 * 512)), range(512 * 512, None), true),
        (range(1 << 20, None), range(1 << 40, None), true),
        (range(0, Some(1 << 20)), range(1 << 20, None), false),
    ];
    for (one, other, overlap) in cases {
        assert_eq!(one.overlaps(&other), overlap, "{one:?}, {other:?}");
        assert_eq!(other.overlaps(&one), overlap, "{other:?}, {one:?}");
    }
}
