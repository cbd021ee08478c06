//! How much of the hypervisor's heap has to be free before a VM is made, and while it is loaded.
//!
//! What a VM is made of (its vCPUs, devices, queues, the lists of its frames) is on the heap, and an allocation there
//! cannot fail: there is nobody to give an error to. So it is seen to beforehand that there is enough, and a VM for
//! which there is not is refused while nothing of it is there yet. The sizes are bounds, in bytes, for a heap that
//! hands out powers of two; `tests/heap.rs` compares them with what is taken.

use crate::addr::PAGE_SIZE;
use crate::manifest::VmConfig;
use crate::memory::elastic::UNIT;
use crate::memory::frames::{FEW_BLOCKS, HEAP_OF_BLOCK};
use crate::sched::ROOM;
use crate::virtio::console::channel;

/// A VM, its interrupt controller, what its kernel is looked at with, and its devices but for their queues.
const VM: u64 = 64 << 10;
/// A vCPU, and its part of devices' queues.
const VCPU: u64 = 16 << 10;
/// A disk in memory, but for the list of its frames; and in how many sets they are.
const DISK: u64 = 4 << 10;
const SETS_OF_DISK: u64 = 3;
/// A part of one of the machine's disks.
const HOST_DISK: u64 = 48 << 10;
/// A vCPU's place in a run queue, which grows by doubling.
const RECORD: u64 = 1 << 10;

/// A step of loading a VM. Each CPU may do one at the same time.
const LOADING: u64 = 64 << 10;

/// What has to be free when the VM of `config`, one of `all`, is made, in bytes: its socket device takes `socket`, the
/// pool has `free`, and the machine so many CPUs.
pub(super) fn heap_of(
    config: &VmConfig,
    all: &[VmConfig],
    socket: u64,
    free: u64,
    cpus: u8,
) -> u64 {
    let vcpus = u64::from(config.vcpus);
    let host_disks = config.disks.iter().filter(|disk| disk.host().is_some()).count() as u64;
    let disks = (config.disks.len() as u64).saturating_sub(host_disks);
    let ports = (config.ports.len() as u64).saturating_add(config.agent.into());
    let sets = disks.saturating_mul(SETS_OF_DISK).saturating_add(1);
    let blocks = (free / UNIT).saturating_add(sets.saturating_mul(FEW_BLOCKS));
    // Once there are more than each queue has room for from the start.
    let records: u64 = all.iter().map(|vm| u64::from(vm.vcpus)).sum();
    let records = if records > ROOM as u64 { records } else { 0 };
    let parts = [
        VM,
        vcpus.saturating_mul(VCPU),
        disks.saturating_mul(DISK),
        host_disks.saturating_mul(HOST_DISK),
        ports.saturating_mul(2 * channel::ROOM as u64),
        socket,
        balloon(config),
        blocks.saturating_mul(HEAP_OF_BLOCK),
        records.saturating_mul(RECORD),
        loading(cpus),
    ];
    parts.into_iter().fold(0, u64::saturating_add)
}

/// What a balloon notes, in bytes.
fn balloon(config: &VmConfig) -> u64 {
    // A bit for each page, and a word for each unit.
    let units = config.memory / UNIT;
    let notes = (config.memory / PAGE_SIZE / 8).saturating_add(units.saturating_mul(8));
    // The heap hands out powers of two.
    if config.balloon.is_some() { notes.saturating_mul(2) } else { 0 }
}

/// What has to be free before each step of loading a VM, on a machine of so many CPUs, in bytes.
pub(super) fn loading(cpus: u8) -> u64 {
    u64::from(cpus.max(1)) * LOADING
}
