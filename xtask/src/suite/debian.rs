//! Steps that boot the default Debian guest.

use anyhow::Result;

use super::session::Session;
use super::{Bench, Step};

/// Enough for a boot on a slow machine that does other things too.
const BOOT_SECONDS: u64 = 150;
const ANSWER_SECONDS: u64 = 30;
const RUN_SECONDS: u64 = 400;

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for gic in ["2", "3"] {
        for vcpus in [1, 4] {
            let name = format!("debian/boot-gicv{gic}-{vcpus}-vcpus");
            steps.push(Step::new(name, move |bench| boot(bench, gic, vcpus, "cortex-a72").into()));
        }
    }
    for (gic, cpu) in [("3", "max"), ("2", "neoverse-n1")] {
        let name = format!("debian/boot-{cpu}");
        steps.push(Step::new(name, move |bench| boot(bench, gic, 2, cpu).into()));
    }
    for gic in ["2", "3"] {
        steps.push(Step::new(format!("debian/shell-gicv{gic}"), move |bench| {
            shell(bench, gic).into()
        }));
    }
    steps
}

fn marker(vcpus: u32) -> String {
    format!("plinth-guest-ready {}", 42_000 + vcpus)
}

/// The guest comes up with all its vCPUs.
fn boot(bench: &Bench, gic: &str, vcpus: u32, cpu: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let (count, marker) = (vcpus.to_string(), marker(vcpus));
    let args = ["--gic", gic, "--vcpus", &count, "--smp", &count, "--cpu", cpu, "--until", &marker];
    let mut session = Session::start(bench, &args, BOOT_SECONDS)?;
    session.end_with(0, BOOT_SECONDS + 10)
}

/// Typed input reaches the shell, the guest reboots in place, and its power-off ends the run.
fn shell(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    bench.debian()?;
    let mut session = Session::start(bench, &["--gic", gic], RUN_SECONDS)?;
    let to_prompt = |session: &mut Session| {
        session.expect(&marker(2), BOOT_SECONDS)?;
        session.expect("# ", ANSWER_SECONDS)
    };
    to_prompt(&mut session)?;
    // The answer is not in the question, so an echo alone does not pass.
    session.send("echo answer-$((6 * 7)) $(uname -m)\r")?;
    session.expect("answer-42 aarch64", ANSWER_SECONDS)?;
    session.send("touch /run/here; ls /run\r")?;
    session.expect("here\r\n", ANSWER_SECONDS)?;
    session.expect("# ", ANSWER_SECONDS)?;
    session.send("reboot -f\r")?;
    to_prompt(&mut session)?;
    session.send("ls /run | wc -l | sed s/^/files-/\r")?;
    session.expect("files-0", ANSWER_SECONDS)?;
    session.send("poweroff -f\r")?;
    session.end_with(0, ANSWER_SECONDS)
}
