//! The partitions of a disk by their GUID Partition Table (UEFI Specification 2.10, "GUID Partition Table (GPT) Disk
//! Layout").
//!
//! A [`Search`] says which sector it wants to see next, and is given it; so it waits for no disk, and holds no more than a
//! sector. The header behind the protective MBR comes first; where that one or its entries are damaged, the one in the
//! disk's last sector. Whoever wrote the disk is not trusted: every number is checked before it is used, and the work is bounded
//! by [`MAX_ENTRIES`].
//!
//! Not read: the MBR, types and attributes; disks whose logical sectors are larger than 512 bytes.

use alloc::string::String;
use core::num::NonZeroU32;

use crc::Digest;

use super::disk::SECTOR;
use crate::crc32::CRC32;

/// How many bytes a sector has.
const BYTES: usize = 512;
const _: () = assert!(BYTES as u64 == SECTOR, "one is the other");

/// The most entries that are read; tables commonly have 128.
pub const MAX_ENTRIES: u32 = 1024;

const SIGNATURE: [u8; 8] = *b"EFI PART";
/// Revision 1.0, the only one there is.
const REVISION: u32 = 0x0001_0000;
/// How many bytes of the header the specification defines; where the checksum stands among them.
const HEADER: usize = 92;
const CHECKSUM: core::ops::Range<usize> = 16..20;
/// The least an entry has, in bytes; a larger one has a power of two times as many.
const ENTRY: usize = 128;
/// Where in an entry its name stands: UTF-16, little-endian.
const NAME: core::ops::Range<usize> = 56..128;

/// Which partition is looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// By its number, from 1 on, which is its place in the table.
    Number(NonZeroU32),
    /// By its name: the first that has it.
    Name(String),
}

/// A partition: sectors of the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Partition {
    /// Its number, from 1 on.
    pub number: u32,
    /// Its first sector.
    pub first: u64,
    /// How many sectors; at least one, and all of them are on the disk.
    pub sectors: u64,
}

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Damage {
    /// There is no header.
    #[error("it has no GPT header")]
    NoHeader,
    /// It is of a revision that is not known here, or of an impossible size.
    #[error("its GPT header is of an unknown kind")]
    Kind,
    /// The header's checksum is wrong.
    #[error("its GPT header is damaged")]
    HeaderChecksum,
    /// The header says that it stands elsewhere, or that entries or partitions lie where they cannot.
    #[error("its GPT header contradicts itself")]
    Layout,
    /// There are more entries than are read here.
    #[error("its GPT has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// The checksum of the entries is wrong.
    #[error("the entries of its GPT are damaged")]
    EntriesChecksum,
}

/// Why there is no such partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotFound {
    /// Neither table can be read.
    #[error("the disk has no partition table: {0}")]
    NoTable(Damage),
    /// The table is sound, and has no such partition.
    #[error("the disk has no such partition")]
    NoPartition,
    /// The partition is there, and lies where none can.
    #[error("partition {0} of the disk is not where partitions can be")]
    BadPartition(u32),
}

/// What a search wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// To be [given](Search::take) this sector.
    Sector(u64),
    /// Nothing more.
    Found(Partition),
    /// Nothing more.
    Failed(NotFound),
}

/// A header that is sound.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// Where partitions can be: the first sector, and the last.
    usable: (u64, u64),
    entries_at: u64,
    entries: u32,
    entry_size: usize,
    entries_checksum: u32,
}

/// Where a search stands.
enum State {
    /// It wants a header: the first, or the one at the disk's end.
    Header {
        at: u64,
    },
    /// It wants entries.
    Entries(Entries),
    Done(Next),
}

struct Entries {
    header: Header,
    /// Where the header stood.
    header_at: u64,
    /// How many sectors of entries have been read.
    read: u64,
    digest: Digest<'static, u32, crc::Table<1>>,
    /// What is wanted, as far as it has been read.
    found: Option<Result<Partition, NotFound>>,
}

/// A search for a partition.
pub struct Search {
    wanted: Wanted,
    /// How many sectors the disk has.
    sectors: u64,
    /// What was wrong with the first table.
    damage: Option<Damage>,
    state: State,
}

impl Search {
    /// A search for `wanted` on a disk of `sectors` sectors.
    pub fn new(wanted: Wanted, sectors: u64) -> Self {
        // The MBR, and a header.
        let state = match sectors {
            0..2 => State::Done(Next::Failed(NotFound::NoTable(Damage::NoHeader))),
            _ => State::Header { at: 1 },
        };
        Self { wanted, sectors, damage: None, state }
    }

    /// What it wants next.
    pub fn next(&self) -> Next {
        match &self.state {
            State::Header { at } => Next::Sector(*at),
            State::Entries(entries) => {
                // Checked with the header: they lie on the disk.
                Next::Sector(entries.header.entries_at.saturating_add(entries.read))
            }
            State::Done(next) => *next,
        }
    }

    /// Gives it the sector that it wants.
    pub fn take(&mut self, sector: &[u8; BYTES]) {
        let done = State::Done(self.next());
        match core::mem::replace(&mut self.state, done) {
            State::Header { at } => match Header::read(sector, at, self.sectors) {
                Ok(header) => self.state = State::Entries(Entries::of(header, at)),
                Err(damage) => self.give_up(at, damage),
            },
            State::Entries(mut entries) => {
                if !entries.take(sector, &self.wanted) {
                    self.state = State::Entries(entries);
                    return;
                }
                let at = entries.header_at;
                match entries.finish() {
                    Ok(next) => self.state = State::Done(next),
                    Err(damage) => self.give_up(at, damage),
                }
            }
            State::Done(_) => {}
        }
    }

    /// This table is damaged: the other one is looked at, if it was not.
    fn give_up(&mut self, at: u64, damage: Damage) {
        let first = *self.damage.get_or_insert(damage);
        let last = self.sectors.saturating_sub(1);
        self.state = if at == 1 && last > 1 {
            State::Header { at: last }
        } else {
            State::Done(Next::Failed(NotFound::NoTable(first)))
        };
    }
}

impl Header {
    /// The header in `sector`, which is sector `at` of a disk of `sectors` sectors.
    fn read(sector: &[u8; BYTES], at: u64, sectors: u64) -> Result<Self, Damage> {
        if !sector.starts_with(&SIGNATURE) {
            return Err(Damage::NoHeader);
        }
        let size = usize::try_from(u32_at(sector, 12)).unwrap_or(usize::MAX);
        let header = sector.get(..size).filter(|header| header.len() >= HEADER);
        let header = header.filter(|_| u32_at(sector, 8) == REVISION).ok_or(Damage::Kind)?;
        // As if its own four bytes were zero.
        let mut digest = CRC32.digest();
        digest.update(header.get(..CHECKSUM.start).unwrap_or_default());
        digest.update(&[0; 4]);
        digest.update(header.get(CHECKSUM.end..).unwrap_or_default());
        if digest.finalize() != u32_at(sector, CHECKSUM.start) {
            return Err(Damage::HeaderChecksum);
        }
        let usable = (u64_at(sector, 40), u64_at(sector, 48));
        let (entries_at, entries) = (u64_at(sector, 72), u32_at(sector, 80));
        let entry_size = usize::try_from(u32_at(sector, 84)).unwrap_or(usize::MAX);
        if entries > MAX_ENTRIES {
            return Err(Damage::TooMany);
        }
        // An entry that is larger than a sector has been seen nowhere.
        if !(ENTRY..=BYTES).contains(&entry_size) || !entry_size.is_power_of_two() {
            return Err(Damage::Kind);
        }
        let header =
            Self { usable, entries_at, entries, entry_size, entries_checksum: u32_at(sector, 88) };
        let entries_end = entries_at.checked_add(header.entry_sectors());
        let fits = u64_at(sector, 24) == at
            && (2..=usable.1).contains(&usable.0)
            && usable.1 < sectors
            && entries > 0
            && entries_at >= 2
            && entries_end.is_some_and(|end| end <= sectors);
        fits.then_some(header).ok_or(Damage::Layout)
    }

    /// How many sectors the entries take.
    fn entry_sectors(&self) -> u64 {
        (u64::from(self.entries) * self.entry_size as u64).div_ceil(SECTOR)
    }

    /// The partition that entry `number` describes, if it is in use.
    fn partition(&self, entry: &[u8], number: u32) -> Option<Result<Partition, NotFound>> {
        // An entry whose type is zero is not in use.
        if entry.get(..16).is_none_or(|kind| kind.iter().all(|byte| *byte == 0)) {
            return None;
        }
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let fits = self.usable.0 <= first && first <= last && last <= self.usable.1;
        Some(if fits {
            Ok(Partition { number, first, sectors: last - first + 1 })
        } else {
            Err(NotFound::BadPartition(number))
        })
    }
}

impl Entries {
    fn of(header: Header, header_at: u64) -> Self {
        Self { header, header_at, read: 0, digest: CRC32.digest(), found: None }
    }

    /// Reads the entries of the next sector. Returns whether it was the last.
    fn take(&mut self, sector: &[u8; BYTES], wanted: &Wanted) -> bool {
        let header = self.header;
        let in_sector = BYTES / header.entry_size;
        // Neither exceeds `MAX_ENTRIES` by more than a sector's.
        let before = u32::try_from(self.read * in_sector as u64).unwrap_or(u32::MAX);
        for (entry, number) in sector.chunks_exact(header.entry_size).zip(before + 1..) {
            if number > header.entries {
                break;
            }
            self.digest.update(entry);
            let is_wanted = match wanted {
                Wanted::Number(wanted) => wanted.get() == number,
                Wanted::Name(name) => self.found.is_none() && is_called(entry, name),
            };
            if is_wanted {
                self.found = header.partition(entry, number);
            }
        }
        self.read += 1;
        self.read >= header.entry_sectors()
    }

    /// All have been read.
    fn finish(self) -> Result<Next, Damage> {
        if self.digest.finalize() != self.header.entries_checksum {
            return Err(Damage::EntriesChecksum);
        }
        Ok(match self.found {
            Some(Ok(partition)) => Next::Found(partition),
            Some(Err(error)) => Next::Failed(error),
            None => Next::Failed(NotFound::NoPartition),
        })
    }
}

/// Whether the entry's name, which ends at its first zero, is `name`.
fn is_called(entry: &[u8], name: &str) -> bool {
    let bytes = entry.get(NAME).unwrap_or_default();
    let (units, _) = bytes.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0);
    !name.is_empty() && units.eq(name.encode_utf16())
}

/// The little-endian word at `at`; none of those who ask goes beyond the end.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests;
