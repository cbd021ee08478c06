//! An AArch64 ELF file as a kernel (System V ABI, "Program Loading"): its loadable segments go to
//! their physical addresses.
//!
//! Nothing is relocated: a position-independent file has to be linked for addresses in RAM, too, and
//! relocate itself if it must.

use alloc::vec::Vec;

use elf::ElfBytes;
use elf::abi::{EI_NIDENT, ELFDATA2MSB, EM_AARCH64, ET_DYN, ET_EXEC, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::parse::ParseError;
use elf::segment::ProgramHeader;

use super::{Copy, ImageError, Kernel};
use crate::addr::{Ipa, Region};

/// The most loadable segments of one file: they may overlap in the file, and each is copied.
const MAX_SEGMENTS: usize = 64;

/// Whether a file begins as an ELF file does.
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

/// What of an ELF file goes where. All of it is checked.
pub fn plan(file: &[u8], ram: Region<Ipa>) -> Result<(Kernel, Vec<Copy<'_>>), ImageError> {
    let damaged = |part| ImageError::ElfDamaged { part };
    check_identity(file)?;
    let elf =
        ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| damaged("header or tables"))?;
    if elf.ehdr.e_machine != EM_AARCH64 {
        return Err(ImageError::ElfMachine { machine: elf.ehdr.e_machine });
    }
    if elf.ehdr.e_type != ET_EXEC && elf.ehdr.e_type != ET_DYN {
        return Err(ImageError::ElfKind { kind: elf.ehdr.e_type });
    }
    let segments = elf.segments().ok_or(ImageError::ElfNothingToLoad)?;
    let loadable =
        || segments.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz != 0);
    let count = loadable().count();
    if count > MAX_SEGMENTS {
        return Err(ImageError::ElfTooManySegments { count });
    }

    let mut contents: Vec<(Region<Ipa>, &[u8])> = Vec::with_capacity(count);
    for segment in loadable() {
        if segment.p_filesz > segment.p_memsz {
            return Err(damaged("segments"));
        }
        // A segment of nothing but BSS may give any offset.
        let bytes = match segment.p_filesz {
            0 => &[][..],
            _ => elf.segment_data(&segment).map_err(|_| damaged("segments"))?,
        };
        contents.push((target(&segment, ram)?, bytes));
    }
    let first = contents.iter().map(|(region, _)| region.start()).min();
    let last = contents.iter().map(|(region, _)| region.last()).max();
    let (Some(first), Some(last)) = (first, last) else {
        return Err(ImageError::ElfNothingToLoad);
    };
    let size = last.raw() - first.raw() + 1;
    let region = Region::new(first, size).ok_or(damaged("segments"))?;
    let entry = entry(elf.ehdr.e_entry, loadable())?;

    let copies = contents.into_iter().map(|(region, from)| Copy { to: region.start(), from });
    Ok((Kernel { entry, region }, copies.collect()))
}

/// `e_ident`: what has to be told apart before the rest can be understood.
fn check_identity(file: &[u8]) -> Result<(), ImageError> {
    let damaged = ImageError::ElfDamaged { part: "identification" };
    // The parser does not look whether all of it is there.
    let identity = file.first_chunk::<EI_NIDENT>().ok_or(damaged)?;
    match elf::file::parse_ident::<LittleEndian>(identity) {
        Ok((_, Class::ELF64, ..)) => Ok(()),
        Ok((_, Class::ELF32, ..)) => Err(ImageError::Elf32),
        Err(ParseError::UnsupportedElfEndianness(ELFDATA2MSB)) => Err(ImageError::ElfBigEndian),
        Err(_) => Err(damaged),
    }
}

/// Where a segment goes.
fn target(segment: &ProgramHeader, ram: Region<Ipa>) -> Result<Region<Ipa>, ImageError> {
    let (address, size) = (Ipa::new(segment.p_paddr), segment.p_memsz);
    Region::new(address, size)
        .filter(|region| ram.contains_region(region))
        .ok_or(ImageError::ElfSegmentOutsideRam { address, size, ram })
}

/// The physical address of the entry point, which the header gives as a virtual one.
fn entry(entry: u64, mut segments: impl Iterator<Item = ProgramHeader>) -> Result<Ipa, ImageError> {
    let nowhere = ImageError::ElfEntry { entry };
    let offset = segments.find_map(|segment| {
        let offset = entry.checked_sub(segment.p_vaddr)?;
        (offset < segment.p_filesz).then(|| segment.p_paddr.checked_add(offset)).flatten()
    });
    let entry = Ipa::new(offset.ok_or(nowhere)?);
    if entry.is_aligned(4) { Ok(entry) } else { Err(nowhere) }
}
