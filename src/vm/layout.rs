//! The guest machine's memory map: that of QEMU's `virt` board, so that whatever is built for that
//! board boots unmodified. Every board gives its guests this one machine.

use crate::addr::{Ipa, Region};
use crate::vgic::IntId;

/// A region whose bounds are known at compile time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// The first byte.
    pub base: Ipa,
    /// How many bytes.
    pub size: u64,
}

impl Window {
    const fn new(base: u64, size: u64) -> Self {
        Self { base: Ipa::new(base), size }
    }

    /// The window as a region.
    pub fn region(self) -> Region<Ipa> {
        Region::new(self.base, self.size)
            .expect("the windows of this file are neither empty nor wrap")
    }
}

/// Where a guest's RAM starts unless its manifest says otherwise, and the lowest address it can.
pub const RAM_BASE: Ipa = Ipa::new(0x4000_0000);
/// GIC distributor, both versions.
pub const GICD: Window = Window::new(0x0800_0000, 0x1_0000);
/// GICv2 CPU interface (8 KiB are used; `GICC_DIR` lies in the second page).
pub const GICC: Window = Window::new(0x0801_0000, 0x2000);
/// GICv3 redistributors: two 64 KiB frames for each vCPU, one after the other.
pub const GICR: Window = Window::new(0x080a_0000, 0xf6_0000);
/// What one vCPU's redistributor takes of [`GICR`]: `RD_base` and `SGI_base`.
pub const GICR_STRIDE: u64 = 0x2_0000;
/// PL011 UART.
pub const UART: Window = Window::new(0x0900_0000, 0x1000);
/// The UART's interrupt, level-triggered.
pub const UART_IRQ: IntId = IntId::spi(1);
/// PL031 real-time clock.
pub const RTC: Window = Window::new(0x0901_0000, 0x1000);
/// The clock's interrupt, level-triggered.
pub const RTC_IRQ: IntId = IntId::spi(2);
/// The vCPUs' stolen time structures: memory that a guest may only read, and no part of its RAM.
pub const STOLEN_TIME: Window = Window::new(0x090a_0000, 0x1000);
/// PL061 GPIO, with the power button.
pub const GPIO: Window = Window::new(0x0903_0000, 0x1000);
/// The GPIO's interrupt, level-triggered.
pub const GPIO_IRQ: IntId = IntId::spi(7);
/// The GPIO's pin that the power button is on.
pub const POWER_BUTTON_PIN: u8 = 3;
/// The virtio-mmio slots, one after the other.
pub const VIRTIO: Window = Window::new(0x0a00_0000, 0x200 * VIRTIO_SLOTS as u64);
/// How many virtio-mmio slots.
pub const VIRTIO_SLOTS: u16 = 32;
/// What one slot takes of [`VIRTIO`].
pub const VIRTIO_STRIDE: u64 = 0x200;

/// The windows of `count` virtio-mmio slots from slot `first` on.
pub const fn virtio_slots(first: u16, count: u16) -> Window {
    let base = VIRTIO.base.raw() + VIRTIO_STRIDE * first as u64;
    Window::new(base, VIRTIO_STRIDE * count as u64)
}

/// The interrupt of virtio-mmio slot `slot`, edge-triggered on this board.
pub const fn virtio_irq(slot: u16) -> IntId {
    IntId::spi(16 + slot)
}

/// What the device whose window starts at `ipa` is called.
pub fn device_name(ipa: Ipa) -> &'static str {
    match ipa {
        at if at == UART.base => "pl011",
        at if at == RTC.base => "pl031",
        at if at == GPIO.base => "pl061",
        at if VIRTIO.region().contains(at) => "virtio-mmio slots",
        _ => "device",
    }
}

/// What raises an interrupt, where that is known.
pub fn interrupt_name(intid: IntId) -> &'static str {
    match intid {
        PHYSICAL_TIMER_IRQ => "physical timer",
        VIRTUAL_TIMER_IRQ => "virtual timer",
        UART_IRQ => "pl011",
        RTC_IRQ => "pl031",
        GPIO_IRQ => "pl061",
        intid if intid.is_sgi() => "sgi",
        IntId(intid) if (48..80).contains(&intid) => "virtio-mmio",
        _ => "",
    }
}

/// Secure EL1 physical timer's interrupt; no guest has the timer, the device tree binding wants it.
pub const SECURE_TIMER_IRQ: IntId = IntId::ppi(13);
/// EL1 physical timer (`CNTP`).
pub const PHYSICAL_TIMER_IRQ: IntId = IntId::ppi(14);
/// EL1 virtual timer (`CNTV`).
pub const VIRTUAL_TIMER_IRQ: IntId = IntId::ppi(11);
/// EL2 physical timer's interrupt; no guest has the timer, the device tree binding wants it.
pub const HYP_TIMER_IRQ: IntId = IntId::ppi(10);
