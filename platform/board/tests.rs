//! Claims about boards: trees that QEMU wrote, a tree like the Pi's, and trees with something missing.

use super::*;
use crate::platform::Trigger;
use crate::platform::error::{Flaw, TreeError};
use crate::vgic::IntId;
use alloc::format;
use alloc::vec;
use dtoolkit::ToPropertyValue;
use dtoolkit::fdt::Fdt;
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use proptest::prelude::*;

const VIRT_GICV2: &[u8] = include_bytes!("../testdata/qemu-virt-gv2.dtb");
const VIRT_GICV3: &[u8] = include_bytes!("../testdata/qemu-virt-gv3.dtb");
const AT: PhysAddr = PhysAddr::new(0x4800_0000);

fn region(start: u64, size: u64) -> Region<PhysAddr> {
    Region::new(PhysAddr::new(start), size).unwrap()
}

fn level(intid: u16) -> WiredInterrupt {
    WiredInterrupt { intid: IntId(intid), trigger: Trigger::Level }
}

fn node(name: &str) -> DeviceTreeNode {
    DeviceTreeNode::new(name).unwrap()
}

fn with(mut node: DeviceTreeNode, name: &str, value: impl ToPropertyValue) -> DeviceTreeNode {
    node.add_property(DeviceTreeProperty::new(name, value).unwrap());
    node
}

/// A tree with the shape of the Raspberry Pi 4's: bus addresses, spin tables, one cell for sizes.
fn pi() -> DeviceTree {
    let mut tree = DeviceTree::new();
    tree.memory_reservations.push(MemoryReservation::new(0, 0x1000));
    let mut root = with(node("root"), "model", "Raspberry Pi 4 Model B");
    root = with(root, "compatible", "raspberrypi,4-model-b\0brcm,bcm2711");
    root = with(root, "#address-cells", 2u32);
    root = with(root, "#size-cells", 1u32);
    root = with(root, "interrupt-parent", 1u32);
    for property in DeviceTreeNode::from_node(&&root).properties_mut() {
        tree.root.add_property(property.clone());
    }

    let memory = with(node("memory@0"), "device_type", "memory");
    tree.root.add_child(with(memory, "reg", [0u32, 0, 0x3b40_0000, 0, 0x4000_0000, 0xbc00_0000]));
    let high = with(node("memory@100000000"), "device_type", "memory");
    tree.root.add_child(with(high, "reg", [1u32, 0, 0x8000_0000, 0, 0, 0]));

    let mut reserved = with(node("reserved-memory"), "#address-cells", 2u32);
    reserved = with(with(reserved, "#size-cells", 1u32), "ranges", vec![0u8; 0]);
    reserved.add_child(with(node("linux,cma"), "size", 0x400_0000u32));
    reserved.add_child(with(node("nvram@0"), "reg", [0u32, 0x3b3f_f000, 0x400]));
    tree.root.add_child(reserved);

    let mut cpus = with(node("cpus"), "#address-cells", 1u32);
    cpus = with(cpus, "#size-cells", 0u32);
    for n in 0..4u32 {
        let mut cpu = with(node(&format!("cpu@{n}")), "device_type", "cpu");
        cpu = with(with(cpu, "reg", n), "enable-method", "spin-table");
        cpus.add_child(with(cpu, "cpu-release-addr", u64::from(0xd8 + 8 * n)));
    }
    cpus.add_child(with(node("l2-cache0"), "compatible", "cache"));
    tree.root.add_child(cpus);

    let timer = with(node("timer"), "compatible", "arm,armv8-timer");
    tree.root.add_child(with(
        timer,
        "interrupts",
        [1u32, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08, 1, 10, 0xf08],
    ));

    let mut soc = with(with(node("soc"), "#address-cells", 1u32), "#size-cells", 1u32);
    soc = with(
        soc,
        "ranges",
        [
            0x7e00_0000u32,
            0,
            0xfe00_0000,
            0x180_0000,
            0x7c00_0000,
            0,
            0xfc00_0000,
            0x200_0000,
            0x4000_0000,
            0,
            0xff80_0000,
            0x80_0000,
        ],
    );
    let mut gic = with(node("interrupt-controller@40041000"), "compatible", "arm,gic-400");
    gic = with(gic, "#interrupt-cells", 3u32);
    gic = with(gic, "phandle", 1u32);
    gic = with(gic, "interrupts", [1u32, 9, 0xf04]);
    soc.add_child(with(
        gic,
        "reg",
        [0x4004_1000u32, 0x1000, 0x4004_2000, 0x2000, 0x4004_4000, 0x2000, 0x4004_6000, 0x2000],
    ));
    let mut pl011 = with(node("serial@7e201000"), "compatible", "arm,pl011\0arm,primecell");
    pl011 = with(pl011, "interrupts", [0u32, 121, 4]);
    soc.add_child(with(pl011, "reg", [0x7e20_1000u32, 0x200]));
    let mut mini = with(node("serial@7e215040"), "compatible", "brcm,bcm2835-aux-uart");
    mini = with(mini, "interrupts", [0u32, 93, 4]);
    soc.add_child(with(mini, "reg", [0x7e21_5040u32, 0x40]));
    tree.root.add_child(soc);

    let aliases = with(node("aliases"), "serial0", "/soc/serial@7e201000");
    tree.root.add_child(with(aliases, "serial1", "/soc/serial@7e215040"));
    let mut chosen = with(node("chosen"), "stdout-path", "serial1:115200n8");
    chosen = with(chosen, "bootargs", "console=ttyS0");
    chosen = with(chosen, "linux,initrd-start", 0x2df3_6000u32);
    tree.root.add_child(with(chosen, "linux,initrd-end", 0x2df3_6800u32));
    tree
}

fn read(tree: &DeviceTree) -> Result<Board, BoardError> {
    Board::read(&tree.to_dtb(), AT)
}

fn virt(blob: &[u8]) -> DeviceTree {
    DeviceTree::from_fdt(&Fdt::new(blob).unwrap())
}

fn at<'t>(tree: &'t mut DeviceTree, path: &str) -> &'t mut DeviceTreeNode {
    tree.find_node_mut(path).unwrap()
}

fn set(tree: &mut DeviceTree, path: &str, name: &str, value: impl ToPropertyValue) {
    let property = DeviceTreeProperty::new(name, value).unwrap();
    let node = at(tree, path);
    node.remove_property(name);
    node.add_property(property);
}

fn malformed(path: &str, property: &'static str) -> BoardError {
    BoardError::Malformed { path: path.into(), property }
}

#[test]
fn qemus_virt_board_with_gicv2_is_read_whole() {
    let board = Board::read(VIRT_GICV2, AT).unwrap();
    assert_eq!(board.model, "linux,dummy-virt");
    assert_eq!(board.compatible, ["linux,dummy-virt"]);
    assert_eq!(board.memory, [region(0x4000_0000, 0x8000_0000)]);
    assert_eq!(board.reserved, [region(AT.raw(), VIRT_GICV2.len() as u64)]);
    let cpu = |mpidr| BoardCpu { mpidr, enable: EnableMethod::Psci };
    assert_eq!(board.cpus, [cpu(0), cpu(1)]);
    assert_eq!(board.psci, Some(Conduit::Smc));
    assert_eq!(
        board.gic,
        Gic::V2 {
            gicd: region(0x800_0000, 0x1_0000),
            gicc: region(0x801_0000, 0x1_0000),
            gich: region(0x803_0000, 0x1_0000),
            gicv: region(0x804_0000, 0x1_0000),
            maintenance: level(25),
        }
    );
    let timer = board.timer;
    assert_eq!((timer.physical, timer.virt, timer.hypervisor), (level(30), level(27), level(26)));
    assert_eq!(
        board.uart,
        BoardUart {
            kind: UartKind::Pl011,
            registers: region(0x900_0000, 0x1000),
            interrupt: Some(level(33)),
            clock: NonZeroU32::new(24_000_000),
        }
    );
    assert_eq!(board.rtc, Some(region(0x901_0000, 0x1000)));
    assert_eq!(board.chosen.rng_seed.len(), 32);
    assert!(board.chosen.kaslr_seed.is_some());
    assert_eq!(board.chosen.initrd, None);
    let taken = region(AT.raw(), 0x2000);
    let free =
        [Some(region(0x4000_0000, 0x800_0000)), Region::new(taken.end().unwrap(), 0x77ff_e000)];
    assert_eq!(board.usable_memory(&[]), free.map(Option::unwrap));
}

#[test]
fn qemus_virt_board_with_gicv3_has_one_region_of_redistributors() {
    let board = Board::read(VIRT_GICV3, AT).unwrap();
    assert_eq!(board.cpus.len(), 4);
    assert_eq!(
        board.gic,
        Gic::V3 {
            gicd: region(0x800_0000, 0x1_0000),
            redistributors: vec![region(0x80a_0000, 0xf6_0000)],
            stride: None,
            maintenance: level(25),
        }
    );
}

#[test]
fn a_pi_is_read_through_the_ranges_of_its_bus() {
    let tree = pi();
    let board = read(&tree).unwrap();
    assert!(board.is_compatible("brcm,bcm2711"));
    assert_eq!(
        board.gic,
        Gic::V2 {
            gicd: region(0xff84_1000, 0x1000),
            gicc: region(0xff84_2000, 0x2000),
            gich: region(0xff84_4000, 0x2000),
            gicv: region(0xff84_6000, 0x2000),
            maintenance: level(25),
        }
    );
    assert_eq!(
        board.uart,
        BoardUart {
            kind: UartKind::MiniUart,
            registers: region(0xfe21_5040, 0x40),
            interrupt: Some(level(125)),
            clock: None,
        }
    );
    assert_eq!(board.psci, None);
    assert_eq!(board.rtc, None);
    let slots: Vec<_> = board.cpus.iter().map(|cpu| (cpu.mpidr, cpu.enable)).collect();
    let spin = |at| EnableMethod::SpinTable { release_addr: PhysAddr::new(at) };
    assert_eq!(slots, [(0, spin(0xd8)), (1, spin(0xe0)), (2, spin(0xe8)), (3, spin(0xf0))]);
    assert_eq!(board.chosen.bootargs, "console=ttyS0");
    assert_eq!(board.chosen.initrd, Some(region(0x2df3_6000, 0x800)));
    assert_eq!(
        board.reserved,
        [
            region(0, 0x1000),
            region(0x3b3f_f000, 0x400),
            region(AT.raw(), tree.to_dtb().len() as u64),
            region(0x2df3_6000, 0x800),
        ]
    );
    assert_eq!(
        board.usable_memory(&[region(0x20_0000, 0x10_0000)])[..3],
        [
            region(0x1000, 0x1f_f000),
            region(0x30_0000, 0x2dc3_6000),
            region(0x2df3_7000, 0x3b3f_f000 - 0x2df3_7000),
        ]
    );
}

#[test]
fn a_pis_pl011_runs_on_the_firmwares_48_megahertz() {
    let mut tree = pi();
    set(&mut tree, "/chosen", "stdout-path", "serial0");
    let uart = read(&tree).unwrap().uart;
    assert_eq!(uart.kind, UartKind::Pl011);
    assert_eq!(uart.registers, region(0xfe20_1000, 0x200));
    assert_eq!(uart.clock, NonZeroU32::new(48_000_000));
}

#[test]
fn a_console_that_is_not_named_or_not_known_is_the_first_uart() {
    for name in ["", "serial7", "/soc/no-such", "/soc/interrupt-controller@40041000", "serial1/x"] {
        let mut tree = pi();
        set(&mut tree, "/chosen", "stdout-path", name);
        assert_eq!(read(&tree).unwrap().uart.kind, UartKind::Pl011, "{name:?}");
    }
    let mut tree = pi();
    set(&mut tree, "/soc/serial@7e215040", "status", "disabled");
    assert_eq!(read(&tree).unwrap().uart.kind, UartKind::Pl011);
}

#[test]
fn the_uart_can_be_read_when_nothing_else_can() {
    let mut tree = virt(VIRT_GICV2);
    for name in ["intc@8000000", "memory@40000000", "cpus", "timer", "chosen", "psci"] {
        tree.root.remove_child(name).unwrap();
    }
    let uart = Board::read_uart(&tree.to_dtb()).unwrap();
    assert_eq!(uart.registers, region(0x900_0000, 0x1000));
    assert_eq!(uart.interrupt, None);
}

#[test]
fn a_tree_without_a_needed_node_names_it() {
    for (name, what) in [
        ("intc@8000000", "GICv2 or GICv3"),
        ("memory@40000000", "memory"),
        ("cpus", "cpus"),
        ("timer", "generic timer"),
        ("pl011@9000000", "PL011 or mini UART"),
        ("psci", "psci"), // the CPUs want it
    ] {
        let mut tree = virt(VIRT_GICV2);
        tree.root.remove_child(name).unwrap();
        assert_eq!(read(&tree), Err(BoardError::Missing { what }), "without {name}");
    }
    let mut tree = virt(VIRT_GICV2);
    at(&mut tree, "/cpus").remove_child("cpu@0");
    at(&mut tree, "/cpus").remove_child("cpu@1");
    assert_eq!(read(&tree), Err(BoardError::Missing { what: "cpu" }));
}

#[test]
fn a_node_without_a_needed_property_names_both() {
    for (path, property) in [
        ("/intc@8000000", "reg"),
        ("/intc@8000000", "interrupts"),
        ("/intc@8000000", "#interrupt-cells"),
        ("/timer", "interrupts"),
        ("/pl011@9000000", "reg"),
        ("/pl031@9010000", "reg"),
        ("/psci", "method"),
        ("/cpus/cpu@1", "reg"),
    ] {
        let mut tree = virt(VIRT_GICV2);
        at(&mut tree, path).remove_property(property).unwrap();
        assert_eq!(read(&tree), Err(BoardError::MissingProperty { path: path.into(), property }));
    }
    let mut tree = pi();
    at(&mut tree, "/cpus/cpu@2").remove_property("cpu-release-addr");
    let lacks =
        BoardError::MissingProperty { path: "/cpus/cpu@2".into(), property: "cpu-release-addr" };
    assert_eq!(read(&tree), Err(lacks));
}

#[test]
fn what_is_optional_may_be_absent() {
    let mut tree = virt(VIRT_GICV2);
    for name in ["chosen", "aliases", "pl031@9010000", "apb-pclk"] {
        tree.root.remove_child(name).unwrap();
    }
    let board = read(&tree).unwrap();
    assert_eq!(board.chosen, Chosen::default());
    assert_eq!((board.rtc, board.uart.clock), (None, None));
}

#[test]
fn a_gicv2_without_its_virtual_half_is_refused() {
    let mut tree = virt(VIRT_GICV2);
    set(
        &mut tree,
        "/intc@8000000",
        "reg",
        [0u32, 0x800_0000, 0, 0x1_0000, 0, 0x801_0000, 0, 0x2000],
    );
    assert_eq!(read(&tree), Err(malformed("/intc@8000000", "reg")));
}

#[test]
fn more_redistributor_regions_than_reg_has_are_refused() {
    for count in [0u32, 2, u32::MAX] {
        let mut tree = virt(VIRT_GICV3);
        set(&mut tree, "/intc@8000000", "#redistributor-regions", count);
        assert_eq!(read(&tree), Err(malformed("/intc@8000000", "reg")));
    }
}

#[test]
fn interrupts_that_no_gic_has_are_refused() {
    for specifier in [[0u32, 988, 4], [1, 16, 4], [2, 1, 4], [0, 1, 0], [0, 0x1_0001, 4]] {
        let mut tree = virt(VIRT_GICV2);
        set(&mut tree, "/pl011@9000000", "interrupts", specifier);
        assert_eq!(read(&tree), Err(malformed("/pl011@9000000", "interrupts")));
    }
    let mut tree = virt(VIRT_GICV2);
    set(&mut tree, "/pl011@9000000", "interrupts", [0u32, 987, 1]);
    let edge = WiredInterrupt { intid: IntId(1019), trigger: Trigger::Edge };
    assert_eq!(read(&tree).unwrap().uart.interrupt, Some(edge));
}

#[test]
fn an_interrupt_of_another_controller_is_refused() {
    let mut tree = pi();
    set(&mut tree, "/soc", "interrupt-parent", 7u32);
    assert_eq!(read(&tree), Err(malformed("/soc/serial@7e215040", "interrupt-parent")));
}

#[test]
fn the_timers_interrupts_are_found_by_name_where_there_are_names() {
    let mut tree = virt(VIRT_GICV2);
    set(&mut tree, "/timer", "interrupt-names", "hyp-phys\0virt\0phys");
    let timer = read(&tree).unwrap().timer;
    assert_eq!((timer.hypervisor, timer.virt, timer.physical), (level(29), level(30), level(27)));
}

#[test]
fn a_device_its_bus_does_not_pass_on_is_unreachable() {
    let unreachable = |path: &str| Err(BoardError::Unreachable { path: path.into() });
    let mut tree = pi();
    set(&mut tree, "/soc/serial@7e215040", "reg", [0x7f7f_fff0u32, 0x40]);
    assert_eq!(read(&tree), unreachable("/soc/serial@7e215040"));
    let mut tree = pi();
    at(&mut tree, "/soc").remove_property("ranges");
    assert_eq!(read(&tree), unreachable("/soc/interrupt-controller@40041000"));
}

#[test]
fn two_cpus_with_one_affinity_are_refused() {
    let mut tree = pi();
    set(&mut tree, "/cpus/cpu@3", "reg", 0x8000_0001u32); // bit 31 is no affinity field
    assert_eq!(read(&tree), Err(malformed("/cpus/cpu@3", "reg")));
}

#[test]
fn a_failed_cpu_and_disabled_memory_are_left_out() {
    let mut tree = pi();
    set(&mut tree, "/cpus/cpu@1", "status", "disabled");
    set(&mut tree, "/cpus/cpu@2", "status", "fail-sss");
    set(&mut tree, "/memory@0", "status", "disabled");
    let board = read(&tree).unwrap();
    assert_eq!(board.cpus.iter().map(|cpu| cpu.mpidr).collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!(board.memory, [region(0x1_0000_0000, 0x8000_0000)]);
}

#[test]
fn an_initrd_that_ends_before_it_starts_is_refused() {
    let mut tree = pi();
    set(&mut tree, "/chosen", "linux,initrd-end", 0x2df3_5fffu64);
    assert_eq!(read(&tree), Err(malformed("/chosen", "linux,initrd-end")));
    set(&mut tree, "/chosen", "linux,initrd-end", 0x2df3_6000u64);
    assert_eq!(read(&tree).unwrap().chosen.initrd, None);
}

/// QEMU overwrites with `FDT_NOP` the nodes of the Raspberry Pi's tree that it has no device for.
#[test]
fn nodes_that_firmware_overwrote_with_nops_are_skipped() {
    let blob = VIRT_GICV2.to_vec();
    let structure = word(&blob, 8)..word(&blob, 8) + word(&blob, 36);
    let name = blob.windows(13).position(|bytes| bytes == b"pl031@9010000").unwrap();
    let mut without = blob.clone();
    // Its end is followed by the next node's begin.
    let mut words = (name..structure.end).step_by(4);
    let end = words.find(|at| (word(&blob, *at), word(&blob, at + 4)) == (2, 1)).unwrap() + 4;
    for nop in (name - 4..end).step_by(4) {
        without[nop..nop + 4].copy_from_slice(&4u32.to_be_bytes());
    }
    let board = Board::read(&without, AT).unwrap();
    assert_eq!(board.rtc, None);
    assert_eq!(
        Board { rtc: Some(region(0x901_0000, 0x1000)), ..board },
        Board::read(&blob, AT).unwrap()
    );
}

fn word(blob: &[u8], at: usize) -> usize {
    u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize
}

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
    let step = crate::testing::pick(7, 3989);
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
