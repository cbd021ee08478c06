//! Any kernel file: raw bytes, and files of each format whose fields and contents are any. What is
//! loaded lies in RAM, and its parts do not overlap.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use miniz_oxide::deflate::compress_to_vec;
use plinth::addr::{Ipa, Region};
use plinth::firmware::image::{
    DEVICE_TREE_SLOT, GuestWrite, ImageError, Loader, OutOfRam, Placement,
};
use plinth_fuzz::RAM;

#[derive(Arbitrary, Debug)]
enum File {
    Raw(Vec<u8>),
    Image(Image),
    Gzip { flags: u8, fields: Vec<u8>, image: Image },
    Deflate { stream: Vec<u8>, length: u32, crc: u32 },
    Zboot { offset: u32, size: Option<u32>, compression: [u8; 4], image: Image },
    Elf { entry: u32, segments: Vec<Segment>, contents: Vec<u8> },
}

#[derive(Arbitrary, Debug)]
struct Image {
    text_offset: u32,
    image_size: u64,
    flags: u64,
    contents: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Segment {
    kind: u8,
    offset: u16,
    vaddr: u64,
    paddr: Result<u32, u64>,
    filesz: u16,
    memsz: Result<u32, u64>,
}

impl Image {
    fn bytes(&self) -> Vec<u8> {
        let mut file = b"MZ\0\0\0\0\0\0".to_vec();
        file.extend(u64::from(self.text_offset).to_le_bytes());
        file.extend(self.image_size.to_le_bytes());
        file.extend(self.flags.to_le_bytes());
        file.extend([0; 24]);
        file.extend(b"ARM\x64\0\0\0\0");
        file.extend(&self.contents);
        file
    }
}

fn gzip(flags: u8, fields: &[u8], stream: &[u8], crc: u32, length: u32) -> Vec<u8> {
    let header = [0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3];
    [&header, fields, stream, &crc.to_le_bytes(), &length.to_le_bytes()].concat()
}

fn packed(flags: u8, fields: &[u8], contents: &[u8]) -> Vec<u8> {
    let length = u32::try_from(contents.len()).unwrap_or(0);
    gzip(flags, fields, &compress_to_vec(contents, 1), crc32fast::hash(contents), length)
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Raw(bytes) => bytes.clone(),
            Self::Image(image) => image.bytes(),
            Self::Gzip { flags, fields, image } => packed(*flags, fields, &image.bytes()),
            Self::Deflate { stream, length, crc } => gzip(0, &[], stream, *crc, *length),
            Self::Zboot { offset, size, compression, image } => {
                let payload = packed(0, &[], &image.bytes());
                let length = u32::try_from(payload.len()).unwrap_or(0);
                let name = if compression[0] & 1 == 0 { *b"gzip" } else { *compression };
                let mut file = b"MZ\0\0zimg".to_vec();
                file.extend(if offset % 2 == 0 { 64u32 } else { *offset }.to_le_bytes());
                file.extend(size.unwrap_or(length).to_le_bytes());
                file.extend([0; 8]);
                file.extend(name);
                file.extend([0; 28]);
                file.extend(b"\xcd\x23\x82\x81\0\0\0\0");
                file.extend(payload);
                file
            }
            Self::Elf { entry, segments, contents } => elf(*entry, segments, contents),
        }
    }
}

fn elf(entry: u32, segments: &[Segment], contents: &[u8]) -> Vec<u8> {
    let count = u16::try_from(segments.len()).unwrap_or(u16::MAX);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec();
    file.extend([u64::from(entry), 64, 0].map(u64::to_le_bytes).as_flattened());
    file.extend([0; 4]);
    file.extend([64, 56, count, 64, 0, 0].map(u16::to_le_bytes).as_flattened());
    for segment in segments {
        let near = |value: &Result<u32, u64>, base| match *value {
            Ok(small) => base + u64::from(small),
            Err(any) => any,
        };
        let kind = u32::from(segment.kind % 4 == 0) + u32::from(segment.kind / 64);
        file.extend([kind, 7].map(u32::to_le_bytes).as_flattened());
        let offset = u64::from(segment.offset);
        let (filesz, paddr) = (u64::from(segment.filesz), near(&segment.paddr, RAM));
        let memsz = near(&segment.memsz, filesz);
        let fields = [offset, segment.vaddr, paddr, filesz, memsz, 8];
        file.extend(fields.map(u64::to_le_bytes).as_flattened());
    }
    file.extend(contents);
    file
}

/// A guest's RAM of which only the bounds exist.
struct Memory(Region<Ipa>);

impl GuestWrite for Memory {
    fn write(&mut self, ipa: Ipa, bytes: &[u8]) -> Result<(), OutOfRam> {
        let inside = self.0.contains_bytes(ipa, bytes.len() as u64);
        assert!(inside || bytes.is_empty(), "{ipa} is checked before it is written");
        Ok(())
    }
}

fn load(kernel: &[u8], initrd: Option<&[u8]>, ram: Region<Ipa>) -> Result<Placement, ImageError> {
    let mut loader = Loader::new(kernel, initrd, ram)?;
    loop {
        if let Some(placement) = loader.step(&mut Memory(ram))? {
            return Ok(placement);
        }
    }
}

fuzz_target!(|input: (u32, Option<Vec<u8>>, File)| {
    let (size, initrd, file) = input;
    let Some(ram) = Region::new(Ipa::new(RAM), u64::from(size)) else { return };
    let file = file.bytes();
    let Ok(placement) = load(&file, initrd.as_deref(), ram) else {
        return;
    };
    assert!(placement.kernel.contains(placement.entry) && placement.entry.is_aligned(4));
    assert!(placement.dtb.is_aligned(DEVICE_TREE_SLOT));
    assert_eq!(placement.initrd.map(|at| at.size()), initrd.map(|bytes| bytes.len() as u64));
    let dtb = Region::new(placement.dtb, DEVICE_TREE_SLOT).expect("inside RAM");
    let parts: Vec<_> = [dtb, placement.kernel].into_iter().chain(placement.initrd).collect();
    for (index, part) in parts.iter().enumerate() {
        assert!(ram.contains_region(part));
        assert!(parts[..index].iter().all(|other| !other.overlaps(part)), "{parts:?}");
    }
});
