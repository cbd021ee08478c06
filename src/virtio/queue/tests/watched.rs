//! RAM whose writes are noted.

use core::cell::RefCell;

use super::super::*;
use crate::memory::{GuestMemory, OutsideRam, Store};

/// RAM whose writes are noted: where, and how many bytes.
pub struct Watched {
    pub ram: GuestMemory,
    pub writes: RefCell<Vec<(u64, u64)>>,
}

impl Watched {
    fn note(&self, ipa: Ipa, size: usize) -> &GuestMemory {
        self.writes.borrow_mut().push((ipa.raw(), size as u64));
        &self.ram
    }
}

impl GuestRam for Watched {
    fn read_u16(&self, ipa: Ipa) -> Result<u16, OutsideRam> {
        self.ram.read(ipa)
    }
    fn write_u16(&self, ipa: Ipa, value: u16) -> Result<(), OutsideRam> {
        self.note(ipa, 2).write(ipa, value)
    }
    fn read_u32(&self, ipa: Ipa) -> Result<u32, OutsideRam> {
        self.ram.read(ipa)
    }
    fn write_u32(&self, ipa: Ipa, value: u32) -> Result<(), OutsideRam> {
        self.note(ipa, 4).write(ipa, value)
    }
    fn read_u64(&self, ipa: Ipa) -> Result<u64, OutsideRam> {
        self.ram.read(ipa)
    }
    fn write_u64(&self, ipa: Ipa, value: u64) -> Result<(), OutsideRam> {
        self.note(ipa, 8).write(ipa, value)
    }
    fn read_bytes(&self, ipa: Ipa, into: &mut [u8]) -> Result<(), OutsideRam> {
        self.ram.read_into(ipa, into)
    }
    fn write_bytes(&self, ipa: Ipa, from: &[u8]) -> Result<(), OutsideRam> {
        self.note(ipa, from.len()).write_from(ipa, from)
    }
    fn copy_from(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        unreachable!("no queue copies to or from a store")
    }
    fn copy_to(&self, _: Ipa, _: &Store, _: u64, _: u64) -> Result<(), OutsideRam> {
        unreachable!("no queue copies to or from a store")
    }
    fn zero(&self, _: Region<Ipa>) -> Result<(), OutsideRam> {
        unreachable!("no queue zeroes anything")
    }
    fn holds(&self, ipas: &Region<Ipa>) -> bool {
        self.ram.contains(ipas)
    }
}
