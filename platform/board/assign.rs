//! Devices of the board that guests get for their own ("device assignment", "passthrough").
//!
//! A guest reaches such a device's registers at their own addresses, without an exit, and gets its interrupts.
//! What it can do to others by that has to be nothing: whole pages are mapped, so all that lies in a page has
//! to be assigned to the same guest; and so has all that shares an interrupt. There is no SMMU: a device that
//! is a bus master reaches all memory, and whoever assigns one trusts that guest.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use thiserror::Error;

use super::{Board, UartKind, gic, uart};
use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::platform::WiredInterrupt;
use crate::platform::error::BoardError;
use crate::platform::tree::{InterruptController, Node, Tree};

/// A device of the board, as its node in the device tree has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AssignedDevice {
    /// The node's path.
    pub path: String,
    /// The node's name without its unit address.
    pub name: String,
    /// Its registers.
    pub registers: Vec<Region<PhysAddr>>,
    /// Its interrupts, all of them SPIs.
    pub interrupts: Vec<WiredInterrupt>,
    /// How often its `clocks` tick, where the tree or the board tells: all of them the same.
    pub clock: Option<NonZeroU32>,
    /// How many clocks it has.
    pub clocks: usize,
    /// Its properties that mean the same in any other tree.
    pub properties: Vec<(String, Vec<u8>)>,
}

impl AssignedDevice {
    /// The pages that its registers are in.
    pub fn pages(&self) -> impl Iterator<Item = Region<PhysAddr>> + '_ {
        self.registers.iter().map(|region| region.grow_to(PAGE_SIZE))
    }
}

/// Why a guest does not get a device.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum AssignError {
    /// The tree has no such node.
    #[error(
        "the board's device tree has no {0:?}: name a node by its path, its alias, or its name with the address"
    )]
    NoSuchNode(String),
    /// The tree says that the device is not in use.
    #[error("{0} is not in use on this board: its \"status\" in the device tree says so")]
    Disabled(String),
    /// It has no registers.
    #[error("{0} has no registers")]
    NoRegisters(String),
    /// The hypervisor uses it.
    #[error("{path} is the hypervisor's own {what}, or shares a page with it")]
    Own {
        /// The node.
        path: String,
        /// What the hypervisor has there.
        what: &'static str,
    },
    /// It is memory.
    #[error("{0} is in memory")]
    Memory(String),
    /// Another guest has it.
    #[error("{path} is assigned to the manifest's guest {} already", .owner + 1)]
    Taken {
        /// The node.
        path: String,
        /// The guest's place in the bundle, from 0.
        owner: usize,
    },
    /// Something that the guest does not get cannot be told from it.
    #[error("{path} shares {what} with {other}: assign both to the guest, or none")]
    Shared {
        /// The node.
        path: String,
        /// A page, or an interrupt.
        what: &'static str,
        /// The other node.
        other: String,
    },
    /// Its interrupts do not lead to the GIC's shared ones.
    #[error("{0} has an interrupt that is private to a CPU")]
    Private(String),
    /// The tree is wrong about it.
    #[error(transparent)]
    Board(#[from] BoardError),
}

/// What a guest's wishes come to.
pub type Assigned = Result<Vec<AssignedDevice>, AssignError>;

/// The devices that each guest gets who wishes for the nodes named in `wishes`.
pub(super) fn assign(
    tree: &Tree<'_>,
    board: &Board,
    wishes: &[&[String]],
) -> Result<Vec<Assigned>, BoardError> {
    let (_, gic) = gic::read(tree)?;
    let mut granted: Vec<Assigned> = Vec::new();
    for wish in wishes {
        let devices = grant(tree, board, &gic, wish, &granted);
        granted.push(devices);
    }
    Ok(granted)
}

fn grant(
    tree: &Tree<'_>,
    board: &Board,
    gic: &InterruptController<'_, '_>,
    wish: &[String],
    before: &[Assigned],
) -> Assigned {
    let nodes: Vec<_> = wish
        .iter()
        .map(|name| find(tree, name).ok_or_else(|| AssignError::NoSuchNode(name.clone())))
        .collect::<Result<_, _>>()?;
    let mut devices: Vec<AssignedDevice> = Vec::new();
    for node in nodes {
        let device = read(tree, node, gic)?;
        if devices.iter().any(|other| other.path == device.path) {
            continue;
        }
        check(board, &device)?;
        for (owner, others) in before.iter().enumerate() {
            if others.iter().flatten().any(|other| other.path == device.path) {
                return Err(AssignError::Taken { path: device.path, owner });
            }
        }
        devices.push(device);
    }
    alone(tree, gic, &devices)?;
    Ok(devices)
}

/// The node called `name`.
fn find<'t, 'a>(tree: &'t Tree<'a>, name: &str) -> Option<Node<'t, 'a>> {
    let by_path = tree.find(name).filter(|_| !name.is_empty());
    by_path.or_else(|| {
        let mut alike = tree.nodes().filter(|node| name.contains('@') && node.name() == name);
        let only = alike.next()?;
        alike.next().is_none().then_some(only)
    })
}

fn read(
    tree: &Tree<'_>,
    node: Node<'_, '_>,
    gic: &InterruptController<'_, '_>,
) -> Result<AssignedDevice, AssignError> {
    let path = node.path();
    if !in_use(node) {
        return Err(AssignError::Disabled(path));
    }
    let registers: Vec<_> = node.regions()?.into_iter().flatten().collect();
    if registers.is_empty() {
        return Err(AssignError::NoRegisters(path));
    }
    let interrupts = interrupts(node, gic)?;
    let clocks = node.property("clock-names").map_or(0, |_| node.texts("clock-names").count());
    let kept = KEPT.iter().filter_map(|name| Some((name, node.property(name)?)));
    Ok(AssignedDevice {
        name: node.base_name().to_owned(),
        registers,
        interrupts,
        clock: clock(tree, node),
        clocks: clocks.max(usize::from(node.property("clocks").is_some())),
        properties: kept.map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
        path,
    })
}

/// Properties that name nothing else in the tree (Linux bindings; Devicetree Specification v0.4, "Standard
/// Properties").
const KEPT: [&str; 15] = [
    "compatible",
    "clock-names",
    "clock-frequency",
    "current-speed",
    "reg-shift",
    "reg-io-width",
    "fifo-size",
    "arm,primecell-periphid",
    "gpio-controller",
    "#gpio-cells",
    "#address-cells",
    "#size-cells",
    "num-cs",
    "little-endian",
    "dma-coherent",
];

/// How often a device's clocks tick: of a PL011 as for the console's, of others where it is a `fixed-clock`.
fn clock(tree: &Tree<'_>, node: Node<'_, '_>) -> Option<NonZeroU32> {
    if uart::kind(node) == Some(UartKind::Pl011) {
        return uart::clock(tree, node);
    }
    uart::fixed_clock(tree, node)
}

/// All of a node's interrupts; none where it has none, or they lead elsewhere than to the GIC.
fn interrupts(
    node: Node<'_, '_>,
    gic: &InterruptController<'_, '_>,
) -> Result<Vec<WiredInterrupt>, BoardError> {
    let count = node.property("interrupts").map_or(0, |value| value.len() / gic.entry_size());
    (0..count).map(|index| node.interrupt(index, gic)).collect()
}

/// Whether a node and all above it are in use.
fn in_use(node: Node<'_, '_>) -> bool {
    let mut at = Some(node);
    while let Some(here) = at {
        if !here.is_available() {
            return false;
        }
        at = here.parent();
    }
    true
}

/// It is neither memory nor the hypervisor's.
fn check(board: &Board, device: &AssignedDevice) -> Result<(), AssignError> {
    let path = || device.path.clone();
    if device.pages().any(|page| board.memory.iter().any(|ram| ram.overlaps(&page))) {
        return Err(AssignError::Memory(path()));
    }
    for (what, region) in board.own_registers() {
        if device.pages().any(|page| page.overlaps(&region)) {
            return Err(AssignError::Own { path: path(), what });
        }
    }
    let console = board.uart.interrupt.map(|interrupt| interrupt.intid);
    if device.interrupts.iter().any(|interrupt| Some(interrupt.intid) == console) {
        return Err(AssignError::Own { path: path(), what: "console's interrupt" });
    }
    if device.interrupts.iter().any(|interrupt| interrupt.intid.0 < 32) {
        return Err(AssignError::Private(path()));
    }
    Ok(())
}

/// Nobody else's registers are in the pages of `devices`, and nobody else has their interrupts.
fn alone(
    tree: &Tree<'_>,
    gic: &InterruptController<'_, '_>,
    devices: &[AssignedDevice],
) -> Result<(), AssignError> {
    if devices.is_empty() {
        return Ok(());
    }
    for node in tree.nodes().filter(|node| in_use(*node)) {
        let other = node.path();
        if devices.iter().any(|device| device.path == other) {
            continue;
        }
        // What cannot be reached is in nobody's way.
        let regions: Vec<_> = node.regions().unwrap_or_default().into_iter().flatten().collect();
        let lines = interrupts(node, gic).unwrap_or_default();
        for device in devices {
            let shared = |what| AssignError::Shared {
                path: device.path.clone(),
                what,
                other: other.clone(),
            };
            if device.pages().any(|page| regions.iter().any(|region| region.overlaps(&page))) {
                return Err(shared("a page"));
            }
            if device.interrupts.iter().any(|own| lines.iter().any(|line| line.intid == own.intid))
            {
                return Err(shared("an interrupt"));
            }
        }
    }
    Ok(())
}
