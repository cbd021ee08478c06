//! How a VM comes to be: in stages, each of which undoes the earlier ones when it fails.
//!
//! Disks → its kernel's first bytes → devices → VMID and root table → frames → what is mapped beside RAM. What
//! takes long comes when it is started: [`loading`](super::loading).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::assigned::PlaceError;
use super::balloon::patience;
use super::disks::VmDisk;
use super::idregs::IdRegs;
use super::lifecycle::Lifecycle;
use super::loading::{BootError, Loading, Source};
use super::slots::Slots;
use super::snapshot::Snapshot;
use super::stolen::StolenTime;
use super::tally::Tally;
use super::{Regime, VcpuSlot, Vm, assigned, disks, layout};
use crate::addr::{Ipa, PAGE_SIZE, PhysAddr, Region};
use crate::device::Device;
use crate::device::bus::{Bus, Conflict, Peripheral};
use crate::device::doorbell::Doorbells;
use crate::device::pl011::Pl011;
use crate::device::pl031::Pl031;
use crate::device::pl061::{Button, Pl061};
use crate::device::serial::{Deaf, SerialLine};
use crate::firmware::entropy::Entropy;
use crate::firmware::smccc::Mitigations;
use crate::host::allotment::Allotment;
use crate::hypervisor::INTERRUPT_KINDS;
use crate::manifest::{Devices, Keys, Manifest, VmConfig};
use crate::memory::scrub::Scrubbing;
use crate::memory::shared::Upkeep;
use crate::memory::{
    Dirty, FramePool, Frames, Geometry, GuestMemory, Maintenance, MapError, OutOfFrames, Perms,
    SharedPool, Stage2, Stage2Error, Vmids,
};
use crate::monitor::agent::Link;
use crate::platform::board::{AssignError, Assigned, AssignedDevice};
use crate::sched::VmId;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use crate::sync::{SpinMutex, TicketMutex};
use crate::time::{Frequency, Ticks};
use crate::vcpu::VcpuId;
use crate::vgic::{GicVersion, IntId, Vgic};
use crate::virtio::block::base::{DiskError, Images};
use crate::virtio::console::channel::Channels;
use crate::virtio::net::cabling::Cabling;
use crate::virtio::ram::SharedRam;
use crate::virtio::slot::EmptySlots;
use crate::virtio::vsock::sockets::Sockets;

/// A guest that resets itself in a loop gets a second's peace between two resets.
const RESET_INTERVAL_MICROS: u64 = 1_000_000;

/// How long a press of the power button lasts.
const PRESS_MICROS: u64 = 100_000;

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
    /// Its own generator; `None` when there is no entropy.
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

/// A VM's memory and its translation, which are undone together.
struct Space {
    /// What will be RAM.
    ram: Frames<Dirty>,
    /// The stolen time structures.
    stolen: GuestMemory,
    stage2: Stage2,
}

impl Vm {
    /// Build the VM that is described. Its UART is connected to `line`. It is not running; its boot vCPU
    /// may be started, and its image is loaded then.
    ///
    /// # Errors
    /// [`CreateError`]; everything that was taken has been given back.
    pub fn create<L: SerialLine + 'static>(
        creation: Creation<'_>,
        line: L,
        frames: &mut FramePool,
        vmids: &mut Vmids,
        cpu: &impl Maintenance,
    ) -> Result<Box<Self>, CreateError> {
        let Creation { id, config, manifest, allotment, .. } = creation;
        let before = frames.free_bytes();
        let lent = Arc::default();
        let images = &mut *creation.images;
        let mut source = disks::Source { vm: id, config, manifest, images, allotment };
        let disks = disks::create(&mut source, &lent, frames)
            .map_err(|(disk, why)| CreateError::Disk { disk, why })?;
        let taken = before.saturating_sub(frames.free_bytes());
        match Self::build(creation, &disks, line, frames, vmids, cpu) {
            Ok(mut vm) => {
                vm.disk_memory = taken;
                vm.lent = lent;
                Ok(vm)
            }
            Err(error) => {
                disks::release(disks, frames);
                Err(error)
            }
        }
    }

    /// The VM with these disks.
    fn build<L: SerialLine + 'static>(
        creation: Creation<'_>,
        disks: &[VmDisk],
        line: L,
        frames: &mut FramePool,
        vmids: &mut Vmids,
        cpu: &impl Maintenance,
    ) -> Result<Box<Self>, CreateError> {
        let Creation { id, config, manifest, host, doorbells, cabling, channels, pool, .. } =
            creation;
        let Creation { mut entropy, sockets, now, .. } = creation;
        let ram = Region::new(config.ram_base, config.memory)
            .filter(|ram| host.geometry.ipas().contains_region(ram))
            .ok_or(CreateError::AddressSpace {
                base: config.ram_base,
                size: config.memory,
                bits: host.geometry.ipa_bits(),
            })?;
        let mut source = Source {
            kernel: manifest.payload(config.kernel),
            initrd: config.initrd.map(|initrd| manifest.payload(initrd)),
            cmdline: config.cmdline.clone(),
            ram,
            devices: config.devices,
            virtio: 0,
        };
        // Refused now rather than when it is to be loaded, if its first bytes show what is wrong.
        source.loader().map_err(BootError::from)?;
        let memory = SharedRam::default();
        let mut virtio = Slots { memory: &memory, vm: &config.name, devices: Vec::new() };
        virtio.add_entropy(entropy.as_mut());
        virtio.add_disks(id, disks, config.vcpus, doorbells);
        virtio.add_cards(id, config.vcpus, cabling, doorbells);
        let line = Arc::new(line);
        let console = virtio.add_console(id, config, &line, channels, doorbells);
        let sockets = virtio.add_vsock(id, sockets, doorbells);
        let patience = patience(host.frequency);
        let balloon = virtio.add_balloon(config, doorbells, id, pool, patience);
        let virtio = virtio.devices;
        source.virtio = u16::try_from(virtio.len()).unwrap_or(0);
        let (virtio, names) = virtio.into_iter().unzip();
        let uart: Box<dyn Device> = match config.keys {
            Keys::Uart => Box::new(Pl011::new(line)),
            Keys::Virtio => Box::new(Pl011::new(Deaf(line))),
        };
        let bus = devices(config.devices, host, uart, virtio)?;
        let assigned = host.assigned.get(id.index()).cloned().unwrap_or_else(|| Ok(Vec::new()))?;
        assigned::check(&assigned, ram, &host.geometry, &bus)?;
        let Space { ram, stolen, stage2 } =
            Space::create(ram.size(), host, &assigned, frames, vmids, cpu)?;
        let mut vgic = interrupts(host, config.vcpus);
        assigned::link(&assigned, vgic.get_mut());
        Ok(Box::new(Self {
            id,
            name: config.name.clone(),
            vcpus: (0..config.vcpus).map(|_| VcpuSlot::new()).collect(),
            vgic,
            gic_version: host.gic_version,
            bus,
            console,
            agent: channels.agent(id).map(Link::new),
            sockets,
            virtio: names,
            disks: disks.to_vec(),
            disk_memory: 0,
            lent: Arc::default(),
            assigned: assigned.into(),
            regime: Regime { vttbr: stage2.vttbr().raw(), vtcr: host.geometry.vtcr().get() },
            memory,
            stolen: StolenTime::new(stolen, host.frequency, config.vcpus),
            stage2: Arc::new(TicketMutex::new(stage2)),
            balloon,
            lifecycle: TicketMutex::new(Lifecycle::new()),
            timekeeper: AtomicU8::new(0),
            on_crash: config.on_crash,
            on_reboot: config.on_reboot,
            on_bad_access: config.on_bad_access,
            tables: AtomicU64::new(0),
            heap: AtomicU64::new(0),
            resets: AtomicU32::new(0),
            incarnation: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            next_reset: AtomicU64::new(0),
            reset_interval: host.frequency.micros(RESET_INTERVAL_MICROS),
            began: AtomicU64::new(now.0),
            crashes: AtomicU8::new(0),
            culprit: AtomicU8::new(0),
            complaints: AtomicU8::new(0),
            traps_wait: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            on_cpus: AtomicU32::new(0),
            stopping: AtomicU8::new(0),
            counter_offset: AtomicU64::new(now.0),
            last_on: (0..host.cpus).map(|_| AtomicU8::new(0)).collect(),
            id_registers: host.id_registers.clone(),
            mitigations: host.mitigations,
            entropy: TicketMutex::new(entropy),
            source,
            loading: TicketMutex::new(Loading::Scrub(Scrubbing::new(ram))),
        }))
    }
}

impl VcpuSlot {
    fn new() -> Self {
        Self {
            requests: AtomicU8::new(0),
            running: AtomicU8::new(0),
            home: AtomicU8::new(0),
            tally: Arc::new(Tally::default()),
            parked: TicketMutex::new(Some(Box::default())),
            snapshot: Snapshot::default(),
        }
    }
}

impl Space {
    fn create(
        ram: u64,
        host: &Host,
        assigned: &[AssignedDevice],
        frames: &mut FramePool,
        vmids: &mut Vmids,
        cpu: &impl Maintenance,
    ) -> Result<Self, CreateError> {
        let stage2 = Stage2::new(host.geometry, vmids, frames, cpu)?;
        let mut space = match frames.allocate(ram) {
            Ok(ram) => Self { ram, stolen: GuestMemory::new(), stage2 },
            Err(error) => {
                stage2.destroy(vmids, frames, cpu);
                return Err(error.into());
            }
        };
        match space.fill(host, assigned, frames, cpu) {
            Ok(()) => Ok(space),
            Err(error) => {
                space.destroy(frames, vmids, cpu);
                Err(error)
            }
        }
    }

    /// Map what is not RAM.
    fn fill(
        &mut self,
        host: &Host,
        assigned: &[AssignedDevice],
        frames: &mut FramePool,
        cpu: &impl Maintenance,
    ) -> Result<(), CreateError> {
        let region = layout::STOLEN_TIME.region();
        let clean = frames.allocate(region.size())?.scrub().clean(cpu);
        if let Err(overlap) = self.stolen.add(region.start(), clean) {
            frames.free(overlap.0);
            return Err(BootError::Heap.into());
        }
        self.stolen.map(&mut self.stage2, Perms::R, frames, cpu)?;
        if let Some(gicv) = host.gicv {
            let cpu_interface = layout::GICC.region();
            debug_assert!(cpu_interface.start().is_aligned(PAGE_SIZE));
            self.stage2.map_device(cpu_interface, gicv, Perms::RW, frames, cpu)?;
        }
        Ok(assigned::map(assigned, &mut self.stage2, frames, cpu)?)
    }

    fn destroy(self, frames: &mut FramePool, vmids: &mut Vmids, cpu: &impl Maintenance) {
        self.stage2.destroy(vmids, frames, cpu);
        self.stolen.release(frames);
        frames.free(self.ram);
    }
}

/// The guest machine's devices: those that every guest has, those in `optional`, and `virtio` in the first slots.
fn devices(
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
        empty = slot + 1;
    }
    let rest = layout::virtio_slots(empty, layout::VIRTIO_SLOTS - empty).region();
    devices.push(Peripheral::new(rest, Box::new(EmptySlots)));
    Bus::new(devices)
}

/// The GPIO, with the power button.
fn gpio(host: &Host) -> Peripheral {
    let hold = host.frequency.micros(PRESS_MICROS);
    let gpio = Pl061::new(Button { pin: layout::POWER_BUTTON_PIN, hold });
    Peripheral::new(layout::GPIO.region(), Box::new(gpio)).with_irq(layout::GPIO_IRQ)
}

/// The interrupt controller: the virtual timer's interrupt is the physical one, handed on.
fn interrupts(host: &Host, vcpus: u8) -> Box<SpinMutex<Vgic>> {
    let mut vgic = Box::new(controller(host.gic_version, vcpus));
    for vcpu in 0..vcpus {
        let link = Some(host.virtual_timer);
        vgic.get_mut().link(VcpuId(vcpu), layout::VIRTUAL_TIMER_IRQ, link);
    }
    vgic
}

/// A controller of many words, beside a byte that is its lock.
#[inline(never)] // or what is copied begins right behind that byte, and goes by bytes
fn controller(version: GicVersion, vcpus: u8) -> SpinMutex<Vgic> {
    SpinMutex::new(Vgic::new(version, vcpus.into()))
}
