//! A device for tests: memory that keeps what is written and does nothing about it.
#![allow(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;
use core::ptr;

use super::mmio::Mmio;
use crate::addr::{PhysAddr, Region};

/// Register pages that do not react.
pub struct FakePages {
    /// Page-aligned: more is allocated than used.
    memory: Vec<u64>,
    base: usize,
    size: usize,
}

impl FakePages {
    /// The most a GIC frame wants to be aligned to.
    const ALIGNMENT: usize = 0x1000;

    /// `size` bytes of zeroes.
    pub fn new(size: usize) -> Self {
        let mut memory = vec![0u64; (size + Self::ALIGNMENT) / 8];
        let base = memory.as_mut_ptr().expose_provenance().next_multiple_of(Self::ALIGNMENT);
        Self { memory, base, size }
    }

    /// The pages as a device's registers.
    pub fn mmio(&self) -> Mmio {
        let region = Region::new(PhysAddr::new(self.base as u64), self.size as u64).unwrap();
        // SAFETY: nothing but volatile accesses touch the memory, here and in the drivers, and a test
        // keeps the pages for longer than the driver.
        unsafe { Mmio::new(region) }
    }

    fn address<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.size && !self.memory.is_empty());
        ptr::with_exposed_provenance_mut(self.base + offset)
    }

    /// The value at `offset`.
    pub fn read<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: `address` checked the bounds; tests read integers at the manuals' aligned offsets.
        unsafe { self.address::<T>(offset).read_volatile() }
    }

    /// The word at `offset`.
    pub fn word(&self, offset: usize) -> u32 {
        self.read(offset)
    }

    /// Puts a value at `offset`.
    pub fn write<T: Copy>(&self, offset: usize, value: T) {
        // SAFETY: as for `read`.
        unsafe { self.address::<T>(offset).write_volatile(value) }
    }
}
