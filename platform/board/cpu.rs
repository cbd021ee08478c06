//! The CPUs and how they are started (Devicetree Specification v0.4, "/cpus"; Linux bindings
//! `arm/cpus.yaml` and `arm/psci.yaml`).

use alloc::vec::Vec;

use crate::addr::PhysAddr;
use crate::platform::error::BoardError;
use crate::platform::tree::{Node, Tree};

/// The affinity fields of `MPIDR_EL1`: Aff3 in bits 39 to 32, Aff2 to Aff0 in 23 to 0.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// One physical CPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BoardCpu {
    /// The affinity fields of its `MPIDR_EL1`; all other bits are zero.
    pub mpidr: u64,
    /// How it is started.
    pub enable: EnableMethod,
}

/// How a CPU is started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EnableMethod {
    /// With PSCI's `CPU_ON`.
    Psci,
    /// It waits in WFE until the 64-bit word at `release_addr` holds its entry point.
    SpinTable {
        /// The word.
        release_addr: PhysAddr,
    },
    /// In no way known here; a board with one CPU need not say.
    None,
}

/// The instruction that calls the firmware (DEN0028, "SMC and HVC Immediate").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Conduit {
    /// `HVC`: the firmware is a hypervisor below this one.
    Hvc,
    /// `SMC`: the firmware is at EL3.
    Smc,
}

/// How PSCI is called. That of version 0.1 is left out: its functions have other numbers on each board.
pub(super) fn conduit(tree: &Tree<'_>) -> Result<Option<Conduit>, BoardError> {
    let Some(node) = tree.compatible(&["arm,psci-1.0", "arm,psci-0.2"]) else { return Ok(None) };
    match node.text("method") {
        Some("hvc") => Ok(Some(Conduit::Hvc)),
        Some("smc") => Ok(Some(Conduit::Smc)),
        Some(_) => Err(node.malformed("method")),
        None => Err(node.lacks("method")),
    }
}

/// Every CPU that has not failed. One with the status `disabled` waits to be started, as all but the
/// first do.
pub(super) fn read(tree: &Tree<'_>, psci: Option<Conduit>) -> Result<Vec<BoardCpu>, BoardError> {
    let parent = tree.root().child("cpus").ok_or(BoardError::Missing { what: "cpus" })?;
    let is_cpu = |node: &Node<'_, '_>| {
        node.text("device_type") == Some("cpu")
            && !node.text("status").is_some_and(|status| status.starts_with("fail"))
    };
    let mut cpus: Vec<BoardCpu> = Vec::new();
    for node in parent.children().filter(is_cpu) {
        let mpidr = match node.property("reg") {
            Some(_) => node.number("reg").ok_or_else(|| node.malformed("reg"))? & AFFINITY,
            None => return Err(node.lacks("reg")),
        };
        if cpus.iter().any(|cpu| cpu.mpidr == mpidr) {
            return Err(node.malformed("reg"));
        }
        cpus.push(BoardCpu { mpidr, enable: enable_method(node, psci)? });
    }
    if cpus.is_empty() {
        return Err(BoardError::Missing { what: "cpu" });
    }
    Ok(cpus)
}

fn enable_method(cpu: Node<'_, '_>, psci: Option<Conduit>) -> Result<EnableMethod, BoardError> {
    const RELEASE: &str = "cpu-release-addr";
    match cpu.text("enable-method") {
        Some("psci") if psci.is_none() => Err(BoardError::Missing { what: "psci" }),
        Some("psci") => Ok(EnableMethod::Psci),
        Some("spin-table") if cpu.property(RELEASE).is_none() => Err(cpu.lacks(RELEASE)),
        Some("spin-table") => {
            let release_addr = cpu.number(RELEASE).map(PhysAddr::new);
            let aligned = release_addr.filter(|address| address.is_aligned(8));
            let release_addr = aligned.ok_or_else(|| cpu.malformed(RELEASE))?;
            Ok(EnableMethod::SpinTable { release_addr })
        }
        _ => Ok(EnableMethod::None),
    }
}
