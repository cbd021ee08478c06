//! A VM's life: which of its vCPUs are on, how it is stopped, and how it begins again in place.

use core::sync::atomic::Ordering;

use super::Vm;
use crate::exit::Exit;
use crate::firmware::psci::Power;
use crate::memory::Maintenance;
use crate::vcpu::{GuestRegs, MAX_VCPUS, Vcpu, VcpuId};
use crate::vgic::Notify;
use alloc::boxed::Box;

use crate::time::Ticks;

/// How a VM stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// It asked to be powered off (PSCI `SYSTEM_OFF`).
    Off,
    /// It asked to begin again (PSCI `SYSTEM_RESET`).
    Reset,
    /// It did something it cannot go on from.
    Crashed,
}

/// Who is on, and what is to become of the VM.
#[derive(Debug)]
pub(super) struct Lifecycle {
    /// As PSCI sees it.
    pub(super) power: [Power; MAX_VCPUS],
    /// How many vCPUs run queues know as anything but off.
    live: u8,
    /// The stop under way.
    stop: Option<Stop>,
}

impl Lifecycle {
    /// Nobody is on.
    pub(super) fn new() -> Self {
        Self { power: [Power::Off; MAX_VCPUS], live: 0, stop: None }
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

    fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
        // What CPUs still hold of it is nobody's.
        self.incarnation.fetch_add(1, Ordering::AcqRel);
    }

    /// Begin a stop. Returns false when the VM is being stopped already, or has stopped.
    pub fn begin_stop(&self, stop: Stop) -> bool {
        let mut lifecycle = self.lifecycle.lock();
        if lifecycle.stop.is_some() || self.has_stopped() {
            return false;
        }
        lifecycle.stop = Some(stop);
        self.stopping.store(1, Ordering::Release);
        true
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

    /// A vCPU has left its run queue. With the last one the VM stops, in the way returned.
    pub fn vcpu_retired(&self) -> Option<Stop> {
        let mut lifecycle = self.lifecycle.lock();
        lifecycle.live = lifecycle.live.saturating_sub(1);
        if lifecycle.live > 0 || self.has_stopped() {
            return None;
        }
        let asked = lifecycle.stop;
        let stop = asked.unwrap_or(Stop::Crashed);
        if stop != Stop::Reset {
            self.set_stopped();
        }
        drop(lifecycle); // the log may be slow
        if asked.is_none() {
            log::warn!("{}: every vCPU has turned itself off", self.name);
        }
        if stop != Stop::Reset {
            log::info!("{}: stopped", self.name);
        }
        Some(stop)
    }

    /// Begin again in place: registers, interrupts and devices as after reset; the boot vCPU loads the
    /// image anew before its first instruction; the rest of RAM keeps its content, as on a machine that
    /// is reset. No vCPU is on. Returns when the boot vCPU may start: not before a second after the last
    /// reset, as loading takes its CPU's time from other guests.
    pub fn reboot(&self, now: Ticks) -> Ticks {
        // First of all: what CPUs still hold of the old incarnation is nobody's from here on.
        self.incarnation.fetch_add(1, Ordering::AcqRel);
        let mut vgic = self.vgic.lock();
        vgic.reset();
        drop(vgic);
        self.bus.reset(|irq, level| {
            let _ = self.vgic.lock().set_level(VcpuId(0), irq, level);
        });
        let earliest = Ticks(self.next_reset.load(Ordering::Acquire));
        let start = earliest.max(now);
        self.next_reset.store(start.saturating_add(self.reset_interval).0, Ordering::Release);
        self.reload.store(true, Ordering::Release);
        let mut lifecycle = self.lifecycle.lock();
        lifecycle.power = [Power::Off; MAX_VCPUS];
        lifecycle.live = 0;
        lifecycle.stop = None;
        self.stopping.store(0, Ordering::Release);
        drop(lifecycle);
        log::info!("{}: reset", self.name);
        start
    }

    /// Load the image anew if the VM was reset since. Returns false when it cannot be loaded any more.
    pub fn reload(&self, upkeep: &impl Maintenance) -> bool {
        if !self.reload.swap(false, Ordering::AcqRel) {
            return true;
        }
        match self.load_image(upkeep) {
            Ok(boot) => {
                self.lifecycle.lock().power[0] = boot.power();
                true
            }
            Err(error) => {
                log::error!("{}: cannot begin again: {error}", self.name);
                false
            }
        }
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

    /// Bytes may have come for the UART.
    pub fn serial_input(&self, now: Ticks) -> Notify {
        let mut notify = Notify::NONE;
        self.bus.input(super::layout::UART_IRQ, self.virtual_now(now), |irq, level| {
            notify = self.vgic.lock().set_level(VcpuId(0), irq, level);
        });
        notify
    }

    /// Say once why the VM is stopped, with the registers of the vCPU that did it.
    pub(super) fn report_crash(&self, me: VcpuId, regs: &GuestRegs, what: &str, exit: &Exit) {
        log::error!("{}: vCPU {}: {what}: {exit:x?}", self.name, me.0);
        log::error!("  pc {:#018x} pstate {:#010x}", regs.pc, regs.pstate);
        for (row, values) in regs.x.chunks(4).enumerate() {
            let mut line = alloc::string::String::new();
            for (column, value) in values.iter().enumerate() {
                use core::fmt::Write;
                let _ = write!(line, "  x{:<2} {value:#018x}", row * 4 + column);
            }
            log::error!("{line}");
        }
    }

    /// Say that a vCPU caused an asynchronous abort that cannot be given to it any more.
    pub fn report_serror(&self, me: VcpuId) {
        log::error!("{}: vCPU {}: an SError was outstanding when it left its CPU", self.name, me.0);
    }
}
