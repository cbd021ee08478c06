//! Steps that run the EL1 payloads of `guests/`, each of which asks the machine some questions.

use std::path::Path;

use anyhow::{Result, bail};

use super::session::Session;
use super::{Bench, Step};
use crate::paths;

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
            "fp" | "context" => Self { vcpus: 8, ..two },
            "reset" => Self { ends: Ends::Resets, ..two },
            "echo" => Self { ends: Ends::Until("echo> "), ..two },
            "spin" => Self { ends: Ends::Until("spin: "), ..two },
            "crash" => Self { ends: Ends::Until("crash: "), ..two },
            "deadwalk" => Self { ends: Ends::Until("deadwalk: "), ..two },
            "lastoff" => Self { ends: Ends::Until("lastoff: "), ..two },
            _ => two,
        }
    }
}

pub fn steps() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for name in names(&paths::root().join("guests/src/bin"))? {
        for gic in ["2", "3"] {
            let name = name.clone();
            steps.push(Step::new(format!("guests/{name}-gicv{gic}"), move |bench| {
                payload(bench, &name, gic).into()
            }));
        }
    }
    Ok(steps)
}

/// The names of the programs whose sources are in `folder`; none when it does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() || path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
    }
    names.sort();
    Ok(names)
}

fn payload(bench: &Bench, name: &str, gic: &str) -> Result<()> {
    bench.machine()?;
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
    ended
}
