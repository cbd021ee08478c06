//! A VM's RAM, reached through its IPAs.
//!
//! Every access is checked against the RAM the VM owns, copies by value, and never panics: what lies
//! outside is [`OutsideRam`], and then nothing was read or written. The guest may change its RAM at any
//! time, so what is checked must be a copy. Stage 2 has no say here: RAM that is write-protected in the
//! guest's view (to notice its writes) can still be written by its devices.
//!
//! The hypervisor's accesses are cacheable. A guest that runs with its caches off sees them after
//! [`GuestMemory::clean_to_poc`].

use alloc::vec::Vec;

use super::frames::{Clean, FramePool, Frames, Run};
use super::maintenance::Maintenance;
use super::phys::{self, Word};
use super::stage2::{MapError, Mapping, MemoryType, Perms, Stage2, TableFrames};
use crate::addr::{Ipa, PhysAddr, Region};

/// Not all of the bytes from `ipa` on are RAM of this VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{size} bytes at {ipa} are not all guest RAM")]
pub struct OutsideRam {
    /// The first byte of the access.
    pub ipa: Ipa,
    /// How many bytes.
    pub size: u64,
}

/// The frames do not fit where they were to be: something is there, or the address space ends, or the
/// address is no multiple of 4 KiB. They are given back.
#[derive(Debug)]
pub struct RamOverlap(pub Frames<Clean>);

/// One block of RAM.
#[derive(Debug)]
struct Piece {
    ipas: Region<Ipa>,
    run: Run,
}

/// A VM's RAM. It owns the frames.
#[must_use = "its frames are lost unless they are released"]
#[derive(Debug, Default)]
pub struct GuestMemory {
    /// By address; no two overlap.
    pieces: Vec<Piece>,
}

impl GuestMemory {
    /// No RAM.
    pub const fn new() -> Self {
        Self { pieces: Vec::new() }
    }

    /// Adds RAM: the blocks of `frames`, one after the other, from `base` on.
    pub fn add(&mut self, base: Ipa, frames: Frames<Clean>) -> Result<(), RamOverlap> {
        let size = frames.size();
        if size == 0 {
            return Ok(());
        }
        let fits = Region::new(base, size).filter(|ipas| {
            base.page_offset() == 0 && self.pieces.iter().all(|piece| !piece.ipas.overlaps(ipas))
        });
        if fits.is_none() || self.pieces.try_reserve(frames.regions().len()).is_err() {
            return Err(RamOverlap(frames));
        }
        let mut at = base.raw();
        for run in frames.into_runs() {
            let size = run.size();
            let ipas = Region::new(Ipa::new(at), size).expect("a part of a region that fits");
            at = at.wrapping_add(size);
            self.pieces.push(Piece { ipas, run });
        }
        self.pieces.sort_unstable_by_key(|piece| piece.ipas.start());
        Ok(())
    }

    /// Gives all frames back to the pool. [`Stage2::destroy`] comes before, and so does the end of
    /// whatever a device still has under way.
    pub fn release(self, pool: &mut FramePool) {
        self.pieces.into_iter().for_each(|piece| pool.give_back(piece.run));
    }

    /// How many bytes in all.
    pub fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.ipas.size()).sum()
    }

    /// The RAM by block, in order of address.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = (Region<Ipa>, PhysAddr)> {
        self.pieces.iter().map(|piece| (piece.ipas, piece.run.start()))
    }

    /// Maps all of it. All or, with an error, nothing.
    pub fn map(
        &self,
        stage2: &mut Stage2,
        perms: Perms,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<(), MapError> {
        for (done, piece) in self.pieces.iter().enumerate() {
            let to = Mapping { pa: piece.run.start(), memory: MemoryType::Ram, perms };
            if let Err(error) = stage2.map(piece.ipas, to, tables, cpu) {
                for mapped in self.pieces.iter().take(done) {
                    // Whole blocks as they were mapped, so nothing is split and nothing can fail.
                    let _ = stage2.unmap(mapped.ipas, tables, cpu);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether all of `ipas` is RAM.
    pub fn contains(&self, ipas: &Region<Ipa>) -> bool {
        self.pieces(*ipas).is_ok()
    }

    /// Where the bytes of `ipas` lie, in order of address.
    pub fn pieces(
        &self,
        ipas: Region<Ipa>,
    ) -> Result<impl Iterator<Item = Region<PhysAddr>> + use<'_>, OutsideRam> {
        let outside = OutsideRam { ipa: ipas.start(), size: ipas.size() };
        let first = self.pieces.partition_point(|piece| piece.ipas.last() < ipas.start());
        let touched = self.pieces.get(first..).unwrap_or_default();
        let mut next = ipas.start();
        let mut count = 0;
        for piece in touched {
            if !piece.ipas.contains(next) {
                return Err(outside);
            }
            count += 1;
            match piece.ipas.end() {
                Some(end) if end <= ipas.last() => next = end,
                _ => return Ok(physical(touched.get(..count).unwrap_or_default(), ipas)),
            }
        }
        Err(outside)
    }

    /// Reads an integer; in one access where it is aligned.
    pub fn read<T: Word>(&self, ipa: Ipa) -> Result<T, OutsideRam> {
        match self.aligned::<T>(ipa) {
            Some(at) => Ok(phys::read(at)),
            None => {
                let mut bytes = [0; 8];
                let len = bytes.len().min(word_len::<T>());
                self.read_into(ipa, &mut bytes[..len])?;
                Ok(T::from_u64(u64::from_le_bytes(bytes)))
            }
        }
    }

    /// Writes an integer; in one access where it is aligned.
    pub fn write<T: Word>(&self, ipa: Ipa, value: T) -> Result<(), OutsideRam> {
        match self.aligned::<T>(ipa) {
            Some(at) => phys::write(at, value),
            None => {
                let bytes = value.to_u64().to_le_bytes();
                let len = bytes.len().min(word_len::<T>());
                self.write_from(ipa, &bytes[..len])?;
            }
        }
        Ok(())
    }

    /// Copies guest RAM from `ipa` on into `into`.
    pub fn read_into(&self, ipa: Ipa, mut into: &mut [u8]) -> Result<(), OutsideRam> {
        let Some(ipas) = bytes(ipa, into.len())? else { return Ok(()) };
        for piece in self.pieces(ipas)? {
            let len = slice_len(&piece).min(into.len());
            let (now, later) = into.split_at_mut(len);
            phys::read_into(piece.start(), now);
            into = later;
        }
        Ok(())
    }

    /// Copies `from` to guest RAM from `ipa` on.
    pub fn write_from(&self, ipa: Ipa, mut from: &[u8]) -> Result<(), OutsideRam> {
        let Some(ipas) = bytes(ipa, from.len())? else { return Ok(()) };
        for piece in self.pieces(ipas)? {
            let len = slice_len(&piece).min(from.len());
            let (now, later) = from.split_at(len);
            phys::write_from(piece.start(), now);
            from = later;
        }
        Ok(())
    }

    /// Zeroes `ipas`.
    pub fn zero(&self, ipas: Region<Ipa>) -> Result<(), OutsideRam> {
        self.pieces(ipas)?.for_each(phys::zero);
        Ok(())
    }

    /// Makes what was written to `ipas` visible to a guest that runs with its caches off.
    pub fn clean_to_poc(
        &self,
        ipas: Region<Ipa>,
        cpu: &impl Maintenance,
    ) -> Result<(), OutsideRam> {
        self.pieces(ipas)?.for_each(|piece| cpu.clean_to_poc(piece));
        Ok(())
    }

    /// As [`clean_to_poc`](Self::clean_to_poc), and what such a guest writes is seen here afterwards.
    pub fn clean_invalidate_to_poc(
        &self,
        ipas: Region<Ipa>,
        cpu: &impl Maintenance,
    ) -> Result<(), OutsideRam> {
        self.pieces(ipas)?.for_each(|piece| cpu.clean_invalidate_to_poc(piece));
        Ok(())
    }

    /// Makes code that was written to `ipas` executable by the guest.
    pub fn sync_instructions(
        &self,
        ipas: Region<Ipa>,
        cpu: &impl Maintenance,
    ) -> Result<(), OutsideRam> {
        self.pieces(ipas)?.for_each(|piece| cpu.sync_instructions(piece));
        Ok(())
    }

    /// Where the integer at `ipa` lies, when one access reaches it.
    fn aligned<T: Word>(&self, ipa: Ipa) -> Option<PhysAddr> {
        let index = self.pieces.partition_point(|piece| piece.ipas.last() < ipa);
        let piece = self.pieces.get(index)?;
        // Blocks are whole pages, so an aligned integer does not leave the one it starts in.
        let offset = ipa.offset_from(piece.ipas.start())?;
        ipa.is_aligned(T::SIZE).then(|| piece.run.start().checked_add(offset))?
    }
}

/// The parts of `pieces` that `ipas` names. `ipas` touches every one of them.
fn physical(
    pieces: &[Piece],
    ipas: Region<Ipa>,
) -> impl Iterator<Item = Region<PhysAddr>> + use<'_> {
    pieces.iter().filter_map(move |piece| {
        let part = piece.ipas.intersection(&ipas)?;
        let offset = part.start().offset_from(piece.ipas.start())?;
        Region::new(piece.run.start().checked_add(offset)?, part.size())
    })
}

/// The `len` bytes from `ipa` on; none when `len` is zero.
fn bytes(ipa: Ipa, len: usize) -> Result<Option<Region<Ipa>>, OutsideRam> {
    let size = len as u64;
    match Region::new(ipa, size) {
        None if size > 0 => Err(OutsideRam { ipa, size }),
        region => Ok(region),
    }
}

fn slice_len(piece: &Region<PhysAddr>) -> usize {
    usize::try_from(piece.size()).unwrap_or(usize::MAX)
}

fn word_len<T>() -> usize {
    size_of::<T>()
}
