//! Steps that run the EL1 payloads of `guests/`, each of which asks the machine some questions.

use std::path::Path;

use anyhow::{Result, bail};

use super::session::Session;
use super::{Bench, Step};
use crate::paths;

/// How long a payload may take.
const SECONDS: u64 = 90;

/// How a payload's run ends when all is well.
#[derive(Clone, Copy)]
enum Ends {
    /// It prints its verdict and powers off.
    Ok,
    /// It prints this and goes on for ever.
    Until(&'static str),
    /// It crashes its VM; the hypervisor stops that VM and says so by failing.
    Crash,
}

/// A payload and what its machine has to look like.
struct Payload {
    name: &'static str,
    vcpus: u32,
    ends: Ends,
}

/// Payloads that differ from two vCPUs and [`Ends::Ok`].
const SPECIAL: [Payload; 3] = [
    Payload { name: "smp", vcpus: 4, ends: Ends::Ok },
    Payload { name: "spin", vcpus: 1, ends: Ends::Until("spin") },
    Payload { name: "crash", vcpus: 1, ends: Ends::Crash },
];

pub fn steps() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for name in names(&paths::root().join("guests/src/bin"))? {
        let special = SPECIAL.iter().find(|payload| payload.name == name);
        let (vcpus, ends) = special.map_or((2, Ends::Ok), |payload| (payload.vcpus, payload.ends));
        for gic in ["2", "3"] {
            let name = name.clone();
            steps.push(Step::new(format!("guests/{name}-gicv{gic}"), move |bench| {
                payload(bench, &name, gic, vcpus, ends).into()
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

fn payload(bench: &Bench, name: &str, gic: &str, vcpus: u32, ends: Ends) -> Result<()> {
    bench.machine()?;
    let file = bench.payloads()?.join(name);
    let (file, vcpus) = (file.to_string_lossy(), vcpus.to_string());
    let mut args = vec!["--kernel", &file, "--gic", gic, "--vcpus", &vcpus, "--smp", &vcpus];
    args.extend(["--guest-memory", "256M"]);
    if let Ends::Until(text) = ends {
        args.extend(["--until", text]);
    }
    let mut session = Session::start(bench, &args, SECONDS)?;
    match ends {
        Ends::Until(_) => return session.end_with(0, SECONDS + 10),
        Ends::Crash if bench.bare => return Ok(()),
        Ends::Crash => return session.end_with(1, SECONDS + 10),
        Ends::Ok => session.expect("GUEST-TEST: ", SECONDS)?,
    }
    session.end_with(0, SECONDS + 10)?;
    let text = session.text();
    let bad = |line: &&str| line.starts_with("FAIL ") || line.starts_with("GUEST-TEST: FAILED");
    let bad: Vec<_> = text.lines().filter(bad).collect();
    if !bad.is_empty() || !text.contains("GUEST-TEST: ok") {
        bail!("{}\n\n{text}", bad.join("\n"));
    }
    Ok(())
}
