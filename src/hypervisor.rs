//! What all CPUs share: the VMs and the run queues, and the ways from an event to the CPU that has
//! to act on it.
//!
//! Lock order: a VM's `lifecycle`, then a run queue; of two run queues, the one of the CPU with the lower
//! number first. A run queue's lock is held for a short time, never across anything but another one's.

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
    pub fn new(vms: Vec<Vm>, cpus: usize, frequency: Frequency) -> Self {
        let timing = Timing::of_slice(frequency.micros(SLICE_MICROS));
        let balance = Arc::new(Balance::new(cpus.max(1), timing));
        let queue = |cpu| TicketMutex::new(RunQueue::new(cpu, balance.clone()));
        let all = (0..=u8::MAX).map(CpuId).take(cpus.max(1));
        let mut queues: Vec<_> = all.map(queue).collect();
        let mut next = 0;
        for vm in &vms {
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
        vm.post(vcpu, request);
        let (now, entity) = (machine.now(), Entity { vm: vm.id(), vcpu });
        let wake = |queue: &mut RunQueue| (queue.wake(entity, now), queue.invite(now));
        let Some((cpu, (woken, guest))) = self.at_home(vm, vcpu, wake) else { return false };
        if let Some(guest) = guest {
            machine.kick(guest);
        }
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
        if vm.home(vcpu).is_none() || !vm.vcpu_started() {
            return;
        }
        // In this order: a CPU that is just turning the vCPU off looks for the request afterwards.
        vm.post(vcpu, Request::Start);
        let now = machine.now();
        let at = at.filter(|at| *at > now);
        let entity = Entity { vm: vm.id(), vcpu };
        let start = |queue: &mut RunQueue| (queue.start_at(entity, at, now), queue.invite(now));
        let Some((cpu, (started, guest))) = self.at_home(vm, vcpu, start) else { return };
        if started && cpu != machine.id() {
            machine.kick(cpu);
        }
        if let Some(guest) = guest {
            machine.kick(guest);
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
            let (now, entity) = (machine.now(), Entity { vm: vm.id(), vcpu });
            let retire = |queue: &mut RunQueue| queue.retire(entity, now);
            let Some((_, retired)) = self.at_home(vm, vcpu, retire) else { continue };
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

    /// Choose what this CPU runs, from among its own vCPUs or others'.
    pub fn pick<M: Machine>(&self, machine: &mut M) -> Option<Entity> {
        let (cpu, now) = (machine.id(), machine.now());
        self.fetch(machine, cpu, now);
        let picked = self.queue(cpu).lock().pick(now);
        if picked.is_some() {
            return picked;
        }
        self.fetch(machine, cpu, now);
        self.queue(cpu).lock().pick(now)
    }

    /// Let another CPU come for who waits at this one, if one should.
    pub fn invite<M: Machine>(&self, machine: &mut M) {
        let (cpu, now) = (machine.id(), machine.now());
        let guest = self.queue(cpu).lock().invite(now);
        if let Some(guest) = guest {
            machine.kick(guest);
        }
    }

    /// Take over a vCPU that another CPU has for this one, if one has.
    fn fetch<M: Machine>(&self, machine: &mut M, cpu: CpuId, now: Ticks) {
        let source = self.queue(cpu).lock().source();
        let Some(source) = source.filter(|source| *source != cpu) else { return };
        let next = {
            let first = self.queue(cpu.min(source)).lock();
            let second = self.queue(cpu.max(source)).lock();
            let (mut to, mut from) = if cpu < source { (first, second) } else { (second, first) };
            let pulled = to.pull(&mut from, now);
            if let Some(entity) = pulled
                && let Some(vm) = self.vm(entity.vm)
            {
                // Before the locks go: who wakes it finds it where it is.
                vm.assign(entity.vcpu, cpu);
            }
            from.invite(now)
        };
        if let Some(next) = next {
            machine.kick(next);
        }
    }

    /// Do something with the run queue that a vCPU belongs to, whichever it is by now.
    fn at_home<T>(
        &self,
        vm: &Vm,
        vcpu: VcpuId,
        mut act: impl FnMut(&mut RunQueue) -> T,
    ) -> Option<(CpuId, T)> {
        loop {
            let cpu = vm.home(vcpu)?;
            let mut queue = self.queue(cpu).lock();
            if vm.home(vcpu) == Some(cpu) {
                return Some((cpu, act(&mut queue)));
            }
        }
    }

    /// The earliest moment at which `cpu` has something to do for a vCPU that is not loaded.
    pub fn next_event(&self, cpu: CpuId) -> Option<Ticks> {
        self.queue(cpu).lock().next_event()
    }
}
