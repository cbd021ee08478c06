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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::firmware::image::Placement;
    use crate::firmware::image::tests::{check, region};

    const RAM: u64 = 0x4000_0000;
    const MIB: u64 = 1 << 20;

    /// Where a RAM disk and the device tree go beside a kernel at the start of RAM.
    fn beside(ram: u64, kernel: u64, initrd: u64) -> Result<(u64, u64), ImageError> {
        let (initrd, dtb) = super::beside(region(RAM, kernel), Some(initrd), region(RAM, ram))?;
        Ok((initrd.unwrap().start().raw() - RAM, dtb.raw() - RAM))
    }

    #[test]
    fn the_initrd_is_128_mib_or_half_of_ram_away_and_the_device_tree_after_it() {
        assert_eq!(beside(1024 * MIB, 30 * MIB, 5 * MIB), Ok((128 * MIB, 134 * MIB)));
        assert_eq!(beside(128 * MIB, 30 * MIB, 6 * MIB), Ok((64 * MIB, 70 * MIB)));
        // A larger kernel pushes it up.
        assert_eq!(beside(1024 * MIB, 200 * MIB, 5 * MIB), Ok((200 * MIB, 206 * MIB)));
    }

    #[test]
    fn an_initrd_that_does_not_fit_there_goes_as_high_as_it_can() {
        // Only the gap between kernel and initrd is left for the device tree.
        assert_eq!(beside(128 * MIB, 30 * MIB, 90 * MIB), Ok((38 * MIB, 30 * MIB)));
        // No gap of 2 MiB: then the device tree takes the end of RAM.
        assert_eq!(beside(128 * MIB, 31 * MIB, 95 * MIB), Ok((31 * MIB, 126 * MIB)));
    }

    #[test]
    fn an_initrd_larger_than_what_is_left_is_refused() {
        assert_eq!(
            beside(128 * MIB, 30 * MIB, 98 * MIB + 1),
            Err(ImageError::InitrdTooLarge { size: 98 * MIB + 1, left: 98 * MIB })
        );
        assert_eq!(beside(128 * MIB, 30 * MIB, 98 * MIB), Err(ImageError::NoRoomForDeviceTree));
        assert!(matches!(
            beside(128 * MIB, 30 * MIB, u64::MAX),
            Err(ImageError::InitrdTooLarge { .. })
        ));
    }

    #[test]
    fn an_initrd_stays_in_the_32_gib_that_linux_reaches() {
        const GIB: u64 = 1 << 30;
        let (initrd, _) = beside(255 * GIB, 30 * MIB, 31 * GIB + 900 * MIB).unwrap();
        assert!(initrd + 31 * GIB + 900 * MIB <= 32 * GIB);
        assert!(matches!(
            beside(255 * GIB, 30 * MIB, 32 * GIB),
            Err(ImageError::InitrdTooLarge { .. })
        ));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn no_placement_overlaps_or_leaves_ram(
            ram in 1u64..70_000,
            kernel in (0u64..20_000, 1u64..20_000),
            initrd in prop::option::of(1u64..40_000_000),
        ) {
            let (ram, kernel) = (region(RAM, ram * 4096), region(RAM + kernel.0 * 4096, kernel.1 * 999));
            prop_assume!(ram.contains_region(&kernel));
            if let Ok((region, dtb)) = super::beside(kernel, initrd, ram) {
                prop_assert_eq!(region.map(|region| region.size()), initrd);
                check(&Placement { entry: kernel.start(), kernel, initrd: region, dtb }, ram);
            }
        }
    }
}
