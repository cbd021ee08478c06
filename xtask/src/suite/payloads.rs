//! Steps that run the EL1 payloads of `guests/`, each of which asks the machine some questions.

use anyhow::{Result, bail};

use super::session::Session;
use super::{Bench, Step, registers};
use crate::board::Board;
use crate::{build, qemu};

/// How long a payload may take; some wait for seconds on purpose, and the PC may be busy.
const SECONDS: u64 = 120;

/// How a payload's run ends when all is well.
#[derive(Clone, Copy)]
enum Ends {
    /// It prints its verdict and powers off.
    Verdict,
    /// It prints this and goes on for ever, or is stopped by the hypervisor: either is well, as
    /// long as the hypervisor lives.
    Until(&'static str),
    /// It resets its machine until it is told to stop.
    Resets,
    /// It goes on until, after it has printed this, it is told to stop.
    Quits(&'static str),
}

/// The machine that a payload wants.
#[derive(Clone, Copy)]
struct Wants {
    vcpus: u32,
    cpus: u32,
    ends: Ends,
}

impl Wants {
    /// What is right for the payload called `name`.
    fn of(name: &str) -> Self {
        let two = Self { vcpus: 2, cpus: 2, ends: Ends::Verdict };
        match name {
            "smp" => Self { vcpus: 4, cpus: 4, ..two },
            // Registers mix when vCPUs share a CPU, so here they do.
            "fp" | "context" | "secrets" | "victim" => Self { vcpus: 8, ..two },
            "heartbeat" => Self { vcpus: 1, ends: Ends::Quits("heartbeat 2"), ..two },
            "reset" => Self { ends: Ends::Resets, ..two },
            "echo" => Self { ends: Ends::Until("echo> "), ..two },
            "spin" => Self { ends: Ends::Until("spin: "), ..two },
            "share" => Self { ends: Ends::Until("share: 4 "), ..two },
            "gap" => Self { ends: Ends::Until("gap: 4 "), ..two },
            "storm" => Self { ends: Ends::Until("storm: "), ..two },
            "crash" => Self { ends: Ends::Until("crash: "), ..two },
            "deadwalk" => Self { ends: Ends::Until("deadwalk: "), ..two },
            // There is no disk; see `shares.rs`.
            "backlog" => Self { ends: Ends::Until("SKIP a disk is never done"), ..two },
            // There is no disk; see `host_disks.rs`.
            "diskio" => Self { ends: Ends::Until("SKIP a disk keeps"), ..two },
            // There is no balloon; see `virtio.rs`.
            "balloon" => Self { ends: Ends::Until("SKIP memory is given back"), ..two },
            // There is nobody else; see `virtio.rs`.
            "neighbours" => Self { ends: Ends::Until("SKIP others are reached"), ..two },
            // There is no monitor; see `come_and_go.rs`.
            "operator" => Self { ends: Ends::Until("SKIP another guest comes and goes"), ..two },
            "lastoff" => Self { ends: Ends::Until("lastoff: "), ..two },
            _ => two,
        }
    }
}

/// What QEMU's own machine does not have that the payload called `name` is about.
fn lacks(name: &str) -> Option<&'static str> {
    match name {
        "bench" => Some("firmware that answers SMC beside HVC"),
        "exits" => Some("firmware that refuses calls with an immediate"),
        "virtio" => Some("virtio devices"),
        "secrets" => Some("registers that are 0 at reset"),
        "forms" => Some("a GICv3 that takes a pair of words as two accesses"),
        _ => None,
    }
}

pub fn steps() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for name in build::payloads()? {
        for gic in ["2", "3"] {
            let name = name.clone();
            steps.push(Step::new(format!("guests/{name}-gicv{gic}"), move |bench| {
                bench.with_what_it_takes(lacks(&name), || payload(bench, &name, gic))
            }));
        }
    }
    Ok(steps)
}

fn payload(bench: &Bench, name: &str, gic: &str) -> Result<()> {
    bench.machine()?;
    // An older QEMU's CPU has other registers.
    let is_compared = name == "sysregs" && !bench.bare;
    if is_compared {
        qemu::need(Board::Rpi4)?;
    }
    let file = bench.payloads()?.join(name);
    let Wants { vcpus, cpus, ends } = Wants::of(name);
    let (file, vcpus, cpus) = (file.to_string_lossy(), vcpus.to_string(), cpus.to_string());
    let mut args = vec!["--kernel", &file, "--gic", gic, "--vcpus", &vcpus, "--smp", &cpus];
    args.extend(["--guest-memory", "256M"]);
    if let Ends::Until(text) = ends {
        args.extend(["--until", text]);
    }
    let mut session = Session::start(bench, &args, SECONDS)?;
    match ends {
        Ends::Until(_) => return session.end_with(0, SECONDS + 10),
        Ends::Resets => {
            for _ in 0..3 {
                session.expect("boot", SECONDS)?;
            }
            // Where something survives a reset, the payload may have ended by itself.
            let _ = session.send("q");
        }
        Ends::Quits(text) => {
            session.expect(text, SECONDS)?;
            session.send("q")?;
        }
        Ends::Verdict => {}
    }
    session.expect("GUEST-TEST: ", SECONDS + 10)?;
    let ended = session.end_with(0, SECONDS + 10);
    let text = session.text();
    let bad = |line: &&str| line.starts_with("FAIL ") || line.starts_with("GUEST-TEST: FAILED");
    let bad: Vec<_> = text.lines().filter(bad).collect();
    if !bad.is_empty() || !text.contains("GUEST-TEST: ok") {
        bail!("{}\n\n{text}", bad.join("\n"));
    }
    if is_compared {
        registers::compare(gic, &text)?;
    }
    ended
}
