//! What each CPU needs against speculation that a guest steers (Spectre), decided from what the CPU and its firmware
//! say of themselves.
//!
//! Three weaknesses, as Arm's "Speculative Processor Vulnerability" has them: *branch targets* (Spectre-v2, CVE-2017-5715),
//! *branch history* (Spectre-BHB, CVE-2022-23960) and *store bypass* (variant 4, CVE-2018-3639). Against the first two something
//! is done each time that a guest is left, [`Entry`], before EL2 takes a branch whose target could be guessed; the third
//! is turned off, or is what a CPU's `PSTATE.SSBS` says. Every CPU is decided for itself, as machines have several kinds.
//!
//! [`errata()`] has what else CPUs are known for, and how it is seen to.
//!
//! Not decided here: variant 1, against which indexes are masked where they are used; variant 3, as EL2 has a translation
//! regime that no guest's accesses use; variant 3a, by which a guest may learn values of EL2's registers (Cortex-A57 and
//! A72): addresses, which are no secret.

mod cores;
mod errata;
mod firmware;
mod report;
#[cfg(test)]
mod tests;

pub use cores::Core;
pub use errata::{Errata, errata};
pub use firmware::{Answer, Firmware};
pub use report::{Line, lines};

use crate::firmware::smccc::{Mitigation, Mitigations};
use cores::Predictor;
use smccc::arch::{SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_3};

/// The registers of a CPU by which it is decided (Arm ARM, "AArch64 System register descriptions").
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Registers {
    /// `MIDR_EL1`.
    pub midr: u64,
    /// `ID_AA64PFR0_EL1`.
    pub pfr0: u64,
    /// `ID_AA64PFR1_EL1`.
    pub pfr1: u64,
    /// `ID_AA64ISAR2_EL1`.
    pub isar2: u64,
    /// `ID_AA64MMFR1_EL1`.
    pub mmfr1: u64,
}

impl Registers {
    /// `CSV2`: 1 or more, no code trains another context's branch targets; 3, nor by their history.
    const fn csv2(&self) -> u64 {
        field(self.pfr0, 56)
    }

    /// `SSBS`: `PSTATE.SSBS` lets stores be bypassed, or not.
    const fn has_ssbs(&self) -> bool {
        field(self.pfr1, 4) > 0
    }

    /// `CLRBHB`: there is an instruction that clears the branch history.
    const fn has_clrbhb(&self) -> bool {
        field(self.isar2, 28) > 0
    }

    /// `ECBHB`: branch history from before an exception to a higher level steers nothing behind it.
    const fn has_ecbhb(&self) -> bool {
        field(self.mmfr1, 60) > 0
    }
}

/// The four bits of an ID register from `low` on.
const fn field(register: u64, low: u8) -> u64 {
    register >> low & 0xf
}

/// What is done against a weakness.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// The CPU does not have it, or its firmware has seen to it for good.
    NotAffected,
    /// What happens at each entry from a guest ends it: [`Decision::entry`].
    AtEntry,
    /// It is turned off on this CPU for good.
    Off,
    /// `PSTATE.SSBS` says it: clear at EL2, and a guest's own affair in the guest.
    Register,
    /// It is open: nobody has what it takes.
    Open,
}

/// What happens on each entry to EL2 from a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entry {
    /// Nothing.
    Nothing,
    /// This function of the firmware is called: `SMCCC_ARCH_WORKAROUND_1` or `_3`.
    Firmware(u32),
    /// So many branches are taken, which fill the branch history.
    Branches(u8),
    /// `CLRBHB` is executed.
    Clear,
}

/// What was decided for one CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Which CPU it is.
    pub core: Core,
    /// Branch targets (Spectre-v2).
    pub branch_target: State,
    /// Branch history (Spectre-BHB).
    pub branch_history: State,
    /// Store bypass (variant 4).
    pub store_bypass: State,
    /// What happens at each entry from a guest.
    pub entry: Entry,
}

/// Decide for a CPU. `stores_in_order`: the hypervisor itself has turned store bypass off there.
pub fn decide(registers: &Registers, firmware: &Firmware, stores_in_order: bool) -> Decision {
    let core = Core::new(registers.midr);
    let predictor = core.predictor();
    let (branch_target, by_target) = branch_target(registers, predictor, firmware);
    let (branch_history, by_history) = branch_history(registers, predictor, firmware, by_target);
    let entry = match by_target {
        // Workaround 3 is workaround 1 as well.
        Entry::Firmware(_) if matches!(by_history, Entry::Firmware(_)) => by_history,
        Entry::Firmware(_) => by_target,
        _ => by_history,
    };
    let store_bypass = match firmware.workaround_2 {
        _ if registers.has_ssbs() => State::Register,
        _ if stores_in_order => State::Off,
        _ if predictor == Predictor::InOrder => State::NotAffected,
        Answer::NotNeeded => State::NotAffected,
        Answer::Callable => State::Off,
        Answer::Absent => State::Open,
    };
    Decision { core, branch_target, branch_history, store_bypass, entry }
}

fn branch_target(
    registers: &Registers,
    predictor: Predictor,
    firmware: &Firmware,
) -> (State, Entry) {
    if registers.csv2() >= 1 || predictor == Predictor::InOrder {
        return (State::NotAffected, Entry::Nothing);
    }
    match (firmware.workaround_1, firmware.workaround_3) {
        (Answer::NotNeeded, _) => (State::NotAffected, Entry::Nothing),
        (Answer::Callable, _) => (State::AtEntry, Entry::Firmware(SMCCC_ARCH_WORKAROUND_1)),
        (_, Answer::Callable) => (State::AtEntry, Entry::Firmware(SMCCC_ARCH_WORKAROUND_3)),
        _ => (State::Open, Entry::Nothing),
    }
}

fn branch_history(
    registers: &Registers,
    predictor: Predictor,
    firmware: &Firmware,
    by_target: Entry,
) -> (State, Entry) {
    let branches = match predictor {
        Predictor::InOrder => return (State::NotAffected, Entry::Nothing),
        Predictor::History(branches) => Some(branches),
        Predictor::FlushedWithTargets(branches) => match by_target {
            Entry::Firmware(_) if firmware.workaround_3 != Answer::Callable => {
                return (State::AtEntry, by_target);
            }
            _ => branches.filter(|_| registers.csv2() >= 1),
        },
        Predictor::Unknown => None,
    };
    if registers.csv2() >= 3 || registers.has_ecbhb() {
        return (State::NotAffected, Entry::Nothing);
    }
    // One thing is done at an entry: what is called for branch targets has to do for history, too.
    let free = by_target == Entry::Nothing;
    match branches {
        _ if registers.has_clrbhb() && free => (State::AtEntry, Entry::Clear),
        Some(branches) if free => (State::AtEntry, Entry::Branches(branches)),
        _ => match firmware.workaround_3 {
            Answer::Callable => (State::AtEntry, Entry::Firmware(SMCCC_ARCH_WORKAROUND_3)),
            // It says that the call does nothing for this CPU, not that branches would not.
            Answer::NotNeeded if branches.is_none() => (State::NotAffected, Entry::Nothing),
            _ => (State::Open, Entry::Nothing),
        },
    }
}

/// What guests are told, that may run on any of the CPUs.
pub fn for_guests(decisions: &[Decision]) -> Mitigations {
    let is = |state: fn(&Decision) -> State, wanted| {
        !decisions.is_empty() && decisions.iter().all(|decision| state(decision) == wanted)
    };
    let any = |wanted: fn(&Decision) -> bool| decisions.iter().any(wanted);
    let target = if any(|it| it.branch_target == State::Open) {
        Mitigation::Unknown
    } else if is(|it| it.branch_target, State::NotAffected) {
        Mitigation::NotNeeded
    } else if any(|it| matches!(it.entry, Entry::Firmware(_))) {
        Mitigation::Firmware
    } else {
        Mitigation::Unknown
    };
    // A guest on a CPU with a loop or CLRBHB has that itself: a call would do nothing for it.
    let history = if any(|it| it.branch_history == State::Open) {
        Mitigation::Unknown
    } else if is(|it| it.branch_history, State::NotAffected) {
        Mitigation::NotNeeded
    } else if any(|it| it.entry == Entry::Firmware(SMCCC_ARCH_WORKAROUND_3))
        && !any(|it| it.entry == Entry::Firmware(SMCCC_ARCH_WORKAROUND_1))
    {
        Mitigation::Firmware
    } else {
        Mitigation::Unknown
    };
    Mitigations {
        branch_target: target,
        store_bypass_not_needed: !decisions.is_empty()
            && !any(|it| matches!(it.store_bypass, State::Open | State::Register)),
        branch_history: history,
    }
}
