//! Disk images as a bundle has them: sparse, and compressed by chunks.
//!
//! All numbers are little-endian:
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 8 | the disk's size in bytes, a multiple of 512 up to [`MAX_DISK`] |
//! | 16 | 4 | the size of a chunk, [`CHUNK`] |
//! | 20 | 4 | how many chunks are stored; the others are zeros |
//! | 24 | 16 each | for each stored chunk, in order: its number (4), how many bytes are stored of it (4), and where, from the image's first byte on (8) |
//! | … | … | what is stored |
//!
//! A chunk of which as many bytes are stored as it has is stored as it is; one of which fewer are, as a deflate stream
//! (RFC 1951). The last chunk of a disk ends where the disk does.
//!
//! Nothing is trusted: each number is checked before it is used, and what is stored is unpacked in small steps, through one
//! small window.

use alloc::vec::Vec;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress_with_limit};

/// The first bytes of every image.
pub const MAGIC: [u8; 8] = *b"PLDISK\x00\x01";
/// How large a chunk is, in bytes.
pub const CHUNK: u64 = 64 << 10;
/// What a disk's size is a multiple of, in bytes: requests count in these ("Block Device").
pub const SECTOR: u64 = 512;
/// The largest disk, in bytes.
pub const MAX_DISK: u64 = 1 << 40;
/// How many bytes come before the table, and how many of it are one chunk's.
pub const HEADER_SIZE: usize = 24;
/// See [`HEADER_SIZE`].
pub const ENTRY_SIZE: usize = 16;

/// What deflate may refer back to (RFC 1951, "Compressed representation overview").
const WINDOW: usize = 32 << 10;
/// How much of the window is zeroed at a time: a whole one is too large for the stack.
const ZEROS: usize = 4 << 10;
/// How much one step reads and writes at most: some ten thousand instructions.
const STEP_INPUT: usize = 512;
const STEP_OUTPUT: usize = 2 << 10;

/// Why an image cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ImageError {
    /// It does not begin as an image does.
    #[error("it is no disk image of a bundle; pack the bundle again")]
    Magic,
    /// The disk has no size, no whole sectors, or is too large.
    #[error("its disk has {0} bytes; it is a multiple of {SECTOR} up to {MAX_DISK}")]
    Size(u64),
    /// Chunks of another size.
    #[error("its chunks have {0} bytes, not {CHUNK}; pack the bundle again")]
    ChunkSize(u32),
    /// More chunks are stored than the disk has.
    #[error("{stored} chunks are stored of a disk that has {all}")]
    Chunks {
        /// How many are stored.
        stored: u32,
        /// How many the disk has.
        all: u64,
    },
    /// The table does not end before the image does.
    #[error("it is cut short: its table of {0} chunks is not all there")]
    Table(u32),
    /// A chunk that the disk does not have, or that comes after one with a higher number, or for the second time.
    #[error("chunk {number} is not in its place in the table")]
    Order {
        /// Its number.
        number: u32,
    },
    /// What is stored of a chunk is nothing, more than the chunk, or does not end before the image does.
    #[error("what is stored of chunk {number} is not all there, or too much")]
    Place {
        /// Its number.
        number: u32,
    },
    /// What is stored of a chunk cannot be unpacked to as many bytes as it has.
    #[error("chunk {number} is damaged")]
    Damaged {
        /// Its number.
        number: u32,
    },
    /// The hypervisor's heap is full.
    #[error("the hypervisor has no memory left to unpack it; start fewer guests")]
    Heap,
}

/// How many chunks a disk of `size` bytes has.
pub const fn chunks_of(size: u64) -> u64 {
    size.div_ceil(CHUNK)
}

/// Whether a disk can have `size` bytes.
pub const fn is_size(size: u64) -> bool {
    size > 0 && size.is_multiple_of(SECTOR) && size <= MAX_DISK
}

/// An image whose header is good.
#[derive(Clone, Copy, Debug)]
pub struct Image<'i> {
    bytes: &'i [u8],
    size: u64,
    stored: u32,
}

/// A chunk that is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chunk<'i> {
    /// Which.
    pub number: u32,
    /// How many bytes it has, at most [`CHUNK`].
    pub size: usize,
    /// What is stored of it.
    pub stored: &'i [u8],
}

impl<'i> Image<'i> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`ImageError`], of what the header alone shows.
    pub fn new(bytes: &'i [u8]) -> Result<Self, ImageError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(ImageError::Magic);
        }
        let size = field(bytes, 8).map(u64::from_le_bytes).ok_or(ImageError::Magic)?;
        let chunk = field(bytes, 16).map(u32::from_le_bytes).ok_or(ImageError::Magic)?;
        let stored = field(bytes, 20).map(u32::from_le_bytes).ok_or(ImageError::Magic)?;
        if !is_size(size) {
            return Err(ImageError::Size(size));
        }
        if u64::from(chunk) != CHUNK {
            return Err(ImageError::ChunkSize(chunk));
        }
        if u64::from(stored) > chunks_of(size) {
            return Err(ImageError::Chunks { stored, all: chunks_of(size) });
        }
        let table = HEADER_SIZE as u64 + ENTRY_SIZE as u64 * u64::from(stored);
        if table > bytes.len() as u64 {
            return Err(ImageError::Table(stored));
        }
        Ok(Self { bytes, size, stored })
    }

    /// The disk's size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// How many chunks are stored.
    pub const fn stored(&self) -> u32 {
        self.stored
    }

    /// The stored chunk with the place `index` in the table; `None` behind the last. `before` is the one with the place before.
    ///
    /// # Errors
    /// What the table says of it is not possible.
    pub fn chunk(&self, index: u32, before: Option<u32>) -> Result<Option<Chunk<'i>>, ImageError> {
        if index >= self.stored {
            return Ok(None);
        }
        let cut_short = ImageError::Table(self.stored);
        let at = HEADER_SIZE + ENTRY_SIZE * usize::try_from(index).map_err(|_| cut_short)?;
        let number = field(self.bytes, at).map(u32::from_le_bytes).ok_or(cut_short)?;
        let stored = field(self.bytes, at + 4).map(u32::from_le_bytes).ok_or(cut_short)?;
        let offset = field(self.bytes, at + 8).map(u64::from_le_bytes).ok_or(cut_short)?;
        let start = CHUNK * u64::from(number);
        if start >= self.size || before.is_some_and(|before| before >= number) {
            return Err(ImageError::Order { number });
        }
        let size = (self.size - start).min(CHUNK);
        let place = ImageError::Place { number };
        if stored == 0 || u64::from(stored) > size {
            return Err(place);
        }
        let from = usize::try_from(offset).map_err(|_| place)?;
        let to = usize::try_from(stored).ok().and_then(|stored| from.checked_add(stored));
        let bytes = self.bytes.get(from..to.ok_or(place)?).ok_or(place)?;
        let size = usize::try_from(size).map_err(|_| place)?;
        Ok(Some(Chunk { number, size, stored: bytes }))
    }
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// Unpacks chunks, one after the other.
pub struct Unpacker<'i> {
    index: u32,
    chunk: Chunk<'i>,
    /// What of it has not been read yet.
    input: &'i [u8],
    unpacked: usize,
    /// The one element is on the heap without having been on the stack. There when it was needed first.
    inflater: Vec<DecompressorOxide>,
    window: Vec<u8>,
}

impl<'i> Unpacker<'i> {
    /// Nothing of `chunk`, whose place in the table is `index`, is unpacked yet.
    pub const fn new(index: u32, chunk: Chunk<'i>) -> Self {
        let input = chunk.stored;
        Self { index, chunk, input, unpacked: 0, inflater: Vec::new(), window: Vec::new() }
    }

    /// The chunk that is unpacked.
    pub const fn chunk(&self) -> &Chunk<'i> {
        &self.chunk
    }

    /// The place in the table of the chunk that is unpacked.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Goes on with `chunk`, whose place in the table is `index`.
    pub fn begin(&mut self, index: u32, chunk: Chunk<'i>) {
        self.index = index;
        (self.chunk, self.input, self.unpacked) = (chunk, chunk.stored, 0);
        if let Some(inflater) = self.inflater.first_mut() {
            inflater.init();
        }
    }

    /// Unpacks some more: where in the chunk it belongs, and what, perhaps nothing. `None` when all is.
    ///
    /// # Errors
    /// The chunk is damaged, or there is no memory.
    pub fn step(&mut self) -> Result<Option<(usize, &[u8])>, ImageError> {
        let Chunk { number, size, stored } = self.chunk;
        let at = self.unpacked;
        if at == size {
            return Ok(None);
        }
        if stored.len() == size {
            self.unpacked = size;
            return Ok(Some((0, stored)));
        }
        self.make_room()?;
        let Some(inflater) = self.inflater.first_mut() else { return Err(ImageError::Heap) };
        let damaged = ImageError::Damaged { number };
        let (now, later) = self.input.split_at(STEP_INPUT.min(self.input.len()));
        let flags = if later.is_empty() { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
        let (position, limit) = (at % WINDOW, STEP_OUTPUT.min(size - at));
        let (status, read, written) =
            decompress_with_limit(inflater, now, &mut self.window, position, limit, flags);
        self.input = self.input.get(read..).unwrap_or_default();
        self.unpacked += written;
        let goes_on = match status {
            // What comes after the last byte, if only the stream's end, is of no use.
            _ if self.unpacked == size => true,
            TINFLStatus::HasMoreOutput => written > 0,
            TINFLStatus::NeedsMoreInput => read > 0 || written > 0,
            _ => false,
        };
        let piece = self.window.get(position..position + written);
        piece.filter(|_| goes_on).map(|piece| Some((at, piece))).ok_or(damaged)
    }

    /// Room for the state of the inflater, and its window.
    fn make_room(&mut self) -> Result<(), ImageError> {
        if self.inflater.is_empty() {
            self.inflater.try_reserve_exact(1).map_err(|_| ImageError::Heap)?;
            self.window.try_reserve_exact(WINDOW).map_err(|_| ImageError::Heap)?;
            self.inflater.push(DecompressorOxide::new());
            while self.window.len() < WINDOW {
                self.window.extend_from_slice(&[0; ZEROS]);
            }
        }
        Ok(())
    }
}
