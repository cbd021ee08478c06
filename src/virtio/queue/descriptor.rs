//! Descriptors, which describe buffers in rings of both formats, and in tables beside them (VIRTIO 1.2, "The Virtqueue
//! Descriptor Table", "The Virtqueue Descriptor Format"). Two words of eight bytes each: the address, and the rest.

use super::{Bad, Buffer, Chain};
use crate::addr::Ipa;
use crate::virtio::ram::GuestRam;

/// `struct virtq_desc`, `struct pvirtq_desc`: bytes.
pub(super) const DESCRIPTOR: u64 = 16;
/// Where the second word is.
pub(super) const REST: u64 = 8;

/// Flags: the chain goes on; the device writes the buffer; the buffer is a table of descriptors.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// A copy of a descriptor.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    ipa: u64,
    size: u32,
    pub flags: u16,
    /// In a split ring the number of the chain's next one, in a packed ring the buffer's ID.
    pub number: u16,
}

impl Descriptor {
    /// Of a split ring: the number comes last.
    pub fn split(ipa: u64, rest: u64) -> Self {
        let [a, b, c, d, flags @ .., e, f] = rest.to_le_bytes();
        let (flags, number) = (u16::from_le_bytes(flags), u16::from_le_bytes([e, f]));
        Self { ipa, size: u32::from_le_bytes([a, b, c, d]), flags, number }
    }

    /// Of a packed ring: the flags come last.
    pub fn packed(ipa: u64, rest: u64) -> Self {
        let Self { size, flags, number, .. } = Self::split(ipa, rest);
        Self { ipa, size, flags: number, number: flags }
    }

    /// Puts the buffer into `chain`.
    #[inline(always)]
    pub fn append_to(self, chain: &mut Chain) -> Result<(), Bad> {
        let buffer = Buffer { ipa: Ipa::new(self.ipa), size: self.size };
        chain.append(buffer, self.flags & WRITE != 0)
    }

    /// The table that an indirect descriptor stands for, which has at most `most` entries.
    pub fn table(self, most: u16) -> Result<Table, Bad> {
        let whole = self.size != 0 && u64::from(self.size) % DESCRIPTOR == 0;
        let entries = u16::try_from(u64::from(self.size) / DESCRIPTOR).ok();
        let entries = entries.filter(|entries| whole && *entries <= most);
        Ok(Table { at: self.ipa, entries: entries.ok_or(Bad::Table(self.size))? })
    }
}

/// Descriptors one after the other.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub at: u64,
    pub entries: u16,
}

impl Table {
    /// The two words of entry `number`.
    #[inline(always)]
    pub fn read(self, ram: &impl GuestRam, number: u16) -> Result<(u64, u64), Bad> {
        if number >= self.entries {
            return Err(Bad::Descriptor(number));
        }
        let at = self.at.wrapping_add(DESCRIPTOR * u64::from(number));
        let [ipa, rest] = ram.read_pair(Ipa::new(at))?;
        Ok((ipa, rest))
    }
}
