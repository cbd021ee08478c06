//! A guest that asks a disk of the machine's for a sector.

#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;

use plinth::addr::PhysAddr;
use plinth::exit::Width;
use plinth::host::alarm::Alarm;
use plinth::host::allotment::{Allotment, Reader};
use plinth::host::share::Share;
use plinth::host::{Devices, HostDisk};
use plinth::machine::fake::Op;
use plinth::manifest::{DiskConfig, DiskContents, DiskName, DiskPart, HostDiskConfig, VmConfig};
use plinth::memory::Store;
use plinth::time::Ticks;
use plinth::vgic::IntId;

use super::common::{ENTRY, Guest, elf, guest, pool};
use super::disk::FakeDisk;

/// The first virtio slot, and places in the kernel: the descriptors, the two rings, a header, data, a status.
pub const SLOT: u64 = 0x0a00_0000;
pub const DESCRIPTORS: u64 = 0x2000;
pub const AVAILABLE: u64 = 0x3000;
pub const USED: u64 = 0x4000;
pub const HEADER: u64 = 0x5000;
pub const DATA: u64 = 0x5200;
pub const STATUS: u64 = 0x5400;

/// A disk of the machine's, as `vms` describe their parts of it.
pub fn allot(disks: &[Arc<FakeDisk>], vms: &[VmConfig]) -> Allotment {
    allot_on(&devices(disks), vms)
}

pub fn devices(disks: &[Arc<FakeDisk>]) -> Devices {
    let mut devices = Devices::new(32);
    for (disk, at) in disks.iter().zip(0u16..) {
        let address = PhysAddr::new(0xa00_0000 + 512 * u64::from(at));
        devices.add_disk(address, IntId(48 + at), Ok(disk.clone() as Arc<dyn HostDisk>));
    }
    devices
}

pub fn allot_on(devices: &Devices, vms: &[VmConfig]) -> Allotment {
    let mut pool = pool(1 << 16);
    let frame = Store::take(&mut pool, 4096).unwrap();
    let mut left = 0;
    let mut wait = |begins: bool| {
        left = if begins { 10 } else { left - 1 };
        left > 0
    };
    let reader = Reader { frame: &frame, wait: &mut wait };
    let alarm: &'static Alarm = Box::leak(Box::default());
    let share = |disk| Share::new(disk, || Ticks(0), Ticks(100), alarm);
    let allotment = Allotment::new(vms, devices, reader, share);
    frame.release(&mut pool);
    allotment
}

pub fn on_host(disk: u8, part: DiskPart) -> DiskConfig<Vec<u8>, String> {
    on(DiskName::Number(disk), part)
}

pub fn on(disk: DiskName, part: DiskPart) -> DiskConfig<Vec<u8>, String> {
    let contents = DiskContents::Host(HostDiskConfig { disk, part });
    DiskConfig { contents, space: None, read_only: false, serial: "d".into() }
}

/// A guest whose kernel has a queue with one request in it: a sector is read.
pub fn asking(name: &str, disk: DiskConfig<Vec<u8>, String>) -> Guest {
    let mut kernel = vec![0; 0x6000];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = usize::try_from(at).unwrap();
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
    };
    for (number, (at, size, flags)) in
        (0u16..).zip([(HEADER, 16u32, 1u16), (DATA, 512, 3), (STATUS, 1, 2)])
    {
        let descriptor = DESCRIPTORS + 16 * u64::from(number);
        put(descriptor, &(ENTRY + at).to_le_bytes());
        put(descriptor + 8, &size.to_le_bytes());
        put(descriptor + 12, &flags.to_le_bytes());
        put(descriptor + 14, &(number + 1).to_le_bytes());
    }
    put(AVAILABLE + 2, &1u16.to_le_bytes());
    Guest { kernel: elf(ENTRY, &kernel, 0x6000), disks: vec![disk], ..guest(name, 1) }
}

/// "Device Initialization", and the driver notifies.
pub fn ask() -> Vec<Op> {
    let set = |offset: u64, value: u64| Op::Store(SLOT + offset, Width::Word, value);
    vec![
        set(0x070, 3),
        set(0x024, 1),
        set(0x020, 1),
        set(0x070, 11),
        set(0x030, 0),
        set(0x038, 8),
        set(0x080, ENTRY + DESCRIPTORS),
        set(0x090, ENTRY + AVAILABLE),
        set(0x0a0, ENTRY + USED),
        set(0x044, 1),
        set(0x070, 15),
        set(0x050, 0),
    ]
}
