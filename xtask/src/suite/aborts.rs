//! Steps about asynchronous aborts (SErrors). QEMU raises none, so a firmware at EL3 hands them down to EL2
//! (`guests/src/firmware/secure.rs`): a guest's are the end of that guest alone, and the hypervisor's own are the end of all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::many::{Guest, manifest};
use super::session::{Session, said};
use super::workarounds::{Firmware, begin};
use super::{Bench, Step};
use crate::{build, paths};

const SECONDS: u64 = 120;

/// Where an abort comes, and what the log says of it: how, and in which state the guest was.
const PLACES: [(&str, &str, &str); 4] = [
    ("el1", DURING, "3c5"),
    ("el0", DURING, "3c0"),
    ("a32", DURING, "1d0"),
    ("leaves", "vCPU 0: an asynchronous abort (SError) when it left its CPU", "3c5"),
];
const DURING: &str = "vCPU 0: an asynchronous abort (SError): SError { esr: bf000002 }";

/// How many guests have one in each of these places: it is the end of each, so that many aborts are many guests.
const TIMES: usize = 25;

/// Others, which keep both CPUs busy and see what happens to their registers and interrupts.
const OTHERS: [&str; 3] = ["fp", "timers", "gic"];

/// `MSR DAIFClr, #4`, `ISB`, `MSR DAIFSet, #4`: where the hypervisor lets SErrors in.
const WINDOW: [u32; 3] = [0xd503_44ff, 0xd503_3fdf, 0xd503_44df];
/// `SMC #0x5e`, by which the firmware hears of it. Its return synchronises as the `ISB` did.
const TELL: u32 = 0xd400_0bc3;

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    // The second has vectors of its own, with a call of the firmware's at each entry from a guest.
    for (gic, offered) in [("2", 0), ("3", 0b111)] {
        steps.push(Step::new(format!("run/serror-of-a-guest-gicv{gic}"), move |bench| {
            guests(bench, gic, offered).into()
        }));
    }
    for (name, gic, arguments, cpu) in [
        ("at-el2", "2", "provoke=serror", "CPU 0"),
        ("at-el2-on-another-cpu", "3", "provoke=serror@1", "CPU 1"),
    ] {
        steps.push(Step::new(format!("run/serror-{name}"), move |bench| {
            fatal(bench, gic, arguments, cpu).into()
        }));
    }
    steps
}

fn start(bench: &Bench, gic: &str, file: &Path, how: &Firmware, image: PathBuf) -> Result<Session> {
    let options = begin(bench, file, gic, how, image)?;
    let file = file.to_string_lossy();
    let args = [&*file, "--gic", gic, "--smp", "2", "--"];
    let args: Vec<_> = args.into_iter().chain(options.iter().map(String::as_str)).collect();
    Session::start(bench, &args, SECONDS)
}

fn guests(bench: &Bench, gic: &str, offered: u8) -> Result<()> {
    bench.machine()?;
    let lines = PLACES.map(|(place, ..)| format!("memory = \"4M\"\ncmdline = \"{place}\""));
    let victims = (1..=TIMES).flat_map(|time| {
        PLACES.iter().zip(&lines).map(move |((place, ..), more)| Guest {
            name: format!("{place}-{time}"),
            payload: "aborts",
            more,
        })
    });
    let other = |payload| Guest {
        name: String::from(payload),
        payload,
        more: "memory = \"64M\"\nvcpus = 2",
    };
    let all: Vec<_> = victims.chain(OTHERS.map(other)).collect();
    let file = manifest(bench, "aborts.toml", &all)?;
    let how = Firmware { offered, aborts: true, arguments: "colour=off" };
    let mut session = start(bench, gic, &file, &how, with_a_window(&build::hypervisor()?.raw)?)?;
    let ended = session.end(SECONDS + 10);
    let text = session.text();
    let plain = text.replace('\r', "");
    // Where many stop at once, the registers of some are not said, and a line says that instead.
    let mut unsaid = plain.matches("those of others are still being said").count();
    ensure!(unsaid <= TIMES, "of {unsaid} no registers are said\n{text}");
    for state in BTreeSet::from(PLACES.map(|(.., state)| state)) {
        let wanted = PLACES.iter().filter(|(.., other)| *other == state).count() * TIMES;
        let state = format!("pstate 0x0000000000000{state}\n");
        let times = plain.matches(&state).count();
        let missing = wanted.checked_sub(times).filter(|missing| *missing <= unsaid);
        let missing = missing.with_context(|| format!("{times} times `{state}`\n{text}"))?;
        unsaid -= missing;
    }
    ensure!(unsaid == 0, "{unsaid} registers too few\n{text}");
    for (place, told, _) in PLACES {
        for time in 1..=TIMES {
            for said in
                [format!("{place}-{time}: {told}"), format!("{place}-{time}: stopped (crashed)")]
            {
                ensure!(text.matches(&said).count() == 1, "not once `{said}`\n{text}");
            }
        }
    }
    for other in OTHERS {
        let said = said(&text, other);
        let well = said.contains("GUEST-TEST: ok") && !said.contains("FAIL ");
        ensure!(well, "{other} has suffered\n{text}");
    }
    ended.map(drop)
}

fn fatal(bench: &Bench, gic: &str, arguments: &'static str, cpu: &str) -> Result<()> {
    bench.machine()?;
    let guest = Guest { name: "spin".to_owned(), payload: "spin", more: "memory = \"16M\"" };
    let file = manifest(bench, "aborts-at-el2.toml", &[guest])?;
    let how = Firmware { offered: 0, aborts: true, arguments };
    let mut session = start(bench, gic, &file, &how, build::hypervisor()?.raw)?;
    session.end_with(1, SECONDS + 10)?;
    for said in [
        &format!("plinth: SError at EL2 on {cpu}"),
        "ESR 0xbf000002: SError",
        "plinth::arch::provoke::serror (",
        "plinth::arch::provoke::on_request (",
        "plinth: power off (failed: exception at EL2)",
    ] {
        session.expect(said, 1)?;
    }
    let text = session.text();
    ensure!(!text.contains("survived"), "{text}");
    Ok(())
}

/// The hypervisor, which tells the firmware when it lets SErrors in.
fn with_a_window(image: &Path) -> Result<PathBuf> {
    let mut bytes = std::fs::read(image)?;
    let window: Vec<u8> = WINDOW.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut found = bytes.windows(window.len()).enumerate().filter(|(_, some)| *some == window);
    let at = found.next().context("nowhere are SErrors let in")?.0 + 4;
    ensure!(found.next().is_none(), "SErrors are let in in several places");
    bytes.get_mut(at..at + 4).context("the image ends")?.copy_from_slice(&TELL.to_le_bytes());
    let path = paths::work().join("aborts.img");
    paths::write_if_changed(&path, &bytes)?;
    Ok(path)
}
