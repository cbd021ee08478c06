//! Which guests have what of the machine's disks.
//!
//! Found out once, before any guest runs: the disks that the manifest names are asked for their serials and partition tables, one
//! request at a time, and each answer is waited for. What is asked for and is not there, or is another guest's, is refused to its
//! guest with the reason.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::devices::{Devices, Missing};
use super::disk::{HostDisk, IoError, Operation, Refused, Request, SECTOR, SERIAL, Token};
use super::gpt::{self, NotFound, Search, Wanted};
use super::part::Place;
use super::share::Share;
use crate::manifest::{DiskConfig, DiskName, DiskPart, HostDiskConfig, VmConfig};
use crate::memory::Store;
use crate::sched::VmId;

/// How many bytes a sector has.
const BYTES: usize = 512;

/// Why a guest has not the part of a disk that it is to have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoPart {
    /// There is no such disk.
    #[error("{0}")]
    Missing(#[from] Missing),
    /// No disk calls itself so.
    #[error("none of the machine's {count} virtio disks has the serial {serial}")]
    NoSerial {
        /// The serial that is wanted.
        serial: String,
        /// How many disks there are.
        count: usize,
    },
    /// There is no such partition.
    #[error("{0}")]
    Partition(#[from] NotFound),
    /// The range does not lie on the disk.
    #[error("it ends {end} KiB from the start of the disk, which has {size} KiB", end = end >> 1, size = sectors >> 1)]
    Outside {
        /// The first sector behind it.
        end: u64,
        /// How many the disk has.
        sectors: u64,
    },
    /// The disk can only be read.
    #[error("the disk can only be read, so it has to be `read_only = true`")]
    ReadOnly,
    /// Somebody else has some of it.
    #[error("disk {} of {vm} has some of it, and not both are read-only", disk + 1)]
    Taken {
        /// Who.
        vm: String,
        /// Which of its disks, counted from 0.
        disk: usize,
    },
    /// The disk could not be read.
    #[error("the disk cannot be read: {0}")]
    Io(#[from] IoError),
    /// The disk takes no request.
    #[error("the disk cannot be read: {0}")]
    Refused(#[from] Refused),
    /// The disk does not answer, and was turned off.
    #[error("the disk does not answer")]
    Silent,
}

/// Reads from disks while nobody else does.
pub struct Reader<'a> {
    /// A frame that they are told to write to.
    pub frame: &'a Store,
    /// Begins to wait for an answer when it is called with `true`; returns whether to go on waiting.
    pub wait: &'a mut dyn FnMut(bool) -> bool,
}

impl Reader<'_> {
    /// Carries out a request that reads `size` bytes, 512 at most, and gives these.
    fn read(
        &mut self,
        disk: &dyn HostDisk,
        operation: Operation,
        size: u64,
    ) -> Result<[u8; BYTES], NoPart> {
        let segments: Vec<_> = self.frame.segments(0, size).collect();
        disk.submit(&Request { token: Token(0), operation, segments: &segments })?;
        let mut goes_on = (self.wait)(true);
        let done = loop {
            match disk.completed() {
                Some(done) => break done,
                None if goes_on => goes_on = (self.wait)(false),
                None => {
                    // It reaches no memory from here on.
                    disk.give_up();
                    while disk.completed().is_some() {}
                    return Err(NoPart::Silent);
                }
            }
        };
        disk.attend();
        done.result?;
        let mut bytes = [0; BYTES];
        for (four, at) in bytes.chunks_exact_mut(4).zip((0..size).step_by(4)) {
            four.copy_from_slice(&self.frame.word(at).to_le_bytes());
        }
        Ok(bytes)
    }

    fn has_serial(&mut self, disk: &dyn HostDisk, serial: &str) -> Result<bool, NoPart> {
        self.frame.zero(0, SERIAL);
        let bytes = match self.read(disk, Operation::Serial, SERIAL) {
            // One that does not know what it is called is not the one.
            Err(NoPart::Io(IoError::Unsupported)) => return Ok(false),
            read => read?,
        };
        let ends = bytes.get(serial.len()) == Some(&0);
        Ok(bytes.starts_with(serial.as_bytes()) && ends)
    }

    fn partition(&mut self, disk: &dyn HostDisk, wanted: Wanted) -> Result<(u64, u64), NoPart> {
        let mut search = Search::new(wanted, disk.sectors());
        loop {
            match search.next() {
                gpt::Next::Sector(at) => {
                    let sector = self.read(disk, Operation::Read(at), SECTOR)?;
                    search.take(&sector);
                }
                gpt::Next::Found(found) => return Ok((found.first, found.sectors)),
                gpt::Next::Failed(why) => return Err(why.into()),
            }
        }
    }
}

/// A part, or why it is not there.
type Allotted = Result<Place, NoPart>;

/// Who has what.
#[derive(Debug, Default)]
pub struct Allotment {
    /// The disks that somebody has a part of.
    shares: Vec<(usize, Arc<Share>)>,
    /// By VM, and by disk among its disks; `None` for one in memory.
    parts: Box<[Box<[Option<Allotted>]>]>,
}

/// A part that somebody has.
struct Taken {
    index: usize,
    first: u64,
    sectors: u64,
    read_only: bool,
    vm: usize,
    disk: usize,
}

impl Allotment {
    /// What the manifest's `vms` are to have of the disks among `devices`. A disk is shared as `share` makes it.
    pub fn new(
        vms: &[VmConfig],
        devices: &Devices,
        mut reader: Reader<'_>,
        share: impl Fn(Arc<dyn HostDisk>) -> Share,
    ) -> Self {
        let (mut shares, mut taken) = (Vec::new(), Vec::new());
        let mut parts = Vec::with_capacity(vms.len());
        for (vm, config) in vms.iter().enumerate() {
            let mut of_vm = Vec::with_capacity(config.disks.len());
            for (disk, one) in config.disks.iter().enumerate() {
                let part = one.host().map(|host| {
                    let wish = Wish { vm, disk, config: one, host };
                    let found = wish.find(devices, &mut reader, &taken, vms)?;
                    let known = shares.iter().find(|(index, _)| *index == found.index);
                    let share = match known {
                        Some((_, share)) => Arc::clone(share),
                        None => {
                            let made = Arc::new(share(devices.disk(found.index)?));
                            shares.push((found.index, made.clone()));
                            made
                        }
                    };
                    let Taken { first, sectors, read_only, .. } = found;
                    taken.push(found);
                    Ok(Place { share, first, sectors, read_only })
                });
                of_vm.push(part);
            }
            parts.push(of_vm.into());
        }
        Self { shares, parts: parts.into() }
    }

    /// The disks that somebody has a part of, by their numbers.
    pub fn shares(&self) -> &[(usize, Arc<Share>)] {
        &self.shares
    }

    /// The part of a disk of the machine's that disk `disk` of `vm` is.
    ///
    /// # Errors
    /// Why it is not there.
    pub fn part(&self, vm: VmId, disk: usize) -> Result<Place, NoPart> {
        let part = self.parts.get(vm.index()).and_then(|of_vm| of_vm.get(disk)?.as_ref());
        // Nobody has looked for any: as on a machine that has none.
        let none = || Err(Missing::NoPlace(super::DeviceKind::Disk).into());
        part.cloned().unwrap_or_else(none)
    }
}

/// What one VM's disk is to be.
struct Wish<'a> {
    vm: usize,
    disk: usize,
    config: &'a DiskConfig,
    host: &'a HostDiskConfig,
}

impl Wish<'_> {
    fn find(
        &self,
        devices: &Devices,
        reader: &mut Reader<'_>,
        taken: &[Taken],
        vms: &[VmConfig],
    ) -> Result<Taken, NoPart> {
        let (index, disk) = self.find_disk(devices, reader)?;
        let read_only = self.config.read_only;
        if disk.is_read_only() && !read_only {
            return Err(NoPart::ReadOnly);
        }
        let all = disk.sectors();
        let (first, sectors) = match &self.host.part {
            DiskPart::Whole => (0, all),
            DiskPart::Partition(number) => {
                let number = core::num::NonZeroU32::new((*number).into());
                let number = number.ok_or(NotFound::NoPartition)?;
                reader.partition(&*disk, Wanted::Number(number))?
            }
            DiskPart::Named(name) => reader.partition(&*disk, Wanted::Name(name.clone()))?,
            DiskPart::Range(start, size) => {
                let first = start / SECTOR;
                let rest = all.saturating_sub(first).max(1);
                (first, size.map_or(rest, |size| size / SECTOR))
            }
        };
        let end = first.saturating_add(sectors);
        if end > all {
            return Err(NoPart::Outside { end, sectors: all });
        }
        let clash = taken.iter().find(|other| {
            let apart = end <= other.first || other.first + other.sectors <= first;
            other.index == index && !apart && !(read_only && other.read_only)
        });
        if let Some(other) = clash {
            let vm = vms.get(other.vm).map_or_else(String::new, |vm| vm.name.clone());
            return Err(NoPart::Taken { vm, disk: other.disk });
        }
        Ok(Taken { index, first, sectors, read_only, vm: self.vm, disk: self.disk })
    }

    fn find_disk(
        &self,
        devices: &Devices,
        reader: &mut Reader<'_>,
    ) -> Result<(usize, Arc<dyn HostDisk>), NoPart> {
        let serial = match &self.host.disk {
            DiskName::Number(number) => {
                let index = usize::from(*number);
                return Ok((index, devices.disk(index)?));
            }
            DiskName::Serial(serial) => serial,
        };
        let count = devices.disk_count();
        if count == 0 {
            // Which says why there is none.
            devices.disk(0)?;
        }
        for index in 0..count {
            // Those that cannot be used are not asked.
            let Ok(disk) = devices.disk(index) else { continue };
            if reader.has_serial(&*disk, serial).unwrap_or(false) {
                return Ok((index, disk));
            }
        }
        Err(NoPart::NoSerial { serial: serial.clone(), count })
    }
}
