//! A VM's RAM, reached through its IPAs.
//!
//! Every access is checked against the RAM the VM owns, copies by value, and never panics: what lies
//! outside is [`OutsideRam`], and then nothing was read or written. The guest may change its RAM at any
//! time, so what is checked must be a copy. Stage 2 has no say here: RAM that is write-protected in the
//! guest's view (to notice its writes) can still be written by its devices.
//!
//! The hypervisor's accesses are cacheable. A guest that runs with its caches off sees them after
//! [`GuestMemory::clean_to_poc`].

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::elastic::{Elastic, Place, UNIT};
use super::frames::{Clean, FramePool, Frames, Run};
use super::maintenance::Maintenance;
use super::parts::{Found, InUnit, Parts};
use super::phys::{self, Word};
use super::segment::Segment;
use super::stage2::{MapError, Mapping, MemoryType, Perms, Stage2, TableFrames};
use crate::addr::{Ipa, PhysAddr, Region};
use crate::speculation;

/// Not all of the bytes from `ipa` on are RAM of this VM.
#[derive(
    Clone, Copy, Debug, Eq, PartialEq, thiserror::Error, serde::Serialize, serde::Deserialize,
)]
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
pub(super) struct Piece {
    pub(super) ipas: Region<Ipa>,
    pub(super) run: Run,
}

impl Piece {
    /// Where `ipa` lies, if it is in it.
    #[inline(always)]
    fn at(&self, ipa: Ipa) -> Option<PhysAddr> {
        let start = self.ipas.start().raw();
        let offset = ipa.raw().wrapping_sub(start);
        let offset = speculation::within(offset, self.ipas.last().raw().wrapping_sub(start))?;
        Some(PhysAddr::new(self.run.start().raw().wrapping_add(offset)))
    }

    /// Where `size` bytes from `ipa` on lie, if all of them are in it: to be copied, not to be gone by. So it does not matter
    /// where a CPU that guesses would have it.
    #[inline]
    fn span(&self, ipa: Ipa, size: u64) -> Option<PhysAddr> {
        let start = self.ipas.start().raw();
        let offset = ipa.raw().wrapping_sub(start);
        let last = self.ipas.last().raw().wrapping_sub(start);
        // Of no bytes, the last one is out of reach.
        let inside = offset <= last && size.wrapping_sub(1) <= last - offset;
        inside.then(|| PhysAddr::new(self.run.start().raw().wrapping_add(offset)))
    }

    /// Where `size` bytes from `ipa` on lie, if all of them are in it.
    #[inline]
    fn find(&self, ipa: Ipa, size: u64) -> Option<PhysAddr> {
        let start = self.ipas.start().raw();
        let offset = ipa.raw().wrapping_sub(start);
        let last = self.ipas.last().raw().wrapping_sub(start);
        let offset = speculation::inside(offset, last, size)?;
        Some(PhysAddr::new(self.run.start().raw().wrapping_add(offset)))
    }
}

/// A VM's RAM. It owns the frames.
#[must_use = "its frames are lost unless they are released"]
#[derive(Debug, Default)]
pub struct GuestMemory {
    /// By address; no two overlap. What is in units is not among them.
    pub(super) pieces: Vec<Piece>,
    /// The units of a VM that can be without some of its RAM.
    pub(super) elastic: Option<Box<Elastic>>,
}

/// Not all of the bytes to be copied are RAM.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OutsideEither {
    /// Where they come from.
    #[error("{0}")]
    From(OutsideRam),
    /// Where they go.
    #[error("{0}")]
    To(OutsideRam),
}

impl GuestMemory {
    /// No RAM.
    pub const fn new() -> Self {
        Self { pieces: Vec::new(), elastic: None }
    }

    /// Its units, if it can be without some.
    pub fn elastic(&self) -> Option<&Elastic> {
        self.elastic.as_deref()
    }

    /// The VM's translation is about to be destroyed.
    pub fn close(&mut self) {
        if let Some(elastic) = &mut self.elastic {
            elastic.close();
        }
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
        let place = self.pieces.partition_point(|piece| piece.ipas.start() < base);
        for (place, run) in (place..).zip(frames.into_runs()) {
            let size = run.size();
            let ipas = Region::new(Ipa::new(at), size).expect("a part of a region that fits");
            at = at.wrapping_add(size);
            self.pieces.insert(place, Piece { ipas, run });
        }
        Ok(())
    }

    /// Gives all frames back to the pool. [`Stage2::destroy`] comes before, and so does the end of
    /// whatever a device still has under way.
    pub fn release(mut self, pool: &mut FramePool) {
        while !self.release_some(pool) {}
    }

    /// The same a step at a time. Returns whether that was all.
    pub fn release_some(&mut self, pool: &mut FramePool) -> bool {
        pool.take_some(&mut self.pieces, |piece| piece.run)
            && self.elastic.as_mut().is_none_or(|elastic| elastic.release_some(pool))
    }

    /// How many bytes in all, holes among them.
    pub fn size(&self) -> u64 {
        if let Some(elastic) = &self.elastic {
            return elastic.ram().size();
        }
        self.pieces.iter().map(|piece| piece.ipas.size()).sum()
    }

    /// The RAM that there is: blocks that stay, in order of address, and then what can be taken.
    pub fn blocks(&self) -> impl Iterator<Item = (Region<Ipa>, PhysAddr)> {
        let pieces = self.pieces.iter().map(|piece| (piece.ipas, piece.run.start()));
        pieces.chain(self.elastic.iter().flat_map(|elastic| elastic.present()))
    }

    /// Maps all of it. All or, with an error, nothing.
    pub fn map(
        &self,
        stage2: &mut Stage2,
        perms: Perms,
        tables: &mut impl TableFrames,
        cpu: &impl Maintenance,
    ) -> Result<(), MapError> {
        let mut done = 0_usize;
        for (ipas, pa) in self.blocks() {
            let to = Mapping { pa, memory: MemoryType::Ram, perms };
            if let Err(error) = stage2.map(ipas, to, tables, cpu) {
                for (mapped, _) in self.blocks().take(done) {
                    // Whole blocks as they were mapped, so nothing is split and nothing can fail.
                    let _ = stage2.unmap(mapped, tables, cpu);
                }
                return Err(error);
            }
            done = done.saturating_add(1);
        }
        Ok(())
    }

    /// Whether all of `ipas` is RAM, or a hole.
    pub fn contains(&self, ipas: &Region<Ipa>) -> bool {
        match &self.elastic {
            Some(elastic) => elastic.ram().contains_region(ipas),
            None => self.pieces(*ipas).is_ok(),
        }
    }

    /// Where the bytes of `ipas` lie, in order of address. What is found stays until this CPU's next step.
    ///
    /// # Errors
    /// They are not all RAM; or there is a hole, or RAM with holes is in more than [`MOST_UNITS`](super::parts::MOST_UNITS) units.
    #[inline]
    pub fn pieces(
        &self,
        ipas: Region<Ipa>,
    ) -> Result<impl Iterator<Item = Region<PhysAddr>> + use<'_>, OutsideRam> {
        Ok(match &self.elastic {
            None => Parts::Fixed(self.fixed(ipas)?),
            Some(elastic) => {
                let found = self.units(elastic, ipas)?.into_iter().flatten();
                Parts::Found(found.flat_map(|part| match part {
                    InUnit::At(at) => Parts::Found(core::iter::once(at)),
                    InUnit::Fixed(ipas) => Parts::Fixed(self.fixed(ipas).into_iter().flatten()),
                }))
            }
        })
    }

    /// The same for RAM that can be taken away: each place is looked up once.
    fn units(&self, elastic: &Elastic, ipas: Region<Ipa>) -> Result<Found, OutsideRam> {
        let mut found = Found::default();
        let outside = OutsideRam { ipa: ipas.start(), size: ipas.size() };
        if !elastic.ram().contains_region(&ipas) {
            return Err(outside);
        }
        let mut rest = Some(ipas);
        let mut places = found.iter_mut();
        while let Some(part) = rest {
            let (start, in_unit) = (part.start(), UNIT - part.start().raw() % UNIT);
            let (now, later) = part.split_front(in_unit);
            let here = match elastic.find(start) {
                Place::At(at) => InUnit::At(Region::new(at, now.size()).ok_or(outside)?),
                Place::Hole => return Err(outside),
                Place::Fixed => {
                    drop(self.fixed(now)?);
                    InUnit::Fixed(now)
                }
            };
            *places.next().ok_or(outside)? = Some(here);
            rest = later;
        }
        Ok(found)
    }

    /// Where the bytes of `ipas` lie, which are in no unit.
    #[inline]
    fn fixed(
        &self,
        ipas: Region<Ipa>,
    ) -> Result<impl Iterator<Item = Region<PhysAddr>> + use<'_>, OutsideRam> {
        let outside = OutsideRam { ipa: ipas.start(), size: ipas.size() };
        let first = self.pieces.partition_point(|piece| piece.ipas.last() < ipas.start());
        let touched = self.pieces.get(first..).unwrap_or_default();
        let mut next = ipas.start();
        for (before, piece) in touched.iter().enumerate() {
            if !piece.ipas.contains(next) {
                return Err(outside);
            }
            match piece.ipas.end() {
                Some(end) if end <= ipas.last() => next = end,
                _ => return Ok(physical(touched.get(..=before).unwrap_or_default(), ipas)),
            }
        }
        Err(outside)
    }

    /// The bytes of `ipas` for a device of the machine's, in order of address. They stay where they are until
    /// [`unpin`](Self::unpin), which is due when the device has done with them: then and only then, once for each call
    /// that succeeded, by the same `ipas`.
    ///
    /// # Errors
    /// They are not all RAM, or there is a hole; nothing is held.
    pub fn segments(
        &self,
        ipas: Region<Ipa>,
    ) -> Result<impl Iterator<Item = Segment> + use<'_>, OutsideRam> {
        let outside = OutsideRam { ipa: ipas.start(), size: ipas.size() };
        if self.elastic().is_some_and(|elastic| !elastic.pin(&ipas)) {
            return Err(outside);
        }
        let found = self.pieces(ipas).inspect_err(|_| self.unpin(ipas))?;
        Ok(found.map(Segment::new))
    }

    /// A device of the machine's has done with the [`segments`](Self::segments) of `ipas`.
    pub fn unpin(&self, ipas: Region<Ipa>) {
        if let Some(elastic) = &self.elastic {
            elastic.unpin(&ipas);
        }
    }

    /// Reads an integer; in one access where it is aligned.
    #[inline]
    pub fn read<T: Word>(&self, ipa: Ipa) -> Result<T, OutsideRam> {
        match self.aligned::<T>(ipa) {
            Some(at) => Ok(phys::read(at)),
            None => self.read_by_bytes(ipa),
        }
    }

    /// The same where it was found to be RAM before, as of a ring when it was put there: there is nothing to be guessed.
    #[inline]
    pub fn read_placed<T: Word>(&self, ipa: Ipa) -> Result<T, OutsideRam> {
        match self.aligned_placed::<T>(ipa) {
            Some(at) => Ok(phys::read(at)),
            None => self.read_by_bytes(ipa),
        }
    }

    /// Reads two double words; each in one access where they are aligned.
    #[inline(always)]
    pub fn read_pair(&self, ipa: Ipa) -> Result<[u64; 2], OutsideRam> {
        // Blocks are whole pages: of a descriptor, which is aligned, all is where it begins.
        let at = if ipa.is_aligned(16) { self.piece(ipa).and_then(|it| it.at(ipa)) } else { None };
        match at.or_else(|| self.in_one_unit(ipa, 16)).filter(|at| at.is_aligned(8)) {
            Some(at) => Ok([phys::read(at), phys::read(PhysAddr::new(at.raw().wrapping_add(8)))]),
            None => {
                let second = ipa.checked_add(8).ok_or(OutsideRam { ipa, size: 16 })?;
                Ok([self.read(ipa)?, self.read(second)?])
            }
        }
    }

    #[cold]
    fn read_by_bytes<T: Word>(&self, ipa: Ipa) -> Result<T, OutsideRam> {
        let mut bytes = [0; 8];
        let len = bytes.len().min(word_len::<T>());
        self.read_into(ipa, &mut bytes[..len])?;
        Ok(T::from_u64(u64::from_le_bytes(bytes)))
    }

    /// Writes two words; each in one access where they are aligned.
    #[inline]
    pub fn write_pair(&self, ipa: Ipa, [first, second]: [u32; 2]) -> Result<(), OutsideRam> {
        match self.span(ipa, 8).filter(|at| at.is_aligned(4)) {
            Some(at) => {
                phys::write(at, first);
                phys::write(PhysAddr::new(at.raw().wrapping_add(4)), second);
                Ok(())
            }
            None => {
                let (low, high) = (u64::from(first), u64::from(second));
                self.write_from(ipa, &(low | high << 32).to_le_bytes())
            }
        }
    }

    /// Writes an integer; in one access where it is aligned.
    #[inline]
    pub fn write<T: Word>(&self, ipa: Ipa, value: T) -> Result<(), OutsideRam> {
        match self.aligned_placed::<T>(ipa) {
            Some(at) => phys::write(at, value),
            None => return self.write_by_bytes(ipa, value),
        }
        Ok(())
    }

    #[cold]
    fn write_by_bytes<T: Word>(&self, ipa: Ipa, value: T) -> Result<(), OutsideRam> {
        let bytes = value.to_u64().to_le_bytes();
        let len = bytes.len().min(word_len::<T>());
        self.write_from(ipa, &bytes[..len])
    }

    /// Copies guest RAM from `ipa` on into `into`.
    pub fn read_into(&self, ipa: Ipa, mut into: &mut [u8]) -> Result<(), OutsideRam> {
        if let Some(at) = self.in_one_block(ipa, into.len() as u64) {
            phys::read_into(at, into);
            return Ok(());
        }
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
        if let Some(at) = self.span(ipa, from.len() as u64) {
            phys::write_from(at, from);
            return Ok(());
        }
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

    /// Where the integer at `ipa` lies, when one access reaches it.
    #[inline]
    fn aligned<T: Word>(&self, ipa: Ipa) -> Option<PhysAddr> {
        // Blocks are whole pages, so an aligned integer does not leave the one it starts in.
        let at = self.piece(ipa).and_then(|piece| piece.at(ipa));
        at.or_else(|| self.in_one_unit(ipa, 1)).filter(|_| ipa.is_aligned(T::SIZE))
    }

    /// The same, with nothing done against a guess.
    #[inline]
    fn aligned_placed<T: Word>(&self, ipa: Ipa) -> Option<PhysAddr> {
        self.span(ipa, 1).filter(|_| ipa.is_aligned(T::SIZE))
    }

    /// Where `size` bytes from `ipa` on lie, if all of them are in one block, as nearly always.
    #[inline(always)]
    pub(super) fn in_one_block(&self, ipa: Ipa, size: u64) -> Option<PhysAddr> {
        match self.piece(ipa).and_then(|piece| piece.find(ipa, size)) {
            Some(at) => Some(at),
            None => self.in_one_unit(ipa, size),
        }
    }

    /// The same, of what is only copied, or where nothing is to be guessed.
    #[inline(always)]
    pub(super) fn span(&self, ipa: Ipa, size: u64) -> Option<PhysAddr> {
        match self.piece(ipa).and_then(|piece| piece.span(ipa, size)) {
            Some(at) => Some(at),
            None => self.in_one_unit(ipa, size),
        }
    }

    /// The only block that `ipa` can be in.
    #[inline(always)]
    fn piece(&self, ipa: Ipa) -> Option<&Piece> {
        match self.pieces.as_slice() {
            [only] => Some(only),
            all => all.get(all.partition_point(|piece| piece.ipas.last() < ipa)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Geometry, Operation, PaRange, Ram, Recorder, Vmids};
    use proptest::prelude::*;

    const BASE: Ipa = Ipa::new(0x4000_0000);
    const SIZE: u64 = 7 * 4096;
    const LEN: usize = 7 * 4096;

    fn pool() -> FramePool {
        let mut pool = FramePool::new();
        pool.add(Ram::from_heap(64 * 4096, 64 * 4096).unwrap(), &[]);
        pool
    }

    /// Seven frames: blocks of four, two and one.
    fn ram() -> GuestMemory {
        let mut memory = GuestMemory::new();
        memory.add(BASE, frames(&mut pool(), SIZE)).unwrap();
        memory
    }

    fn frames(pool: &mut FramePool, size: u64) -> Frames<Clean> {
        pool.allocate(size).unwrap().scrub().clean(&Recorder::default())
    }

    fn at(offset: u64) -> Ipa {
        BASE.checked_add(offset).unwrap()
    }

    fn region(offset: u64, size: u64) -> Region<Ipa> {
        Region::new(at(offset), size).unwrap()
    }

    #[test]
    fn an_integer_across_two_blocks_is_read_as_it_was_written() {
        let memory = ram();
        let across = at(4 * 4096 - 3);
        memory.write(across, 0x1122_3344_5566_7788_u64).unwrap();
        assert_eq!(memory.read::<u64>(across), Ok(0x1122_3344_5566_7788));
        assert_eq!(memory.read::<u8>(at(4 * 4096)), Ok(0x55));
        assert_eq!(memory.read::<u16>(at(4 * 4096 - 1)), Ok(0x5566));
    }

    #[test]
    fn two_words_are_written_wherever_they_lie_and_nothing_else() {
        let memory = ram();
        for offset in [0, 4, 1, 4 * 4096 - 8, 4 * 4096 - 4, 4 * 4096 - 1, SIZE - 8] {
            memory.zero(region(0, SIZE)).unwrap();
            memory.write_pair(at(offset), [0x0403_0201, 0x0807_0605]).unwrap();
            let mut found = vec![0; LEN];
            memory.read_into(BASE, &mut found).unwrap();
            let mut model = vec![0; LEN];
            model[usize::try_from(offset).unwrap()..][..8]
                .copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
            assert!(found == model, "at {offset}");
        }
    }

    #[test]
    fn an_access_that_leaves_ram_by_one_byte_changes_nothing() {
        let memory = ram();
        for offset in [SIZE - 4, SIZE - 7, SIZE] {
            let outside = OutsideRam { ipa: at(offset), size: 8 };
            assert_eq!(memory.write_pair(at(offset), [1, 1]), Err(outside));
        }
        for offset in [SIZE - 4, SIZE - 7] {
            assert_eq!(memory.read::<u8>(at(offset)), Ok(0));
        }
        let end = at(SIZE - 7);
        assert_eq!(memory.write(end, u64::MAX), Err(OutsideRam { ipa: end, size: 8 }));
        assert_eq!(memory.write_from(end, &[1; 8]), Err(OutsideRam { ipa: end, size: 8 }));
        assert!(memory.zero(region(0, SIZE + 1)).is_err());
        let mut tail = [1; 7];
        memory.read_into(end, &mut tail).unwrap();
        assert_eq!(tail, [0; 7]);
        let before = Ipa::new(BASE.raw() - 1);
        assert!(memory.read::<u16>(before).is_err());
        assert!(memory.read::<u8>(before).is_err());
        assert!(memory.read::<u8>(at(SIZE)).is_err());
    }

    #[test]
    fn guests_copy_to_each_other_across_blocks_at_any_alignment() {
        let (ours, theirs) = (ram(), ram());
        let bytes: Vec<u8> = (0..LEN).map(|n| (n % 251).to_le_bytes()[0]).collect();
        ours.write_from(BASE, &bytes).unwrap();
        for (from, to, size) in
            [(0, 0, LEN), (3, 8190, 12_000), (16_380, 5, 9), (16_383, 16_383, 2), (1, 2, 300)]
        {
            theirs.zero(region(0, SIZE)).unwrap();
            let size_in_bytes = size as u64;
            ours.copy_to_guest(at(from), &theirs, at(to), size_in_bytes).unwrap();
            let mut model = vec![0; LEN];
            let [from, to] = [from, to].map(|n| usize::try_from(n).unwrap());
            model[to..to + size].copy_from_slice(&bytes[from..from + size]);
            let mut found = vec![0; LEN];
            theirs.read_into(BASE, &mut found).unwrap();
            assert!(found == model, "{size} bytes from {from} to {to}");
        }
        let outside = |ipa, size| OutsideRam { ipa, size };
        let (end, far) = (at(SIZE - 1), Ipa::new(u64::MAX));
        assert_eq!(
            ours.copy_to_guest(end, &theirs, BASE, 2),
            Err(OutsideEither::From(outside(end, 2)))
        );
        assert_eq!(
            ours.copy_to_guest(BASE, &theirs, far, 2),
            Err(OutsideEither::To(outside(far, 2)))
        );
    }

    #[test]
    fn the_ends_of_the_address_space_are_outside_and_panic_nowhere() {
        let memory = ram();
        for raw in [0, 1, u64::MAX, u64::MAX - 7, 1 << 63, (1 << 48) - 1] {
            let ipa = Ipa::new(raw);
            assert!(memory.read::<u64>(ipa).is_err());
            assert!(memory.write(ipa, 0u32).is_err());
            assert!(memory.read_into(ipa, &mut [0; 16]).is_err());
            assert!(memory.write_from(ipa, &[0; 16]).is_err());
            assert_eq!(memory.write_from(ipa, &[]), Ok(()));
        }
        let all = Region::new(Ipa::new(0), u64::MAX).unwrap();
        assert!(memory.zero(all).is_err() && memory.pieces(all).is_err());
        assert!(GuestMemory::new().pieces(region(0, 1)).is_err());
    }

    #[test]
    fn ram_may_end_where_the_address_space_ends() {
        let mut memory = GuestMemory::new();
        let last = Ipa::new(u64::MAX - 4095);
        memory.add(last, frames(&mut pool(), 4096)).unwrap();
        let end = Ipa::new(u64::MAX - 7);
        memory.write(end, 5u64).unwrap();
        assert_eq!(memory.read(end), Ok(5u64));
        assert!(memory.write(Ipa::new(u64::MAX - 6), 5u64).is_err());
    }

    #[test]
    fn ram_over_ram_is_refused_and_given_back() {
        let mut pool = pool();
        let mut memory = GuestMemory::new();
        memory.add(at(4096), frames(&mut pool, 8192)).unwrap();
        for base in [at(0), at(4096), at(8192), at(1), Ipa::new(u64::MAX - 4095)] {
            let RamOverlap(back) = memory.add(base, frames(&mut pool, 8192)).unwrap_err();
            pool.free(back);
        }
        memory.add(at(3 * 4096), frames(&mut pool, 4096)).unwrap();
        memory.add(at(0), frames(&mut pool, 4096)).unwrap();
        assert!(memory.contains(&region(0, 4 * 4096)) && !memory.contains(&region(0, 16385)));
        memory.release(&mut pool);
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }

    #[test]
    fn a_hole_between_two_pieces_is_no_ram() {
        let mut pool = pool();
        let mut memory = GuestMemory::new();
        memory.add(at(0), frames(&mut pool, 4096)).unwrap();
        memory.add(at(8192), frames(&mut pool, 4096)).unwrap();
        assert!(memory.write_from(at(4000), &[0; 5000]).is_err());
        assert!(!memory.contains(&region(4096, 4096)) && memory.contains(&region(8192, 4096)));
    }

    #[test]
    fn what_a_guest_sees_without_caches_is_cleaned_piece_by_piece() {
        let memory = ram();
        let cpu = Recorder::default();
        let touched = region(4 * 4096 - 64, 128);
        memory.clean_to_poc(touched, &cpu).unwrap();
        let expected: Vec<_> = memory.pieces(touched).unwrap().map(Operation::CleanToPoc).collect();
        assert_eq!((cpu.take(), expected.len()), (expected, 2));
        let expected: Vec<_> =
            memory.pieces(touched).unwrap().map(Operation::CleanInvalidateToPoc).collect();
        memory.clean_invalidate_to_poc(touched, &cpu).unwrap();
        assert_eq!(cpu.take(), expected);
        assert!(memory.clean_to_poc(region(SIZE, 1), &cpu).is_err());
        assert_eq!(cpu.take(), []);
    }

    #[test]
    fn frames_reach_a_guest_zeroed_and_are_cleaned_after_the_zeroing() {
        let mut pool = FramePool::new();
        pool.add(Ram::from_heap(SIZE, 4096).unwrap(), &[]);
        let mut memory = GuestMemory::new();
        memory.add(BASE, frames(&mut pool, SIZE)).unwrap();
        memory.write_from(BASE, &[0xa5; LEN]).unwrap();
        memory.release(&mut pool);

        let scrubbed = pool.allocate(SIZE).unwrap().scrub();
        let regions: Vec<_> = scrubbed.regions().collect();
        let mut bytes = vec![1; LEN];
        let mut rest = &mut bytes[..];
        for region in &regions {
            let (now, later) = rest.split_at_mut(slice_len(region));
            phys::read_into(region.start(), now);
            rest = later;
        }
        assert!(bytes == [0; LEN]);
        let cpu = Recorder::default();
        let clean = scrubbed.clean(&cpu);
        let expected: Vec<_> = regions.into_iter().map(Operation::CleanInvalidateToPoc).collect();
        assert_eq!(cpu.take(), expected);
        pool.free(clean);
    }

    #[test]
    fn all_ram_is_mapped_or_none_however_few_tables_there_are() {
        let mut pool = pool();
        let (mut vmids, cpu) = (Vmids::new(), Recorder::default());
        let geometry = Geometry::new(39, PaRange::Bits48).unwrap();
        let mut stage2 = Stage2::new(geometry, &mut vmids, &mut pool, &cpu).unwrap();
        let mut memory = GuestMemory::new();
        // The last page lies behind a 1 GiB boundary and needs tables of its own.
        memory.add(Ipa::new(0x8000_0000 - 3 * 4096), frames(&mut pool, 4 * 4096)).unwrap();
        memory.add(Ipa::new(0x8000_0000 + 4096), frames(&mut pool, 4096)).unwrap();
        let mut kept = pool.allocate(pool.free_bytes()).unwrap();
        for few in 0..4 {
            assert_eq!(pool.free_bytes(), few * 4096);
            let result = memory.map(&mut stage2, Perms::RWX, &mut pool, &cpu);
            assert_eq!(result, Err(MapError::OutOfTables));
            assert_eq!(pool.free_bytes(), few * 4096);
            assert_eq!(stage2.first_leaf(&geometry.ipas()), None);
            let all = pool.free_bytes() + kept.size();
            pool.free(kept);
            kept = pool.allocate(all - (few + 1) * 4096).unwrap();
        }
        memory.map(&mut stage2, Perms::RWX, &mut pool, &cpu).unwrap();
        for (ipas, pa) in memory.blocks() {
            assert_eq!(stage2.translate(ipas.start()).map(|to| to.pa), Some(pa));
        }
        stage2.destroy(&mut vmids, &mut pool, &cpu);
        memory.release(&mut pool);
        pool.free(kept);
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }

    proptest! {
        #![proptest_config(crate::testing::cases(128, 1))]
        #[test]
        fn guest_ram_behaves_as_an_array_of_bytes(
            writes in prop::collection::vec((0..SIZE + 64, 0usize..5000, any::<u8>()), 1..12),
        ) {
            let memory = ram();
            let mut model = vec![0u8; LEN];
            for (offset, len, byte) in writes {
                let start = usize::try_from(offset).unwrap();
                let result = memory.write_from(at(offset), &vec![byte; len]);
                match model.get_mut(start..start + len) {
                    Some(bytes) => {
                        bytes.fill(byte);
                        prop_assert_eq!(result, Ok(()));
                    }
                    None => prop_assert!(result.is_err() || len == 0),
                }
                let expected = model.get(start..start + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
                prop_assert_eq!(memory.read::<u32>(at(offset)).ok(), expected);
            }
            let mut all = vec![0; LEN];
            memory.read_into(BASE, &mut all).unwrap();
            prop_assert!(all == model);
        }
    }
}
