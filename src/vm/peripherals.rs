//! Which devices a guest machine has, and where.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::create::Host;
use super::layout;
use crate::device::Device;
use crate::device::bus::{Bus, Conflict, Peripheral};
use crate::device::pl031::Pl031;
use crate::device::pl061::{Button, Pl061};
use crate::manifest::Devices;
use crate::time::Ticks;
use crate::virtio::slot::EmptySlots;

/// How long a press of the power button lasts.
const PRESS_MICROS: u64 = 100_000;

/// The guest machine's devices: those that every guest has, those in `optional`, and `virtio` in the first slots.
pub(super) fn bus(
    optional: Devices,
    host: &Host,
    uart: Box<dyn Device>,
    virtio: Vec<Box<dyn Device>>,
) -> Result<Bus, Conflict> {
    let mut devices: Vec<Peripheral> = alloc::vec![
        Peripheral::new(layout::UART.region(), uart).with_irq(layout::UART_IRQ),
        gpio(host),
    ];
    if optional.contains(Devices::RTC) {
        let clock = Pl031::new(host.frequency, Ticks(0), host.epoch);
        let clock = Peripheral::new(layout::RTC.region(), Box::new(clock));
        devices.push(clock.with_irq(layout::RTC_IRQ));
    }
    let mut empty = 0;
    for (slot, device) in (0..layout::VIRTIO_SLOTS).zip(virtio) {
        let window = layout::virtio_slots(slot, 1).region();
        devices.push(Peripheral::new(window, device).with_irq(layout::virtio_irq(slot)));
        empty = slot.saturating_add(1);
    }
    let rest = layout::virtio_slots(empty, layout::VIRTIO_SLOTS.saturating_sub(empty)).region();
    devices.push(Peripheral::new(rest, Box::new(EmptySlots)));
    Bus::new(devices)
}

/// The GPIO, with the power button.
fn gpio(host: &Host) -> Peripheral {
    let hold = host.frequency.micros(PRESS_MICROS);
    let gpio = Pl061::new(Button { pin: layout::POWER_BUTTON_PIN, hold });
    Peripheral::new(layout::GPIO.region(), Box::new(gpio)).with_irq(layout::GPIO_IRQ)
}
