//! Trees that lack something or say what cannot be.

use super::*;

#[test]
fn a_tree_without_a_needed_node_names_it() {
    for (name, what) in some([
        ("intc@8000000", "GICv2 or GICv3"),
        ("memory@40000000", "memory"),
        ("cpus", "cpus"),
        ("timer", "generic timer"),
        ("pl011@9000000", "PL011 or mini UART"),
        ("psci", "psci"), // the CPUs want it
    ]) {
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
    for (path, property) in some([
        ("/intc@8000000", "reg"),
        ("/intc@8000000", "interrupts"),
        ("/intc@8000000", "#interrupt-cells"),
        ("/timer", "interrupts"),
        ("/pl011@9000000", "reg"),
        ("/pl031@9010000", "reg"),
        ("/psci", "method"),
        ("/cpus/cpu@1", "reg"),
    ]) {
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
fn a_cpu_interface_is_two_pages_in_one_of_three_layouts() {
    let interface = |size: u32| {
        let mut tree = virt(VIRT_GICV2);
        let (gicd, gich) = ([0u32, 0x800_0000, 0, 0x1_0000], [0, 0x803_0000, 0, 0x1_0000]);
        let (gicc, gicv) = ([0, 0x810_0000, 0, size], [0, 0x820_0000, 0, size]);
        set(&mut tree, "/intc@8000000", "reg", [gicd, gicc, gich, gicv].concat());
        read(&tree).map(|board| match board.gic {
            Gic::V2 { gicc, gicv, .. } => [gicc, gicv],
            Gic::V3 { .. } => panic!("it is a GICv2"),
        })
    };
    for size in some([0x1000, 0x1fff]) {
        assert_eq!(interface(size), Err(malformed("/intc@8000000", "reg")), "no second page");
    }
    for size in some([0x2000, 0x1_0000]) {
        let both = [region(0x810_0000, size.into()), region(0x820_0000, size.into())];
        assert_eq!(interface(size), Ok(both));
    }
    // Each page has 64 KiB of its own, all over which it is shown.
    assert_eq!(interface(0x2_0000), Ok([region(0x810_f000, 0x2000), region(0x820_f000, 0x2000)]));
}

#[test]
fn more_redistributor_regions_than_reg_has_are_refused() {
    for count in some([0u32, 2, u32::MAX]) {
        let mut tree = virt(VIRT_GICV3);
        set(&mut tree, "/intc@8000000", "#redistributor-regions", count);
        assert_eq!(read(&tree), Err(malformed("/intc@8000000", "reg")));
    }
}

#[test]
fn interrupts_that_no_gic_has_are_refused() {
    let none = [[0u32, 988, 4], [1, 16, 4], [2, 1, 4], [0, 1, 0], [0, 0x1_0001, 4]];
    for specifier in some(none) {
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
fn two_cpus_with_one_affinity_are_refused() {
    let mut tree = pi();
    set(&mut tree, "/cpus/cpu@3", "reg", 0x8000_0001u32); // bit 31 is no affinity field
    assert_eq!(read(&tree), Err(malformed("/cpus/cpu@3", "reg")));
}

#[test]
fn an_initrd_that_ends_before_it_starts_is_refused() {
    let mut tree = pi();
    set(&mut tree, "/chosen", "linux,initrd-end", 0x2df3_5fffu64);
    assert_eq!(read(&tree), Err(malformed("/chosen", "linux,initrd-end")));
    set(&mut tree, "/chosen", "linux,initrd-end", 0x2df3_6000u64);
    assert_eq!(read(&tree).unwrap().chosen.initrd, None);
}

#[test]
fn a_bundle_that_is_not_in_memory_is_refused() {
    let mut tree = pi();
    set(&mut tree, "/chosen", "linux,initrd-start", 0x3b3f_f000u64);
    set(&mut tree, "/chosen", "linux,initrd-end", 0x3b40_1000u64);
    let outside = Region::new(PhysAddr::new(0x3b3f_f000), 0x2000).unwrap();
    assert_eq!(read(&tree), Err(BoardError::NotInMemory { at: outside }));
    set(&mut tree, "/chosen", "linux,initrd-end", 0x3b40_0000u64);
    assert!(read(&tree).is_ok());
}

#[test]
fn memory_where_registers_are_is_refused() {
    for (path, what) in some([
        ("/intc@8000000", "interrupt controller"),
        ("/pl011@9000000", "console"),
        ("/pl031@9010000", "clock"),
    ]) {
        let mut tree = virt(VIRT_GICV2);
        let registers = read(&tree).unwrap().own_registers();
        let (_, registers) = registers.into_iter().find(|(known, _)| *known == what).unwrap();
        let start = u32::try_from(registers.start().raw()).unwrap();
        set(&mut tree, "/memory@40000000", "reg", [0u32, start, 0, 0x1000]);
        assert_eq!(read(&tree), Err(BoardError::Overlap { what, registers }), "{path}");
    }
}

#[test]
fn addresses_that_no_cpu_reaches_are_refused() {
    for path in some(["/intc@8000000", "/pl011@9000000", "/memory@40000000"]) {
        let mut tree = virt(VIRT_GICV2);
        set(&mut tree, path, "reg", [0xffffu32, 0xffff_f000, 0, 0x1001]);
        assert_eq!(read(&tree), Err(malformed(path, "reg")));
    }
    let mut tree = virt(VIRT_GICV2);
    set(&mut tree, "/chosen", "linux,initrd-start", 0xffff_ffff_f000u64);
    set(&mut tree, "/chosen", "linux,initrd-end", 0x1_0000_0000_0001u64);
    assert_eq!(read(&tree), Err(malformed("/chosen", "linux,initrd-end")));
}

#[test]
fn more_than_any_board_has_is_refused() {
    let mut tree = virt(VIRT_GICV2);
    set(&mut tree, "/memory@40000000", "reg", [0u32, 0x4000_0000, 0, 0x1000].repeat(513));
    assert_eq!(read(&tree), Err(malformed("/memory@40000000", "reg")));
    let mut tree = virt(VIRT_GICV2);
    set(&mut tree, "/chosen", "bootargs", "x".repeat(4097).as_str());
    assert_eq!(read(&tree), Err(malformed("/chosen", "bootargs")));
}
