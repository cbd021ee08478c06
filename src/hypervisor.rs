//! What all CPUs share: the VMs and the run queues, and the ways from an event to the CPU that has
//! to act on it.
//!
//! Lock order: a VM's `lifecycle`, then a run queue. A run queue's lock is held for a few
//! instructions, never across anything else.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::mutex::TicketMutex;

use crate::machine::{CpuId, Machine};
use crate::sched::policy::DEFAULT_WEIGHT;
use crate::sched::{Account, Balance, Entity, Retired, RunQueue, Terms, Timing, VmId, Woken};
use crate::time::{Frequency, Ticks};
use crate::vcpu::VcpuId;
use crate::vgic::Notify;
use crate::vm::{Request, Stop, Vm};

/// A time slice, in microseconds: short enough to type against a spinning neighbour.
const SLICE_MICROS: u64 = 5_000;

/// How long a guest's timer handler may take before an interrupt controller that forgets levels is made
/// to look again, in microseconds.
const NUDGE_MICROS: u64 = 500;

/// The VMs of the bundle and the CPUs they share.
pub struct Hypervisor {
    vms: Vec<Vm>,
    queues: Box<[TicketMutex<RunQueue>]>,
    /// VMs that have not stopped for good.
    alive: AtomicUsize,
    nudge_after: Ticks,
}

impl Hypervisor {
    /// Spread the vCPUs of `vms` over `cpus` CPUs, one after the other. They are all off.
    pub fn new(mut vms: Vec<Vm>, cpus: usize, frequency: Frequency) -> Self {
        let timing = Timing::of_slice(frequency.micros(SLICE_MICROS));
        let balance = Arc::new(Balance::new(cpus.max(1), timing));
        let queue = |cpu| TicketMutex::new(RunQueue::new(cpu, balance.clone()));
        let all = (0..=u8::MAX).map(CpuId).take(cpus.max(1));
        let mut queues: Vec<_> = all.map(queue).collect();
        let mut next = 0;
        for vm in &mut vms {
            let account = Arc::new(Account::new(DEFAULT_WEIGHT, None, timing.cap_period));
            for index in 0..vm.vcpu_count() {
                let (vcpu, cpu) = (VcpuId(index), CpuId(next));
                vm.assign(vcpu, cpu);
                if let Some(queue) = queues.get_mut(cpu.index()) {
                    let entity = Entity { vm: vm.id(), vcpu };
                    queue.get_mut().add(entity, account.clone(), Terms::default());
                }
                next = if cpu.index() + 1 < queues.len() { next + 1 } else { 0 };
            }
        }
        let alive = AtomicUsize::new(vms.len());
        let nudge_after = frequency.micros(NUDGE_MICROS);
        Self { vms, queues: queues.into_boxed_slice(), alive, nudge_after }
    }

    /// Start every VM's boot vCPU.
    pub fn start_all<M: Machine>(&self, machine: &mut M) {
        for vm in &self.vms {
            self.start(machine, vm, VcpuId(0));
        }
    }

    /// See [`Machine::forgets_levels`].
    pub const fn nudge_after(&self) -> Ticks {
        self.nudge_after
    }

    /// The VM with this number.
    pub fn vm(&self, id: VmId) -> Option<&Vm> {
        self.vms.get(id.index())
    }

    /// All VMs.
    pub fn vms(&self) -> &[Vm] {
        &self.vms
    }

    /// Whether every VM has stopped for good.
    pub fn all_stopped(&self) -> bool {
        self.alive.load(Ordering::Acquire) == 0
    }

    /// A CPU's run queue.
    pub fn queue(&self, cpu: CpuId) -> &TicketMutex<RunQueue> {
        &self.queues[cpu.index()]
    }

    /// Let the vCPUs in `notify` look at their interrupts, wherever they are. Returns whether one of
    /// them waits for this CPU now.
    pub fn notify<M: Machine>(&self, machine: &mut M, vm: &Vm, notify: Notify) -> bool {
        let mut queued = false;
        for vcpu in notify.iter() {
            queued |= self.request(machine, vm, vcpu, Request::Sync);
        }
        queued
    }

    /// Leave a request with a vCPU and see to it that its CPU looks at it. Returns whether it waits for
    /// this CPU now.
    pub fn request<M: Machine>(
        &self,
        machine: &mut M,
        vm: &Vm,
        vcpu: VcpuId,
        request: Request,
    ) -> bool {
        let Some(cpu) = vm.home(vcpu) else { return false };
        vm.post(vcpu, request);
        let now = machine.now();
        let woken = self.queue(cpu).lock().wake(Entity { vm: vm.id(), vcpu }, now);
        if woken != Woken::Nothing && cpu != machine.id() {
            machine.kick(cpu);
        }
        woken == Woken::Queued && cpu == machine.id()
    }

    /// A vCPU that was off waits for its CPU from now on, unless its VM is being stopped.
    pub fn start<M: Machine>(&self, machine: &mut M, vm: &Vm, vcpu: VcpuId) {
        self.start_at(machine, vm, vcpu, None);
    }

    /// The same, but not before `at`.
    fn start_at<M: Machine>(&self, machine: &mut M, vm: &Vm, vcpu: VcpuId, at: Option<Ticks>) {
        let Some(cpu) = vm.home(vcpu) else { return };
        if !vm.vcpu_started() {
            return;
        }
        // In this order: a CPU that is just turning the vCPU off looks for the request afterwards.
        vm.post(vcpu, Request::Start);
        let now = machine.now();
        let at = at.filter(|at| *at > now);
        let started = self.queue(cpu).lock().start_at(Entity { vm: vm.id(), vcpu }, at, now);
        if started && cpu != machine.id() {
            machine.kick(cpu);
        }
    }

    /// Begin to stop a VM: turn off every vCPU that is not on a CPU, and make the CPUs of the others
    /// look. Whoever takes the last one off completes the stop.
    pub fn begin_stop<M: Machine>(&self, machine: &mut M, vm: &Vm, stop: Stop) {
        if !vm.begin_stop(stop) {
            return;
        }
        for index in 0..vm.vcpu_count() {
            let vcpu = VcpuId(index);
            let Some(cpu) = vm.home(vcpu) else { continue };
            let now = machine.now();
            let retired = self.queue(cpu).lock().retire(Entity { vm: vm.id(), vcpu }, now);
            match retired {
                Retired::Off => self.retired(machine, vm),
                Retired::Running => {
                    self.request(machine, vm, vcpu, Request::Sync);
                }
                Retired::WasOff => {}
            }
        }
    }

    /// A CPU has taken a vCPU off for good; the last one of a VM completes its stop.
    pub fn retired<M: Machine>(&self, machine: &mut M, vm: &Vm) {
        match vm.vcpu_retired() {
            None => {}
            Some(Stop::Reset) => {
                let at = vm.reboot(machine.now());
                self.start_at(machine, vm, VcpuId(0), Some(at));
            }
            // The CPU that ends the run may be asleep.
            Some(_) if self.alive.fetch_sub(1, Ordering::AcqRel) == 1 => machine.kick(CpuId(0)),
            Some(_) => {}
        }
    }

    /// The earliest moment at which `cpu` has something to do for a vCPU that is not loaded.
    pub fn next_event(&self, cpu: CpuId) -> Option<Ticks> {
        self.queue(cpu).lock().next_event()
    }
}
