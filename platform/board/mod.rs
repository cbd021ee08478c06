//! One board, as facts out of its device tree.
//!
//! Nothing is assumed that the tree does not say, and a tree that lacks something is a [`BoardError`].
//! The tree comes from the firmware; even so, none can make this code panic.

mod assign;
mod cpu;
mod gic;
mod memory;
mod uart;
mod virtio;

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use super::WiredInterrupt;
use super::error::BoardError;
use super::tree::blob::CheckedBlob;
use super::tree::{InterruptController, Node, Tree, is_reachable, remains};
use crate::addr::{PAGE_SIZE, PhysAddr, Region};

pub use super::tree::blob::{HEADER_SIZE, extent, total_size};
pub use assign::{AssignError, Assigned, AssignedDevice};
pub use cpu::{BoardCpu, Conduit, EnableMethod};
pub use gic::Gic;
pub use memory::usable;
pub use uart::{BoardUart, UartKind};
pub use virtio::VirtioPlace;

/// QEMU's `virt` board has 32 of these, more than all other nodes together. What they say is read when somebody wants
/// it: [`Board::virtio_places`].
const UNUSED: &str = "virtio,mmio";

/// How long texts may be that are kept, in bytes: more than a kernel's command line has. And how many of a list are.
const MAX_TEXT: usize = 4096;
const MAX_TEXTS: usize = 64;

/// The facts of one board.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Board {
    /// The board's name, `model` of the root node.
    pub model: String,
    /// What the board calls itself compatible with, the most specific first.
    pub compatible: Vec<String>,
    /// All RAM.
    pub memory: Vec<Region<PhysAddr>>,
    /// What is in use within the RAM, or nearby: `/reserved-memory`, the memory reservation block, the
    /// device tree, the initrd. The hypervisor's own image is not in it.
    pub reserved: Vec<Region<PhysAddr>>,
    /// The CPUs, in the tree's order; no two have the same `mpidr`.
    pub cpus: Vec<BoardCpu>,
    /// How to call the firmware's PSCI, where there is any.
    pub psci: Option<Conduit>,
    /// The registers of the BCM2835's power management, where there is one: its watchdog turns the board off.
    pub watchdog: Option<Region<PhysAddr>>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The generic timer's interrupts.
    pub timer: TimerInterrupts,
    /// The UART of the console.
    pub uart: BoardUart,
    /// The registers of the PL031 real-time clock, where there is one.
    pub rtc: Option<Region<PhysAddr>>,
    /// What the boot loader passes to the hypervisor.
    pub chosen: Chosen,
}

/// The interrupts of the generic timer (Linux binding `arm,arch_timer.yaml`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimerInterrupts {
    /// The non-secure EL1 physical timer's, `CNTP`.
    pub physical: WiredInterrupt,
    /// The virtual timer's, `CNTV`.
    pub virt: WiredInterrupt,
    /// The EL2 physical timer's, `CNTHP`.
    pub hypervisor: WiredInterrupt,
    /// `clock-frequency`, for a board whose firmware does not set `CNTFRQ_EL0`.
    pub frequency: Option<NonZeroU32>,
}

/// What `/chosen` says (Devicetree Specification v0.4, "/chosen Node").
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Chosen {
    /// The command line.
    pub bootargs: String,
    /// The boot bundle, loaded as an initrd.
    pub initrd: Option<Region<PhysAddr>>,
    /// Random bytes from the boot loader; may be none.
    pub rng_seed: Vec<u8>,
    /// A random number from the boot loader.
    pub kaslr_seed: Option<u64>,
}

impl Board {
    /// The board that `blob` describes. The blob lies at the address `at`.
    pub fn read(blob: &[u8], at: PhysAddr) -> Result<Self, BoardError> {
        let copy = CheckedBlob::copy_without(blob, UNUSED)?;
        let tree = Tree::new(&copy)?;
        let root = tree.root();
        let (gic, controller) = gic::read(&tree)?;
        let psci = cpu::conduit(&tree)?;
        let chosen = Chosen::read(&tree)?;
        let blob = Region::new(at, extent(blob)? as u64);
        let mut reserved = memory::reserved(&tree)?;
        reserved.extend(blob.iter().chain(chosen.initrd.iter()));
        let board = Self {
            model: bounded(root, "model")?,
            compatible: root.texts("compatible").take(MAX_TEXTS).map(str::to_owned).collect(),
            memory: memory::ram(&tree)?,
            reserved,
            cpus: cpu::read(&tree, psci)?,
            psci,
            watchdog: watchdog(&tree)?,
            gic,
            timer: TimerInterrupts::read(&tree, &controller)?,
            uart: uart::read(&tree, Some(&controller))?,
            rtc: match tree.compatible(&["arm,pl031"]) {
                Some(rtc) => Some(rtc.region(0)?),
                None => None,
            },
            chosen,
        };
        board.check()?;
        Ok(board)
    }

    /// Memory is memory, the bundle is in it, and what the hypervisor drives is not.
    fn check(&self) -> Result<(), BoardError> {
        for (what, registers) in self.own_registers() {
            if self.memory.iter().any(|memory| memory.overlaps(&registers)) {
                return Err(BoardError::Overlap { what, registers });
            }
        }
        let Some(at) = self.chosen.initrd else { return Ok(()) };
        let bytes = at.grow_to(PAGE_SIZE);
        let is_there = usable(&self.memory, &[]).iter().any(|part| part.contains_region(&bytes));
        if is_there { Ok(()) } else { Err(BoardError::NotInMemory { at }) }
    }

    /// The registers of what is the hypervisor's own.
    fn own_registers(&self) -> Vec<(&'static str, Region<PhysAddr>)> {
        let mut own = alloc::vec![("console", self.uart.registers)];
        own.extend(self.rtc.map(|rtc| ("clock", rtc)));
        own.extend(self.watchdog.map(|watchdog| ("watchdog", watchdog)));
        match &self.gic {
            Gic::V2 { gicd, gicc, gich, gicv, .. } => {
                own.extend(
                    [gicd, gicc, gich, gicv].map(|region| ("interrupt controller", *region)),
                );
            }
            Gic::V3 { gicd, redistributors, .. } => {
                own.push(("interrupt controller", *gicd));
                own.extend(redistributors.iter().map(|region| ("interrupt controller", *region)));
            }
        }
        own
    }

    /// The devices that each guest gets who wishes for the nodes named in `wishes`, by path, alias, or name with
    /// address. `blob` describes this board.
    pub fn assign(&self, blob: &[u8], wishes: &[&[String]]) -> Result<Vec<Assigned>, BoardError> {
        let copy = CheckedBlob::copy_of(blob)?;
        assign::assign(&Tree::new(&copy)?, self, wishes)
    }

    /// Only the UART of the board that `blob` describes: to say what is wrong with the rest of it. Where all of it is wrong,
    /// the first one that there is a trace of.
    pub fn read_uart(blob: &[u8]) -> Result<BoardUart, BoardError> {
        let read = || uart::read(&Tree::new(&CheckedBlob::copy_of(blob)?)?, None);
        match read() {
            Err(BoardError::Tree(error)) => remains::uart(blob).ok_or(error.into()),
            other => other,
        }
    }

    /// Only how the board that `blob` describes is turned off, by its firmware or its watchdog: for when the
    /// rest is wrong.
    pub fn read_power(
        blob: &[u8],
    ) -> Result<(Option<Conduit>, Option<Region<PhysAddr>>), BoardError> {
        let read = || {
            let copy = CheckedBlob::copy_of(blob)?;
            let tree = Tree::new(&copy)?;
            Ok((cpu::conduit(&tree)?, watchdog(&tree)?))
        };
        match read() {
            Err(BoardError::Tree(_)) => Ok((remains::conduit(blob), None)),
            other => other,
        }
    }

    /// The RAM that is free: all of it but what is reserved and what `also`, the hypervisor's own image,
    /// takes. In whole pages, by rising address, none next to another.
    pub fn usable_memory(&self, also: &[Region<PhysAddr>]) -> Vec<Region<PhysAddr>> {
        let taken: Vec<_> = self.reserved.iter().chain(also).copied().collect();
        usable(&self.memory, &taken)
    }

    /// Reserves `region` no longer: nobody needs what was there.
    pub fn release(&mut self, region: Region<PhysAddr>) {
        self.reserved.retain(|reserved| *reserved != region);
    }

    /// Whether the board calls itself compatible with `model`.
    pub fn is_compatible(&self, model: &str) -> bool {
        self.compatible.iter().any(|own| own == model)
    }
}

/// The power management of the BCM2835 and its descendants (Linux binding `brcm,bcm2835-pm.yaml`).
fn watchdog(tree: &Tree<'_>) -> Result<Option<Region<PhysAddr>>, BoardError> {
    let node = tree.compatible(&["brcm,bcm2711-pm", "brcm,bcm2835-pm", "brcm,bcm2835-pm-wdt"]);
    node.map(|node| node.region(0)).transpose()
}

/// The first text of a property, if it has any.
fn bounded(node: Node<'_, '_>, property: &'static str) -> Result<String, BoardError> {
    match node.text(property) {
        Some(text) if text.len() > MAX_TEXT => Err(node.malformed(property)),
        text => Ok(text.unwrap_or_default().to_owned()),
    }
}

impl TimerInterrupts {
    fn read(tree: &Tree<'_>, gic: &InterruptController<'_, '_>) -> Result<Self, BoardError> {
        let node = tree
            .compatible(&["arm,armv8-timer", "arm,armv7-timer"])
            .ok_or(BoardError::Missing { what: "generic timer" })?;
        // Names, where there are any, say the order; otherwise it is the binding's.
        let interrupt = |name, index| {
            let index = match node.property("interrupt-names") {
                Some(_) => node.texts("interrupt-names").position(|known| known == name),
                None => Some(index),
            };
            node.interrupt(index.ok_or_else(|| node.malformed("interrupt-names"))?, gic)
        };
        Ok(Self {
            physical: interrupt("phys", 1)?,
            virt: interrupt("virt", 2)?,
            hypervisor: interrupt("hyp-phys", 3)?,
            frequency: node.u32("clock-frequency").and_then(NonZeroU32::new),
        })
    }
}

impl Chosen {
    fn read(tree: &Tree<'_>) -> Result<Self, BoardError> {
        let Some(node) = tree.root().child("chosen") else { return Ok(Self::default()) };
        let seed = node.property("rng-seed").unwrap_or_default();
        Ok(Self {
            bootargs: bounded(node, "bootargs")?,
            initrd: initrd(node)?,
            rng_seed: seed.get(..MAX_TEXT).unwrap_or(seed).to_owned(),
            kaslr_seed: node.number("kaslr-seed").filter(|seed| *seed != 0),
        })
    }
}

/// The initrd that `/chosen` names; its end is the first byte after it.
fn initrd(chosen: Node<'_, '_>) -> Result<Option<Region<PhysAddr>>, BoardError> {
    const START: &str = "linux,initrd-start";
    const END: &str = "linux,initrd-end";
    if chosen.property(START).is_none() && chosen.property(END).is_none() {
        return Ok(None);
    }
    let start = chosen.number(START).ok_or_else(|| chosen.malformed(START))?;
    let end = chosen.number(END).ok_or_else(|| chosen.malformed(END))?;
    if start == end {
        return Ok(None);
    }
    let region = Region::between(PhysAddr::new(start), PhysAddr::new(end));
    region.filter(is_reachable).map(Some).ok_or_else(|| chosen.malformed(END))
}

#[cfg(test)]
mod tests;
