//! How a VM comes to be: in stages, each of which undoes the earlier ones when it fails.
//!
//! VMID and root table → frames, scrubbed and cleaned → stage 2 → devices → image, device tree.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};

use spin::mutex::TicketMutex;

use super::idregs::IdRegs;
use super::lifecycle::Lifecycle;
use super::stolen::StolenTime;
use super::tally::Tally;
use super::{Regime, VcpuSlot, Vm, layout};
use crate::addr::{Ipa, PAGE_SIZE, PhysAddr, Region};
use crate::device::bus::{Bus, Conflict, Peripheral};
use crate::device::pl011::Pl011;
use crate::device::pl031::Pl031;
use crate::device::pl061::{Button, Pl061};
use crate::device::serial::SerialLine;
use crate::firmware::entropy::Entropy;
use crate::firmware::fdt::{self, GuestMachine, Seeds};
use crate::firmware::image::{self, GuestWrite, ImageError, OutOfRam};
use crate::firmware::psci::Power;
use crate::hypervisor::INTERRUPT_KINDS;
use crate::machine::CpuId;
use crate::manifest::{Devices, Manifest, VmConfig};
use crate::memory::{
    FramePool, Geometry, GuestMemory, Maintenance, MapError, OutOfFrames, OutsideRam, Perms,
    Stage2, Stage2Error, Vmids,
};
use crate::sched::VmId;
use crate::time::{Frequency, Ticks};
use crate::vcpu::VcpuId;
use crate::vgic::{GicVersion, IntId, Vgic};
use crate::virtio::slot::EmptySlots;

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
    /// Seconds since 1970, for the guests' clocks.
    pub epoch: u32,
    /// What guests read from the ID registers.
    pub id_registers: IdRegs,
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
    /// The image cannot be loaded.
    #[error("{0}")]
    Boot(#[from] BootError),
}

/// Why an image cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel or the RAM disk.
    #[error("image: {0}")]
    Image(#[from] ImageError),
    /// The device tree.
    #[error("device tree: {0}")]
    DeviceTree(#[from] OutsideRam),
}

/// What a VM is started from, again after each reset.
pub(super) struct Source {
    kernel: &'static [u8],
    initrd: Option<&'static [u8]>,
    cmdline: String,
    ram: Region<Ipa>,
    devices: Devices,
    /// What the kernel took the last time; it expects zeros there.
    loaded: TicketMutex<Option<Region<Ipa>>>,
}

impl Source {
    /// The VM's RAM.
    pub(super) const fn ram(&self) -> Region<Ipa> {
        self.ram
    }
}

/// How the boot vCPU starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Boot {
    entry: Ipa,
    dtb: Ipa,
}

impl Boot {
    /// The boot vCPU's power state: about to start, with the device tree in `x0`.
    pub(super) const fn power(self) -> Power {
        Power::OnPending { entry: self.entry, context_id: self.dtb.raw() }
    }
}

/// The memory a guest sees and its translation, which are undone together.
struct Space {
    memory: GuestMemory,
    /// The stolen time structures.
    stolen: GuestMemory,
    stage2: Stage2,
}

impl Vm {
    /// Build the VM that is described. Its UART is connected to `line`. It is not
    /// running, its boot vCPU is ready to start.
    ///
    /// # Errors
    /// [`CreateError`]; everything that was taken has been given back.
    pub fn create<L: SerialLine + 'static>(
        creation: Creation<'_>,
        line: L,
        frames: &mut FramePool,
        vmids: &mut Vmids,
        cpu: &impl Maintenance,
    ) -> Result<Self, CreateError> {
        let Creation { id, config, manifest, host, entropy, now } = creation;
        let ram = Region::new(config.ram_base, config.memory)
            .filter(|ram| host.geometry.ipas().contains_region(ram))
            .ok_or(CreateError::AddressSpace {
                base: config.ram_base,
                size: config.memory,
                bits: host.geometry.ipa_bits(),
            })?;
        let bus = devices(config.devices, host, line)?;
        let Space { memory, stolen, stage2 } = Space::create(ram, host, frames, vmids, cpu)?;
        let vm = Self {
            id,
            name: config.name.clone(),
            vcpus: (0..config.vcpus).map(|_| VcpuSlot::new()).collect(),
            vgic: Box::new(TicketMutex::new(interrupts(host, config.vcpus))),
            gic_version: host.gic_version,
            bus,
            regime: Regime { vttbr: stage2.vttbr().raw(), vtcr: host.geometry.vtcr().get() },
            memory,
            stolen: StolenTime::new(stolen, host.frequency, config.vcpus),
            stage2: TicketMutex::new(stage2),
            lifecycle: TicketMutex::new(Lifecycle::new()),
            timekeeper: CpuId(0),
            on_crash: config.on_crash,
            on_reboot: config.on_reboot,
            footprint: 0,
            resets: AtomicU32::new(0),
            incarnation: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            reload: AtomicBool::new(false),
            next_reset: AtomicU64::new(0),
            reset_interval: host.frequency.micros(RESET_INTERVAL_MICROS),
            complaints: AtomicU8::new(0),
            traps_wait: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            on_cpus: AtomicU32::new(0),
            stopping: AtomicU8::new(0),
            counter_offset: AtomicU64::new(now.0),
            last_on: (0..host.cpus).map(|_| AtomicU8::new(0)).collect(),
            id_registers: host.id_registers.clone(),
            entropy: TicketMutex::new(entropy),
            source: Source {
                kernel: manifest.payload(config.kernel),
                initrd: config.initrd.map(|initrd| manifest.payload(initrd)),
                cmdline: config.cmdline.clone(),
                ram,
                devices: config.devices,
                loaded: TicketMutex::new(None),
            },
        };
        match vm.load_image(cpu) {
            Ok(boot) => {
                vm.lifecycle.lock().power[0] = boot.power();
                Ok(vm)
            }
            Err(error) => {
                vm.destroy(frames, vmids, cpu);
                Err(error.into())
            }
        }
    }

    /// Take the VM apart: no CPU has any of it.
    pub(crate) fn destroy(self, frames: &mut FramePool, vmids: &mut Vmids, cpu: &impl Maintenance) {
        let (stolen, stage2) = (self.stolen.into_page(), self.stage2.into_inner());
        Space { memory: self.memory, stolen, stage2 }.destroy(frames, vmids, cpu);
    }

    /// Put kernel, RAM disk and device tree into RAM, and let a guest whose caches are off see them.
    pub(super) fn load_image(&self, cpu: &impl Maintenance) -> Result<Boot, BootError> {
        let source = &self.source;
        let mut loaded = source.loaded.lock();
        if let Some(kernel) = loaded.take() {
            self.memory.zero(kernel)?;
        }
        let mut writer = Writer(&self.memory);
        let placement = image::load(source.kernel, source.initrd, source.ram, &mut writer)?;
        *loaded = Some(placement.kernel);
        let seeds = self.entropy.lock().as_mut().map(Seeds::draw);
        let tree = fdt::write(&GuestMachine {
            ram: source.ram,
            devices: source.devices,
            vcpus: self.vcpu_count(),
            gic: self.gic_version,
            cmdline: &source.cmdline,
            initrd: placement.initrd,
            seeds,
        });
        self.memory.write_from(placement.dtb, &tree)?;
        let tree = Region::new(placement.dtb, tree.len() as u64);
        for region in [Some(placement.kernel), placement.initrd, tree].into_iter().flatten() {
            // And no line of ours stays: the guest may write with its caches off.
            self.memory.clean_invalidate_to_poc(region, cpu)?;
        }
        self.memory.sync_instructions(placement.kernel, cpu)?;
        Ok(Boot { entry: placement.entry, dtb: placement.dtb })
    }
}

impl VcpuSlot {
    fn new() -> Self {
        Self {
            requests: AtomicU8::new(0),
            home: AtomicU8::new(0),
            tally: Tally::default(),
            parked: TicketMutex::new(Some(Box::default())),
        }
    }
}

impl Space {
    fn create(
        ram: Region<Ipa>,
        host: &Host,
        frames: &mut FramePool,
        vmids: &mut Vmids,
        cpu: &impl Maintenance,
    ) -> Result<Self, CreateError> {
        let stage2 = Stage2::new(host.geometry, vmids, frames, cpu)?;
        let (memory, stolen) = (GuestMemory::new(), GuestMemory::new());
        let mut space = Self { memory, stolen, stage2 };
        match space.fill(ram, host, frames, cpu) {
            Ok(()) => Ok(space),
            Err(error) => {
                space.destroy(frames, vmids, cpu);
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        ram: Region<Ipa>,
        host: &Host,
        frames: &mut FramePool,
        cpu: &impl Maintenance,
    ) -> Result<(), CreateError> {
        let parts = [
            (&mut self.memory, ram, Perms::RWX),
            (&mut self.stolen, layout::STOLEN_TIME.region(), Perms::R),
        ];
        for (memory, region, perms) in parts {
            let clean = frames.allocate(region.size())?.scrub().clean(cpu);
            if let Err(overlap) = memory.add(region.start(), clean) {
                frames.free(overlap.0);
                let (base, size, bits) = (region.start(), region.size(), host.geometry.ipa_bits());
                return Err(CreateError::AddressSpace { base, size, bits });
            }
            memory.map(&mut self.stage2, perms, frames, cpu)?;
        }
        if let Some(gicv) = host.gicv {
            let cpu_interface = layout::GICC.region();
            debug_assert!(cpu_interface.start().is_aligned(PAGE_SIZE));
            self.stage2.map_device(cpu_interface, gicv, Perms::RW, frames, cpu)?;
        }
        Ok(())
    }

    fn destroy(self, frames: &mut FramePool, vmids: &mut Vmids, cpu: &impl Maintenance) {
        self.stage2.destroy(vmids, frames, cpu);
        self.memory.release(frames);
        self.stolen.release(frames);
    }
}

/// The guest machine's devices: those that every guest has, and those in `optional`.
fn devices<L: SerialLine + 'static>(
    optional: Devices,
    host: &Host,
    line: L,
) -> Result<Bus, Conflict> {
    let mut devices: Vec<Peripheral> = alloc::vec![
        Peripheral::new(layout::UART.region(), Box::new(Pl011::new(Arc::new(line))))
            .with_irq(layout::UART_IRQ),
        gpio(host),
        Peripheral::new(layout::VIRTIO.region(), Box::new(EmptySlots)),
    ];
    if optional.contains(Devices::RTC) {
        let clock = Pl031::new(host.frequency, Ticks(0), host.epoch);
        let clock = Peripheral::new(layout::RTC.region(), Box::new(clock));
        devices.push(clock.with_irq(layout::RTC_IRQ));
    }
    Bus::new(devices)
}

/// The GPIO, with the power button.
fn gpio(host: &Host) -> Peripheral {
    let hold = host.frequency.micros(PRESS_MICROS);
    let gpio = Pl061::new(Button { pin: layout::POWER_BUTTON_PIN, hold });
    Peripheral::new(layout::GPIO.region(), Box::new(gpio)).with_irq(layout::GPIO_IRQ)
}

/// The interrupt controller: the virtual timer's interrupt is the physical one, handed on.
fn interrupts(host: &Host, vcpus: u8) -> Vgic {
    let mut vgic = Vgic::new(host.gic_version, vcpus.into());
    for vcpu in 0..vcpus {
        vgic.link(VcpuId(vcpu), layout::VIRTUAL_TIMER_IRQ, Some(host.virtual_timer));
    }
    vgic
}

/// Guest memory as the image loader writes it.
struct Writer<'a>(&'a GuestMemory);

impl GuestWrite for Writer<'_> {
    fn write(&mut self, ipa: Ipa, bytes: &[u8]) -> Result<(), OutOfRam> {
        self.0.write_from(ipa, bytes).map_err(|_| OutOfRam)
    }
}
