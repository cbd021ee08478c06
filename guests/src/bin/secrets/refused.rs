//! Registers that a machine like this does not offer are UNDEFINED, those that others would notice do not change, and no call
//! gets through to the firmware of the machine below.

use guests::code;
use guests::exception::UNKNOWN;
use guests::exception::survive;
use guests::psci::{self, Conduit, NOT_SUPPORTED};
use guests::report::Report;
use guests::{gic, mrs};

/// Fields of an encoding: op0, op1, CRn, CRm, op2.
type Encoding = (u32, u32, u32, u32, u32);

/// What the ID registers say there is none of: performance monitors, trace, profiling, activity monitors, and what each
/// implementation has of its own.
const ABSENT: [(&str, Encoding); 19] = [
    ("PMCR_EL0", (3, 3, 9, 12, 0)),
    ("PMCNTENSET_EL0", (3, 3, 9, 12, 1)),
    ("PMCNTENCLR_EL0", (3, 3, 9, 12, 2)),
    ("PMOVSCLR_EL0", (3, 3, 9, 12, 3)),
    ("PMSELR_EL0", (3, 3, 9, 12, 5)),
    ("PMCCNTR_EL0", (3, 3, 9, 13, 0)),
    ("PMXEVTYPER_EL0", (3, 3, 9, 13, 1)),
    ("PMXEVCNTR_EL0", (3, 3, 9, 13, 2)),
    ("PMUSERENR_EL0", (3, 3, 9, 14, 0)),
    ("PMOVSSET_EL0", (3, 3, 9, 14, 3)),
    ("PMINTENSET_EL1", (3, 0, 9, 14, 1)),
    ("PMEVCNTR0_EL0", (3, 3, 14, 8, 0)),
    ("PMEVTYPER0_EL0", (3, 3, 14, 12, 0)),
    ("PMCCFILTR_EL0", (3, 3, 14, 15, 7)),
    ("TRCPRGCTLR", (2, 1, 0, 1, 0)),
    ("AMCR_EL0", (3, 3, 13, 2, 0)),
    ("CPUACTLR_EL1 of a Cortex-A72", (3, 1, 15, 2, 0)),
    ("CPUECTLR_EL1 of a Cortex-A72", (3, 1, 15, 2, 1)),
    ("L2CTLR_EL1 of a Cortex-A72", (3, 1, 11, 0, 2)),
];

pub fn ask(report: &mut Report) {
    registers(report);
    calls(report);
}

/// By SMC, which QEMU's own firmware answers where nobody traps it; it refuses what it does not know, too. Each owner in SMCCC's four kinds of calls, with numbers that nobody has (DEN0028, "Function identifiers").
fn calls(report: &mut Report) {
    let owners = (0..64u32).map(|owner| owner << 24);
    let kinds = owners.flat_map(|owner| [0, 1 << 30, 1 << 31, 3 << 30].map(|kind| kind | owner));
    let functions = kinds.flat_map(|kind| [0x7f0, 0x1234, 0xfff0].map(|number| kind | number));
    let (mut calls, mut refused, mut trapped) = (0, 0, 0);
    for function in functions {
        let (answer, caught) = survive(|| psci::call_by(Conduit::Smc, function, [!0; 3]));
        calls += 1;
        refused += u32::from(answer == NOT_SUPPORTED);
        trapped += u32::from(caught.is_none());
    }
    report.equal(
        "calls of every owner by SMC that are refused",
        (refused, trapped),
        (calls, calls),
    );
    let version = |by| survive(|| psci::call_by(by, psci::VERSION, [0; 3])).0;
    report.equal(
        "SMC and HVC are answered by the same",
        version(Conduit::Smc),
        version(Conduit::Hvc),
    );
    // QEMU's firmware, which answers to SMC, has none.
    let trng = survive(|| psci::call_by(Conduit::Smc, psci::TRNG_VERSION, [0; 3])).0;
    report.equal("which has what this machine promises", psci::low(trng), 0x1_0000);
}

fn registers(report: &mut Report) {
    for (name, (op0, op1, crn, crm, op2)) in ABSENT {
        let read = code::run(code::mrs(op0, op1, crn, crm, op2), 0, 0).1;
        let write = code::run(code::msr(op0, op1, crn, crm, op2), 0, 0).1;
        let classes = [read, write].map(|caught| caught.map(|caught| caught.class()));
        report.equal(name, classes, [Some(UNKNOWN); 2]);
    }
    let before = mrs!("actlr_el1");
    code::run(code::msr(3, 0, 1, 0, 1), !before, 0);
    report.equal("ACTLR_EL1 does not change", mrs!("actlr_el1"), before);
    if gic::is_v3() {
        const SRE: Encoding = (3, 0, 12, 12, 5);
        let before = mrs!("icc_sre_el1");
        code::run(code::msr(SRE.0, SRE.1, SRE.2, SRE.3, SRE.4), 0, 0);
        report.equal("ICC_SRE_EL1 does not change", (mrs!("icc_sre_el1"), before & 7), (before, 7));
    }
}
