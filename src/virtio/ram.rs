//! A guest's RAM as its devices reach it.
//!
//! The driver on the other side runs at the same time and may change anything at any moment: each word is read once,
//! by value, and what is checked is that copy. A VM gets its RAM at its first start, after its devices were made:
//! before, nothing is RAM.

use alloc::sync::Arc;

use crate::addr::{Ipa, Region};
use crate::memory::{GuestMemory, OutsideRam, Store};
use crate::sync::Once;

/// RAM that a device may reach.
///
/// Integers are read from rings, whose places have been checked when they were put there; wherever else a guest leads to, it is
/// by pairs and bytes, of which nothing is read where a CPU only guesses that it is RAM.
pub trait GuestRam {
    /// Writes the byte at `ipa`.
    ///
    /// # Errors
    /// It is not RAM.
    fn write_u8(&self, ipa: Ipa, value: u8) -> Result<(), OutsideRam> {
        self.write_bytes(ipa, &[value])
    }

    /// Reads the little-endian 16-bit word at `ipa`, in one access where it is aligned.
    ///
    /// # Errors
    /// Not all of it is RAM.
    fn read_u16(&self, ipa: Ipa) -> Result<u16, OutsideRam>;

    /// Writes the little-endian 16-bit word at `ipa`, in one access where it is aligned.
    ///
    /// # Errors
    /// Not all of it is RAM; nothing was written.
    fn write_u16(&self, ipa: Ipa, value: u16) -> Result<(), OutsideRam>;

    /// Reads the little-endian 32-bit word at `ipa`, in one access where it is aligned.
    ///
    /// # Errors
    /// Not all of it is RAM.
    fn read_u32(&self, ipa: Ipa) -> Result<u32, OutsideRam>;

    /// Writes the little-endian 32-bit word at `ipa`, in one access where it is aligned.
    ///
    /// # Errors
    /// Not all of it is RAM; nothing was written.
    fn write_u32(&self, ipa: Ipa, value: u32) -> Result<(), OutsideRam>;

    /// Writes two little-endian 32-bit words from `ipa` on, each in one access where they are aligned.
    ///
    /// # Errors
    /// Not all of them are RAM.
    fn write_words(&self, ipa: Ipa, [first, second]: [u32; 2]) -> Result<(), OutsideRam> {
        let behind = ipa.checked_add(4).ok_or(OutsideRam { ipa, size: 8 })?;
        self.write_u32(ipa, first)?;
        self.write_u32(behind, second)
    }

    /// Reads the little-endian 64-bit word at `ipa`, in one access where it is aligned.
    ///
    /// # Errors
    /// Not all of it is RAM.
    fn read_u64(&self, ipa: Ipa) -> Result<u64, OutsideRam>;

    /// Reads two little-endian 64-bit words from `ipa` on, each in one access where they are aligned.
    ///
    /// # Errors
    /// Not all of them are RAM.
    fn read_pair(&self, ipa: Ipa) -> Result<[u64; 2], OutsideRam> {
        let second = ipa.checked_add(8).ok_or(OutsideRam { ipa, size: 16 })?;
        Ok([self.read_u64(ipa)?, self.read_u64(second)?])
    }

    /// Writes the little-endian 64-bit word at `ipa`, in one access where it is aligned.
    ///
    /// # Errors
    /// Not all of it is RAM; nothing was written.
    fn write_u64(&self, ipa: Ipa, value: u64) -> Result<(), OutsideRam>;

    /// Reads the bytes from `ipa` on, each once.
    ///
    /// # Errors
    /// Not all of them are RAM.
    fn read_bytes(&self, ipa: Ipa, into: &mut [u8]) -> Result<(), OutsideRam>;

    /// Writes the bytes from `ipa` on.
    ///
    /// # Errors
    /// Not all of them are RAM; nothing was written.
    fn write_bytes(&self, ipa: Ipa, from: &[u8]) -> Result<(), OutsideRam>;

    /// Writes `size` bytes, which leave no frame of `store`, from its `offset` on to the bytes from `ipa` on.
    ///
    /// # Errors
    /// Not all of them are RAM; nothing was written.
    fn copy_from(&self, ipa: Ipa, store: &Store, offset: u64, size: u64) -> Result<(), OutsideRam>;

    /// Reads `size` bytes from `ipa` on, each once, to `offset` of `store`, where they leave no frame.
    ///
    /// # Errors
    /// Not all of them are RAM; nothing was read.
    fn copy_to(&self, ipa: Ipa, store: &Store, offset: u64, size: u64) -> Result<(), OutsideRam>;

    /// Zeroes `ipas`.
    ///
    /// # Errors
    /// Not all of it is RAM; nothing was written.
    fn zero(&self, ipas: Region<Ipa>) -> Result<(), OutsideRam>;

    /// Whether all of `ipas` is RAM.
    fn holds(&self, ipas: &Region<Ipa>) -> bool;

    /// The memory itself, while there is some.
    fn memory(&self) -> Option<&GuestMemory> {
        None
    }
}

impl GuestRam for GuestMemory {
    #[inline]
    fn write_u8(&self, ipa: Ipa, value: u8) -> Result<(), OutsideRam> {
        self.write(ipa, value)
    }

    #[inline]
    fn read_u16(&self, ipa: Ipa) -> Result<u16, OutsideRam> {
        self.read_placed(ipa)
    }

    #[inline]
    fn write_u16(&self, ipa: Ipa, value: u16) -> Result<(), OutsideRam> {
        self.write(ipa, value)
    }

    #[inline]
    fn read_u32(&self, ipa: Ipa) -> Result<u32, OutsideRam> {
        self.read_placed(ipa)
    }

    #[inline]
    fn write_u32(&self, ipa: Ipa, value: u32) -> Result<(), OutsideRam> {
        self.write(ipa, value)
    }

    #[inline]
    fn write_words(&self, ipa: Ipa, words: [u32; 2]) -> Result<(), OutsideRam> {
        self.write_pair(ipa, words)
    }

    #[inline]
    fn read_u64(&self, ipa: Ipa) -> Result<u64, OutsideRam> {
        self.read_placed(ipa)
    }

    #[inline(always)]
    fn read_pair(&self, ipa: Ipa) -> Result<[u64; 2], OutsideRam> {
        Self::read_pair(self, ipa)
    }

    #[inline]
    fn write_u64(&self, ipa: Ipa, value: u64) -> Result<(), OutsideRam> {
        self.write(ipa, value)
    }

    fn read_bytes(&self, ipa: Ipa, into: &mut [u8]) -> Result<(), OutsideRam> {
        self.read_into(ipa, into)
    }

    fn write_bytes(&self, ipa: Ipa, from: &[u8]) -> Result<(), OutsideRam> {
        self.write_from(ipa, from)
    }

    fn copy_from(&self, ipa: Ipa, store: &Store, offset: u64, size: u64) -> Result<(), OutsideRam> {
        Self::copy_from(self, ipa, store, offset, size)
    }

    fn copy_to(&self, ipa: Ipa, store: &Store, offset: u64, size: u64) -> Result<(), OutsideRam> {
        Self::copy_to(self, ipa, store, offset, size)
    }

    fn zero(&self, ipas: Region<Ipa>) -> Result<(), OutsideRam> {
        Self::zero(self, ipas)
    }

    fn holds(&self, ipas: &Region<Ipa>) -> bool {
        self.contains(ipas)
    }

    fn memory(&self) -> Option<&GuestMemory> {
        Some(self)
    }
}

/// Where a device finds its guest's RAM, once there is some.
pub trait RamSource {
    /// The RAM.
    type Ram: GuestRam;

    /// `None` as long as there is none.
    fn ram(&self) -> Option<&Self::Ram>;
}

impl<R: GuestRam> RamSource for R {
    type Ram = Self;

    #[inline]
    fn ram(&self) -> Option<&Self> {
        Some(self)
    }
}

/// A VM's RAM, shared by the VM, which owns it, and its devices.
pub type SharedRam = Arc<Once<GuestMemory>>;

impl RamSource for SharedRam {
    type Ram = GuestMemory;

    #[inline]
    fn ram(&self) -> Option<&GuestMemory> {
        self.get()
    }
}
