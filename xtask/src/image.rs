//! Recognises guest kernels, so that what cannot boot is refused before a machine starts.
//!
//! Accepted: the arm64 Linux `Image` (magic `ARM\x64` at byte 56; Linux, "Booting AArch64 Linux"),
//! the same compressed with gzip or as an EFI zboot file with gzip inside, AArch64 ELF files, and
//! flat binaries: anything that is not known to be something else.

use std::io::Read;

use flate2::read::GzDecoder;
use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, ProgramHeader};

/// A kernel that can be tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kernel {
    /// An arm64 `Image`; `image_size` is the memory it asks for, 0 in very old kernels.
    Image { image_size: u64 },
    /// A gzip'd arm64 `Image`.
    GzipImage { image_size: u64 },
    /// An EFI zboot file with a gzip'd payload.
    Zboot,
    /// An AArch64 ELF file.
    Elf,
    /// Loaded as it is and entered at its first byte.
    Flat,
}

/// An ELF file without what follows the segments, which nobody loads: sections, symbols, debug information.
/// Anything else as it is, also a file that is damaged: to say so is the hypervisor's business.
pub fn without_sections(mut file: Vec<u8>) -> Vec<u8> {
    if let Some(end) = end_of_segments(&file)
        && end < file.len()
    {
        file.truncate(end);
        // e_shoff, then e_shentsize, e_shnum and e_shstrndx (System V ABI, "ELF Header").
        for field in [0x28..0x30, 0x3a..0x40] {
            file[field].fill(0);
        }
    }
    file
}

/// Where the last of an ELF file's headers and segments ends.
fn end_of_segments(file: &[u8]) -> Option<usize> {
    let header = FileHeader64::<Endianness>::parse(file).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, file).ok()?;
    let table = header.e_phoff(endian).checked_add(size_of_val(segments) as u64)?;
    let ends = segments.iter().map(|one| one.p_offset(endian).checked_add(one.p_filesz(endian)));
    let end = ends.chain([Some(table), Some(64)]).try_fold(0, |most, end| Some(most.max(end?)))?;
    usize::try_from(end).ok()
}

/// Says what `bytes` are, or why they cannot be a guest's kernel.
pub fn recognise(bytes: &[u8]) -> Result<Kernel, String> {
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    if bytes.starts_with(b"\x7fELF") {
        return elf(bytes);
    }
    if let Some(image_size) = image_size(bytes)? {
        return Ok(Kernel::Image { image_size });
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return gzip(bytes);
    }
    if bytes.get(4..8) == Some(b"zimg") {
        return zboot(bytes);
    }
    match foreign(bytes) {
        Some(what) => Err(format!("it is {what}, not an arm64 kernel")),
        None => Ok(Kernel::Flat),
    }
}

/// The `image_size` field when `bytes` begin with an arm64 Image header.
fn image_size(bytes: &[u8]) -> Result<Option<u64>, String> {
    if bytes.get(56..60) != Some(b"ARM\x64") {
        return Ok(None);
    }
    let (Some(size), Some(flags)) = (u64_at(bytes, 16), u64_at(bytes, 24)) else {
        return Ok(None);
    };
    match flags & 1 {
        0 => Ok(Some(size)),
        _ => Err("it is a big-endian arm64 kernel; Plinth's guests are little-endian".to_owned()),
    }
}

fn gzip(bytes: &[u8]) -> Result<Kernel, String> {
    let mut head = Vec::new();
    let unpacked = GzDecoder::new(bytes).take(64).read_to_end(&mut head);
    if let Err(why) = unpacked {
        return Err(format!("it is a damaged gzip file ({why})"));
    }
    match image_size(&head)? {
        Some(image_size) => Ok(Kernel::GzipImage { image_size }),
        None => Err("it is a gzip file with something other than an arm64 Image in it".to_owned()),
    }
}

fn zboot(bytes: &[u8]) -> Result<Kernel, String> {
    let method = bytes.get(24..32).unwrap_or_default();
    let method = method.split(|byte| *byte == 0).next().unwrap_or_default();
    if pe_machine(bytes) != Some(0xaa64) {
        return Err("it is an EFI zboot kernel of another architecture".to_owned());
    }
    match method {
        b"gzip" => Ok(Kernel::Zboot),
        _ => Err(format!(
            "it is an EFI zboot kernel compressed with {}; only gzip can be unpacked",
            String::from_utf8_lossy(method)
        )),
    }
}

fn elf(bytes: &[u8]) -> Result<Kernel, String> {
    const AARCH64: u16 = 183;
    let (Some(class), Some(order), Some(kind), Some(machine)) =
        (bytes.get(4), bytes.get(5), u16_at(bytes, 16), u16_at(bytes, 18))
    else {
        return Err("it is a truncated ELF file".to_owned());
    };
    let wrong = |what: &str| Err(format!("it is an ELF file {what}, not an arm64 kernel"));
    match (*class, *order, machine) {
        (_, _, 3) => wrong("for x86"),
        (_, _, 62) => wrong("for x86-64"),
        (_, _, 40) => wrong("for 32-bit Arm"),
        (_, _, 243) => wrong("for RISC-V"),
        (2, 1, AARCH64) if kind == 1 => wrong("that is an unlinked object"),
        (2, 1, AARCH64) if has_interpreter(bytes) => wrong("that is a dynamically linked program"),
        (2, 1, AARCH64) => Ok(Kernel::Elf),
        (_, _, AARCH64) => wrong("that is 32-bit or big-endian"),
        _ => wrong(&format!("for machine {machine}")),
    }
}

/// Whether a little-endian ELF64 file asks for a dynamic loader (`PT_INTERP`).
fn has_interpreter(bytes: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
    let (Some(table), Some(size), Some(count)) =
        (u64_at(bytes, 32), u16_at(bytes, 54), u16_at(bytes, 56))
    else {
        return false;
    };
    (0..u64::from(count)).any(|n| {
        let start = table.checked_add(n * u64::from(size)).and_then(|at| usize::try_from(at).ok());
        let kind = start.and_then(|at| bytes.get(at..)?.get(..4));
        kind == Some(PT_INTERP.as_slice())
    })
}

/// What a file that is certainly no flat arm64 binary is.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    const MAGICS: [(&[u8], &str); 14] = [
        (b"\xfd7zXZ\0", "an xz file"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"BZh", "a bzip2 file"),
        (b"\x02\x21\x4c\x18", "an lz4 file"),
        (b"\x04\x22\x4d\x18", "an lz4 file"),
        (b"PK\x03\x04", "a zip file"),
        (b"!<arch>\n", "an archive or Debian package"),
        (b"070701", "a cpio archive (an initrd?)"),
        (b"QFI\xfb", "a qcow2 disk image"),
        (b"\x27\x05\x19\x56", "a U-Boot uImage"),
        (b"\xd0\x0d\xfe\xed", "a device tree"),
        (b"\xcf\xfa\xed\xfe", "a Mach-O file"),
        (b"\0asm", "a WebAssembly module"),
        (b"#!", "a script"),
    ];
    if let Some((_, what)) = MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(what);
    }
    if bytes.get(0x202..0x206) == Some(b"HdrS") {
        return Some("an x86 Linux kernel");
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar archive");
    }
    if bytes.starts_with(b"MZ") {
        return Some(match pe_machine(bytes) {
            Some(0xaa64) => "an arm64 EFI program",
            Some(0x8664) => "an x86-64 EFI program",
            _ => "a DOS or EFI program",
        });
    }
    let head = bytes.get(..256).unwrap_or(bytes);
    let text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    head.iter().all(text).then_some("a text file")
}

/// The machine field of a PE file's header.
fn pe_machine(bytes: &[u8]) -> Option<u16> {
    let header =
        usize::try_from(u32::from_le_bytes(bytes.get(0x3c..0x40)?.try_into().ok()?)).ok()?;
    let header = bytes.get(header..)?;
    header.starts_with(b"PE\0\0").then(|| u16_at(header, 4))?
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.get(..2)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.get(..8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{Kernel, recognise, without_sections};

    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[16..24].copy_from_slice(&0x20_0000u64.to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).expect("memory takes it");
        packer.finish().expect("memory takes it")
    }

    fn elf(class: u8, kind: u16, machine: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.extend([class, 1, 1]);
        bytes.resize(16, 0);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(machine.to_le_bytes());
        bytes.resize(64, 0);
        bytes
    }

    #[test]
    fn an_elf_file_loses_what_follows_its_segments_and_nothing_else_is_touched() {
        let mut file = elf(2, 2, 183);
        file[0x20] = 64; // e_phoff
        file[0x36] = 56; // e_phentsize
        file[0x38] = 1; // e_phnum
        file.resize(120, 0);
        file[64] = 1; // PT_LOAD
        file[64 + 8..64 + 16].copy_from_slice(&120u64.to_le_bytes()); // p_offset
        file[64 + 32..64 + 40].copy_from_slice(&8u64.to_le_bytes()); // p_filesz
        file.extend([7; 8]);
        let wanted = file.clone();
        file.extend([9; 100]);
        file[0x28] = 128; // e_shoff
        file[0x3c] = 1; // e_shnum
        assert_eq!(without_sections(file.clone()), wanted);
        // Cut off in its segment, or no ELF file: as it was.
        for other in [file[..125].to_vec(), image(), b"\x7fELF".to_vec(), Vec::new()] {
            assert_eq!(without_sections(other.clone()), other);
        }
    }

    #[test]
    fn an_arm64_image_is_known_raw_and_gzipped() {
        assert_eq!(recognise(&image()), Ok(Kernel::Image { image_size: 0x20_0000 }));
        let packed = gzipped(&image());
        assert_eq!(recognise(&packed), Ok(Kernel::GzipImage { image_size: 0x20_0000 }));
    }

    #[test]
    fn a_big_endian_image_is_refused() {
        let mut bytes = image();
        bytes[24] = 1;
        assert!(recognise(&bytes).is_err_and(|why| why.contains("big-endian")));
    }

    #[test]
    fn an_elf_file_must_be_for_aarch64_and_linked() {
        assert_eq!(recognise(&elf(2, 2, 183)), Ok(Kernel::Elf));
        assert!(recognise(&elf(2, 2, 62)).is_err_and(|why| why.contains("x86-64")));
        assert!(recognise(&elf(1, 2, 40)).is_err_and(|why| why.contains("32-bit")));
        assert!(recognise(&elf(2, 1, 183)).is_err_and(|why| why.contains("unlinked")));
        assert!(recognise(b"\x7fELF").is_err_and(|why| why.contains("truncated")));
    }

    #[test]
    fn a_program_for_linux_is_not_a_kernel() {
        let mut bytes = elf(2, 3, 183);
        bytes[32] = 64; // program headers follow the file header,
        bytes[54] = 56; // each has 56 bytes,
        bytes[56] = 1; // there is one,
        bytes.extend([3, 0, 0, 0]); // and it is PT_INTERP
        assert!(recognise(&bytes).is_err_and(|why| why.contains("dynamically")));
    }

    #[test]
    fn other_files_are_refused_by_what_they_are() {
        let mut bzimage = vec![0; 1024];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        for (bytes, word) in [
            (Vec::new(), "empty"),
            (bzimage, "x86 Linux"),
            (b"just some words\n".to_vec(), "text"),
            (b"#!/bin/sh\n\x80".to_vec(), "script"),
            (gzipped(b"not a kernel"), "other than an arm64 Image"),
            (vec![0x1f, 0x8b, 8, 0], "damaged"),
            (b"MZ\x90\0".to_vec(), "DOS"),
        ] {
            assert!(recognise(&bytes).is_err_and(|why| why.contains(word)), "{word}");
        }
    }

    #[test]
    fn unknown_bytes_are_a_flat_binary() {
        assert_eq!(recognise(&[0x1f, 0x20, 0x03, 0xd5]), Ok(Kernel::Flat)); // nop
    }

    #[test]
    fn no_truncation_panics() {
        let mut whole = elf(2, 3, 183);
        whole.extend(image());
        for length in 0..whole.len() {
            let _ = recognise(&whole[..length]);
            let _ = recognise(&gzipped(&whole)[..length.min(30)]);
        }
    }
}
