//! What is said of a guest that did something it cannot go on from: once, with its registers.

use core::fmt::Debug;

use log::Level;

use super::{Vm, dump};
use crate::addr::Ipa;
use crate::machine::{El1Register, Machine};
use crate::sync::atomic::Ordering;
use crate::vcpu::{GuestRegs, Vcpu, VcpuId, pstate};

/// After so many looks at a vCPU that cannot fetch its exception vector it is lost. One alone may be in
/// the middle of a change of the translation by another vCPU.
const LOOKS: u8 = 3;

/// The offsets within a vector table, and that of synchronous exceptions from EL1h (Arm ARM, "Exception
/// vectors").
const VECTORS: u64 = 0x7ff;
const SAME_LEVEL: u64 = 0x200;
/// `ESR_EL1.EC`: "Instruction Abort taken without a change in Exception level".
const FETCH_ABORT: u64 = 0x21;

impl Vm {
    /// Say why the VM is stopped. Its registers follow when they are out of the CPU: see
    /// [`report_culprit`](Self::report_culprit).
    pub(super) fn report_crash(&self, me: VcpuId, what: &str, cause: &dyn Debug) {
        log::error!("{}: vCPU {}: {what}: {cause:x?}", self.name, me.0);
        self.culprit.store(me.0 + 1, Ordering::Release);
    }

    /// The registers of a vCPU that has left its CPU, if it is the one that crashed.
    pub fn report_culprit(&self, me: VcpuId) {
        let culprit = me.0 + 1;
        let cleared =
            self.culprit.compare_exchange(culprit, 0, Ordering::AcqRel, Ordering::Acquire);
        if cleared.is_ok() {
            self.report_registers(me);
        }
    }

    /// The registers of a vCPU that is in no CPU.
    pub(super) fn report_registers(&self, me: VcpuId) {
        let Some(registers) = self.registers(me) else { return };
        dump::say(Level::Error, &registers.regs, Some(registers.system()));
    }

    /// Say that an access cannot be emulated: the syndrome tells no register (Arm ARM, "ISS encoding for
    /// an exception from a Data Abort", ISV). The guest is told by an external abort. It can do that as
    /// often as it likes, so this is said a few times only.
    pub(super) fn report_undecodable(&self, me: VcpuId, regs: &GuestRegs, ipa: Ipa) {
        const TIMES: u8 = 8;
        let said = |times: u8| (times < TIMES).then_some(times + 1);
        let before = self.complaints.fetch_update(Ordering::Relaxed, Ordering::Relaxed, said);
        if before.is_ok() {
            log::warn!(
                "{}: vCPU {}: no such access to a device at {ipa}: aborted",
                self.name,
                me.0
            );
            dump::say(Level::Warn, regs, None);
        }
    }

    /// Say that a vCPU caused an asynchronous abort that cannot be given to it any more.
    pub fn report_serror(&self, me: VcpuId) {
        self.report_crash(
            me,
            "an asynchronous abort (SError) when it left its CPU",
            &"outstanding",
        );
        self.report_culprit(me);
    }

    /// Whether [`Self::is_lost`] has to look closer: the next instruction may be that of a vector.
    #[inline(always)]
    pub const fn may_be_lost(regs: &GuestRegs) -> bool {
        regs.pc & VECTORS == SAME_LEVEL
    }

    /// Whether the loaded vCPU can never go on, and that has been said: the fetch of the vector for a fault
    /// faults, so the next instruction is always that one. Asked when something interrupts it, for
    /// nothing else brings it to EL2.
    pub fn is_lost<M: Machine>(&self, machine: &M, me: VcpuId, vcpu: &mut Vcpu) -> bool {
        let pc = vcpu.regs.pc;
        let stuck = Self::may_be_lost(&vcpu.regs)
            && vcpu.regs.pstate & pstate::MODE == pstate::EL1H
            && machine.vector_base().0 == pc - SAME_LEVEL
            && machine.read_el1(El1Register::Elr) == pc
            && machine.read_el1(El1Register::Far) == pc
            && machine.read_el1(El1Register::Esr) >> 26 == FETCH_ABORT;
        vcpu.lost = if stuck { vcpu.lost.saturating_add(1) } else { 0 };
        if vcpu.lost < LOOKS {
            return false;
        }
        self.report_crash(me, "its exception vector cannot be fetched at", &pc);
        true
    }
}
