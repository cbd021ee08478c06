//! A guest's trapped system register accesses, performed. What each does is decided in [`super::sysreg`].

use super::handle::{Next, Outcome};
use super::layout::PHYSICAL_TIMER_IRQ;
use super::sysreg::{Access, Action, Direction, GuestLevel, SysReg, TrapFacts, decide};
use super::{Vm, ptimer::TimerReg};
use crate::addr::{Ipa, Region};
use crate::exit::Gpr;
use crate::machine::{El1Register, Machine};
use crate::memory::Maintenance;
use crate::vcpu::{Exception, Vcpu, VcpuId, pstate};
use crate::vgic::Notify;

/// How much memory is cleaned and invalidated before interrupts are looked at again.
const FLUSH_STEP: u64 = 256 << 10;

/// `SCTLR_EL1.M` and `SCTLR_EL1.C`: the guest's MMU and data cache are on.
const SCTLR_CACHED: u64 = 1 << 2 | 1;

impl Vm {
    /// Perform a trapped access.
    pub(super) fn trapped<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        iss: u32,
    ) -> Outcome {
        let (reg, direction, rt) = SysReg::from_iss(iss);
        let gpr = Gpr::new(rt.into());
        let level =
            if pstate::is_el0(vcpu.regs.pstate) { GuestLevel::El0 } else { GuestLevel::El1 };
        let facts = TrapFacts { ids: &self.id_registers, actlr: 0, gic: self.gic_version };
        let action = decide(Access { reg, direction, level }, &facts);
        let mut outcome = Outcome::of(Next::Resume);
        let value = vcpu.regs.read(gpr);
        let read = direction == Direction::Read;
        match action {
            Action::Undefined => {
                return self.raise(machine, me, vcpu, Exception::Undefined);
            }
            Action::Ignore => {}
            Action::Read(value) => vcpu.regs.write(gpr, value),
            Action::Sgi(register) => {
                outcome.notify = self.vgic.lock().send_sgi(me, register, value);
            }
            Action::ReadCounter => {
                let now = self.virtual_now(machine.now());
                vcpu.regs.write(gpr, now.0);
            }
            Action::PhysicalTimer(timer) => {
                if read {
                    let now = self.virtual_now(machine.now());
                    vcpu.regs.write(gpr, vcpu.physical_timer.read(timer, now));
                } else {
                    outcome.notify = self.set_physical_timer(machine, me, vcpu, timer, value);
                    outcome.timer_changed = true;
                }
            }
            Action::Debug(debug) => {
                if read {
                    vcpu.regs.write(gpr, vcpu.debug.read(debug));
                } else {
                    vcpu.debug.write(debug, value);
                    machine.write_debug(vcpu);
                }
            }
            Action::SetWay(_) => {
                if !self.set_way(machine, vcpu) {
                    return outcome; // not skipped: the guest comes again
                }
            }
            Action::VmControl(register) => {
                if read {
                    let value = machine.read_el1(register);
                    vcpu.regs.write(gpr, value);
                } else if !self.set_vm_control(machine, vcpu, register, value) {
                    return outcome;
                }
            }
        }
        vcpu.regs.skip_instruction();
        outcome
    }

    fn set_physical_timer<M: Machine>(
        &self,
        machine: &M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        timer: TimerReg,
        value: u64,
    ) -> Notify {
        let now = self.virtual_now(machine.now());
        vcpu.physical_timer.write(timer, value, now);
        let level = vcpu.physical_timer.output(now);
        self.drive(me, PHYSICAL_TIMER_IRQ, level)
    }

    /// A cache operation by set/way, which would see every guest's lines: all of this VM's RAM is
    /// cleaned and invalidated by address instead, once; then the guest is watched until its caches
    /// are on, as it goes on for every set and way. Returns whether the instruction is done.
    fn set_way<M: Machine>(&self, machine: &mut M, vcpu: &mut Vcpu) -> bool {
        if vcpu.watch_caches {
            return true;
        }
        if !self.flush_step(machine, vcpu) {
            return false;
        }
        vcpu.watch_caches = true;
        machine.trap_vm_registers(true);
        true
    }

    /// A write to a register of the EL1 translation regime, watched for the caches going on or off.
    /// Returns whether the instruction is done.
    fn set_vm_control<M: Machine>(
        &self,
        machine: &mut M,
        vcpu: &mut Vcpu,
        register: El1Register,
        value: u64,
    ) -> bool {
        if register == El1Register::Sctlr {
            let cached = |sctlr: u64| sctlr & SCTLR_CACHED == SCTLR_CACHED;
            let (was, is) = (cached(machine.read_el1(register)), cached(value));
            if was != is && !self.flush_step(machine, vcpu) {
                return false;
            }
            if is {
                vcpu.watch_caches = false;
                machine.trap_vm_registers(false);
            }
        }
        machine.write_el1(register, value);
        true
    }

    /// Clean and invalidate the next step of the VM's RAM. Returns whether that was the last one. Who interrupts another
    /// instruction's flush has one of its own: what was cleaned for that one may be dirty again.
    fn flush_step<M: Machine>(&self, machine: &M, vcpu: &mut Vcpu) -> bool {
        let ram = self.source.ram;
        if vcpu.flushed_for != vcpu.regs.pc {
            (vcpu.flushed, vcpu.flushed_for) = (0, vcpu.regs.pc);
        }
        let step = FLUSH_STEP.min(ram.size().saturating_sub(vcpu.flushed));
        let start = Ipa::new(ram.start().raw() + vcpu.flushed);
        if let Some(region) = Region::new(start, step)
            && let Some(Ok(pieces)) = self.memory.get().map(|memory| memory.pieces(region))
        {
            for piece in pieces {
                machine.upkeep().clean_invalidate_to_poc(piece);
            }
        }
        vcpu.flushed += step;
        let last = vcpu.flushed >= ram.size();
        if last {
            vcpu.flushed = 0;
        }
        last
    }
}
