//! The machines and guests that give the figures.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::counted::{self, Counter};
use super::debian::{self, Messages};
use super::xen::{Guest, Xen};
use crate::board::{Board, Hardware};
use crate::{build, qemu};

/// The least, the middle one and the most of what one thing cost, in instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spread {
    pub min: u64,
    pub median: u64,
    pub max: u64,
}

/// The figures of one machine by the names of their rows.
pub type Figures = BTreeMap<String, Spread>;

/// The machine's CPU: its counter counts nanoseconds, one of which is one instruction.
const CPU: &str = "cortex-a72,cntfrq=1000000000";

/// How long one run may take on a PC that does other things.
const LIMIT: Duration = Duration::from_secs(300);

/// One run of `guests/bench`.
struct Run {
    /// The groups of rows that the guest measures.
    rows: &'static str,
    cpus: u32,
    vcpus: u32,
}

const RUNS: [Run; 3] = [
    Run { rows: "traps,interrupts", cpus: 1, vcpus: 1 },
    Run { rows: "pair", cpus: 2, vcpus: 2 },
    Run { rows: "switch", cpus: 1, vcpus: 2 },
];

/// What Plinth costs on a machine with a GIC of this version.
pub fn plinth(gic: u8) -> Result<Figures> {
    build::hypervisor()?;
    let payload = build::guests()?.join("bench");
    let mut figures = Figures::new();
    for run in &RUNS {
        let text = boot(gic, run, &payload)?;
        figures.extend(read(&text).with_context(|| format!("rows={} on Plinth", run.rows))?);
    }
    figures.extend(counted(gic)?);
    Ok(figures)
}

impl Spread {
    /// What is measured once, as it is always the same.
    const fn of(value: u64) -> Self {
        Self { min: value, median: value, max: value }
    }
}

/// What is counted from outside, and sizes.
fn counted(gic: u8) -> Result<Figures> {
    let counter = Counter::new()?;
    let mut figures = Figures::new();
    let mut put = |name: &str, value| figures.insert(name.to_owned(), Spread::of(value));
    let image = build::hypervisor()?.raw;
    put("image-size", std::fs::metadata(&image)?.len());
    let machine = counted::hardware(gic, 1, 1 << 30);
    let hello = counter.payload("hello", &machine, 64 << 20, LIMIT)?.counts;
    let first = hello.first_guest.context("the guest never ran")?;
    put("boot", first.all.total());
    let debian = debian::compare(&counter, gic, Messages::Quiet)?;
    put("debian-boot", millionths(debian.plinth.total(), debian.bare.total()));
    put("debian-boot-el2", debian.plinth.el2);
    let stretches = [hello.longest_stretch(), debian.counts.longest_stretch()];
    put("longest-stretch", stretches.into_iter().flatten().map(|it| it.length).max().unwrap_or(0));
    Ok(figures)
}

/// How many times the other, in millionths.
fn millionths(one: u64, other: u64) -> u64 {
    u64::try_from(u128::from(one) * 1_000_000 / u128::from(other.max(1))).unwrap_or(u64::MAX)
}

/// What Debian's Xen costs on the same machine, with the same guest.
pub fn xen(gic: u8) -> Result<Figures> {
    let xen = Xen::fetch()?;
    let payload = build::guests()?.join("bench");
    let mut figures = Figures::new();
    for run in &RUNS {
        let hardware = Hardware {
            board: Board::QemuVirt,
            gic,
            smp: run.cpus,
            memory: 1 << 30,
            cpu: CPU.to_owned(),
        };
        let cmdline = format!("rows={}", run.rows);
        let guest =
            Guest { payload: &payload, cmdline: &cmdline, vcpus: run.vcpus, memory: 64 << 20 };
        let text = xen.boot(&hardware, &guest, "GUEST-TEST:", LIMIT)?;
        figures.extend(read(&text).with_context(|| format!("rows={} on Xen", run.rows))?);
    }
    Ok(figures)
}

/// What the guest prints in one run on Plinth.
fn boot(gic: u8, run: &Run, payload: &Path) -> Result<String> {
    qemu::need(Board::QemuVirt)?;
    let limit = LIMIT.as_secs().to_string();
    let (gic, cpus, vcpus) = (gic.to_string(), run.cpus.to_string(), run.vcpus.to_string());
    let output = Command::new("/proc/self/exe")
        .args(["run", "--icount", "--cpu", CPU, "--memory", "1G", "--guest-memory", "64M"])
        .args(["--gic", &gic, "--smp", &cpus, "--vcpus", &vcpus, "--timeout", &limit])
        .arg("--kernel")
        .arg(payload)
        .arg("--cmdline")
        .arg(format!("rows={}", run.rows))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start a run")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("the run ended with {}:\n{text}", output.status);
    }
    Ok(text)
}

/// The figures in what the guest printed: `bench: ROW MIN MEDIAN MAX`.
fn read(text: &str) -> Result<Figures> {
    let figures: Figures = text.lines().filter_map(figure).collect();
    if figures.is_empty() {
        bail!("the guest has measured nothing:\n{text}");
    }
    Ok(figures)
}

fn figure(line: &str) -> Option<(String, Spread)> {
    let mut words = line.trim().strip_prefix("bench: ")?.split(' ');
    let name = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    let spread = Spread { min: number()?, median: number()?, max: number()? };
    words.next().is_none().then_some((name, spread))
}

#[cfg(test)]
mod tests {
    use super::{Spread, read};

    #[test]
    fn a_guests_lines_become_figures_and_all_else_is_left() {
        let text = "plinth [0.1] INFO bench: 64 MiB, 1 vCPU\r\nbench: counter 1000 Hz\r\n\
                    bench: eoi 1 2 3\r\nGUEST-TEST: ok\r\n";
        let figures = read(text).expect("one figure");
        let all: Vec<_> = figures.into_iter().collect();
        assert_eq!(all, [("eoi".to_owned(), Spread { min: 1, median: 2, max: 3 })]);
    }

    #[test]
    fn a_guest_that_measured_nothing_is_an_error() {
        assert!(read("bench: unknown group x\n").is_err());
    }
}
