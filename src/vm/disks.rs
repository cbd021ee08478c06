//! A VM's disks: made with it, made ready when it is loaded for the first time, kept over its resets, and given back with it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::mutex::TicketMutex;

use super::Vm;
use crate::manifest::{DiskConfig, DiskContents, Manifest, VmConfig};
use crate::memory::FramePool;
use crate::virtio::block::SharedDisk;
use crate::virtio::block::base::{DiskError, Images};
use crate::virtio::block::disk::{Creation, Disk, Owner};
use crate::virtio::block::image::ImageError;

/// The disks that `config` asks for. With an error, which says of which disk, nothing was taken.
pub(super) fn create(
    config: &VmConfig,
    manifest: &Manifest<'static>,
    images: &mut Images,
    frames: &mut FramePool,
) -> Result<Vec<SharedDisk>, (usize, DiskError)> {
    let owner = Arc::new(Owner::new(config.name.clone()));
    let mut disks = Vec::new();
    for (index, one) in config.disks.iter().enumerate() {
        match disk(one, &owner, manifest, images, frames) {
            Ok(disk) => disks.push(Arc::new(TicketMutex::new(disk))),
            Err(error) => {
                release(disks, frames);
                return Err((index, error));
            }
        }
    }
    Ok(disks)
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
    };
    let (serial, space) = (config.serial.clone(), config.space_of(size));
    Ok(Disk::new(Creation { size, base, space, serial, owner: owner.clone() }, frames)?)
}

/// Gives the disks' memory back. No device has them any more.
pub(super) fn release(disks: Vec<SharedDisk>, frames: &mut FramePool) {
    for disk in disks.into_iter().filter_map(Arc::into_inner) {
        disk.into_inner().release(frames);
    }
}

/// What the monitor calls a disk's device.
pub(super) fn device_name(disk: &SharedDisk) -> String {
    let disk = disk.lock();
    let kind = if disk.is_read_only() { ", read-only" } else { "" };
    format!("virtio-blk {} ({}{kind})", disk.serial(), shown(disk.size()))
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
        self.disks.get(index).map(|disk| disk.lock().step())
    }

    /// How much memory was taken for its disks when it was made, in bytes. What they begin with is counted for the VM that
    /// was the first to have it.
    pub const fn disk_size(&self) -> u64 {
        self.disk_memory
    }
}
