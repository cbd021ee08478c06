//! Where the interrupt controller's registers are (Linux bindings `arm,gic.yaml` and
//! `arm,gic-v3.yaml`).

use alloc::vec::Vec;

use crate::addr::{PhysAddr, Region};
use crate::platform::WiredInterrupt;
use crate::platform::error::BoardError;
use crate::platform::tree::{InterruptController, Node, Tree};

/// The interrupt controller and where its registers are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Gic {
    /// GICv2 with the Virtualization Extensions (IHI 0048B).
    V2 {
        /// The distributor.
        gicd: Region<PhysAddr>,
        /// The CPU interface.
        gicc: Region<PhysAddr>,
        /// The virtual interface control.
        gich: Region<PhysAddr>,
        /// The virtual CPU interface, which guests see.
        gicv: Region<PhysAddr>,
        /// Asserted when the list registers want attention.
        maintenance: WiredInterrupt,
    },
    /// GICv3 or GICv4 (IHI 0069H).
    V3 {
        /// The distributor.
        gicd: Region<PhysAddr>,
        /// The regions of redistributors, at least one.
        redistributors: Vec<Region<PhysAddr>>,
        /// How far apart the redistributors are, where `GICR_TYPER` does not tell.
        stride: Option<u64>,
        /// Asserted when the list registers want attention.
        maintenance: WiredInterrupt,
    },
}

const V2: &[&str] = &["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic"];
const V3: &[&str] = &["arm,gic-v3"];

/// The interrupt controller, and what interrupts must lead to.
pub(super) fn read<'t, 'a>(
    tree: &'t Tree<'a>,
) -> Result<(Gic, InterruptController<'t, 'a>), BoardError> {
    let (node, is_v2) = match (tree.compatible(V2), tree.compatible(V3)) {
        (Some(node), _) => (node, true),
        (None, Some(node)) => (node, false),
        (None, None) => return Err(BoardError::Missing { what: "GICv2 or GICv3" }),
    };
    let controller = InterruptController::new(node)?;
    let maintenance = node.interrupt(0, &controller)?;
    let gic = if is_v2 { read_v2(node, maintenance) } else { read_v3(node, maintenance) };
    Ok((gic?, controller))
}

fn read_v2(node: Node<'_, '_>, maintenance: WiredInterrupt) -> Result<Gic, BoardError> {
    Ok(Gic::V2 {
        gicd: node.region(0)?,
        gicc: two_pages(node, 1)?,
        gich: node.region(2)?,
        gicv: two_pages(node, 3)?,
        maintenance,
    })
}

/// A CPU interface is two pages of 4 KiB. Where each is shown all over 64 KiB of its own, so that pages of that size can be given
/// away (GIC-400 TRM, "Memory map"), the last 4 KiB of the first and the first of the second are those, one behind the other.
fn two_pages(node: Node<'_, '_>, index: usize) -> Result<Region<PhysAddr>, BoardError> {
    const BOTH: u64 = 0x2000;
    const STRIDE: u64 = 0x1_0000;
    let region = node.region(index)?;
    if region.size() < BOTH {
        return Err(node.malformed("reg"));
    }
    if region.size() < 2 * STRIDE {
        return Ok(region);
    }
    let start = region.start().checked_add(STRIDE - BOTH / 2);
    start.and_then(|start| Region::new(start, BOTH)).ok_or_else(|| node.malformed("reg"))
}

fn read_v3(node: Node<'_, '_>, maintenance: WiredInterrupt) -> Result<Gic, BoardError> {
    const REGIONS: &str = "#redistributor-regions";
    const STRIDE: &str = "redistributor-stride";
    let gicd = node.region(0)?;
    let count = match node.property(REGIONS) {
        Some(_) => node.u32(REGIONS).ok_or_else(|| node.malformed(REGIONS))? as usize,
        None => 1,
    };
    let regions = node.regions()?;
    let regions = regions.get(1..).and_then(|regions| regions.get(..count));
    let redistributors = regions.and_then(|regions| regions.iter().copied().collect());
    let redistributors: Option<Vec<_>> = redistributors;
    let stride = match node.property(STRIDE) {
        Some(_) => Some(node.number(STRIDE).ok_or_else(|| node.malformed(STRIDE))?),
        None => None,
    };
    Ok(Gic::V3 {
        gicd,
        redistributors: redistributors
            .filter(|regions| !regions.is_empty())
            .ok_or_else(|| node.malformed("reg"))?,
        stride,
        maintenance,
    })
}
