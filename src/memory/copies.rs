//! Copies between a VM's RAM and other memory: another VM's, or what the hypervisor keeps.

use super::guest::{GuestMemory, OutsideEither, OutsideRam};
use super::phys;
use super::store::Store;
use crate::addr::{Ipa, PhysAddr, Region};

impl GuestMemory {
    /// Copies `size` bytes, which leave no frame, from `offset` of `store` to guest RAM from `ipa` on.
    pub fn copy_from(
        &self,
        ipa: Ipa,
        store: &Store,
        offset: u64,
        size: u64,
    ) -> Result<(), OutsideRam> {
        self.beside(ipa, store, offset, size, phys::copy)
    }

    /// Copies `size` bytes of guest RAM from `ipa` on to `offset` of `store`, where they leave no frame.
    pub fn copy_to(
        &self,
        ipa: Ipa,
        store: &Store,
        offset: u64,
        size: u64,
    ) -> Result<(), OutsideRam> {
        self.beside(ipa, store, offset, size, |ours, theirs, size| phys::copy(theirs, ours, size))
    }

    /// Copies `size` bytes of guest RAM from `ipa` on to another guest's, from `to` on.
    ///
    /// # Errors
    /// Not all of them are RAM, there or here; nothing was copied.
    pub fn copy_to_guest(
        &self,
        ipa: Ipa,
        other: &Self,
        to: Ipa,
        size: u64,
    ) -> Result<(), OutsideEither> {
        let both = (self.span(ipa, size), other.span(to, size));
        if let (Some(from), Some(to)) = both {
            phys::copy(from, to, size);
            return Ok(());
        }
        let here = OutsideEither::From(OutsideRam { ipa, size });
        let there = OutsideEither::To(OutsideRam { ipa: to, size });
        let ours = self.pieces(Region::new(ipa, size).ok_or(here)?).map_err(|_| here)?;
        let mut theirs = other.pieces(Region::new(to, size).ok_or(there)?).map_err(|_| there)?;
        // Both have as many bytes; pieces end where either's end.
        let mut target: Option<Region<PhysAddr>> = None;
        for source in ours {
            let (mut at, mut left) = (source.start(), source.size());
            while left > 0 {
                let Some(into) = target.take().or_else(|| theirs.next()) else { return Ok(()) };
                let now = into.size().min(left);
                phys::copy(at, into.start(), now);
                let (Some(next), Some(behind)) =
                    (at.checked_add(now), into.start().checked_add(now))
                else {
                    return Ok(());
                };
                (at, left) = (next, left - now);
                target = Region::new(behind, into.size() - now);
            }
        }
        Ok(())
    }

    /// What of `store` and what of guest RAM belong together, piece by piece.
    #[inline]
    fn beside(
        &self,
        ipa: Ipa,
        store: &Store,
        offset: u64,
        size: u64,
        mut each: impl FnMut(PhysAddr, PhysAddr, u64),
    ) -> Result<(), OutsideRam> {
        let ours = store.within(offset, size);
        if let Some(at) = self.span(ipa, size) {
            each(ours, at, size);
            return Ok(());
        }
        let ipas = Region::new(ipa, size).ok_or(OutsideRam { ipa, size })?;
        let mut ours = ours.raw();
        for piece in self.pieces(ipas)? {
            each(PhysAddr::new(ours), piece.start(), piece.size());
            ours = ours.wrapping_add(piece.size());
        }
        Ok(())
    }
}
