//! Where a RAM disk and a device tree go beside a kernel.
//!
//! The RAM disk comes 128 MiB or half of RAM after its start, as QEMU puts it, so that the kernel has
//! room to grow; otherwise as high as it can. The device tree comes to the start of RAM when that is
//! free, where bare-metal programs for QEMU look for it; otherwise after the RAM disk or the kernel,
//! or at the end of RAM. Linux wants the kernel and the RAM disk in one window of 32 GiB that is
//! aligned to 1 GiB, and the device tree in no 2 MiB that something else is in ("Booting AArch64
//! Linux").

use super::{DEVICE_TREE_SLOT, ImageError};
use crate::addr::{Ipa, PAGE_SIZE, Region};

const INITRD_OFFSET: u64 = 128 << 20;
const INITRD_WINDOW: u64 = 32 << 30;
const WINDOW_ALIGN: u64 = 1 << 30;

/// A place for a RAM disk of `initrd` bytes, and the device tree's slot.
pub fn beside(
    kernel: Region<Ipa>,
    initrd: Option<u64>,
    ram: Region<Ipa>,
) -> Result<(Option<Region<Ipa>>, Ipa), ImageError> {
    let Some(size) = initrd else {
        let dtb = device_tree(kernel, None, ram).ok_or(ImageError::NoRoomForDeviceTree)?;
        return Ok((None, dtb));
    };
    let reach = reach(kernel, ram);
    let left = reach.last().raw().saturating_sub(kernel.last().raw());
    let mut fits = false;
    for start in starts(size, kernel, ram, reach).into_iter().flatten() {
        let region = Region::new(start, size)
            .filter(|region| reach.contains_region(region) && region.start() > kernel.last());
        let Some(region) = region else { continue };
        fits = true;
        if let Some(dtb) = device_tree(kernel, Some(region), ram) {
            return Ok((Some(region), dtb));
        }
    }
    Err(if fits {
        ImageError::NoRoomForDeviceTree
    } else {
        ImageError::InitrdTooLarge { size, left }
    })
}

/// The part of RAM that Linux lets a RAM disk be in.
fn reach(kernel: Region<Ipa>, ram: Region<Ipa>) -> Region<Ipa> {
    Region::new(kernel.start().align_down(WINDOW_ALIGN), INITRD_WINDOW)
        .and_then(|window| window.intersection(&ram))
        .unwrap_or(ram)
}

/// Where a RAM disk may start, the best place first.
fn starts(
    size: u64,
    kernel: Region<Ipa>,
    ram: Region<Ipa>,
    reach: Region<Ipa>,
) -> [Option<Ipa>; 3] {
    let usual = ram.start().checked_add(INITRD_OFFSET.min(ram.size() / 2));
    let usual = usual.zip(kernel.end()).and_then(|(at, end)| at.max(end).align_up(PAGE_SIZE));
    let highest = |end: u64| Some(Ipa::new(end.checked_sub(size)?).align_down(PAGE_SIZE));
    let end = reach.last().raw().saturating_add(1);
    let below_device_tree = (end & !(DEVICE_TREE_SLOT - 1)).checked_sub(DEVICE_TREE_SLOT);
    [usual, highest(end), below_device_tree.and_then(highest)]
}

/// A slot for the device tree that is free.
fn device_tree(kernel: Region<Ipa>, initrd: Option<Region<Ipa>>, ram: Region<Ipa>) -> Option<Ipa> {
    let after = |region: Region<Ipa>| region.end()?.align_up(DEVICE_TREE_SLOT);
    let last = ram.shrink_to(DEVICE_TREE_SLOT).map(|whole| {
        let slot = whole.last().align_down(DEVICE_TREE_SLOT);
        slot.max(whole.start())
    });
    let candidates =
        [ram.start().align_up(DEVICE_TREE_SLOT), initrd.and_then(after), after(kernel), last];
    let free = |start: &Ipa| {
        Region::new(*start, DEVICE_TREE_SLOT).is_some_and(|slot| {
            let taken = |other: Region<Ipa>| slot.overlaps(&other);
            ram.contains_region(&slot) && !taken(kernel) && !initrd.is_some_and(taken)
        })
    };
    candidates.into_iter().flatten().find(free)
}
