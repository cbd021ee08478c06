//! What VMs are made from, and what goes back to it when they are taken apart: memory, VMIDs, the
//! bundle.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::device::doorbell::Doorbells;
use crate::device::serial::SerialLine;
use crate::firmware::entropy::Entropy;
use crate::host::allotment::Allotment;
use crate::manifest::{MachineConfig, Manifest, VmConfig};
use crate::memory::{FramePool, Maintenance, Vmids};
use crate::sched::VmId;
use crate::time::Ticks;
use crate::virtio::block::base::Images;
use crate::virtio::console::channel::{self, Channels};
use crate::virtio::net::cabling::Cabling;
use crate::virtio::vsock::sockets::Sockets;
use crate::vm::Vm;
use crate::vm::create::{CreateError, Creation, Host};
use crate::vm::loading::BootError;

/// Makes the serial line of a VM.
pub type MakeLine = dyn Fn(VmId, &str) -> Arc<dyn SerialLine> + Send;

/// The hypervisor's heap, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HeapReport {
    /// All of it.
    pub total: u64,
    /// What nobody has.
    pub free: u64,
}

/// The hypervisor's heap, for who gives it memory.
#[derive(Clone, Copy)]
pub struct HeapAccess {
    /// Lets so many bytes be free, with frames of the pool where they are not; or says that it cannot.
    pub reserve: fn(&mut FramePool, u64) -> bool,
    /// How much there is.
    pub report: fn() -> HeapReport,
}

/// What making a VM takes of the heap at most, and so much more for each of its vCPUs, in bytes.
const HEAP_OF_VM: u64 = 64 << 10;
const HEAP_OF_VCPU: u64 = 16 << 10;
/// The same for each of the machine's disks that it has a part of.
const HEAP_OF_HOST_DISK: u64 = 48 << 10;

/// The memory for VMs, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryReport {
    /// All of it.
    pub total: u64,
    /// What no VM has.
    pub free: u64,
    /// The largest block of that.
    pub largest_free: u64,
    /// What of the machine's memory neither is free nor is a VM's: image, heap, tables, bundle.
    pub kept: u64,
}

/// What VMs are made from.
pub struct Stock {
    host: Host,
    manifest: Manifest<'static>,
    frames: FramePool,
    vmids: Vmids,
    entropy: Option<Entropy>,
    line: Box<MakeLine>,
    doorbells: Arc<Doorbells>,
    cabling: Cabling,
    channels: Channels,
    sockets: Sockets,
    /// The disk images that VMs have.
    images: Images,
    /// Who has what of the machine's disks.
    allotment: Allotment,
    /// All of the machine's memory, in bytes.
    ram: u64,
    heap: HeapAccess,
    /// What VMs have of the pool, in bytes.
    lent: u64,
}

impl Stock {
    /// The VMs of `manifest`, from `frames`, for the machine `host`. Their generators are seeded from
    /// `entropy`.
    pub fn new(
        host: Host,
        manifest: Manifest<'static>,
        frames: FramePool,
        entropy: Option<Entropy>,
        line: Box<MakeLine>,
    ) -> Self {
        let heap = HeapAccess { reserve: |_, _| true, report: HeapReport::default };
        let ram = frames.total_bytes();
        let doorbells = Arc::new(Doorbells::new(manifest.vms().len()));
        let (vmids, images) = (Vmids::new(), Images::default());
        let (networks, vms) = (manifest.networks(), manifest.vms());
        let cabling = Cabling::new(networks, vms, host.frequency, host.clock)
            .expect("networks of a manifest that was checked");
        let (channels, sockets) =
            (Channels::new(vms), Sockets::new(vms.iter().map(|vm| vm.vsock.as_ref())));
        Self {
            host,
            channels,
            sockets,
            manifest,
            frames,
            vmids,
            entropy,
            line,
            doorbells,
            cabling,
            images,
            allotment: Allotment::default(),
            ram,
            heap,
            lent: 0,
        }
    }

    /// The same on a machine that has `ram` bytes of memory in all, and this heap.
    #[must_use]
    pub fn on_machine(self, ram: u64, heap: HeapAccess) -> Self {
        Self { ram, heap, ..self }
    }

    /// The same with what VMs have of the machine's disks.
    #[must_use]
    pub fn with_disks(self, allotment: Allotment) -> Self {
        Self { allotment, ..self }
    }

    /// Memory that is never given back: one aligned block of at least `bytes`.
    pub(super) fn keep(&mut self, bytes: u64) -> Option<Region<PhysAddr>> {
        let frames = bytes.div_ceil(PAGE_SIZE).checked_next_power_of_two()?;
        let order = u8::try_from(frames.ilog2()).ok()?;
        self.frames.allocate_block(order).map(|block| block.region())
    }

    /// The machine.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The bells of the VMs' devices.
    pub const fn doorbells(&self) -> &Arc<Doorbells> {
        &self.doorbells
    }

    /// The networks.
    pub const fn cabling(&self) -> &Cabling {
        &self.cabling
    }

    /// The channels between guests' ports, and to their agents.
    pub const fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The socket devices.
    pub const fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// What the bundle says of the machine.
    pub const fn machine(&self) -> &MachineConfig {
        self.manifest.machine()
    }

    /// What the bundle says of each VM.
    pub fn configs(&self) -> &[VmConfig] {
        self.manifest.vms()
    }

    /// The memory for VMs.
    pub fn memory(&mut self) -> MemoryReport {
        MemoryReport {
            total: self.frames.total_bytes(),
            free: self.frames.free_bytes(),
            largest_free: self.frames.largest_block(),
            kept: self.ram.saturating_sub(self.frames.free_bytes()).saturating_sub(self.lent),
        }
    }

    /// Build the VM with the number `id`; `None` when the bundle has none such.
    pub(super) fn create(
        &mut self,
        id: VmId,
        now: Ticks,
        cpu: &impl Maintenance,
    ) -> Option<Result<Box<Vm>, CreateError>> {
        let config = self.manifest.vms().get(id.index())?;
        let vcpus = u64::from(config.vcpus);
        let disks = config.disks.iter().filter(|disk| disk.host().is_some()).count() as u64;
        let ports = config.ports.len() as u64 + u64::from(config.agent);
        let ports = ports * 2 * channel::ROOM as u64;
        let sockets = self.sockets.of(id).map_or(0, |socket| socket.most_memory() as u64);
        let heap = HEAP_OF_VM + vcpus * HEAP_OF_VCPU + disks * HEAP_OF_HOST_DISK + ports + sockets;
        if !(self.heap.reserve)(&mut self.frames, heap) {
            return Some(Err(BootError::Heap.into()));
        }
        let heap_used = || {
            let heap = (self.heap.report)();
            heap.total - heap.free
        };
        let heap_before = heap_used();
        let creation = Creation {
            id,
            config,
            manifest: &self.manifest,
            host: &self.host,
            doorbells: &self.doorbells,
            cabling: &self.cabling,
            channels: &self.channels,
            sockets: &self.sockets,
            images: &mut self.images,
            allotment: &self.allotment,
            entropy: self.entropy.as_mut().map(Entropy::fork),
            now,
        };
        let line = (self.line)(id, &config.name);
        let before = self.frames.free_bytes();
        let created = Vm::create(creation, line, &mut self.frames, &mut self.vmids, cpu);
        if let Ok(vm) = &created {
            let taken = before.saturating_sub(self.frames.free_bytes());
            self.lent += taken;
            vm.add_tables(taken.saturating_sub(vm.memory_size() + vm.disk_size()));
            vm.add_heap(heap_used().saturating_sub(heap_before));
        }
        Some(created)
    }

    /// Map a VM's RAM.
    pub(super) fn map_ram(&mut self, vm: &Vm, cpu: &impl Maintenance) -> Result<(), BootError> {
        let before = self.frames.free_bytes();
        vm.map_ram(&mut self.frames, cpu)?;
        let taken = before.saturating_sub(self.frames.free_bytes());
        self.lent += taken;
        vm.add_tables(taken);
        Ok(())
    }

    /// Take a VM apart that nobody uses any more.
    pub(super) fn destroy(&mut self, vm: Vm, cpu: &impl Maintenance) {
        let before = self.frames.free_bytes();
        vm.destroy(&mut self.frames, &mut self.vmids, cpu);
        self.lent = self.lent.saturating_sub(self.frames.free_bytes().saturating_sub(before));
    }
}
