//! Do virtio devices over MMIO keep to the standard (VIRTIO 1.2) with a driver that does, and bear one that does not?
//!
//! The entropy device answers for rings; a disk, a network card and a socket device are asked where there are some.

#![no_std]
#![no_main]

mod disk;
mod in_order;
mod lies;
mod registers;
mod rings;
mod socket;
mod storm;
mod suppression;

use core::sync::atomic::{AtomicU32, Ordering};

use guests::report::Report;
use guests::virtio::split::Split;
use guests::virtio::{Device, kind, status};
use guests::{gic, interrupt, sysreg};

guests::payload!(main);

/// Why each slot's device has interrupted, all reasons so far.
static REASONS: [AtomicU32; 32] = [const { AtomicU32::new(0) }; 32];

/// The first slot's interrupt.
const FIRST: u32 = 48;

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    for device in Device::all() {
        interrupt::on(device.intid(), acknowledge);
        gic::set_edge(device.intid(), true);
        gic::enable(device.intid());
    }
    sysreg::unmask_interrupts();
    registers::ask(report);
    match Device::find(kind::ENTROPY, 0) {
        Some(device) => {
            rings::ask(report, device);
            suppression::ask(report, device);
            lies::ask(report, device);
            storm::ask(report, device);
        }
        None => report.skip("rings", "there is no entropy device"),
    }
    match Device::find(kind::BLOCK, 0) {
        Some(device) => {
            disk::ask(report, device);
            in_order::ask(report, device);
        }
        None => report.skip("a disk's requests", "there is no disk"),
    }
    match Device::find(kind::NET, 0) {
        Some(device) => storm::of_card(report, device),
        None => report.skip("a card that is begun anew", "there is no network card"),
    }
    match Device::find(kind::VSOCK, 0) {
        Some(device) => socket::ask(report, device),
        None => report.skip("a socket device's driver that lies", "there is no socket device"),
    }
}

fn acknowledge(acknowledged: u32) {
    let slot = gic::intid(acknowledged) - FIRST;
    let why = Device { slot: slot as u16 }.acknowledge();
    REASONS[slot as usize].fetch_or(why, Ordering::Relaxed);
}

/// Why `device` has interrupted since this was asked last.
fn reasons(device: Device) -> u32 {
    REASONS[usize::from(device.slot)].swap(0, Ordering::Relaxed)
}

/// How often.
fn interrupts(device: Device) -> u32 {
    interrupt::count(0, device.intid())
}

/// A queue as if it were new, in the same memory.
fn renew(queue: &mut Split, event_index: bool) {
    queue.restart();
    queue.event_index = event_index;
}

/// The device with these features, and `queue` as its first one, ready. Whether it is.
fn begin(device: Device, queue: &mut Split, features: u64) -> bool {
    let agreed = device.negotiate(features).is_some();
    renew(queue, features & guests::virtio::feature::EVENT_IDX != 0);
    let placed = device.place(0, queue.size, queue.table, queue.avail, queue.used);
    device.start();
    agreed && placed && device.status() == 15
}

/// Whether the device says that it needs a reset.
fn needs_reset(device: Device) -> bool {
    device.status() & status::DEVICE_NEEDS_RESET != 0
}
