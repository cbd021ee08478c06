//! Bytes that a device of the machine's is told to read or to write by itself.

use crate::addr::{PhysAddr, Region};

/// Bytes in a row, in frames of the pool. Only `memory` makes one: of a guest's RAM, and of a store.
///
/// Whoever gives one to a device keeps the frames until the device has done with it: frames that have gone back to the
/// pool may be another guest's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment(Region<PhysAddr>);

impl Segment {
    /// `region` lies in frames of the pool.
    pub(super) const fn new(region: Region<PhysAddr>) -> Self {
        Self(region)
    }

    /// Where it lies.
    pub const fn region(&self) -> Region<PhysAddr> {
        self.0
    }

    /// How many bytes; never none.
    pub fn size(&self) -> u64 {
        self.0.size()
    }
}
