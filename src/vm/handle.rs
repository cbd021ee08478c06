//! What a VM makes of an exit: the one match.

use super::undescribed::Attempt;
use super::{Stop, Vm};
use crate::exit::{Direction, Exit, FaultSource, StageTwoFault};
use crate::firmware::smccc::{self, Effect, Facts};
use crate::machine::Machine;
use crate::manifest::OnBadAccess;
use crate::memory::elastic::Filled;
use crate::memory::{Mapping, MemoryType, Perms};
use crate::vcpu::{Exception, Vcpu, VcpuId, pstate};
use crate::vgic::Notify;

/// What becomes of the vCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// It runs on.
    Resume,
    /// It gives way to whoever else wants the CPU.
    Yield,
    /// It needs memory that others have, and looks again in a while.
    Sleep,
    /// It waits for an interrupt: [`Vcpu::waiting`] is set, and the run loop looks whether there is one.
    Block,
    /// Another vCPU of the VM is turned on.
    Start(VcpuId),
    /// It is turned off.
    PowerDown,
    /// The whole VM stops.
    Stop(Stop),
}

/// What an exit comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// What becomes of the vCPU.
    pub next: Next,
    /// The vCPUs that have to look at their interrupts, this one perhaps among them.
    pub notify: Notify,
    /// A timer that the hypervisor keeps for the vCPU, or a device's, was set anew.
    pub timer_changed: bool,
}

impl Outcome {
    /// Only `next`.
    pub(super) const fn of(next: Next) -> Self {
        Self { next, notify: Notify::NONE, timer_changed: false }
    }
}

impl Vm {
    /// Deal with the exit of a loaded vCPU.
    pub fn handle<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        exit: Exit,
    ) -> Outcome {
        // AArch32 is not offered at any level. What EL0 does in it all the same is UNDEFINED, apart
        // from faults, whose instructions are not stepped over.
        let exit = match exit {
            Exit::Mmio(access) if vcpu.regs.pstate & pstate::AARCH32 != 0 => {
                let write = access.direction == Direction::Write;
                Exit::Fault(StageTwoFault {
                    ipa: Some(access.ipa),
                    far: Some(access.far),
                    source: FaultSource::Data { write },
                    walk: false,
                })
            }
            Exit::Hvc(_) | Exit::Smc(_) | Exit::Sysreg { .. } | Exit::Wfi | Exit::Wfe
                if vcpu.regs.pstate & pstate::AARCH32 != 0 =>
            {
                Exit::NotOffered
            }
            exit => exit,
        };
        match exit {
            Exit::Irq => Outcome::of(Next::Resume),
            Exit::Mmio(access) => match self.mmio(machine, me, vcpu, &access) {
                Some((notify, timer_changed)) => {
                    vcpu.regs.skip_instruction();
                    Outcome { next: Next::Resume, notify, timer_changed }
                }
                None => {
                    let fault = StageTwoFault {
                        ipa: Some(access.ipa),
                        far: Some(access.far),
                        source: FaultSource::Data { write: access.direction == Direction::Write },
                        walk: false,
                    };
                    self.fault(machine, me, vcpu, &fault)
                }
            },
            Exit::Sysreg { iss } => self.trapped(machine, me, vcpu, iss),
            Exit::Hvc(immediate) => self.call(machine, vcpu, me, immediate, false),
            Exit::Smc(immediate) => self.call(machine, vcpu, me, immediate, true),
            Exit::Wfi => {
                vcpu.regs.skip_instruction();
                vcpu.waiting = true;
                Outcome::of(Next::Block)
            }
            Exit::Wfe => {
                vcpu.regs.skip_instruction();
                Outcome::of(Next::Yield)
            }
            Exit::Fault(fault) => match self.undescribed(machine, me, vcpu, &fault) {
                Attempt::Done(notify, timer_changed) => {
                    Outcome { next: Next::Resume, notify, timer_changed }
                }
                Attempt::Again => Outcome::of(Next::Resume),
                Attempt::Refused => self.fault(machine, me, vcpu, &fault),
            },
            Exit::ExternalAbort(fault) => self.fault(machine, me, vcpu, &fault),
            Exit::NotOffered => self.raise(machine, me, vcpu, Exception::Undefined),
            Exit::SError { .. } => {
                self.report_crash(me, "an asynchronous abort (SError)", &exit);
                Outcome::of(Next::Stop(Stop::Crashed))
            }
            Exit::Unexpected { .. } => {
                self.report_crash(me, "an exit nobody asked for", &exit);
                Outcome::of(Next::Stop(Stop::Crashed))
            }
        }
    }

    /// An access that nothing answers, that is not allowed, or that cannot be decoded: the guest gets a synchronous external
    /// abort, as it would from an empty place on a bus, or has crashed, as its manifest says. Cache maintenance by
    /// address has nothing to do there.
    fn fault<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        fault: &StageTwoFault,
    ) -> Outcome {
        let (far, walk) = (fault.far, fault.walk);
        // Allowed after all: the mapping was being changed. The guest tries again. Where it may only read
        // and tried to write, it would try for ever.
        let found = fault.ipa.and_then(|ipa| self.stage2.lock().translate(ipa));
        let allowed = |to: Mapping| match walk {
            // RAM, where a block is split: a walk can always be done there.
            true => to.memory == MemoryType::Ram && to.perms == Perms::RWX,
            false => allows(to.perms, fault.source),
        };
        if found.is_some_and(allowed) {
            return Outcome::of(Next::Resume);
        }
        // RAM that was given up, and is used again. Maintenance has nothing to do there.
        if let Some(ipa) = fault.ipa.filter(|_| found.is_none())
            && (walk || fault.source != FaultSource::Maintenance)
            && let Some(filled) = self.fill(ipa)
        {
            return Outcome::of(match filled {
                Filled::There | Filled::More => Next::Resume,
                Filled::NoFrames => Next::Sleep,
            });
        }
        let exception = match fault.source {
            FaultSource::Maintenance if !walk => {
                vcpu.regs.skip_instruction();
                return Outcome::of(Next::Resume);
            }
            FaultSource::Fetch => Exception::InstructionAbort { far, walk },
            FaultSource::Data { write } => {
                let told = self.on_bad_access == OnBadAccess::Abort && !walk;
                if let Some(ipa) = fault.ipa.filter(|ipa| told && self.bus.answers(*ipa)) {
                    self.report_undecodable(me, &vcpu.regs, ipa);
                }
                Exception::DataAbort { far, walk, write }
            }
            // A write, as the manual has it for cache maintenance.
            FaultSource::Maintenance => Exception::DataAbort { far, walk, write: true },
        };
        if self.on_bad_access == OnBadAccess::Crash {
            self.report_crash(me, "an access that cannot be carried out", fault);
            return Outcome::of(Next::Stop(Stop::Crashed));
        }
        self.raise(machine, me, vcpu, exception)
    }

    /// Give the vCPU an exception. When that leads to the very instruction that caused it, the first of
    /// its vector, it would never end: a double fault, which is a crash.
    pub(super) fn raise<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        exception: Exception,
    ) -> Outcome {
        if machine.inject(&mut vcpu.regs, exception) {
            return Outcome::of(Next::Resume);
        }
        self.report_crash(me, "an exception in its own exception vector", &exception);
        Outcome::of(Next::Stop(Stop::Crashed))
    }

    /// A call to the firmware (SMCCC, DEN0028) by `HVC` or `SMC`.
    fn call<M: Machine>(
        &self,
        machine: &mut M,
        vcpu: &mut Vcpu,
        me: VcpuId,
        immediate: u16,
        smc: bool,
    ) -> Outcome {
        let regs = &mut vcpu.regs;
        if immediate != 0 {
            // SMCCC knows immediate 0 alone. HVC has advanced the PC already; the exception is taken
            // at the instruction.
            if !smc {
                regs.pc = regs.pc.wrapping_sub(4);
            }
            return self.raise(machine, me, vcpu, Exception::Undefined);
        }
        if smc {
            regs.skip_instruction();
        }
        let mut lifecycle = self.lifecycle.lock();
        let [x0, x1, x2, x3, x4, x5, x6, x7, ..] = regs.x;
        let response = smccc::call(
            &[x0, x1, x2, x3, x4, x5, x6, x7],
            me,
            lifecycle.power_mut(self.vcpus.len()),
            &Facts {
                ram: self.source.ram,
                stolen_time: super::layout::STOLEN_TIME.base,
                mitigations: self.mitigations,
            },
            &mut |bytes| self.entropy.lock().as_mut().map(|entropy| entropy.fill(bytes)).is_some(),
        );
        drop(lifecycle);
        for (register, result) in regs.x.iter_mut().zip(response.results()) {
            *register = *result;
        }
        match response.effect {
            Effect::None => Outcome::of(Next::Resume),
            Effect::CpuOn { target } => Outcome::of(Next::Start(target)),
            Effect::CpuOff => Outcome::of(Next::PowerDown),
            Effect::Suspend => {
                vcpu.waiting = true;
                Outcome::of(Next::Block)
            }
            Effect::SystemOff => Outcome::of(Next::Stop(Stop::Off)),
            Effect::SystemReset => Outcome::of(Next::Stop(Stop::Reset)),
        }
    }
}

/// Whether a page with these permissions lets the guest do what it tried.
const fn allows(perms: Perms, tried: FaultSource) -> bool {
    match tried {
        FaultSource::Data { write: true } => perms.write,
        FaultSource::Data { write: false } | FaultSource::Maintenance => perms.read,
        FaultSource::Fetch => perms.execute,
    }
}
