//! Steps about virtio devices with drivers of our own on the other side, which try what no real one does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::ctl::Run;
use super::many::{Guest, all_pass, manifest_with};
use super::session::{Session, said};
use super::{Bench, Step};

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("virtio/two-with-devices-gicv{gic}"), move |bench| two(bench, gic).into())
    };
    let mut steps = vec![step("2"), step("3")];
    for gic in ["2", "3"] {
        let name = format!("virtio/{CROWD}-guests-on-a-switch-gicv{gic}");
        steps.push(Step::new(name, move |bench| crowd(bench, gic).into()));
    }
    steps.push(Step::new("virtio/memory-is-given-back-under-stores", |bench| {
        given_back(bench).into()
    }));
    steps.push(Step::new("virtio/one-is-paused", move |bench| paused(bench).into()));
    let name = "virtio/vlans-and-a-trunk";
    steps.push(Step::new(name, move |bench| trunk(bench).into()));
    steps
}

/// One guest gives memory back while another CPU of it stores there and a third one reads; a second guest, which gives back too, gets
/// what was the first one's.
fn given_back(bench: &Bench) -> Result<()> {
    let guest = |name: &str, more| Guest { name: name.to_owned(), payload: "balloon", more };
    let three = "memory = \"16M\"\nballoon = { min = \"2M\" }\nvcpus = 3";
    let one = "memory = \"16M\"\nballoon = { min = \"2M\" }";
    let guests = [guest("three", three), guest("one", one)];
    let manifest = manifest_with(bench, "given-back.toml", "", &guests)?;
    bench.machine()?;
    let args = [&*manifest.to_string_lossy(), "--gic", "3", "--smp", "3"];
    let mut session = Session::start(bench, &args, SECONDS)?;
    let ended = session.end(SECONDS + 10);
    let text = session.text();
    for name in ["three", "one"] {
        let said = said(&text, name);
        let times = said.rsplit_once("balloon: ").and_then(|(_, rest)| rest.split_once(" times"));
        let times = times.map_or("never", |(times, _)| times);
        println!("{name}: memory is given back and comes again {times} times");
        ensure!(said.contains("GUEST-TEST: ok") && !said.contains("FAIL "), "{name}\n{text}");
    }
    ended.map(drop)
}

/// How many guests talk with each other.
const CROWD: u32 = 16;

/// How long two that talk for long may take.
const SECONDS: u64 = 120;

/// Where it is told whom a guest talks with: its number, its command line, and what its card has besides.
type Neighbour = (u32, String, &'static str);

/// Runs such guests.
fn neighbours(
    bench: &Bench,
    of: &[Neighbour],
    run: impl FnOnce(&Path, &[Guest<'_>]) -> Result<()>,
) -> Result<()> {
    let more: Vec<_> = of
        .iter()
        .map(|(number, cmdline, port)| {
            format!(
                "memory = \"16M\"\ncmdline = \"{cmdline}\"\n\
                 nets = [{{ network = \"lan\", mac = \"52:54:00:00:00:{number:02x}\"{port} }}]"
            )
        })
        .collect();
    let guests: Vec<_> = of
        .iter()
        .zip(&more)
        .map(|((number, ..), more)| Guest {
            name: format!("n{number}"),
            payload: "neighbours",
            more,
        })
        .collect();
    let head = "[[network]]\nname = \"lan\"\n\n";
    run(&manifest_with(bench, "neighbours.toml", head, &guests)?, &guests)
}

/// Until all have given their verdicts.
fn until_all_pass(bench: &Bench, gic: &str, of: &[Neighbour]) -> Result<()> {
    let args = ["--gic", gic, "--smp", "2", "--memory", "1G"];
    neighbours(bench, of, |manifest, guests| {
        all_pass(bench, &manifest.to_string_lossy(), &args, guests)
    })
}

/// Two guests talk, and one is paused in the middle of it: the other waits for it, and then all frames arrive.
fn paused(bench: &Bench) -> Result<()> {
    let talks = |number| (number, "peers=6 rounds=7000".to_owned(), "");
    neighbours(bench, &[talks(1), talks(2)], |manifest, guests| {
        let start = ["[n1] neighbours: 1 begins", "[n2] neighbours: 2 begins"];
        let mut run = Run::start(bench, manifest, &["--gic", "3", "--smp", "2"], &start)?;
        run.ctl("vm pause n2")?;
        run.comes_to("n2", "paused")?;
        std::thread::sleep(Duration::from_secs(4));
        if run.session.text().contains("GUEST-TEST") {
            bail!("all was done before, or without, the one that is paused");
        }
        run.ctl("vm resume n2")?;
        run.session.end_with(0, SECONDS)?;
        let text = run.session.text();
        let passed = |guest: &&Guest<'_>| said(&text, &guest.name).contains("GUEST-TEST: ok");
        match guests.iter().filter(passed).count() {
            2 => Ok(()),
            count => bail!("{count} of 2 guests passed\n{text}"),
        }
    })
}

/// All talk with all at once, and begin their cards anew meanwhile.
fn crowd(bench: &Bench, gic: &str) -> Result<()> {
    let peers = (1..=CROWD).fold(0u32, |set, number| set | 1 << number);
    let guests: Vec<_> =
        (1..=CROWD).map(|number| (number, format!("peers={peers:x}"), "")).collect();
    until_all_pass(bench, gic, &guests)
}

/// Two guests in each of two VLANs, which hear nobody of the other, and one at a trunk, which talks with all by tags.
fn trunk(bench: &Bench) -> Result<()> {
    let (ten, twenty, all) = (0b10_0110, 0b11_1000, 0b11_1110);
    let trunk = format!("peers={all:x} tag10={:x} tag20={:x}", ten & !(1 << 5), twenty & !(1 << 5));
    let guests = [
        (1, format!("peers={ten:x}"), ", vlan = 10"),
        (2, format!("peers={ten:x}"), ", vlan = 10"),
        (3, format!("peers={twenty:x}"), ", vlan = 20"),
        (4, format!("peers={twenty:x}"), ", vlan = 20"),
        (5, trunk, ", trunk = [10, 20]"),
    ];
    until_all_pass(bench, "3", &guests)
}

/// Two guests break their devices, and begin them anew, each while the other does: on one switch, each with a disk.
fn two(bench: &Bench, gic: &str) -> Result<()> {
    let more = "memory = \"64M\"\nnets = [\"lan\"]\ndisks = [{ size = \"1M\" }]\n\
                vsock = { group = \"storm\", monitor = \"read\" }";
    let guests = ["ada", "bob"].map(|name| Guest { name: name.into(), payload: "virtio", more });
    let manifest = manifest_with(bench, "virtio.toml", "[[network]]\nname = \"lan\"\n\n", &guests)?;
    all_pass(bench, &manifest.to_string_lossy(), &["--gic", gic, "--smp", "2"], &guests)
}
