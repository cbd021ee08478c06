//! Steps about the hypervisor's own end: a bug of its own, and a machine that it cannot use. Each must
//! be told in words, with the names of functions, and end the run with a failure.

use anyhow::{Result, bail};

use super::refusals;
use super::session::Session;
use super::{Bench, Step};

const SECONDS: u64 = 60;

/// A name, the hypervisor's boot arguments, and what it says, in this order.
type Case = (&'static str, &'static str, &'static [&'static str]);

const CASES: [Case; 19] = [
    ("panic", "provoke=panic", &[PANIC, "src/arch/provoke.rs:", "#0 +0x", NAME, "plinth_main"]),
    (
        "undefined-instruction",
        "provoke=undefined",
        &[EXCEPTION, "an undefined instruction", "ELR ", "x30 ", "#0 +0x", "::undefined", NAME],
    ),
    (
        "data-abort",
        "provoke=data-abort",
        &[EXCEPTION, "data abort", "translation fault", "on a read", "::data_abort", NAME],
    ),
    (
        "stack-overflow",
        "provoke=stack-overflow",
        &[EXCEPTION, "data abort", "translation fault", GUARD, "::overflow_stack", "#9 +0x"],
    ),
    (
        "stack-overflow-on-another-cpu",
        "provoke=stack-overflow@1",
        &["at EL2 on CPU 1", "translation fault", GUARD, "::overflow_stack", "#9 +0x"],
    ),
    (
        "write-to-code",
        "provoke=write-code",
        &[EXCEPTION, "data abort", "permission fault", "on a write", "::write_code", NAME],
    ),
    (
        "execute-data",
        "provoke=execute-data",
        &[EXCEPTION, "instruction abort", "permission fault", "::execute_data", NAME],
    ),
    (
        "execute-data-on-another-cpu",
        "provoke=execute-data@1",
        &["at EL2 on CPU 1", "permission fault", "::execute_data", "plinth_secondary_main"],
    ),
    (
        "stack-overflow-on-the-fourth-cpu",
        "provoke=stack-overflow@3",
        &["at EL2 on CPU 3", "translation fault", GUARD, "::overflow_stack", "#9 +0x"],
    ),
    (
        "emergency-stack-overflow",
        "provoke=emergency-overflow",
        &[EXCEPTION, "translation fault", EMERGENCY_GUARD],
    ),
    (
        "emergency-stack-overflow-on-the-fourth-cpu",
        "provoke=emergency-overflow@3",
        &["at EL2 on CPU 3", "translation fault", EMERGENCY_GUARD],
    ),
    (
        "write-to-code-on-the-fourth-cpu",
        "provoke=write-code@3",
        &["at EL2 on CPU 3", "permission fault", "on a write", "::write_code"],
    ),
    (
        "write-to-constants",
        "provoke=write-constants",
        &[EXCEPTION, "permission fault", "on a write", "::write_constants", NAME],
    ),
    (
        "write-to-the-bundle",
        "provoke=write-bundle",
        &[EXCEPTION, "permission fault", "on a write", "::write_bundle", NAME],
    ),
    (
        "execute-the-stack",
        "provoke=execute-stack",
        &[EXCEPTION, "instruction abort", "permission fault", "::execute_stack", NAME],
    ),
    (
        "execute-a-device",
        "provoke=execute-device",
        &[EXCEPTION, "instruction abort", "permission fault", "::execute_device", NAME],
    ),
    (
        "execute-guests-memory",
        "provoke=execute-guest",
        &[EXCEPTION, "instruction abort", "permission fault", "::execute_guest", NAME],
    ),
    (
        "execute-guests-memory-on-the-fourth-cpu",
        "provoke=execute-guest@3",
        &["at EL2 on CPU 3", "instruction abort", "permission fault", "::execute_guest"],
    ),
    ("two-cpus-at-once", "provoke=panic provoke=panic@1", &["plinth: panic on CPU ", NAME]),
];

const PANIC: &str = "plinth: panic on CPU 0: provoked";
const EXCEPTION: &str = "synchronous exception at EL2 on CPU 0";
const GUARD: &str = "in the guard page: the stack has overflowed";
const EMERGENCY_GUARD: &str = "in the emergency stack's guard page: it has overflowed";
const NAME: &str = "plinth::arch::provoke::on_request (";

pub fn steps() -> Vec<Step> {
    let step = |case: &Case| {
        let (name, arguments, words) = *case;
        Step::new(format!("run/crash-{name}"), move |bench| crash(bench, arguments, words).into())
    };
    let mut steps: Vec<_> = CASES.iter().map(step).collect();
    for gic in ["2", "3"] {
        steps.push(Step::new(format!("run/entered-below-el2-gicv{gic}"), move |bench| {
            below_el2(bench, gic).into()
        }));
    }
    steps
}

/// Plinth with a silent guest: all output is its own.
fn start(bench: &Bench, args: &[&str]) -> Result<Session> {
    bench.machine()?;
    let kernel = refusals::files()?.join("loop");
    let kernel = kernel.to_string_lossy();
    let guest = ["--kernel", &kernel, "--guest-memory", "16M", "--memory", "256M"];
    Session::start(bench, &[&guest, args].concat(), SECONDS)
}

fn crash(bench: &Bench, arguments: &str, words: &[&str]) -> Result<()> {
    let mut session = start(bench, &["--smp", "4", "--hv-args", arguments])?;
    session.end_with(1, SECONDS + 10)?;
    for word in words {
        session.expect(word, 1)?;
    }
    session.expect("plinth: power off (failed: ", 1)?;
    session.expect("error: the hypervisor failed: ", 1)?;
    let text = session.text();
    let reports = text.matches(" on CPU ").count();
    if reports != 1 || text.contains("survived") {
        bail!("{reports} reports\n{text}");
    }
    Ok(())
}

fn below_el2(bench: &Bench, gic: &str) -> Result<()> {
    let mut session = start(bench, &["--gic", gic, "--", "-machine", "virtualization=off"])?;
    session.end_with(1, SECONDS + 10)?;
    session.expect("entered below EL2: start the machine with virtualisation on", 1)?;
    session.expect("plinth: power off (failed: not at EL2)", 1)
}
