//! A VM's life: which of its vCPUs are on, how it is stopped, and how it begins again in place.

use super::Vm;
use super::layout::{GPIO_IRQ, UART_IRQ, VIRTIO_SLOTS, virtio_irq};
use crate::device::Signal;
use crate::firmware::psci::Power;
use crate::hypervisor::Refusal;
use crate::manifest::{OnCrash, OnReboot};
use crate::sync::atomic::Ordering;
use crate::vcpu::{MAX_VCPUS, Vcpu, VcpuId};
use crate::vgic::{IntId, Notify};
use alloc::boxed::Box;

use crate::time::Ticks;

/// The wait for the next start after a crash is a second, doubled so many times at most: a minute.
const MOST_DOUBLINGS: u8 = 6;

/// How a VM stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// It asked to be powered off (PSCI `SYSTEM_OFF`).
    Off,
    /// It asked to begin again (PSCI `SYSTEM_RESET`).
    Reset,
    /// It did something it cannot go on from.
    Crashed,
    /// It was made to stop.
    Forced,
    /// It was made to begin again.
    Restart,
    /// Its image could not be loaded.
    Unloadable,
}

/// What follows when a VM has stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sequel {
    /// It begins again.
    Again,
    /// It stays as it is.
    Stay,
    /// It is taken apart.
    Destroy,
}

/// What a VM is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Its vCPUs run, or wait for interrupts.
    Running,
    /// It is held, and its time stands still.
    Paused,
    /// It has stopped, in this way. Its memory is as it left it.
    Stopped(Stop),
}

/// Whether a VM is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pause {
    No,
    /// It is to be, and some CPU still has a vCPU's registers.
    Settling,
    /// Since this moment no time has passed for it.
    Since(Ticks),
}

/// Who is on, and what is to become of the VM.
#[derive(Debug)]
pub(super) struct Lifecycle {
    /// As PSCI sees it.
    pub(super) power: [Power; MAX_VCPUS],
    /// How many vCPUs run queues know as anything but off.
    live: u8,
    /// The stop under way, or how it ended.
    stop: Option<Stop>,
    pause: Pause,
}

impl Lifecycle {
    /// Nobody is on.
    pub(super) fn new() -> Self {
        Self { power: [Power::Off; MAX_VCPUS], live: 0, stop: None, pause: Pause::No }
    }

    /// The power states of a VM with `vcpus` vCPUs.
    pub(super) fn power_mut(&mut self, vcpus: usize) -> &mut [Power] {
        let vcpus = vcpus.min(MAX_VCPUS);
        &mut self.power[..vcpus]
    }
}

impl Vm {
    /// Whether the VM is being stopped or reset: its vCPUs have to leave their CPUs.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire) != 0
    }

    /// Whether the VM has stopped for good.
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// What the VM is doing.
    pub fn status(&self) -> Status {
        let lifecycle = self.lifecycle.lock();
        match (lifecycle.stop, lifecycle.pause) {
            (Some(stop), _) if self.has_stopped() => Status::Stopped(stop),
            (_, Pause::No) => Status::Running,
            (_, Pause::Settling | Pause::Since(_)) => Status::Paused,
        }
    }

    /// How much time has passed for the VM since it was created.
    pub fn uptime(&self, now: Ticks) -> Ticks {
        let pause = self.lifecycle.lock().pause;
        self.virtual_now(if let Pause::Since(since) = pause { since } else { now })
    }

    /// Whether the VM is held: its vCPUs have to leave their CPUs.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Give the VM back all it has once it has stopped.
    pub fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    /// Whether the VM is to be taken apart.
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    /// A CPU is about to load one of the VM's vCPUs. Returns false when it must not.
    pub fn enter_cpu(&self, now: Ticks) -> bool {
        // First this, then the question; `begin_pause` and `settle_pause` go the other way.
        self.on_cpus.fetch_add(1, Ordering::SeqCst);
        if self.is_paused() {
            self.leave_cpu(now);
            return false;
        }
        true
    }

    /// A CPU has taken a vCPU's registers out.
    #[inline]
    pub fn leave_cpu(&self, now: Ticks) {
        if self.on_cpus.fetch_sub(1, Ordering::SeqCst) == 1 && self.is_paused() {
            self.settle_pause(now);
        }
    }

    /// Begin to hold the VM.
    pub(crate) fn begin_pause(&self) -> Result<(), Refusal> {
        let mut lifecycle = self.lifecycle.lock();
        if self.has_stopped() {
            return Err(Refusal::Stopped);
        }
        if lifecycle.stop.is_some() {
            return Err(Refusal::Stopping);
        }
        if lifecycle.pause != Pause::No {
            return Err(Refusal::Paused);
        }
        lifecycle.pause = Pause::Settling;
        self.paused.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// The VM's time stands still from now on, if no CPU has any of its vCPUs.
    pub(crate) fn settle_pause(&self, now: Ticks) {
        let mut lifecycle = self.lifecycle.lock();
        if lifecycle.pause == Pause::Settling && self.on_cpus.load(Ordering::SeqCst) == 0 {
            lifecycle.pause = Pause::Since(now);
        }
    }

    /// Time goes on for the VM, where it stood.
    pub(crate) fn end_pause(&self, now: Ticks) -> Result<(), Refusal> {
        let mut lifecycle = self.lifecycle.lock();
        if self.has_stopped() {
            return Err(Refusal::Stopped);
        }
        match lifecycle.pause {
            Pause::No => return Err(Refusal::NotPaused),
            Pause::Settling => {}
            Pause::Since(since) => {
                self.counter_offset.fetch_add(now.since(since).0, Ordering::AcqRel);
            }
        }
        lifecycle.pause = Pause::No;
        self.paused.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// A VM that has stopped is to begin again: [`Self::reboot`] is next. Returns false when it has not
    /// stopped, or is to be taken apart.
    pub(crate) fn revive(&self) -> bool {
        let lifecycle = self.lifecycle.lock();
        let revived = !self.is_doomed() && self.stopped.swap(false, Ordering::AcqRel);
        drop(lifecycle);
        revived
    }

    fn set_stopped(&self, lifecycle: &mut Lifecycle, stop: Stop) {
        lifecycle.stop = Some(stop);
        lifecycle.pause = Pause::No;
        self.paused.store(false, Ordering::SeqCst);
        self.stopped.store(true, Ordering::Release);
        // What CPUs still hold of it is nobody's.
        self.incarnation.fetch_add(1, Ordering::AcqRel);
    }

    /// Begin a stop: whether some vCPU is on, the last of which completes it; else nobody does but who has begun it.
    /// `None` when the VM is being stopped already, or has stopped.
    pub fn begin_stop(&self, stop: Stop) -> Option<bool> {
        let mut lifecycle = self.lifecycle.lock();
        if lifecycle.stop.is_some() || self.has_stopped() {
            return None;
        }
        // It has yet to begin.
        if stop == Stop::Restart && lifecycle.live == 0 {
            return None;
        }
        lifecycle.stop = Some(stop);
        lifecycle.pause = Pause::No;
        self.paused.store(false, Ordering::SeqCst);
        self.stopping.store(1, Ordering::Release);
        Some(lifecycle.live > 0)
    }

    /// A vCPU is about to be handed to its run queue. Returns false when the VM is being stopped.
    pub fn vcpu_started(&self) -> bool {
        let mut lifecycle = self.lifecycle.lock();
        if lifecycle.stop.is_some() || self.has_stopped() {
            return false;
        }
        lifecycle.live += 1;
        true
    }

    /// What its manifest wants to follow such a stop.
    fn sequel(&self, stop: Stop) -> Sequel {
        if self.is_doomed() {
            return Sequel::Destroy;
        }
        match stop {
            Stop::Restart => Sequel::Again,
            Stop::Off | Stop::Forced | Stop::Unloadable => Sequel::Stay,
            Stop::Reset => match self.on_reboot {
                OnReboot::Restart => Sequel::Again,
                OnReboot::Stop => Sequel::Stay,
                OnReboot::Destroy => Sequel::Destroy,
            },
            Stop::Crashed => match self.on_crash {
                OnCrash::Preserve => Sequel::Stay,
                OnCrash::Restart => Sequel::Again,
                OnCrash::Destroy => Sequel::Destroy,
            },
        }
    }

    /// A vCPU has left its run queue. With the last one the VM stops, and what is returned follows.
    pub fn vcpu_retired(&self, vcpu: VcpuId) -> Option<Sequel> {
        let mut lifecycle = self.lifecycle.lock();
        lifecycle.live = lifecycle.live.saturating_sub(1);
        if lifecycle.live > 0 || self.has_stopped() {
            return None;
        }
        let asked = lifecycle.stop;
        let stop = asked.unwrap_or(Stop::Crashed);
        let sequel = self.sequel(stop);
        if sequel != Sequel::Again {
            self.set_stopped(&mut lifecycle, stop);
        }
        drop(lifecycle); // the log may be slow
        if sequel != Sequel::Again {
            self.close_sockets();
        }
        if asked.is_none() {
            log::error!("{}: every vCPU has turned itself off, vCPU {} last", self.name, vcpu.0);
            self.report_registers(vcpu);
        }
        let how = match stop {
            Stop::Crashed => " (crashed)",
            Stop::Forced => " (forced)",
            Stop::Unloadable => " (not loaded)",
            Stop::Off | Stop::Reset | Stop::Restart => "",
        };
        if sequel != Sequel::Again {
            log::info!("{}: stopped{how}", self.name);
        }
        Some(sequel)
    }

    /// Begin again in place: registers, interrupts and devices as after reset; the boot vCPU loads the
    /// image anew before its first instruction; the rest of RAM keeps its content, as on a machine that
    /// is reset. No vCPU is on, and the boot vCPU counts as started. Returns when it may start: not before a second after
    /// the last reset, as a guest that resets itself in a loop would fill the log, and later if it crashes time and again.
    #[inline(never)] // what it has on the stack is not to be there while others are called
    pub fn reboot(&self, now: Ticks) -> Ticks {
        // First of all: what CPUs still hold of the old incarnation is nobody's from here on.
        self.incarnation.fetch_add(1, Ordering::AcqRel);
        // One that had stopped for good is started by hand, which is no reset.
        let stop = self.lifecycle.lock().stop;
        let is_start = stop.is_some_and(|stop| self.sequel(stop) != Sequel::Again);
        if !is_start {
            self.resets.fetch_add(1, Ordering::Relaxed);
        }
        let mut vgic = self.vgic.lock();
        vgic.reset();
        drop(vgic);
        self.bus.reset(|irq, level| {
            let _ = self.vgic.lock().set_level(VcpuId(0), irq, level);
        });
        self.stolen.reset();
        if let Some(elastic) = self.elastic() {
            elastic.waits_no_more();
        }
        let start = self.next_start(stop, is_start, now);
        self.loading.lock().rewind();
        let mut lifecycle = self.lifecycle.lock();
        lifecycle.power = [Power::Off; MAX_VCPUS];
        // The boot vCPU: who stops the VM from here on leaves the rest to whoever takes that off.
        lifecycle.live = 1;
        lifecycle.stop = None;
        lifecycle.pause = Pause::No;
        self.paused.store(false, Ordering::SeqCst);
        self.stopping.store(0, Ordering::Release);
        drop(lifecycle);
        log::info!("{}: {}", self.name, if is_start { "started again" } else { "reset" });
        let wait = start.since(now).0 / self.reset_interval.0.max(1);
        if wait > 1 {
            let crashes = self.crashes.load(Ordering::Relaxed);
            log::warn!(
                "{}: it has crashed {crashes} times in a row: it begins in {wait} s",
                self.name
            );
        }
        start
    }

    /// When a VM that stopped so may begin again. With each crash that follows another one soon it waits twice as long as
    /// before; who is asked for by hand does not wait for that.
    fn next_start(&self, stop: Option<Stop>, is_start: bool, now: Ticks) -> Ticks {
        let second = self.reset_interval;
        let doubled = |times: u8| Ticks(second.0 << times.min(MOST_DOUBLINGS));
        let began = Ticks(self.began.load(Ordering::Acquire));
        let next = Ticks(self.next_reset.load(Ordering::Acquire));
        let has_run_long = now >= began.saturating_add(doubled(MOST_DOUBLINGS));
        let by_hand = is_start || stop == Some(Stop::Restart);
        let crashes = match self.crashes.load(Ordering::Relaxed) {
            _ if by_hand || has_run_long => 0,
            crashes => crashes,
        };
        // With no stop that was asked for it turned all its vCPUs off.
        let crashed = !by_hand && matches!(stop, None | Some(Stop::Crashed));
        let crashes = crashes.saturating_add(u8::from(crashed));
        let next = if by_hand { next.min(began.saturating_add(second)) } else { next };
        let start = now.max(next);
        let apart = doubled(crashes.saturating_sub(1));
        self.crashes.store(crashes, Ordering::Relaxed);
        self.began.store(start.0, Ordering::Release);
        self.next_reset.store(start.saturating_add(apart).0, Ordering::Release);
        start
    }

    /// A vCPU out of reset, at the entry point that was asked for.
    pub fn reset_vcpu(&self, vcpu: VcpuId) -> Option<Box<Vcpu>> {
        let slot = self.vcpus.get(vcpu.index())?;
        let start = self.lifecycle.lock().power.get_mut(vcpu.index())?.take_start()?;
        let mut state = slot.parked.lock().take().unwrap_or_default();
        *state = Vcpu::at_reset(start.entry.raw(), start.context_id);
        Some(state)
    }

    /// Time has come for devices that have something to do by themselves.
    pub fn advance_devices(&self, now: Ticks) -> Notify {
        let mut notify = Notify::NONE;
        self.bus.poll(self.virtual_now(now), |irq, level| {
            notify = notify | self.vgic.lock().set_level(VcpuId(0), irq, level);
        });
        notify
    }

    /// Bytes may have come by the serial line, or it has room again.
    pub fn serial_input(&self, now: Ticks) -> Notify {
        if let Some(bell) = &self.console {
            bell.ring();
        }
        self.signal(UART_IRQ, Signal::Input, now)
    }

    /// Press the power button for a moment: the guest may take it as a request to shut down.
    pub fn press_power_button(&self, now: Ticks) -> Notify {
        self.signal(GPIO_IRQ, Signal::Press, now)
    }

    /// Something came for the devices of these virtio slots, a bit for each: the vCPUs that have to look at their
    /// interrupts, and whether a device is due earlier than before.
    pub fn virtio_input(&self, slots: u32, now: Ticks) -> (Notify, bool) {
        let (mut notify, mut sooner, mut slots) = (Notify::NONE, false, slots);
        let now = self.virtual_now(now);
        while slots != 0 {
            let slot = slots.trailing_zeros().try_into().unwrap_or(VIRTIO_SLOTS);
            slots &= slots - 1;
            let line = |irq, level| {
                notify = notify | self.vgic.lock().set_level(VcpuId(0), irq, level);
            };
            sooner |= self.bus.signal(virtio_irq(slot), Signal::Input, now, line);
        }
        (notify, sooner)
    }

    /// Something happens outside to the device that drives `irq`.
    #[inline]
    fn signal(&self, irq: IntId, signal: Signal, now: Ticks) -> Notify {
        let mut notify = Notify::NONE;
        self.bus.signal(irq, signal, self.virtual_now(now), |irq, level| {
            notify = notify | self.vgic.lock().set_level(VcpuId(0), irq, level);
        });
        notify
    }
}
