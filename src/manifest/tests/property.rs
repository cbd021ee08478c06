//! Any manifest and any bytes.

use super::*;
use crate::testing::pick;

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

fn networks() -> impl Strategy<Value = Vec<NetworkConfig>> {
    (0usize..=16, prop::option::of(0usize..16)).prop_map(|(count, uplink)| {
        let network =
            |index| NetworkConfig { name: format!("net-{index}"), uplink: uplink == Some(index) };
        (0..count).map(network).collect()
    })
}

/// Cards, whose networks and addresses are still to be made possible.
fn cards() -> impl Strategy<Value = Vec<CardConfig>> {
    let trunk = (prop::collection::btree_set(1u16..=4094, 1..=64), prop::option::of(1u16..=4094))
        .prop_map(|(tagged, native)| Vlans::Trunk { tagged: tagged.into_iter().collect(), native });
    let vlans = prop_oneof![(1u16..=4094).prop_map(Vlans::Access), trunk];
    let rate = (8_000u64..=400_000_000_000, 2048u32..=16 << 20)
        .prop_map(|(bits, burst)| Rate { bits, burst });
    let port = (vlans, any::<bool>(), prop::option::of(rate), 1u32..=1_000_000);
    let card = (any::<u8>(), port).prop_map(|(network, (vlans, spoof, rate, storm))| {
        let mac = MacAddr::default();
        CardConfig { network, port: PortConfig { mac, vlans, spoof, rate, storm } }
    });
    prop::collection::vec(card, 0..=8)
}

/// Disks; what is in their images is found elsewhere.
fn disks() -> impl Strategy<Value = Vec<DiskConfig>> {
    let pages = || 1u64..=1 << 28;
    let empty = (pages(), prop::option::of(pages()))
        .prop_map(|(size, space)| (DiskContents::Empty(size * 4096), space, false));
    let image = || DiskContents::Image(Payload { offset: 4096, size: 4 });
    let writable = prop::option::of(pages()).prop_map(move |space| (image(), space, false));
    let name = prop_oneof![
        any::<u8>().prop_map(DiskName::Number),
        "[!-~]{1,20}".prop_map(DiskName::Serial),
    ];
    let part = prop_oneof![
        Just(DiskPart::Whole),
        (1u16..=1024).prop_map(DiskPart::Partition),
        "[ -~äß]{1,36}".prop_map(DiskPart::Named),
        (pages(), prop::option::of(pages()))
            .prop_map(|(start, size)| DiskPart::Range(start * 512, size.map(|size| size * 512))),
    ];
    // What can only be read may be anybody's.
    let host = (name, part)
        .prop_map(|(disk, part)| (DiskContents::Host(HostDiskConfig { disk, part }), None, true));
    let facts = prop_oneof![empty, writable, Just((image(), None, true)), host];
    let disk = (facts, "[!-~]{1,20}").prop_map(|((contents, space, read_only), serial)| {
        DiskConfig { contents, space: space.map(|pages| pages * 4096), read_only, serial }
    });
    prop::collection::vec(disk, 0..=8)
}

/// A VM, and how long its kernel and its RAM disk are.
fn vsock() -> impl Strategy<Value = Option<VsockConfig>> {
    let rights = prop::sample::select(Rights::NAMED.map(|(_, rights)| rights).to_vec());
    prop::option::of(
        (0..LAST_CID - 8, rights, prop::option::of("group-[0-9]{1,3}"))
            .prop_map(|(cid, monitor, group)| VsockConfig { cid, monitor, group }),
    )
}

fn vms() -> impl Strategy<Value = (VmConfig, usize, Option<usize>)> {
    let crash =
        prop_oneof![Just(OnCrash::Preserve), Just(OnCrash::Restart), Just(OnCrash::Destroy)];
    let reboot =
        prop_oneof![Just(OnReboot::Restart), Just(OnReboot::Stop), Just(OnReboot::Destroy)];
    let shutdown = prop_oneof![
        Just(Shutdown::Button),
        "[\\x01-~]{1,64}".prop_map(Shutdown::Console),
        Just(Shutdown::Agent),
    ];
    let bad = prop_oneof![Just(OnBadAccess::Abort), Just(OnBadAccess::Crash)];
    let clock = prop_oneof![Just(Devices::NONE), Just(Devices::RTC)];
    let assign = prop::collection::vec("[!-~]{1,128}", 0..=pick(16, 2));
    let ram = (0..(RAM_LIMIT - (1 << 30)) >> 21)
        .prop_map(|block| (1 << 30) + (block << 21))
        .prop_flat_map(|base| (Just(base), 1..=(RAM_LIMIT - base) / 4096));
    let machine = (
        ram,
        1u8..=8,
        policies(),
        any::<bool>(),
        crash,
        reboot,
        (
            bad,
            shutdown,
            clock,
            assign,
            cards(),
            any::<(bool, bool)>(),
            vsock(),
            any::<Option<u16>>(),
        ),
    );
    let files = (("[ -~]{0,200}", disks()), 1usize..6000, prop::option::of(1usize..6000));
    (machine, files).prop_map(
        |(
            (
                ram,
                vcpus,
                policy,
                autostart,
                on_crash,
                on_reboot,
                (on_bad_access, shutdown, devices, assign, nets, (keys, agent), vsock, keep),
            ),
            files,
        )| {
            // In units of 2 MiB, at least one and at most all. It goes with no devices of the board's.
            let units = (ram.1 * 4096) >> 21;
            let keep = keep.filter(|_| units > 0).map(|keep| (1 + u64::from(keep) % units) << 21);
            let assign = if keep.is_some() { Vec::new() } else { assign };
            let vm = VmConfig {
                memory: ram.1 * 4096,
                balloon: keep,
                ram_base: Ipa::new(ram.0),
                vcpus,
                policy,
                autostart,
                on_crash,
                on_reboot,
                on_bad_access,
                agent: agent || shutdown == Shutdown::Agent,
                shutdown,
                devices,
                assign,
                nets,
                vsock,
                keys: if keys { Keys::Virtio } else { Keys::Uart },
                cmdline: files.0.0,
                disks: files.0.1,
                ..config("")
            };
            (vm, files.1, files.2)
        },
    )
}

/// A manifest's bundle.
fn packed(
    machine: &MachineConfig,
    networks: &[NetworkConfig],
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
    let networks: Vec<_> = networks.iter().map(NetworkConfig::source).collect();
    write(machine, &networks, &sources).unwrap()
}

proptest! {
    #![proptest_config(crate::testing::cases(128, 1))]

    #[test]
    fn any_valid_manifest_survives_the_round_trip(
        machine in machines(),
        networks in networks(),
        mut facts in prop::collection::vec(vms(), 1..pick(8, 2)),
    ) {
        let count = facts.len();
        for (index, fact) in facts.iter_mut().enumerate() {
            fact.0.name = format!("vm-{index}");
            // Every second is joined to the one before it, by as many ports as the first's number has it.
            let port = |number| ConsolePort {
                name: format!("port-{number}"),
                to: format!("vm-{}", index ^ 1),
            };
            let joined = if index ^ 1 < count { index / 2 * 3 % 9 } else { 0 };
            fact.0.ports = (0..joined).map(port).collect();
            if let Some(vsock) = &mut fact.0.vsock {
                vsock.cid = vsock.cid.max(FIRST_CID) & !7 | 8 | u32::try_from(index).unwrap();
            }
            fact.0.nets.truncate(networks.len());
            for (card, config) in fact.0.nets.iter_mut().enumerate() {
                config.network %= u8::try_from(networks.len()).unwrap();
                config.port.mac = MacAddr([2, 0, 0, 0, index.to_le_bytes()[0], card.to_le_bytes()[0]]);
            }
        }
        let bytes: Vec<u8> = (0..6000u32).map(|at| at.to_le_bytes()[0]).collect();
        let bundle = packed(&machine, &networks, &facts, &bytes);
        let manifest = read(&bundle).unwrap();
        prop_assert_eq!(manifest.machine(), &machine);
        prop_assert_eq!(manifest.networks(), &networks);
        prop_assert_eq!(manifest.vms().len(), facts.len());
        for (vm, (fact, kernel, initrd)) in manifest.vms().iter().zip(&facts) {
            prop_assert_eq!(manifest.payload(vm.kernel), &bytes[..*kernel]);
            prop_assert_eq!(
                vm.initrd.map(|initrd| manifest.payload(initrd)),
                initrd.map(|size| &bytes[..size])
            );
            let mut placed = VmConfig { kernel: vm.kernel, initrd: vm.initrd, ..fact.clone() };
            for (disk, placed) in vm.disks.iter().zip(&mut placed.disks) {
                if let DiskContents::Image(image) = &disk.contents {
                    prop_assert_eq!(manifest.payload(*image), &bytes[..]);
                    placed.contents = DiskContents::Image(*image);
                }
            }
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
        let fact = (VmConfig { name: "vm".into(), nets: Vec::new(), ..vm }, kernel, initrd);
        let bundle = packed(&machine, &[], &[fact], &[0x5a; 6000]);
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
