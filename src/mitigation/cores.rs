//! Which CPUs there are, by `MIDR_EL1`, and how their branch predictors behave: Arm's "Speculative Processor Vulnerability",
//! tables for CVE-2017-5715 and CVE-2022-23960.

use core::fmt;

/// A CPU by its `MIDR_EL1` (Arm ARM, "MIDR_EL1, Main ID Register").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Core(u64);

/// How a branch predictor behaves, as far as a guest could steer what EL2 does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Predictor {
    /// It executes in order, and is in none of the tables of what is affected.
    InOrder,
    /// What firmware does about branch targets empties all of it, history too. Revisions that need no such call (`CSV2`) are
    /// steered by history all the same; so many branches fill it.
    FlushedWithTargets(Option<u8>),
    /// So many branches fill its history.
    History(u8),
    /// Nothing is known but what the CPU or its firmware says.
    Unknown,
}

use Predictor::{FlushedWithTargets, History, InOrder, Unknown};

const ARM: u64 = 0x41;
const AMPERE: u64 = 0xc0;

/// Implementer, part number, name, predictor.
const CORES: &[(u64, u64, &str, Predictor)] = &[
    (ARM, 0xd03, "Cortex-A53", InOrder),
    (ARM, 0xd04, "Cortex-A35", InOrder),
    (ARM, 0xd05, "Cortex-A55", InOrder),
    (ARM, 0xd07, "Cortex-A57", FlushedWithTargets(None)),
    (ARM, 0xd08, "Cortex-A72", FlushedWithTargets(Some(8))),
    (ARM, 0xd09, "Cortex-A73", Unknown), // workaround 3 alone
    (ARM, 0xd0a, "Cortex-A75", Unknown), // workaround 3 alone
    (ARM, 0xd0b, "Cortex-A76", History(24)),
    (ARM, 0xd0c, "Neoverse-N1", History(24)),
    (ARM, 0xd0d, "Cortex-A77", History(24)),
    (ARM, 0xd0e, "Cortex-A76AE", History(24)),
    (ARM, 0xd40, "Neoverse-V1", History(32)),
    (ARM, 0xd41, "Cortex-A78", History(32)),
    (ARM, 0xd42, "Cortex-A78AE", History(32)),
    (ARM, 0xd44, "Cortex-X1", History(32)),
    (ARM, 0xd46, "Cortex-A510", InOrder),
    (ARM, 0xd47, "Cortex-A710", History(32)),
    (ARM, 0xd48, "Cortex-X2", History(32)),
    (ARM, 0xd49, "Neoverse-N2", History(32)),
    (ARM, 0xd4b, "Cortex-A78C", History(32)),
    (ARM, 0xd4c, "Cortex-X1C", History(32)),
    (ARM, 0xd4d, "Cortex-A715", History(38)),
    (ARM, 0xd4e, "Cortex-X3", History(132)),
    (ARM, 0xd4f, "Neoverse-V2", History(132)),
    (ARM, 0xd80, "Cortex-A520", InOrder),
    (ARM, 0xd81, "Cortex-A720", History(38)),
    (AMPERE, 0xac3, "AmpereOne", History(11)),
];

impl Core {
    /// The CPU with this `MIDR_EL1`.
    pub const fn new(midr: u64) -> Self {
        Self(midr)
    }

    /// Whether it is Arm's own with this part number.
    pub(super) const fn is_arms(self, part: u64) -> bool {
        self.0 >> 24 & 0xff == ARM && self.0 >> 4 & 0xfff == part
    }

    /// The first number of a revision.
    pub(super) const fn variant(self) -> u64 {
        self.0 >> 20 & 0xf
    }

    fn known(self) -> Option<(&'static str, Predictor)> {
        let (implementer, part) = (self.0 >> 24 & 0xff, self.0 >> 4 & 0xfff);
        let mut known = CORES.iter();
        let &(_, _, name, predictor) = known.find(|it| (it.0, it.1) == (implementer, part))?;
        Some((name, predictor))
    }

    pub(super) fn predictor(self) -> Predictor {
        self.known().map_or(Unknown, |(_, predictor)| predictor)
    }
}

impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some((name, _)) => {
                write!(f, "{name} r{}p{}", self.variant(), self.0 & 0xf)
            }
            None => write!(f, "MIDR {:#x}", self.0),
        }
    }
}
