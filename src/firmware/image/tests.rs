//! Claims about recognising and placing guest images.
#![allow(clippy::cast_possible_truncation)] // What is cast here is small.

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
fn an_image_starts_at_its_offset_from_the_start_of_ram_and_takes_its_bss() {
    for text_offset in [0, 0x8_0000, 0x1000] {
        let mut memory = Memory::new(256 * MIB);
        let file = image(text_offset, 0x30_0000, 0b1010, crate::testing::pick(0x2_0000, 0x800));
        let placement = memory.load(&file, None).unwrap();
        assert_eq!(placement.entry, Ipa::new(RAM + text_offset));
        assert_eq!(placement.kernel, region(RAM + text_offset, 0x30_0000));
        assert_eq!(memory.read(placement.entry, file.len()), file);
    }
}

#[test]
fn an_image_longer_than_it_says_takes_its_length() {
    let placement = Memory::new(64 * MIB).load(&image(0, 0x1000, 0, 0x3000), None).unwrap();
    assert_eq!(placement.kernel, region(RAM, 0x3000));
}

#[test]
fn an_image_without_a_size_is_loaded_where_old_kernels_are() {
    let old = image(0x0008_0000_0000_0000, 0, 0, 0x3000);
    let placement = Memory::new(64 * MIB).load(&old, None).unwrap();
    assert_eq!(placement.entry, Ipa::new(RAM + 0x8_0000));
}

#[test]
fn images_that_cannot_run_here_are_refused() {
    assert_eq!(refusal(&image(0, 0x1000, 1, 0x100)), ImageError::BigEndian);
    let text_offset = 0x8_0004;
    assert_eq!(
        refusal(&image(text_offset, 0x1000, 0, 0x100)),
        ImageError::TextOffset { text_offset }
    );
    assert_eq!(refusal(&[]), ImageError::Empty);
}

#[test]
fn an_image_whose_bss_or_offset_leaves_ram_is_refused_before_it_is_written() {
    for (text_offset, size) in
        [(0, 64 * MIB + 1), (0, u64::MAX), (0x1000, 64 * MIB), (!0xfff, 0x1000), (64 * MIB, 1)]
    {
        let mut memory = Memory::new(64 * MIB);
        let error = memory.load(&image(text_offset, size, 0, 0x100), None).unwrap_err();
        assert!(matches!(error, ImageError::KernelTooLarge { .. }), "{error}");
        assert!(memory.writes.is_empty());
    }
}

#[test]
fn a_flat_binary_goes_512_kib_into_ram() {
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(b"\x00\x00\x80\xd2 code", None).unwrap();
    assert_eq!(placement.entry, Ipa::new(RAM + 0x8_0000));
    assert_eq!(placement.kernel, region(RAM + 0x8_0000, 9));
    assert_eq!(memory.read(placement.entry, 9), b"\x00\x00\x80\xd2 code");
}

#[test]
fn a_kernel_for_ram_that_does_not_start_at_2_mib_goes_to_the_next_2_mib() {
    let ram = region(RAM + 0x1000, 64 * MIB);
    let mut memory = Memory { ram, writes: Vec::new() };
    let placement = memory.load(&plain_image(), None).unwrap();
    assert_eq!(placement.entry, Ipa::new(RAM + 2 * MIB));
}

#[test]
fn known_formats_of_others_are_refused_by_name() {
    let mut zimage = vec![0; 0x100];
    zimage[0x24..0x28].copy_from_slice(b"\x18\x28\x6f\x01");
    let mut bzimage = vec![0; 0x300];
    bzimage[..2].copy_from_slice(b"MZ");
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    for (file, name) in [
        (b"\x28\xb5\x2f\xfd....".to_vec(), "zstd"),
        (b"\xfd7zXZ\0....".to_vec(), "xz"),
        (b"\xd0\x0d\xfe\xed....".to_vec(), "device tree"),
        (b"070701....".to_vec(), "cpio"),
        (zimage, "zImage"),
        (bzimage, "bzImage"),
        (b"MZ....".to_vec(), "EFI"),
        (gzip(&gzip(b"twice")), "gzip twice"),
        (gzip(&simple_elf()), "ELF"),
        (gzip(b"070701...."), "cpio"),
    ] {
        let error = refusal(&file);
        assert!(
            matches!(error, ImageError::Foreign { format } if format.contains(name)),
            "{error}"
        );
    }
}

#[test]
fn a_gzip_image_is_unpacked_as_the_image_would_be_placed() {
    // Larger than the window, so that it comes in pieces.
    let size = crate::testing::pick(200_000, 0x800);
    let file = image(0x8_0000, 0x30_0000, 0, size);
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(&gzip(&file), None).unwrap();
    assert_eq!(placement, Memory::new(64 * MIB).load(&file, None).unwrap());
    assert_eq!(memory.read(placement.entry, file.len()), file);
    assert!(cfg!(miri) || memory.writes.len() > 1);
}

#[test]
fn a_gzip_flat_binary_is_a_flat_binary() {
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(&gzip(b"code"), None).unwrap();
    assert_eq!(placement.kernel, region(RAM + 0x8_0000, 4));
    assert_eq!(memory.read(placement.entry, 4), b"code");
    assert_eq!(refusal(&gzip(b"")), ImageError::Empty);
}

#[test]
fn every_optional_field_of_a_gzip_header_is_skipped() {
    const EXTRA: &[u8] = b"\x03\0abc";
    let mut crc = vec![0x1f, 0x8b, 8, 0x1e, 0, 0, 0, 0, 0, 3];
    let fields = [EXTRA, b"name\0", b"comment\0"].concat();
    crc.extend(&fields);
    let check = crc32fast::hash(&crc) as u16;
    let all = [&fields[..], &check.to_le_bytes()].concat();
    let wrong = [&fields[..], &(check ^ 1).to_le_bytes()].concat();
    for (flags, fields) in [(4, EXTRA), (8, b"name\0"), (16, b"\0"), (0x1e, &all), (1, b"")] {
        let file = gzip_with(flags, fields, b"code");
        assert!(Memory::new(64 * MIB).load(&file, None).is_ok(), "flags {flags:#x}");
    }
    let damaged = ImageError::Damaged { part: "gzip header" };
    assert_eq!(refusal(&gzip_with(0x1e, &wrong, b"code")), damaged);
    assert_eq!(refusal(&gzip_with(0x20, &[], b"code")), damaged);
}

#[test]
fn every_truncation_of_a_gzip_image_is_noticed() {
    let file = gzip(&image(0, 0x1000, 0, 0x400));
    let step = crate::testing::pick(1, 499);
    for length in (2..file.len()).step_by(step) {
        assert_eq!(refusal(&file[..length]), ImageError::CutShort, "{length} bytes");
    }
}

#[test]
fn every_flipped_bit_of_a_gzip_image_is_noticed_or_harmless() {
    let contents = image(0, 0x1000, 0, 0x400);
    let mut file = gzip(&contents);
    let step = crate::testing::pick(1, 499);
    for at in (10..file.len()).step_by(step) {
        for bit in (0..8).step_by(crate::testing::pick(1, 5)) {
            file[at] ^= 1 << bit;
            let mut memory = Memory::new(64 * MIB);
            if let Ok(placement) = memory.load(&file, None) {
                // A bit that deflate pads with.
                assert_eq!(memory.read(placement.entry, contents.len()), contents);
            }
            file[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_wrong_checksum_or_length_at_the_end_of_gzip_is_told_apart() {
    let file = gzip(b"code");
    let end = file.len();
    let changed = |at: usize| {
        let mut file = file.clone();
        file[at] ^= 1;
        refusal(&file)
    };
    assert!(matches!(changed(end - 8), ImageError::Checksum { .. }));
    assert_eq!(changed(end - 4), ImageError::Length { stored: 5, unpacked: 4 });
    let padded = [&file[..], &[0; 100]].concat();
    assert!(Memory::new(64 * MIB).load(&padded, None).is_ok());
    let doubled = [&file[..], &file[..]].concat();
    assert!(matches!(refusal(&doubled), ImageError::Damaged { .. }));
}

#[test]
fn a_small_file_that_unpacks_to_more_than_ram_is_stopped_at_its_end() {
    let size = crate::testing::pick(8 * MIB, 0x1000);
    let bomb = gzip(&vec![0; size as usize]);
    assert!(cfg!(miri) || bomb.len() < size as usize / 100);
    let mut memory = Memory::new(size / 2);
    let error = memory.load(&bomb, None).unwrap_err();
    assert!(matches!(error, ImageError::KernelTooLarge { .. }), "{error}");
}

#[test]
fn a_zboot_image_with_gzip_is_unpacked_and_no_other_is() {
    let file = plain_image();
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(&zboot(b"gzip\0", &gzip(&file)), None).unwrap();
    assert_eq!(placement.kernel, region(RAM, 0x3_0000));
    assert_eq!(memory.read(placement.entry, file.len()), file);
    assert_eq!(refusal(&zboot(b"zstd22\0", b"...")), ImageError::ZbootCompression);
}

#[test]
fn a_zboot_payload_outside_the_file_is_refused() {
    for (at, value) in [(8, u32::MAX), (12, u32::MAX), (12, 0x1000), (8, 0x8000)] {
        let mut file = zboot(b"gzip\0", &gzip(b"code"));
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert!(matches!(refusal(&file), ImageError::Damaged { .. }));
    }
    for length in 8..24 {
        let file = &zboot(b"gzip\0", b"")[..length];
        assert!(matches!(refusal(file), ImageError::Damaged { .. }), "{length} bytes");
    }
}

#[test]
fn an_elf_file_goes_to_its_physical_addresses() {
    let file = elf(
        0xffff_0000_0000_1004,
        &[
            Segment { vaddr: 0x8000, paddr: 0x4060_0000, contents: b"data", memory: 0x10 },
            Segment {
                vaddr: 0xffff_0000_0000_1000,
                paddr: 0x4020_0000,
                contents: b"text....",
                memory: 8,
            },
            Segment { vaddr: 0x9000, paddr: 0x4070_0000, contents: b"", memory: 0x100 },
        ],
    );
    let mut memory = Memory::new(64 * MIB);
    let placement = memory.load(&file, None).unwrap();
    assert_eq!(placement.entry, Ipa::new(0x4020_0004));
    assert_eq!(placement.kernel, region(0x4020_0000, 0x50_0100));
    assert_eq!(memory.read(Ipa::new(0x4020_0000), 8), b"text....");
    assert_eq!(memory.read(Ipa::new(0x4060_0000), 4), b"data");
    // Where bare-metal programs look for it.
    assert_eq!(placement.dtb, Ipa::new(RAM));
}

#[test]
fn elf_files_for_others_are_told_what_they_are_for() {
    let changed = |at: usize, value: u8| {
        let mut file = simple_elf();
        file[at] = value;
        refusal(&file)
    };
    assert_eq!(changed(4, 1), ImageError::Elf32);
    assert_eq!(changed(5, 2), ImageError::ElfBigEndian);
    assert_eq!(changed(18, 62), ImageError::ElfMachine { machine: 62 });
    assert_eq!(changed(16, 1), ImageError::ElfKind { kind: 1 });
    assert_eq!(refusal(b"\x7fELF"), ImageError::ElfDamaged { part: "identification" });
    assert_eq!(refusal(&elf(0x4020_0000, &[])), ImageError::ElfNothingToLoad);
}

#[test]
fn elf_segments_outside_ram_are_refused_before_any_is_written() {
    for (paddr, memory) in
        [(0, 8), (RAM - 8, 16), (RAM + 64 * MIB - 4, 8), (u64::MAX, 8), (RAM, u64::MAX)]
    {
        let good = Segment { vaddr: 0, paddr: RAM, contents: b"text....", memory: 8 };
        let bad = Segment { vaddr: 0x1000, paddr, contents: b"", memory };
        let mut guest = Memory::new(64 * MIB);
        let error = guest.load(&elf(0, &[good, bad]), None).unwrap_err();
        assert!(matches!(error, ImageError::ElfSegmentOutsideRam { .. }), "{error}");
        assert!(guest.writes.is_empty());
    }
}

#[test]
fn an_elf_entry_must_be_an_instruction_in_the_file() {
    let text = || Segment { vaddr: 0x1000, paddr: RAM, contents: b"text....", memory: 0x100 };
    for entry in [0, 0xffc, 0x1002, 0x1008, 0x4000_0000, u64::MAX] {
        assert_eq!(refusal(&elf(entry, &[text()])), ImageError::ElfEntry { entry });
    }
    let placement = Memory::new(64 * MIB).load(&elf(0x1004, &[text()]), None).unwrap();
    assert_eq!(placement.entry, Ipa::new(RAM + 4));
}

#[test]
fn a_damaged_elf_file_is_refused() {
    // More in the file than in memory, and a segment beyond the end of the file.
    let text = Segment { vaddr: 0, paddr: RAM, contents: b"text....", memory: 4 };
    assert_eq!(refusal(&elf(0, &[text])), ImageError::ElfDamaged { part: "segments" });
    let file = simple_elf();
    assert_eq!(refusal(&file[..file.len() - 1]), ImageError::ElfDamaged { part: "segments" });
    let text = || Segment { vaddr: 0, paddr: RAM, contents: b"text....", memory: 8 };
    let many: Vec<Segment> = (0..65).map(|_| text()).collect();
    assert_eq!(refusal(&elf(0, &many)), ImageError::ElfTooManySegments { count: 65 });
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
    #![proptest_config(crate::testing::cases(256, 2))]

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
