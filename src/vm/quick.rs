//! Exits that are answered at once: what the guest asked for touches nothing but this vCPU's registers, or what it
//! reads is where it is read from, and nobody has to be told.
//!
//! These are the exits of which there are many. Each gives what [`Vm::handle`] would have given, without asking
//! what else may have become necessary; the tests beside the answers compare the two. Whatever is not clear at
//! once is left to [`Vm::handle`], and nothing has changed then.

use super::Vm;
use super::layout::{GICD, GICR, VIRTUAL_TIMER_IRQ};
use super::mmio::Accessed;
use super::sysreg::{self, SysReg, names};
use crate::addr::Ipa;
use crate::exit::{Direction, Exit, Gpr, MmioAccess, Width};
use crate::firmware::smccc;
use crate::machine::Machine;
use crate::manifest::OnBadAccess;
use crate::vcpu::{Exception, GuestRegs, Vcpu, VcpuId, pstate};
use crate::vgic::{Frame, GICD_SGIR_OFFSET, GicVersion, IntId, Notify, SgiRegister, Vgic};
use crate::vm::tally::Reason;

/// What a quick answer comes to.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// What the exit was.
    pub reason: Reason,
    /// Other vCPUs that have to look at their interrupts.
    pub others: Notify,
    /// Whether a device was accessed.
    pub device: Touched,
}

/// Whether an exit has come to a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Touched {
    /// To none.
    Nothing,
    /// To one: the hypervisor's own work for it may be due earlier than before, and others' bells have been rung.
    Device,
    /// The same, and the device is itself due earlier.
    DueSooner,
}

impl Answer {
    const fn of(reason: Reason) -> Self {
        Self { reason, others: Notify::NONE, device: Touched::Nothing }
    }
}

/// Where `GICD_SGIR` is.
const SGIR: Ipa = Ipa::new(GICD.base.raw() + GICD_SGIR_OFFSET);

/// Where the interrupt controller's frames end and the devices begin.
const GIC_END: Ipa = Ipa::new(GICR.base.raw() + GICR.size);

impl Vm {
    /// Answer an exit of the loaded vCPU `me`, if that is quickly done. `None` when it is to be handled.
    #[inline(always)]
    pub fn answer<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        exit: Exit,
    ) -> Option<Answer> {
        let regs = &mut vcpu.regs;
        let (answered, reason) = match exit {
            Exit::Hvc(0) => (Self::answer_call(regs, false), Reason::Hvc),
            Exit::Smc(0) => (Self::answer_call(regs, true), Reason::Smc),
            Exit::Sysreg { iss } => match self.answer_sgi(machine, me, regs, iss) {
                Some(others) => return Some(Answer { others, ..Answer::of(Reason::Sysreg) }),
                None => (self.answer_register(regs, iss), Reason::Sysreg),
            },
            Exit::Mmio(access) => {
                if regs.pstate & pstate::AARCH32 != 0 {
                    return None;
                }
                if self.answer_word(machine, me, regs, &access) {
                    return Some(Answer::of(Reason::Mmio));
                }
                return self.answer_access(machine, me, vcpu, &access);
            }
            _ => return None,
        };
        answered.then_some(Answer::of(reason))
    }

    /// A write to `ICC_SGI1R_EL1` by the guest's kernel. Others that are to get the SGI.
    #[inline(always)]
    fn answer_sgi<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        regs: &mut GuestRegs,
        iss: u32,
    ) -> Option<Notify> {
        let (reg, direction, rt) = SysReg::from_iss(iss);
        let wanted = (reg, direction) == (names::ICC_SGI1R_EL1, sysreg::Direction::Write)
            && self.gic_version == GicVersion::V3
            && !pstate::is_el0(regs.pstate);
        if !wanted {
            return None;
        }
        let value = regs.read(Gpr::new(rt.into()));
        let mut vgic = self.vgic.lock();
        let notify = vgic.send_sgi(me, SgiRegister::Sgi1r, value);
        regs.skip_instruction();
        Some(Self::tell_me_first(&mut vgic, machine, me, notify))
    }

    /// A write to `GICD_SGIR`. Others that are to get the SGI.
    #[inline(always)]
    fn answer_sgir<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        regs: &GuestRegs,
        access: &MmioAccess,
    ) -> Notify {
        let mut vgic = self.vgic.lock();
        let notify = vgic.send_sgir(me, regs.read(access.gpr));
        Self::tell_me_first(&mut vgic, machine, me, notify)
    }

    /// An access to the interrupt controller or to a device.
    #[inline(always)]
    fn answer_access<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        access: &MmioAccess,
    ) -> Option<Answer> {
        if Self::is_big_endian(machine, &vcpu.regs) {
            return None;
        }
        let sgir = access.ipa == SGIR
            && access.direction == Direction::Write
            && access.width == Width::Word
            && self.gic_version == GicVersion::V2;
        let mut answer = Answer::of(Reason::Mmio);
        if sgir {
            answer.others = self.answer_sgir(machine, me, &vcpu.regs, access);
        } else if let Some(told) = self.answer_frame(machine, me, vcpu, access) {
            answer = told;
        } else {
            let write = access.direction == Direction::Write;
            let answered = self.answer_hole(machine, vcpu, access.ipa, access.far, write);
            return answered.then_some(answer);
        }
        vcpu.regs.skip_instruction();
        Some(answer)
    }

    /// The same, but for SGIs.
    #[inline(always)]
    fn answer_frame<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        access: &MmioAccess,
    ) -> Option<Answer> {
        let (ipa, width) = (access.ipa, access.width);
        if !ipa.is_aligned(width.bytes()) {
            return None;
        }
        let write = access.direction == Direction::Write;
        let value = if write { vcpu.regs.read(access.gpr) & width.mask() } else { 0 };
        if ipa >= GIC_END {
            let Accessed { notify: others, loaded, sooner } =
                self.answer_device(machine, me, ipa, width, write.then_some(value))?;
            if !write {
                vcpu.regs.write(access.gpr, access.extend(loaded));
            }
            let device = if sooner { Touched::DueSooner } else { Touched::Device };
            return Some(Answer { others, device, ..Answer::of(Reason::Mmio) });
        }
        let offset = ipa.raw().wrapping_sub(GICD.base.raw());
        let others = if write && offset < GICD.size && !Vgic::is_live(Frame::Distributor, offset) {
            self.answer_distributor(machine, me, offset, width, value)
        } else {
            // It decodes the access once more, so that here it need never be in memory.
            self.answer_other(machine, me, vcpu)?
        };
        Some(Answer { others, ..Answer::of(Reason::Mmio) })
    }

    /// A write to a register of the distributor that is about none of what list registers know better. Others that have to
    /// look at their interrupts.
    #[inline(never)]
    fn answer_distributor<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Notify {
        let mut vgic = self.vgic.lock();
        let mut notify = vgic.write(me, Frame::Distributor, offset, width, value);
        if vgic.wants_sync(me) {
            notify = notify | vgic.sync(me, machine.list_registers());
        }
        notify.without(me)
    }

    /// A load from a device, or a store of `value`. The vCPUs to be told are others.
    #[inline(never)]
    fn answer_device<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        ipa: Ipa,
        width: Width,
        value: Option<u64>,
    ) -> Option<Accessed> {
        let mut accessed = self.device_access(machine, me, ipa, width, value)?;
        accessed.notify = self.tell_first(machine, me, accessed.notify);
        Some(accessed)
    }

    /// If the loaded vCPU `me` is among those that have to look at their interrupts, it does so now. All others.
    #[inline]
    pub fn tell_first<M: Machine>(&self, machine: &mut M, me: VcpuId, notify: Notify) -> Notify {
        if !notify.contains(me) {
            return notify;
        }
        Self::tell_me_first(&mut self.vgic.lock(), machine, me, notify)
    }

    /// An access to where there is nothing: the guest gets an external abort, if that is all.
    #[cold]
    fn answer_hole<M: Machine>(
        &self,
        machine: &mut M,
        vcpu: &mut Vcpu,
        ipa: Ipa,
        far: u64,
        write: bool,
    ) -> bool {
        let nothing = ipa >= GIC_END && !self.bus.answers(ipa);
        // RAM that was given up comes back when it is used.
        let comes_back = self.elastic().is_some_and(|elastic| elastic.unit_of(ipa).is_some());
        if !nothing || comes_back || self.on_bad_access != OnBadAccess::Abort {
            return false;
        }
        // What is mapped by now, or was not to be written, is looked at more closely.
        if self.stage2.lock().translate(ipa).is_some() {
            return false;
        }
        let far = Some(far);
        machine.inject(&mut vcpu.regs, Exception::DataAbort { far, walk: false, write })
    }

    /// Any other access to the interrupt controller. Others that have to look at their interrupts.
    #[inline(never)]
    fn answer_other<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
    ) -> Option<Notify> {
        let Exit::Mmio(access) = machine.last_exit() else { return None };
        let place = self.gic_frame(access.ipa, access.width)?;
        let write = access.direction == Direction::Write;
        let value = write.then(|| access.stored(vcpu.regs.read(access.gpr)));
        let Accessed { notify, loaded, .. } =
            self.gic_access::<M, true>(machine, me, vcpu, place, access.width, value);
        if !write {
            vcpu.regs.write(access.gpr, access.extend(loaded));
        }
        Some(notify)
    }

    /// The same, with the vGIC in hand.
    #[inline(always)]
    fn tell_me_first<M: Machine>(
        vgic: &mut Vgic,
        machine: &mut M,
        me: VcpuId,
        notify: Notify,
    ) -> Notify {
        if !notify.contains(me) {
            return notify;
        }
        if vgic.sync_at_once(me, machine.list_registers()) {
            return notify.without(me);
        }
        let more = vgic.sync(me, machine.list_registers());
        (notify | more).without(me)
    }

    /// The virtual timer of the loaded vCPU `me` has fired. Others that have to look at their interrupts.
    #[inline(always)]
    pub fn virtual_timer_fired<M: Machine>(&self, machine: &mut M, me: VcpuId) -> Notify {
        let mut vgic = self.vgic.lock();
        if vgic.refire(me, VIRTUAL_TIMER_IRQ, machine.list_registers()) {
            return Notify::NONE;
        }
        let notify = vgic.set_level(me, VIRTUAL_TIMER_IRQ, true);
        Self::tell_me_first(&mut vgic, machine, me, notify)
    }

    /// The interrupt of a device of the VM's own has fired on the CPU that has the vCPU `me` loaded. Others that have to
    /// look at their interrupts.
    pub fn assigned_fired_here<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        intid: IntId,
    ) -> Notify {
        let mut vgic = self.vgic.lock();
        if vgic.refire(me, intid, machine.list_registers()) {
            return Notify::NONE;
        }
        let notify = vgic.raise(VcpuId(0), intid);
        Self::tell_me_first(&mut vgic, machine, me, notify)
    }

    /// Bring the list registers of the loaded vCPU `me` up to date, if some of its interrupts have fired again and
    /// no more has happened. Returns whether that was so.
    #[inline(always)]
    pub fn sync_at_once<M: Machine>(&self, machine: &mut M, me: VcpuId) -> bool {
        self.vgic.lock().sync_at_once(me, machine.list_registers())
    }

    /// The list registers of the loaded vCPU `me` want attention. Others that have to look at their interrupts.
    #[inline(always)]
    pub fn maintain<M: Machine>(&self, machine: &mut M, me: VcpuId) -> Notify {
        let mut vgic = self.vgic.lock();
        if vgic.end_at_once(me, machine.list_registers()) {
            return Notify::NONE;
        }
        vgic.sync(me, machine.list_registers()).without(me)
    }

    /// Bring the list registers of the loaded vCPU `me` up to date. Others that have to look at their interrupts.
    pub fn sync<M: Machine>(&self, machine: &mut M, me: VcpuId) -> Notify {
        self.vgic.lock().sync(me, machine.list_registers()).without(me)
    }

    #[inline(always)]
    fn answer_call(regs: &mut GuestRegs, smc: bool) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the function is w0")]
        let Some(answer) = smccc::answer(regs.x[0] as u32) else { return false };
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
    fn answer_word<M: Machine>(
        &self,
        machine: &M,
        me: VcpuId,
        regs: &mut GuestRegs,
        access: &MmioAccess,
    ) -> bool {
        let (Direction::Read { .. }, Width::Word) = (access.direction, access.width) else {
            return false;
        };
        if Self::is_big_endian(machine, regs) {
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
