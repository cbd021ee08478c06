//! What was decided, for the log: a line for each kind of CPU.

use alloc::vec::Vec;
use core::fmt;

use super::{Decision, Entry, State};
use crate::machine::CpuId;

/// The CPUs for which the same was decided.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    cpus: Vec<CpuId>,
    decision: Decision,
}

impl Line {
    /// Whether something is open.
    pub fn is_open(&self) -> bool {
        let Decision { branch_target, branch_history, store_bypass, .. } = self.decision;
        [branch_target, branch_history, store_bypass].contains(&State::Open)
    }
}

/// One line for each kind of CPU, by its first.
pub fn lines(decisions: &[(CpuId, Decision)]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for &(cpu, decision) in decisions {
        match lines.iter_mut().find(|line| line.decision == decision) {
            Some(line) => line.cpus.push(cpu),
            None => lines.push(Line { cpus: alloc::vec![cpu], decision }),
        }
    }
    lines
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decision { core, branch_target, branch_history, store_bypass, entry } = self.decision;
        write_cpus(f, &self.cpus)?;
        write!(f, ": {core}: ")?;
        let of = [
            ("Spectre-v2", branch_target),
            ("Spectre-BHB", branch_history),
            ("store bypass", store_bypass),
        ];
        for (index, (name, this)) in of.into_iter().enumerate() {
            let next = of.get(index + 1).map(|(_, next)| *next);
            write!(f, "{}{name}", if index > 0 { ", " } else { "" })?;
            if next != Some(this) {
                f.write_str(" ")?;
                state(f, this, entry)?;
            }
        }
        let wanted = [(branch_target, "1"), (store_bypass, "2"), (branch_history, "3")];
        let wanted = wanted.into_iter().filter(|(state, _)| *state == State::Open);
        for (index, (_, workaround)) in wanted.enumerate() {
            let before =
                if index > 0 { ", _" } else { ": the firmware has no SMCCC_ARCH_WORKAROUND_" };
            write!(f, "{before}{workaround}")?;
        }
        Ok(())
    }
}

/// Which CPUs: `CPU 0-3,8`.
pub(super) fn write_cpus(f: &mut fmt::Formatter<'_>, cpus: &[CpuId]) -> fmt::Result {
    f.write_str("CPU ")?;
    for (index, run) in cpus.chunk_by(|one, next| one.0 + 1 == next.0).enumerate() {
        let comma = if index > 0 { "," } else { "" };
        match run {
            [one] => write!(f, "{comma}{}", one.0)?,
            [first, .., last] => write!(f, "{comma}{}-{}", first.0, last.0)?,
            [] => {}
        }
    }
    Ok(())
}

fn state(f: &mut fmt::Formatter<'_>, state: State, entry: Entry) -> fmt::Result {
    match (state, entry) {
        (State::NotAffected, _) => f.write_str("not affected"),
        (State::Off, _) => f.write_str("off"),
        (State::Register, _) => f.write_str("by SSBS"),
        (State::AtEntry, Entry::Firmware(_)) => f.write_str("by firmware"),
        (State::AtEntry, Entry::Branches(count)) => write!(f, "by {count} branches"),
        (State::AtEntry, Entry::Clear) => f.write_str("by CLRBHB"),
        (State::Open, _) | (State::AtEntry, Entry::Nothing) => f.write_str("NOT MITIGATED"),
    }
}
