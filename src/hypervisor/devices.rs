//! Devices that do something by themselves: when, and in whose time.
//!
//! A device goes on with what its guest has asked for while that guest runs, or while nobody does. Where its VM waits and the
//! CPU runs another one, it gets a part of the CPU's time, so that a long queue holds nobody up.

use super::Hypervisor;
use crate::machine::{CpuId, Machine};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::time::Ticks;
use crate::vcpu::VcpuId;
use crate::vm::Vm;

/// How much of its time a CPU has for the devices of others than whom it runs: one part in so many.
const OTHERS_PART: u64 = 20;

/// In [`DeviceTimes::deadline`]: there is none.
const NEVER: u64 = u64::MAX;

/// How often bells are answered at one go that were rung by who answered one.
const ANSWERS: usize = 4;

/// When a CPU has something to do for devices.
#[derive(Debug)]
pub(super) struct DeviceTimes {
    /// When the devices of the VMs whose time it keeps have something to do by themselves, or earlier.
    deadline: AtomicU64,
    /// Until then they get none of its time while it runs another VM.
    rest: AtomicU64,
}

impl Default for DeviceTimes {
    fn default() -> Self {
        Self { deadline: AtomicU64::new(NEVER), rest: AtomicU64::new(0) }
    }
}

impl DeviceTimes {
    /// When there is something to do, or earlier.
    pub fn next(&self) -> Option<Ticks> {
        let at = self.deadline.load(Ordering::Acquire);
        (at != NEVER).then_some(Ticks(at))
    }
}

impl Hypervisor {
    /// A device of `vm` may have something to do by itself at another time than before. Returns whether this CPU has to
    /// set its deadline timer anew.
    pub fn device_timer_changed<M: Machine>(&self, machine: &mut M, vm: &Vm) -> bool {
        let Some(cpu) = vm.timekeeper() else { return false };
        let Some(at) = self.devices_due(machine, cpu, vm) else { return false };
        let Some(times) = self.device_times.get(cpu.index()) else { return false };
        let before = times.deadline.fetch_min(at.0, Ordering::AcqRel);
        let own = cpu == machine.id();
        if at.0 < before && !own {
            self.call(machine, cpu);
        }
        at.0 < before && own
    }

    /// See to devices whose bell was rung. The vCPU `loaded`, whose registers are in the CPU, looks at its interrupts at
    /// once. Returns whether the vCPU that runs here has to leave: somebody waits for this CPU, or its deadline timer is to be
    /// set anew.
    #[inline(always)]
    pub fn answer_doorbells<M: Machine>(
        &self,
        machine: &mut M,
        loaded: Option<(&Vm, VcpuId)>,
    ) -> bool {
        self.doorbells.is_rung() && self.look_at_rung(machine, loaded)
    }

    #[inline(never)]
    fn look_at_rung<M: Machine>(&self, machine: &mut M, loaded: Option<(&Vm, VcpuId)>) -> bool {
        let mut queued = false;
        // Who answers may ring another's: a channel's other end.
        for _ in 0..ANSWERS {
            queued |= self.answer_once(machine, loaded);
            if !self.doorbells.is_rung() {
                return queued;
            }
        }
        // That is enough at one go. The rest is answered when this CPU's deadline has come, which is at once.
        if let Some(times) = self.device_times.get(machine.id().index()) {
            times.deadline.fetch_min(0, Ordering::AcqRel);
        }
        true
    }

    fn answer_once<M: Machine>(&self, machine: &mut M, loaded: Option<(&Vm, VcpuId)>) -> bool {
        let mut queued = false;
        self.doorbells.answer(|id, slots| {
            let Some(vm) = self.vm(id).filter(|vm| !vm.has_stopped()) else { return };
            let (mut notify, sooner) = vm.virtio_input(slots, machine.now());
            if let Some((_, me)) = loaded.filter(|(own, _)| core::ptr::eq(*own, &raw const *vm)) {
                notify = vm.tell_first(machine, me, notify);
            }
            queued |= self.notify(machine, &vm, notify);
            queued |= sooner && self.device_timer_changed(machine, &vm);
        });
        // Who gives memory up rings.
        self.begin_round(machine);
        queued
    }

    /// When `cpu`, which keeps the time of `vm`, is to let its devices go on.
    fn devices_due<M: Machine>(&self, machine: &M, cpu: CpuId, vm: &Vm) -> Option<Ticks> {
        let at = vm.device_deadline()?;
        let times = self.device_times.get(cpu.index())?;
        let rest = Ticks(times.rest.load(Ordering::Relaxed));
        if at >= rest || (cpu == machine.id() && self.runs_no_other(cpu, vm)) {
            return Some(at);
        }
        Some(if at <= machine.now() { rest } else { at })
    }

    /// Whether nobody runs on `cpu`, this one, but a vCPU of `vm`.
    fn runs_no_other(&self, cpu: CpuId, vm: &Vm) -> bool {
        self.clock(cpu).running().is_none_or(|it| it.vm == vm.id())
    }

    /// Let the devices whose time this CPU keeps do what is due.
    pub fn advance_devices<M: Machine>(&self, machine: &mut M) {
        let (now, cpu) = (machine.now(), machine.id());
        let Some(times) = self.device_times.get(cpu.index()) else { return };
        if times.deadline.load(Ordering::Acquire) > now.0 {
            return;
        }
        // First: what is set meanwhile must stay.
        times.deadline.store(NEVER, Ordering::Release);
        let (mut spent, mut left) = (0, false);
        for vm in self.vms().filter(|vm| vm.timekeeper() == Some(cpu)) {
            let Some(at) = self.devices_due(machine, cpu, &vm) else { continue };
            if at > now {
                times.deadline.fetch_min(at.0, Ordering::AcqRel);
                continue;
            }
            let began = machine.now();
            let notify = vm.advance_devices(now);
            self.notify(machine, &vm, notify);
            let own = self.runs_no_other(cpu, &vm);
            if !own {
                spent += machine.now().since(began).0;
            }
            match vm.device_deadline() {
                Some(at) if own || at > now => {
                    times.deadline.fetch_min(at.0, Ordering::AcqRel);
                }
                more => left |= more.is_some(),
            }
        }
        if left {
            let rest = machine.now().0.saturating_add(spent.max(1).saturating_mul(OTHERS_PART - 1));
            times.rest.store(rest, Ordering::Relaxed);
            times.deadline.fetch_min(rest, Ordering::AcqRel);
        }
    }
}
