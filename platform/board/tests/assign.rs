//! Which devices of the board a guest may have, and why not others.

use super::*;
use dtoolkit::Node as _;

/// What guests get who wish for these.
fn assign(tree: &DeviceTree, wishes: &[&[&str]]) -> Vec<Assigned> {
    let blob = tree.to_dtb();
    let board = Board::read(&blob, AT).unwrap();
    let owned: Vec<Vec<String>> =
        wishes.iter().map(|wish| wish.iter().map(|name| (*name).into()).collect()).collect();
    let wishes: Vec<_> = owned.iter().map(Vec::as_slice).collect();
    board.assign(&blob, &wishes).unwrap()
}

fn refusal(tree: &DeviceTree, wish: &[&str]) -> AssignError {
    let error = assign(tree, &[wish]).remove(0).unwrap_err();
    assert!(!error.to_string().is_empty());
    error
}

/// QEMU's board with a second PL011, as it has one with two serial lines.
fn two_uarts() -> DeviceTree {
    with_another_uart(virt(VIRT_GICV2))
}

fn with_another_uart(mut tree: DeviceTree) -> DeviceTree {
    let first = tree.root.child("pl011@9000000").unwrap().clone();
    let mut second = DeviceTreeNode::new("pl011@9040000").unwrap();
    for property in first.properties() {
        second.add_property(property.clone());
    }
    second.add_property(DeviceTreeProperty::new("reg", [0u32, 0x904_0000, 0, 0x1000]).unwrap());
    second.add_property(DeviceTreeProperty::new("interrupts", [0u32, 8, 4]).unwrap());
    tree.root.add_child(second);
    tree
}

#[test]
fn a_second_uart_can_be_had_by_its_path_and_by_its_name() {
    let tree = two_uarts();
    for name in some(["/pl011@9040000", "pl011@9040000"]) {
        let devices = assign(&tree, &[&[name]]).remove(0).unwrap();
        let [device] = devices.as_slice() else { panic!("{devices:?}") };
        assert_eq!(device.path, "/pl011@9040000");
        assert_eq!(device.registers, [region(0x904_0000, 0x1000)]);
        assert_eq!(device.interrupts, [level(40)]);
        assert_eq!(device.clock.map(NonZeroU32::get), Some(24_000_000));
        assert_eq!(device.clocks, 2);
        let compatible = device.properties.iter().find(|(name, _)| name == "compatible");
        assert_eq!(compatible.unwrap().1, b"arm,pl011\0arm,primecell\0");
        assert!(
            device.properties.iter().all(|(name, _)| name != "clocks"),
            "no handles of this tree"
        );
    }
}

#[test]
fn who_wishes_for_nothing_gets_nothing_and_a_name_given_twice_counts_once() {
    let tree = two_uarts();
    let granted = assign(&tree, &[&[], &["pl011@9040000", "/pl011@9040000"]]);
    assert_eq!(granted[0], Ok(vec![]));
    assert_eq!(granted[1].as_ref().unwrap().len(), 1);
}

#[test]
fn what_the_hypervisor_uses_is_its_own() {
    let tree = two_uarts();
    for (name, own) in some([
        ("pl011@9000000", "console"),
        ("pl031@9010000", "clock"),
        ("intc@8000000", "interrupt controller"),
    ]) {
        let AssignError::Own { what, .. } = refusal(&tree, &[name]) else { panic!("{name}") };
        assert_eq!(what, own);
    }
}

#[test]
fn two_guests_cannot_have_one_device() {
    let granted = assign(&two_uarts(), &[&["pl011@9040000"], &[], &["/pl011@9040000"]]);
    assert!(granted[0].is_ok());
    let taken = AssignError::Taken { path: "/pl011@9040000".into(), owner: 0 };
    assert_eq!(granted[2], Err(taken));
}

#[test]
fn what_is_not_there_not_in_use_or_no_device_is_refused() {
    let mut tree = two_uarts();
    for name in some(["pl011@1234", "", "/nothing", "serial7", "@"]) {
        assert_eq!(refusal(&tree, &[name]), AssignError::NoSuchNode(name.into()));
    }
    assert_eq!(refusal(&tree, &["/psci"]), AssignError::NoRegisters("/psci".into()));
    assert!(matches!(refusal(&tree, &["memory@40000000"]), AssignError::Memory(_)));
    set(&mut tree, "/pl011@9040000", "status", "disabled");
    assert!(matches!(refusal(&tree, &["pl011@9040000"]), AssignError::Disabled(_)));
}

#[test]
fn what_shares_a_page_or_an_interrupt_goes_to_the_same_guest_or_to_none() {
    let mut tree = with_another_uart(virt_with(VIRT_GICV2, pick(32, 8)));
    let slots = ["virtio_mmio@a000000", "virtio_mmio@a000200"];
    let error = refusal(&tree, &slots[..1]);
    assert!(matches!(error, AssignError::Shared { what: "a page", .. }), "{error}");
    let page: Vec<_> = (0..8).map(|slot| format!("virtio_mmio@a000{slot:x}00")).collect();
    assert!(refusal(&tree, &[&page[0], &page[2]]).to_string().contains("a page"));
    let all: Vec<_> =
        (0..8u32).map(|slot| format!("virtio_mmio@{:x}", 0xa00_0000 + slot * 0x200)).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    assert_eq!(assign(&tree, &[&all]).remove(0).unwrap().len(), 8);
    set(&mut tree, "/pl011@9040000", "interrupts", [0u32, 20, 4]);
    let error = refusal(&tree, &["pl011@9040000"]);
    assert!(matches!(error, AssignError::Shared { what: "an interrupt", .. }), "{error}");
    set(&mut tree, "/pl011@9040000", "interrupts", [0u32, 1, 4]);
    assert!(matches!(refusal(&tree, &["pl011@9040000"]), AssignError::Own { .. }));
    set(&mut tree, "/pl011@9040000", "interrupts", [1u32, 5, 4]);
    assert!(matches!(refusal(&tree, &["pl011@9040000"]), AssignError::Private(_)));
}

#[test]
fn a_pis_pl011_is_free_while_the_console_is_the_mini_uart_and_its_alias_names_it() {
    let devices = assign(&pi(), &[&["serial0"]]).remove(0).unwrap();
    assert_eq!(devices[0].registers, [region(0xfe20_1000, 0x200)]);
    assert_eq!(devices[0].pages().collect::<Vec<_>>(), [region(0xfe20_1000, 0x1000)]);
    assert_eq!(devices[0].clock.map(NonZeroU32::get), Some(48_000_000));
    assert!(matches!(refusal(&pi(), &["serial1"]), AssignError::Own { what: "console", .. }));
}
