//! Claims about boards: trees that QEMU wrote, a tree like the Pi's, and trees with something missing.

mod assign;
mod blob;
mod exhaustive;
mod pi;
mod qemu;
mod refusals;
mod virtio;

use super::*;
use crate::platform::Trigger;
use crate::platform::error::{Flaw, TreeError};
use crate::platform::tree::blob::CheckedBlob;
use crate::testing::{pick, some};
use crate::vgic::IntId;
use alloc::format;
use alloc::vec;
use dtoolkit::ToPropertyValue;
use dtoolkit::fdt::Fdt;
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use proptest::prelude::*;
use std::sync::OnceLock;

const VIRT_GICV2: &[u8] = include_bytes!("../../testdata/qemu-virt-gv2.dtb");
const VIRT_GICV3: &[u8] = include_bytes!("../../testdata/qemu-virt-gv3.dtb");
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
    static TREES: [OnceLock<DeviceTree>; 2] = [const { OnceLock::new() }; 2];
    let tree = &TREES[usize::from(blob == VIRT_GICV3)];
    tree.get_or_init(|| virt_with(blob, pick(32, 0))).clone()
}

/// The same with the first places for virtio devices alone: it takes Miri most of a second for each.
fn virt_with(blob: &[u8], places: usize) -> DeviceTree {
    let mut other = blob.to_vec();
    let all = (0..blob.len()).filter(|at| blob[*at..].starts_with(UNUSED.as_bytes()));
    all.skip(places).for_each(|at| other[at] = b'x');
    let left = CheckedBlob::copy_without(&other, "xirtio,mmio").unwrap();
    DeviceTree::from_fdt(&Fdt::new(left.bytes()).unwrap())
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

/// The big-endian word at this place of a blob.
fn word(blob: &[u8], at: usize) -> usize {
    u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize
}
