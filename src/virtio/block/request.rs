//! One request to a disk (VIRTIO 1.2, "Block Device", "Device Operation").
//!
//! A header, data in any number of buffers cut anywhere, and a byte for the status at the end. What is asked is read once and
//! checked; what is worked off at a time is bounded, and how far it is is plain data.

use serde::{Deserialize, Serialize};

use super::disk::{Disk, WriteError};
use super::image::SECTOR;
use crate::addr::{Ipa, PAGE_SIZE};
use crate::memory::OutsideRam;
use crate::virtio::queue::{Buffer, Chain};
use crate::virtio::ram::GuestRam;

/// `struct virtio_blk_req`: the size of what comes before the data.
pub(super) const HEADER: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`: its size, and its one flag.
pub(super) const SEGMENT: usize = 16;
pub(super) const UNMAP: u32 = 1;
/// The types of requests.
pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;
pub(super) const GET_ID: u32 = 8;
pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;
/// How long a disk's name is.
pub const ID_SIZE: usize = 20;

/// What a request costs beside its data, in bytes that are copied.
pub const COST: u64 = 8 << 10;

/// How many segments one request to discard, or to write zeros, may have.
pub const MAX_SEGMENTS: u32 = 16;
/// How many sectors each of them may have: 128 MiB.
pub const MAX_SEGMENT_SECTORS: u32 = 1 << 18;

/// What a request comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Status {
    /// `VIRTIO_BLK_S_OK`.
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`.
    IoError = 1,
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupported = 2,
}

impl From<OutsideRam> for Status {
    fn from(_: OutsideRam) -> Self {
        Self::IoError
    }
}

impl From<WriteError> for Status {
    fn from(_: WriteError) -> Self {
        Self::IoError
    }
}

/// How much is done before somebody else goes on: some ten thousand instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    bytes: u64,
    pieces: u32,
}

impl Budget {
    /// All of it.
    pub const WHOLE: Self = Self { bytes: 64 << 10, pieces: 48 };

    /// Whether nothing is left.
    pub const fn is_spent(&self) -> bool {
        self.bytes == 0 || self.pieces == 0
    }

    /// Whether no more is left than all of it.
    pub const fn is_sound(&self) -> bool {
        self.bytes <= Self::WHOLE.bytes && self.pieces <= Self::WHOLE.pieces
    }

    /// Something was done that costs as much as copying so many bytes.
    pub fn spend(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.pieces = self.pieces.saturating_sub(1);
    }
}

/// A place in a list of buffers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Cursor {
    buffer: u32,
    offset: u32,
}

impl Cursor {
    /// The next bytes that lie in one buffer, at most `most`, and goes on behind them. `None` at the end.
    pub(super) fn take(&mut self, buffers: &[Buffer], most: u64) -> Option<(Ipa, u64)> {
        let buffer = buffers.get(self.buffer as usize)?;
        let rest = buffer.size.saturating_sub(self.offset);
        let size = most.min(rest.into());
        // One that wraps is in no RAM, wherever it is said to be.
        let ipa = buffer.ipa.checked_add(self.offset.into()).unwrap_or(Ipa::new(u64::MAX));
        if size < u64::from(rest) {
            self.offset += u32::try_from(size).unwrap_or(rest);
        } else {
            *self = Self { buffer: self.buffer + 1, offset: 0 };
        }
        Some((ipa, size))
    }

    /// Whether one that was saved, and may be anything by now, is a place in them, or their end.
    fn is_sound(&self, buffers: &[Buffer]) -> bool {
        match buffers.get(self.buffer as usize) {
            Some(buffer) => self.offset < buffer.size,
            None => self.offset == 0,
        }
    }

    /// Reads so many bytes, from as many buffers as it takes.
    pub(super) fn read<const N: usize>(
        &mut self,
        buffers: &[Buffer],
        ram: &impl GuestRam,
    ) -> Result<[u8; N], Status> {
        let mut bytes = [0; N];
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let (ipa, size) = self.take(buffers, rest.len() as u64).ok_or(Status::IoError)?;
            let (now, later) = rest.split_at_mut(usize::try_from(size).unwrap_or(N));
            ram.read_bytes(ipa, now)?;
            rest = later;
        }
        Ok(bytes)
    }
}

/// What is asked that takes a while.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
enum Task {
    Read,
    Write,
    Discard,
    WriteZeros { unmap: bool },
}

/// A request that is being worked off.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Request {
    task: Task,
    /// The next byte of the disk.
    at: u64,
    /// How many bytes of the disk are left; of this segment, where there are segments.
    left: u64,
    /// How many segments come after this one.
    segments: u32,
    /// The next byte of the data.
    cursor: Cursor,
    /// How many bytes of the data have been written.
    written: u32,
}

/// What comes of beginning a request.
pub enum Begun {
    /// It has to be worked off, and is where it is kept.
    Request,
    /// It is done; so many bytes of its data were written.
    Done(Status, u32),
}

/// Where a request's status goes, and how many bytes can be written before; `None` when there is no place for it.
pub fn status_place(chain: &Chain) -> Option<(Ipa, u64)> {
    let last = chain.writable().last()?;
    let place = last.ipa.checked_add(u64::from(last.size.checked_sub(1)?))?;
    Some((place, chain.room().checked_sub(1)?))
}

/// What is asked, the first sector, and where the data begins.
fn header(chain: &Chain, ram: &impl GuestRam) -> Result<(u32, u64, Cursor), Status> {
    let mut cursor = Cursor::default();
    let [asked, sector] = match chain.readable().first() {
        // As drivers have it.
        Some(first) if u64::from(first.size) == HEADER as u64 => {
            cursor.buffer = 1;
            ram.read_pair(first.ipa)?
        }
        _ => {
            let bytes: [u8; HEADER] = cursor.read(chain.readable(), ram)?;
            let [first @ .., a, b, c, d, e, f, g, h] = bytes;
            [u64::from_le_bytes(first), u64::from_le_bytes([a, b, c, d, e, f, g, h])]
        }
    };
    #[allow(clippy::cast_possible_truncation, reason = "the low word is what is asked")]
    Ok((asked as u32, sector, cursor))
}

impl Request {
    /// Looks at what is asked, and keeps it in `kept`. `room` bytes can be written before the status.
    pub fn begin(
        kept: &mut Option<Self>,
        disk: &Disk,
        chain: &Chain,
        room: u64,
        ram: &impl GuestRam,
    ) -> Begun {
        match Self::read(kept, disk, chain, room, ram) {
            Ok(begun) => begun,
            Err(status) => Begun::Done(status, 0),
        }
    }

    #[inline(always)]
    fn read(
        kept: &mut Option<Self>,
        disk: &Disk,
        chain: &Chain,
        room: u64,
        ram: &impl GuestRam,
    ) -> Result<Begun, Status> {
        let (asked, sector, mut cursor) = header(chain, ram)?;
        let given = || {
            let all: u64 = chain.readable().iter().map(|buffer| u64::from(buffer.size)).sum();
            all.saturating_sub(HEADER as u64)
        };
        let (task, size) = match asked {
            IN => {
                cursor = Cursor::default();
                (Task::Read, room)
            }
            OUT => (Task::Write, given()),
            FLUSH => return Ok(Begun::Done(Status::Ok, 0)),
            GET_ID => return tell_id(disk.serial(), chain, room, ram),
            DISCARD => return Self::segments(kept, Task::Discard, disk, given(), cursor),
            WRITE_ZEROES => {
                let task = Task::WriteZeros { unmap: false };
                return Self::segments(kept, task, disk, given(), cursor);
            }
            _ => return Err(Status::Unsupported),
        };
        if !size.is_multiple_of(SECTOR) || (task == Task::Write && disk.is_read_only()) {
            return Err(Status::IoError);
        }
        let at = place(disk, sector, size / SECTOR)?;
        *kept = Some(Self { task, at, left: size, segments: 0, cursor, written: 0 });
        Ok(Begun::Request)
    }

    /// A request that consists of segments: `size` bytes of them.
    fn segments(
        kept: &mut Option<Self>,
        task: Task,
        disk: &Disk,
        size: u64,
        cursor: Cursor,
    ) -> Result<Begun, Status> {
        let segments = u32::try_from(size / SEGMENT as u64).unwrap_or(u32::MAX);
        let whole = size.is_multiple_of(SEGMENT as u64);
        if disk.is_read_only() || !whole || !(1..=MAX_SEGMENTS).contains(&segments) {
            return Err(Status::IoError);
        }
        *kept = Some(Self { task, at: 0, left: 0, segments, cursor, written: 0 });
        Ok(Begun::Request)
    }

    /// Whether one that was saved, and may be anything by now, can be asked of `disk` by `chain`.
    pub fn is_sound(&self, disk: &Disk, chain: &Chain) -> bool {
        let buffers = match self.task {
            Task::Read => chain.writable(),
            Task::Write | Task::Discard | Task::WriteZeros { .. } => chain.readable(),
        };
        let end = self.at.checked_add(self.left);
        let in_segments = matches!(self.task, Task::Discard | Task::WriteZeros { .. });
        let most = SECTOR * u64::from(MAX_SEGMENT_SECTORS);
        end.is_some_and(|end| end <= disk.size())
            && (self.task == Task::Read || !disk.is_read_only())
            && self.segments <= if in_segments { MAX_SEGMENTS } else { 0 }
            && (!in_segments || self.left <= most)
            && self.cursor.is_sound(buffers)
    }

    /// How many bytes of its data have been written.
    pub const fn written(&self) -> u32 {
        self.written
    }

    /// Goes on as long as the budget lasts. Returns whether that was all.
    ///
    /// # Errors
    /// The status of a request that failed.
    pub fn go_on(
        &mut self,
        disk: &mut Disk,
        chain: &Chain,
        ram: &impl GuestRam,
        budget: &mut Budget,
    ) -> Result<bool, Status> {
        loop {
            if self.left == 0 {
                if self.segments == 0 {
                    return Ok(true);
                }
                self.next_segment(disk, chain, ram)?;
                continue;
            }
            if budget.is_spent() {
                return Ok(false);
            }
            let in_block = self.left.min(PAGE_SIZE - self.at % PAGE_SIZE);
            let size = match self.task {
                Task::Read => self.read_piece(disk, chain, in_block, ram, budget)?,
                Task::Write => self.write_piece(disk, chain, in_block, ram, budget)?,
                Task::Discard => {
                    // What is discarded of a block without the rest of it stays: that is allowed.
                    if in_block == PAGE_SIZE {
                        disk.discard(self.at / PAGE_SIZE);
                    }
                    budget.bytes = budget.bytes.saturating_sub(512);
                    in_block
                }
                Task::WriteZeros { unmap } => {
                    disk.zero(self.at, in_block, unmap)?;
                    budget.bytes = budget.bytes.saturating_sub(if unmap { 512 } else { in_block });
                    in_block
                }
            };
            self.at += size;
            self.left -= size;
        }
    }

    fn read_piece(
        &mut self,
        disk: &Disk,
        chain: &Chain,
        most: u64,
        ram: &impl GuestRam,
        budget: &mut Budget,
    ) -> Result<u64, Status> {
        let (ipa, size) = self.cursor.take(chain.writable(), most).ok_or(Status::IoError)?;
        disk.read(self.at, size, ipa, ram)?;
        self.written = self.written.saturating_add(u32::try_from(size).unwrap_or(0));
        budget.spend(cost(ipa, self.at, size));
        Ok(size)
    }

    fn write_piece(
        &mut self,
        disk: &mut Disk,
        chain: &Chain,
        most: u64,
        ram: &impl GuestRam,
        budget: &mut Budget,
    ) -> Result<u64, Status> {
        let (ipa, size) = self.cursor.take(chain.readable(), most).ok_or(Status::IoError)?;
        disk.write(self.at, size, ipa, ram)?;
        budget.spend(cost(ipa, self.at, size));
        Ok(size)
    }

    fn next_segment(
        &mut self,
        disk: &Disk,
        chain: &Chain,
        ram: &impl GuestRam,
    ) -> Result<(), Status> {
        let segment: [u8; SEGMENT] = self.cursor.read(chain.readable(), ram)?;
        let [sector @ .., a, b, c, d, e, f, g, h] = segment;
        let (sectors, flags) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let unmap = flags & UNMAP != 0;
        match &mut self.task {
            Task::WriteZeros { unmap: wanted } if flags & !UNMAP == 0 => *wanted = unmap,
            Task::Discard if flags == 0 => {}
            _ => return Err(Status::Unsupported),
        }
        if sectors > MAX_SEGMENT_SECTORS {
            return Err(Status::IoError);
        }
        self.at = place(disk, u64::from_le_bytes(sector), sectors.into())?;
        self.left = SECTOR * u64::from(sectors);
        self.segments -= 1;
        Ok(())
    }
}

/// Writes what a disk calls itself.
pub(super) fn tell_id(
    serial: &str,
    chain: &Chain,
    room: u64,
    ram: &impl GuestRam,
) -> Result<Begun, Status> {
    let mut id = [0; ID_SIZE];
    for (to, from) in id.iter_mut().zip(serial.bytes()) {
        *to = from;
    }
    let size = room.min(ID_SIZE as u64);
    let (mut cursor, mut rest) = (Cursor::default(), &id[..]);
    rest = rest.get(..usize::try_from(size).unwrap_or(0)).unwrap_or_default();
    while !rest.is_empty() {
        let next = cursor.take(chain.writable(), rest.len() as u64);
        let (ipa, size) = next.ok_or(Status::IoError)?;
        let (now, later) = rest.split_at(usize::try_from(size).unwrap_or(ID_SIZE));
        ram.write_bytes(ipa, now)?;
        rest = later;
    }
    Ok(Begun::Done(Status::Ok, u32::try_from(size).unwrap_or(0)))
}

/// The first byte of so many sectors, all of which the disk has.
fn place(disk: &Disk, sector: u64, sectors: u64) -> Result<u64, Status> {
    let end = sector.checked_add(sectors).filter(|end| *end <= disk.size() / SECTOR);
    end.map(|_| SECTOR * sector).ok_or(Status::IoError)
}

/// What copying costs, in bytes that are copied where both ends are aligned alike.
fn cost(ipa: Ipa, at: u64, size: u64) -> u64 {
    if (ipa.raw() ^ at).is_multiple_of(16) { size } else { 4 * size }
}
