//! Where the board may have virtio devices of its own: boards that are virtual themselves (Linux binding
//! `virtio/mmio.yaml`). The tree says where a device can be; whether one is there, its registers say.

use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Board, gic};
use crate::addr::{PhysAddr, Region};
use crate::platform::WiredInterrupt;
use crate::platform::error::BoardError;
use crate::platform::tree::blob::CheckedBlob;
use crate::platform::tree::{Node, Tree};

/// A place for a virtio device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VirtioPlace {
    /// Its registers.
    pub registers: Region<PhysAddr>,
    /// Its interrupt.
    pub interrupt: WiredInterrupt,
    /// The device sees what is in the caches, and the caches see what the device writes.
    pub coherent: bool,
}

impl Board {
    /// Where the board that `blob` describes may have virtio devices, by falling address: QEMU puts the first one
    /// of its command line into the highest place. This reads the whole tree again, as hardly any machine wants to
    /// know: QEMU's board has 32 places, more than all other nodes together.
    ///
    /// # Errors
    /// The tree has such nodes, and they make no sense.
    pub fn virtio_places(blob: &[u8]) -> Result<Vec<VirtioPlace>, BoardError> {
        let copy = CheckedBlob::copy_of(blob)?;
        let tree = Tree::new(&copy)?;
        let (_, controller) = gic::read(&tree)?;
        let nodes = tree.nodes().filter(|node| node.is_compatible(&[super::UNUSED]));
        let mut places = nodes
            .filter(|node| node.is_available())
            .map(|node| {
                Ok(VirtioPlace {
                    registers: node.region(0)?,
                    interrupt: node.interrupt(0, &controller)?,
                    coherent: is_coherent(node),
                })
            })
            .collect::<Result<Vec<_>, BoardError>>()?;
        places.sort_by_key(|place| Reverse(place.registers.start()));
        Ok(places)
    }
}

/// Whether the node, or the closest one above it that says anything, is called coherent (Devicetree Specification
/// v0.4, "dma-coherent" and "dma-noncoherent").
fn is_coherent(node: Node<'_, '_>) -> bool {
    let mut node = Some(node);
    while let Some(here) = node {
        if here.property("dma-noncoherent").is_some() {
            return false;
        }
        if here.property("dma-coherent").is_some() {
            return true;
        }
        node = here.parent();
    }
    false
}
