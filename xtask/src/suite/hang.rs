//! Steps about a CPU of the hypervisor's that hangs: its own watchdog says so, or another CPU, and starts the machine again; and
//! about guests that never give them a reason to.

use anyhow::{Result, ensure};

use super::many::{Guest, manifest};
use super::session::Session;
use super::{Bench, Step};

const SECONDS: u64 = 120;

/// GICs, a name, CPUs, the boot arguments, and what is said of it.
type Case =
    (&'static [&'static str], &'static str, &'static str, &'static str, &'static [&'static str]);

const CASES: [Case; 6] = [
    // Nobody else is there to say so.
    (
        &["2", "3"],
        "of-the-only-cpu",
        "1",
        "watchdog=2 provoke=hang@0",
        &[
            "plinth: CPU 0 hangs at EL2: it has taken no interrupt for 2 s, says its own watchdog",
            "for no vCPU",
            "arch::provoke::hang",
            "plinth_main",
        ],
    ),
    (
        &["3"],
        "of-all-cpus",
        "4",
        "watchdog=2 provoke=hang@0 provoke=hang@1 provoke=hang@2 provoke=hang@3",
        &["hangs at EL2: it has taken no interrupt for 2 s, says its own watchdog", "::hang"],
    ),
    (
        &["2", "3"],
        "amid-guests",
        "2",
        "watchdog=2 provoke=hang-late@1",
        &[
            "plinth: CPU 1 hangs at EL2: it has taken no interrupt for 2 s, says its own watchdog",
            "during the hypervisor's own work; the last exit that took longer: ",
            " of storm-",
            "::hang",
            "plinth_secondary_main",
        ],
    ),
    // It masks its watchdog as well.
    (
        &["2", "3"],
        "of-a-deaf-cpu",
        "2",
        "watchdog=2 provoke=hang-deaf@1",
        &[
            "plinth: CPU 1 hangs at EL2: it has taken no interrupt for 2 s, says CPU 0",
            "for no vCPU",
        ],
    ),
    (
        &["3"],
        "of-a-deaf-boot-cpu",
        "4",
        "watchdog=2 provoke=hang-deaf@0",
        &["plinth: CPU 0 hangs at EL2: it has taken no interrupt for 2 s, says CPU 3"],
    ),
    (
        &["2"],
        "of-two-deaf-cpus",
        "4",
        "watchdog=2 provoke=hang-deaf@1 provoke=hang-deaf@2",
        &["plinth: CPU 1 hangs at EL2: it has taken no interrupt for 2 s, says CPU 0"],
    ),
];

/// Guests that keep the hypervisor busy, and one that never lets it have the CPU.
const STORMS: [&str; 4] = ["wfe", "wfi", "sgi", "timer"];

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for (gics, name, cpus, arguments, words) in CASES {
        for gic in gics {
            steps.push(Step::new(format!("run/hang-{name}-gicv{gic}"), move |bench| {
                hangs(bench, gic, cpus, arguments, words).into()
            }));
        }
    }
    for (gic, cpus) in [("2", "1"), ("2", "2"), ("3", "4")] {
        let name = format!("run/no-hang-in-storms-on-{cpus}-cpus-gicv{gic}");
        steps.push(Step::new(name, move |bench| {
            goes_on(start(bench, gic, cpus, "watchdog=5")).into()
        }));
    }
    for gic in ["2", "3"] {
        let name = format!("run/no-hang-of-a-guest-that-never-leaves-gicv{gic}");
        steps.push(Step::new(name, move |bench| goes_on(alone(bench, gic)).into()));
    }
    steps
}

/// A machine full of guests that never end.
fn start(bench: &Bench, gic: &str, cpus: &str, arguments: &str) -> Result<Session> {
    bench.machine()?;
    let lines =
        STORMS.map(|kind| format!("memory = \"16M\"\nvcpus = 2\ncmdline = \"storm={kind}\""));
    let storm = |(kind, more)| Guest { name: format!("storm-{kind}"), payload: "storm", more };
    let mut guests: Vec<_> =
        STORMS.into_iter().zip(lines.iter().map(String::as_str)).map(storm).collect();
    let two = "memory = \"16M\"\nvcpus = 2";
    guests.push(Guest { name: "spin".to_owned(), payload: "spin", more: two });
    guests.push(Guest { name: "share".to_owned(), payload: "share", more: "memory = \"16M\"" });
    let manifest = manifest(bench, "hang.toml", &guests)?;
    let args = [&*manifest.to_string_lossy(), "--gic", gic, "--smp", cpus, "--hv-args", arguments];
    Session::start(bench, &args, SECONDS)
}

/// A guest that has a CPU for itself, and takes and causes no interrupt.
fn alone(bench: &Bench, gic: &str) -> Result<Session> {
    bench.machine()?;
    let guest = |name: &str, payload, more| Guest { name: name.to_owned(), payload, more };
    let guests = [
        guest("spin", "spin", "memory = \"16M\"\ncpus = [1]"),
        guest("share", "share", "memory = \"16M\"\ncpus = [0]"),
    ];
    let manifest = manifest(bench, "alone.toml", &guests)?;
    let args = ["--gic", gic, "--smp", "2", "--hv-args", "watchdog=5"];
    Session::start(bench, &[&[&*manifest.to_string_lossy()], &args[..]].concat(), SECONDS)
}

fn hangs(bench: &Bench, gic: &str, cpus: &str, arguments: &str, words: &[&str]) -> Result<()> {
    let mut session = start(bench, gic, cpus, arguments)?;
    for word in words {
        session.expect(word, SECONDS)?;
    }
    session.expect("plinth: restart", SECONDS)?;
    // It begins again, and is told once more.
    session.expect("CPUs at EL2", SECONDS)?;
    session.expect(words[0], SECONDS)
}

/// Long enough for ten looks in a row at each CPU.
fn goes_on(session: Result<Session>) -> Result<()> {
    let mut session = session?;
    session.says("share", "share: 40 ", SECONDS)?;
    session.alive()?;
    let text = session.text();
    ensure!(!text.contains("hangs at EL2"), "{text}");
    Ok(())
}
