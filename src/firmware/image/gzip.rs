//! Unpacking a gzip file (RFC 1952) in small steps: through one small window, whatever its size.

use alloc::vec::Vec;

use crc::{Digest, Table};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress_with_limit};

use super::ImageError;
use crate::crc32::CRC32;

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

/// What deflate may refer back to (RFC 1951, "Compressed representation overview").
const WINDOW: usize = 32 << 10;
/// How much of the window is zeroed at a time: a whole one is too large for the stack.
const ZEROS: usize = 4 << 10;
/// How much one step reads and writes at most: some ten thousand instructions.
const STEP_INPUT: usize = 512;
const STEP_OUTPUT: usize = 2 << 10;
/// A header's optional fields are looked for in so many bytes, and so many zeros may follow the data.
const EDGE: usize = 64 << 10;

/// Whether a file begins as a gzip file does.
pub fn is_gzip(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// A gzip file that is being unpacked.
pub struct Unpacker<'f> {
    /// What has not been read yet.
    input: &'f [u8],
    /// The one element is on the heap without having been on the stack.
    inflater: Vec<DecompressorOxide>,
    window: Vec<u8>,
    unpacked: u64,
    digest: Digest<'static, u32, Table<1>>,
}

impl<'f> Unpacker<'f> {
    /// Nothing is unpacked yet.
    pub fn new(file: &'f [u8]) -> Result<Self, ImageError> {
        let input = file.get(header_size(file)?..).ok_or(ImageError::CutShort)?;
        let (mut inflater, mut window) = (Vec::new(), Vec::new());
        inflater.try_reserve_exact(1).map_err(|_| ImageError::NoRoomToUnpack)?;
        window.try_reserve_exact(WINDOW).map_err(|_| ImageError::NoRoomToUnpack)?;
        inflater.push(DecompressorOxide::new());
        while window.len() < WINDOW {
            window.extend_from_slice(&[0; ZEROS]);
        }
        Ok(Self { input, inflater, window, unpacked: 0, digest: CRC32.digest() })
    }

    /// How many bytes have been unpacked.
    pub const fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Unpacks some more, perhaps nothing yet. Returns whether that was all, and all was well.
    pub fn step(&mut self) -> Result<bool, ImageError> {
        let (now, later) = self.input.split_at(STEP_INPUT.min(self.input.len()));
        let flags = if later.is_empty() { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
        let Some(inflater) = self.inflater.first_mut() else {
            return Err(ImageError::NoRoomToUnpack);
        };
        let position = place(self.unpacked);
        let (status, read, written) =
            decompress_with_limit(inflater, now, &mut self.window, position, STEP_OUTPUT, flags);
        let goes_on = match status {
            TINFLStatus::Done => false,
            TINFLStatus::HasMoreOutput => written > 0,
            TINFLStatus::NeedsMoreInput => read > 0,
            TINFLStatus::FailedCannotMakeProgress => return Err(ImageError::CutShort),
            _ => return Err(ImageError::Damaged { part: "gzip data" }),
        };
        if status != TINFLStatus::Done && !goes_on {
            return Err(ImageError::Damaged { part: "gzip data" });
        }
        self.input = self.input.get(read..).unwrap_or_default();
        let before = self.unpacked;
        self.unpacked += written as u64;
        let piece = self.window.get(position..position + written).unwrap_or_default();
        debug_assert_eq!(self.unpacked - before, piece.len() as u64);
        self.digest.update(piece);
        if goes_on {
            return Ok(false);
        }
        check_trailer(self.input, self.digest.clone().finalize(), self.unpacked)?;
        Ok(true)
    }

    /// What has been unpacked from offset `from` on: of the last step, or of the first ones together as
    /// long as they fill no window.
    pub fn since(&self, from: u64) -> &[u8] {
        let start = place(from);
        let size = usize::try_from(self.unpacked.saturating_sub(from)).unwrap_or(0);
        self.window.get(start..start.saturating_add(size)).unwrap_or_default()
    }
}

/// Where in the window a byte of the contents is.
fn place(offset: u64) -> usize {
    usize::try_from(offset % WINDOW as u64).unwrap_or(0)
}

/// "Member header and trailer": how many bytes come before the compressed data.
fn header_size(file: &[u8]) -> Result<usize, ImageError> {
    let damaged = ImageError::Damaged { part: "gzip header" };
    let file = file.get(..EDGE).unwrap_or(file);
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
        let crc = CRC32.checksum(file.get(..at).ok_or(ImageError::CutShort)?);
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

/// CRC32 and ISIZE. Only some zeros may follow: a second member would be more of the same contents.
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
    if rest.len() > EDGE || rest.iter().any(|byte| *byte != 0) {
        return Err(ImageError::Damaged { part: "end, where something follows the gzip data," });
    }
    Ok(())
}
