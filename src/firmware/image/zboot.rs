//! The EFI zboot kernel: a small EFI program with a compressed Image in it, which newer distributions
//! ship (Linux, `drivers/firmware/efi/libstub/zboot-header.S`). Its header says where the payload is
//! and how it is packed, so that a loader without EFI can unpack it.

use super::ImageError;

const ZIMG: &[u8; 4] = b"zimg";
const ZIMG_AT: usize = 4;
const OFFSET_AT: usize = 8;
const SIZE_AT: usize = 12;
const COMPRESSION_AT: usize = 24;

/// The gzip file in a zboot image; `None` when `file` is no zboot image.
pub fn payload(file: &[u8]) -> Result<Option<&[u8]>, ImageError> {
    if !file.starts_with(b"MZ") || file.get(ZIMG_AT..ZIMG_AT + ZIMG.len()) != Some(ZIMG) {
        return Ok(None);
    }
    let damaged = ImageError::Damaged { part: "EFI zboot header" };
    let compression = file.get(COMPRESSION_AT..).ok_or(damaged)?;
    if !compression.starts_with(b"gzip\0") {
        return Err(ImageError::ZbootCompression);
    }
    let word = |at: usize| {
        let bytes = file.get(at..)?.first_chunk().copied()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let start = word(OFFSET_AT).ok_or(damaged)?;
    let end = word(SIZE_AT).and_then(|size| start.checked_add(size)).ok_or(damaged)?;
    Ok(Some(file.get(start..end).ok_or(damaged)?))
}
