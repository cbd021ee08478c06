//! Claims about the boot bundle.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;

use alloc::string::String;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::addr::Ipa;
use crate::machine::CpuId;
use crate::sched::policy::{Class, CpuSet, MAX_WEIGHT, Policy, Wfi};

const KERNEL: &[u8] = &[0xaa; 5000];
const INITRD: &[u8] = b"a small initrd";

fn source(name: &str) -> VmSource<'_> {
    VmSource {
        memory: 256 << 20,
        vcpus: 2,
        initrd: Some(INITRD),
        cmdline: "console=ttyAMA0",
        ..VmSource::new(name, KERNEL)
    }
}

/// A bundle of VMs on a machine of which nothing is asked.
fn pack(vms: &[VmSource<'_>]) -> Result<Vec<u8>, ManifestError> {
    write(&MachineConfig::default(), vms)
}

fn config(name: &str) -> VmConfig {
    let source = VmSource { memory: 256 << 20, vcpus: 2, ..VmSource::new(name, b"file") };
    source.map(|text| String::from(*text), |_| Payload { offset: 4096, size: 4 })
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
    forge_table(MachineConfig::default(), &[vm])
}

fn forge_table(machine: MachineConfig, vms: &[VmConfig]) -> Vec<u8> {
    forge(&postcard::to_allocvec(&(machine, vms)).unwrap())
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
        vcpus: 2,
        policy: Policy {
            class,
            affinity: CpuSet::EMPTY.with(CpuId(0)).with(CpuId(1)),
            wfi: Wfi::Trap,
        },
        on_crash: OnCrash::Restart,
        shutdown: Shutdown::Console("halt\n"),
        devices: Devices::NONE,
        cmdline: "quiet",
        ..VmSource::new("rt", b"boot")
    };
    let table = [
        &[1, 0, 0x80, 0x80, 4, 0][..],
        &[1, 2, b'r', b't', 0x80, 0x80, 0x80, 0x20, 0x80, 0x80, 0x80, 0x80, 4, 2],
        &[1, 0xe8, 7, 0xa0, 0x9c, 1, 3, 0, 0, 0, 1],
        &[1, 1, 0, 1, 5, b'h', b'a', b'l', b't', b'\n', 0],
        &[0x80, 0x20, 4, 0, 5, b'q', b'u', b'i', b'e', b't'],
    ]
    .concat();
    let bundle = pack(&[vm]).unwrap();
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
    let mut table = postcard::to_allocvec(&MachineConfig::default()).unwrap();
    table.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(refusal(&forge(&table)), ManifestError::Table);
    let mut table = postcard::to_allocvec(&(MachineConfig::default(), &[config("a")][..])).unwrap();
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
        let table = postcard::to_allocvec(&(MachineConfig::default(), &vms[..])).unwrap();
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
    for (kernel, initrd) in [
        (page(1, 4095), page(2, 1)),
        (page(1, 8192), page(2, 4096)),
        (page(2, 2), page(2, 1)),
        (page(2, 1), page(1, 1)),
    ] {
        let error = two(kernel, initrd).unwrap_err();
        assert!(
            matches!(&error, ManifestError::PayloadOverlap { place, .. } if place.name == "second"),
            "{error}"
        );
    }
}

#[test]
fn each_mistake_about_the_machine_has_its_own_error() {
    for code in [0, 9, 10, 13, 27, 255] {
        let machine = MachineConfig { escape: code, ..MachineConfig::default() };
        let error = ManifestError::Escape { code };
        assert_eq!(write(&machine, &[source("a")]).unwrap_err(), error);
        assert_eq!(refusal(&forge_table(machine, &[config("a")])), error);
    }
    for bytes in [0, (4 << 10) - 1, (1 << 20) + 1, u32::MAX] {
        let machine = MachineConfig { scrollback: bytes, ..MachineConfig::default() };
        let error = ManifestError::Scrollback { bytes };
        assert_eq!(write(&machine, &[source("a")]).unwrap_err(), error);
        assert_eq!(refusal(&forge_table(machine, &[config("a")])), error);
    }
}

#[test]
fn a_manifest_has_one_to_64_vms() {
    assert_eq!(pack(&[]).unwrap_err(), ManifestError::NoVm);
    assert_eq!(refusal(&forge_table(MachineConfig::default(), &[])), ManifestError::NoVm);
    let names: Vec<String> = (0..65).map(|index| format!("vm{index}")).collect();
    let vms: Vec<VmSource<'_>> = names.iter().map(|name| source(name)).collect();
    assert_eq!(pack(&vms).unwrap_err(), ManifestError::TooManyVms { count: 65 });
    assert_eq!(read(&pack(&vms[..64]).unwrap()).unwrap().vms().len(), 64);
}

fn fair(weight: u16, cap: Option<u16>) -> Class {
    Class::Fair { weight, cap }
}

fn reserved(budget: u32, period: u32) -> Class {
    Class::Reserved { budget, period }
}

/// Each mistake of a VM, on its way out and on its way in.
#[test]
fn each_mistake_has_its_own_error() {
    type Mistake = (fn(&mut VmConfig), fn(&ManifestError) -> bool);
    let mistakes: [Mistake; 31] = [
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
            |vm| vm.ram_base = Ipa::new(0x3fe0_0000),
            |e| matches!(e, ManifestError::RamBase { base: 0x3fe0_0000, .. }),
        ),
        (
            |vm| vm.ram_base = Ipa::new(0x4010_0000),
            |e| matches!(e, ManifestError::RamBase { base: 0x4010_0000, .. }),
        ),
        (
            |vm| vm.ram_base = Ipa::new(RAM_LIMIT),
            |e| matches!(e, ManifestError::RamTooHigh { base: RAM_LIMIT, .. }),
        ),
        (
            |vm| vm.ram_base = Ipa::new(!0x1f_ffff),
            |e| matches!(e, ManifestError::RamTooHigh { .. }),
        ),
        (
            |vm| (vm.memory, vm.ram_base) = (MAX_MEMORY, Ipa::new(0x4020_0000)),
            |e| matches!(e, ManifestError::RamTooHigh { memory: MAX_MEMORY, .. }),
        ),
        (|vm| vm.policy.affinity = CpuSet::EMPTY, |e| matches!(e, ManifestError::Affinity { .. })),
        (|vm| vm.policy.class = fair(0, None), |e| matches!(e, ManifestError::Weight { .. })),
        (
            |vm| vm.policy.class = fair(10_001, None),
            |e| matches!(e, ManifestError::Weight { weight: 10_001, .. }),
        ),
        (|vm| vm.policy.class = fair(1, Some(0)), |e| matches!(e, ManifestError::Cap { .. })),
        (
            |vm| vm.policy.class = fair(1, Some(201)),
            |e| matches!(e, ManifestError::Cap { cap: 201, vcpus: 2, .. }),
        ),
        (
            |vm| vm.policy.class = reserved(400, 499),
            |e| matches!(e, ManifestError::Period { period: 499, .. }),
        ),
        (
            |vm| vm.policy.class = reserved(400, 1_000_001),
            |e| matches!(e, ManifestError::Period { period: 1_000_001, .. }),
        ),
        (
            |vm| vm.policy.class = reserved(49, 500),
            |e| matches!(e, ManifestError::Budget { budget: 49, period: 500, .. }),
        ),
        (
            |vm| vm.policy.class = reserved(501, 500),
            |e| matches!(e, ManifestError::Budget { budget: 501, .. }),
        ),
        (
            |vm| vm.shutdown = Shutdown::Console(String::new()),
            |e| matches!(e, ManifestError::Shutdown { length: 0, .. }),
        ),
        (
            |vm| vm.shutdown = Shutdown::Console("s".repeat(65)),
            |e| matches!(e, ManifestError::Shutdown { length: 65, .. }),
        ),
        (
            |vm| vm.devices = Devices::from_bits(2),
            |e| matches!(e, ManifestError::Devices { bits: 2, .. }),
        ),
        (
            |vm| vm.devices = Devices::from_bits(u32::MAX),
            |e| matches!(e, ManifestError::Devices { bits: 0xffff_fffe, .. }),
        ),
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
        let source = vm.map(String::as_str, |_| kernel.as_slice());
        let error = pack(&[source]).unwrap_err();
        assert!(expected(&error), "mistake {number} when writing: {error}");
    }
}

#[test]
fn two_vms_of_one_name_are_refused() {
    let error = pack(&[source("a"), source("b"), source("a")]).unwrap_err();
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
        pack(&[vm]).unwrap_err(),
        ManifestError::PayloadEmpty { kind: PayloadKind::Initrd, .. }
    ));
}

fn classes() -> impl Strategy<Value = Class> {
    let fair = (1..=MAX_WEIGHT, prop::option::of(1u16..=100))
        .prop_map(|(weight, cap)| Class::Fair { weight, cap });
    let reserved = (500u32..=1_000_000)
        .prop_flat_map(|period| (50..=period, Just(period)))
        .prop_map(|(budget, period)| Class::Reserved { budget, period });
    prop_oneof![fair, reserved]
}

fn policies() -> impl Strategy<Value = Policy> {
    let some = prop::collection::vec(any::<u8>(), 1..6)
        .prop_map(|cpus| cpus.into_iter().fold(CpuSet::EMPTY, |set, cpu| set.with(CpuId(cpu))));
    let wfi = prop_oneof![Just(Wfi::Auto), Just(Wfi::Trap)];
    (classes(), prop_oneof![Just(CpuSet::ALL), some], wfi)
        .prop_map(|(class, affinity, wfi)| Policy { class, affinity, wfi })
}

fn machines() -> impl Strategy<Value = MachineConfig> {
    let view = prop_oneof![Just(View::All), Just(View::Focus)];
    let when_idle = prop_oneof![Just(WhenIdle::PowerOff), Just(WhenIdle::Wait)];
    let escape = prop_oneof![1u8..=8, 11u8..=12, 14u8..=26];
    (escape, view, 4096u32..=1 << 20, when_idle).prop_map(
        |(escape, view, scrollback, when_idle)| MachineConfig {
            escape,
            view,
            scrollback,
            when_idle,
        },
    )
}

/// A VM, and how long its kernel and its RAM disk are.
fn vms() -> impl Strategy<Value = (VmConfig, usize, Option<usize>)> {
    let crash =
        prop_oneof![Just(OnCrash::Preserve), Just(OnCrash::Restart), Just(OnCrash::Destroy)];
    let reboot =
        prop_oneof![Just(OnReboot::Restart), Just(OnReboot::Stop), Just(OnReboot::Destroy)];
    let shutdown =
        prop_oneof![Just(Shutdown::Button), "[\\x01-~]{1,64}".prop_map(Shutdown::Console)];
    let clock = prop_oneof![Just(Devices::NONE), Just(Devices::RTC)];
    let ram = (0..(RAM_LIMIT - (1 << 30)) >> 21)
        .prop_map(|block| (1 << 30) + (block << 21))
        .prop_flat_map(|base| (Just(base), 1..=(RAM_LIMIT - base) / 4096));
    let machine = (ram, 1u8..=8, policies(), any::<bool>(), crash, reboot, (shutdown, clock));
    let files = ("[ -~]{0,200}", 1usize..6000, prop::option::of(1usize..6000));
    (machine, files).prop_map(
        |((ram, vcpus, policy, autostart, on_crash, on_reboot, (shutdown, devices)), files)| {
            let vm = VmConfig {
                memory: ram.1 * 4096,
                ram_base: Ipa::new(ram.0),
                vcpus,
                policy,
                autostart,
                on_crash,
                on_reboot,
                shutdown,
                devices,
                cmdline: files.0,
                ..config("")
            };
            (vm, files.1, files.2)
        },
    )
}

/// A manifest's bundle.
fn packed(
    machine: &MachineConfig,
    vms: &[(VmConfig, usize, Option<usize>)],
    bytes: &[u8],
) -> Vec<u8> {
    let sources: Vec<VmSource<'_>> = vms
        .iter()
        .map(|(vm, kernel, initrd)| VmSource {
            kernel: &bytes[..*kernel],
            initrd: initrd.map(|size| &bytes[..size]),
            ..vm.map(String::as_str, |_| bytes)
        })
        .collect();
    write(machine, &sources).unwrap()
}

proptest! {
    #![proptest_config(crate::testing::cases(128, 1))]

    #[test]
    fn any_valid_manifest_survives_the_round_trip(
        machine in machines(),
        mut facts in prop::collection::vec(vms(), 1..8),
    ) {
        for (index, fact) in facts.iter_mut().enumerate() {
            fact.0.name = format!("vm-{index}");
        }
        let bytes: Vec<u8> = (0..6000u32).map(|at| at.to_le_bytes()[0]).collect();
        let bundle = packed(&machine, &facts, &bytes);
        let manifest = read(&bundle).unwrap();
        prop_assert_eq!(manifest.machine(), &machine);
        prop_assert_eq!(manifest.vms().len(), facts.len());
        for (vm, (fact, kernel, initrd)) in manifest.vms().iter().zip(&facts) {
            prop_assert_eq!(manifest.payload(vm.kernel), &bytes[..*kernel]);
            prop_assert_eq!(
                vm.initrd.map(|initrd| manifest.payload(initrd)),
                initrd.map(|size| &bytes[..size])
            );
            let placed = VmConfig { kernel: vm.kernel, initrd: vm.initrd, ..fact.clone() };
            prop_assert_eq!(vm, &placed);
        }
    }

    #[test]
    fn one_changed_byte_is_refused_or_changes_nothing(
        machine in machines(),
        fact in vms(),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
        length in any::<prop::sample::Index>(),
    ) {
        let (vm, kernel, initrd) = fact;
        let fact = (VmConfig { name: "vm".into(), ..vm }, kernel, initrd);
        let bundle = packed(&machine, &[fact], &[0x5a; 6000]);
        let good = read(&bundle).unwrap();
        let mut other = bundle.clone();
        other[at.index(bundle.len())] ^= change;
        if let Ok(read) = read(&other) {
            prop_assert_eq!((read.machine(), read.vms()), (good.machine(), good.vms()));
        }
        prop_assert!(read(&bundle[..length.index(bundle.len())]).is_err());
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
