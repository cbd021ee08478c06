//! What the firmware says that it can do, found out as the SMC Calling Convention (DEN0028, "Discovery of Arm Architecture
//! Calls") has it.

use smccc::arch::{
    SMCCC_ARCH_FEATURES, SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_2, SMCCC_ARCH_WORKAROUND_3,
    SMCCC_VERSION,
};
use smccc::psci::{PSCI_FEATURES, PSCI_VERSION};

/// What `SMCCC_ARCH_FEATURES` says of one workaround, on the CPU that asks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Answer {
    /// There is no such call.
    #[default]
    Absent,
    /// This CPU does not need it: it is not affected, or has been seen to for good.
    NotNeeded,
    /// It can be called and does something.
    Callable,
}

/// What the firmware says of each workaround.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Firmware {
    /// `SMCCC_ARCH_WORKAROUND_1`: branch targets.
    pub workaround_1: Answer,
    /// `SMCCC_ARCH_WORKAROUND_2`: store bypass.
    pub workaround_2: Answer,
    /// `SMCCC_ARCH_WORKAROUND_3`: branch history, and branch targets.
    pub workaround_3: Answer,
}

/// PSCI 1.0, the first with `PSCI_FEATURES`.
const PSCI_1_0: i32 = 0x1_0000;
/// SMCCC 1.1, the first with `SMCCC_ARCH_FEATURES` and that preserves x4 to x17.
const SMCCC_1_1: i32 = 0x1_0001;
/// `NOT_REQUIRED`, "Return codes": of workaround 2, that no CPU of the machine needs it.
const NOT_REQUIRED: i32 = -2;

impl Firmware {
    /// Ask by `call`, which takes a function and its first argument and returns w0.
    pub fn ask(mut call: impl FnMut(u32, u32) -> i32) -> Self {
        // A firmware that does not know a function need not say so before these versions.
        let knows = call(PSCI_VERSION, 0) >= PSCI_1_0
            && call(PSCI_FEATURES, SMCCC_VERSION) >= 0
            && call(SMCCC_VERSION, 0) >= SMCCC_1_1;
        if !knows {
            return Self::default();
        }
        let mut of = |function| match call(SMCCC_ARCH_FEATURES, function) {
            0 => Answer::Callable,
            NOT_REQUIRED if function == SMCCC_ARCH_WORKAROUND_2 => Answer::NotNeeded,
            1 => Answer::NotNeeded,
            _ => Answer::Absent,
        };
        Self {
            workaround_1: of(SMCCC_ARCH_WORKAROUND_1),
            workaround_2: of(SMCCC_ARCH_WORKAROUND_2),
            workaround_3: of(SMCCC_ARCH_WORKAROUND_3),
        }
    }
}
