//! The machines and guests that give the figures.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use plinth::manifest::MachineConfig;
use plinth::vm::layout;

use super::count::Counts;
use super::counted::{self, Counter};
use super::debian;
use super::scale;
use super::virtio;
use super::xen::{Guest, Xen};
use crate::board::{Board, Hardware};
use crate::bundle::Bundle;
use crate::guest::Payload;
use crate::{build, paths};

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
pub const CPU: &str = "cortex-a72,cntfrq=1000000000";

/// How long one run may take on a PC that does other things.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The same for Xen, whose runs take a few seconds.
const XEN_LIMIT: Duration = Duration::from_secs(120);

/// One run of `guests/bench`.
struct Run {
    /// The groups of rows that the guest measures.
    rows: &'static str,
    cpus: u32,
    vcpus: u8,
    /// The device of the board's that the guest has for its own, and QEMU's arguments for it.
    device: Option<(&'static str, &'static [&'static str])>,
    /// The row of the longest stretch at EL2. The plugin counts that where there is one CPU, and there alone.
    stretch: Option<&'static str>,
}

const RUNS: [Run; 4] = [
    Run {
        rows: "traps,interrupts",
        cpus: 1,
        vcpus: 1,
        device: None,
        stretch: Some("longest-stretch-exits"),
    },
    Run { rows: "pair", cpus: 2, vcpus: 2, device: None, stretch: None },
    Run {
        rows: "switch",
        cpus: 1,
        vcpus: 2,
        device: None,
        stretch: Some("longest-stretch-switch"),
    },
    Run {
        rows: "device uart=9040000,40",
        cpus: 1,
        vcpus: 1,
        device: Some(("pl011@9040000", &["-serial", "null"])),
        stretch: Some("longest-stretch-device"),
    },
];

impl Run {
    fn guest(&self) -> Result<Payload> {
        // The tree does not say where a slot without a device is.
        let cmdline = format!(
            "rows={} slot={:x}",
            self.rows,
            layout::virtio_slots(layout::VIRTIO_SLOTS - 1, 1).base.raw()
        );
        let guest = guest("bench", 64 << 20, &cmdline)?;
        let assign = self.device.iter().map(|(name, _)| (*name).to_owned()).collect();
        Ok(Payload { vcpus: self.vcpus, assign, ..guest })
    }
}

/// A guest with `guests/bench`.
pub fn guest(name: &str, memory: u64, cmdline: &str) -> Result<Payload> {
    let path = build::guests()?.join("bench");
    let kernel = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let guest = Payload::new(name.to_owned(), kernel);
    Ok(Payload { memory, cmdline: cmdline.to_owned(), ..guest })
}

/// What Plinth costs on a machine with a GIC of this version.
pub fn plinth(gic: u8) -> Result<Figures> {
    let counter = Counter::new()?;
    let mut figures = Figures::new();
    for run in &RUNS {
        let (guests, more) = ([run.guest()?], run.device.map_or(&[][..], |(_, more)| more));
        figures.extend(match run.stretch {
            Some(stretch) => counted_along(&counter, gic, &guests, more, stretch)?,
            None => together(gic, run.cpus, &guests)?,
        });
    }
    figures.extend(scale::figures(&counter, gic)?);
    figures.extend(virtio::figures(&counter, gic)?);
    figures.extend(counted(&counter, gic)?);
    Ok(figures)
}

/// What guests measure on one CPU, and the longest stretch at EL2 meanwhile. The first is called `bench`.
pub fn counted_along(
    counter: &Counter,
    gic: u8,
    guests: &[Payload],
    more: &[&str],
    stretch: &str,
) -> Result<Figures> {
    let bundle = Bundle::pack(&MachineConfig::default(), guests)?;
    let machine = Hardware { cpu: CPU.to_owned(), ..counted::hardware(gic, 1, 1 << 30) };
    let run = counter.plinth_with(&machine, &bundle, more, LIMIT);
    let run = run.with_context(|| format!("{stretch} on Plinth"))?;
    let mut figures = Figures::new();
    let longest = run.counts.longest_stretch().map_or(0, |it| it.length);
    figures.insert(stretch.to_owned(), Spread::of(longest));
    figures.extend(read(&run.console).with_context(|| format!("{stretch} on Plinth"))?);
    Ok(figures)
}

/// What guests measure on a machine with several CPUs whose instructions are its time, until the first guest is done.
/// The plugin cannot count those.
pub fn together(gic: u8, cpus: u32, guests: &[Payload]) -> Result<Figures> {
    together_on(gic, cpus, &Bundle::pack(&MachineConfig::default(), guests)?)
}

/// The same with the guests of a bundle.
pub fn together_on(gic: u8, cpus: u32, bundle: &Bundle) -> Result<Figures> {
    let path = paths::scratch("bench-bundle")?;
    std::fs::write(&path, bundle.bytes()).context("cannot write a bundle")?;
    let mut command = command(gic, cpus);
    command.args(["--until", "GUEST-TEST: ok"]).arg(&path);
    let output = command.stdin(Stdio::null()).output().context("cannot start a run");
    let _ = std::fs::remove_file(&path);
    let output = output?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("the run ended with {}:\n{text}\n{errors}", output.status);
    }
    read(&text)
}

/// `cargo xtask run` on such a machine.
pub fn command(gic: u8, cpus: u32) -> Command {
    let limit = LIMIT.as_secs().to_string();
    let mut command = Command::new("/proc/self/exe");
    command.args(["run", "--icount", "--cpu", CPU, "--memory", "1G", "--timeout", &limit]);
    command.args(["--gic", &gic.to_string(), "--smp", &cpus.to_string()]);
    command
}

impl Spread {
    /// What is measured once, as it is always the same.
    pub const fn of(value: u64) -> Self {
        Self { min: value, median: value, max: value }
    }
}

/// What is counted from outside, and sizes.
fn counted(counter: &Counter, gic: u8) -> Result<Figures> {
    let mut figures = Figures::new();
    let mut put = |name: &str, value| figures.insert(name.to_owned(), Spread::of(value));
    let image = build::hypervisor()?.raw;
    put("image-size", std::fs::metadata(&image)?.len());
    let machine = counted::hardware(gic, 1, 1 << 30);
    let run = counter.payload("hello", &machine, 64 << 20, LIMIT)?;
    put(
        "memory-kept",
        kept(&run.console).context("it has not said how much memory it keeps")? << 10,
    );
    let hello = run.counts;
    let first = hello.first_guest.context("the guest never ran")?;
    put("boot", first.all.total());
    put("boot-no-zeroing", boot_without_zeroing(counter, &machine, first.all.total())?);
    let debian = debian::compare(counter, gic)?;
    put("debian-boot", debian.millionths_more());
    let longest = |counts: &Counts| counts.longest_stretch().map_or(0, |it| it.length);
    put("longest-stretch-hello", longest(&hello));
    put("longest-stretch-debian", longest(&debian.counts));
    Ok(figures)
}

/// The way to the first guest instruction but for the zeroing of the guest's memory, which takes in proportion
/// to its size: twice `with_64_mib` less what a guest with 128 MiB takes. What else grows with the guest's
/// memory, a page table for each 2 MiB that is no block, is left out as well.
fn boot_without_zeroing(counter: &Counter, machine: &Hardware, with_64_mib: u64) -> Result<u64> {
    let run = counter.payload("hello", machine, 128 << 20, LIMIT)?;
    let first = run.counts.first_guest.context("the guest with 128 MiB never ran")?;
    let twice = with_64_mib.checked_mul(2);
    twice.and_then(|twice| twice.checked_sub(first.all.total())).context("128 MiB took too long")
}

/// What the log says is kept of the machine's memory, in KiB.
fn kept(log: &str) -> Option<u64> {
    let (before, _) = log.split_once(" KiB of memory kept")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// What Debian's Xen costs on the same machine, with the same guest.
pub fn xen(gic: u8) -> Result<Figures> {
    let xen = Xen::fetch()?;
    let payload = build::guests()?.join("bench");
    let mut figures = Figures::new();
    // Xen does not get along with more vCPUs than CPUs here: its guest never says anything.
    for run in RUNS.iter().filter(|run| run.device.is_none() && u32::from(run.vcpus) <= run.cpus) {
        let hardware = Hardware {
            board: Board::QemuVirt,
            gic,
            smp: run.cpus,
            memory: 1 << 30,
            cpu: CPU.to_owned(),
        };
        let cmdline = format!("rows={}", run.rows);
        let guest = Guest {
            payload: &payload,
            cmdline: &cmdline,
            vcpus: run.vcpus.into(),
            memory: 64 << 20,
        };
        let text = xen.boot(&hardware, &guest, "GUEST-TEST:", XEN_LIMIT)?;
        if !text.contains("GUEST-TEST: ok") {
            bail!("rows={} on Xen: the guest has not measured all of them:\n{text}", run.rows);
        }
        figures.extend(read(&text).with_context(|| format!("rows={} on Xen", run.rows))?);
    }
    Ok(figures)
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
    // A line of one of several guests begins with its name.
    let line = line.trim();
    let line = line.strip_prefix("[bench] ").unwrap_or(line);
    let mut words = line.strip_prefix("bench: ")?.split(' ');
    let name = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    let spread = Spread { min: number()?, median: number()?, max: number()? };
    words.next().is_none().then_some((name, spread))
}

#[cfg(test)]
mod tests {
    use super::{RUNS, Spread, kept, read};

    #[test]
    fn the_longest_stretch_is_asked_for_where_it_is_counted() {
        assert!(RUNS.iter().all(|run| run.stretch.is_some() == (run.cpus == 1)));
    }

    #[test]
    fn the_memory_that_is_kept_is_read_out_of_the_log() {
        let log = "plinth [  0.000164] INFO  2320 KiB of memory kept, 957 MiB free\r\n";
        assert_eq!((kept(log), kept("957 MiB free")), (Some(2320), None));
    }

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
