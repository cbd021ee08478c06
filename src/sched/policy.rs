//! How a VM is to share the CPUs: what a manifest says, and the monitor changes.
//!
//! Weight and cap are the whole VM's, as in Xen's credit scheduler: a VM's weight is divided among those of
//! its vCPUs that want to run. A reservation is each vCPU's own, a constant bandwidth server (Abeni and
//! Buttazzo, "Integrating Multimedia Applications in Hard Real-Time Systems").

use serde::{Deserialize, Serialize};

use crate::machine::CpuId;

/// The weight of a VM whose manifest names none.
pub const DEFAULT_WEIGHT: u16 = 100;
/// The largest weight; the smallest is 1.
pub const MAX_WEIGHT: u16 = 10_000;
/// The shortest and the longest period of a reservation, in microseconds.
pub const PERIOD_MICROS: core::ops::RangeInclusive<u32> = 500..=1_000_000;
/// The smallest budget of a reservation, in microseconds.
pub const MIN_BUDGET_MICROS: u32 = 50;

/// How a VM's vCPUs are chosen to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Class {
    /// They share what is left in proportion to weights.
    Fair {
        /// 1 to [`MAX_WEIGHT`].
        weight: u16,
        /// At most so many hundredths of one CPU, all vCPUs together, even if CPUs are idle: 1 to 100
        /// times the number of vCPUs.
        cap: Option<u16>,
    },
    /// Each vCPU gets its budget in every period, and no more.
    Reserved {
        /// In microseconds, [`MIN_BUDGET_MICROS`] to the period.
        budget: u32,
        /// In microseconds, within [`PERIOD_MICROS`].
        period: u32,
    },
}

impl Default for Class {
    fn default() -> Self {
        Self::Fair { weight: DEFAULT_WEIGHT, cap: None }
    }
}

/// Whether a vCPU that waits, by `WFI` or `WFE`, comes to EL2 (`HCR_EL2.TWI`, `TWE`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wfi {
    /// Where others could use its CPU. Elsewhere it sleeps in hardware, and the time counts as its own.
    #[default]
    Auto,
    /// Always: the hypervisor sees each wait, and how long the CPU is idle.
    Trap,
}

impl Wfi {
    /// Each with the name that users know it by.
    pub const NAMED: [(&'static str, Self); 2] = [("auto", Self::Auto), ("trap", Self::Trap)];

    /// The name that users know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Trap => "trap",
        }
    }
}

/// How a VM is scheduled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// How its vCPUs are chosen.
    pub class: Class,
    /// The CPUs they may run on.
    pub affinity: CpuSet,
    /// Whether the hypervisor sees them wait.
    pub wfi: Wfi,
}

/// A set of CPUs. The default is all of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CpuSet([u64; 4]);

impl Default for CpuSet {
    fn default() -> Self {
        Self::ALL
    }
}

impl CpuSet {
    /// Every CPU there can be.
    pub const ALL: Self = Self([u64::MAX; 4]);
    /// No CPU.
    pub const EMPTY: Self = Self([0; 4]);

    /// The same set with `cpu` in it.
    #[must_use]
    pub const fn with(mut self, cpu: CpuId) -> Self {
        self.0[cpu.index() / 64] |= 1 << (cpu.index() % 64);
        self
    }

    /// Whether `cpu` is in it.
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0[cpu.index() / 64] >> (cpu.index() % 64) & 1 != 0
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(core::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// Whether all of `other` are in it.
    pub fn includes(self, other: Self) -> bool {
        self.0.iter().zip(other.0).all(|(mine, other)| other & !mine == 0)
    }

    /// The CPUs 0 to `count` - 1.
    pub fn first(count: usize) -> Self {
        let word = |index: usize| match count.saturating_sub(64 * index) {
            0 => 0,
            bits @ 1..64 => (1 << bits) - 1,
            _ => u64::MAX,
        };
        Self(core::array::from_fn(word))
    }

    /// Bit *n* is set when CPU *n*, *n* + 64, *n* + 128 or *n* + 192 is in it.
    pub(super) fn folded(self) -> u64 {
        self.0.iter().fold(0, |all, word| all | word)
    }

    /// Bit *n* is set when CPU *n* is in it; CPUs from 64 on are left out.
    pub(super) const fn first_64(self) -> u64 {
        self.0[0]
    }

    /// Whether none is in it.
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_no_other() {
        let set = CpuSet::EMPTY.with(CpuId(0)).with(CpuId(64)).with(CpuId(255));
        let inside: Vec<u8> = (0..=255).filter(|cpu| set.contains(CpuId(*cpu))).collect();
        assert_eq!(inside, [0, 64, 255]);
        assert!(CpuSet::EMPTY.is_empty() && !set.is_empty());
        assert!((0..=255).all(|cpu| CpuSet::ALL.contains(CpuId(cpu))));
    }

    #[test]
    fn the_first_cpus_are_as_many_as_asked_for() {
        for count in [0, 1, 5, 63, 64, 65, 200, 256] {
            let set = CpuSet::first(count);
            let inside = (0..=255).filter(|cpu| set.contains(CpuId(*cpu)));
            assert!(inside.eq((0..=255).take(count)), "{count}");
        }
        let both = CpuSet::first(3).and(CpuSet::EMPTY.with(CpuId(2)).with(CpuId(3)));
        assert_eq!(both, CpuSet::EMPTY.with(CpuId(2)));
        assert_eq!(CpuSet::EMPTY.with(CpuId(66)).folded(), 4);
    }
}
