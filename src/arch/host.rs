//! The machine's own virtio devices, from their places in the device tree to their drivers: registers are mapped and
//! looked at only where somebody wants a device.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::{self, NonNull};

use spin::Once;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};

use super::this_cpu::ThisCpu;
use super::{heap, mmu, timer};
use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::host::alarm::Alarm;
use crate::host::allotment::{Allotment, Reader};
use crate::host::buffer::Heap;
use crate::host::devices::Unusable;
use crate::host::drive::Drive;
use crate::host::nic::Nic;
use crate::host::share::{PATIENCE_SECONDS, Share};
use crate::host::{Devices, HostDisk, StartError, Uplink};
use crate::manifest::Manifest;
use crate::memory::{FramePool, Store};
use crate::platform::board::{Board, VirtioPlace};
use crate::time::{Frequency, Ticks};
use crate::vgic::IntId;

/// The boot argument that has the devices looked for though no guest wants any.
pub const ARGUMENT: &str = "host-devices";

/// How much memory a driver takes, in bytes, at most.
const MEMORY_EACH: u64 = 384 << 10;

/// For how long a disk may have a request before there are guests, in microseconds.
const ANSWER_MICROS: u64 = 5_000_000;

static DEVICES: Once<Devices> = Once::new();
/// The disks that guests have parts of.
static SHARES: Once<Vec<Arc<Share>>> = Once::new();
static ALARM: Alarm = Alarm::new();

/// The devices, if somebody has looked for them.
pub fn devices() -> Option<&'static Devices> {
    DEVICES.get()
}

/// Looks for the machine's network cards and disks, and drives those it finds: all of them, as `tree`, the board's,
/// only says where a device can be. Their interrupts come to this CPU; their memory, of `frames`.
pub fn find(machine: &mut ThisCpu, frames: &mut FramePool, tree: &[u8]) -> &'static Devices {
    DEVICES.call_once(|| {
        let places = Board::virtio_places(tree).unwrap_or_else(|error| {
            log::warn!("the machine's virtio devices are not looked for: {error}");
            Vec::new()
        });
        map(&places);
        let mut devices = Devices::new(places.len());
        for place in &places {
            look(&mut devices, place, frames);
        }
        devices.describe(|line| log::info!("{line}"));
        // As levels, whatever the tree calls them: a line stays asserted until its device's interrupt is acknowledged.
        devices.interrupts().for_each(|interrupt| machine.listen_to(interrupt));
        devices
    })
}

/// Maps the registers of all places, by whole pages, each once.
fn map(places: &[VirtioPlace]) {
    let pages = places.iter().map(|place| place.registers.grow_to(PAGE_SIZE));
    let mut pages: Vec<Region<PhysAddr>> = pages.collect();
    pages.sort_by_key(Region::start);
    pages.dedup();
    let mut mapped: Option<Region<PhysAddr>> = None;
    for region in pages {
        if mapped.is_none_or(|mapped| !mapped.contains_region(&region)) {
            mmu::map_registers(region);
        }
        mapped = Some(region);
    }
}

/// Adds the device that is in this place, if one is there that there is a driver for.
fn look(devices: &mut Devices, place: &VirtioPlace, frames: &mut FramePool) {
    let VirtioPlace { registers, interrupt, coherent } = *place;
    let at = registers.start();
    let start = usize::try_from(at.raw()).unwrap_or(0);
    let header = NonNull::new(ptr::with_exposed_provenance_mut::<VirtIOHeader>(start));
    let size = usize::try_from(registers.size()).unwrap_or(0);
    let Some(header) = header.filter(|header| header.is_aligned()) else { return };
    // SAFETY: the tree says that a virtio device's registers are there; they have been mapped, for good, and this driver is
    // the only one who knows them.
    let Ok(transport) = (unsafe { MmioTransport::new(header, size) }) else { return };
    // If there is not so much the driver finds no memory, and says so.
    heap::reserve(frames, MEMORY_EACH);
    match transport.device_type() {
        DeviceType::Network => {
            let device = usable(coherent, || Nic::<Heap, _>::new(transport));
            let device = device.map(|nic| -> Arc<dyn Uplink> { Arc::new(nic) });
            devices.add_nic(at, interrupt.intid, device);
        }
        DeviceType::Block => {
            let device = usable(coherent, || Drive::<Heap, _>::new(transport));
            let device = device.map(|drive| -> Arc<dyn HostDisk> { Arc::new(drive) });
            devices.add_disk(at, interrupt.intid, device);
        }
        other => log::debug!("virtio device at {at}: no driver for {other:?}"),
    }
}

fn usable<D>(coherent: bool, start: impl FnOnce() -> Result<D, StartError>) -> Result<D, Unusable> {
    if coherent { Ok(start()?) } else { Err(Unusable::NotCoherent) }
}

/// What the manifest's VMs are to have of the machine's disks, if any is to have something: the devices are looked for then, and
/// the disks are read. Their interrupts have somebody from here on.
pub fn allot(
    machine: &mut ThisCpu,
    frames: &mut FramePool,
    tree: &[u8],
    manifest: &Manifest<'_>,
    frequency: Frequency,
) -> Allotment {
    let mut disks = manifest.vms().iter().flat_map(|vm| &vm.disks);
    if disks.all(|disk| disk.host().is_none()) {
        return Allotment::default();
    }
    let devices = find(machine, frames, tree);
    let Ok(frame) = Store::take(frames, PAGE_SIZE) else { return Allotment::default() };
    let patience = frequency.micros(ANSWER_MICROS);
    let mut until = Ticks(0);
    let mut wait = |begins: bool| {
        let now = timer::now();
        if begins {
            until = now.saturating_add(patience);
        }
        now < until
    };
    let reader = Reader { frame: &frame, wait: &mut wait };
    let patience = frequency.micros(PATIENCE_SECONDS * 1_000_000);
    let share = |disk| Share::new(disk, timer::now, patience, &ALARM);
    let allotment = Allotment::new(manifest.vms(), devices, reader, share);
    for (index, share) in allotment.shares() {
        let share = share.clone();
        devices.on_completed(*index, Box::new(move || share.attend()));
    }
    SHARES.call_once(|| allotment.shares().iter().map(|(_, share)| share.clone()).collect());
    frame.release(frames);
    allotment
}

/// When a disk is to be looked at that may not have answered.
#[inline]
pub fn deadline() -> Option<Ticks> {
    ALARM.due()
}

/// Looks at the disks, if it is time.
pub fn check_disks() {
    let now = timer::now();
    ALARM.heed(now, || SHARES.get().into_iter().flatten().for_each(|share| share.look(now)));
}

/// An interrupt of one of the hypervisor's devices was taken. Returns whether it was one of these.
pub fn attend(interrupt: IntId) -> bool {
    DEVICES.get().is_some_and(|devices| devices.attend(interrupt))
}
