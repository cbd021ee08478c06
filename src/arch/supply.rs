//! What VMs are made from on this machine: the bundle's descriptions, the board's facts, memory, randomness.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use aarch64_cpu::registers::ID_AA64MMFR0_EL1;
use tock_registers::interfaces::Readable;

use super::start::fail;
use super::this_cpu::ThisCpu;
use super::{checksum, gic, heap, host, id_registers, mitigation, timer};
use crate::addr::Region;
use crate::console::{self, GuestLine, Settings};
use crate::device::serial::SerialLine;
use crate::firmware::entropy::Entropy;
use crate::host::Devices;
use crate::hypervisor::{HeapAccess, INTERRUPT_KINDS, Stock};
use crate::manifest::{self, Manifest};
use crate::memory::{FramePool, Geometry, PaRange};
use crate::platform::board::{Assigned, Board, Gic};
use crate::time::Frequency;
use crate::vgic::{GicVersion, IntId};
use crate::virtio::net::lan::Lan;
use crate::vm::create::Host;
use crate::vm::idregs::IdFacts;

/// `VTCR_EL2` of a stage 2 on this CPU: the empty one's.
pub fn vtcr() -> u64 {
    geometry().vtcr().get()
}

/// The shape of a stage 2 on this CPU.
pub fn geometry() -> Geometry {
    let range = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange);
    Geometry::for_machine(PaRange::from_field(range))
}

/// Scrollback for so many guests, which grows as they speak. Where there is not enough memory, they have less.
fn with_scrollback(settings: Settings, guests: usize, frames: &FramePool) -> Settings {
    let added = settings.more_blocks(guests, frames.free_bytes());
    let Some(less) = settings.shared(guests, added) else { return settings };
    log::warn!(
        "console: {guests} guests have {} KiB of scrollback each, not {}: memory is short",
        less.scrollback >> 10,
        settings.scrollback >> 10
    );
    less
}

/// What the guests of the bundle are made from. `tree` is the board's.
pub fn stock(
    board: &Board,
    tree: &[u8],
    machine: &mut ThisCpu,
    mut frames: FramePool,
    cpus: u8,
    frequency: Frequency,
) -> Stock {
    let Some(region) = board.chosen.initrd else {
        fail("there is no bundle: pass one as the initrd")
    };
    // SAFETY: the loader put the bundle there, it is mapped read-only, and no frame of it is handed out.
    let bundle: &'static [u8] = unsafe {
        core::slice::from_raw_parts(
            region.start().raw() as *const u8,
            usize::try_from(region.size()).unwrap_or(0),
        )
    };
    let manifest = match manifest::read_with(bundle, checksum::of) {
        Ok(manifest) => manifest,
        Err(error) => {
            log::error!("the bundle: {error}");
            fail("the bundle cannot be used")
        }
    };
    let settings = Settings::for_machine(manifest.machine(), &board.chosen.bootargs);
    console::set_settings(with_scrollback(settings, manifest.vms().len(), &frames));
    let (gic_version, gicv) = match &board.gic {
        Gic::V2 { gicv, .. } => (GicVersion::V2, Some(gicv.start())),
        Gic::V3 { .. } => (GicVersion::V3, None),
    };
    let outside = Outside::of(&manifest, || host::find(machine, &mut frames, tree));
    let allotment = host::allot(machine, &mut frames, tree, &manifest, frequency);
    // On whichever CPU a guest is.
    let geometry = Geometry::for_machine(id_registers::pa_range());
    let host = Host {
        gic_version,
        gicv,
        geometry,
        cpus,
        frequency,
        virtual_timer: board.timer.virt.intid,
        interrupts: own_interrupts(board),
        clock: super::timer::now,
        epoch: epoch(board),
        upkeep: &super::maintenance::Upkeep,
        assigned: assigned(board, tree, &manifest),
        id_registers: id_registers::for_guests(&IdFacts {
            ipa_bits: u8::try_from(geometry.ipa_bits()).unwrap_or(u8::MAX),
            gicv3: gic_version == GicVersion::V3,
        }),
        mitigations: mitigation::for_guests(),
    };
    let line = |id, name: &str| -> Arc<dyn SerialLine> { Arc::new(GuestLine::new(id, name)) };
    let ram = board.memory.iter().map(Region::size).fold(0, u64::saturating_add);
    let stock = Stock::new(host, manifest, frames, seed(board), Box::new(line))
        .on_machine(ram, HeapAccess { reserve: heap::reserve, report: heap::report })
        .with_disks(allotment);
    if let Some(outside) = outside {
        outside.connect(stock.cabling().lan());
    }
    stock
}

/// The network that goes on outside.
struct Outside {
    network: usize,
    name: String,
    devices: &'static Devices,
}

impl Outside {
    /// The manifest's, if there is one: the machine's devices are looked for then.
    fn of(manifest: &Manifest<'_>, find: impl FnOnce() -> &'static Devices) -> Option<Self> {
        let mut networks = manifest.networks().iter().enumerate();
        let (network, config) = networks.find(|(_, network)| network.uplink)?;
        Some(Self { network, name: config.name.clone(), devices: find() })
    }

    /// Joins it to the machine's first network card.
    fn connect(self, lan: &Arc<Lan>) {
        let Some(port) = lan.switch().uplink(self.network) else { return };
        match self.devices.nic(0) {
            Ok(nic) => {
                lan.connect(port, nic);
                let lan = lan.clone();
                self.devices.on_frame(0, Box::new(move |frame| lan.receive(frame)));
            }
            Err(missing) => log::warn!("network {}: it ends here: {missing}", self.name),
        }
    }
}

/// The devices of the board that each guest has for its own.
fn assigned(board: &Board, tree: &[u8], manifest: &Manifest<'_>) -> Box<[Assigned]> {
    let wishes: Vec<_> = manifest.vms().iter().map(|vm| vm.assign.as_slice()).collect();
    if wishes.iter().all(|wish| wish.is_empty()) {
        return Box::default();
    }
    board.assign(tree, &wishes).unwrap_or_default().into()
}

/// The hypervisor's own interrupts, as [`Host::interrupts`] has them.
fn own_interrupts(board: &Board) -> [(IntId, &'static str); INTERRUPT_KINDS] {
    let (Gic::V2 { maintenance, .. } | Gic::V3 { maintenance, .. }) = &board.gic;
    let uart = board.uart.interrupt.map_or(IntId(0), |interrupt| interrupt.intid);
    [
        (gic::KICK, "kick"),
        (board.timer.hypervisor.intid, "deadline"),
        (board.timer.virt.intid, "virtual timer"),
        (maintenance.intid, "maintenance"),
        (uart, "uart"),
    ]
}

/// Seconds since 1970, as the board's clock has it; 0 without one.
fn epoch(board: &Board) -> u32 {
    board.rtc.map_or(0, |rtc| {
        // SAFETY: the tree says a PL031 is there, it is mapped as a device, and RTCDR is its first
        // register (DDI 0224).
        unsafe { (rtc.start().raw() as *const u32).read_volatile() }
    })
}

/// A generator seeded from what the firmware gives, stirred with the counter.
fn seed(board: &Board) -> Option<Entropy> {
    let mut bytes = board.chosen.rng_seed.clone();
    if let Some(seed) = board.chosen.kaslr_seed {
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    if bytes.is_empty() {
        log::warn!("the board's tree has no rng-seed: guests get no entropy");
        return None;
    }
    bytes.extend_from_slice(&timer::now().0.to_le_bytes());
    Entropy::from_seed(&bytes)
}
