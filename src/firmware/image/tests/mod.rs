//! Claims about recognising and placing guest images.
#![allow(clippy::cast_possible_truncation)] // What is cast here is small.

mod elf;
mod exhaustive;
mod packed;
mod raw;

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use miniz_oxide::deflate::compress_to_vec;
use proptest::prelude::*;

use super::*;

const RAM: u64 = 0x4000_0000;
const MIB: u64 = 1 << 20;

/// A guest's memory of which only the written parts exist.
struct Memory {
    ram: Region<Ipa>,
    writes: Vec<(Ipa, Vec<u8>)>,
}

impl Memory {
    fn new(size: u64) -> Self {
        Self { ram: region(RAM, size), writes: Vec::new() }
    }

    fn load(&mut self, kernel: &[u8], initrd: Option<&[u8]>) -> Result<Placement, ImageError> {
        let mut loader = Loader::new(kernel, initrd, self.ram)?;
        loop {
            if let Some(placement) = loader.step(self)? {
                return Ok(placement);
            }
        }
    }

    /// What has been written from `start` on.
    fn read(&self, start: Ipa, size: usize) -> Vec<u8> {
        let mut out = vec![0; size];
        for (ipa, bytes) in &self.writes {
            for (at, byte) in bytes.iter().enumerate() {
                let offset = (ipa.raw() + at as u64).checked_sub(start.raw());
                if let Some(place) = offset.and_then(|offset| out.get_mut(offset as usize)) {
                    *place = *byte;
                }
            }
        }
        out
    }
}

impl GuestWrite for Memory {
    fn write(&mut self, ipa: Ipa, bytes: &[u8]) -> Result<(), OutOfRam> {
        assert!(self.ram.contains_bytes(ipa, bytes.len() as u64), "checked before it is written");
        self.writes.push((ipa, bytes.to_vec()));
        Ok(())
    }
}

pub(super) fn region(start: u64, size: u64) -> Region<Ipa> {
    Region::new(Ipa::new(start), size).unwrap()
}

fn refusal(kernel: &[u8]) -> ImageError {
    let mut memory = Memory::new(64 * MIB);
    let error = memory.load(kernel, None).expect_err("this kernel must be refused");
    assert!(!error.to_string().is_empty());
    error
}

/// An arm64 Image of `size` bytes.
fn image(text_offset: u64, image_size: u64, flags: u64, size: usize) -> Vec<u8> {
    let mut file: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    file[0..2].copy_from_slice(b"MZ");
    file[8..16].copy_from_slice(&text_offset.to_le_bytes());
    file[16..24].copy_from_slice(&image_size.to_le_bytes());
    file[24..32].copy_from_slice(&flags.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

fn plain_image() -> Vec<u8> {
    image(0, 0x3_0000, 0b1010, crate::testing::pick(0x2_0000, 0x800))
}

/// Packs `contents`; under Miri, where that takes seconds, only into a stored block (RFC 1951).
fn deflate(contents: &[u8]) -> Vec<u8> {
    match u16::try_from(contents.len()) {
        Ok(length) if cfg!(miri) => {
            [&[1], &length.to_le_bytes()[..], &(!length).to_le_bytes(), contents].concat()
        }
        _ => compress_to_vec(contents, 1),
    }
}

fn gzip_with(flags: u8, fields: &[u8], contents: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3];
    file.extend(fields);
    file.extend(deflate(contents));
    file.extend(crc32fast::hash(contents).to_le_bytes());
    file.extend((contents.len() as u32).to_le_bytes());
    file
}

fn gzip(contents: &[u8]) -> Vec<u8> {
    gzip_with(0, &[], contents)
}

fn zboot(compression: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    file[..8].copy_from_slice(b"MZ\0\0zimg");
    file[8..12].copy_from_slice(&0x1000u32.to_le_bytes());
    file[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file[24..24 + compression.len()].copy_from_slice(compression);
    file[56..60].copy_from_slice(b"\xcd\x23\x82\x81");
    file.extend(payload);
    // What follows a payload is part of the EFI program.
    file.extend([0xee; 100]);
    file
}

struct Segment {
    vaddr: u64,
    paddr: u64,
    contents: &'static [u8],
    memory: u64,
}

/// An AArch64 ELF file.
fn elf(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut contents: Vec<u8> = Vec::new();
    let start = 64 + 56 * segments.len() as u64;
    file.extend([2, 0, 183, 0, 1, 0, 0, 0]);
    file.extend([entry, 64, 0].map(u64::to_le_bytes).as_flattened());
    file.extend([0; 4]);
    file.extend([64, 56, segments.len() as u16, 64, 0, 0].map(u16::to_le_bytes).as_flattened());
    for segment in segments {
        let Segment { vaddr, paddr, contents: bytes, memory } = *segment;
        file.extend([1u32, 7].map(u32::to_le_bytes).as_flattened());
        let offset = start + contents.len() as u64;
        let size = bytes.len() as u64;
        file.extend([offset, vaddr, paddr, size, memory, 8].map(u64::to_le_bytes).as_flattened());
        contents.extend(bytes);
    }
    file.extend(contents);
    file
}

fn simple_elf() -> Vec<u8> {
    let text =
        Segment { vaddr: 0x4020_0000, paddr: 0x4020_0000, contents: &[1; 64], memory: 0x2000 };
    elf(0x4020_0004, &[text])
}

#[test]
fn an_empty_initrd_is_refused_and_a_full_one_is_written() {
    let mut memory = Memory::new(64 * MIB);
    assert_eq!(memory.load(&plain_image(), Some(&[])), Err(ImageError::InitrdEmpty));
    let placement = memory.load(&plain_image(), Some(b"initrd")).unwrap();
    let initrd = placement.initrd.unwrap();
    assert_eq!(initrd.size(), 6);
    assert_eq!(memory.read(initrd.start(), 6), b"initrd");
}

#[test]
fn without_2_mib_for_the_device_tree_nothing_starts() {
    let kernel = image(0, 0x3_0000, 0, crate::testing::pick(0x1_0000, 0x800));
    assert_eq!(Memory::new(2 * MIB).load(&kernel, None), Err(ImageError::NoRoomForDeviceTree));
    assert_eq!(Memory::new(4 * MIB - 1).load(&kernel, None), Err(ImageError::NoRoomForDeviceTree));
    let placement = Memory::new(4 * MIB).load(&kernel, None).unwrap();
    assert_eq!(placement.dtb, Ipa::new(RAM + 2 * MIB));
}

/// What every placement promises.
pub(super) fn check(placement: &Placement, ram: Region<Ipa>) {
    let dtb = Region::new(placement.dtb, DEVICE_TREE_SLOT).unwrap();
    assert!(placement.dtb.is_aligned(DEVICE_TREE_SLOT));
    assert!(placement.kernel.contains(placement.entry) && placement.entry.is_aligned(4));
    let mut all = vec![dtb, placement.kernel];
    all.extend(placement.initrd);
    for (index, one) in all.iter().enumerate() {
        assert!(ram.contains_region(one), "{one:?} in {ram:?}");
        assert!(all[..index].iter().all(|other| !other.overlaps(one)), "{all:?}");
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    /// Any change of a few bytes of a good file: refused, or placed within RAM.
    #[test]
    fn no_damaged_file_leaves_ram_or_panics(
        kind in 0usize..4,
        changes in prop::collection::vec((0usize..200, any::<u8>()), 1..6),
        length in prop::option::of(0usize..5000),
        size in 1u64..40,
    ) {
        let image = image(0, 0x3000, 0, 0x400);
        let mut file = match kind {
            0 => image,
            1 => gzip(&image),
            2 => zboot(b"gzip\0", &gzip(&image)),
            _ => simple_elf(),
        };
        for (at, value) in changes {
            let at = at % file.len();
            file[at] = value;
        }
        file.truncate(length.unwrap_or(file.len()));
        let mut memory = Memory::new(size * MIB / 2);
        if let Ok(placement) = memory.load(&file, Some(b"initrd")) {
            check(&placement, memory.ram);
        }
    }

    #[test]
    fn no_bytes_whatever_panic(
        magic in prop::sample::select(vec![&b""[..], b"\x7fELF\x02\x01\x01", b"\x1f\x8b\x08", b"MZ\0\0zimg"]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut memory = Memory::new(8 * MIB);
        let _ = memory.load(&[magic, &rest].concat(), None);
    }
}
