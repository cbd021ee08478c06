//! Machines and VMs that cannot be: each mistake on its way out and on its way in.

use super::*;
use crate::testing::{pick, some};

#[test]
fn each_mistake_about_the_machine_has_its_own_error() {
    for code in some([0, 9, 10, 13, 27, 255]) {
        let machine = MachineConfig { escape: code, ..MachineConfig::default() };
        let error = ManifestError::Escape { code };
        assert_eq!(write(&machine, &[], &[source("a")]).unwrap_err(), error);
        assert_eq!(refusal(&forge_table(machine, &[config("a")])), error);
    }
    for bytes in some([0, (4 << 10) - 1, (1 << 20) + 1, u32::MAX]) {
        let machine = MachineConfig { scrollback: bytes, ..MachineConfig::default() };
        let error = ManifestError::Scrollback { bytes };
        assert_eq!(write(&machine, &[], &[source("a")]).unwrap_err(), error);
        assert_eq!(refusal(&forge_table(machine, &[config("a")])), error);
    }
}

#[test]
fn a_manifest_has_one_to_128_vms() {
    assert_eq!(pack(&[]).unwrap_err(), ManifestError::NoVm);
    assert_eq!(refusal(&forge_table(MachineConfig::default(), &[])), ManifestError::NoVm);
    let names: Vec<String> = (0..129).map(|index| format!("vm{index}")).collect();
    let vms: Vec<VmSource<'_>> = names.iter().map(|name| source(name)).collect();
    assert_eq!(pack(&vms).unwrap_err(), ManifestError::TooManyVms { count: 129 });
    let most = pick(128, 8);
    assert_eq!(read(&pack(&vms[..most]).unwrap()).unwrap().vms().len(), most);
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
    let mistakes: [Mistake; 60] = [
        (|vm| vm.name.clear(), |e| matches!(e, ManifestError::NameEmpty { index: 0 })),
        (
            |vm| vm.name = "n".repeat(33),
            |e| matches!(e, ManifestError::NameTooLong { length: 33, .. }),
        ),
        (|vm| vm.name = "a b".into(), |e| matches!(e, ManifestError::NameNotPrintable { .. })),
        (|vm| vm.name = "a\x1b[2J".into(), |e| matches!(e, ManifestError::NameNotPrintable { .. })),
        (|vm| vm.name = "a=b".into(), |e| matches!(e, ManifestError::NameReserved { .. })),
        (|vm| vm.name = "reset".into(), |e| matches!(e, ManifestError::NameReserved { .. })),
        (|vm| vm.name = "--force".into(), |e| matches!(e, ManifestError::NameReserved { .. })),
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
        (|vm| vm.assign = vec!["a".into(); 17], |e| matches!(e, ManifestError::Assign { .. })),
        (
            |vm| vm.assign = vec!["/soc".into(), "s".repeat(129)],
            |e| matches!(e, ManifestError::Assign { .. }),
        ),
        (|vm| vm.assign = vec!["two words".into()], |e| matches!(e, ManifestError::Assign { .. })),
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
        (
            |vm| vm.disks = vec![disk(DiskContents::Empty(4096), "d".into()); 9],
            |e| matches!(e, ManifestError::TooManyDisks { count: 9, .. }),
        ),
        (
            |vm| vm.disks = vec![disk(DiskContents::Empty(512), "d".into())],
            |e| matches!(e, ManifestError::DiskSize { disk: 0, size: 512, .. }),
        ),
        (
            |vm| vm.disks = vec![disk(DiskContents::Empty((1 << 40) + 4096), "d".into())],
            |e| matches!(e, ManifestError::DiskSize { .. }),
        ),
        (
            |vm| vm.disks = vec![disk(DiskContents::Empty(0), "d".into())],
            |e| matches!(e, ManifestError::DiskSize { size: 0, .. }),
        ),
        (
            |vm| {
                let good = disk(DiskContents::Empty(4096), "d".into());
                vm.disks = vec![good.clone(), DiskConfig { space: Some(0), ..good }];
            },
            |e| matches!(e, ManifestError::DiskSpace { disk: 1, space: 0, .. }),
        ),
        (
            |vm| {
                let good = disk(DiskContents::Empty(4096), "d".into());
                vm.disks = vec![DiskConfig { read_only: true, ..good }];
            },
            |e| matches!(e, ManifestError::DiskReadOnly { .. }),
        ),
        (
            |vm| {
                let good = disk(DiskContents::Image(vm.kernel), "d".into());
                vm.disks = vec![DiskConfig { read_only: true, space: Some(4096), ..good }];
            },
            |e| matches!(e, ManifestError::DiskReadOnly { .. }),
        ),
        (
            |vm| vm.disks = vec![disk(DiskContents::Empty(4096), String::new())],
            |e| matches!(e, ManifestError::DiskSerial { .. }),
        ),
        (
            |vm| vm.disks = vec![disk(DiskContents::Empty(4096), "d".repeat(21))],
            |e| matches!(e, ManifestError::DiskSerial { .. }),
        ),
        (
            |vm| vm.disks = vec![disk(DiskContents::Empty(4096), "two words".into())],
            |e| matches!(e, ManifestError::DiskSerial { .. }),
        ),
        (
            |vm| vm.disks = vec![on_host(DiskName::Serial("a b".into()), DiskPart::Whole)],
            |e| matches!(e, ManifestError::DiskPart { why: PartError::Serial, .. }),
        ),
        (
            |vm| vm.disks = vec![on_host(DiskName::Number(0), DiskPart::Partition(0))],
            |e| matches!(e, ManifestError::DiskPart { why: PartError::Number, .. }),
        ),
        (|vm| vm.balloon = Some(0), |e| matches!(e, ManifestError::Balloon { min: 0, .. })),
        (|vm| vm.balloon = Some((2 << 20) + 4096), |e| matches!(e, ManifestError::Balloon { .. })),
        (
            |vm| vm.balloon = Some((vm.memory + 1).next_multiple_of(2 << 20)),
            |e| matches!(e, ManifestError::Balloon { .. }),
        ),
        (
            |vm| {
                vm.balloon = Some(2 << 20);
                vm.assign = vec!["serial1".into()];
            },
            |e| matches!(e, ManifestError::BalloonAssign { .. }),
        ),
        (
            |vm| vm.disks = vec![on_host(DiskName::Number(0), DiskPart::Partition(1025))],
            |e| matches!(e, ManifestError::DiskPart { why: PartError::Number, .. }),
        ),
        (
            |vm| vm.disks = vec![on_host(DiskName::Number(0), DiskPart::Named("p".repeat(37)))],
            |e| matches!(e, ManifestError::DiskPart { why: PartError::Name, .. }),
        ),
        (
            |vm| vm.disks = vec![on_host(DiskName::Number(0), DiskPart::Range(512, Some(0)))],
            |e| matches!(e, ManifestError::DiskPart { why: PartError::Range, .. }),
        ),
        (
            |vm| vm.disks = vec![on_host(DiskName::Number(0), DiskPart::Range(100, None))],
            |e| matches!(e, ManifestError::DiskPart { why: PartError::Range, .. }),
        ),
        (
            |vm| {
                let range = DiskPart::Range(u64::MAX - 511, Some(512));
                vm.disks = vec![on_host(DiskName::Number(0), range)];
            },
            |e| matches!(e, ManifestError::DiskPart { why: PartError::Range, .. }),
        ),
        (
            |vm| {
                let good = on_host(DiskName::Number(0), DiskPart::Whole);
                vm.disks = vec![DiskConfig { space: Some(4096), ..good }];
            },
            |e| matches!(e, ManifestError::DiskSpace { .. }),
        ),
        (
            |vm| {
                let whole = on_host(DiskName::Number(1), DiskPart::Whole);
                let other = on_host(DiskName::Number(0), DiskPart::Whole);
                let part = on_host(DiskName::Number(1), DiskPart::Named("x".into()));
                vm.disks = vec![whole, other, DiskConfig { read_only: true, ..part }];
            },
            |e| matches!(e, ManifestError::DiskShared { disk: 2, other_disk: 0, .. }),
        ),
    ];
    for (number, (change, expected)) in mistakes.into_iter().enumerate().step_by(pick(1, 7)) {
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
        "VM 3 (\"a\"): VM 1 has the same name already; rename one of them"
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
