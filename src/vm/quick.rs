//! Exits that are answered at once: what the guest asked for touches nothing but this vCPU's registers, or what it
//! reads is where it is read from, and nobody has to be told.
//!
//! These are the exits of which there are many. Each gives what [`Vm::handle`] would have given, without asking
//! what else may have become necessary; the tests beside the answers compare the two. Whatever is not clear at
//! once is left to [`Vm::handle`], and nothing has changed then.

use super::Vm;
use super::layout::GICD;
use crate::exit::{Direction, Exit, MmioAccess, Width};
use crate::firmware::smccc;
use crate::machine::Machine;
use crate::vcpu::{GuestRegs, VcpuId, pstate};
use crate::vgic::Vgic;
use crate::vm::tally::Reason;

impl Vm {
    /// Answer an exit of the loaded vCPU `me`, if that is quickly done, and say what it was.
    ///
    /// # Errors
    /// The exit, to be handled.
    #[inline(always)]
    pub fn answer<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        regs: &mut GuestRegs,
        exit: Exit,
    ) -> Result<Reason, Exit> {
        let (answered, reason) = match exit {
            Exit::Hvc(0) => (Self::answer_call(regs, false), Reason::Hvc),
            Exit::Smc(0) => (Self::answer_call(regs, true), Reason::Smc),
            Exit::Sysreg { iss } => (self.answer_register(regs, iss), Reason::Sysreg),
            Exit::Mmio(access) => (self.answer_access(machine, me, regs, &access), Reason::Mmio),
            _ => return Err(exit),
        };
        if answered { Ok(reason) } else { Err(exit) }
    }

    #[inline(always)]
    fn answer_call(regs: &mut GuestRegs, smc: bool) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the function is w0")]
        let Some(answer) = smccc::answer(regs.x[0] as u32) else { return false };
        if regs.pstate & pstate::AARCH32 != 0 {
            return false;
        }
        regs.x[0] = answer;
        if smc {
            regs.skip_instruction();
        }
        true
    }

    /// A read of an ID register by the guest's kernel.
    #[inline(always)]
    fn answer_register(&self, regs: &mut GuestRegs, iss: u32) -> bool {
        if pstate::is_el0(regs.pstate) {
            return false;
        }
        let Some((value, gpr)) = self.id_registers.answer(iss) else { return false };
        regs.write(gpr, value);
        regs.skip_instruction();
        true
    }

    /// A read of a word that reading does not change.
    #[inline(always)]
    fn answer_access<M: Machine>(
        &self,
        machine: &M,
        me: VcpuId,
        regs: &mut GuestRegs,
        access: &MmioAccess,
    ) -> bool {
        let (Direction::Read { .. }, Width::Word) = (access.direction, access.width) else {
            return false;
        };
        if regs.pstate & pstate::AARCH32 != 0 || Self::is_big_endian(machine, regs) {
            return false;
        }
        let offset = access.ipa.offset_from(GICD.base);
        let value = match offset.filter(|offset| *offset < GICD.size) {
            Some(offset) => Vgic::identity(offset).or_else(|| self.vgic.lock().peek(me, offset)),
            None => self.bus.peek(access.ipa),
        };
        let Some(value) = value else { return false };
        regs.write(access.gpr, access.extend(value.into()));
        regs.skip_instruction();
        true
    }
}
