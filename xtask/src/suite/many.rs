//! Steps that run many guests at once: each is to work as if it were alone.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::session::{Session, said};
use super::{Bench, Step};
use crate::paths;

/// Guests that never wait take their time from the others.
const SECONDS: u64 = 240;

/// Payloads that ask for much of the machine at once: two vCPUs each.
const THREE: [&str; 3] = ["gic", "timers", "smp"];

/// How many small guests run at once.
const CROWD: usize = 32;

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for gic in ["2", "3"] {
        for cpus in ["1", "2", "4"] {
            let name = format!("many/three-guests-on-{cpus}-cpus-gicv{gic}");
            steps.push(Step::new(name, move |bench| three(bench, gic, cpus).into()));
        }
        let name = format!("many/{CROWD}-guests-gicv{gic}");
        steps.push(Step::new(name, move |bench| crowd(bench, gic).into()));
    }
    steps
}

/// A guest of a manifest: its name, its payload and what else is said of it.
pub struct Guest<'a> {
    pub name: String,
    pub payload: &'a str,
    pub more: &'a str,
}

/// Writes a manifest of payloads.
pub fn manifest(bench: &Bench, name: &str, guests: &[Guest<'_>]) -> Result<PathBuf> {
    manifest_with(bench, name, "", guests)
}

/// The same, beginning with `head`.
pub fn manifest_with(
    bench: &Bench,
    name: &str,
    head: &str,
    guests: &[Guest<'_>],
) -> Result<PathBuf> {
    let folder = bench.payloads()?;
    let mut text = head.to_owned();
    for Guest { name, payload, more } in guests {
        let kernel = folder.join(payload);
        text += &format!("[[vm]]\nname = \"{name}\"\nkernel = {:?}\n{more}\n\n", kernel.display());
    }
    let path = paths::work().join(name);
    paths::write_if_changed(&path, text.as_bytes())?;
    Ok(path)
}

/// Runs a manifest until every guest has given its verdict and the run has ended.
pub fn all_pass(bench: &Bench, manifest: &str, args: &[&str], guests: &[Guest<'_>]) -> Result<()> {
    bench.machine()?;
    let mut session = Session::start(bench, &[&[manifest], args].concat(), SECONDS)?;
    let ended = session.end_with(0, SECONDS + 10);
    let text = session.text();
    // On a slow PC others speak in the middle of a line.
    let spoken = guests.iter().map(|guest| said(&text, &guest.name)).collect::<Vec<_>>();
    let passed = spoken.iter().filter(|said| said.contains("GUEST-TEST: ok")).count();
    let bad: Vec<_> = spoken.iter().filter(|said| said.contains("FAIL ")).collect();
    if !bad.is_empty() || passed != guests.len() {
        bail!("{passed} of {} guests passed\n{bad:#?}\n\n{text}", guests.len());
    }
    ended
}

fn three(bench: &Bench, gic: &str, cpus: &str) -> Result<()> {
    let more = "memory = \"64M\"\nvcpus = 2";
    let guests = THREE.map(|payload| Guest { name: payload.to_owned(), payload, more });
    let manifest = manifest(bench, "three.toml", &guests)?;
    let args = ["--gic", gic, "--smp", cpus];
    all_pass(bench, &manifest.to_string_lossy(), &args, &guests)
}

fn crowd(bench: &Bench, gic: &str) -> Result<()> {
    let more = "memory = \"16M\"";
    let guest = |index| Guest { name: format!("small{index}"), payload: "psci", more };
    let guests: Vec<_> = (1..=CROWD).map(guest).collect();
    let manifest = manifest(bench, "crowd.toml", &guests)?;
    let args = ["--gic", gic, "--smp", "2", "--memory", "1G"];
    all_pass(bench, &manifest.to_string_lossy(), &args, &guests)
}
