//! A RAM disk of one VM: what it begins with, shared and never written to, and what the VM has written, its own.
//!
//! In blocks of 4 KiB. A block that is written to gets a place in the VM's own *space*; one that is discarded, or is to
//! be zeros, gives it back. When the space is used up, writes to other blocks fail.
//!
//! The space is not zeroed before: a block's place is written whole, from the disk's beginning or the guest's RAM, before the
//! table leads there.

use alloc::string::String;
use alloc::sync::Arc;

use super::base::Base;
use super::image::ImageError;
use crate::addr::{Ipa, PAGE_SIZE};
use crate::memory::{FramePool, OutOfFrames, OutsideRam, Store};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::virtio::ram::GuestRam;

/// How much of the table one step clears, in bytes.
const STEP: u64 = 128 << 10;

/// What the table has for a block that is as it was in the beginning; for one that is zeros although it was not;
/// and, for one that has a place in the space, the place's number and this.
const AS_IT_WAS: u32 = 0;
const ZEROS: u32 = 1;
const PLACES: u32 = 2;

/// Why something cannot be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WriteError {
    /// The guest's buffer is not in its RAM.
    Outside(OutsideRam),
    /// The space is used up.
    Full,
}

impl From<OutsideRam> for WriteError {
    fn from(outside: OutsideRam) -> Self {
        Self::Outside(outside)
    }
}

/// Whose disk it is, shared by all that are.
#[derive(Debug)]
pub struct Owner {
    name: String,
    /// It was said that space is used up.
    told: AtomicBool,
}

impl Owner {
    /// The VM of this name.
    pub const fn new(name: String) -> Self {
        Self { name, told: AtomicBool::new(false) }
    }
}

/// What a disk is made from.
pub struct Creation {
    /// Its size in bytes.
    pub size: u64,
    /// What it begins with; zeros where there is nothing.
    pub base: Option<Arc<Base>>,
    /// How much of it may be written to at a time, in bytes; `None` where nothing may.
    pub space: Option<u64>,
    /// What it calls itself.
    pub serial: String,
    /// Whose it is.
    pub owner: Arc<Owner>,
}

/// A RAM disk.
pub struct Disk {
    size: u64,
    base: Option<Arc<Base>>,
    own: Option<Own>,
    serial: String,
    owner: Arc<Owner>,
}

/// What the VM has written.
struct Own {
    /// A word for each block.
    table: Store,
    /// So much of it is cleared.
    cleared: u64,
    space: Store,
    /// Places from this one on were never used.
    fresh: u32,
    /// The place that was given back last, counted from 1. Its first word is the one before.
    free: u32,
}

/// Where the content of a block is.
enum Content<'d> {
    Zeros,
    At(&'d Store, u64),
}

impl Disk {
    /// A disk that begins as the image, or with zeros. It has to be made ready.
    ///
    /// # Errors
    /// There is not enough memory for it; nothing was taken.
    pub fn new(creation: Creation, frames: &mut FramePool) -> Result<Self, OutOfFrames> {
        let Creation { size, base, space, serial, owner } = creation;
        match space.map(|space| Own::new(size, space, frames)).transpose() {
            Ok(own) => Ok(Self { size, base, own, serial, owner }),
            Err(error) => {
                release_base(base, frames);
                Err(error)
            }
        }
    }

    /// How much memory of its own a disk takes, in bytes.
    pub fn memory(size: u64, space: Option<u64>) -> u64 {
        space.map_or(0, |space| Own::space(size, space) + Own::table(size))
    }

    /// Gives its memory back; that of what it began with too, if this was the last disk that did.
    pub fn release(self, frames: &mut FramePool) {
        self.into_stores().into_iter().for_each(|store| store.release(frames));
    }

    /// Its memory, to be given back.
    pub fn into_stores(self) -> [Store; 4] {
        let (table, space) = self.own.map(|own| (own.table, own.space)).unwrap_or_default();
        let base = self.base.and_then(Arc::into_inner).map(Base::into_stores);
        let [places, blocks] = base.unwrap_or_default();
        [table, space, places, blocks]
    }

    /// One step of some ten thousand instructions before it can be used. Returns whether that was all.
    ///
    /// # Errors
    /// The image cannot be used.
    pub fn step(&mut self) -> Result<bool, ImageError> {
        if self.own.as_mut().is_some_and(|own| !own.clear()) {
            return Ok(false);
        }
        self.base.as_ref().map_or(Ok(true), |base| base.step())
    }

    /// Its size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What it calls itself.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Whether nothing can be written.
    pub const fn is_read_only(&self) -> bool {
        self.own.is_none()
    }

    /// Copies `size` bytes of a block, from byte `at` of the disk on, to RAM from `ipa` on.
    ///
    /// # Errors
    /// Not all of that is RAM.
    pub fn read(
        &self,
        at: u64,
        size: u64,
        ipa: Ipa,
        ram: &impl GuestRam,
    ) -> Result<(), OutsideRam> {
        match self.content(at / PAGE_SIZE) {
            Content::At(store, place) => ram.copy_from(ipa, store, place + at % PAGE_SIZE, size),
            Content::Zeros => {
                let outside = OutsideRam { ipa, size };
                ram.zero(crate::addr::Region::new(ipa, size).ok_or(outside)?)
            }
        }
    }

    /// Copies `size` bytes from `ipa` on to a block, from byte `at` of the disk on.
    ///
    /// # Errors
    /// [`WriteError`]; nothing was written.
    pub fn write(
        &mut self,
        at: u64,
        size: u64,
        ipa: Ipa,
        ram: &impl GuestRam,
    ) -> Result<(), WriteError> {
        let block = at / PAGE_SIZE;
        if size < PAGE_SIZE {
            let (own, place) = self.own_block(block)?;
            ram.copy_to(ipa, &own.space, place + at % PAGE_SIZE, size)?;
            return Ok(());
        }
        // All of it comes at once, or nothing: what was there is not needed.
        let own = self.own.as_mut().ok_or(WriteError::Full)?;
        if let Some(place) = own.place(block) {
            return Ok(ram.copy_to(ipa, &own.space, place, size)?);
        }
        let Some(number) = own.take() else { return Err(self.full()) };
        match ram.copy_to(ipa, &own.space, PAGE_SIZE * u64::from(number), size) {
            Ok(()) => own.set(block, PLACES + number),
            Err(outside) => {
                own.give_back(number);
                return Err(outside.into());
            }
        }
        Ok(())
    }

    /// Zeroes `size` bytes of a block, from byte `at` of the disk on. A block that is to be zeros gives its place back if it is `unmap`ped.
    ///
    /// # Errors
    /// The space is used up: a part of a block is to be zeros, and the block has no place yet.
    pub fn zero(&mut self, at: u64, size: u64, unmap: bool) -> Result<(), WriteError> {
        let block = at / PAGE_SIZE;
        let whole = size == PAGE_SIZE;
        let own = self.own.as_mut().ok_or(WriteError::Full)?;
        match own.place(block) {
            Some(place) if !(whole && unmap) => own.space.zero(place + at % PAGE_SIZE, size),
            _ if whole => self.discard(block),
            _ if matches!(self.content(block), Content::Zeros) => {}
            _ => {
                let (own, place) = self.own_block(block)?;
                own.space.zero(place + at % PAGE_SIZE, size);
            }
        }
        Ok(())
    }

    /// Lets a block be zeros. Its place, if it has one, is another's from now on.
    pub fn discard(&mut self, block: u64) {
        let began_with_zeros = self.base.as_ref().is_none_or(|base| base.find(block).is_none());
        let Some(own) = &mut self.own else { return };
        if let Some(number) = own.entry(block).checked_sub(PLACES) {
            own.give_back(number);
        }
        own.set(block, if began_with_zeros { AS_IT_WAS } else { ZEROS });
    }

    fn content(&self, block: u64) -> Content<'_> {
        match self.own.as_ref().map_or(AS_IT_WAS, |own| own.entry(block)) {
            AS_IT_WAS => {
                match self.base.as_ref().and_then(|base| Some((base, base.find(block)?))) {
                    Some((base, place)) => Content::At(base.blocks(), place),
                    None => Content::Zeros,
                }
            }
            ZEROS => Content::Zeros,
            place => match &self.own {
                Some(own) => Content::At(&own.space, PAGE_SIZE * u64::from(place - PLACES)),
                None => Content::Zeros,
            },
        }
    }

    /// The place of a block of which a part is to be written: with what is there, if it has none yet.
    fn own_block(&mut self, block: u64) -> Result<(&Own, u64), WriteError> {
        let own = self.own.as_mut().ok_or(WriteError::Full)?;
        let place = match own.place(block) {
            Some(place) => place,
            None => {
                let Some(number) = own.take() else { return Err(self.full()) };
                let place = PAGE_SIZE * u64::from(number);
                let own = self.own.as_ref().ok_or(WriteError::Full)?;
                match self.content(block) {
                    Content::Zeros => own.space.zero(place, PAGE_SIZE),
                    Content::At(store, from) => own.space.copy(place, store, from, PAGE_SIZE),
                }
                own.set(block, PLACES + number);
                place
            }
        };
        Ok((self.own.as_ref().ok_or(WriteError::Full)?, place))
    }

    /// Says, once for each VM, that the space is used up.
    #[cold]
    fn full(&self) -> WriteError {
        if !self.owner.told.swap(true, Ordering::Relaxed) {
            let space = self.own.as_ref().map_or(0, |own| own.space.size()) >> 10;
            let (owner, serial) = (&self.owner.name, &self.serial);
            log::warn!(
                "{owner}: {serial} has used up its space of {space} KiB, and what else is written to it fails; \
                 give it more `space` in the manifest, or let the guest discard what it has deleted (fstrim)"
            );
        }
        WriteError::Full
    }
}

/// Gives its memory back if nobody else has it.
fn release_base(base: Option<Arc<Base>>, frames: &mut FramePool) {
    if let Some(base) = base.and_then(Arc::into_inner) {
        base.release(frames);
    }
}

impl Own {
    fn new(size: u64, space: u64, frames: &mut FramePool) -> Result<Self, OutOfFrames> {
        let table = Store::take(frames, Self::table(size))?;
        match Store::take(frames, Self::space(size, space)) {
            Ok(space) => Ok(Self { table, cleared: 0, space, fresh: 0, free: 0 }),
            Err(error) => {
                table.release(frames);
                Err(error)
            }
        }
    }

    /// How large the table of a disk of `size` bytes is.
    fn table(size: u64) -> u64 {
        (4 * size.div_ceil(PAGE_SIZE)).next_multiple_of(PAGE_SIZE)
    }

    /// How much space it has: no more than there are blocks.
    fn space(size: u64, space: u64) -> u64 {
        space.min(size).next_multiple_of(PAGE_SIZE)
    }

    /// Clears some of the table. Returns whether all is clear.
    fn clear(&mut self) -> bool {
        let size = (self.table.size() - self.cleared).min(STEP);
        self.table.zero(self.cleared, size);
        self.cleared += size;
        self.cleared == self.table.size()
    }

    fn entry(&self, block: u64) -> u32 {
        self.table.word(4 * block)
    }

    fn set(&self, block: u64, entry: u32) {
        self.table.set_word(4 * block, entry);
    }

    /// Where in the space a block lies, if it does.
    fn place(&self, block: u64) -> Option<u64> {
        self.entry(block).checked_sub(PLACES).map(|number| PAGE_SIZE * u64::from(number))
    }

    /// A place that nobody has.
    fn take(&mut self) -> Option<u32> {
        if let Some(number) = self.free.checked_sub(1) {
            self.free = self.space.word(PAGE_SIZE * u64::from(number));
            return Some(number);
        }
        let number = self.fresh;
        let there = PAGE_SIZE * u64::from(number) < self.space.size();
        self.fresh += u32::from(there);
        there.then_some(number)
    }

    fn give_back(&mut self, number: u32) {
        self.space.set_word(PAGE_SIZE * u64::from(number), self.free);
        self.free = number + 1;
    }
}
