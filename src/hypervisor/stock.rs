//! What VMs are made from, and what goes back to it when they are taken apart: memory, VMIDs, the
//! bundle.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

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
use crate::vm::construction::Construction;
use crate::vm::create::{CreateError, Creation, Host, Own};
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

impl HeapAccess {
    /// How much of it somebody has, in bytes.
    fn used(&self) -> u64 {
        let HeapReport { total, free } = (self.report)();
        total.saturating_sub(free)
    }
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
    /// The VMs that are being built.
    sites: Vec<Site>,
    /// Those that were begun with once more.
    again: Vec<Again>,
    /// Of the VMs that are being taken apart, of the last one first.
    remains: Vec<Remains>,
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
            sites: Vec::new(),
            again: Vec::new(),
            remains: Vec::new(),
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

    /// Go on building the VM with the number `id`, or begin with it; `None` when the bundle has none such.
    pub(super) fn build(&mut self, id: VmId, now: Ticks, cpu: &impl Maintenance) -> Option<Build> {
        let mut site = match self.sites.iter().position(|site| site.id() == id) {
            Some(at) => self.sites.swap_remove(at),
            None => match self.begin(id, now)? {
                Ok(site) => site,
                Err(error) => return Some(Build::Refused(error)),
            },
        };
        let config = self.manifest.vms().get(id.index())?;
        // What others take who are being built is theirs.
        let promised = site.heap_left().saturating_add(promised(&self.sites));
        let Lender { frames, lent } = &mut *self.pool.lock();
        let (before, heap) = (frames.free_bytes(), self.heap.used());
        let step = if frames.promise_heap(promised) {
            let creation = &mut Creation {
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
            };
            site.construction.step(creation, frames, &mut self.vmids, cpu)
        } else {
            Err(BootError::Heap.into())
        };
        let taken = before.saturating_sub(frames.free_bytes());
        *lent = lent.saturating_add(taken);
        site.frames_taken = site.frames_taken.saturating_add(taken);
        let heap = self.heap.used().saturating_sub(heap);
        site.heap_taken = site.heap_taken.saturating_add(heap);
        Some(match step {
            Ok(Some(vm)) => {
                self.again.retain(|again| again.id != id);
                let own = vm.memory_size().saturating_add(vm.disk_size());
                vm.add_tables(site.frames_taken.saturating_sub(own));
                vm.add_heap(site.heap_taken);
                Build::All(vm)
            }
            Ok(None) => {
                self.sites.push(site);
                Build::More
            }
            Err(error) => {
                self.remains.push(site.construction.abandon());
                Build::Failed(error)
            }
        })
    }

    /// A VM of which nothing is there yet. `None` when the bundle has none such.
    fn begin(&mut self, id: VmId, now: Ticks) -> Option<Result<Site, CreateError>> {
        let all = self.manifest.vms();
        let config = all.get(id.index())?;
        let socket = self.sockets.of(id).map_or(0, |socket| socket.most_memory() as u64);
        let frames = &mut self.pool.lock().frames;
        let heap = provision::heap_of(config, all, socket, frames.free_bytes(), self.host.cpus);
        if !frames.promise_heap(heap.saturating_add(promised(&self.sites))) {
            return Some(Err(BootError::Heap.into()));
        }
        let before = self.heap.used();
        let line = (self.line)(id, &config.name);
        let entropy = self.entropy.as_mut().map(Entropy::fork);
        let construction = Construction::new(id, &config.name, Own { line, entropy, now });
        let heap_taken = self.heap.used().saturating_sub(before);
        Some(Ok(Site { construction, heap, heap_taken, frames_taken: 0 }))
    }

    /// Map a VM's RAM.
    pub(super) fn map_ram(&self, vm: &Vm, cpu: &impl Maintenance) -> Result<(), BootError> {
        // The pool is locked for one table at a time: its lock comes after a translation's.
        let mut tables = Counted { pool: &self.pool, taken: 0 };
        let mapped = vm.map_ram(&mut tables, cpu);
        vm.add_tables(tables.taken);
        mapped
    }

    /// Whether a VM is being built.
    pub(super) fn is_building(&self, id: VmId) -> bool {
        self.sites.iter().any(|site| site.id() == id)
    }

    /// A VM could not be built: once more, when there is [room](Self::has_room). Returns false if that has been so before.
    pub(super) fn make_room(&mut self, id: VmId) -> bool {
        match self.again.iter().position(|again| again.id == id) {
            Some(at) => {
                self.again.swap_remove(at);
                false
            }
            None => {
                self.again.push(Again { id, has_room: false });
                true
            }
        }
    }

    /// Whether what is left of others is to be cleared before a VM is built once more.
    pub(super) fn is_to_have_room(&self, id: VmId) -> bool {
        self.again.iter().any(|again| again.id == id && !again.has_room)
    }

    /// It is cleared.
    pub(super) fn has_room(&mut self, id: VmId) {
        self.again.iter_mut().filter(|again| again.id == id).for_each(|it| it.has_room = true);
    }

    /// Begin to take a VM apart that nobody uses any more.
    pub(super) fn take_apart(&mut self, vm: Vm) {
        self.remains.push(vm.dismantle());
    }

    /// Give some of what is left of VMs back: some thousand instructions.
    pub(super) fn clear(&mut self, cpu: &impl Maintenance) -> Cleared {
        let Some(remains) = self.remains.last_mut() else { return Cleared::Nothing };
        if !give_back(remains, &self.pool, &mut self.vmids, cpu) {
            return Cleared::Some;
        }
        Cleared::All(self.remains.pop().and_then(Remains::into_name))
    }

    /// Whether there is something left of a VM.
    pub(super) fn has_remains_of(&self, id: VmId) -> bool {
        self.remains.iter().any(|remains| remains.id() == id)
    }
}

/// Gives some of a VM's memory back. Returns whether that was all.
fn give_back(
    remains: &mut Remains,
    pool: &SharedPool,
    vmids: &mut Vmids,
    cpu: &impl Maintenance,
) -> bool {
    let Lender { frames, lent } = &mut *pool.lock();
    let before = frames.free_bytes();
    let is_all = remains.step(frames, vmids, cpu);
    *lent = lent.saturating_sub(frames.free_bytes().saturating_sub(before));
    is_all
}

/// A VM that is being built.
struct Site {
    construction: Construction<Arc<dyn SerialLine>>,
    /// What it takes of the heap at most, and has taken, in bytes.
    heap: u64,
    heap_taken: u64,
    /// How much memory it has taken, in bytes.
    frames_taken: u64,
}

impl Site {
    const fn id(&self) -> VmId {
        self.construction.id()
    }

    /// What it may yet take of the heap, in bytes.
    const fn heap_left(&self) -> u64 {
        self.heap.saturating_sub(self.heap_taken)
    }
}

/// A VM that could not be built at the first try.
struct Again {
    id: VmId,
    /// What others had has been cleared since.
    has_room: bool,
}

/// What they may yet take of the heap, in bytes.
fn promised(sites: &[Site]) -> u64 {
    sites.iter().map(Site::heap_left).fold(0, u64::saturating_add)
}

/// What [`Stock::build`] has come to.
pub(super) enum Build {
    /// There is more to do.
    More,
    /// The VM.
    All(Box<Vm>),
    /// It cannot be begun with.
    Refused(CreateError),
    /// It cannot be gone on with; what there is of it by then is to be [cleared](Stock::clear).
    Failed(CreateError),
}

/// What [`Stock::clear`] has come to.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Cleared {
    /// There was nothing.
    Nothing,
    /// There is more.
    Some,
    /// All of the VM that was called so; of one that was never there, where it has no name.
    All(Option<String>),
}

impl Cleared {
    /// What somebody may wait for is said.
    pub(super) fn tell(self) {
        if let Self::All(Some(name)) = self {
            log::info!("{name}: destroyed");
        }
    }
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
