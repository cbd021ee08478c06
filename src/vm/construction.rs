//! How a VM comes to be: in stages, as interrupts wait for each. A stage is some thousand instructions, whatever the VM has.
//!
//! Each disk → its kernel's first bytes → each device → VMID and root table → frames → what is mapped beside RAM → interrupt
//! controller → each vCPU. Where one fails, what there is by then is taken apart as that of any VM (`remains`). What takes
//! long comes when it is started: [`loading`](super::loading).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use super::balloon::{VmBalloon, patience};
use super::create::{CreateError, Creation, Host, Own};
use super::disks::{self, VmDisk};
use super::lifecycle::Lifecycle;
use super::loading::{BootError, Loading, Source};
use super::remains::{Remains, Translation};
use super::slots::Slots;
use super::snapshot::Snapshot;
use super::stolen::StolenTime;
use super::tally::Tally;
use super::{Regime, VcpuSlot, Vm, assigned, layout, peripherals};
use crate::addr::{Ipa, PAGE_SIZE, Region};
use crate::device::Device;
use crate::device::bus::Bus;
use crate::device::doorbell::Doorbell;
use crate::device::pl011::Pl011;
use crate::device::serial::{Deaf, SerialLine};
use crate::firmware::entropy::Entropy;
use crate::host::share::Lent;
use crate::manifest::{DiskConfig, Keys, VmConfig};
use crate::memory::scrub::Scrubbing;
use crate::memory::{Dirty, FramePool, Frames, GuestMemory, Maintenance, Perms, Stage2, Vmids};
use crate::monitor::agent::Link;
use crate::sched::VmId;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use crate::sync::{SpinMutex, TicketMutex};
use crate::time::Ticks;
use crate::vcpu::VcpuId;
use crate::vgic::{GicVersion, Vgic};
use crate::virtio::block::disk::Owner;
use crate::virtio::ram::SharedRam;
use crate::virtio::vsock::sockets::Plugged;

/// A guest that resets itself in a loop gets a second's peace between two resets.
const RESET_INTERVAL_MICROS: u64 = 1_000_000;

/// A VM that is being built.
#[must_use = "what it has is lost unless it is finished or abandoned"]
pub struct Construction<L> {
    id: VmId,
    name: String,
    line: Arc<L>,
    entropy: Option<Entropy>,
    now: Ticks,
    owner: Arc<Owner>,
    lent: Arc<Lent>,
    disks: Vec<VmDisk>,
    disk_memory: u64,
    memory: SharedRam,
    virtio: Vec<(Box<dyn Device>, String)>,
    console: Option<Doorbell>,
    sockets: Option<Plugged>,
    balloon: Option<VmBalloon>,
    vcpus: Vec<VcpuSlot>,
    stage: Stage,
}

/// What comes next, with what it takes of what is there by then.
enum Stage {
    Disks,
    Kernel,
    Device(Kind),
    Bus,
    Check(Machine),
    Tables(Machine),
    Frames(Machine, Stage2),
    Map(Machine, Space),
    Controller(Machine, Space),
    Vcpus(Machine, Space, Box<SpinMutex<Vgic>>),
    /// A stage was begun and is not over.
    Between,
}

/// A virtio device; of disks and cards, which.
#[derive(Clone, Copy)]
enum Kind {
    Entropy,
    Disk(usize),
    Card(usize),
    Console,
    Sockets,
    Balloon,
}

/// The guest machine's devices.
struct Machine {
    bus: Bus,
    /// What is in the virtio slots.
    virtio: Vec<String>,
    assigned: assigned::Assigned,
}

/// A VM's memory and its translation.
struct Space {
    /// What will be RAM.
    ram: Frames<Dirty>,
    /// The stolen time structures.
    stolen: GuestMemory,
    stage2: Stage2,
}

impl<L: SerialLine + 'static> Construction<L> {
    /// The VM with this number and name, which has nothing yet but `own`.
    pub fn new(id: VmId, name: &str, own: Own<L>) -> Self {
        Self {
            id,
            name: name.into(),
            owner: Arc::new(Owner::new(name.into())),
            line: Arc::new(own.line),
            entropy: own.entropy,
            now: own.now,
            lent: Arc::default(),
            disks: Vec::new(),
            disk_memory: 0,
            memory: SharedRam::default(),
            virtio: Vec::new(),
            console: None,
            sockets: None,
            balloon: None,
            vcpus: Vec::new(),
            stage: Stage::Disks,
        }
    }

    /// Which VM it is.
    pub const fn id(&self) -> VmId {
        self.id
    }

    /// Build some more of it; the VM, when that was all. It is not running; its boot vCPU may be started, and its image is loaded
    /// then.
    ///
    /// # Errors
    /// [`CreateError`]; it is to be abandoned then.
    pub fn step(
        &mut self,
        creation: &mut Creation<'_>,
        frames: &mut FramePool,
        vmids: &mut Vmids,
        cpu: &impl Maintenance,
    ) -> Result<Option<Box<Vm>>, CreateError> {
        let (config, host) = (creation.config, creation.host);
        self.stage = match mem::replace(&mut self.stage, Stage::Between) {
            Stage::Disks => match config.disks.get(self.disks.len()) {
                Some(disk) => self.add_disk(disk, creation, frames)?,
                None => Stage::Kernel,
            },
            Stage::Kernel => {
                // Refused now rather than when it is to be loaded, if its first bytes show what is wrong.
                source(creation, 0)?.loader().map_err(BootError::from)?;
                Stage::Device(Kind::Entropy)
            }
            Stage::Device(kind) => {
                self.add_device(kind, creation).map_or(Stage::Bus, Stage::Device)
            }
            Stage::Bus => Stage::Check(self.connect(creation)?),
            Stage::Check(machine) => {
                let Machine { bus, assigned, .. } = &machine;
                let checked = ram(config, host)
                    .and_then(|ram| Ok(assigned::check(assigned, ram, &host.geometry, bus)?));
                match checked {
                    Ok(()) => Stage::Tables(machine),
                    Err(error) => return self.fail(Stage::Check(machine), error),
                }
            }
            Stage::Tables(machine) => match Stage2::new(host.geometry, vmids, frames, cpu) {
                Ok(stage2) => Stage::Frames(machine, stage2),
                Err(error) => return self.fail(Stage::Tables(machine), error),
            },
            Stage::Frames(machine, stage2) => match frames.allocate(config.memory) {
                Ok(ram) => Stage::Map(machine, Space { ram, stolen: GuestMemory::new(), stage2 }),
                Err(error) => return self.fail(Stage::Frames(machine, stage2), error),
            },
            Stage::Map(machine, mut space) => {
                match space.fill(host, &machine.assigned, frames, cpu) {
                    Ok(()) => Stage::Controller(machine, space),
                    Err(error) => return self.fail(Stage::Map(machine, space), error),
                }
            }
            Stage::Controller(machine, space) => {
                let mut vgic = interrupts(host, config.vcpus);
                assigned::link(&machine.assigned, vgic.get_mut());
                self.vcpus = Vec::with_capacity(config.vcpus.into());
                Stage::Vcpus(machine, space, vgic)
            }
            Stage::Vcpus(machine, space, vgic) => {
                if self.vcpus.len() < usize::from(config.vcpus) {
                    self.vcpus.push(VcpuSlot::new());
                    Stage::Vcpus(machine, space, vgic)
                } else {
                    match source(creation, machine.virtio.len()) {
                        Ok(source) => {
                            return Ok(Some(self.finish(creation, source, machine, space, vgic)));
                        }
                        Err(error) => return self.fail(Stage::Vcpus(machine, space, vgic), error),
                    }
                }
            }
            // It has failed.
            Stage::Between => Stage::Between,
        };
        Ok(None)
    }

    fn fail<T>(&mut self, at: Stage, error: impl Into<CreateError>) -> Result<T, CreateError> {
        self.stage = at;
        Err(error.into())
    }

    /// One more disk. With an error, nothing was taken for it.
    fn add_disk(
        &mut self,
        config: &DiskConfig,
        creation: &mut Creation<'_>,
        frames: &mut FramePool,
    ) -> Result<Stage, CreateError> {
        let (before, disk) = (frames.free_bytes(), self.disks.len());
        let Creation { id, manifest, allotment, ref mut images, .. } = *creation;
        let mut source = disks::Source { vm: id, manifest, images, allotment };
        let made = disks::create(&mut source, (disk, config), &self.owner, &self.lent, frames);
        self.disks.push(made.map_err(|why| CreateError::Disk { disk, why })?);
        let taken = before.saturating_sub(frames.free_bytes());
        self.disk_memory = self.disk_memory.saturating_add(taken);
        Ok(Stage::Disks)
    }

    /// Adds a virtio device, if there is to be such a one. Which comes next.
    fn add_device(&mut self, kind: Kind, creation: &Creation<'_>) -> Option<Kind> {
        let Creation { id, config, host, doorbells, cabling, channels, sockets, pool, .. } =
            *creation;
        let devices = mem::take(&mut self.virtio);
        let mut slots = Slots { memory: &self.memory, vm: &self.name, devices };
        let next = match kind {
            Kind::Entropy => {
                slots.add_entropy(self.entropy.as_mut());
                Some(Kind::Disk(0))
            }
            Kind::Disk(number) => match self.disks.get(number) {
                Some(disk) => {
                    slots.add_disk(id, number, disk, config.vcpus, doorbells);
                    Some(Kind::Disk(number.saturating_add(1)))
                }
                None => Some(Kind::Card(0)),
            },
            Kind::Card(number) => match cabling.cards(id).get(number) {
                Some(card) => {
                    slots.add_card(id, number, card, config.vcpus, cabling, doorbells);
                    Some(Kind::Card(number.saturating_add(1)))
                }
                None => Some(Kind::Console),
            },
            Kind::Console => {
                self.console = slots.add_console(id, config, &self.line, channels, doorbells);
                Some(Kind::Sockets)
            }
            Kind::Sockets => {
                self.sockets = slots.add_vsock(id, sockets, doorbells);
                Some(Kind::Balloon)
            }
            Kind::Balloon => {
                let patience = patience(host.frequency);
                self.balloon = slots.add_balloon(config, doorbells, id, pool, patience);
                None
            }
        };
        self.virtio = slots.devices;
        next
    }

    /// All devices, each in its place.
    fn connect(&mut self, creation: &Creation<'_>) -> Result<Machine, CreateError> {
        let (config, host) = (creation.config, creation.host);
        let assigned =
            host.assigned.get(self.id.index()).cloned().unwrap_or_else(|| Ok(Vec::new()))?;
        let line = self.line.clone();
        let uart: Box<dyn Device> = match config.keys {
            Keys::Uart => Box::new(Pl011::new(line)),
            Keys::Virtio => Box::new(Pl011::new(Deaf(line))),
        };
        let (devices, virtio) = mem::take(&mut self.virtio).into_iter().unzip();
        let bus = peripherals::bus(config.devices, host, uart, devices)?;
        Ok(Machine { bus, virtio, assigned: assigned.into() })
    }

    /// All is there.
    fn finish(
        &mut self,
        creation: &Creation<'_>,
        source: Source,
        machine: Machine,
        space: Space,
        vgic: Box<SpinMutex<Vgic>>,
    ) -> Box<Vm> {
        let Creation { id, config, host, channels, .. } = *creation;
        let Machine { bus, virtio, assigned } = machine;
        let Space { ram, stolen, stage2 } = space;
        Box::new(Vm {
            id,
            name: mem::take(&mut self.name),
            vcpus: mem::take(&mut self.vcpus).into(),
            vgic,
            gic_version: host.gic_version,
            bus,
            console: self.console.take(),
            agent: channels.agent(id).map(Link::new),
            sockets: self.sockets.take(),
            virtio,
            disks: mem::take(&mut self.disks),
            disk_memory: self.disk_memory,
            lent: self.lent.clone(),
            assigned,
            regime: Regime { vttbr: stage2.vttbr().raw(), vtcr: host.geometry.vtcr().get() },
            memory: self.memory.clone(),
            stolen: StolenTime::new(stolen, host.frequency, config.vcpus),
            stage2: Arc::new(TicketMutex::new(stage2)),
            balloon: self.balloon.take(),
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
            began: AtomicU64::new(self.now.0),
            crashes: AtomicU8::new(0),
            culprit: AtomicU8::new(0),
            complaints: AtomicU8::new(0),
            traps_wait: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            on_cpus: AtomicU32::new(0),
            stopping: AtomicU8::new(0),
            counter_offset: AtomicU64::new(self.now.0),
            last_on: (0..host.cpus).map(|_| AtomicU8::new(0)).collect(),
            id_registers: host.id_registers.clone(),
            mitigations: host.mitigations,
            entropy: TicketMutex::new(self.entropy.take()),
            source,
            loading: TicketMutex::new(Loading::Scrub(Scrubbing::new(ram))),
        })
    }

    /// What it has by now, to be given back.
    pub(crate) fn abandon(self) -> Remains {
        let mut remains = Remains::new(self.id, self.memory, self.disks);
        remains.virtio = self.virtio;
        remains.vcpus = self.vcpus;
        let (machine, space, stage2) = match self.stage {
            Stage::Check(machine) | Stage::Tables(machine) => (Some(machine), None, None),
            Stage::Frames(machine, stage2) => (Some(machine), None, Some(stage2)),
            Stage::Map(machine, space)
            | Stage::Controller(machine, space)
            | Stage::Vcpus(machine, space, _) => (Some(machine), Some(space), None),
            Stage::Disks | Stage::Kernel | Stage::Device(_) | Stage::Bus | Stage::Between => {
                (None, None, None)
            }
        };
        remains.bus = machine.map(|machine| machine.bus);
        remains.translation = stage2.map(Translation::Own);
        if let Some(Space { ram, stolen, stage2 }) = space {
            remains.translation = Some(Translation::Own(stage2));
            remains.frames = Some(ram);
            remains.page = stolen;
        }
        remains
    }
}

/// Where its RAM is for the guest.
fn ram(config: &VmConfig, host: &Host) -> Result<Region<Ipa>, CreateError> {
    let ram = Region::new(config.ram_base, config.memory);
    ram.filter(|ram| host.geometry.ipas().contains_region(ram)).ok_or(CreateError::AddressSpace {
        base: config.ram_base,
        size: config.memory,
        bits: host.geometry.ipa_bits(),
    })
}

/// What it is started from, with so many virtio devices.
fn source(creation: &Creation<'_>, virtio: usize) -> Result<Source, CreateError> {
    let Creation { config, manifest, host, .. } = *creation;
    Ok(Source {
        kernel: manifest.payload(config.kernel),
        initrd: config.initrd.map(|initrd| manifest.payload(initrd)),
        cmdline: config.cmdline.clone(),
        ram: ram(config, host)?,
        devices: config.devices,
        virtio: u16::try_from(virtio).unwrap_or(0),
    })
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
    /// Map what is not RAM.
    fn fill(
        &mut self,
        host: &Host,
        assigned: &assigned::Assigned,
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
