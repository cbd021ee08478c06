//! RAM of which no byte is what it was when it is read again, for tests: so none is read twice.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::queue::fake::{Driver, Offer};
use super::queue::{Buffer, Chain, Negotiated, Place, Virtqueue};
use super::ram::GuestRam;
use crate::addr::{Ipa, Region};
use crate::memory::{GuestMemory, OutsideRam, Store};
use crate::testing;

/// Where its RAM begins, and where its buffers do.
const BASE: u64 = 0x4000_0000;
const DATA: u64 = BASE + 0x2000;
const PAGES: u64 = 16;
const PLACE: Place =
    Place { size: 64, descriptors: BASE, driver: BASE + 0x800, device: BASE + 0x1000 };

/// RAM with a chain of buffers, one behind the other with a gap.
pub struct Once {
    ram: GuestMemory,
    pub chain: Chain,
    /// What is to be read at all, and what was.
    readable: Vec<Buffer>,
    read: RefCell<BTreeSet<u64>>,
}

impl Once {
    /// A chain that has `sent` in buffers of these sizes, and as many bytes as there are left in one more; and behind them room for so
    /// many.
    pub fn new(sent: &[u8], pieces: &[usize], room: &[u32]) -> Self {
        let ram = testing::ram(BASE, PAGES);
        let (mut readable, mut writable, mut at, mut left) = (Vec::new(), Vec::new(), DATA, sent);
        for size in pieces.iter().copied().chain([sent.len()]) {
            let (now, rest) = left.split_at(size.min(left.len()));
            left = rest;
            if !now.is_empty() {
                ram.write_from(Ipa::new(at), now).unwrap();
                readable
                    .push(Buffer { ipa: Ipa::new(at), size: u32::try_from(now.len()).unwrap() });
                at += now.len() as u64 + 8;
            }
        }
        for size in room {
            writable.push(Buffer { ipa: Ipa::new(at), size: *size });
            at += u64::from(*size) + 8;
        }
        let mut queue = Virtqueue::new(PLACE, Negotiated::default(), &ram).unwrap();
        let mut driver = Driver::new(PLACE, Negotiated::default(), 0);
        let offer = Offer { readable: readable.clone(), writable, indirect: false };
        driver.offer(&ram, &offer).unwrap();
        driver.show(&ram);
        let mut chain = Chain::default();
        assert_eq!(queue.take(&ram, &mut chain), Ok(true));
        Self { ram, chain, readable, read: RefCell::default() }
    }

    /// How many bytes were read.
    pub fn count(&self) -> usize {
        self.read.borrow().len()
    }

    /// Bytes from `ipa` on are read, and are others then.
    fn note(&self, ipa: Ipa, size: u64) -> &GuestMemory {
        let inside = |buffer: &Buffer| {
            Region::new(buffer.ipa, buffer.size.into()).unwrap().contains_bytes(ipa, size)
        };
        assert!(size == 0 || self.readable.iter().any(inside), "{ipa} is not to be read");
        for byte in ipa.raw()..ipa.raw() + size {
            assert!(self.read.borrow_mut().insert(byte), "{byte:#x} is read twice");
        }
        &self.ram
    }
}

impl GuestRam for Once {
    fn read_u16(&self, ipa: Ipa) -> Result<u16, OutsideRam> {
        self.note(ipa, 2).read(ipa)
    }
    fn write_u16(&self, ipa: Ipa, value: u16) -> Result<(), OutsideRam> {
        self.ram.write(ipa, value)
    }
    fn read_u32(&self, ipa: Ipa) -> Result<u32, OutsideRam> {
        self.note(ipa, 4).read(ipa)
    }
    fn write_u32(&self, ipa: Ipa, value: u32) -> Result<(), OutsideRam> {
        self.ram.write(ipa, value)
    }
    fn read_u64(&self, ipa: Ipa) -> Result<u64, OutsideRam> {
        self.note(ipa, 8).read(ipa)
    }
    fn write_u64(&self, ipa: Ipa, value: u64) -> Result<(), OutsideRam> {
        self.ram.write(ipa, value)
    }
    fn read_bytes(&self, ipa: Ipa, into: &mut [u8]) -> Result<(), OutsideRam> {
        self.note(ipa, into.len() as u64).read_into(ipa, into)
    }
    fn write_bytes(&self, ipa: Ipa, from: &[u8]) -> Result<(), OutsideRam> {
        self.ram.write_from(ipa, from)
    }
    fn copy_from(&self, ipa: Ipa, store: &Store, offset: u64, size: u64) -> Result<(), OutsideRam> {
        self.ram.copy_from(ipa, store, offset, size)
    }
    fn copy_to(&self, ipa: Ipa, store: &Store, offset: u64, size: u64) -> Result<(), OutsideRam> {
        self.note(ipa, size).copy_to(ipa, store, offset, size)
    }
    fn zero(&self, ipas: Region<Ipa>) -> Result<(), OutsideRam> {
        self.ram.zero(ipas)
    }
    fn holds(&self, ipas: &Region<Ipa>) -> bool {
        self.ram.contains(ipas)
    }
}
