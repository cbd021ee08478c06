//! From an address to registers: the only `unsafe` of the drivers.
//!
//! Whoever makes an [`Mmio`] vouches for the memory behind it; from there on bounds and alignment are
//! checked, and only the types listed at the end of this file can be laid over it.
#![allow(unsafe_code)]

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr;

use super::DriverError;
use crate::addr::{PhysAddr, Region};

/// A device's registers, as a range of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: usize,
    size: usize,
}

impl Mmio {
    /// The registers in `region`.
    ///
    /// # Safety
    ///
    /// The region is a device's registers and nothing else: no Rust object lies there. It can be
    /// accessed at its physical address for as long as any driver made from this exists, as Device
    /// memory or with the MMU off.
    pub unsafe fn new(region: Region<PhysAddr>) -> Self {
        let at_most = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self { base: at_most(region.start().raw()), size: at_most(region.size()) }
    }

    /// How many bytes.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// The `size` bytes from `offset`.
    pub fn part(&self, offset: usize, size: usize) -> Result<Self, DriverError> {
        let base = self.base.checked_add(offset).ok_or(DriverError::NoRegisters)?;
        match offset.checked_add(size) {
            Some(end) if end <= self.size => Ok(Self { base, size }),
            _ => Err(DriverError::NoRegisters),
        }
    }

    /// The registers `T` at `offset`.
    pub(super) fn block<T: RegisterBlock>(&self, offset: usize) -> Result<Block<T>, DriverError> {
        let part = self.part(offset, size_of::<T>())?;
        if part.base == 0 || !part.base.is_multiple_of(align_of::<T>()) {
            return Err(DriverError::NoRegisters);
        }
        Ok(Block { base: part.base, registers: PhantomData })
    }
}

/// A block of registers at a fixed address. Copies are the same device: whoever shares one between CPUs
/// keeps the read-modify-write methods under a lock.
pub(super) struct Block<T> {
    base: usize,
    registers: PhantomData<fn() -> T>,
}

impl<T> Clone for Block<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Block<T> {}

impl<T> fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.base)
    }
}

impl<T: RegisterBlock> Deref for Block<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: only `Mmio::block` makes a `Block`; it found the address aligned, not zero, and the
        // whole of `T` within a region that `Mmio::new`'s caller vouched for. `T` is a `RegisterBlock`.
        unsafe { &*ptr::with_exposed_provenance::<T>(self.base) }
    }
}

/// A type that can be laid over a device's registers.
///
/// # Safety
///
/// Made with `register_structs!`: every field is a volatile register or padding, which is never read,
/// and any value of any register is a valid one.
pub(super) unsafe trait RegisterBlock {}

// SAFETY: made with `register_structs!`.
unsafe impl RegisterBlock for super::pl011::Registers {}
// SAFETY: made with `register_structs!`.
unsafe impl RegisterBlock for super::mini_uart::Registers {}
// SAFETY: made with `register_structs!`.
unsafe impl RegisterBlock for super::bcm2835_pm::Registers {}
// SAFETY: made with `register_structs!`.
unsafe impl RegisterBlock for super::gic::Registers {}
// SAFETY: made with `register_structs!`.
unsafe impl RegisterBlock for super::gicv2::gicc::Registers {}
// SAFETY: made with `register_structs!`.
unsafe impl RegisterBlock for super::gicv2::gich::Registers {}
// SAFETY: made with `register_structs!`.
unsafe impl RegisterBlock for super::gicv3::Routing {}
// SAFETY: made with `register_structs!`.
unsafe impl RegisterBlock for super::gicv3::redistributor::Registers {}
