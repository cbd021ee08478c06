//! A device tree as its nodes (Devicetree Specification v0.4).
//!
//! [`Tree`] is read once with the `fdt` crate out of a [`CheckedBlob`]; after that it is a list of nodes
//! with raw properties, since the crate's own views of `reg` and `interrupts` know neither `ranges` nor
//! the GIC's three cells. Not read: overlays, `interrupt-map`, `dma-ranges`.

pub mod blob;
mod bus;
mod interrupts;
pub mod remains;

use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ops::Range;

use fdt::Fdt;

use super::error::{BoardError, Flaw, TreeError};
use crate::addr::{PhysAddr, Region};
use blob::CheckedBlob;
pub use bus::is_reachable;
pub use interrupts::InterruptController;

/// A device tree.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Each after its parent; the root is the first.
    nodes: Vec<Entry<'a>>,
    /// Those of all nodes, in the nodes' order: names and values.
    properties: Vec<(&'a str, &'a [u8])>,
    /// What the memory reservation block names.
    reservations: Vec<Region<PhysAddr>>,
}

#[derive(Debug)]
struct Entry<'a> {
    name: &'a str,
    parent: Option<usize>,
    /// Which of the tree's properties are its own.
    properties: Range<usize>,
    /// The first text of `compatible`, by which most nodes are looked for, and those after it; empty where there is
    /// none.
    compatible: (&'a [u8], &'a [u8]),
}

impl<'a> Tree<'a> {
    /// The tree in `blob`.
    pub fn new(blob: &'a CheckedBlob) -> Result<Self, TreeError> {
        let broken = TreeError { offset: 0, flaw: Flaw::Truncated };
        let fdt = Fdt::new(blob.bytes()).map_err(|_| broken)?;
        let no_memory = |_| TreeError { offset: 0, flaw: Flaw::NoMemory };
        let (mut nodes, mut properties) = (Vec::<Entry<'a>>::new(), Vec::new());
        nodes.try_reserve_exact(blob.parents().len()).map_err(no_memory)?;
        properties.try_reserve_exact(blob.properties()).map_err(no_memory)?;
        // The crate walks over all nodes once, but does not say which stands in which.
        for (node, parent) in fdt.all_nodes().zip(blob.parents()) {
            let first = properties.len();
            let mut compatible = None;
            for property in node.properties() {
                if property.name == "compatible" {
                    compatible = compatible.or(Some(property.value));
                }
                properties.push((property.name, property.value));
            }
            nodes.push(Entry {
                name: node.name,
                parent: (!nodes.is_empty()).then_some(*parent),
                properties: first..properties.len(),
                compatible: split_text(compatible.unwrap_or_default()),
            });
        }
        if nodes.len() != blob.parents().len() {
            return Err(broken);
        }
        let reservations = fdt
            .memory_reservations()
            .filter_map(|entry| {
                let start = PhysAddr::new(entry.address().addr() as u64);
                Region::new(start, entry.size() as u64)
            })
            .collect();
        Ok(Self { nodes, properties, reservations })
    }

    /// What the memory reservation block names.
    pub fn reservations(&self) -> &[Region<PhysAddr>] {
        &self.reservations
    }

    /// The root node.
    pub fn root(&self) -> Node<'_, 'a> {
        self.node(0)
    }

    /// Every node, each after its parent.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        (0..self.nodes.len()).map(|index| self.node(index))
    }

    /// The first node in use that is compatible with one of `models`.
    pub fn compatible(&self, models: &[&str]) -> Option<Node<'_, 'a>> {
        self.nodes().find(|node| node.is_compatible(models) && node.is_available())
    }

    /// The node at `path`, whose parts may lack their unit address where that leaves no doubt. A first
    /// part without a leading `/` is an alias. What follows a colon is none of the path.
    pub fn find(&self, path: &str) -> Option<Node<'_, 'a>> {
        let without_options = |path: &'a str| path.split(':').next().unwrap_or(path);
        let own = path.split(':').next().unwrap_or(path);
        let (alias, rest) = match own.strip_prefix('/') {
            Some(rest) => ("", rest),
            None => {
                let (alias, rest) = own.split_once('/').unwrap_or((own, ""));
                let target = self.root().child("aliases")?.text(alias).map(without_options)?;
                (Some(target).filter(|target| target.starts_with('/'))?, rest)
            }
        };
        let parts = alias.split('/').chain(rest.split('/'));
        parts.filter(|part| !part.is_empty()).try_fold(self.root(), |node, part| node.child(part))
    }

    /// The node that others call `phandle`.
    pub fn phandle(&self, phandle: u32) -> Option<Node<'_, 'a>> {
        self.nodes().find(|node| node.u32("phandle") == Some(phandle))
    }

    fn node(&self, index: usize) -> Node<'_, 'a> {
        Node { tree: self, index }
    }
}

/// One node of a tree.
#[derive(Clone, Copy, Debug)]
pub struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    index: usize,
}

impl<'t, 'a> Node<'t, 'a> {
    fn entry(self) -> Option<&'t Entry<'a>> {
        self.tree.nodes.get(self.index)
    }

    /// The name with its unit address; `/` for the root.
    pub fn name(self) -> &'a str {
        self.entry().map_or("", |entry| entry.name)
    }

    /// The name without its unit address.
    pub fn base_name(self) -> &'a str {
        self.name().split('@').next().unwrap_or_default()
    }

    /// Whether [`base_name`](Self::base_name) is `name`.
    fn is_called(self, name: &str) -> bool {
        let rest = self.name().strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('@')) && !name.contains('@')
    }

    /// The whole path, for messages.
    pub fn path(self) -> String {
        let mut nodes: Vec<Self> =
            core::iter::successors(Some(self), |node| node.parent()).collect();
        nodes.pop();
        if nodes.is_empty() {
            return String::from("/");
        }
        nodes.iter().rev().flat_map(|node| ["/", node.name()]).collect()
    }

    /// The node this one stands in.
    pub fn parent(self) -> Option<Self> {
        self.entry()?.parent.map(|index| self.tree.node(index))
    }

    /// The nodes that stand in this one.
    pub fn children(self) -> impl Iterator<Item = Self> {
        let index = self.index;
        self.tree
            .nodes()
            .filter(move |node| node.entry().is_some_and(|entry| entry.parent == Some(index)))
    }

    /// The child called `name`, or the only one called so but for its unit address.
    pub fn child(self, name: &str) -> Option<Self> {
        if let Some(child) = self.children().find(|child| child.name() == name) {
            return Some(child);
        }
        let mut alike = self.children().filter(|child| child.is_called(name));
        let only = alike.next()?;
        alike.next().is_none().then_some(only)
    }

    /// The raw value of a property.
    pub fn property(self, name: &str) -> Option<&'a [u8]> {
        let mut own = self.tree.properties.get(self.entry()?.properties.clone())?.iter();
        own.find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// The texts of a property that holds a list of them.
    pub fn texts(self, name: &str) -> impl Iterator<Item = &'a str> {
        let value = self.property(name).unwrap_or_default();
        let value = value.strip_suffix(&[0]).unwrap_or(value);
        let texts = value.split(|byte| *byte == 0);
        texts.filter_map(|text| core::str::from_utf8(text).ok())
    }

    /// The first text of a property.
    pub fn text(self, name: &str) -> Option<&'a str> {
        self.property(name).and_then(|_| self.texts(name).next())
    }

    /// A property that is one cell.
    pub fn u32(self, name: &str) -> Option<u32> {
        let value = self.property(name)?.try_into().ok()?;
        Some(u32::from_be_bytes(value))
    }

    /// A property that is one number of one cell or of two.
    pub fn number(self, name: &str) -> Option<u64> {
        let value = self.property(name)?;
        match value.try_into() {
            Ok(two) => Some(u64::from_be_bytes(two)),
            Err(_) => self.u32(name).map(u64::from),
        }
    }

    /// Whether one of `models` is among what the node calls itself compatible with.
    pub fn is_compatible(self, models: &[&str]) -> bool {
        let Some((first, others)) = self.entry().map(|entry| entry.compatible) else {
            return false;
        };
        models.iter().any(|model| *first == *model.as_bytes() || lists(others, model.as_bytes()))
    }

    /// Whether the device is in use ("Standard Properties: status").
    pub fn is_available(self) -> bool {
        matches!(self.text("status"), None | Some("okay" | "ok"))
    }

    /// The error of a node that lacks `property`.
    pub fn lacks(self, property: &'static str) -> BoardError {
        BoardError::MissingProperty { path: self.path(), property }
    }

    /// The error of a node whose `property` makes no sense.
    pub fn malformed(self, property: &'static str) -> BoardError {
        BoardError::Malformed { path: self.path(), property }
    }
}

/// The first of a list of texts, each of which ends in a zero byte, the last one perhaps not; and the others.
fn split_text(list: &[u8]) -> (&[u8], &[u8]) {
    let length = CStr::from_bytes_until_nul(list).map_or(list.len(), CStr::count_bytes);
    let (first, others) = list.split_at_checked(length).unwrap_or((list, &[]));
    (first, others.get(1..).unwrap_or_default())
}

/// Whether `text` is in such a list.
fn lists(mut list: &[u8], text: &[u8]) -> bool {
    while list.len() >= text.len() && !list.is_empty() {
        let (first, others) = split_text(list);
        if first == text {
            return true;
        }
        list = others;
    }
    false
}

/// Takes numbers of some cells each off the front of a property.
#[derive(Clone, Copy)]
struct Cells<'a>(&'a [u8]);

impl Cells<'_> {
    /// The next number, of `cells` big-endian cells, at most 4; `None` where fewer are left.
    fn take(&mut self, cells: usize) -> Option<u128> {
        let (number, rest) = self.0.split_at_checked(cells * 4)?;
        self.0 = rest;
        Some(number.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
