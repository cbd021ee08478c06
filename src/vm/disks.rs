//! A VM's disks: made with it, made ready when it is loaded for the first time, kept over its resets, and given back with it.
//!
//! What a disk of the machine's still reads or writes of the VM's memory holds it up: after a reset, and before that memory is
//! given back.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

use super::Vm;
use crate::device::doorbell::Doorbell;
use crate::host::allotment::Allotment;
use crate::host::part::Part;
use crate::host::share::Lent;
use crate::manifest::{DiskConfig, DiskContents, Manifest};
use crate::memory::{FramePool, Store};
use crate::sched::VmId;
use crate::sync::TicketMutex;
use crate::virtio::block::SharedDisk;
use crate::virtio::block::base::{DiskError, Images};
use crate::virtio::block::disk::{Creation, Disk, Owner};
use crate::virtio::block::image::ImageError;

/// A disk of a VM's.
#[derive(Clone)]
pub(super) enum VmDisk {
    /// In memory.
    Memory(SharedDisk),
    /// A part of a disk of the machine's, and what it is called.
    Host(Arc<Part>, String),
}

/// What disks are made from.
pub(super) struct Source<'a> {
    pub vm: VmId,
    pub manifest: &'a Manifest<'static>,
    pub images: &'a mut Images,
    /// What it has of the machine's disks.
    pub allotment: &'a Allotment,
}

/// The disk of this index, which the VM's description has; what the machine's disks have of its memory is counted in `lent`.
/// With an error nothing was taken.
pub(super) fn create(
    source: &mut Source<'_>,
    (index, one): (usize, &DiskConfig),
    owner: &Arc<Owner>,
    lent: &Arc<Lent>,
    frames: &mut FramePool,
) -> Result<VmDisk, DiskError> {
    if one.host().is_some() {
        let place = source.allotment.part(source.vm, index)?;
        return Ok(VmDisk::Host(Arc::new(Part::new(place, lent)), one.serial.clone()));
    }
    let disk = disk(one, owner, source.manifest, source.images, frames)?;
    Ok(VmDisk::Memory(Arc::new(TicketMutex::new(disk))))
}

fn disk(
    config: &DiskConfig,
    owner: &Arc<Owner>,
    manifest: &Manifest<'static>,
    images: &mut Images,
    frames: &mut FramePool,
) -> Result<Disk, DiskError> {
    let (size, base) = match config.contents {
        DiskContents::Empty(size) => (size, None),
        DiskContents::Image(image) => {
            let base = images.get(manifest.payload(image), frames)?;
            (base.size(), Some(base))
        }
        // Made elsewhere.
        DiskContents::Host(_) => (0, None),
    };
    let (serial, space) = (config.serial.clone(), config.space_of(size));
    Ok(Disk::new(Creation { size, base, space, serial, owner: owner.clone() }, frames)?)
}

impl VmDisk {
    /// Its memory, to be given back. No device has it any more.
    pub(super) fn into_stores(self) -> Option<[Store; 4]> {
        let Self::Memory(disk) = self else { return None };
        Some(Arc::into_inner(disk)?.into_inner().into_stores())
    }

    /// What the monitor calls its device.
    pub(super) fn device_name(&self) -> String {
        let kind = |read_only| if read_only { ", read-only" } else { "" };
        match self {
            Self::Memory(disk) => {
                let disk = disk.lock();
                let (size, kind) = (shown(disk.size()), kind(disk.is_read_only()));
                format!("virtio-blk {} ({size}{kind})", disk.serial())
            }
            Self::Host(part, serial) => {
                let (size, kind) = (shown(part.sectors() << 9), kind(part.is_read_only()));
                format!("virtio-blk {serial} ({size} of a host disk{kind})")
            }
        }
    }

    /// `bell` is rung when something has come back of it.
    pub(super) fn set_bell(&self, bell: Doorbell) {
        if let Self::Host(part, _) = self {
            part.set_bell(bell);
        }
    }
}

/// A size for people: whole MiB, or KiB.
fn shown(size: u64) -> String {
    match size >> 20 {
        0 => format!("{} KiB", size >> 10),
        mib => mib.to_string() + " MiB",
    }
}

impl Vm {
    /// One step of making disk `index` ready. Returns whether it is; `None` when there is no such disk.
    pub(super) fn disk_step(&self, index: usize) -> Option<Result<bool, ImageError>> {
        self.disks.get(index).map(|disk| match disk {
            VmDisk::Memory(disk) => disk.lock().step(),
            VmDisk::Host(..) => Ok(true),
        })
    }

    /// Whether a disk still reads or writes the VM's memory for a device that has been reset meanwhile: its vCPUs wait.
    #[inline]
    pub fn is_held_up(&self) -> bool {
        self.lent.has_orphans()
    }

    /// Whether a disk still reads or writes the VM's memory, which then stays.
    pub fn has_lent_memory(&self) -> bool {
        self.lent.is_any()
    }

    /// Nobody waits for anything of the machine's disks any more.
    pub fn abandon_disks(&self) {
        for disk in &self.disks {
            if let VmDisk::Host(part, _) = disk {
                part.close();
            }
        }
    }

    /// How much memory was taken for its disks when it was made, in bytes. What they begin with is counted for the VM that
    /// was the first to have it.
    pub const fn disk_size(&self) -> u64 {
        self.disk_memory
    }
}
