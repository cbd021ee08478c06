//! A node's interrupts at the GIC (Devicetree Specification v0.4, "Interrupts and Interrupt Mapping";
//! Linux binding `arm,gic.yaml`).
//!
//! An interrupt is three cells: 0 for an SPI and 1 for a PPI, the number of its kind, and flags. Not
//! read: `interrupts-extended`, `interrupt-map`, and the extended ranges of GICv3.1.

use super::{Cells, Node};
use crate::platform::error::BoardError;
use crate::platform::{Trigger, WiredInterrupt};
use crate::vgic::IntId;

/// The node that `interrupts` must lead to.
#[derive(Clone, Copy, Debug)]
pub struct InterruptController<'t, 'a> {
    node: Node<'t, 'a>,
    cells: usize,
}

impl<'t, 'a> InterruptController<'t, 'a> {
    /// The GIC at `node`.
    pub fn new(node: Node<'t, 'a>) -> Result<Self, BoardError> {
        match node.u32("#interrupt-cells") {
            // GICv3 may have a fourth, the handle of a PPI's partition.
            Some(cells @ 3..=4) => Ok(Self { node, cells: cells as usize }),
            Some(_) => Err(node.malformed("#interrupt-cells")),
            None => Err(node.lacks("#interrupt-cells")),
        }
    }
}

impl InterruptController<'_, '_> {
    /// How many bytes one interrupt takes in `interrupts`.
    pub const fn entry_size(&self) -> usize {
        self.cells * 4
    }
}

impl<'a> Node<'_, 'a> {
    /// Entry `index` of `interrupts`, which the node must have and which must lead to `gic`.
    pub fn interrupt(
        self,
        index: usize,
        gic: &InterruptController<'_, '_>,
    ) -> Result<WiredInterrupt, BoardError> {
        let value = self.property("interrupts").ok_or_else(|| self.lacks("interrupts"))?;
        if !self.is_wired_to(gic) {
            return Err(self.malformed("interrupt-parent"));
        }
        let entry = index
            .checked_mul(gic.cells * 4)
            .and_then(|start| value.get(start..))
            .and_then(|rest| rest.get(..gic.cells * 4));
        entry.and_then(decode).ok_or_else(|| self.malformed("interrupts"))
    }

    /// Whether the `interrupt-parent` of this node, or of the closest one above it that has any, is
    /// `gic`. Without any there is just one controller.
    fn is_wired_to(self, gic: &InterruptController<'_, '_>) -> bool {
        // The specification has a controller's own interrupts lead to a parent as well; the GIC's one,
        // maintenance, leads to itself.
        if self.index == gic.node.index {
            return true;
        }
        let mut node = Some(self);
        while let Some(here) = node {
            if here.property("interrupt-parent").is_some() {
                let parent = here.u32("interrupt-parent");
                return parent.is_some() && parent == gic.node.u32("phandle");
            }
            node = here.parent();
        }
        true
    }
}

/// One interrupt specifier.
fn decode(specifier: &[u8]) -> Option<WiredInterrupt> {
    let mut cells = Cells(specifier);
    let mut cell = || cells.take(1).and_then(|cell| u16::try_from(cell).ok());
    let (kind, number, flags) = (cell()?, cell()?, cell()?);
    let intid = match (kind, number) {
        (0, 0..988) => IntId::spi(number),
        (1, 0..16) => IntId::ppi(number),
        _ => return None,
    };
    // Bits 8 to 15 name the CPUs of a GICv2 PPI; every CPU has each of ours.
    let trigger = match flags & 0xf {
        1 | 2 => Trigger::Edge,
        4 | 8 => Trigger::Level,
        _ => return None,
    };
    Some(WiredInterrupt { intid, trigger })
}
