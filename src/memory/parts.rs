//! RAM that becomes elastic, and where the bytes of an access to it are.

use alloc::boxed::Box;

use super::elastic::{Elastic, Means};
use super::guest::{GuestMemory, Piece};
use crate::addr::{Ipa, PhysAddr, Region};

/// In how many units an access to RAM with holes can be.
pub const MOST_UNITS: usize = 4;

/// What a unit has of the bytes of an access.
#[derive(Clone, Copy)]
pub(super) enum InUnit {
    /// They were found here.
    At(Region<PhysAddr>),
    /// They are in blocks that stay.
    Fixed(Region<Ipa>),
}

/// That of all units that the access is in.
pub(super) type Found = [Option<InUnit>; MOST_UNITS];

/// Where bytes are: in blocks that stay, or as they were found.
pub(super) enum Parts<A, B> {
    Fixed(A),
    Found(B),
}

impl<A, B> Iterator for Parts<A, B>
where
    A: Iterator<Item = Region<PhysAddr>>,
    B: Iterator<Item = Region<PhysAddr>>,
{
    type Item = Region<PhysAddr>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Fixed(parts) => parts.next(),
            Self::Found(parts) => parts.next(),
        }
    }
}

/// There is no heap to note where a VM's RAM is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoHeap;

impl GuestMemory {
    /// Makes its RAM, which is in one piece, such as can be taken from the VM in units: see [`super::elastic`]. Nothing is
    /// mapped yet.
    ///
    /// # Errors
    /// There is no heap for that, or no RAM; nothing has changed.
    pub fn make_elastic(&mut self, means: Means) -> Result<(), NoHeap> {
        let (Some(first), Some(last)) = (self.pieces.first(), self.pieces.last()) else {
            return Err(NoHeap);
        };
        let start = first.ipas.start();
        let size = last.ipas.last().raw() - start.raw() + 1;
        let ram = Region::new(start, size).filter(|ram| ram.size() == self.size());
        let elastic = ram.and_then(|ram| Elastic::new(ram, means)).ok_or(NoHeap)?;
        // In place: what is no unit stays.
        let pieces = core::mem::take(&mut self.pieces).into_iter();
        self.pieces = pieces
            .filter_map(|Piece { ipas, run }| {
                let run = elastic.put(ipas, run).err()?;
                Some(Piece { ipas, run })
            })
            .collect();
        self.elastic = Some(Box::new(elastic));
        Ok(())
    }

    /// Where `size` bytes from `ipa` on are, if all are in one unit. Not in the way of a VM that has none.
    #[inline(never)]
    pub(super) fn in_one_unit(&self, ipa: Ipa, size: u64) -> Option<PhysAddr> {
        self.elastic()?.in_one_unit(ipa, size)
    }
}
