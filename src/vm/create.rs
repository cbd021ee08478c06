//! What a VM is made from, and why one cannot be. How it is made: [`construction`](super::construction).

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::Vm;
use super::assigned::PlaceError;
use super::construction::Construction;
use super::idregs::IdRegs;
use super::loading::BootError;
use crate::addr::{Ipa, PhysAddr};
use crate::device::bus::Conflict;
use crate::device::doorbell::Doorbells;
use crate::device::serial::SerialLine;
use crate::firmware::entropy::Entropy;
use crate::firmware::smccc::Mitigations;
use crate::host::allotment::Allotment;
use crate::hypervisor::INTERRUPT_KINDS;
use crate::manifest::{Manifest, VmConfig};
use crate::memory::shared::Upkeep;
use crate::memory::{
    FramePool, Geometry, Maintenance, MapError, OutOfFrames, SharedPool, Stage2Error, Vmids,
};
use crate::platform::board::{AssignError, Assigned};
use crate::sched::VmId;
use crate::time::{Frequency, Ticks};
use crate::vgic::{GicVersion, IntId};
use crate::virtio::block::base::{DiskError, Images};
use crate::virtio::console::channel::Channels;
use crate::virtio::net::cabling::Cabling;
use crate::virtio::vsock::sockets::Sockets;

/// What every VM of a machine shares.
pub struct Host {
    /// The interrupt controller's version, which the guests see.
    pub gic_version: GicVersion,
    /// GICv2: the virtual CPU interface, which a guest gets as its CPU interface.
    pub gicv: Option<PhysAddr>,
    /// The shape of stage 2.
    pub geometry: Geometry,
    /// How many CPUs run guests.
    pub cpus: u8,
    /// The system counter's frequency.
    pub frequency: Frequency,
    /// The physical interrupt of the EL1 virtual timer.
    pub virtual_timer: IntId,
    /// The hypervisor's own interrupts and their names: calls between CPUs, its timer, the virtual timer,
    /// maintenance, its UART.
    pub interrupts: [(IntId, &'static str); INTERRUPT_KINDS],
    /// The system counter.
    pub clock: fn() -> Ticks,
    /// Seconds since 1970, for the guests' clocks.
    pub epoch: u32,
    /// Caches and TLBs, for who has no CPU at hand.
    pub upkeep: Upkeep,
    /// What guests read from the ID registers.
    pub id_registers: IdRegs,
    /// What guests are told of the CPUs' speculation weaknesses.
    pub mitigations: Mitigations,
    /// The board's devices that each VM of the bundle has for its own, or why it cannot have them. VMs beyond
    /// the end have none.
    pub assigned: Box<[Assigned]>,
}

impl Host {
    /// The interrupts of the devices that VMs have for their own, and whose they are.
    pub fn owners(&self) -> impl Iterator<Item = (IntId, VmId)> + '_ {
        (0..).map(VmId).zip(&self.assigned).flat_map(|(vm, devices)| {
            let interrupts = devices.iter().flatten().flat_map(|device| &device.interrupts);
            interrupts.map(move |it| (it.intid, vm))
        })
    }
}

/// What one VM is made from.
pub struct Creation<'a> {
    /// Its place among the VMs.
    pub id: VmId,
    /// What the bundle says of it.
    pub config: &'a VmConfig,
    /// The bundle.
    pub manifest: &'a Manifest<'static>,
    /// The machine.
    pub host: &'a Host,
    /// The bells of all VMs' devices.
    pub doorbells: &'a Arc<Doorbells>,
    /// The networks.
    pub cabling: &'a Cabling,
    /// The channels between guests.
    pub channels: &'a Channels,
    /// The socket devices.
    pub sockets: &'a Sockets,
    /// The disk images in memory.
    pub images: &'a mut Images,
    /// Who has what of the machine's disks.
    pub allotment: &'a Allotment,
    /// The frame pool, for what a running VM gives up and gets back.
    pub pool: &'a Arc<SharedPool>,
}

/// What a VM has for its own from the beginning.
pub struct Own<L> {
    /// What its UART is connected to.
    pub line: L,
    /// Its generator; `None` when there is no entropy.
    pub entropy: Option<Entropy>,
    /// Virtual time begins now.
    pub now: Ticks,
}

/// Why a guest is refused.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Not enough memory.
    #[error("not enough memory: {0}; give the guest less, or the machine more")]
    Memory(#[from] OutOfFrames),
    /// The RAM does not fit into the guest's address space.
    #[error("{size} bytes of RAM from {base} on do not fit into {bits} bits of guest addresses")]
    AddressSpace {
        /// Where RAM should start.
        base: Ipa,
        /// How much is wanted, in bytes.
        size: u64,
        /// How many bits a guest's addresses have.
        bits: u32,
    },
    /// Stage 2 could not be made.
    #[error("stage 2: {0}")]
    Stage2(#[from] Stage2Error),
    /// Stage 2 could not be filled.
    #[error("stage 2: {0}")]
    Map(#[from] MapError),
    /// Two devices want the same place.
    #[error("devices: {0}")]
    Devices(#[from] Conflict),
    /// A device of the board cannot be its own.
    #[error("assign: {0}")]
    Assign(#[from] AssignError),
    /// A device of the board has no place in the guest machine.
    #[error("assign: {0}")]
    Place(#[from] PlaceError),
    /// A disk cannot be made, the disks counted from 0.
    #[error("disk {}: {why}", disk + 1)]
    Disk {
        /// Which.
        disk: usize,
        /// Why.
        why: DiskError,
    },
    /// The image cannot be loaded.
    #[error("{0}")]
    Boot(#[from] BootError),
}

impl Vm {
    /// Build the VM that is described, at one go. It is not running; its boot vCPU may be started, and its image is loaded then.
    ///
    /// # Errors
    /// [`CreateError`]; everything that was taken has been given back.
    pub fn create<L: SerialLine + 'static>(
        mut creation: Creation<'_>,
        own: Own<L>,
        frames: &mut FramePool,
        vmids: &mut Vmids,
        cpu: &impl Maintenance,
    ) -> Result<Box<Self>, CreateError> {
        let mut construction = Construction::new(creation.id, &creation.config.name, own);
        loop {
            match construction.step(&mut creation, frames, vmids, cpu) {
                Ok(None) => {}
                Ok(Some(vm)) => return Ok(vm),
                Err(error) => {
                    let mut remains = construction.abandon();
                    while !remains.step(frames, vmids, cpu) {}
                    return Err(error);
                }
            }
        }
    }
}
