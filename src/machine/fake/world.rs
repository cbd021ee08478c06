//! The world around scripted CPUs: time, interrupt inputs, the guests' programs, the record.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::mutex::TicketMutex;

use super::Op;
use crate::machine::CpuId;
use crate::time::Ticks;
use crate::vcpu::VcpuId;
use crate::vgic::IntId;

/// Something that was seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// A vCPU was loaded, with this program counter.
    Loaded(u64),
    /// The vCPU was unloaded.
    Unloaded,
    /// The CPU kicked another.
    Kicked(CpuId),
    /// The vCPU was given an exception, with this `ESR_EL1`.
    Injected(u64),
    /// The vCPU acknowledged an interrupt.
    Took(IntId),
    /// The vCPU came by [`Op::Mark`].
    Marked(u64),
    /// The trap of the EL1 virtual memory registers was turned on or off.
    Trapping(bool),
    /// The interrupt of a VM's own device was let through, or is no more.
    Opened(IntId, bool),
    /// A guest's deactivation was that of this physical interrupt.
    Deactivated(IntId),
}

/// An entry of the record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// When.
    pub at: Ticks,
    /// On which CPU.
    pub cpu: CpuId,
    /// VMID and vCPU that were loaded.
    pub vcpu: Option<(u8, VcpuId)>,
    /// What.
    pub seen: Seen,
}

/// The interrupt of a VM's own device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// It is not let through.
    Closed,
    Open,
    /// It was taken, and nobody has deactivated it yet: it does not come again before.
    Active,
}

/// A CPU's interrupt inputs from outside.
#[derive(Default)]
pub(super) struct Inputs {
    pub(super) kicked: AtomicBool,
    pub(super) devices: TicketMutex<VecDeque<IntId>>,
}

/// Why a CPU pauses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pause {
    /// For no reason of its own.
    Busy,
    /// It has nothing to do before it is [wanted](World::wanted), or that moment comes.
    Asleep(Option<Ticks>),
}

/// Is told before each call of the hypervisor to its CPU that it makes with no lock held, and before
/// each instruction of a guest. Other CPUs may run meanwhile.
pub type OnPause = dyn Fn(CpuId, Pause) + Send + Sync;

/// What the CPUs of a machine share: time, interrupt lines, the guests' programs, the record.
pub struct World {
    pub(super) clock: AtomicU64,
    pub(super) inputs: Box<[Inputs]>,
    pub(super) programs: TicketMutex<BTreeMap<(u8, u64), Op>>,
    pub(super) record: TicketMutex<Vec<Event>>,
    /// The interrupts of VMs' own devices.
    pub(super) assigned: TicketMutex<BTreeMap<IntId, Line>>,
    pub(super) forgets_levels: AtomicBool,
    pub(super) on_pause: Box<OnPause>,
}

impl World {
    /// A world of `cpus` CPUs.
    pub fn new(cpus: u8, on_pause: Box<OnPause>) -> Arc<Self> {
        Arc::new(Self {
            clock: AtomicU64::new(1000),
            inputs: (0..cpus).map(|_| Inputs::default()).collect(),
            programs: TicketMutex::default(),
            record: TicketMutex::default(),
            assigned: TicketMutex::default(),
            forgets_levels: AtomicBool::new(false),
            on_pause,
        })
    }

    /// Let the VM with this VMID find `ops` at `entry`.
    pub fn program(&self, vmid: u8, entry: u64, ops: &[Op]) {
        let places = (entry..).step_by(4).map(|pc| (vmid, pc));
        self.programs.lock().extend(places.zip(ops.iter().cloned()));
    }

    /// The interrupt controller forgets levels from now on: see
    /// [`ListRegisters::forgets_levels`](crate::vgic::ListRegisters::forgets_levels).
    pub fn forget_levels(&self) {
        self.forgets_levels.store(true, Ordering::Relaxed);
    }

    /// The time.
    pub fn now(&self) -> Ticks {
        Ticks(self.clock.load(Ordering::Relaxed))
    }

    /// Let time pass until `at`, if that is not over.
    pub fn advance(&self, at: Ticks) {
        self.clock.fetch_max(at.0, Ordering::Relaxed);
    }

    /// A device asserts its interrupt at a CPU, once.
    pub fn interrupt(&self, cpu: CpuId, intid: IntId) {
        self.inputs[cpu.index()].devices.lock().push_back(intid);
    }

    /// Whether another CPU or a device wants something of a CPU.
    pub fn wanted(&self, cpu: CpuId) -> bool {
        let inputs = &self.inputs[cpu.index()];
        inputs.kicked.load(Ordering::Relaxed) || self.next_of(&inputs.devices.lock()).is_some()
    }

    /// The place of the first interrupt that comes through: it is not one of a VM's own device that is active, or not let through.
    pub(super) fn next_of(&self, asserted: &VecDeque<IntId>) -> Option<usize> {
        let assigned = self.assigned.lock();
        let comes = |intid: &IntId| matches!(assigned.get(intid), None | Some(Line::Open));
        asserted.iter().position(comes)
    }

    /// What was seen so far.
    pub fn record(&self) -> Vec<Event> {
        self.record.lock().clone()
    }
}
