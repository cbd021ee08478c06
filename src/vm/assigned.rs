//! The board's devices that a VM has for its own: where it finds them, and what must not be there.
//!
//! Registers are at the same addresses as on the board, interrupts have the same numbers.

use alloc::boxed::Box;
use alloc::string::String;

use super::{Vm, layout};
use crate::addr::{Ipa, PAGE_SIZE, PhysAddr, Region};
use crate::device::bus::Bus;
use crate::memory::{FramePool, Geometry, Maintenance, MapError, Perms, Stage2};
use crate::platform::WiredInterrupt;
use crate::platform::board::AssignedDevice;
use crate::vcpu::VcpuId;
use crate::vgic::{INTERRUPTS, IntId, Notify, Vgic};

/// Why a device of the board has no place in the guest machine.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlaceError {
    /// The guest's RAM or one of its devices is there.
    #[error("{path} is at {at}, where the guest has {what}")]
    Occupied {
        /// The node.
        path: String,
        /// The page.
        at: Ipa,
        /// What is there.
        what: &'static str,
    },
    /// The guest has that interrupt for something else, or has none of that number.
    #[error("{path} has the interrupt {}, which is not free in a guest", .intid.0)]
    Interrupt {
        /// The node.
        path: String,
        /// Its interrupt.
        intid: IntId,
    },
}

/// Whether `devices` fit into a guest machine with this RAM and these devices of its own.
pub(super) fn check(
    devices: &[AssignedDevice],
    ram: Region<Ipa>,
    geometry: &Geometry,
    bus: &Bus,
) -> Result<(), PlaceError> {
    let gic = [layout::GICD, layout::GICC, layout::GICR].map(|it| (it.region(), "its GIC"));
    for device in devices {
        for page in device.pages().map(ipas) {
            let occupied = |what| {
                let (path, at) = (device.path.clone(), page.start());
                Err(PlaceError::Occupied { path, at, what })
            };
            if page.overlaps(&ram) {
                return occupied("RAM");
            }
            if !geometry.ipas().contains_region(&page) {
                return occupied("no addresses");
            }
            let stolen = (layout::STOLEN_TIME.region(), "its stolen time structures");
            let own =
                bus.windows().map(|(window, _)| (window, layout::device_name(window.start())));
            for (window, what) in own.chain(gic).chain([stolen]) {
                if page.overlaps(&window) {
                    return occupied(what);
                }
            }
        }
        for WiredInterrupt { intid, .. } in &device.interrupts {
            let virtio = layout::virtio_irq(0)..=layout::virtio_irq(layout::VIRTIO_SLOTS - 1);
            let used = bus.windows().any(|(_, irq)| irq == Some(*intid)) || virtio.contains(intid);
            if used || intid.0 >= INTERRUPTS {
                return Err(PlaceError::Interrupt { path: device.path.clone(), intid: *intid });
            }
        }
    }
    Ok(())
}

/// Map the registers of `devices`, each page once.
pub(super) fn map(
    devices: &[AssignedDevice],
    stage2: &mut Stage2,
    frames: &mut FramePool,
    cpu: &impl Maintenance,
) -> Result<(), MapError> {
    let all = || devices.iter().flat_map(AssignedDevice::pages);
    for (index, region) in all().enumerate() {
        let mut left = Some(region);
        while let Some(rest) = left {
            let (page, after) = rest.split_front(PAGE_SIZE);
            if !all().take(index).any(|earlier| earlier.overlaps(&page)) {
                stage2.map_device(ipas(page), page.start(), Perms::RW, frames, cpu)?;
            }
            left = after;
        }
    }
    Ok(())
}

/// Let each of their interrupts stand for the physical one: the guest's deactivation is the physical one's.
pub(super) fn link(devices: &[AssignedDevice], vgic: &mut Vgic) {
    for WiredInterrupt { intid, .. } in devices.iter().flat_map(|device| &device.interrupts) {
        vgic.link(VcpuId(0), *intid, Some(*intid));
    }
}

fn ipas(pages: Region<PhysAddr>) -> Region<Ipa> {
    let start = Ipa::new(pages.start().raw());
    Region::new(start, pages.size()).expect("the same numbers")
}

impl Vm {
    /// The board's devices that are its own.
    pub fn assigned(&self) -> &[AssignedDevice] {
        &self.assigned
    }

    /// Their interrupts.
    pub fn assigned_interrupts(&self) -> impl Iterator<Item = WiredInterrupt> + '_ {
        self.assigned.iter().flat_map(|device| device.interrupts.iter().copied())
    }

    /// The physical interrupt `intid` of one of them has fired, and is active on the guest's behalf.
    pub(crate) fn assigned_fired(&self, intid: IntId) -> Notify {
        self.vgic.lock().raise(VcpuId(0), intid)
    }
}

/// What a VM keeps of them.
pub(super) type Assigned = Box<[AssignedDevice]>;
