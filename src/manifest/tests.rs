//! Claims about the boot bundle.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;

use proptest::prelude::*;

use super::*;

const KERNEL: &[u8] = &[0xaa; 5000];
const INITRD: &[u8] = b"a small initrd";

fn source(name: &str) -> VmSource<'_> {
    VmSource {
        name,
        memory: 256 << 20,
        vcpus: 2,
        kernel: KERNEL,
        initrd: Some(INITRD),
        cmdline: "console=ttyAMA0",
    }
}

fn config(name: &str) -> VmConfig {
    VmConfig {
        name: name.into(),
        memory: 256 << 20,
        vcpus: 2,
        kernel: Payload { offset: 4096, size: 4 },
        initrd: None,
        cmdline: String::new(),
    }
}

/// A bundle as a stranger might write it: `table` unchecked, then one page of payload.
fn forge(table: &[u8]) -> Vec<u8> {
    let mut bundle = [&MAGIC[..], &FORMAT_VERSION.to_le_bytes(), &[0; 4]].concat();
    bundle.extend((8192u64).to_le_bytes());
    bundle.extend((table.len() as u64).to_le_bytes());
    bundle.extend(table);
    bundle.resize(8192, 0);
    seal(&mut bundle);
    bundle
}

fn forge_vm(change: impl Fn(&mut VmConfig)) -> Vec<u8> {
    let mut vm = config("forged");
    change(&mut vm);
    forge(&postcard::to_allocvec(&[vm][..]).unwrap())
}

fn seal(bundle: &mut [u8]) {
    let crc = crc32fast::hash(&bundle[16..]);
    bundle[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn refusal(bundle: &[u8]) -> ManifestError {
    read(bundle).expect_err("this bundle must be refused")
}

#[test]
fn what_is_written_is_read_back() {
    let other = VmSource { initrd: None, cmdline: "", vcpus: 8, ..source("other") };
    let bundle = write(&[source("first"), other]).unwrap();
    let manifest = read(&bundle).unwrap();
    let [first, second] = manifest.vms() else { panic!("two VMs") };
    assert_eq!((first.name.as_str(), second.name.as_str()), ("first", "other"));
    assert_eq!((first.memory, first.vcpus, second.vcpus), (256 << 20, 2, 8));
    assert_eq!(first.cmdline, "console=ttyAMA0");
    assert_eq!(manifest.payload(first.kernel), KERNEL);
    assert_eq!(manifest.payload(first.initrd.unwrap()), INITRD);
    assert_eq!(second.initrd, None);
}

#[test]
fn payloads_start_at_page_boundaries_and_equal_ones_are_stored_once() {
    let bundle = write(&[source("a"), source("b")]).unwrap();
    let manifest = read(&bundle).unwrap();
    assert_eq!(manifest.vms()[0].kernel, manifest.vms()[1].kernel);
    assert!(manifest.vms()[0].kernel.offset().is_multiple_of(4096));
    assert!(manifest.vms()[0].initrd.unwrap().offset().is_multiple_of(4096));
    assert_eq!(bundle.len(), 4096 + 8192 + INITRD.len());
}

#[test]
fn bytes_after_the_bundle_are_ignored() {
    let mut bundle = write(&[source("a")]).unwrap();
    bundle.extend([0x55; 100]);
    assert!(read(&bundle).is_ok());
}

#[test]
fn a_payload_of_another_manifest_has_no_bytes_outside_this_one() {
    let bundle = write(&[source("a")]).unwrap();
    let manifest = read(&bundle).unwrap();
    assert_eq!(manifest.payload(Payload { offset: u64::MAX, size: 2 }), b"");
    assert_eq!(manifest.payload(Payload { offset: 0, size: 1 << 40 }), b"");
}

#[test]
fn every_flipped_bit_of_a_bundle_is_noticed() {
    let small = VmSource { kernel: b"kernel", initrd: None, ..source("a") };
    let mut bundle = write(&[small]).unwrap();
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
    let bundle = write(&[source("a")]).unwrap();
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
    let mut bundle = write(&[source("a")]).unwrap();
    bundle[8] = 2;
    assert_eq!(refusal(&bundle), ManifestError::Version { found: 2 });
}

#[test]
fn a_damaged_payload_is_told_by_the_checksum() {
    let mut bundle = write(&[source("a")]).unwrap();
    *bundle.last_mut().unwrap() ^= 1;
    assert!(matches!(refusal(&bundle), ManifestError::Checksum { .. }));
}

#[test]
fn a_table_longer_than_the_bundle_is_refused() {
    for table in [8192, MAX_TABLE, MAX_TABLE + 1, u64::MAX] {
        let mut bundle = forge(&[]);
        bundle[24..32].copy_from_slice(&table.to_le_bytes());
        seal(&mut bundle);
        assert_eq!(refusal(&bundle), ManifestError::TableSize { table, total: 8192 });
    }
}

#[test]
fn a_bundle_shorter_than_its_own_header_is_refused() {
    for total in 0..32u64 {
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
    assert_eq!(refusal(&forge(&[0xff, 0xff, 0xff, 0xff, 0x0f])), ManifestError::Table);
    let mut table = postcard::to_allocvec(&[config("a")][..]).unwrap();
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
fn a_manifest_has_one_to_64_vms() {
    assert_eq!(write(&[]).unwrap_err(), ManifestError::NoVm);
    assert_eq!(refusal(&forge(&[0])), ManifestError::NoVm);
    let names: Vec<String> = (0..65).map(|index| format!("vm{index}")).collect();
    let vms: Vec<VmSource<'_>> = names.iter().map(|name| source(name)).collect();
    assert_eq!(write(&vms).unwrap_err(), ManifestError::TooManyVms { count: 65 });
    assert_eq!(read(&write(&vms[..64]).unwrap()).unwrap().vms().len(), 64);
}

/// Each mistake of a VM, on its way out and on its way in.
#[test]
fn each_mistake_has_its_own_error() {
    type Mistake = (fn(&mut VmConfig), fn(&ManifestError) -> bool);
    let mistakes: [Mistake; 13] = [
        (|vm| vm.name.clear(), |e| matches!(e, ManifestError::NameEmpty { index: 0 })),
        (
            |vm| vm.name = "n".repeat(33),
            |e| matches!(e, ManifestError::NameTooLong { length: 33, .. }),
        ),
        (|vm| vm.name = "a b".into(), |e| matches!(e, ManifestError::NameNotPrintable { .. })),
        (|vm| vm.name = "a\x1b[2J".into(), |e| matches!(e, ManifestError::NameNotPrintable { .. })),
        (|vm| vm.memory = 0, |e| matches!(e, ManifestError::MemoryZero { .. })),
        (
            |vm| vm.memory = 4095,
            |e| matches!(e, ManifestError::MemoryUnaligned { memory: 4095, .. }),
        ),
        (|vm| vm.memory = MAX_MEMORY + 4096, |e| matches!(e, ManifestError::MemoryTooLarge { .. })),
        (|vm| vm.memory = !4095, |e| matches!(e, ManifestError::MemoryTooLarge { .. })),
        (|vm| vm.vcpus = 0, |e| matches!(e, ManifestError::Vcpus { vcpus: 0, .. })),
        (|vm| vm.vcpus = 9, |e| matches!(e, ManifestError::Vcpus { vcpus: 9, .. })),
        (
            |vm| vm.cmdline = "c".repeat(2048),
            |e| matches!(e, ManifestError::CmdlineTooLong { length: 2048, .. }),
        ),
        (
            |vm| vm.cmdline = "a\0b".into(),
            |e| matches!(e, ManifestError::CmdlineControl { character: '\0', .. }),
        ),
        (
            |vm| vm.kernel.size = 0,
            |e| matches!(e, ManifestError::PayloadEmpty { kind: PayloadKind::Kernel, .. }),
        ),
    ];
    for (number, (change, expected)) in mistakes.into_iter().enumerate() {
        let error = refusal(&forge_vm(change));
        assert!(expected(&error), "mistake {number}: {error}");

        let mut vm = config("forged");
        change(&mut vm);
        let kernel = vec![1; usize::try_from(vm.kernel.size).unwrap()];
        let (name, cmdline) = (&*vm.name, &*vm.cmdline);
        let (memory, vcpus) = (vm.memory, vm.vcpus);
        let source = VmSource { name, memory, vcpus, kernel: &kernel, initrd: None, cmdline };
        let error = write(&[source]).unwrap_err();
        assert!(expected(&error), "mistake {number} when writing: {error}");
    }
}

#[test]
fn two_vms_of_one_name_are_refused() {
    let error = write(&[source("a"), source("b"), source("a")]).unwrap_err();
    let place = Place { index: 2, name: "a".into() };
    assert_eq!(error, ManifestError::NameDuplicate { place, first: 0 });
    assert_eq!(
        error.to_string(),
        "VM 2 (\"a\"): VM 0 has the same name already; rename one of them"
    );
}

#[test]
fn an_empty_initrd_is_refused_rather_than_forgotten() {
    let vm = VmSource { initrd: Some(&[]), ..source("a") };
    assert!(matches!(
        write(&[vm]).unwrap_err(),
        ManifestError::PayloadEmpty { kind: PayloadKind::Initrd, .. }
    ));
}

proptest! {
    #![proptest_config(crate::testing::cases(128, 1))]

    #[test]
    fn any_valid_manifest_survives_the_round_trip(
        facts in prop::collection::vec(
            (1..=MAX_MEMORY / 4096, 1u8..=8, "[ -~]{0,200}", prop::option::of(1usize..6000), 1usize..6000),
            1..8,
        ),
    ) {
        let names: Vec<String> = (0..facts.len()).map(|index| format!("vm-{index}")).collect();
        let bytes: Vec<u8> = (0..6000u32).map(|at| at.to_le_bytes()[0]).collect();
        let vms: Vec<VmSource<'_>> = facts.iter().zip(&names).map(|(fact, name)| VmSource {
            name,
            memory: fact.0 * 4096,
            vcpus: fact.1,
            kernel: &bytes[..fact.4],
            initrd: fact.3.map(|size| &bytes[..size]),
            cmdline: &fact.2,
        }).collect();
        let bundle = write(&vms).unwrap();
        let manifest = read(&bundle).unwrap();
        prop_assert_eq!(manifest.vms().len(), vms.len());
        for (vm, source) in manifest.vms().iter().zip(&vms) {
            prop_assert_eq!(&vm.name, source.name);
            prop_assert_eq!(vm.memory, source.memory);
            prop_assert_eq!(vm.vcpus, source.vcpus);
            prop_assert_eq!(&vm.cmdline, source.cmdline);
            prop_assert_eq!(manifest.payload(vm.kernel), source.kernel);
            prop_assert_eq!(vm.initrd.map(|initrd| manifest.payload(initrd)), source.initrd);
        }
    }

    #[test]
    fn no_table_whatever_makes_reading_panic(table in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&forge(&table));
    }

    #[test]
    fn no_bytes_whatever_make_reading_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        with_header in any::<bool>(),
    ) {
        let header = [&MAGIC[..], &FORMAT_VERSION.to_le_bytes()].concat();
        let bytes = if with_header { [header, bytes].concat() } else { bytes };
        let _ = read(&bytes);
    }
}
