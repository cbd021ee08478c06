//! What all CPUs share: the VMs and the run queues, and the ways from an event to the CPU that has
//! to act on it.
//!
//! Lock order: the stock, a VM's schedule, the admissions, a VM's `lifecycle`, a run queue; of two run
//! queues, the one of the CPU with the lower number first. A slot's lock and a run queue's lock are held for
//! a short time, never across anything but another run queue's.

mod clock;
mod creation;
mod devices;
mod lifecycle;
mod lines;
mod memory;
mod provision;
mod reaper;
mod schedule;
mod stock;
pub mod watchdog;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::device::doorbell::Doorbells;
use crate::machine::{CpuId, Machine};
use crate::manifest::VmConfig;
use crate::memory::SharedPool;
use crate::sched::policy::Policy;
use crate::sched::{Admission, Balance, Entity, Retired, RunQueue, Timing, VmId, Woken};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{TicketMutex, Word};
use crate::time::{Frequency, Ticks};
use crate::vcpu::VcpuId;
use crate::vgic::{IntId, Notify};
use crate::vm::{Request, Vm};

pub use clock::{Clock, INTERRUPT_KINDS, Phase};
use devices::DeviceTimes;
use lifecycle::Population;
pub use lifecycle::{NotLoaded, Progress, Refusal};
use lines::Askers;
pub use lines::Line;
use schedule::Schedule;
pub use stock::{HeapAccess, HeapReport, MakeLine, MemoryReport, Stock};

/// A time slice, in microseconds: short enough to type against a spinning neighbour.
const SLICE_MICROS: u64 = 5_000;

/// The VMs of the bundle and the CPUs they share.
pub struct Hypervisor {
    /// One for each VM of the bundle; empty while that VM does not exist.
    vms: Box<[TicketMutex<Option<Arc<Vm>>>]>,
    queues: Box<[TicketMutex<RunQueue>]>,
    clocks: Box<[Clock]>,
    /// For each CPU, when there is something to do for devices of the VMs whose time it keeps.
    device_times: Box<[DeviceTimes]>,
    population: Population,
    /// What VMs are made from.
    stock: TicketMutex<Stock>,
    /// The frame pool, which is also the stock's.
    pool: Arc<SharedPool>,
    /// VMs that are to be taken apart once no CPU holds anything of them.
    doomed: TicketMutex<Vec<Arc<Vm>>>,
    /// How many they are.
    doomed_count: AtomicUsize,
    /// A CPU could not look at them, as another one had the stock.
    word: Word,
    /// For each CPU, whether it has to look at more than the requests of the vCPU it runs.
    called: Box<[AtomicBool]>,
    /// Which devices something came for from outside their guests.
    doorbells: Arc<Doorbells>,
    /// Who wants to be answered by the monitor.
    askers: Askers,
    configs: Box<[VmConfig]>,
    schedules: Box<[TicketMutex<Schedule>]>,
    admission: TicketMutex<Admission>,
    timing: Timing,
    frequency: Frequency,
    interrupts: [(IntId, &'static str); INTERRUPT_KINDS],
    /// The interrupts of devices that VMs have for their own, and whose they are.
    owners: Box<[(IntId, VmId)]>,
}

impl Hypervisor {
    /// The VMs of `stock`'s bundle, of which none exists yet, on as many CPUs as it names.
    pub fn new(stock: Stock) -> Self {
        let frequency = stock.host().frequency;
        let cpus = usize::from(stock.host().cpus.max(1));
        let configs: Box<[_]> = stock.configs().into();
        let schedule = |config: &VmConfig| TicketMutex::new(Schedule::new(config.policy));
        let schedules = configs.iter().map(schedule).collect();
        let timing = Timing::of_slice(frequency.micros(SLICE_MICROS));
        let balance = Arc::new(Balance::new(cpus, timing));
        let interrupts = stock.host().interrupts;
        let owners = stock.host().owners().collect();
        let (doorbells, pool) = (stock.doorbells().clone(), stock.pool().clone());
        let askers = Askers::new(stock.sockets().lines().clone());
        let queue = |cpu| TicketMutex::new(RunQueue::new(CpuId(cpu), balance.clone()));
        Self {
            vms: stock.configs().iter().map(|_| TicketMutex::default()).collect(),
            queues: (0..=u8::MAX).take(cpus).map(queue).collect(),
            clocks: (0..cpus).map(|_| Clock::default()).collect(),
            device_times: (0..cpus).map(|_| DeviceTimes::default()).collect(),
            population: Population::new(stock.machine().when_idle),
            stock: TicketMutex::new(stock),
            pool,
            // A number has no second VM before its first is taken apart.
            doomed: TicketMutex::new(Vec::with_capacity(configs.len())),
            doomed_count: AtomicUsize::new(0),
            word: Word::new(),
            called: (0..cpus).map(|_| AtomicBool::new(false)).collect(),
            doorbells,
            askers,
            configs,
            schedules,
            admission: TicketMutex::new(Admission::new(cpus)),
            timing,
            frequency,
            interrupts,
            owners,
        }
    }

    /// The VM with this number, if it exists.
    pub fn vm(&self, id: VmId) -> Option<Arc<Vm>> {
        self.vms.get(id.index())?.lock().clone()
    }

    /// All VMs that exist.
    pub fn vms(&self) -> impl Iterator<Item = Arc<Vm>> {
        self.vms.iter().filter_map(|slot| slot.lock().clone())
    }

    /// What the bundle says of each VM.
    pub fn configs(&self) -> impl Iterator<Item = (VmId, &VmConfig)> {
        (0..).map(VmId).zip(&self.configs)
    }

    /// How a VM is scheduled, or would be.
    pub fn policy(&self, id: VmId) -> Policy {
        self.schedules.get(id.index()).map_or_else(Policy::default, |it| it.lock().policy)
    }

    /// The counter's frequency.
    pub const fn frequency(&self) -> Frequency {
        self.frequency
    }

    /// The hypervisor's own interrupts and what they are called, one of each kind that
    /// [`Clock::counts`] tells.
    pub fn interrupts(&self) -> &[(IntId, &'static str)] {
        &self.interrupts
    }

    /// How many VMs the bundle has.
    pub fn vm_count(&self) -> usize {
        self.vms.len()
    }

    /// Whether the last VM has stopped, and nothing more is to run.
    pub fn has_finished(&self) -> bool {
        self.population.has_finished()
    }

    /// How many VMs exist and have not stopped.
    pub fn alive(&self) -> u32 {
        self.population.count()
    }

    /// How many CPUs run guests.
    pub fn cpus(&self) -> usize {
        self.queues.len()
    }

    /// What a CPU spends its time with.
    #[inline]
    pub fn clock(&self, cpu: CpuId) -> &Clock {
        &self.clocks[cpu.index()]
    }

    /// A CPU's run queue.
    #[inline]
    pub fn queue(&self, cpu: CpuId) -> &TicketMutex<RunQueue> {
        &self.queues[cpu.index()]
    }

    /// Whether a vCPU of a VM could run, and waits for a CPU.
    pub fn is_kept_waiting(&self, id: VmId) -> bool {
        self.vm(id).is_some_and(|vm| {
            (0..vm.vcpu_count()).map(VcpuId).any(|vcpu| {
                let entity = Entity { vm: id, vcpu };
                self.at_home(&vm, vcpu, |queue| queue.is_kept_waiting(entity))
                    .is_some_and(|(_, kept)| kept)
            })
        })
    }

    /// Whose device's interrupt this is.
    pub fn owner(&self, intid: IntId) -> Option<VmId> {
        self.owners.iter().find(|(owned, _)| *owned == intid).map(|(_, vm)| *vm)
    }

    /// The interrupt of a device that a VM has for its own has fired on this CPU.
    pub fn assigned_fired<M: Machine>(&self, machine: &mut M, intid: IntId) {
        let owner = self.owner(intid).and_then(|vm| self.vm(vm));
        match owner.filter(|vm| !vm.has_stopped()) {
            Some(vm) => {
                let notify = vm.assigned_fired(intid);
                self.notify(machine, &vm, notify);
            }
            // It was on its way when the VM ended.
            None => machine.close_interrupt(intid),
        }
    }

    /// Make `cpu` look at everything: its run queue, whether its vCPU is held or stops, who wants to see registers.
    pub fn call<M: Machine>(&self, machine: &mut M, cpu: CpuId) {
        self.called[cpu.index()].store(true, Ordering::Release);
        machine.kick(cpu);
    }

    /// Whether `cpu` has been called and has not begun to look.
    pub fn is_called(&self, cpu: CpuId) -> bool {
        self.called[cpu.index()].load(Ordering::Acquire)
    }

    /// `cpu` begins to look. It is between two steps, and has looked up nothing of any guest's RAM.
    pub fn heed_calls(&self, cpu: CpuId) {
        if self.called[cpu.index()].swap(false, Ordering::AcqRel) {
            self.pool.heed(cpu);
        }
    }

    /// Let the vCPUs in `notify` look at their interrupts, wherever they are. Returns whether one of
    /// them waits for this CPU now.
    #[inline]
    pub fn notify<M: Machine>(&self, machine: &mut M, vm: &Vm, notify: Notify) -> bool {
        let mut queued = false;
        for vcpu in notify.iter() {
            queued |= self.ask_to_sync(machine, vm, vcpu);
        }
        queued
    }

    /// Ask one vCPU to look at its interrupts. Returns whether it waits for this CPU now.
    fn ask_to_sync<M: Machine>(&self, machine: &mut M, vm: &Vm, vcpu: VcpuId) -> bool {
        vm.post(vcpu, Request::Sync);
        match vm.runs_on(vcpu) {
            // Whatever that CPU does next, it looks at requests first: no need to go by its run queue.
            Some(cpu) if cpu != machine.id() => {
                machine.kick(cpu);
                false
            }
            // The exit that is being dealt with is its own: it has to leave for the requests to be looked at.
            Some(_) => true,
            None => self.wake(machine, vm, vcpu),
        }
    }

    /// See to it that a vCPU looks at its requests, whatever it does. Returns whether it waits for this CPU now.
    pub(super) fn wake<M: Machine>(&self, machine: &mut M, vm: &Vm, vcpu: VcpuId) -> bool {
        let (now, entity) = (machine.now(), Entity { vm: vm.id(), vcpu });
        let wake = |queue: &mut RunQueue| (queue.wake(entity, now), queue.invite(now));
        let Some((cpu, (woken, guest))) = self.at_home(vm, vcpu, wake) else { return false };
        if let Some(guest) = guest {
            self.call(machine, guest);
        }
        if woken != Woken::Nothing && cpu != machine.id() {
            self.call(machine, cpu);
        }
        woken == Woken::Queued && cpu == machine.id()
    }

    /// A vCPU that was off waits for its CPU from now on, unless its VM is being stopped.
    pub fn start<M: Machine>(&self, machine: &mut M, vm: &Vm, vcpu: VcpuId) {
        if vm.home(vcpu).is_some() && vm.vcpu_started() {
            self.hand_over(machine, vm, vcpu, None);
        }
    }

    /// A vCPU that counts as started waits for its CPU, but not before `at`.
    fn hand_over<M: Machine>(&self, machine: &mut M, vm: &Vm, vcpu: VcpuId, at: Option<Ticks>) {
        let now = machine.now();
        let at = at.filter(|at| *at > now);
        let entity = Entity { vm: vm.id(), vcpu };
        let start = |queue: &mut RunQueue| {
            // With the queue locked, as whoever turns the vCPU off looks for it: else that one could start it, it could
            // run and be turned off again, and would go on behind that from here.
            vm.post(vcpu, Request::Start);
            let started = queue.start_at(entity, at, now);
            // Who pauses the VM sets the flag first and sees to the queues then.
            if vm.is_paused() {
                let _ = queue.pause(entity, now);
            }
            // Who stops it likewise, and may have found it off: it would not leave before `at`.
            let leaves = vm.is_stopping() && queue.retire(entity, now) == Retired::Off;
            (started, leaves, queue.invite(now))
        };
        let Some((cpu, (started, leaves, guest))) = self.at_home(vm, vcpu, start) else { return };
        if leaves {
            return self.retired(machine, vm, vcpu);
        }
        if started && cpu != machine.id() {
            self.call(machine, cpu);
        }
        if let Some(guest) = guest {
            self.call(machine, guest);
        }
    }

    /// The earliest moment at which `cpu` has something to do for a vCPU that is not loaded, or for a
    /// device.
    pub fn next_event(&self, cpu: CpuId) -> Option<Ticks> {
        let devices = self.device_times.get(cpu.index()).and_then(DeviceTimes::next);
        self.queue(cpu).lock().next_event().into_iter().chain(devices).min()
    }
}
