//! VMs come, pause, stop, begin again and go, while others run.

use alloc::sync::Arc;

use super::Hypervisor;
use crate::machine::{CpuId, Machine};
use crate::manifest::WhenIdle;
use crate::sched::{AdmissionError, Entity, Retired, RunQueue, VmId};
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::vcpu::VcpuId;
use crate::vm::balloon::BalloonError;
use crate::vm::create::CreateError;
use crate::vm::loading::{BootError, LoadStep};
use crate::vm::{Sequel, Status, Stop, Vm};

/// Why a VM is not made to do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The bundle has no VM of this number.
    #[error("there is no such VM")]
    NoSuchVm,
    /// It has not been created, or was destroyed.
    #[error("the VM does not exist: start it first")]
    NotCreated,
    /// It runs, or is paused.
    #[error("the VM runs already")]
    Running,
    /// It runs.
    #[error("the VM is not paused")]
    NotPaused,
    /// It is paused, and has to run for this.
    #[error("the VM is paused: resume it first")]
    Held,
    /// It is paused already.
    #[error("the VM is paused already")]
    Paused,
    /// It has stopped.
    #[error("the VM has stopped")]
    Stopped,
    /// It cannot have so much memory.
    #[error("{0}")]
    Balloon(#[from] BalloonError),
    /// There is not so much memory.
    #[error("{} MiB are free, and it would need {} MiB", free >> 20, wanted >> 20)]
    NotFree {
        /// How many bytes are free.
        free: u64,
        /// How many more it is to have.
        wanted: u64,
    },
    /// It is on its way out.
    #[error("the VM is being stopped: try again")]
    Stopping,
    /// The CPU time that it is to have is not there.
    #[error("{0}")]
    Admission(#[from] AdmissionError),
    /// It cannot be built.
    #[error("{0}")]
    Create(#[from] CreateError),
    /// The last VM has stopped and the machine is about to be powered off.
    #[error("the hypervisor is shutting down")]
    Finished,
}

/// How far a VM's image is loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// There is more to do.
    More,
    /// There is, and it takes memory that others have.
    NoFrames,
    /// All is there.
    All,
}

/// A VM's image cannot be loaded; why has been said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotLoaded;

/// How many VMs exist and have not stopped. With the last one's end it is all over, unless the manifest
/// wants the monitor to go on.
pub(super) struct Population {
    count: AtomicU32,
    /// Some VM could be loaded.
    ran: AtomicBool,
    /// Some VM could not be loaded.
    refused: AtomicBool,
    when_idle: WhenIdle,
}

impl Population {
    pub(super) const fn new(when_idle: WhenIdle) -> Self {
        Self {
            count: AtomicU32::new(0),
            ran: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            when_idle,
        }
    }

    /// In the same word as the count, so that nobody joins a run that has ended.
    const FINISHED: u32 = 1 << 31;

    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire) & !Self::FINISHED
    }

    pub(super) fn has_finished(&self) -> bool {
        self.count.load(Ordering::Acquire) & Self::FINISHED != 0
    }

    /// One more. Returns false when it is all over.
    pub(super) fn join(&self) -> bool {
        let join = |count| (count & Self::FINISHED == 0).then(|| count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, join).is_ok()
    }

    /// One less, as it could not be built after all: that ends nothing.
    pub(super) fn leave_quietly(&self) {
        let leave = |count: u32| (count & !Self::FINISHED != 0).then(|| count - 1);
        let _ = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, leave);
    }

    /// One less. Returns whether it was the last, and it is all over now.
    fn leave(&self) -> bool {
        let leave = |count: u32| match count & !Self::FINISHED {
            0 => None,
            1 if self.when_idle == WhenIdle::PowerOff => Some(Self::FINISHED),
            _ => Some(count - 1),
        };
        let before = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, leave);
        before == Ok(1) && self.has_finished()
    }
}

impl Hypervisor {
    /// Start every VM's boot vCPU.
    pub fn start_all<M: Machine>(&self, machine: &mut M) {
        for vm in self.vms() {
            self.start(machine, &vm, VcpuId(0));
        }
    }

    /// One step of what has to be done before `vm`'s boot vCPU can start.
    ///
    /// # Errors
    /// It cannot be loaded, and is being stopped; at its first start, also taken apart.
    pub fn load_step<M: Machine>(&self, machine: &mut M, vm: &Vm) -> Result<Progress, NotLoaded> {
        let has_heap = !vm.loading_takes_heap() || self.has_heap_to_load();
        let step = if has_heap { vm.load_step(machine.upkeep()) } else { Err(BootError::Heap) };
        let step = step.and_then(|step| {
            Ok(match step {
                LoadStep::More => Progress::More,
                LoadStep::NeedsTables => {
                    self.stock.lock().map_ram(vm, machine.upkeep())?;
                    Progress::More
                }
                LoadStep::NoFrames => Progress::NoFrames,
                LoadStep::Done => Progress::All,
            })
        });
        match step {
            Ok(loaded) => {
                if loaded == Progress::All {
                    vm.assigned_interrupts().for_each(|it| machine.open_interrupt(it));
                    self.population.ran.store(true, Ordering::Release);
                }
                Ok(loaded)
            }
            Err(error) => {
                log::error!("{}: refused: {error}", vm.name());
                self.population.refused.store(true, Ordering::Release);
                if vm.resets() == 0 {
                    vm.doom();
                }
                self.begin_stop(machine, vm, Stop::Unloadable);
                Err(NotLoaded)
            }
        }
    }

    /// Whether no VM could be loaded of those that were to be.
    pub fn all_refused(&self) -> bool {
        let Population { ran, refused, .. } = &self.population;
        refused.load(Ordering::Acquire) && !ran.load(Ordering::Acquire)
    }

    /// Let a VM run that does not: create it if need be, begin again if it has stopped.
    ///
    /// # Errors
    /// It runs already, or cannot be built.
    pub fn start_vm<M: Machine>(&self, machine: &mut M, id: VmId) -> Result<(), Refusal> {
        let Some(vm) = self.vm(id) else {
            let vm = self.create(machine, id)?;
            self.start(machine, &vm, VcpuId(0));
            return Ok(());
        };
        if !self.population.join() {
            return Err(Refusal::Finished);
        }
        if !vm.revive() {
            self.population.leave_quietly();
            return Err(if vm.is_stopping() { Refusal::Stopping } else { Refusal::Running });
        }
        self.boot_again(machine, &vm);
        Ok(())
    }

    /// Hold a VM: its vCPUs leave their CPUs, and its time stands still.
    ///
    /// # Errors
    /// It does not exist, does not run, or is paused already.
    pub fn pause<M: Machine>(&self, machine: &mut M, id: VmId) -> Result<(), Refusal> {
        let vm = self.vm(id).ok_or(Refusal::NotCreated)?;
        vm.begin_pause()?;
        for index in 0..vm.vcpu_count() {
            let vcpu = VcpuId(index);
            let (now, entity) = (machine.now(), Entity { vm: id, vcpu });
            // Asked with the queue locked: a stop ends the pause before it sees to the queues.
            let pause = |queue: &mut RunQueue| vm.is_paused().then(|| queue.pause(entity, now));
            self.at_home(&vm, vcpu, pause);
        }
        let _ = vm.serial_input(machine.now()); // what its UART has not sent yet
        // A CPU may hold the registers of a vCPU that sleeps, and its timer counts on.
        self.kick_all(machine);
        vm.settle_pause(machine.now());
        Ok(())
    }

    /// Let a paused VM go on. It does not see that time has passed.
    ///
    /// # Errors
    /// It does not exist, or is not paused.
    pub fn resume<M: Machine>(&self, machine: &mut M, id: VmId) -> Result<(), Refusal> {
        let vm = self.vm(id).ok_or(Refusal::NotCreated)?;
        vm.end_pause(machine.now())?;
        for index in 0..vm.vcpu_count() {
            let vcpu = VcpuId(index);
            let (now, entity) = (machine.now(), Entity { vm: id, vcpu });
            let resume = |queue: &mut RunQueue| (queue.resume(entity, now), queue.invite(now));
            let Some((cpu, (resumed, guest))) = self.at_home(&vm, vcpu, resume) else { continue };
            let wanted = [resumed.then_some(cpu), guest];
            for cpu in wanted.into_iter().flatten() {
                if cpu != machine.id() {
                    self.call(machine, cpu);
                }
            }
        }
        self.device_timer_changed(machine, &vm);
        Ok(())
    }

    /// A VM that can do what it is asked for.
    ///
    /// # Errors
    /// It does not exist, does not run, or is paused.
    pub fn running(&self, id: VmId) -> Result<Arc<Vm>, Refusal> {
        let vm = self.vm(id).ok_or(Refusal::NotCreated)?;
        match vm.status() {
            Status::Stopped(_) => Err(Refusal::Stopped),
            Status::Paused => Err(Refusal::Held),
            Status::Running if vm.is_stopping() => Err(Refusal::Stopping),
            Status::Running => Ok(vm),
        }
    }

    /// Press a VM's power button: a guest that listens to it shuts down by itself.
    ///
    /// # Errors
    /// It does not exist, does not run, or is paused.
    pub fn press_power_button<M: Machine>(&self, machine: &mut M, id: VmId) -> Result<(), Refusal> {
        let vm = self.running(id)?;
        let notify = vm.press_power_button(machine.now());
        self.notify(machine, &vm, notify);
        // Who keeps its time lets go of the button.
        self.device_timer_changed(machine, &vm);
        Ok(())
    }

    /// Stop a VM at once, or begin it again ([`Stop::Restart`]), whatever it does.
    ///
    /// # Errors
    /// It does not exist, or has stopped, or is being stopped.
    pub fn stop<M: Machine>(&self, machine: &mut M, id: VmId, stop: Stop) -> Result<(), Refusal> {
        let vm = self.vm(id).ok_or(Refusal::NotCreated)?;
        if vm.has_stopped() {
            return Err(Refusal::Stopped);
        }
        if self.begin_stop(machine, &vm, stop) { Ok(()) } else { Err(Refusal::Stopping) }
    }

    /// Stop a VM if it runs, and give back all it has.
    ///
    /// # Errors
    /// It does not exist.
    pub fn destroy<M: Machine>(&self, machine: &mut M, id: VmId) -> Result<(), Refusal> {
        let vm = self.vm(id).ok_or(Refusal::NotCreated)?;
        vm.doom();
        // A stop that is under way sees that it is doomed when it is complete.
        if vm.has_stopped() {
            self.bury(machine, &vm);
        } else {
            self.begin_stop(machine, &vm, Stop::Forced);
        }
        Ok(())
    }

    /// Begin to stop a VM: turn off every vCPU that is not on a CPU, and make the CPUs of the others
    /// look. Whoever takes the last one off completes the stop. Returns false when a stop is under way.
    pub fn begin_stop<M: Machine>(&self, machine: &mut M, vm: &Vm, stop: Stop) -> bool {
        let Some(is_on) = vm.begin_stop(stop) else { return false };
        if !is_on {
            // It has yet to be started, for the first time or once more: from now on it is not.
            self.retired(machine, vm, VcpuId(0));
            return true;
        }
        for index in 0..vm.vcpu_count() {
            let vcpu = VcpuId(index);
            let (now, entity) = (machine.now(), Entity { vm: vm.id(), vcpu });
            let retire = |queue: &mut RunQueue| {
                // A held vCPU is not chosen, and so would not be taken off by its CPU.
                queue.resume(entity, now);
                queue.retire(entity, now)
            };
            let Some((_, retired)) = self.at_home(vm, vcpu, retire) else { continue };
            match retired {
                Retired::Off => self.retired(machine, vm, vcpu),
                Retired::Running => {
                    self.wake(machine, vm, vcpu);
                }
                Retired::WasOff => {}
            }
        }
        true
    }

    /// A CPU has taken a vCPU off for good; the last one of a VM completes its stop.
    pub fn retired<M: Machine>(&self, machine: &mut M, vm: &Vm, vcpu: VcpuId) {
        let Some(sequel) = vm.vcpu_retired(vcpu) else { return };
        vm.assigned_interrupts().for_each(|it| machine.close_interrupt(it.intid));
        if sequel == Sequel::Again {
            return self.boot_again(machine, vm);
        }
        // Who was connected to it is told now: this CPU may have nothing else to do.
        self.answer_doorbells(machine, None);
        if self.population.leave() {
            // The CPU that ends the run may be asleep.
            self.call(machine, CpuId(0));
        }
        // Asked once more: since the stop was complete, somebody may have wanted it gone.
        if (sequel == Sequel::Destroy || vm.is_doomed())
            && let Some(vm) = self.vm(vm.id())
        {
            vm.doom();
            self.bury(machine, &vm);
        }
    }

    fn boot_again<M: Machine>(&self, machine: &mut M, vm: &Vm) {
        let at = vm.reboot(machine.now());
        self.answer_doorbells(machine, None);
        self.hand_over(machine, vm, VcpuId(0), Some(at));
        // Somebody may have wanted it gone since it was settled that it begins again.
        if vm.is_doomed() {
            self.begin_stop(machine, vm, Stop::Forced);
        }
    }

    /// Make every other CPU look at what it has loaded. This one does so before it runs a guest again.
    pub(super) fn kick_all<M: Machine>(&self, machine: &mut M) {
        for cpu in (0..self.cpus()).filter_map(|cpu| u8::try_from(cpu).ok()).map(CpuId) {
            if cpu != machine.id() {
                self.call(machine, cpu);
            }
        }
    }
}
