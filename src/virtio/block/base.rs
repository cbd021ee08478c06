//! What a disk begins with: an image of the bundle, unpacked into frames, which all VMs with a disk of this image share.
//!
//! It is unpacked in steps, by whoever loads a VM that needs it, each of them going on where the last one stopped. Nobody
//! reads of it before all is there, and nobody writes to it then.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::image::{CHUNK, Image, ImageError, Unpacker, chunks_of};
use crate::addr::PAGE_SIZE;
use crate::host::allotment::NoPart;
use crate::memory::{FramePool, OutOfFrames, Store};
use crate::sync::TicketMutex;

/// How much of the table one step clears, in bytes.
const STEP: u64 = 128 << 10;

/// How far it is.
enum Progress {
    /// The table is cleared up to here.
    Clear(u64),
    /// Chunks are unpacked; so many before this one are.
    Unpack(u32, Option<Box<Unpacker<'static>>>),
    /// All is there.
    Done,
    /// It cannot be used.
    Bad(ImageError),
}

/// An image in memory.
pub struct Base {
    image: Image<'static>,
    /// A word for each chunk: its place among `blocks`, counted from 1, or 0 for zeros.
    table: Store,
    /// The chunks that are stored.
    blocks: Store,
    progress: TicketMutex<Progress>,
}

impl Base {
    /// Memory for an image; it is not there yet.
    ///
    /// # Errors
    /// There is not enough.
    pub fn new(image: Image<'static>, frames: &mut FramePool) -> Result<Self, OutOfFrames> {
        let table = Store::take(frames, 4 * chunks_of(image.size()))?;
        match Store::take(frames, CHUNK * u64::from(image.stored())) {
            Ok(blocks) => {
                let progress = TicketMutex::new(Progress::Clear(0));
                Ok(Self { image, table, blocks, progress })
            }
            Err(error) => {
                table.release(frames);
                Err(error)
            }
        }
    }

    /// How much memory an image takes, in bytes.
    pub fn memory(image: &Image<'_>) -> u64 {
        let table = (4 * chunks_of(image.size())).next_multiple_of(PAGE_SIZE);
        table + CHUNK * u64::from(image.stored())
    }

    /// Gives its memory back.
    pub fn release(self, frames: &mut FramePool) {
        self.into_stores().into_iter().for_each(|store| store.release(frames));
    }

    /// Its memory, to be given back.
    pub fn into_stores(self) -> [Store; 2] {
        [self.table, self.blocks]
    }

    /// The disk's size in bytes.
    pub const fn size(&self) -> u64 {
        self.image.size()
    }

    /// One step of some ten thousand instructions towards its being there. Returns whether it is.
    ///
    /// # Errors
    /// The image cannot be used; asked again, it says so again.
    pub fn step(&self) -> Result<bool, ImageError> {
        let mut progress = self.progress.lock();
        match &mut *progress {
            Progress::Clear(to) => {
                let size = (self.table.size() - *to).min(STEP);
                self.table.zero(*to, size);
                *to += size;
                if *to == self.table.size() {
                    *progress = Progress::Unpack(0, None);
                }
            }
            Progress::Unpack(done, unpacker) => match self.unpack(*done, unpacker) {
                Ok(Step::More) => {}
                Ok(Step::Chunk) => *done += 1,
                Ok(Step::All) => *progress = Progress::Done,
                Err(error) => *progress = Progress::Bad(error),
            },
            Progress::Done | Progress::Bad(_) => {}
        }
        match *progress {
            Progress::Done => Ok(true),
            Progress::Bad(error) => Err(error),
            Progress::Clear(_) | Progress::Unpack(..) => Ok(false),
        }
    }

    /// One step of unpacking the chunk with the place `index`.
    fn unpack(
        &self,
        index: u32,
        unpacker: &mut Option<Box<Unpacker<'static>>>,
    ) -> Result<Step, ImageError> {
        let place = CHUNK * u64::from(index);
        let unpacker = match unpacker {
            Some(unpacker) if unpacker.index() == index => unpacker,
            other => {
                let before = other.as_ref().map(|before| before.chunk().number);
                let Some(chunk) = self.image.chunk(index, before)? else { return Ok(Step::All) };
                // What is left of a disk's last block behind its end.
                let end = chunk.size as u64;
                let rest = end.next_multiple_of(PAGE_SIZE) - end;
                self.blocks.zero(place + end, rest);
                match other {
                    Some(unpacker) => {
                        unpacker.begin(index, chunk);
                        unpacker
                    }
                    None => other.insert(Box::new(Unpacker::new(index, chunk))),
                }
            }
        };
        let number = unpacker.chunk().number;
        match unpacker.step()? {
            Some((at, piece)) => {
                self.blocks.write(place + at as u64, piece);
                Ok(Step::More)
            }
            None => {
                self.table.set_word(4 * u64::from(number), index + 1);
                Ok(Step::Chunk)
            }
        }
    }

    /// Where in [`blocks`](Self::blocks) the block `block` of 4 KiB lies; `None` for zeros. It is all there.
    pub fn find(&self, block: u64) -> Option<u64> {
        const BLOCKS: u64 = CHUNK / PAGE_SIZE;
        let place = self.table.word(4 * (block / BLOCKS)).checked_sub(1)?;
        Some(CHUNK * u64::from(place) + PAGE_SIZE * (block % BLOCKS))
    }

    /// Where the blocks lie that are not zeros.
    pub const fn blocks(&self) -> &Store {
        &self.blocks
    }
}

/// The images that are in memory.
#[derive(Default)]
pub struct Images {
    known: Vec<(&'static [u8], Weak<Base>)>,
}

/// Why a disk cannot be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DiskError {
    /// Its image cannot be used.
    #[error("{0}")]
    Image(#[from] ImageError),
    /// It is no part of a machine's disk.
    #[error("{0}")]
    Host(#[from] NoPart),
    /// There is not enough memory.
    #[error("{0}; give the disk less `space`, or the machine more memory")]
    Memory(#[from] OutOfFrames),
}

impl Images {
    /// The image that is these bytes of the bundle: the same one for all who ask as long as anybody has it.
    ///
    /// # Errors
    /// Its header is wrong, or there is not enough memory for it.
    pub fn get(
        &mut self,
        bytes: &'static [u8],
        frames: &mut FramePool,
    ) -> Result<Arc<Base>, DiskError> {
        self.known.retain(|(_, base)| base.strong_count() > 0);
        let known = self.known.iter().find(|(other, _)| core::ptr::eq(*other, bytes));
        if let Some(base) = known.and_then(|(_, base)| base.upgrade()) {
            return Ok(base);
        }
        let base = Arc::new(Base::new(Image::new(bytes)?, frames)?);
        self.known.push((bytes, Arc::downgrade(&base)));
        Ok(base)
    }
}

/// What a step of unpacking came to.
enum Step {
    More,
    /// A chunk is there.
    Chunk,
    /// All are.
    All,
}
