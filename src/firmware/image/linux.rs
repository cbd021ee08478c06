//! The header of an arm64 Linux kernel (Linux's "Booting AArch64 Linux", "Call the kernel image").

use super::{FLAT_OFFSET, ImageError};

const MAGIC: &[u8; 4] = b"ARM\x64";
const MAGIC_AT: usize = 56;
const TEXT_OFFSET_AT: usize = 8;
const IMAGE_SIZE_AT: usize = 16;
const FLAGS_AT: usize = 24;
/// `flags`: the kernel is big-endian. The page size does not concern the loader, and the placement
/// bit asks for no more than what every kernel gets here, the start of RAM.
const FLAG_BIG_ENDIAN: u64 = 1;

/// What an arm64 Image asks of its loader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Where it wants to be, from a 2 MiB boundary on.
    pub text_offset: u64,
    /// What it takes in memory; 0 when it does not say.
    pub image_size: u64,
}

impl Header {
    /// The header of an Image; `None` when `head` is not the start of one.
    pub fn parse(head: &[u8]) -> Result<Option<Self>, ImageError> {
        if head.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) != Some(MAGIC) {
            return Ok(None);
        }
        let word = |at: usize| {
            let bytes = head.get(at..).and_then(|bytes| bytes.first_chunk().copied());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        if word(FLAGS_AT) & FLAG_BIG_ENDIAN != 0 {
            return Err(ImageError::BigEndian);
        }
        let image_size = word(IMAGE_SIZE_AT);
        // Before Linux 3.17 there was no image_size, and text_offset was of unknown endianness.
        let text_offset = if image_size == 0 { FLAT_OFFSET } else { word(TEXT_OFFSET_AT) };
        if !text_offset.is_multiple_of(4096) {
            return Err(ImageError::TextOffset { text_offset });
        }
        Ok(Some(Self { text_offset, image_size }))
    }
}
