//! The guest of a scripted CPU: its instructions, and what they do.

use core::sync::atomic::Ordering;

use super::{Scripted, Seen, register_of};
use crate::addr::Ipa;
use crate::exit::{Direction, Exit, FaultSource, Gpr, MmioAccess, StageTwoFault, Width};
use crate::machine::El1Register;
use crate::time::Ticks;
use crate::vcpu::{GuestRegs, pstate};
use crate::vgic::IntId;
use crate::vm::ptimer::virtual_count;
use crate::vm::sysreg::SysReg;

/// Where an interrupt is taken, from `VBAR_EL1`.
pub const IRQ_VECTOR: u64 = 0x280;
/// Where a synchronous exception is taken, from `VBAR_EL1`.
pub const SYNC_VECTOR: u64 = 0x200;
/// The register [`Op::Acknowledge`] writes and [`Op::EndOfInterrupt`] reads.
pub const INTID: u8 = 18;
/// The register that holds what is stored.
const STORED: u8 = 17;
/// The register that holds what is left of [`Op::Work`].
const LEFT: usize = 27;
/// `PSTATE.I`.
const MASK_IRQ: u64 = 1 << 7;
/// The longest [`Op::Work`] goes on without a look at interrupts.
const WORK: u64 = 64;

/// An instruction of a guest. Each takes a tick.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Op {
    /// Write a register.
    Mov(u8, u64),
    /// Write `x0` to `x3`, then `HVC #0`.
    Hvc([u64; 4]),
    /// Write `x0` to `x3`, then `SMC #0`.
    Smc([u64; 4]),
    /// A load into a register from where nothing is mapped.
    Load(u64, Width, u8),
    /// A store of a value to where nothing is mapped.
    Store(u64, Width, u64),
    /// A trapped `MRS` into a register.
    Mrs(SysReg, u8),
    /// A trapped `MSR` of a value.
    Msr(SysReg, u64),
    /// Write `VBAR_EL1`.
    SetVector(u64),
    /// Write another register of EL1.
    SetEl1(El1Register, u64),
    /// Write `CNTV_CTL_EL0`, and `CNTV_CVAL_EL0` with the count so many ticks from now.
    SetVirtualTimer(u64, u64),
    /// `WFI`.
    Wfi,
    /// `WFE`.
    Wfe,
    /// Keep the CPU busy for so many ticks.
    Work(u64),
    /// Branch to an address.
    Branch(u64),
    /// Branch to an address unless a register has this value.
    BranchUnless(u8, u64, u64),
    /// Clear `PSTATE.I`.
    Unmask,
    /// Set `PSTATE.I`.
    Mask,
    /// Read `IAR` into `x18`.
    Acknowledge,
    /// Write `x18` to `EOIR`.
    EndOfInterrupt,
    /// Return from an exception.
    Eret,
    /// Something that brings EL2 this exit.
    Exit(Exit),
    /// Cause an asynchronous abort that stays outstanding until the vCPU leaves the CPU.
    Abort,
    /// Leave a mark in the record.
    Mark(u64),
}

impl Scripted {
    /// End a `WFI` that is not trapped, if there is an interrupt: it is taken behind it.
    pub(super) fn wakes_up(&mut self, regs: &mut GuestRegs) -> bool {
        let wakes = self.interrupted() || self.interface.held().any(|lr| lr.state.is_pending());
        if wakes {
            regs.pc = regs.pc.wrapping_add(4);
        }
        wakes
    }

    /// Take a virtual interrupt or execute one instruction. `Some` when it brings the guest to EL2.
    pub(super) fn execute(&mut self, regs: &mut GuestRegs) -> Option<Exit> {
        if regs.pstate & MASK_IRQ == 0 && self.interface.signalled() {
            self.guest.el1.elr_el1 = regs.pc;
            self.guest.el1.spsr_el1 = regs.pstate;
            regs.pc = self.guest.el1.vbar_el1.wrapping_add(IRQ_VECTOR);
            regs.pstate |= pstate::DAIF;
        }
        let op = self.world.programs.lock().get(&(self.guest.vmid, regs.pc)).cloned();
        let Some(op) = op else {
            let (ipa, far) = (Some(Ipa::new(regs.pc)), Some(regs.pc));
            let source = FaultSource::Fetch;
            return Some(Exit::Fault(StageTwoFault { ipa, far, source, walk: false }));
        };
        let next = regs.pc.wrapping_add(4);
        match op {
            Op::Hvc(args) => {
                regs.x[..4].copy_from_slice(&args);
                regs.pc = next;
                return Some(Exit::Hvc(0));
            }
            Op::Smc(args) => {
                regs.x[..4].copy_from_slice(&args);
                return Some(Exit::Smc(0));
            }
            Op::Load(at, width, to) => {
                let direction = Direction::Read { sign_extend: false, sixty_four: true };
                return Some(mmio(at, width, direction, to));
            }
            Op::Store(at, width, value) => {
                regs.x[usize::from(STORED)] = value;
                return Some(mmio(at, width, Direction::Write, STORED));
            }
            Op::Mrs(reg, to) => return Some(sysreg(reg, to, true)),
            Op::Msr(reg, value) => {
                regs.x[usize::from(STORED)] = value;
                return Some(sysreg(reg, STORED, false));
            }
            Op::Wfi if self.guest.trap_wait => return Some(Exit::Wfi),
            Op::Wfe if self.guest.trap_wait => return Some(Exit::Wfe),
            Op::Wfi if !self.interface.held().any(|lr| lr.state.is_pending()) => {
                self.sleep();
                self.guest.waits = !self.wakes_up(regs);
                return Some(Exit::Irq);
            }
            Op::Exit(exit) => return Some(exit),
            other => regs.pc = self.perform(other, regs, next),
        }
        None
    }

    /// Execute an instruction that does not trap. Returns where to go on.
    fn perform(&mut self, op: Op, regs: &mut GuestRegs, next: u64) -> u64 {
        let now = self.world.now();
        match op {
            Op::Mov(to, value) => regs.write(Gpr::new(to.into()), value),
            Op::SetVector(base) => self.guest.el1.vbar_el1 = base,
            Op::SetEl1(register, value) => *register_of(&mut self.guest.el1, register) = value,
            Op::SetVirtualTimer(ctl, after) => {
                let count = virtual_count(now, self.guest.offset);
                self.guest.el1.cntv_cval_el0 = count.saturating_add(Ticks(after)).0;
                self.guest.el1.cntv_ctl_el0 = ctl;
            }
            Op::Work(ticks) => {
                let all = if regs.x[LEFT] == 0 { ticks } else { regs.x[LEFT] };
                let free = self.next_event().map_or(WORK, |at| at.since(now).0);
                let step = free.clamp(1, WORK).min(all);
                regs.x[LEFT] = all - step;
                self.world.clock.fetch_add(step.saturating_sub(1), Ordering::Relaxed);
                return if regs.x[LEFT] == 0 { next } else { regs.pc };
            }
            Op::Branch(to) => return to,
            Op::BranchUnless(reg, value, to) if regs.read(Gpr::new(reg.into())) != value => {
                return to;
            }
            Op::Unmask => regs.pstate &= !MASK_IRQ,
            Op::Mask => regs.pstate |= MASK_IRQ,
            Op::Acknowledge => {
                let taken = self.interface.acknowledge();
                let value = |(id, from): (IntId, u8)| u64::from(from) << 10 | u64::from(id.0);
                regs.x[usize::from(INTID)] = taken.map_or(1023, value);
                if let Some((intid, _)) = taken {
                    self.record(Seen::Took(intid));
                }
            }
            Op::EndOfInterrupt => {
                let [low, high, ..] = regs.x[usize::from(INTID)].to_le_bytes();
                self.interface.end(IntId(u16::from_le_bytes([low, high & 3])), high >> 2);
                self.hardware_deactivates();
            }
            Op::Eret => {
                regs.pstate = self.guest.el1.spsr_el1;
                return self.guest.el1.elr_el1;
            }
            Op::Abort => self.guest.abort = true,
            Op::Mark(mark) => self.record(Seen::Marked(mark)),
            // Those that trap, branches not taken, WFI and WFE that have nothing to wait for.
            _ => {}
        }
        next
    }
}

fn mmio(at: u64, width: Width, direction: Direction, gpr: u8) -> Exit {
    let gpr = Gpr::new(gpr.into());
    Exit::Mmio(MmioAccess { ipa: Ipa::new(at), far: at, width, direction, gpr, swapped: false })
}

/// The ISS that [`SysReg::from_iss`] reads.
fn sysreg(reg: SysReg, gpr: u8, read: bool) -> Exit {
    let field = |value: u8, shift: u32| u32::from(value) << shift;
    let iss = field(reg.op0(), 20)
        | field(reg.op2(), 17)
        | field(reg.op1(), 14)
        | field(reg.crn(), 10)
        | field(gpr, 5)
        | field(reg.crm(), 1)
        | u32::from(read);
    Exit::Sysreg { iss }
}
