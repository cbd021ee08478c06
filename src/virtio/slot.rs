//! An empty virtio-mmio slot (VIRTIO 1.2, "MMIO Device Register Layout"): a transport without a device.
//!
//! The guest machine has all its slots at fixed places, used or not. Device ID 0 is the standard's
//! way to say that a slot is not used; a driver then leaves it alone without a complaint.

use crate::device::Device;
use crate::exit::Width;
use crate::time::Ticks;
use crate::vm::layout::VIRTIO_STRIDE;

/// MagicValue.
const MAGIC_VALUE: u64 = 0x000;
/// Version, of the transport.
const VERSION: u64 = 0x004;
/// DeviceID, "Virtio Subsystem Device ID".
const DEVICE_ID: u64 = 0x008;
/// VendorID, "Virtio Subsystem Vendor ID".
const VENDOR_ID: u64 = 0x00c;

/// What MagicValue reads as: "virt".
pub const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The transport's version: 1 was the legacy interface.
pub const TRANSPORT_VERSION: u32 = 2;
/// What VendorID reads as on every transport here: "PLTH".
pub const VENDOR: u32 = u32::from_le_bytes(*b"PLTH");
/// The DeviceID of a slot that is not used.
pub const NO_DEVICE: u32 = 0;

/// As many empty slots as its window holds, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptySlots;

impl Device for EmptySlots {
    /// The registers below the configuration space are read by words; other widths read as zero.
    fn read(&mut self, offset: u64, width: Width, _now: Ticks) -> u64 {
        if width != Width::Word {
            return 0;
        }
        let value = match offset % VIRTIO_STRIDE {
            MAGIC_VALUE => MAGIC,
            VERSION => TRANSPORT_VERSION,
            DEVICE_ID => NO_DEVICE,
            VENDOR_ID => VENDOR,
            _ => 0,
        };
        value.into()
    }

    fn write(&mut self, _offset: u64, _width: Width, _value: u64, _now: Ticks) {}

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::layout::{VIRTIO, VIRTIO_SLOTS};

    const NOW: Ticks = Ticks(0);

    #[test]
    fn every_slot_says_that_it_is_a_transport_without_a_device() {
        for slot in 0..u64::from(VIRTIO_SLOTS) {
            let read = |offset| EmptySlots.read(slot * 0x200 + offset, Width::Word, NOW);
            assert_eq!(read(0x000), 0x7472_6976);
            assert_eq!(read(0x004), 2);
            assert_eq!(read(0x008), 0);
            assert_ne!(read(0x00c), 0);
            assert!((0x010..0x200).step_by(4).all(|offset| read(offset) == 0));
        }
    }

    #[test]
    fn no_write_changes_anything_or_raises_an_interrupt() {
        let mut slots = EmptySlots;
        for offset in (0..VIRTIO.size).step_by(4) {
            let before = slots.read(offset, Width::Word, NOW);
            slots.write(offset, Width::Word, 0xffff_ffff, NOW);
            assert_eq!(slots.read(offset, Width::Word, NOW), before);
            assert!(!slots.irq_level());
        }
    }

    #[test]
    fn what_is_not_read_by_words_reads_as_zero() {
        for width in [Width::Byte, Width::Half, Width::Double] {
            assert_eq!(EmptySlots.read(0, width, NOW), 0);
        }
    }
}
