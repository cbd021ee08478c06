//! Unpacking a gzip file (RFC 1952) piece by piece: through one small window, whatever its size.

use alloc::boxed::Box;
use alloc::vec;

use crc32fast::Hasher;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::ImageError;

const MAGIC: &[u8; 2] = &[0x1f, 0x8b];
const HEADER_SIZE: usize = 10;
/// CM: the compression method.
const DEFLATE: u8 = 8;
/// FLG bits.
const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// What deflate may refer back to is 32 KiB; the window is a power of two and not smaller.
const WINDOW: usize = 64 << 10;

/// Whether a file begins as a gzip file does.
pub fn is_gzip(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// Unpacks `file` and gives its contents to `sink`, piece by piece, each with its offset in the
/// whole. The first piece has the first [`WINDOW`] bytes, or all. Returns how many there were.
pub fn unpack(
    file: &[u8],
    mut sink: impl FnMut(u64, &[u8]) -> Result<(), ImageError>,
) -> Result<u64, ImageError> {
    let mut input = file.get(header_size(file)?..).ok_or(ImageError::CutShort)?;
    let mut inflater = Box::<DecompressorOxide>::default();
    let mut window = vec![0; WINDOW];
    let mut position = 0;
    let mut unpacked = 0u64;
    let mut hasher = Hasher::new();
    loop {
        let (status, read, written) = decompress(&mut inflater, input, &mut window, position, 0);
        match status {
            TINFLStatus::Done => {}
            TINFLStatus::HasMoreOutput if written > 0 => {}
            TINFLStatus::FailedCannotMakeProgress => return Err(ImageError::CutShort),
            _ => return Err(ImageError::Damaged { part: "gzip data" }),
        }
        input = input.get(read..).unwrap_or_default();
        let piece = window.get(position..position + written).unwrap_or_default();
        if !piece.is_empty() {
            hasher.update(piece);
            sink(unpacked, piece)?;
        }
        unpacked += written as u64;
        position = (position + written) % WINDOW;
        if status == TINFLStatus::Done {
            break;
        }
    }
    check_trailer(input, hasher.finalize(), unpacked)?;
    Ok(unpacked)
}

/// "Member header and trailer": how many bytes come before the compressed data.
fn header_size(file: &[u8]) -> Result<usize, ImageError> {
    let damaged = ImageError::Damaged { part: "gzip header" };
    let header = file.first_chunk::<HEADER_SIZE>().ok_or(ImageError::CutShort)?;
    let [.., method, flags, _, _, _, _, _, _] = *header;
    if !is_gzip(header) || method != DEFLATE || flags & RESERVED != 0 {
        return Err(damaged);
    }
    let mut at = HEADER_SIZE;
    if flags & FEXTRA != 0 {
        at += 2 + usize::from(half(file, at)?);
    }
    for field in [FNAME, FCOMMENT] {
        if flags & field != 0 {
            let text = file.get(at..).ok_or(ImageError::CutShort)?;
            at += text.iter().position(|byte| *byte == 0).ok_or(ImageError::CutShort)? + 1;
        }
    }
    if flags & FHCRC != 0 {
        let crc = crc32fast::hash(file.get(..at).ok_or(ImageError::CutShort)?);
        if u32::from(half(file, at)?) != crc & 0xffff {
            return Err(damaged);
        }
        at += 2;
    }
    Ok(at)
}

fn half(file: &[u8], at: usize) -> Result<u16, ImageError> {
    let bytes = file.get(at..).and_then(|bytes| bytes.first_chunk().copied());
    Ok(u16::from_le_bytes(bytes.ok_or(ImageError::CutShort)?))
}

/// CRC32 and ISIZE. Only zeros may follow: a second member would be more of the same contents.
fn check_trailer(trailer: &[u8], computed: u32, unpacked: u64) -> Result<(), ImageError> {
    let (crc, rest) = trailer.split_first_chunk().ok_or(ImageError::CutShort)?;
    let (size, rest) = rest.split_first_chunk().ok_or(ImageError::CutShort)?;
    let [crc, size] = [*crc, *size].map(u32::from_le_bytes);
    if crc != computed {
        return Err(ImageError::Checksum { stored: crc, computed });
    }
    if u64::from(size) != unpacked & 0xffff_ffff {
        return Err(ImageError::Length { stored: size, unpacked });
    }
    if rest.iter().any(|byte| *byte != 0) {
        return Err(ImageError::Damaged { part: "end, where something follows the gzip data," });
    }
    Ok(())
}
