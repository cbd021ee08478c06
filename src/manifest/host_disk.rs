//! A part of a disk of the machine's, as a manifest names it.

use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::{MAX_PARTITION_NAME, MAX_SERIAL};
use crate::host::SECTOR;
use crate::host::gpt::MAX_ENTRIES;

/// Which disk of the machine's. `T` as in [`VmConfig`](super::VmConfig).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum DiskName<T = String> {
    /// The one with this number, counted from 0.
    Number(u8),
    /// The first that calls itself so: 1 to [`MAX_SERIAL`] printable ASCII characters.
    Serial(T),
}

impl<T: fmt::Display> fmt::Display for DiskName<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Serial(serial) => write!(f, "{serial}"),
        }
    }
}

/// What of a machine's disk a guest has. `T` as in [`VmConfig`](super::VmConfig).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum DiskPart<T = String> {
    /// All of it.
    Whole,
    /// The partition with this number, 1 to [`MAX_ENTRIES`].
    Partition(u16),
    /// The partition with this name: 1 to [`MAX_PARTITION_NAME`] characters, none of them a control character.
    Named(T),
    /// Bytes, by multiples of [`SECTOR`]: where they start, and how many; `None`: all up to the disk's end.
    Range(u64, Option<u64>),
}

/// Which of the machine's disks, and what of it. `T` as in [`VmConfig`](super::VmConfig).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct HostDiskConfig<T = String> {
    /// Which disk.
    pub disk: DiskName<T>,
    /// What of it.
    pub part: DiskPart<T>,
}

/// Why there is no such part of a disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PartError {
    /// No device calls itself so.
    #[error("a serial has 1 to {MAX_SERIAL} printable ASCII characters and no space")]
    Serial,
    /// No partition has this number.
    #[error("partitions are numbered from 1 to {MAX_ENTRIES}")]
    Number,
    /// No partition has this name.
    #[error(
        "a partition's name has 1 to {MAX_PARTITION_NAME} characters, and no control character"
    )]
    Name,
    /// It is not made of sectors, or has none, or ends where no disk does.
    #[error(
        "a range starts at a multiple of {SECTOR} and has a multiple of {SECTOR} bytes, at least one"
    )]
    Range,
}

impl<T: AsRef<str>> HostDiskConfig<T> {
    /// Whether there can be such a part of a disk.
    ///
    /// # Errors
    /// Why there cannot.
    pub fn check(&self) -> Result<(), PartError> {
        if let DiskName::Serial(serial) = &self.disk
            && !super::is_serial(serial.as_ref())
        {
            return Err(PartError::Serial);
        }
        match &self.part {
            DiskPart::Whole => Ok(()),
            DiskPart::Partition(number) if (1..=MAX_ENTRIES).contains(&u32::from(*number)) => {
                Ok(())
            }
            DiskPart::Partition(_) => Err(PartError::Number),
            DiskPart::Named(name) => {
                let name = name.as_ref();
                let length = name.encode_utf16().count();
                let fits = (1..=MAX_PARTITION_NAME).contains(&length);
                (fits && !name.chars().any(char::is_control)).then_some(()).ok_or(PartError::Name)
            }
            DiskPart::Range(start, size) => {
                let size = size.unwrap_or(SECTOR);
                let whole = start.is_multiple_of(SECTOR) && size.is_multiple_of(SECTOR) && size > 0;
                let end = start.checked_add(size).filter(|_| whole);
                end.map(|_| ()).ok_or(PartError::Range)
            }
        }
    }

    /// Whether both certainly have something in common, whatever is on the disk.
    pub fn overlaps<U: AsRef<str>>(&self, other: &HostDiskConfig<U>) -> bool {
        let same = match (&self.disk, &other.disk) {
            (DiskName::Number(one), DiskName::Number(other)) => one == other,
            (DiskName::Serial(one), DiskName::Serial(other)) => one.as_ref() == other.as_ref(),
            _ => false,
        };
        let end = |start: u64, size: Option<u64>| {
            size.map_or(u64::MAX, |size| start.saturating_add(size))
        };
        same && match (&self.part, &other.part) {
            (DiskPart::Whole, _) | (_, DiskPart::Whole) => true,
            (DiskPart::Partition(one), DiskPart::Partition(other)) => one == other,
            (DiskPart::Named(one), DiskPart::Named(other)) => one.as_ref() == other.as_ref(),
            (DiskPart::Range(one, size), DiskPart::Range(other, other_size)) => {
                *one < end(*other, *other_size) && *other < end(*one, *size)
            }
            _ => false,
        }
    }
}

impl<T> HostDiskConfig<T> {
    pub(super) fn map<'a, U>(&'a self, text: &mut impl FnMut(&'a T) -> U) -> HostDiskConfig<U> {
        HostDiskConfig {
            disk: match &self.disk {
                DiskName::Number(number) => DiskName::Number(*number),
                DiskName::Serial(serial) => DiskName::Serial(text(serial)),
            },
            part: match &self.part {
                DiskPart::Whole => DiskPart::Whole,
                DiskPart::Partition(number) => DiskPart::Partition(*number),
                DiskPart::Named(name) => DiskPart::Named(text(name)),
                DiskPart::Range(start, size) => DiskPart::Range(*start, *size),
            },
        }
    }
}

impl<T: fmt::Display> fmt::Display for HostDiskConfig<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host disk {}", self.disk)?;
        match &self.part {
            DiskPart::Whole => Ok(()),
            DiskPart::Partition(number) => write!(f, ", partition {number}"),
            DiskPart::Named(name) => write!(f, ", partition {name}"),
            DiskPart::Range(start, size) => {
                write!(f, ", from {} KiB on", start >> 10)?;
                size.map_or(Ok(()), |size| write!(f, " {} KiB", size >> 10))
            }
        }
    }
}
