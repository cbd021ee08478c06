//! What must hold in a manifest: the same when it is written and when it is read.

use super::config::{DiskConfig, DiskContents, MachineConfig, Payload, Shutdown, VmConfig};
use super::error::{ManifestError, PayloadKind, Place};
use super::network::{self, NetworkConfig};
use super::port;
use super::vsock;
use super::{
    MAX_ASSIGNED, MAX_CMDLINE, MAX_DISKS, MAX_MEMORY, MAX_NAME, MAX_NODE, MAX_SERIAL, MAX_SHUTDOWN,
    MAX_VMS, PAYLOAD_ALIGN, RAM_BASE_ALIGN, RAM_LIMIT, SCROLLBACK,
};
use crate::addr::PAGE_SIZE;
use crate::console::keys::EscapeKey;
use crate::memory::elastic::UNIT;
use crate::monitor::command::can_be_meant;
use crate::sched::policy::{Class, MAX_WEIGHT, MIN_BUDGET_MICROS, PERIOD_MICROS};
use crate::vcpu::MAX_VCPUS;
use crate::virtio::block::image::MAX_DISK;
use crate::vm::layout;

/// Everything. Payloads lie between `first` and `end`.
pub(super) fn whole(
    machine: &MachineConfig,
    networks: &[NetworkConfig],
    vms: &[VmConfig],
    first: u64,
    end: u64,
) -> Result<(), ManifestError> {
    facts(machine, networks, vms)?;
    for (index, vm) in vms.iter().enumerate() {
        for (kind, payload) in payloads(vm) {
            inside(&|| Place::new(index, vm), kind, payload, first, end)?;
        }
    }
    apart(vms)
}

/// Everything that does not depend on where payloads lie.
pub(super) fn facts(
    machine: &MachineConfig,
    networks: &[NetworkConfig],
    vms: &[VmConfig],
) -> Result<(), ManifestError> {
    if EscapeKey::of_letter(machine.escape).is_none() {
        return Err(ManifestError::Escape { code: machine.escape });
    }
    if !SCROLLBACK.contains(&machine.scrollback) {
        return Err(ManifestError::Scrollback { bytes: machine.scrollback });
    }
    if vms.is_empty() {
        return Err(ManifestError::NoVm);
    }
    if vms.len() > MAX_VMS {
        return Err(ManifestError::TooManyVms { count: vms.len() });
    }
    for (index, vm) in vms.iter().enumerate() {
        let place = || Place::new(index, vm);
        name(&vm.name, index, &place)?;
        let earlier = vms.iter().take(index).position(|other| other.name == vm.name);
        if let Some(first) = earlier {
            return Err(ManifestError::NameDuplicate { place: place(), first });
        }
        memory(vm, &place)?;
        if let Some(min) = vm.balloon
            && !(min.is_multiple_of(UNIT) && (UNIT..=vm.memory).contains(&min))
        {
            return Err(ManifestError::Balloon { place: place(), min });
        }
        if vm.balloon.is_some() && !vm.assign.is_empty() {
            return Err(ManifestError::BalloonAssign { place: place() });
        }
        if vm.vcpus == 0 || usize::from(vm.vcpus) > MAX_VCPUS {
            return Err(ManifestError::Vcpus { place: place(), vcpus: vm.vcpus });
        }
        policy(vm, &place)?;
        if let Shutdown::Console(text) = &vm.shutdown
            && !(1..=MAX_SHUTDOWN).contains(&text.len())
        {
            return Err(ManifestError::Shutdown { place: place(), length: text.len() });
        }
        if vm.devices.unknown() != 0 {
            return Err(ManifestError::Devices { place: place(), bits: vm.devices.unknown() });
        }
        if vm.assign.len() > MAX_ASSIGNED || !vm.assign.iter().all(|node| is_node(node)) {
            return Err(ManifestError::Assign { place: place() });
        }
        cmdline(&vm.cmdline, &place)?;
        if vm.disks.len() > MAX_DISKS {
            return Err(ManifestError::TooManyDisks { place: place(), count: vm.disks.len() });
        }
        for (index, one) in vm.disks.iter().enumerate() {
            disk(one, index, &place)?;
        }
    }
    if let Some((one, other)) = shared(vms.iter()).next() {
        let place = |(vm, disk): (usize, usize)| vms.get(vm).map(|of| (Place::new(vm, of), disk));
        if let (Some((place, disk)), Some((other, other_disk))) = (place(one), place(other)) {
            return Err(ManifestError::DiskShared { place, disk, other, other_disk });
        }
    }
    port::check(vms)?;
    vsock::check(vms)?;
    network::check(networks, vms)
}

/// A VM's place among the VMs, and a disk's among its disks.
pub type DiskPlace = (usize, usize);

/// Disks which certainly have something of a machine's disk in common with an earlier one though not both are read-only, and
/// that one.
pub fn shared<'a, P: 'a, T: AsRef<str> + 'a>(
    vms: impl Iterator<Item = &'a VmConfig<P, T>> + Clone,
) -> impl Iterator<Item = (DiskPlace, DiskPlace)> {
    let all = move || {
        vms.clone().enumerate().flat_map(|(vm, config)| {
            let disks = config.disks.iter().enumerate();
            disks.filter_map(move |(disk, config)| {
                Some(((vm, disk), config.host()?, config.read_only))
            })
        })
    };
    all().enumerate().filter_map(move |(number, (place, host, read_only))| {
        let other = all()
            .take(number)
            .find(|(_, other, other_only)| !(read_only && *other_only) && host.overlaps(other));
        other.map(|(other, ..)| (place, other))
    })
}

fn disk(config: &DiskConfig, disk: usize, place: &dyn Fn() -> Place) -> Result<(), ManifestError> {
    let possible = |size: u64| size > 0 && size.is_multiple_of(PAGE_SIZE) && size <= MAX_DISK;
    if let DiskContents::Empty(size) = config.contents
        && !possible(size)
    {
        return Err(ManifestError::DiskSize { place: place(), disk, size });
    }
    let is_empty = matches!(config.contents, DiskContents::Empty(_));
    if config.read_only && (config.space.is_some() || is_empty) {
        return Err(ManifestError::DiskReadOnly { place: place(), disk });
    }
    if let Some(host) = config.host() {
        host.check().map_err(|why| ManifestError::DiskPart { place: place(), disk, why })?;
        if let Some(space) = config.space {
            return Err(ManifestError::DiskSpace { place: place(), disk, space });
        }
    }
    if let Some(space) = config.space
        && !possible(space)
    {
        return Err(ManifestError::DiskSpace { place: place(), disk, space });
    }
    if is_serial(&config.serial) {
        Ok(())
    } else {
        Err(ManifestError::DiskSerial { place: place(), disk })
    }
}

/// Whether a disk can call itself so.
pub fn is_serial(text: &str) -> bool {
    (1..=MAX_SERIAL).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether this can name a node of a device tree.
pub fn is_node(name: &str) -> bool {
    (1..=MAX_NODE).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn name(name: &str, index: usize, place: &dyn Fn() -> Place) -> Result<(), ManifestError> {
    if name.is_empty() {
        return Err(ManifestError::NameEmpty { index });
    }
    if name.len() > MAX_NAME {
        return Err(ManifestError::NameTooLong { place: place(), length: name.len() });
    }
    if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ManifestError::NameNotPrintable { place: place() });
    }
    if !can_be_meant(name) {
        return Err(ManifestError::NameReserved { place: place() });
    }
    Ok(())
}

fn memory(vm: &VmConfig, place: &dyn Fn() -> Place) -> Result<(), ManifestError> {
    let memory = vm.memory;
    if memory == 0 {
        return Err(ManifestError::MemoryZero { place: place() });
    }
    if !memory.is_multiple_of(PAGE_SIZE) {
        return Err(ManifestError::MemoryUnaligned { place: place(), memory });
    }
    if memory > MAX_MEMORY {
        return Err(ManifestError::MemoryTooLarge { place: place(), memory });
    }
    let base = vm.ram_base.raw();
    if vm.ram_base < layout::RAM_BASE || !vm.ram_base.is_aligned(RAM_BASE_ALIGN) {
        return Err(ManifestError::RamBase { place: place(), base });
    }
    // Both are far from the end of the 64-bit space, or this is larger than any limit.
    if base.saturating_add(memory) > RAM_LIMIT {
        return Err(ManifestError::RamTooHigh { place: place(), base, memory });
    }
    Ok(())
}

fn policy(vm: &VmConfig, place: &dyn Fn() -> Place) -> Result<(), ManifestError> {
    if vm.policy.affinity.is_empty() {
        return Err(ManifestError::Affinity { place: place() });
    }
    match vm.policy.class {
        Class::Fair { weight, .. } if !(1..=MAX_WEIGHT).contains(&weight) => {
            Err(ManifestError::Weight { place: place(), weight })
        }
        Class::Fair { cap: Some(cap), .. } if !(1..=100 * u16::from(vm.vcpus)).contains(&cap) => {
            Err(ManifestError::Cap { place: place(), cap, vcpus: vm.vcpus })
        }
        Class::Reserved { period, .. } if !PERIOD_MICROS.contains(&period) => {
            Err(ManifestError::Period { place: place(), period })
        }
        Class::Reserved { budget, period } if !(MIN_BUDGET_MICROS..=period).contains(&budget) => {
            Err(ManifestError::Budget { place: place(), budget, period })
        }
        Class::Fair { .. } | Class::Reserved { .. } => Ok(()),
    }
}

fn cmdline(cmdline: &str, place: &dyn Fn() -> Place) -> Result<(), ManifestError> {
    if cmdline.len() > MAX_CMDLINE {
        return Err(ManifestError::CmdlineTooLong { place: place(), length: cmdline.len() });
    }
    match cmdline.chars().find(|character| character.is_control()) {
        Some(character) => Err(ManifestError::CmdlineControl { place: place(), character }),
        None => Ok(()),
    }
}

/// A VM's payloads.
fn payloads(vm: &VmConfig) -> impl Iterator<Item = (PayloadKind, Payload)> {
    let initrd = vm.initrd.map(|initrd| (PayloadKind::Initrd, initrd));
    let disks = vm.disks.iter().enumerate();
    let images = disks.filter_map(|(index, disk)| Some((PayloadKind::Disk(index), *disk.image()?)));
    core::iter::once((PayloadKind::Kernel, vm.kernel)).chain(initrd).chain(images)
}

fn inside(
    place: &dyn Fn() -> Place,
    kind: PayloadKind,
    payload: Payload,
    first: u64,
    end: u64,
) -> Result<(), ManifestError> {
    let Payload { offset, size } = payload;
    if size == 0 {
        return Err(ManifestError::PayloadEmpty { place: place(), kind });
    }
    if !offset.is_multiple_of(PAYLOAD_ALIGN) {
        return Err(ManifestError::PayloadUnaligned { place: place(), kind, offset });
    }
    if offset < first || offset.checked_add(size).is_none_or(|last| last > end) {
        let place = place();
        return Err(ManifestError::PayloadOutside { place, kind, offset, size, first, end });
    }
    Ok(())
}

/// Two payloads are the same bytes or have none in common.
fn apart(vms: &[VmConfig]) -> Result<(), ManifestError> {
    let all = || {
        vms.iter().enumerate().flat_map(|(index, vm)| {
            payloads(vm).map(move |(kind, payload)| (index, vm, kind, payload))
        })
    };
    for (number, (index, vm, kind, one)) in all().enumerate() {
        for (other_index, other_vm, other_kind, other) in all().take(number) {
            // That neither end overflows was checked before.
            let overlap =
                one.offset < other.offset + other.size && other.offset < one.offset + one.size;
            if overlap && one != other {
                let (place, other) = (Place::new(index, vm), Place::new(other_index, other_vm));
                return Err(ManifestError::PayloadOverlap { place, kind, other, other_kind });
            }
        }
    }
    Ok(())
}
