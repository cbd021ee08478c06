//! What VMs are made from, and what goes back to it when they are taken apart: memory, VMIDs, the
//! bundle.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;

use super::provision;
use crate::device::doorbell::Doorbells;
use crate::device::serial::SerialLine;
use crate::firmware::entropy::Entropy;
use crate::host::allotment::Allotment;
use crate::manifest::{MachineConfig, Manifest, VmConfig};
use crate::memory::shared::Lender;
use crate::memory::{Block, Dirty, FramePool, Maintenance, SharedPool, TableFrames, Vmids};
use crate::sched::VmId;
use crate::time::Ticks;
use crate::virtio::block::base::Images;
use crate::virtio::console::channel::Channels;
use crate::virtio::net::cabling::Cabling;
use crate::virtio::vsock::sockets::Sockets;
use crate::vm::Vm;
use crate::vm::create::{CreateError, Creation, Host};
use crate::vm::loading::BootError;
use crate::vm::remains::Remains;

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
    pool: Arc<SharedPool>,
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
    /// Of the VM that is being taken apart.
    remains: Option<Remains>,
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
        let pool = Arc::new(SharedPool::new(frames, host.cpus.max(1).into(), host.upkeep));
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
            pool,
            vmids,
            entropy,
            line,
            doorbells,
            cabling,
            images,
            allotment: Allotment::default(),
            ram,
            heap,
            remains: None,
        }
    }

    /// The same on a machine that has `ram` bytes of memory in all, and this heap.
    #[must_use]
    pub fn on_machine(self, ram: u64, heap: HeapAccess) -> Self {
        self.pool.lock().frames.set_reserve_heap(heap.reserve);
        Self { ram, heap, ..self }
    }

    /// The same with what VMs have of the machine's disks.
    #[must_use]
    pub fn with_disks(self, allotment: Allotment) -> Self {
        Self { allotment, ..self }
    }

    /// The machine.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The frame pool.
    pub const fn pool(&self) -> &Arc<SharedPool> {
        &self.pool
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
    pub fn memory(&self) -> MemoryReport {
        let Lender { frames, lent } = &mut *self.pool.lock();
        MemoryReport {
            total: frames.total_bytes(),
            free: frames.free_bytes(),
            largest_free: frames.largest_block(),
            kept: self.ram.saturating_sub(frames.free_bytes()).saturating_sub(*lent),
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
        let socket = self.sockets.of(id).map_or(0, |socket| socket.most_memory() as u64);
        let all = self.manifest.vms();
        let Lender { frames, lent } = &mut *self.pool.lock();
        let heap = provision::heap_of(config, all, socket, frames.free_bytes(), self.host.cpus);
        if !frames.promise_heap(heap) {
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
            pool: &self.pool,
            entropy: self.entropy.as_mut().map(Entropy::fork),
            now,
        };
        let line = (self.line)(id, &config.name);
        let before = frames.free_bytes();
        let created = Vm::create(creation, line, frames, &mut self.vmids, cpu);
        if let Ok(vm) = &created {
            let taken = before.saturating_sub(frames.free_bytes());
            *lent += taken;
            vm.add_tables(taken.saturating_sub(vm.memory_size() + vm.disk_size()));
            vm.add_heap(heap_used().saturating_sub(heap_before));
        }
        Some(created)
    }

    /// Map a VM's RAM.
    pub(super) fn map_ram(&self, vm: &Vm, cpu: &impl Maintenance) -> Result<(), BootError> {
        // The pool is locked for one table at a time: its lock comes after a translation's.
        let mut tables = Counted { pool: &self.pool, taken: 0 };
        let mapped = vm.map_ram(&mut tables, cpu);
        vm.add_tables(tables.taken);
        mapped
    }

    /// Begin to take a VM apart that nobody uses any more, and nothing is left of the last one.
    pub(super) fn take_apart(&mut self, vm: Vm, cpu: &impl Maintenance) {
        debug_assert!(self.remains.is_none(), "one at a time");
        self.remains = Some(vm.dismantle(cpu));
    }

    /// Give some of what is left of it back: some thousand instructions.
    pub(super) fn clear(&mut self) -> Cleared {
        let Some(remains) = &mut self.remains else { return Cleared::Nothing };
        let is_all = give_back(remains, &self.pool, &mut self.vmids);
        match self.remains.take_if(|_| is_all) {
            Some(remains) => Cleared::All(remains.into_name()),
            None => Cleared::Some,
        }
    }

    /// Take a VM apart that has never run, at one go.
    pub(super) fn discard(&mut self, vm: Vm, cpu: &impl Maintenance) {
        let mut remains = vm.dismantle(cpu);
        while !give_back(&mut remains, &self.pool, &mut self.vmids) {}
    }

    /// Whether there is something left of a VM.
    pub(super) fn has_remains_of(&self, id: VmId) -> bool {
        self.remains.as_ref().is_some_and(|remains| remains.id() == id)
    }
}

/// Gives some of a VM's memory back. Returns whether that was all.
fn give_back(remains: &mut Remains, pool: &SharedPool, vmids: &mut Vmids) -> bool {
    let Lender { frames, lent } = &mut *pool.lock();
    let before = frames.free_bytes();
    let is_all = remains.step(frames, vmids);
    *lent = lent.saturating_sub(frames.free_bytes().saturating_sub(before));
    is_all
}

/// What [`Stock::clear`] has come to.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Cleared {
    /// There was nothing.
    Nothing,
    /// There is more.
    Some,
    /// All of the VM that was called so.
    All(String),
}

/// Translation tables, and how much they are, in bytes.
struct Counted<'a> {
    pool: &'a SharedPool,
    taken: u64,
}

impl TableFrames for Counted<'_> {
    fn allocate(&mut self, order: u8) -> Option<Block<Dirty>> {
        let block = { self.pool }.allocate(order)?;
        self.taken += block.region().size();
        Some(block)
    }

    fn free(&mut self, block: Block<Dirty>) {
        self.taken = self.taken.saturating_sub(block.region().size());
        { self.pool }.free(block);
    }
}
