//! One virtual machine: what belongs to it, and who may touch it when.
//!
//! A VM is shared by all CPUs. A vCPU's own state ([`Vcpu`]) is in one place at a time: with the CPU that
//! has it loaded, or parked here. Everything else is behind a lock of its own.
//!
//! Lock order: a device's lock, then `vgic` (the bus reports a device's level while it is locked).
//! `lifecycle`, then `entropy`. Neither pair is held together with the other.

pub mod assigned;
pub mod balloon;
pub mod construction;
pub mod create;
pub mod debug;
mod disks;
pub mod dump;
pub mod handle;
pub mod idregs;
pub mod layout;
pub mod lifecycle;
pub mod loading;
mod mmio;
mod peripherals;
pub mod ptimer;
pub mod quick;
pub(crate) mod remains;
mod report;
mod slots;
pub mod snapshot;
mod sockets;
pub mod stolen;
pub mod sysreg;
pub mod tally;
mod trapped;
mod undescribed;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::addr::{Ipa, Region};
use crate::device::bus::Bus;
use crate::device::doorbell::Doorbell;
use crate::firmware::entropy::Entropy;
use crate::firmware::smccc::Mitigations;
use crate::host::share::Lent;
use crate::machine::{CpuId, Machine, Space};
use crate::manifest::{OnBadAccess, OnCrash, OnReboot};
use crate::memory::Stage2;
use crate::monitor::agent;
use crate::sched::VmId;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use crate::sync::{SpinMutex, SpinMutexGuard, TicketMutex};
use crate::time::Ticks;
use crate::vcpu::{Vcpu, VcpuId};
use crate::vgic::{GicVersion, IntId, Notify, Vgic};
use crate::virtio::ram::SharedRam;
use crate::virtio::vsock::sockets::Plugged;

use balloon::VmBalloon;
pub use handle::{Next, Outcome};
use lifecycle::Lifecycle;
pub use lifecycle::{Sequel, Status, Stop};
use ptimer::PhysicalTimer;
use tally::Tally;

/// What another CPU asks of a vCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// Look at your interrupts, and at whether your VM is being stopped.
    Sync = 1,
    /// Begin again, out of reset.
    Start = 2,
}

/// The requests a vCPU found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Requests {
    /// [`Request::Sync`] was among them.
    pub sync: bool,
    /// [`Request::Start`] was among them.
    pub start: bool,
}

/// A vCPU as other CPUs see it.
struct VcpuSlot {
    /// Bits of [`Request`].
    requests: AtomicU8,
    /// The CPU that runs it (+ 1; 0: none), from before its guest is entered until after.
    running: AtomicU8,
    /// The CPU whose run queue it belongs to; changed while both queues concerned are locked.
    home: AtomicU8,
    tally: Arc<Tally>,
    /// Its state, while no CPU has it loaded.
    parked: TicketMutex<Option<Box<Vcpu>>>,
    /// A copy of its registers, on request, while a CPU has it.
    snapshot: snapshot::Snapshot,
}

/// What the stage-2 hardware is told of a VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Regime {
    /// `VTTBR_EL2`.
    pub vttbr: u64,
    /// `VTCR_EL2`.
    pub vtcr: u64,
}

/// One virtual machine.
pub struct Vm {
    id: VmId,
    name: String,
    vcpus: Box<[VcpuSlot]>,
    /// No ticket lock: the VM's own vCPUs are nearly all who wait for it, for some hundred instructions, with each timer
    /// interrupt. Where CPUs are threads of an emulator on fewer real ones, a queue of waiters stands still whenever the
    /// thread of the next one does; a guest with four vCPUs hardly booted.
    vgic: Box<SpinMutex<Vgic>>,
    gic_version: GicVersion,
    bus: Bus,
    /// The console device's bell, where it has one.
    console: Option<Doorbell>,
    /// The way to its agent, where it has one.
    agent: Option<agent::Link>,
    /// Its socket device, where it has one.
    sockets: Option<Plugged>,
    /// What is in the first virtio slots.
    virtio: Vec<String>,
    disks: Vec<disks::VmDisk>,
    /// What the machine's disks have of its memory.
    lent: Arc<Lent>,
    /// How much memory was taken for those, in bytes.
    disk_memory: u64,
    assigned: assigned::Assigned,
    /// Its RAM, from its first start on.
    memory: SharedRam,
    stolen: stolen::StolenTime,
    stage2: Arc<TicketMutex<Stage2>>,
    /// What is known of its balloon, if it has one.
    balloon: Option<VmBalloon>,
    regime: Regime,
    lifecycle: TicketMutex<Lifecycle>,
    timekeeper: AtomicU8,
    on_crash: OnCrash,
    on_reboot: OnReboot,
    on_bad_access: OnBadAccess,
    /// How much memory was taken for what is not its RAM, in bytes.
    tables: AtomicU64,
    heap: AtomicU64,
    /// How often it was reset.
    resets: AtomicU32,
    /// Counts the resets; see [`Vm::incarnation`].
    incarnation: AtomicU32,
    /// It stopped for good.
    stopped: AtomicBool,
    /// When the next reset may take effect, on the system counter.
    next_reset: AtomicU64,
    /// How long after a reset the next one takes effect.
    reset_interval: Ticks,
    /// When it began last after a crash, on the system counter, and how often it has crashed without having run for long.
    began: AtomicU64,
    crashes: AtomicU8,
    /// The vCPU that crashed (+ 1; 0: none) and whose registers are to be told.
    culprit: AtomicU8,
    /// How often it was said that the guest does what cannot be emulated.
    complaints: AtomicU8,
    /// See [`Vm::traps_wait`].
    traps_wait: AtomicBool,
    /// It is held.
    paused: AtomicBool,
    /// It is to be taken apart once it has stopped.
    doomed: AtomicBool,
    /// How many CPUs have a vCPU's registers loaded.
    on_cpus: AtomicU32,
    /// Not 0 while a stop is under way.
    stopping: AtomicU8,
    /// `CNTVOFF_EL2`: virtual time is the counter less this.
    counter_offset: AtomicU64,
    /// Which vCPU ran last on each CPU (+ 1; 0: none), because of their common VMID.
    last_on: Box<[AtomicU8]>,
    id_registers: idregs::IdRegs,
    mitigations: Mitigations,
    entropy: TicketMutex<Option<Entropy>>,
    /// What the VM is started from again after a reset.
    source: loading::Source,
    /// What comes before the boot vCPU's first instruction, and how far it is.
    loading: TicketMutex<loading::Loading>,
}

impl Vm {
    /// Its place in the bundle.
    pub const fn id(&self) -> VmId {
        self.id
    }

    /// Its name in the manifest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many vCPUs it has, 1 to [`crate::vcpu::MAX_VCPUS`].
    pub fn vcpu_count(&self) -> u8 {
        u8::try_from(self.vcpus.len()).unwrap_or(u8::MAX)
    }

    /// A vCPU belongs to the run queue of `cpu` from now on. Once the VM runs: with that queue, and the
    /// one it belonged to, locked.
    pub fn assign(&self, vcpu: VcpuId, cpu: CpuId) {
        if let Some(slot) = self.vcpus.get(vcpu.index()) {
            slot.home.store(cpu.0, Ordering::Release);
        }
    }

    /// Whether its vCPUs' `WFI` and `WFE` come to EL2 also where nobody else could use the CPU.
    pub fn traps_wait(&self) -> bool {
        self.traps_wait.load(Ordering::Relaxed)
    }

    /// See [`Vm::traps_wait`]. A CPU that has one of its vCPUs loaded finds out when it looks at that
    /// vCPU's requests.
    pub fn set_traps_wait(&self, traps: bool) {
        self.traps_wait.store(traps, Ordering::Relaxed);
    }

    /// A vCPU's exits; `None` when the VM has no such vCPU.
    pub fn tally(&self, vcpu: VcpuId) -> Option<&Arc<Tally>> {
        self.vcpus.get(vcpu.index()).map(|slot| &slot.tally)
    }

    /// The CPU that runs a vCPU; `None` when the VM has no such vCPU.
    pub fn home(&self, vcpu: VcpuId) -> Option<CpuId> {
        self.vcpus.get(vcpu.index()).map(|slot| CpuId(slot.home.load(Ordering::Acquire)))
    }

    /// So much memory was taken for what is not its RAM, in bytes.
    pub(crate) fn add_tables(&self, bytes: u64) {
        self.tables.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How much memory was taken for what is not its RAM, in bytes: its translation tables.
    pub fn table_size(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }

    /// So much of the hypervisor's heap was taken for it, in bytes.
    pub(crate) fn add_heap(&self, bytes: u64) {
        self.heap.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How much of the hypervisor's heap was taken when it was made, in bytes: vCPUs, interrupt controller,
    /// devices. What others took at that moment may be among it.
    pub fn heap_size(&self) -> u64 {
        self.heap.load(Ordering::Relaxed)
    }

    /// How often it was reset.
    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::Relaxed)
    }

    /// How much RAM it has, in bytes.
    pub fn memory_size(&self) -> u64 {
        self.source.ram.size()
    }

    /// The window of each of its devices, and its interrupt.
    pub fn devices(&self) -> impl Iterator<Item = (Region<Ipa>, Option<IntId>)> {
        self.bus.windows()
    }

    /// What the device is called whose window begins at `ipa`.
    pub fn device_name(&self, ipa: Ipa) -> &str {
        let slot =
            ipa.offset_from(layout::VIRTIO.base).map(|offset| offset / layout::VIRTIO_STRIDE);
        let slot = slot.and_then(|slot| usize::try_from(slot).ok());
        let name = slot.and_then(|slot| self.virtio.get(slot)).map(String::as_str);
        name.unwrap_or_else(|| layout::device_name(ipa))
    }

    /// The way to its agent, where its manifest wants one.
    pub const fn agent(&self) -> Option<&agent::Link> {
        self.agent.as_ref()
    }

    /// The VM's interrupt controller.
    pub fn vgic(&self) -> &SpinMutex<Vgic> {
        &self.vgic
    }

    /// Which incarnation of the VM this is. Registers that a CPU still holds of an earlier one are
    /// nobody's.
    pub fn incarnation(&self) -> u32 {
        self.incarnation.load(Ordering::Acquire)
    }

    /// Which CPU keeps time for the VM's devices from now on. Whoever has it so looks when they are due.
    pub fn set_timekeeper(&self, cpu: CpuId) {
        self.timekeeper.store(cpu.0, Ordering::Relaxed);
        fence(Ordering::SeqCst); // who has asked before for the CPU has made its device due before that is looked at
    }

    /// `cpu` is about to enter the vCPU's guest, or has left it for more than a moment (`None`). It looks at the
    /// vCPU's requests after that before anything else.
    pub fn set_running(&self, vcpu: VcpuId, cpu: Option<CpuId>) {
        if let Some(slot) = self.vcpus.get(vcpu.index()) {
            slot.running.store(cpu.map_or(0, |cpu| cpu.0 + 1), Ordering::SeqCst);
        }
    }

    /// The CPU that runs the vCPU's guest. Asked after [`Self::post`]: when kicked, that CPU sees the request.
    pub fn runs_on(&self, vcpu: VcpuId) -> Option<CpuId> {
        let running = self.vcpus.get(vcpu.index())?.running.load(Ordering::SeqCst);
        running.checked_sub(1).map(CpuId)
    }

    /// Leave a request with a vCPU. Its CPU sees it before the next entry, once woken or kicked.
    pub fn post(&self, vcpu: VcpuId, request: Request) {
        if let Some(slot) = self.vcpus.get(vcpu.index()) {
            slot.requests.fetch_or(request as u8, Ordering::SeqCst);
        }
    }

    /// Whether a vCPU has requests to look at.
    pub fn has_requests(&self, vcpu: VcpuId) -> bool {
        self.vcpus.get(vcpu.index()).is_some_and(|slot| slot.requests.load(Ordering::Acquire) != 0)
    }

    /// Whether a vCPU is to begin again.
    pub fn is_to_start(&self, vcpu: VcpuId) -> bool {
        self.vcpus
            .get(vcpu.index())
            .is_some_and(|slot| slot.requests.load(Ordering::Acquire) & Request::Start as u8 != 0)
    }

    /// Take a vCPU's requests; its CPU sees to all of them now.
    #[inline]
    pub fn take_requests(&self, vcpu: VcpuId) -> Requests {
        let bits =
            self.vcpus.get(vcpu.index()).map_or(0, |slot| slot.requests.swap(0, Ordering::SeqCst));
        Requests { sync: bits & Request::Sync as u8 != 0, start: bits & Request::Start as u8 != 0 }
    }

    /// Leave requests with a vCPU again that has not been able to see to them.
    pub fn give_back(&self, vcpu: VcpuId, requests: Requests) {
        for (asked, request) in [(requests.sync, Request::Sync), (requests.start, Request::Start)] {
            if asked {
                self.post(vcpu, request);
            }
        }
    }

    /// A vCPU's state goes to the CPU that is about to load it.
    pub fn resume_vcpu(&self, vcpu: VcpuId) -> Option<Box<Vcpu>> {
        self.vcpus.get(vcpu.index())?.parked.lock().take()
    }

    /// A vCPU's state comes back from the CPU that had it loaded.
    pub fn park_vcpu(&self, vcpu: VcpuId, state: Box<Vcpu>) {
        if let Some(slot) = self.vcpus.get(vcpu.index()) {
            *slot.parked.lock() = Some(state);
        }
    }

    /// What `cpu` needs to know to load `vcpu`. `trap_wait`: see [`Space`].
    pub fn space(&self, vcpu: VcpuId, cpu: CpuId, trap_wait: bool) -> Space {
        let me = vcpu.0 + 1;
        let last = self.last_on.get(cpu.index()).map_or(0, |last| last.swap(me, Ordering::AcqRel));
        Space {
            vttbr: self.regime.vttbr,
            vtcr: self.regime.vtcr,
            counter_offset: self.counter_offset.load(Ordering::Acquire),
            mpidr: vcpu.mpidr(),
            trap_wait,
            stale_tlb: last != me,
        }
    }

    /// The VM's virtual time at `now`.
    pub fn virtual_now(&self, now: Ticks) -> Ticks {
        Ticks(now.0.wrapping_sub(self.counter_offset.load(Ordering::Acquire)))
    }

    /// Set an interrupt's input line on behalf of the running vCPU `me`, which has to look at its
    /// interrupts also when one of them is withdrawn.
    fn drive(&self, me: VcpuId, irq: IntId, level: bool) -> Notify {
        let mut vgic = self.vgic.lock();
        let notify = vgic.set_level(me, irq, level);
        if vgic.wants_sync(me) { notify | Notify::only(me) } else { notify }
    }

    /// Bring the timer lines of the loaded vCPU up to date. It looks at its interrupts next, so nobody
    /// has to be told.
    pub fn sample_timers<M: Machine>(
        &self,
        machine: &M,
        me: VcpuId,
        vcpu: &Vcpu,
    ) -> SpinMutexGuard<'_, Vgic> {
        let asserted = vcpu.physical_timer.output(self.virtual_now(machine.now()));
        let mut vgic = self.vgic.lock();
        let _ = vgic.set_level(me, layout::PHYSICAL_TIMER_IRQ, asserted);
        if !machine.virtual_timer_asserted() {
            let _ = vgic.set_level(me, layout::VIRTUAL_TIMER_IRQ, false);
        }
        vgic
    }

    /// When one of a vCPU's timers fires next, its registers being out of the CPU.
    pub fn deadline(&self, me: VcpuId, vcpu: &Vcpu, now: Ticks) -> Option<Ticks> {
        let (ctl, cval) = (vcpu.el1.cntv_ctl_el0, vcpu.el1.cntv_cval_el0);
        let virt = PhysicalTimer::from_registers(ctl, cval);
        let offset = self.counter_offset.load(Ordering::Acquire);
        let vgic = self.vgic.lock();
        // A timer whose interrupt is on its way already waits for the guest, not for time.
        let virt = virt
            .deadline(now, offset)
            .filter(|_| !vgic.holds_physical(me, layout::VIRTUAL_TIMER_IRQ));
        let physical = vcpu
            .physical_timer
            .deadline(now, offset)
            .filter(|_| !vgic.is_pending(me, layout::PHYSICAL_TIMER_IRQ));
        virt.into_iter().chain(physical).min()
    }

    /// When the emulated physical timer of a loaded vCPU fires next.
    pub fn physical_timer_deadline(&self, vcpu: &Vcpu, now: Ticks) -> Option<Ticks> {
        vcpu.physical_timer.deadline(now, self.counter_offset.load(Ordering::Acquire))
    }

    /// The CPU that keeps time for the VM's devices; `None` while no time passes for it.
    pub fn timekeeper(&self) -> Option<CpuId> {
        fence(Ordering::SeqCst); // a device is due before it is asked whom that concerns
        let cpu = CpuId(self.timekeeper.load(Ordering::Relaxed));
        (!self.has_stopped() && !self.is_paused()).then_some(cpu)
    }

    /// When a device of the VM has something to do by itself.
    #[inline]
    pub fn device_deadline(&self) -> Option<Ticks> {
        let offset = self.counter_offset.load(Ordering::Acquire);
        self.bus.deadline().map(|at| at.saturating_add(Ticks(offset)))
    }
}
