//! Steps in which QEMU itself says whether the hypervisor does to the machine what no driver should: by its log of what it takes
//! for errors of its guest's, and by all of the machine's memory.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::ctl::Run;
use super::many::{Guest, manifest_with};
use super::secrets::{begin, says};
use super::session::Session;
use super::{Bench, Step};
use crate::paths;

const SECONDS: u64 = 120;

/// Payloads that do nothing to the machine that QEMU minds.
const HONEST: [&str; 6] = ["hello", "timers", "fp", "smp", "psci", "stolen"];
/// One that does: QEMU says so, whoever hears of it.
const DISHONEST: &str = "hostile";
const KNOWN: &str = "Illegal exception return at EL1";

const MACHINE: &str = "[machine]\nwhen_idle = \"wait\"\n\n";

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for gic in ["2", "3"] {
        steps.push(Step::new(format!("run/qemu-complains-of-nothing-gicv{gic}"), move |bench| {
            complains(bench, gic).into()
        }));
    }
    steps.push(Step::new("debian/qemu-complains-of-nothing", |bench| with_devices(bench).into()));
    for cpus in ["1", "2"] {
        let name = format!("secrets/none-in-the-hypervisors-memory-on-{cpus}-cpus");
        steps.push(Step::new(name, move |bench| left(bench, cpus).into()));
    }
    steps
}

/// In legacy mode virtio's driver reads a register that QEMU has for the others alone.
pub(super) const MODERN: [&str; 2] = ["-global", "virtio-mmio.force-legacy=false"];

/// QEMU's options to log what it takes for errors of what runs on it.
pub(super) fn log(name: &str) -> Result<(PathBuf, [String; 4])> {
    let path = paths::work().join(name);
    std::fs::write(&path, "")?;
    let file = path.to_string_lossy().into_owned();
    Ok((path, ["-d".to_owned(), "guest_errors,unimp".to_owned(), "-D".to_owned(), file]))
}

pub(super) fn silent(log: &Path, text: &str) -> Result<()> {
    let said = std::fs::read_to_string(log)?;
    ensure!(said.is_empty(), "QEMU says\n{said}\n{text}");
    Ok(())
}

fn complains(bench: &Bench, gic: &str) -> Result<()> {
    let guest = |name: &str, payload, more| Guest { name: name.to_owned(), payload, more };
    let two = "memory = \"64M\"\nvcpus = 2";
    let later = "memory = \"64M\"\nautostart = false\ncmdline = \"operations=1\"";
    let mut guests: Vec<_> = HONEST.map(|name| guest(name, name, two)).into();
    guests.push(guest("later", DISHONEST, later));
    let manifest = manifest_with(bench, "qemu-complains.toml", MACHINE, &guests)?;
    let (file, options) = log("qemu-complains.log")?;
    let mut args = vec!["--gic", gic, "--smp", "2", "--"];
    args.extend(options.iter().map(String::as_str));
    let mut run = Run::start(bench, &manifest, &args, &[])?;
    for name in HONEST {
        run.session.says(name, "GUEST-TEST: ok", SECONDS)?;
        run.comes_to(name, "off")?;
        run.ctl(&format!("vm destroy {name}"))?;
    }
    silent(&file, &run.session.text())?;
    // It does say something when there is something to say.
    run.ctl("vm start later")?;
    run.comes_to("later", "off")?;
    let said = std::fs::read_to_string(&file)?;
    ensure!(said.contains(KNOWN), "QEMU does not say `{KNOWN}`\n{said}");
    run.ctl("poweroff")?;
    run.session.end_with(0, SECONDS)
}

/// The default manifest: Debian twice, with devices of the hypervisor's, which drives the machine's network card.
fn with_devices(bench: &Bench) -> Result<()> {
    bench.debian()?;
    let (file, options) = log("qemu-complains-debian.log")?;
    let args = ["--gic", "3", "--smp", "2", "--until", "plinth-guest-ready", "--"];
    let args: Vec<_> =
        args.into_iter().chain(MODERN).chain(options.iter().map(String::as_str)).collect();
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.end_with(0, SECONDS + 10)?;
    silent(&file, &session.text())
}

/// What the payload `secrets` fills its memory with.
const SECRET: u64 = 0x5ec1_e75e_c1e7_5ec1;
/// Where RAM begins, and how much there is.
const RAM: u64 = 0x4000_0000;
const SIZE: u64 = 128 << 20;
/// What guests' memory comes in, at least.
const BLOCK: usize = 2 << 20;
const PAGE: usize = 4096;

/// What a guest had in its memory and in its registers is nowhere in the hypervisor's own memory once it is destroyed. In what
/// was the guest's it stays, until another gets that (`secrets/memory-that-was-anothers-*`).
fn left(bench: &Bench, cpus: &str) -> Result<()> {
    let more = "memory = \"32M\"\ncmdline = \"seed=1 hide\"\nautostart = false";
    let hides = Guest { name: "hides".to_owned(), payload: "secrets", more };
    let other = Guest { name: "idle".to_owned(), payload: "heartbeat", more: "memory = \"16M\"" };
    let manifest = manifest_with(bench, "forensics.toml", MACHINE, &[hides, other])?;
    let socket = paths::scratch("forensics-qmp")?;
    let image = paths::scratch("forensics-ram")?;
    let qmp = format!("unix:{},server=on,wait=off", socket.display());
    let args = ["--gic", "3", "--smp", cpus, "--memory", "128M", "--", "-qmp", &qmp];
    let mut run = Run::start(bench, &manifest, &args, &["CPUs at EL2"])?;
    let mut qmp = Qmp::connect(&socket)?;
    begin(&mut run, "hides")?;
    says(&mut run, "hides", "secrets: hidden", 1)?;
    // Nobody has its CPU: its registers have been saved.
    run.ctl("vm pause hides")?;
    let before = qmp.memory(&image)?;
    let guests = guests(&before);
    let tags: BTreeSet<u64> = (0..128).map(|at| mixed(1 << 16 | at)).chain([SECRET]).collect();
    let found = outside(&before, &guests, &tags);
    ensure!(!guests.is_empty(), "the guest's memory is not to be seen from outside");
    ensure!(!found.is_empty(), "the guest's registers are not to be seen from outside");
    drop(before);
    run.ctl("vm destroy hides")?;
    // The answer says that it has begun.
    run.session.wait_for("hides: destroyed", SECONDS)?;
    let after = qmp.memory(&image)?;
    let found = outside(&after, &guests, &tags);
    ensure!(
        found.is_empty(),
        "{} tags are left: at, what: {:x?}",
        found.len(),
        found.get(..8.min(found.len()))
    );
    run.ctl("poweroff")?;
    run.session.end_with(0, SECONDS)
}

/// As in the payload.
fn mixed(value: u64) -> u64 {
    let value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word))
}

/// The blocks of RAM that are the guest's: most of it is full of the secret.
fn guests(memory: &[u8]) -> BTreeSet<usize> {
    let is_guests = |block: &[u8]| {
        let full = |page: &&[u8]| words(page).all(|word| word == SECRET);
        block.chunks(PAGE).filter(full).count() > BLOCK / PAGE / 2
    };
    let blocks = memory.chunks(BLOCK).enumerate();
    blocks.filter(|(_, block)| is_guests(block)).map(|(at, _)| at).collect()
}

/// Where else there are any of the tags.
fn outside(memory: &[u8], guests: &BTreeSet<usize>, tags: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let blocks = memory.chunks(BLOCK).enumerate().filter(|(at, _)| !guests.contains(at));
    blocks
        .flat_map(|(block, bytes)| {
            let at = move |word: usize| RAM + (block * BLOCK + word * 8) as u64;
            words(bytes).enumerate().map(move |(word, value)| (at(word), value))
        })
        .filter(|(_, value)| tags.contains(value))
        .collect()
}

/// QEMU's own monitor (the QEMU Machine Protocol).
struct Qmp {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Qmp {
    fn connect(socket: &Path) -> Result<Self> {
        let to = UnixStream::connect(socket).context("no QMP socket")?;
        to.set_read_timeout(Some(Duration::from_secs(SECONDS)))?;
        let mut qmp = Self { from: BufReader::new(to.try_clone()?), to };
        qmp.ask(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(qmp)
    }

    fn ask(&mut self, what: &Value) -> Result<()> {
        writeln!(self.to, "{what}")?;
        loop {
            let mut line = String::new();
            ensure!(self.from.read_line(&mut line)? > 0, "QEMU has hung up");
            let answer: Value = serde_json::from_str(&line)?;
            if let Some(why) = answer.get("error") {
                bail!("{what}: {why}");
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    /// All of RAM.
    fn memory(&mut self, file: &Path) -> Result<Vec<u8>> {
        self.ask(&json!({
            "execute": "pmemsave",
            "arguments": { "val": RAM, "size": SIZE, "filename": file },
        }))?;
        let memory = std::fs::read(file)?;
        std::fs::remove_file(file)?;
        Ok(memory)
    }
}
