//! Any device tree as the firmware's: raw bytes, and QEMU's trees with bytes, properties and nodes
//! changed. What is read has usable memory in disjoint whole pages that nothing else takes.
#![no_main]

use arbitrary::Arbitrary;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node as _, Property as _};
use libfuzzer_sys::fuzz_target;
use plinth::addr::{PAGE_SIZE, PhysAddr, Region};
use plinth::platform::board::Board;

const VIRT: [&[u8]; 2] = [
    include_bytes!("../../platform/testdata/qemu-virt-gv2.dtb"),
    include_bytes!("../../platform/testdata/qemu-virt-gv3.dtb"),
];

#[derive(Arbitrary, Debug)]
enum Blob {
    Raw(Vec<u8>),
    Virt { v3: bool, edits: Vec<Edit>, bytes: Vec<(u16, u8)> },
}

#[derive(Arbitrary, Debug)]
struct Edit {
    /// Which child of each node on the way down.
    path: Vec<u8>,
    what: What,
}

#[derive(Arbitrary, Debug)]
enum What {
    /// The property of this number gets these bytes.
    Bytes(u8, Vec<u8>),
    /// The property of this number gets these cells.
    Cells(u8, Vec<u32>),
    /// The property of this number goes.
    Without(u8),
    /// A usual property with these cells.
    Usual(u8, Vec<u32>),
    /// The node is there a second time.
    Twice(u8),
    /// The child of this number goes.
    Childless(u8),
}

const USUAL: [&str; 12] = [
    "reg",
    "ranges",
    "interrupts",
    "interrupt-parent",
    "#address-cells",
    "#size-cells",
    "phandle",
    "#interrupt-cells",
    "interrupts-extended",
    "status",
    "clock-frequency",
    "linux,initrd-start",
];

fn nth<T>(all: impl IntoIterator<Item = T>, number: u8) -> Option<T> {
    let mut all: Vec<T> = all.into_iter().collect();
    let index = usize::from(number).checked_rem(all.len())?;
    Some(all.swap_remove(index))
}

fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

fn child(node: &mut DeviceTreeNode, number: u8) -> Option<&mut DeviceTreeNode> {
    nth(node.children_mut(), number)
}

impl Edit {
    fn apply(&self, root: &mut DeviceTreeNode) -> Option<()> {
        let mut node = root;
        for &number in self.path.iter().take(4) {
            node = child(node, number)?;
        }
        match &self.what {
            What::Bytes(number, bytes) => {
                nth(node.properties_mut(), *number)?.set_value(bytes.as_slice());
            }
            What::Cells(number, values) => {
                nth(node.properties_mut(), *number)?.set_value(cells(values));
            }
            What::Without(number) => {
                let name = nth(node.properties(), *number)?.name().to_owned();
                node.remove_property(&name);
            }
            What::Usual(number, values) => {
                let name = *nth(&USUAL, *number)?;
                node.add_property(DeviceTreeProperty::new_unchecked(name, cells(values)));
            }
            What::Twice(number) => {
                let mut again = child(node, *number)?.clone();
                let odd = DeviceTreeProperty::new_unchecked("reg", [*number; 16]);
                again.add_property(odd);
                let mut other = DeviceTreeNode::new_unchecked("again@1");
                other.add_child(again);
                node.add_child(other);
            }
            What::Childless(number) => {
                let name = child(node, *number)?.name().to_owned();
                node.remove_child(&name);
            }
        }
        Some(())
    }
}

impl Blob {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Raw(bytes) => bytes.clone(),
            Self::Virt { v3, edits, bytes } => {
                let mut blob = VIRT[usize::from(*v3)].to_vec();
                if !edits.is_empty() {
                    let fdt = Fdt::new(&blob).expect("QEMU's tree is sound");
                    let mut tree = DeviceTree::from_fdt(&fdt);
                    for edit in edits {
                        edit.apply(&mut tree.root);
                    }
                    blob = tree.to_dtb();
                }
                for (at, value) in bytes {
                    let at = usize::from(*at) % blob.len();
                    blob[at] = *value;
                }
                blob
            }
        }
    }
}

fuzz_target!(|blob: Blob| {
    let blob = blob.bytes();
    let _ = Board::read_uart(&blob);
    let Ok(board) = Board::read(&blob, PhysAddr::new(0x4000_0000)) else { return };
    let own = Region::new(PhysAddr::new(0x4100_0000), 0x12_3456).expect("a region");
    let usable = board.usable_memory(&[own]);
    for (index, region) in usable.iter().enumerate() {
        assert!(region.start().is_aligned(PAGE_SIZE) && region.size() % PAGE_SIZE == 0);
        assert!(
            !region.overlaps(&own) && !board.reserved.iter().any(|taken| taken.overlaps(region))
        );
        assert!(usable[..index].iter().all(|before| before.last() < region.start()));
    }
});
