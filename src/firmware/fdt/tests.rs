//! Claims about the guest's device tree, read back with another crate than wrote it.

use alloc::vec;

use fdt::Fdt;
use fdt::node::FdtNode;
use proptest::prelude::*;

use super::*;
use crate::addr::PhysAddr;
use crate::testing::{pick, some};

fn write(machine: &GuestMachine<'_>) -> Vec<u8> {
    super::write(machine).unwrap()
}

fn ram(start: u64, size: u64) -> Region<Ipa> {
    Region::new(Ipa::new(start), size).unwrap()
}

fn machine() -> GuestMachine<'static> {
    GuestMachine {
        ram: ram(0x4000_0000, 512 << 20),
        devices: Devices::RTC,
        virtio: 0,
        vcpus: 4,
        gic: GicVersion::V3,
        cmdline: "console=ttyAMA0 quiet",
        initrd: None,
        seeds: None,
        assigned: &[],
    }
}

/// Looks at one node of a tree.
fn at<T>(dtb: &[u8], path: &str, look: impl Fn(FdtNode<'_, '_>) -> T) -> T {
    let fdt = Fdt::new(dtb).unwrap();
    let node = fdt.find_node(path);
    look(node.unwrap_or_else(|| panic!("no node {path}")))
}

fn bytes(dtb: &[u8], path: &str, property: &str) -> Option<Vec<u8>> {
    at(dtb, path, |node| node.property(property).map(|property| property.value.to_vec()))
}

fn numbers(dtb: &[u8], path: &str, property: &str) -> Vec<u32> {
    let value = bytes(dtb, path, property).unwrap_or_else(|| panic!("no {property} in {path}"));
    let (cells, rest) = value.as_chunks::<4>();
    assert!(rest.is_empty());
    cells.iter().map(|cell| u32::from_be_bytes(*cell)).collect()
}

fn text(dtb: &[u8], path: &str, property: &str) -> String {
    let value = bytes(dtb, path, property).unwrap_or_else(|| panic!("no {property} in {path}"));
    String::from_utf8(value).unwrap()
}

#[test]
fn the_root_says_which_machine_and_which_hypervisor() {
    let dtb = write(&machine());
    assert_eq!(text(&dtb, "/", "compatible"), "linux,dummy-virt\0");
    assert_eq!(text(&dtb, "/", "model"), "Plinth virtual machine\0");
    assert_eq!(numbers(&dtb, "/", "#address-cells"), [2]);
    assert_eq!(numbers(&dtb, "/", "#size-cells"), [2]);
    let gic = numbers(&dtb, "/intc@8000000", "phandle");
    assert_eq!(numbers(&dtb, "/", "interrupt-parent"), gic);
}

#[test]
fn memory_is_one_region_where_ram_is() {
    let dtb = write(&GuestMachine { ram: ram(0x4000_0000, 5 << 30 | 4096), ..machine() });
    assert_eq!(numbers(&dtb, "/memory@40000000", "reg"), [0, 0x4000_0000, 1, 0x4000_1000]);
    assert_eq!(text(&dtb, "/memory@40000000", "device_type"), "memory\0");
    let dtb = write(&GuestMachine { ram: ram(0x12_8020_0000, 4096), ..machine() });
    assert_eq!(numbers(&dtb, "/memory@1280200000", "reg"), [0x12, 0x8020_0000, 0, 0x1000]);
}

#[test]
fn a_device_whose_name_breaks_the_rules_has_another() {
    let device = |name: &str| AssignedDevice {
        path: String::from("/x"),
        name: String::from(name),
        registers: vec![Region::new(PhysAddr::new(0x904_0000), 0x1000).unwrap()],
        interrupts: vec![],
        clock: None,
        clocks: 0,
        properties: vec![(String::from("compatible"), b"x,y\0".to_vec())],
    };
    for (name, path) in some([
        ("serial", "/serial@9040000"),
        ("3d-engine", "/device@9040000"),
        ("a-name-of-more-than-thirty-one-letters", "/device@9040000"),
        ("", "/device@9040000"),
    ]) {
        let dtb = write(&GuestMachine { assigned: &[device(name)], ..machine() });
        assert_eq!(text(&dtb, path, "compatible"), "x,y\0", "{name}");
        assert_eq!(numbers(&dtb, path, "reg"), [0, 0x904_0000, 0, 0x1000]);
    }
}

#[test]
fn a_clock_that_the_guest_does_not_have_is_not_there() {
    let has = |devices| {
        let dtb = write(&GuestMachine { devices, ..machine() });
        let fdt = Fdt::new(&dtb).unwrap();
        fdt.find_compatible(&["arm,pl031"]).is_some()
    };
    assert!(has(Devices::RTC));
    assert!(!has(Devices::NONE));
}

#[test]
fn each_vcpu_is_a_cpu_by_its_affinity_that_psci_turns_on() {
    for vcpus in pick(1, 8)..=8 {
        let dtb = write(&GuestMachine { vcpus, ..machine() });
        let fdt = Fdt::new(&dtb).unwrap();
        let ids: Vec<usize> = fdt.cpus().map(|cpu| cpu.ids().first()).collect();
        assert_eq!(ids, (0..usize::from(vcpus)).collect::<Vec<_>>());
        for cpu in fdt.cpus() {
            assert_eq!(cpu.property("enable-method").unwrap().as_str(), Some("psci"));
            assert_eq!(cpu.property("device_type").unwrap().as_str(), Some("cpu"));
        }
    }
    let dtb = write(&machine());
    assert_eq!(text(&dtb, "/psci", "method"), "hvc\0");
    assert_eq!(text(&dtb, "/psci", "compatible"), "arm,psci-1.0\0arm,psci-0.2\0");
}

#[test]
fn a_gicv2_is_a_distributor_and_a_cpu_interface() {
    let dtb = write(&GuestMachine { gic: GicVersion::V2, ..machine() });
    assert_eq!(text(&dtb, "/intc@8000000", "compatible"), "arm,cortex-a15-gic\0");
    assert_eq!(
        numbers(&dtb, "/intc@8000000", "reg"),
        [0, 0x0800_0000, 0, 0x1_0000, 0, 0x0801_0000, 0, 0x2000]
    );
    assert_eq!(numbers(&dtb, "/intc@8000000", "#interrupt-cells"), [3]);
    assert_eq!(bytes(&dtb, "/intc@8000000", "interrupt-controller"), Some(vec![]));
}

#[test]
fn a_gicv3_has_one_redistributor_for_each_vcpu() {
    let dtb = write(&GuestMachine { vcpus: 3, ..machine() });
    assert_eq!(text(&dtb, "/intc@8000000", "compatible"), "arm,gic-v3\0");
    assert_eq!(
        numbers(&dtb, "/intc@8000000", "reg"),
        [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0x6_0000]
    );
    assert_eq!(numbers(&dtb, "/intc@8000000", "#redistributor-regions"), [1]);
}

#[test]
fn the_timers_are_ppis_13_14_11_and_10() {
    let timer = |gic, vcpus| {
        let dtb = write(&GuestMachine { gic, vcpus, ..machine() });
        assert_eq!(text(&dtb, "/timer", "compatible"), "arm,armv8-timer\0arm,armv7-timer\0");
        assert_eq!(bytes(&dtb, "/timer", "always-on"), Some(vec![]));
        numbers(&dtb, "/timer", "interrupts")
    };
    assert_eq!(timer(GicVersion::V3, 2), [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
    // GICv2 also names the CPUs they are wired to.
    let of_two = [1, 13, 0x304, 1, 14, 0x304, 1, 11, 0x304, 1, 10, 0x304];
    assert_eq!(timer(GicVersion::V2, 2), of_two);
    assert_eq!(timer(GicVersion::V2, 8)[2], 0xff04);
    assert_eq!(timer(GicVersion::V2, 1)[2], 0x104);
}

#[test]
fn the_uart_is_the_console_and_has_its_clocks() {
    let dtb = write(&machine());
    let path = "/pl011@9000000";
    assert_eq!(text(&dtb, path, "compatible"), "arm,pl011\0arm,primecell\0");
    assert_eq!(numbers(&dtb, path, "reg"), [0, 0x0900_0000, 0, 0x1000]);
    assert_eq!(numbers(&dtb, path, "interrupts"), [0, 1, 4]);
    assert_eq!(text(&dtb, path, "clock-names"), "uartclk\0apb_pclk\0");
    let clock = numbers(&dtb, "/apb-pclk", "phandle")[0];
    assert_eq!(numbers(&dtb, path, "clocks"), [clock, clock]);
    assert_eq!(numbers(&dtb, "/apb-pclk", "clock-frequency"), [24_000_000]);
    assert_eq!(numbers(&dtb, "/apb-pclk", "#clock-cells"), [0]);
    assert_eq!(text(&dtb, "/apb-pclk", "compatible"), "fixed-clock\0");
    assert_eq!(text(&dtb, "/aliases", "serial0"), "/pl011@9000000\0");
    let fdt = Fdt::new(&dtb).unwrap();
    assert_eq!(fdt.chosen().stdout().unwrap().name, "pl011@9000000");
}

#[test]
fn the_clock_is_a_pl031() {
    let dtb = write(&machine());
    let path = "/pl031@9010000";
    assert_eq!(text(&dtb, path, "compatible"), "arm,pl031\0arm,primecell\0");
    assert_eq!(numbers(&dtb, path, "reg"), [0, 0x0901_0000, 0, 0x1000]);
    assert_eq!(numbers(&dtb, path, "interrupts"), [0, 2, 4]);
    assert_eq!(text(&dtb, path, "clock-names"), "apb_pclk\0");
    assert_eq!(numbers(&dtb, path, "clocks"), numbers(&dtb, "/apb-pclk", "phandle"));
}

#[test]
fn the_power_button_is_a_key_on_the_gpio() {
    let dtb = write(&machine());
    let path = "/pl061@9030000";
    assert_eq!(text(&dtb, path, "compatible"), "arm,pl061\0arm,primecell\0");
    assert_eq!(numbers(&dtb, path, "reg"), [0, 0x0903_0000, 0, 0x1000]);
    assert_eq!(numbers(&dtb, path, "interrupts"), [0, 7, 4]);
    assert_eq!(numbers(&dtb, path, "#gpio-cells"), [2]);
    assert_eq!(bytes(&dtb, path, "gpio-controller"), Some(vec![]));
    assert_eq!(text(&dtb, path, "clock-names"), "apb_pclk\0");
    assert_eq!(numbers(&dtb, path, "clocks"), numbers(&dtb, "/apb-pclk", "phandle"));
    assert_eq!(text(&dtb, "/gpio-keys", "compatible"), "gpio-keys\0");
    let key = "/gpio-keys/poweroff";
    assert_eq!(text(&dtb, key, "label"), "GPIO Key Poweroff\0");
    assert_eq!(numbers(&dtb, key, "linux,code"), [116]);
    let gpio = numbers(&dtb, path, "phandle")[0];
    assert_eq!(numbers(&dtb, key, "gpios"), [gpio, 3, 0]);
    let others = ["/apb-pclk", "/intc@8000000"].map(|path| numbers(&dtb, path, "phandle")[0]);
    assert!(!others.contains(&gpio));
}

#[test]
fn a_virtio_slot_is_described_if_it_has_a_device() {
    for &count in &[0u32, 1, 32][pick(0, 1)..pick(3, 2)] {
        let dtb = write(&GuestMachine { virtio: u16::try_from(count).unwrap(), ..machine() });
        for slot in 0..count {
            let path = format!("/virtio_mmio@{:x}", 0x0a00_0000 + 0x200 * slot);
            assert_eq!(text(&dtb, &path, "compatible"), "virtio,mmio\0");
            assert_eq!(numbers(&dtb, &path, "reg"), [0, 0x0a00_0000 + 0x200 * slot, 0, 0x200]);
            assert_eq!(numbers(&dtb, &path, "interrupts"), [0, 16 + slot, 1]);
            assert_eq!(bytes(&dtb, &path, "dma-coherent"), Some(vec![]));
        }
        let fdt = Fdt::new(&dtb).unwrap();
        let names = fdt.all_nodes().map(|node| node.name).filter(|name| name.starts_with("virtio"));
        assert_eq!(names.count(), usize::try_from(count).unwrap());
    }
}

#[test]
fn chosen_has_the_command_line_and_nothing_that_is_not_given() {
    let dtb = write(&machine());
    assert_eq!(text(&dtb, "/chosen", "bootargs"), "console=ttyAMA0 quiet\0");
    for absent in ["linux,initrd-start", "linux,initrd-end", "rng-seed", "kaslr-seed"] {
        assert_eq!(bytes(&dtb, "/chosen", absent), None);
    }
}

#[test]
fn the_initrd_ends_after_its_last_byte() {
    let initrd = Region::new(Ipa::new(0x4800_0000), 0x1234);
    let dtb = write(&GuestMachine { initrd, ..machine() });
    assert_eq!(numbers(&dtb, "/chosen", "linux,initrd-start"), [0, 0x4800_0000]);
    assert_eq!(numbers(&dtb, "/chosen", "linux,initrd-end"), [0, 0x4800_1234]);
}

#[test]
fn the_length_does_not_depend_on_where_the_initrd_is() {
    let length = |start| {
        let initrd = Region::new(Ipa::new(start), 1);
        write(&GuestMachine { initrd, ..machine() }).len()
    };
    assert_eq!(length(0x4800_0000), length(0x3f_ffff_f000));
}

#[test]
fn two_boots_never_get_the_same_seeds() {
    let mut entropy = Entropy::from_seed(&[9; 32]).unwrap();
    let mut seeds = || {
        let seeds = Some(Seeds::draw(&mut entropy));
        let dtb = write(&GuestMachine { seeds, ..machine() });
        let seed = |name| bytes(&dtb, "/chosen", name).unwrap();
        (seed("rng-seed"), seed("kaslr-seed"))
    };
    let (first, second) = (seeds(), seeds());
    assert_eq!((first.0.len(), first.1.len()), (32, 8));
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[test]
fn debug_output_hides_the_seeds() {
    let mut entropy = Entropy::from_seed(&[9; 32]).unwrap();
    assert_eq!(format!("{:?}", Seeds::draw(&mut entropy)), "Seeds");
}

proptest! {
    #![proptest_config(crate::testing::cases(64, 1))]

    #[test]
    fn any_machine_gives_a_tree_that_two_parsers_read(
        cmdline in pick(".{0,300}", ".{0,20}"),
        vcpus in 0..=pick(u8::MAX, 3),
        region in (0u64..1 << 40, 1u64..1 << 40),
        clock in any::<bool>(),
        start in any::<u64>(),
        version_2 in any::<bool>(),
    ) {
        let gic = if version_2 { GicVersion::V2 } else { GicVersion::V3 };
        let initrd = Region::new(Ipa::new(start), 1);
        let dtb = write(&GuestMachine {
            ram: ram(region.0, region.1),
            devices: if clock { Devices::RTC } else { Devices::NONE },
            virtio: u16::from(vcpus) % 33,
            vcpus,
            gic,
            cmdline: &cmdline,
            initrd,
            seeds: None,
            assigned: &[],
        });
        let wanted = cmdline.split('\0').next().unwrap();
        let fdt = Fdt::new(&dtb).unwrap();
        prop_assert_eq!(fdt.chosen().bootargs(), Some(wanted));
        prop_assert_eq!(fdt.cpus().count(), usize::from(vcpus));
        prop_assert_eq!(fdt.total_size(), dtb.len());
        if cfg!(miri) {
            return Ok(()); // What the other parser is made of is not ours, and takes most of a minute.
        }
        let fdt = dtoolkit::fdt::Fdt::new(&dtb).unwrap();
        let again = dtoolkit::model::DeviceTree::from_fdt(&fdt).to_dtb();
        let again = dtoolkit::fdt::Fdt::new(&again).unwrap();
        prop_assert_eq!(again.to_string(), fdt.to_string());
    }
}
