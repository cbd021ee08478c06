//! The SMC Calling Convention (DEN0028, version 1.2) as a guest's `HVC #0` and `SMC #0` see it.
//!
//! [`call`] decides purely: from the registers and the VM's power states to result registers and an
//! [`Effect`], which the caller performs. Registers that a [`Response`] does not name keep their
//! values: version 1.1 and later of the convention promise that x4 to x17 are preserved, and only
//! x0 to x3 are ever written here.
//!
//! Offered: the Arm architecture calls, [`psci`], [`pvtime`], [`trng`], and the identity of the hypervisor.
//! Everything else is `NOT_SUPPORTED`, also every function with the SVE hint of version 1.3.

use smccc::arch::{
    SMCCC_ARCH_FEATURES, SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_2, SMCCC_ARCH_WORKAROUND_3,
    SMCCC_VERSION,
};

use super::psci::{self, Power};
use super::pvtime::{self, PV_TIME_FEATURES};
use super::trng;
use crate::addr::{Ipa, Region};
use crate::vcpu::VcpuId;

/// What `SMCCC_VERSION` answers: 1.2.
const VERSION: u64 = 0x1_0002;
/// `NOT_SUPPORTED`, "Return codes": also the answer to an unknown function.
pub(super) const NOT_SUPPORTED: i32 = -1;
/// `NOT_REQUIRED`, "Return codes".
const NOT_REQUIRED: i32 = -2;
/// `SMCCC_ARCH_FEATURES` of a workaround: callable, but this PE does not need it.
const IMPLEMENTED_NOT_NEEDED: u64 = 1;

/// "General service queries", Vendor Specific Hypervisor Service: Call UID.
const VENDOR_HYP_UID: u32 = 0x8600_ff01;
/// "General service queries", Vendor Specific Hypervisor Service: Revision.
const VENDOR_HYP_REVISION: u32 = 0x8600_ff03;
/// The major and minor revision of Plinth's own hypercalls.
const VENDOR_HYP_VERSION: (u64, u64) = (0, 1);

/// The UUID by which a guest knows Plinth: e6ef8760-1356-4f20-b490-6d097d14fa7c, in the order of its
/// text.
pub const PLINTH_UID: [u8; 16] = [
    0xe6, 0xef, 0x87, 0x60, 0x13, 0x56, 0x4f, 0x20, 0xb4, 0x90, 0x6d, 0x09, 0x7d, 0x14, 0xfa, 0x7c,
];

/// A function identifier, "Function identifiers": what w0 holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FunctionId(pub u32);

impl FunctionId {
    /// Whether arguments and results are 64 bits wide: bit 30.
    pub const fn is_64bit(self) -> bool {
        self.0 & 1 << 30 != 0
    }
}

/// One call: the function and its arguments, as wide as the function's convention makes them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Call {
    /// The function.
    pub function: FunctionId,
    /// x1 to x7, or w1 to w7 for a 32-bit function.
    pub args: [u64; 7],
}

impl Call {
    /// The call that x0 to x7 make.
    #[allow(clippy::cast_possible_truncation)] // The identifier is w0: the upper half is ignored.
    pub fn new(registers: &[u64; 8]) -> Self {
        let [x0, args @ ..] = *registers;
        let function = FunctionId(x0 as u32);
        let width = if function.is_64bit() { u64::MAX } else { u64::from(u32::MAX) };
        Self { function, args: args.map(|arg| arg & width) }
    }

    /// The first argument of a function whose first argument has 32 bits in either convention.
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn first_word(&self) -> u32 {
        self.args[0] as u32
    }
}

/// What is to be done after a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Nothing: the vCPU goes on.
    None,
    /// `target` has become [`Power::OnPending`]: it has to be woken, and starts with
    /// [`Power::take_start`].
    CpuOn {
        /// The vCPU to wake.
        target: VcpuId,
    },
    /// The caller has become [`Power::Off`] and does not return from this call.
    CpuOff,
    /// The caller waits for an interrupt, as with `WFI`, and then returns from this call.
    Suspend,
    /// The VM ends.
    SystemOff,
    /// The VM starts again from its beginning.
    SystemReset,
}

/// What is known about one speculation weakness of the CPUs that run this VM.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mitigation {
    /// Nothing is known, or nothing can be done.
    #[default]
    Unknown,
    /// No CPU that may run this VM has the weakness.
    NotNeeded,
    /// The machine's firmware has the workaround, and the hypervisor calls it on each CPU that needs it whenever a guest exits:
    /// when a guest's own call is answered, that has been done.
    Firmware,
}

/// What is known about the CPUs' speculation weaknesses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Mitigations {
    /// `SMCCC_ARCH_WORKAROUND_1`.
    pub branch_target: Mitigation,
    /// Whether `SMCCC_ARCH_WORKAROUND_2` (speculative store bypass) is known not to be needed: no CPU has the weakness, or it is
    /// turned off for good.
    pub store_bypass_not_needed: bool,
    /// `SMCCC_ARCH_WORKAROUND_3`.
    pub branch_history: Mitigation,
}

/// What stays the same over a VM's life and calls depend on.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The VM's RAM.
    pub ram: Region<Ipa>,
    /// Where the vCPUs' stolen time structures begin ([`pvtime`]).
    pub stolen_time: Ipa,
    /// The CPUs' speculation weaknesses.
    pub mitigations: Mitigations,
}

/// What a call returns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Response {
    results: [u64; 4],
    count: usize,
    /// What is to be done.
    pub effect: Effect,
}

impl Response {
    /// The values for x0 and the registers after it; all others stay as they are. None for a call
    /// that does not return.
    pub fn results(&self) -> &[u64] {
        self.results.get(..self.count).unwrap_or(&self.results)
    }

    /// One result.
    pub(super) const fn value(value: u64) -> Self {
        Self { results: [value, 0, 0, 0], count: 1, effect: Effect::None }
    }

    /// One result that may be an error: sign-extended to 64 bits whatever the convention, so that a
    /// caller may test the whole register.
    pub(super) fn code(code: i32) -> Self {
        Self::value(i64::from(code).cast_unsigned())
    }

    /// x0 to x3.
    pub(super) const fn four(results: [u64; 4]) -> Self {
        Self { results, count: 4, effect: Effect::None }
    }

    /// A 128-bit identifier in w0 to w3: each takes four bytes, the first in the lowest bits.
    pub(super) fn uuid(uuid: [u8; 16]) -> Self {
        let mut results = [0; 4];
        for (result, bytes) in results.iter_mut().zip(uuid.as_chunks::<4>().0) {
            *result = u64::from(u32::from_le_bytes(*bytes));
        }
        Self::four(results)
    }

    pub(super) const fn with(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    /// Nothing: the call does not return.
    pub(super) const fn never(effect: Effect) -> Self {
        Self { results: [0; 4], count: 0, effect }
    }
}

/// Answers the call that `registers` (x0 to x7) make.
///
/// `power` has the power state of every vCPU of the VM, by index. `entropy` fills a buffer with
/// random bytes, or returns false when it has none.
pub fn call(
    registers: &[u64; 8],
    caller: VcpuId,
    power: &mut [Power],
    facts: &Facts,
    entropy: &mut dyn FnMut(&mut [u8]) -> bool,
) -> Response {
    let call = Call::new(registers);
    architecture(&call, &facts.mitigations)
        .or_else(|| psci::call(&call, caller, power, facts.ram))
        .or_else(|| pvtime::call(&call, caller, facts.stolen_time))
        .or_else(|| trng::call(&call, entropy))
        .or_else(|| identity(call.function))
        .unwrap_or(Response::code(NOT_SUPPORTED))
}

/// What [`call`] answers in x0, and nothing else, whoever asks and whatever the arguments and the state of the VM:
/// for `PSCI_VERSION` and all that nobody has. `None` where [`call`] has to be asked.
#[inline(always)]
pub fn answer(function: u32) -> Option<u64> {
    const UNKNOWN: u64 = NOT_SUPPORTED as i64 as u64;
    if function == smccc::psci::PSCI_VERSION {
        return Some(psci::VERSION);
    }
    (!is_known(function)).then_some(UNKNOWN)
}

/// Whether somebody may have the function. By ranges of numbers in which functions are: what is left costs a guest
/// that probes for it no more than an instruction or two.
#[inline]
const fn is_known(function: u32) -> bool {
    const SMC64: u32 = 1 << 30;
    matches!(
        function & !SMC64,
        0x8000_0000..=0x8000_ffff // the Arm architecture
        | 0x8400_0000..=0x8400_00ff // standard secure services: PSCI, TRNG
        | 0x8500_0000..=0x8500_00ff // standard hypervisor services: stolen time
        | VENDOR_HYP_UID..=VENDOR_HYP_REVISION
    )
}

/// "Arm Architecture Calls". `SMCCC_ARCH_SOC_ID` is not among them: a virtual machine has no SoC.
fn architecture(call: &Call, mitigations: &Mitigations) -> Option<Response> {
    Some(match call.function.0 {
        SMCCC_VERSION => Response::value(VERSION),
        SMCCC_ARCH_FEATURES => features(call.first_word(), mitigations),
        SMCCC_ARCH_WORKAROUND_1 => run(mitigations.branch_target),
        SMCCC_ARCH_WORKAROUND_3 => run(mitigations.branch_history),
        _ => return None,
    })
}

/// `SMCCC_ARCH_FEATURES`.
fn features(function: u32, mitigations: &Mitigations) -> Response {
    let of = |mitigation| match mitigation {
        Mitigation::Unknown => Response::code(NOT_SUPPORTED),
        Mitigation::NotNeeded => Response::value(IMPLEMENTED_NOT_NEEDED),
        Mitigation::Firmware => Response::value(0),
    };
    match function {
        // DEN0057: by this a caller learns that it may ask PV_TIME_FEATURES about the rest.
        SMCCC_VERSION | SMCCC_ARCH_FEATURES | PV_TIME_FEATURES => Response::value(0),
        SMCCC_ARCH_WORKAROUND_1 => of(mitigations.branch_target),
        SMCCC_ARCH_WORKAROUND_2 if mitigations.store_bypass_not_needed => {
            Response::code(NOT_REQUIRED)
        }
        SMCCC_ARCH_WORKAROUND_3 => of(mitigations.branch_history),
        _ => Response::code(NOT_SUPPORTED),
    }
}

/// A workaround that is called: the exit has done it, or nobody can.
fn run(mitigation: Mitigation) -> Response {
    match mitigation {
        Mitigation::Unknown => Response::code(NOT_SUPPORTED),
        Mitigation::NotNeeded | Mitigation::Firmware => Response::value(0),
    }
}

/// Who this hypervisor is, and which of its own hypercalls it has.
fn identity(function: FunctionId) -> Option<Response> {
    match function.0 {
        VENDOR_HYP_UID => Some(Response::uuid(PLINTH_UID)),
        VENDOR_HYP_REVISION => {
            let (major, minor) = VENDOR_HYP_VERSION;
            Some(Response { results: [major, minor, 0, 0], count: 2, effect: Effect::None })
        }
        _ => None,
    }
}

#[cfg(test)]
mod exhaustive;

#[cfg(test)]
mod tests;
