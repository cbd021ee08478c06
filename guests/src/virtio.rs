//! Virtio over MMIO from the driver's side (VIRTIO 1.2, "Virtio Over MMIO"), raw: registers, features and places of
//! queues are the payload's to choose, right or wrong.
//!
//! A device is found by looking into the board's slots, of which the empty ones have device 0; so a payload runs
//! unchanged on QEMU's board with QEMU's devices (`-global virtio-mmio.force-legacy=false`).
//!
//! | module | what it is |
//! |---|---|
//! | [`memory`] | memory that is shared with devices |
//! | [`split`] | a split virtqueue |
//! | [`packed`] | a packed one |
//! | [`in_order`] | either, whose chains are used in order |
//! | [`ring`] | any of these, as a driver uses it |

pub mod in_order;
pub mod memory;
pub mod packed;
pub mod ring;
pub mod split;

use crate::mmio::{read8, read16, read32, write32};
use packed::Packed;
use split::Split;

/// The first slot, how far the next one is, and how many there are.
const SLOTS: u64 = 0x0a00_0000;
const STRIDE: u64 = 0x200;
const COUNT: u16 = 32;
/// The interrupt of the first slot.
const FIRST_INTID: u32 = 32 + 16;

/// `MagicValue`: "virt".
const MAGIC: u32 = 0x7472_6976;

/// The registers, by offset ("MMIO Device Register Layout").
#[allow(missing_docs)]
pub mod register {
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const QUEUE_RESET: u64 = 0x0c0;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// "Device Status Field".
#[allow(missing_docs)]
pub mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

/// "Reserved Feature Bits".
#[allow(missing_docs)]
pub mod feature {
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_PACKED: u64 = 1 << 34;
    pub const IN_ORDER: u64 = 1 << 35;
    pub const RING_RESET: u64 = 1 << 40;
}

/// "Device Types".
#[allow(missing_docs)]
pub mod kind {
    pub const NET: u32 = 1;
    pub const BLOCK: u32 = 2;
    pub const CONSOLE: u32 = 3;
    pub const ENTROPY: u32 = 4;
    pub const BALLOON: u32 = 5;
    pub const VSOCK: u32 = 19;
}

/// A slot of the board's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Device {
    /// Its number.
    pub slot: u16,
}

impl Device {
    /// The slots that have a device, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        let slots = (0..COUNT).map(|slot| Self { slot });
        slots.filter(|slot| slot.read(register::MAGIC_VALUE) == MAGIC && slot.kind() != 0)
    }

    /// Device number `index`, from 0, of this [`kind`](mod@kind).
    pub fn find(kind: u32, index: usize) -> Option<Self> {
        Self::all().filter(|device| device.kind() == kind).nth(index)
    }

    /// Where its registers are.
    pub fn base(&self) -> u64 {
        SLOTS + STRIDE * u64::from(self.slot)
    }

    /// Its interrupt; the board's are edge-triggered.
    pub fn intid(&self) -> u32 {
        FIRST_INTID + u32::from(self.slot)
    }

    /// A [`register`].
    pub fn read(&self, register: u64) -> u32 {
        read32(self.base() + register)
    }

    /// Writes a [`register`].
    pub fn write(&self, register: u64, value: u32) {
        write32(self.base() + register, value);
    }

    /// Its type; 0 where there is no device.
    pub fn kind(&self) -> u32 {
        self.read(register::DEVICE_ID)
    }

    /// "Device Status Field".
    pub fn status(&self) -> u32 {
        self.read(register::STATUS)
    }

    /// Sets bits of the status.
    pub fn set_status(&self, bits: u32) {
        self.write(register::STATUS, self.status() | bits);
    }

    /// As after power-on. Waits until it is.
    pub fn reset(&self) {
        self.write(register::STATUS, 0);
        while self.status() != 0 {}
    }

    /// The features that it offers.
    pub fn features(&self) -> u64 {
        let half = |sel| {
            self.write(register::DEVICE_FEATURES_SEL, sel);
            u64::from(self.read(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Asks for these features, offered or not.
    pub fn set_features(&self, features: u64) {
        for sel in [0, 1] {
            self.write(register::DRIVER_FEATURES_SEL, sel);
            self.write(register::DRIVER_FEATURES, (features >> (32 * sel)) as u32);
        }
    }

    /// "Device Initialization" from the reset up to `FEATURES_OK`: with what it offers of `wanted`, and `VERSION_1`.
    /// What that came to; `None` if it does not agree.
    pub fn negotiate(&self, wanted: u64) -> Option<u64> {
        self.reset();
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::DRIVER);
        let features = self.features() & (wanted | feature::VERSION_1);
        self.set_features(features);
        self.set_status(status::FEATURES_OK);
        (self.status() & status::FEATURES_OK != 0).then_some(features)
    }

    /// How large queue `index` can be; 0 if there is none.
    pub fn largest(&self, index: u16) -> u16 {
        self.write(register::QUEUE_SEL, index.into());
        self.read(register::QUEUE_NUM_MAX) as u16
    }

    /// Tells where queue `index` is, and makes it ready: so many descriptors, and the three areas. Whether it is
    /// ready.
    pub fn place(&self, index: u16, size: u16, descriptors: u64, driver: u64, device: u64) -> bool {
        self.write(register::QUEUE_SEL, index.into());
        self.write(register::QUEUE_NUM, size.into());
        let address = |low, address: u64| {
            self.write(low, address as u32);
            self.write(low + 4, (address >> 32) as u32);
        };
        address(register::QUEUE_DESC_LOW, descriptors);
        address(register::QUEUE_DRIVER_LOW, driver);
        address(register::QUEUE_DEVICE_LOW, device);
        self.write(register::QUEUE_READY, 1);
        self.read(register::QUEUE_READY) == 1
    }

    /// A new split queue of at most `size` descriptors as queue `index`; `features` were negotiated. `None` where the
    /// device does not take it.
    pub fn split(&self, index: u16, size: u16, features: u64) -> Option<Split> {
        let size = size.min(self.largest(index));
        let queue = Split::new(size, features & feature::EVENT_IDX != 0);
        let ready = size > 0 && self.place(index, size, queue.table, queue.avail, queue.used);
        ready.then_some(queue)
    }

    /// The same for a packed queue, where `RING_PACKED` was negotiated.
    pub fn packed(&self, index: u16, size: u16, features: u64) -> Option<Packed> {
        let size = size.min(self.largest(index));
        let queue = Packed::new(size.max(1), features & feature::EVENT_IDX != 0);
        let ready = size > 0 && self.place(index, size, queue.ring, queue.driver, queue.device);
        ready.then_some(queue)
    }

    /// The driver is ready.
    pub fn start(&self) {
        self.set_status(status::DRIVER_OK);
    }

    /// There is something in queue `index`.
    pub fn notify(&self, index: u16) {
        self.write(register::QUEUE_NOTIFY, index.into());
    }

    /// Why it interrupts, acknowledged.
    pub fn acknowledge(&self) -> u32 {
        let why = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, why);
        why
    }

    /// A byte of its configuration.
    pub fn config8(&self, offset: u64) -> u8 {
        read8(self.base() + register::CONFIG + offset)
    }

    /// Two bytes of its configuration.
    pub fn config16(&self, offset: u64) -> u16 {
        read16(self.base() + register::CONFIG + offset)
    }

    /// Four bytes of its configuration.
    pub fn config32(&self, offset: u64) -> u32 {
        read32(self.base() + register::CONFIG + offset)
    }

    /// Eight bytes of its configuration, a half at a time.
    pub fn config64(&self, offset: u64) -> u64 {
        u64::from(self.config32(offset)) | u64::from(self.config32(offset + 4)) << 32
    }
}
