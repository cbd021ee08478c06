//! The device tree of a Raspberry Pi 4 as Linux has it, and what boot loaders and we change in it.

use std::io::Read;

use anyhow::{Context, Result, anyhow};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property, ToPropertyValue};
use plinth::manifest::Manifest;
use plinth::platform::board::{Board, UartKind};

use super::packages::{self, Package};

/// The name of its file: that for which the firmware looks.
pub const FILE: &str = "bcm2711-rpi-4-b.dtb";

/// How much randomness the hypervisor is given.
const SEED_SIZE: u64 = 64;

/// A board's device tree.
#[derive(Clone)]
pub struct Tree(DeviceTree);

impl Tree {
    /// Reads a device tree blob.
    pub fn read(blob: &[u8]) -> Result<Self> {
        let blob = Fdt::new(blob).map_err(|why| anyhow!("a damaged device tree: {why}"))?;
        Ok(Self(DeviceTree::from_fdt(&blob)))
    }

    /// Debian's, fetched when it is not in the cache.
    pub fn debian() -> Result<Self> {
        packages::fetch(&[Package::DeviceTree])?;
        Self::read(&Package::DeviceTree.read(FILE)?)
    }

    /// Debian's with what QEMU adds for other boards but not for this one: a seed.
    pub fn for_qemu() -> Result<Self> {
        let mut tree = Self::debian()?;
        tree.add_seed()?;
        Ok(tree)
    }

    /// Adds random bytes for the hypervisor.
    pub fn add_seed(&mut self) -> Result<()> {
        let mut seed = Vec::new();
        let source = std::fs::File::open("/dev/urandom").context("no random bytes")?;
        source.take(SEED_SIZE).read_to_end(&mut seed).context("no random bytes")?;
        self.set("/chosen", "rng-seed", seed)
    }

    /// Makes the PL011 the console, and its only user: otherwise it belongs to the Bluetooth chip, and the
    /// console is the mini UART, whose baud rate follows the clock of the VideoCore.
    pub fn prepare_for_card(&mut self) -> Result<()> {
        const PL011: &str = "/soc/serial@7e201000";
        let uart = self.0.find_node_mut(PL011).context("the device tree has no PL011")?;
        uart.remove_child("bluetooth");
        // The header has no lines for it.
        uart.remove_property("uart-has-rtscts");
        self.set("/aliases", "serial0", PL011)?;
        self.set("/chosen", "stdout-path", "serial0:115200n8")
    }

    /// Puts into use what the guests of a manifest get for their own: Debian's tree says of most blocks that they
    /// are not, as it depends on what is connected. What is no node of the tree the hypervisor refuses.
    pub fn put_into_use(&mut self, guests: &Manifest<'_>) -> Result<()> {
        for wanted in guests.vms().iter().flat_map(|vm| &vm.assign) {
            let Some(path) = self.path_of(wanted) else { continue };
            let node = self.0.find_node(&path).context("a node that was just found")?;
            if node.property("status").is_some() {
                self.set(&path, "status", "okay")?;
            }
        }
        Ok(())
    }

    /// The path of a node that is named by its path, its alias, or its name with the address.
    fn path_of(&self, wanted: &str) -> Option<String> {
        if wanted.starts_with('/') {
            return self.0.find_node(wanted).map(|_| wanted.to_owned());
        }
        let alias = self.0.find_node("/aliases").and_then(|node| node.property(wanted));
        match alias {
            Some(alias) => alias.value_as::<&str>().ok().map(ToOwned::to_owned),
            None => path_below(&self.0.root, wanted),
        }
    }

    /// Sets a property; the nodes on the way to it are made where there are none.
    pub fn set(&mut self, path: &str, name: &str, value: impl ToPropertyValue) -> Result<()> {
        let mut node = &mut self.0.root;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if node.child(part).is_none() {
                let child = DeviceTreeNode::new(part);
                node.add_child(child.map_err(|why| anyhow!("{path}: {why}"))?);
            }
            node = node.child_mut(part).context("a child that is there")?;
        }
        match node.property_mut(name) {
            Some(property) => property.set_value(value),
            None => {
                let property = DeviceTreeProperty::new(name, value);
                node.add_property(property.map_err(|why| anyhow!("{path}/{name}: {why}"))?);
            }
        }
        Ok(())
    }

    /// Takes out a node and all below it.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        let (above, name) = path.rsplit_once('/').context("not a path")?;
        let above = if above.is_empty() { "/" } else { above };
        let node = self.0.find_node_mut(above).and_then(|node| node.remove_child(name));
        node.map(drop).with_context(|| format!("there is no {path}"))
    }

    /// Which of QEMU's serial lines the console is on, as the hypervisor will find it.
    pub fn serial_line(&self) -> Result<usize> {
        let uart = Board::read_uart(&self.bytes());
        Ok(match uart.context("the board's device tree has no console")?.kind {
            UartKind::Pl011 => 0,
            UartKind::MiniUart => 1,
        })
    }

    /// As a blob.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.to_dtb()
    }
}

/// The path of the first node of this name below another, from there.
fn path_below(node: &DeviceTreeNode, name: &str) -> Option<String> {
    node.children().find_map(|child| {
        let below = if child.name() == name { String::new() } else { path_below(child, name)? };
        Some(format!("/{}{below}", child.name()))
    })
}

#[cfg(test)]
mod tests {
    use super::Tree;
    use dtoolkit::Node;
    use dtoolkit::model::DeviceTree;

    #[test]
    fn a_node_is_found_by_path_alias_and_name() {
        let mut tree = Tree(DeviceTree::new());
        tree.set("/soc/bus/i2c@1", "status", "disabled").expect("good names");
        tree.set("/aliases", "i2c0", "/soc/bus/i2c@1").expect("good names");
        for name in ["/soc/bus/i2c@1", "i2c0", "i2c@1"] {
            assert_eq!(tree.path_of(name).as_deref(), Some("/soc/bus/i2c@1"), "{name}");
        }
        for name in ["/soc/i2c@1", "i2c1", "i2c"] {
            assert_eq!(tree.path_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_property_is_set_wherever_its_node_is_missing() {
        let mut tree = Tree(DeviceTree::new());
        tree.set("/a/b", "one", 1u32).expect("good names");
        tree.set("/a/b", "one", "two").expect("good names");
        let read = Tree::read(&tree.bytes()).expect("a good tree");
        let node = read.0.find_node("/a/b").expect("the node");
        assert_eq!(node.properties().count(), 1);
    }

    #[test]
    fn what_is_no_device_tree_is_refused() {
        assert!(Tree::read(b"these are just some words, which is not a device tree").is_err());
    }

    #[test]
    fn a_board_without_a_console_has_no_serial_line() {
        assert!(Tree(DeviceTree::new()).serial_line().is_err());
    }
}
