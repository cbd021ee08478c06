//! How VMs are scheduled: which run queue each vCPU belongs to, on what terms, and how they come from one
//! CPU to another.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Hypervisor, Refusal};
use crate::machine::{CpuId, Machine};
use crate::sched::policy::{Class, CpuSet, DEFAULT_WEIGHT, Policy, Wfi};
use crate::sched::{
    Account, Admission, AdmissionError, Entity, Reservation, RunQueue, Terms, Usage, VmId,
};
use crate::time::Ticks;
use crate::vcpu::VcpuId;
use crate::vm::Vm;

/// How one VM is scheduled.
pub(super) struct Schedule {
    /// What its user wants.
    pub(super) policy: Policy,
    /// While the VM exists.
    account: Option<Arc<Account>>,
    /// What each vCPU has reserved, and where.
    reserved: Vec<(CpuId, Reservation)>,
}

impl Schedule {
    pub(super) const fn new(policy: Policy) -> Self {
        Self { policy, account: None, reserved: Vec::new() }
    }
}

impl Hypervisor {
    /// Give each vCPU of a new VM to a run queue: with a reservation to the CPU that admits it, else to the
    /// CPU that has the fewest.
    pub(super) fn place(&self, vm: &mut Vm) -> Result<(), AdmissionError> {
        let Some(schedule) = self.schedules.get(vm.id().index()) else { return Ok(()) };
        let mut schedule = schedule.lock();
        let policy = schedule.policy;
        let reserved = self.admit(&mut self.admission.lock(), &policy, vm.vcpu_count())?;
        vm.set_traps_wait(policy.wfi == Wfi::Trap);
        let (weight, cap) = fair(&policy);
        let account = Arc::new(Account::new(weight, cap, self.timing.cap_period));
        for index in 0..vm.vcpu_count() {
            let vcpu = VcpuId(index);
            let admitted = reserved.get(vcpu.index()).copied();
            let count = |cpu: &CpuId| self.queue(*cpu).lock().len();
            let allowed = self.cpu_ids().filter(|cpu| policy.affinity.contains(*cpu));
            let fewest = || allowed.min_by_key(count).ok_or(AdmissionError::NoCpu);
            let cpu = admitted.map_or_else(fewest, |(cpu, _)| Ok(cpu))?;
            if index == 0 {
                vm.set_timekeeper(cpu);
            }
            vm.assign(vcpu, cpu);
            let entity = Entity { vm: vm.id(), vcpu };
            self.queue(cpu).lock().add(entity, account.clone(), terms(&policy, admitted));
        }
        (schedule.account, schedule.reserved) = (Some(account), reserved);
        Ok(())
    }

    /// A VM is gone: others can have what it had reserved.
    pub(super) fn unschedule(&self, id: VmId) {
        let Some(schedule) = self.schedules.get(id.index()) else { return };
        let mut schedule = schedule.lock();
        schedule.account = None;
        let mut admission = self.admission.lock();
        for (cpu, reservation) in schedule.reserved.drain(..) {
            admission.release(cpu, reservation);
        }
    }

    /// Schedule a VM by another policy from now on.
    ///
    /// # Errors
    /// [`Refusal::Admission`], and nothing has changed.
    pub fn set_policy<M: Machine>(
        &self,
        machine: &mut M,
        id: VmId,
        policy: Policy,
    ) -> Result<(), Refusal> {
        let schedule = self.schedules.get(id.index()).ok_or(Refusal::NoSuchVm)?;
        let mut schedule = schedule.lock();
        if !self.cpu_ids().any(|cpu| policy.affinity.contains(cpu)) {
            return Err(AdmissionError::NoCpu.into());
        }
        let Some((vm, account)) = self.vm(id).zip(schedule.account.clone()) else {
            schedule.policy = policy;
            return Ok(());
        };
        let mut admission = self.admission.lock();
        for (cpu, reservation) in &schedule.reserved {
            admission.release(*cpu, *reservation);
        }
        let reserved = self.admit(&mut admission, &policy, vm.vcpu_count());
        if reserved.is_err() {
            for (cpu, reservation) in &schedule.reserved {
                // There was room for it a moment ago, and the lock is still held.
                let _ = admission.admit(*reservation, CpuSet::EMPTY.with(*cpu));
            }
        }
        drop(admission);
        let reserved = reserved?;
        let (weight, cap) = fair(&policy);
        account.set_weight(weight);
        account.set_cap(cap);
        // Before the kicks.
        vm.set_traps_wait(policy.wfi == Wfi::Trap);
        for index in 0..vm.vcpu_count() {
            let vcpu = VcpuId(index);
            let terms = terms(&policy, reserved.get(vcpu.index()).copied());
            let (now, entity) = (machine.now(), Entity { vm: id, vcpu });
            let set = |queue: &mut RunQueue| {
                queue.set_terms(entity, terms, now);
                queue.invite(now)
            };
            let Some((cpu, guest)) = self.at_home(&vm, vcpu, set) else { continue };
            for cpu in [Some(cpu), guest].into_iter().flatten() {
                if cpu != machine.id() {
                    self.call(machine, cpu);
                }
            }
        }
        (schedule.policy, schedule.reserved) = (policy, reserved);
        Ok(())
    }

    /// Reserve what a policy asks for, on a CPU for each vCPU.
    fn admit(
        &self,
        admission: &mut Admission,
        policy: &Policy,
        vcpus: u8,
    ) -> Result<Vec<(CpuId, Reservation)>, AdmissionError> {
        let Class::Reserved { budget, period } = policy.class else { return Ok(Vec::new()) };
        let reservation = Reservation::from_micros(budget, period, self.frequency);
        let cpus = admission.admit_all(vcpus, reservation, policy.affinity)?;
        Ok(cpus.into_iter().map(|cpu| (cpu, reservation)).collect())
    }

    /// The CPUs that run guests.
    pub(super) fn cpu_ids(&self) -> impl Iterator<Item = CpuId> + use<> {
        (0..=u8::MAX).take(self.cpus()).map(CpuId)
    }

    /// Choose what this CPU runs, from among its own vCPUs or others'. The chosen one is to look at
    /// everything that could have woken it.
    pub fn pick<M: Machine>(&self, machine: &mut M) -> Option<Entity> {
        let (cpu, now) = (machine.id(), machine.now());
        let choose = |queue: &mut RunQueue| {
            let picked = queue.pick(now)?;
            queue.attend(picked);
            Some(picked)
        };
        let mut queue = self.queue(cpu).lock();
        let mut source = queue.source();
        if source.is_none() {
            let picked = choose(&mut queue);
            source = if picked.is_none() { queue.source() } else { None };
            if source.is_none() {
                return picked;
            }
        }
        drop(queue);
        self.fetch(machine, source, cpu, now);
        // Each fetch is followed by a choice.
        let mut queue = self.queue(cpu).lock();
        let picked = choose(&mut queue);
        let source = if picked.is_none() { queue.source() } else { None };
        drop(queue);
        if source.is_none() {
            return picked;
        }
        self.fetch(machine, source, cpu, now);
        choose(&mut self.queue(cpu).lock())
    }

    /// What a vCPU does, in a word; `None` when it is off.
    pub fn vcpu_state(&self, vm: &Vm, vcpu: VcpuId) -> Option<&'static str> {
        let entity = Entity { vm: vm.id(), vcpu };
        self.at_home(vm, vcpu, |queue| queue.state_of(entity)).and_then(|(_, state)| state)
    }

    /// How long a vCPU has had a CPU, and waited for one.
    pub fn usage(&self, vm: &Vm, vcpu: VcpuId, now: Ticks) -> Usage {
        let entity = Entity { vm: vm.id(), vcpu };
        let usage = self.at_home(vm, vcpu, |queue| queue.usage(entity, now));
        usage.and_then(|(_, usage)| usage).unwrap_or_default()
    }

    /// Let another CPU come for who waits at this one, if one should.
    pub fn invite<M: Machine>(&self, machine: &mut M) {
        let (cpu, now) = (machine.id(), machine.now());
        let guest = self.queue(cpu).lock().invite(now);
        if let Some(guest) = guest {
            self.call(machine, guest);
        }
    }

    /// Take over a vCPU that the CPU `source` has for this one, if it still has.
    fn fetch<M: Machine>(&self, machine: &mut M, source: Option<CpuId>, cpu: CpuId, now: Ticks) {
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
            self.call(machine, next);
        }
    }

    /// Do something with the run queue that a vCPU belongs to, whichever it is by now.
    pub(super) fn at_home<T>(
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
}

/// Weight and cap; a VM with a reservation has neither.
const fn fair(policy: &Policy) -> (u16, Option<u16>) {
    match policy.class {
        Class::Fair { weight, cap } => (weight, cap),
        Class::Reserved { .. } => (DEFAULT_WEIGHT, None),
    }
}

/// The terms of one vCPU. With a reservation it stays where it was admitted.
fn terms(policy: &Policy, admitted: Option<(CpuId, Reservation)>) -> Terms {
    match admitted {
        Some((cpu, reservation)) => {
            Terms { affinity: CpuSet::EMPTY.with(cpu), reservation: Some(reservation) }
        }
        None => Terms { affinity: policy.affinity, reservation: None },
    }
}
