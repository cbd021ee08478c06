//! The Power State Coordination Interface (DEN0022, version 1.1): a guest turns its vCPUs and its
//! machine on and off.
//!
//! vCPU `n` has affinity level 0 equal to `n` and all higher levels zero. A vCPU that is turned on
//! becomes [`Power::OnPending`]; it becomes [`Power::On`] itself, by [`Power::take_start`], so that
//! only the CPU that runs it ever touches its registers.
//!
//! `CPU_SUSPEND` is a wait for an interrupt for both kinds of state: the interface lets a powerdown
//! request return as a standby one does, with all state intact, instead of at its entry point. Only
//! level 0 exists. Not offered: migration of a trusted OS (there is none), `SYSTEM_SUSPEND`,
//! `CPU_FREEZE`, `CPU_DEFAULT_SUSPEND`, `NODE_HW_STATE`, statistics, `MEM_PROTECT`, and the
//! platform-defined identifiers of version 0.1.

use serde::{Deserialize, Serialize};
use smccc::arch::SMCCC_VERSION;
use smccc::psci::error::{
    ALREADY_ON, INTERNAL_FAILURE, INVALID_ADDRESS, INVALID_PARAMETERS, NOT_SUPPORTED, ON_PENDING,
    SUCCESS,
};
use smccc::psci::{
    PSCI_AFFINITY_INFO_32, PSCI_AFFINITY_INFO_64, PSCI_CPU_OFF, PSCI_CPU_ON_32, PSCI_CPU_ON_64,
    PSCI_CPU_SUSPEND_32, PSCI_CPU_SUSPEND_64, PSCI_FEATURES, PSCI_MIGRATE_INFO_TYPE,
    PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_SYSTEM_RESET2_32, PSCI_SYSTEM_RESET2_64, PSCI_VERSION,
};

use super::smccc::{Call, Effect, Response};
use crate::addr::{Ipa, Region};
use crate::speculation;
use crate::vcpu::VcpuId;

/// What `PSCI_VERSION` answers: 1.1.
pub(super) const VERSION: u64 = 0x1_0001;
/// `MIGRATE_INFO_TYPE`: there is no trusted OS, or it needs no migration.
const MIGRATION_NOT_REQUIRED: u64 = 2;
/// `AFFINITY_INFO`: at least one core of the node is on.
const AFFINITY_ON: u64 = 0;
/// `AFFINITY_INFO`: all cores of the node are off.
const AFFINITY_OFF: u64 = 1;
/// `AFFINITY_INFO`: a core of the node is about to be on.
const AFFINITY_ON_PENDING: u64 = 2;
/// The affinity fields of a `target_cpu`: Aff3 in bits 39 to 32, Aff2 to Aff0 in bits 23 to 0.
const AFFINITY_FIELDS: u64 = 0xff_00ff_ffff;
/// `power_state`, original format: what must be zero.
const POWER_STATE_RESERVED: u32 = 0xfcfe_0000;
/// `power_state`, original format: the power level.
const POWER_STATE_LEVEL: u32 = 3 << 24;
/// `power_state`, original format: powerdown rather than standby.
const POWER_STATE_POWERDOWN: u32 = 1 << 16;
/// `SYSTEM_RESET2`: the one architectural type, `SYSTEM_WARM_RESET`.
const SYSTEM_WARM_RESET: u32 = 0;

/// Whether a vCPU runs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Power {
    /// It does not, until somebody turns it on.
    #[default]
    Off,
    /// It has been turned on and has not yet started.
    OnPending {
        /// Where it starts.
        entry: Ipa,
        /// What it finds in x0.
        context_id: u64,
    },
    /// It does.
    On,
}

/// How a vCPU starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Start {
    /// Where.
    pub entry: Ipa,
    /// What it finds in x0.
    pub context_id: u64,
}

impl Power {
    /// The vCPU's own step from `OnPending` to `On`: how it has to start. `None`, and no change, in
    /// any other state.
    pub fn take_start(&mut self) -> Option<Start> {
        match *self {
            Self::OnPending { entry, context_id } => {
                *self = Self::On;
                Some(Start { entry, context_id })
            }
            Self::Off | Self::On => None,
        }
    }
}

/// Answers a call of this interface; `None` for any other.
pub fn call(
    call: &Call,
    caller: VcpuId,
    power: &mut [Power],
    ram: Region<Ipa>,
) -> Option<Response> {
    let [first, second, third, ..] = call.args;
    Some(match call.function.0 {
        PSCI_VERSION => Response::value(VERSION),
        PSCI_FEATURES => features(call.first_word()),
        PSCI_CPU_ON_32 | PSCI_CPU_ON_64 => cpu_on(first, Ipa::new(second), third, power, ram),
        PSCI_CPU_OFF => cpu_off(caller, power),
        PSCI_CPU_SUSPEND_32 | PSCI_CPU_SUSPEND_64 => {
            cpu_suspend(call.first_word(), Ipa::new(second), ram)
        }
        PSCI_AFFINITY_INFO_32 | PSCI_AFFINITY_INFO_64 => affinity_info(first, second, power),
        PSCI_MIGRATE_INFO_TYPE => Response::value(MIGRATION_NOT_REQUIRED),
        PSCI_SYSTEM_OFF => Response::never(Effect::SystemOff),
        PSCI_SYSTEM_RESET => Response::never(Effect::SystemReset),
        PSCI_SYSTEM_RESET2_32 | PSCI_SYSTEM_RESET2_64 => match call.first_word() {
            SYSTEM_WARM_RESET => Response::never(Effect::SystemReset),
            // Bit 31 asks for a vendor's reset; no vendor's and no other architectural one exists.
            _ => Response::code(INVALID_PARAMETERS),
        },
        _ => return None,
    })
}

/// `PSCI_FEATURES`. The flags of `CPU_SUSPEND` are zero as well: original `power_state` format, and
/// no OS-initiated mode.
fn features(function: u32) -> Response {
    match function {
        PSCI_VERSION
        | PSCI_FEATURES
        | PSCI_CPU_ON_32
        | PSCI_CPU_ON_64
        | PSCI_CPU_OFF
        | PSCI_CPU_SUSPEND_32
        | PSCI_CPU_SUSPEND_64
        | PSCI_AFFINITY_INFO_32
        | PSCI_AFFINITY_INFO_64
        | PSCI_MIGRATE_INFO_TYPE
        | PSCI_SYSTEM_OFF
        | PSCI_SYSTEM_RESET
        | PSCI_SYSTEM_RESET2_32
        | PSCI_SYSTEM_RESET2_64
        | SMCCC_VERSION => Response::code(SUCCESS),
        _ => Response::code(NOT_SUPPORTED),
    }
}

/// `CPU_ON`. Mistakes are reported in the order of the arguments, before the target's state.
fn cpu_on(
    target: u64,
    entry: Ipa,
    context_id: u64,
    power: &mut [Power],
    ram: Region<Ipa>,
) -> Response {
    // All of the argument is compared: a reserved bit or a higher affinity level names no vCPU.
    let state = usize::try_from(target).ok();
    let state = state.and_then(|index| speculation::get_mut(power, index));
    let (Some(state), Ok(id)) = (state, u8::try_from(target)) else {
        return Response::code(INVALID_PARAMETERS);
    };
    if !is_entry(entry, ram) {
        return Response::code(INVALID_ADDRESS);
    }
    match state {
        Power::On => Response::code(ALREADY_ON),
        Power::OnPending { .. } => Response::code(ON_PENDING),
        Power::Off => {
            *state = Power::OnPending { entry, context_id };
            Response::code(SUCCESS).with(Effect::CpuOn { target: VcpuId(id) })
        }
    }
}

fn cpu_off(caller: VcpuId, power: &mut [Power]) -> Response {
    match power.get_mut(usize::from(caller.0)) {
        Some(state) => {
            *state = Power::Off;
            Response::never(Effect::CpuOff)
        }
        None => Response::code(INTERNAL_FAILURE),
    }
}

fn cpu_suspend(power_state: u32, entry: Ipa, ram: Region<Ipa>) -> Response {
    if power_state & (POWER_STATE_RESERVED | POWER_STATE_LEVEL) != 0 {
        return Response::code(INVALID_PARAMETERS);
    }
    if power_state & POWER_STATE_POWERDOWN != 0 && !is_entry(entry, ram) {
        return Response::code(INVALID_ADDRESS);
    }
    Response::code(SUCCESS).with(Effect::Suspend)
}

/// `AFFINITY_INFO`. Levels above 0 name the nodes that hold every vCPU.
fn affinity_info(target: u64, lowest_level: u64, power: &[Power]) -> Response {
    if target & !AFFINITY_FIELDS != 0 {
        return Response::code(INVALID_PARAMETERS);
    }
    let (ignored, level_0) = match lowest_level {
        0 => (0, true),
        1 => (0xff, false),
        2 => (0xffff, false),
        3 => (0xff_ffff, false),
        _ => return Response::code(INVALID_PARAMETERS),
    };
    let node = target & !ignored;
    let members = if level_0 {
        let index = usize::try_from(node).ok();
        index.and_then(|index| speculation::get(power, index)).map(core::slice::from_ref)
    } else {
        (node == 0).then_some(power)
    };
    let Some(members) = members else {
        return Response::code(INVALID_PARAMETERS);
    };
    let pending = |state: &Power| matches!(state, Power::OnPending { .. });
    Response::value(if members.contains(&Power::On) {
        AFFINITY_ON
    } else if members.iter().any(pending) {
        AFFINITY_ON_PENDING
    } else {
        AFFINITY_OFF
    })
}

/// Whether a vCPU can start at `entry`: an A64 instruction in RAM.
fn is_entry(entry: Ipa, ram: Region<Ipa>) -> bool {
    entry.is_aligned(4) && ram.contains_bytes(entry, 4)
}

#[cfg(test)]
mod tests;
