//! What a guest's trapped system register access does (Arm ARM, "HCR_EL2", "MDCR_EL2", "CNTHCTL_EL2":
//! the trap bits).
//!
//! Anything not listed is UNDEFINED: what the ID registers hide (SVE, SME, PAuth keys, RAS `ERR*`, LORegions,
//! AMU, `SCXTNUM`, and the PMU as a whole, as `PMUVer` is 0), the IMPLEMENTATION DEFINED space (`CRn` 11
//! and 15), a read of a write-only register and a write of a read-only one. So is an access from EL0 to
//! a register of EL1: the hardware takes those to EL1 itself, and this file does not rely on it.
//! Not decided here: `CTR_EL0`, `CLIDR_EL1`, `CCSIDR_EL1`, `CSSELR_EL1` (`HCR_EL2.TID2` is off).

use super::{SysReg, names};
use crate::machine::El1Register;
use crate::vgic::{GicVersion, SgiRegister};
use crate::vm::debug::DebugReg;
use crate::vm::idregs::{self, IdRegs};
use crate::vm::ptimer::TimerReg;

/// Which way an access goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// `MRS`, `SYSL`.
    Read,
    /// `MSR`, `SYS`.
    Write,
}

/// The exception level the access came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GuestLevel {
    /// A process of the guest.
    El0,
    /// The guest's kernel.
    El1,
}

/// One trapped access.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    /// The register.
    pub reg: SysReg,
    /// Read or write.
    pub direction: Direction,
    /// From where.
    pub level: GuestLevel,
}

/// What the decisions depend on, fixed for a VM.
#[derive(Clone, Copy, Debug)]
pub struct TrapFacts<'a> {
    /// The ID registers of this VM.
    pub ids: &'a IdRegs,
    /// What `ACTLR_EL1` reads as.
    pub actlr: u64,
    /// The interrupt controller of this VM.
    pub gic: GicVersion,
}

/// Maintenance of the whole data cache by set and way (`HCR_EL2.TSW`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetWay {
    /// `DC ISW`.
    Invalidate,
    /// `DC CSW`.
    Clean,
    /// `DC CISW`.
    CleanInvalidate,
}

/// What the access does. The caller knows the direction and, for a write, the value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// `Rt` gets this.
    Read(u64),
    /// The write has no effect.
    Ignore,
    /// The guest takes an Undefined Instruction exception, `ESR_EL1.EC` 0; the PC does not advance.
    Undefined,
    /// Write: the value asks for software generated interrupts.
    Sgi(SgiRegister),
    /// The physical timer, either direction.
    PhysicalTimer(TimerReg),
    /// Read: `CNTPCT_EL0`.
    ReadCounter,
    /// A debug register of the vCPU, either direction.
    Debug(DebugReg),
    /// Write: cache maintenance.
    SetWay(SetWay),
    /// A stage-1 control, either direction.
    VmControl(El1Register),
}

/// `ICC_SRE_EL1` of a GICv3 guest: `SRE`, `DFB` and `DIB`, the system registers and nothing else.
const SRE_ALWAYS: u64 = 0b111;

/// Decides one access.
pub fn decide(access: Access, facts: &TrapFacts<'_>) -> Action {
    let Access { reg, direction, level } = access;
    // Every register and instruction that EL0 can be given has op1 3.
    if level == GuestLevel::El0 && reg.op1() != 3 {
        return Action::Undefined;
    }
    let rule = match reg.op0() {
        1 => set_way(reg),
        2 => debug(reg, facts),
        3 => other(reg, facts),
        _ => None,
    };
    match (rule, direction) {
        (Some(Rule::Both(action)), _)
        | (Some(Rule::ReadOnly(action)), Direction::Read)
        | (Some(Rule::WriteOnly(action)), Direction::Write)
        | (Some(Rule::IgnoresWrites(action)), Direction::Read) => action,
        (Some(Rule::IgnoresWrites(_)), Direction::Write) => Action::Ignore,
        (Some(Rule::ReadOnly(_) | Rule::WriteOnly(_)) | None, _) => Action::Undefined,
    }
}

/// A register's behaviour; the direction that is not allowed is UNDEFINED.
enum Rule {
    Both(Action),
    ReadOnly(Action),
    WriteOnly(Action),
    /// RO/WI.
    IgnoresWrites(Action),
}

use Rule::{Both, IgnoresWrites, ReadOnly, WriteOnly};

/// RAZ/WI.
const RAZ_WI: Rule = IgnoresWrites(Action::Read(0));

fn set_way(reg: SysReg) -> Option<Rule> {
    let kind = match reg {
        names::DC_ISW => SetWay::Invalidate,
        names::DC_CSW => SetWay::Clean,
        names::DC_CISW => SetWay::CleanInvalidate,
        _ => return None,
    };
    Some(WriteOnly(Action::SetWay(kind)))
}

fn debug(reg: SysReg, facts: &TrapFacts<'_>) -> Option<Rule> {
    Some(match reg {
        names::MDSCR_EL1 => Both(Action::Debug(DebugReg::Mdscr)),
        names::OSLAR_EL1 => WriteOnly(Action::Debug(DebugReg::OsLar)),
        names::OSLSR_EL1 => ReadOnly(Action::Debug(DebugReg::OsLsr)),
        names::DBGCLAIMSET_EL1 => Both(Action::Debug(DebugReg::ClaimSet)),
        names::DBGCLAIMCLR_EL1 => Both(Action::Debug(DebugReg::ClaimClr)),
        names::MDRAR_EL1 | names::DBGAUTHSTATUS_EL1 | names::MDCCSR_EL0 => {
            ReadOnly(Action::Read(0))
        }
        // No external debugger: the channel is empty, there is nothing to lock or to catch.
        names::OSDTRRX_EL1
        | names::OSDTRTX_EL1
        | names::MDCCINT_EL1
        | names::OSECCR_EL1
        | names::OSDLR_EL1
        | names::DBGPRCR_EL1
        | names::DBGDTR_EL0
        | names::DBGDTRXX_EL0 => RAZ_WI,
        _ => {
            names::numbered(reg)?;
            let (kind, n, count): (fn(u8) -> DebugReg, _, _) = match reg.op2() {
                4 => (DebugReg::Bvr, reg.crm(), facts.ids.breakpoints()),
                5 => (DebugReg::Bcr, reg.crm(), facts.ids.breakpoints()),
                6 => (DebugReg::Wvr, reg.crm(), facts.ids.watchpoints()),
                _ => (DebugReg::Wcr, reg.crm(), facts.ids.watchpoints()),
            };
            if n >= count {
                return None;
            }
            Both(Action::Debug(kind(n)))
        }
    })
}

fn other(reg: SysReg, facts: &TrapFacts<'_>) -> Option<Rule> {
    if idregs::is_id_register(reg) {
        return facts.ids.get(reg).map(|value| ReadOnly(Action::Read(value)));
    }
    if let Some(control) = vm_control(reg) {
        return Some(Both(Action::VmControl(control)));
    }
    let v3 = facts.gic == GicVersion::V3;
    Some(match reg {
        names::REVIDR_EL1 | names::AIDR_EL1 => ReadOnly(Action::Read(0)),
        names::ACTLR_EL1 => IgnoresWrites(Action::Read(facts.actlr)),
        names::ICC_SGI1R_EL1 if v3 => WriteOnly(Action::Sgi(SgiRegister::Sgi1r)),
        names::ICC_ASGI1R_EL1 if v3 => WriteOnly(Action::Sgi(SgiRegister::Asgi1r)),
        names::ICC_SGI0R_EL1 if v3 => WriteOnly(Action::Sgi(SgiRegister::Sgi0r)),
        names::ICC_SRE_EL1 if v3 => IgnoresWrites(Action::Read(SRE_ALWAYS)),
        names::CNTPCT_EL0 => ReadOnly(Action::ReadCounter),
        names::CNTP_TVAL_EL0 => Both(Action::PhysicalTimer(TimerReg::Tval)),
        names::CNTP_CTL_EL0 => Both(Action::PhysicalTimer(TimerReg::Ctl)),
        names::CNTP_CVAL_EL0 => Both(Action::PhysicalTimer(TimerReg::Cval)),
        _ => return None,
    })
}

const fn vm_control(reg: SysReg) -> Option<El1Register> {
    Some(match reg {
        names::SCTLR_EL1 => El1Register::Sctlr,
        names::TTBR0_EL1 => El1Register::Ttbr0,
        names::TTBR1_EL1 => El1Register::Ttbr1,
        names::TCR_EL1 => El1Register::Tcr,
        names::ESR_EL1 => El1Register::Esr,
        names::FAR_EL1 => El1Register::Far,
        names::AFSR0_EL1 => El1Register::Afsr0,
        names::AFSR1_EL1 => El1Register::Afsr1,
        names::MAIR_EL1 => El1Register::Mair,
        names::AMAIR_EL1 => El1Register::Amair,
        names::CONTEXTIDR_EL1 => El1Register::Contextidr,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
