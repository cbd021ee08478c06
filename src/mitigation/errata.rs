//! Errata of CPUs that a hypervisor has to see to, and how this one does: a line of the log for each kind of CPU.

use alloc::vec::Vec;
use core::fmt;

use super::report::write_cpus;
use super::{Core, Decision};
use crate::machine::CpuId;

/// How an erratum is seen to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Remedy {
    /// `CPUACTLR_EL1` is written, by the firmware, or where there is none by `arch::errata`.
    Register,
    /// EL1's registers change while stage 2 leads nowhere: `arch::this_cpu`, `arch::maintenance`.
    Order,
    /// It takes AArch32 at EL1, which no guest has.
    Unused,
}

/// An erratum, as Arm's "Software Developers Errata Notice" of its CPU has it.
struct Erratum {
    /// Part number in `MIDR_EL1`, of Arm's own CPUs.
    part: u64,
    number: u32,
    /// The last variant that has it.
    last: u64,
    remedy: Remedy,
}

const A57: u64 = 0xd07;
const A72: u64 = 0xd08;
const ALL: u64 = 0xf;

const ERRATA: [Erratum; 5] = [
    // A speculative walk during a switch caches what is a mixture of two guests.
    Erratum { part: A57, number: 1_319_537, last: ALL, remedy: Remedy::Order },
    Erratum { part: A72, number: 1_319_367, last: ALL, remedy: Remedy::Order },
    // AArch32 registers, restored after others, are lost.
    Erratum { part: A57, number: 852_523, last: ALL, remedy: Remedy::Unused },
    Erratum { part: A72, number: 853_709, last: ALL, remedy: Remedy::Unused },
    // A speculative instruction fetch reaches a device.
    Erratum { part: A72, number: 859_971, last: 0, remedy: Remedy::Register },
];

/// The errata of a kind of CPU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Errata {
    cpus: Vec<CpuId>,
    core: Core,
}

/// Those of each kind of CPU that has some.
pub fn errata(decisions: &[(CpuId, Decision)]) -> Vec<Errata> {
    let mut all: Vec<Errata> = Vec::new();
    for &(cpu, Decision { core, .. }) in decisions {
        match all.iter_mut().find(|one| one.core == core) {
            Some(one) => one.cpus.push(cpu),
            None if of(core).next().is_some() => {
                all.push(Errata { cpus: alloc::vec![cpu], core });
            }
            None => {}
        }
    }
    all
}

fn of(core: Core) -> impl Iterator<Item = &'static Erratum> {
    let has = move |it: &&Erratum| core.is_arms(it.part) && core.variant() <= it.last;
    ERRATA.iter().filter(has)
}

impl fmt::Display for Errata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_cpus(f, &self.cpus)?;
        write!(f, ": {}: errata ", self.core)?;
        for (index, Erratum { number, remedy, .. }) in of(self.core).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let how = match remedy {
                Remedy::Register => "by CPUACTLR_EL1",
                Remedy::Order => "by the order of a switch",
                Remedy::Unused => "without AArch32 at EL1",
            };
            write!(f, "{comma}{number} {how}")?;
        }
        Ok(())
    }
}
