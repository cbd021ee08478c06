//! What many guests cost each other: time among many, memory for each, and their coming and going.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use plinth::manifest::{MachineConfig, OnReboot};
use serde_json::Value;

use super::counted::{self, Counter};
use super::measure::{self, Figures, LIMIT, Machine, Spread};
use crate::bundle::Bundle;
use crate::console::Killed;
use crate::guest::Payload;
use crate::{build, paths};

/// What is in a guest's memory hardly matters, so it is small, in bytes.
const SMALL: u64 = 4 << 20;

/// How many VMs there are on one CPU, and what all but the one that measures do (see `guests/bench`).
const CROWDS: [(&str, u32); 6] =
    [("idle", 1), ("idle", 16), ("idle", 128), ("spin", 2), ("spin", 8), ("spin", 32)];

/// The rows of one machine.
pub fn figures(gic: u8) -> Result<Figures> {
    let payload = build::guests()?.join("bench");
    let mut figures = Figures::new();
    for (life, count) in CROWDS {
        let name = format!("{life}-{count}");
        let mut text = vm(&payload, "bench", 16 << 20, &format!("rows=scale as={name}"));
        text += "wfi = \"trap\"\n";
        for index in 1..count {
            text += &vm(&payload, &format!("other{index}"), SMALL, &format!("rows={life}"));
        }
        figures.extend(run(gic, 1, &name, &text)?);
    }
    let mut text = vm(&payload, "bench", 16 << 20, "rows=descheduled");
    text += "vcpus = 2\n";
    text += &vm(&payload, "other", SMALL, "rows=yield");
    text += "cpus = [1]\n";
    figures.extend(run(gic, 2, "descheduled", &text)?);
    let mut put = |name: &str, value| figures.insert(name.to_owned(), Spread::of(value));
    let [small, large] = memory(gic, &payload)?;
    put("memory-per-vm", small);
    put("memory-per-vcpu", large.saturating_sub(small) / 7);
    put("create-vm", creation(gic, &payload)?);
    put("destroy-vm", destruction(gic, &payload)?);
    Ok(figures)
}

/// A VM of a manifest.
fn vm(payload: &Path, name: &str, memory: u64, cmdline: &str) -> String {
    format!(
        "[[vm]]\nname = \"{name}\"\nkernel = {:?}\nmemory = \"{}M\"\ncmdline = \"{cmdline}\"\n",
        payload.display(),
        memory >> 20
    )
}

/// Runs a manifest until the guest that measures is done: the others never are.
fn run(gic: u8, cpus: u32, name: &str, manifest: &str) -> Result<Figures> {
    let path = paths::target().join(format!("xtask/bench-{name}.toml"));
    paths::write_if_changed(&path, manifest.as_bytes())?;
    let machine = Machine { gic, cpus };
    let path = path.to_string_lossy();
    let text = measure::run(&machine, &["--until", "GUEST-TEST: ok", &path])?;
    // A line of one of several guests begins with its name.
    let text = text.replace("[bench] ", "");
    measure::read(&text).with_context(|| format!("{name} on Plinth"))
}

/// What a VM with one vCPU takes beside its RAM, and one with eight, in bytes.
fn memory(gic: u8, payload: &Path) -> Result<[u64; 2]> {
    let names = ["one", "eight"];
    let text = names.map(|name| vm(payload, name, SMALL, "rows=idle")).concat() + "vcpus = 8\n";
    let path = paths::target().join("xtask/bench-memory.toml");
    paths::write_if_changed(&path, text.as_bytes())?;
    let socket = paths::scratch("bench-memory")?;
    let mut command = measure::command(&Machine { gic, cpus: 1 });
    command.arg("--socket").arg(&socket).arg(&path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _run = Killed(command.spawn().context("cannot start a run")?);
    let deadline = Instant::now() + LIMIT;
    loop {
        // Until both have been loaded there is more to come.
        let list = ask(&socket, "vm list").unwrap_or_default();
        let all = list.as_array().map_or(&[][..], Vec::as_slice);
        if all.len() == names.len() && all.iter().all(|vm| vm["state"] == "running") {
            break;
        }
        if Instant::now() >= deadline {
            bail!("the guests whose memory is to be told were never there: {list}");
        }
        sleep(Duration::from_millis(100));
    }
    let report = ask(&socket, "memory").context("ctl memory")?;
    ask(&socket, "quit").context("ctl quit")?;
    let taken = |name: &str| {
        let vm = report["vms"].as_array()?.iter().find(|vm| vm["name"] == name)?;
        Some(vm["tables"].as_u64()? + vm["heap"].as_u64()?)
    };
    let [small, large] = names.map(taken);
    let told = small.zip(large).with_context(|| format!("the memory of the VMs, in {report}"))?;
    Ok([told.0, told.1])
}

/// What the monitor of a run answers.
fn ask(socket: &Path, line: &str) -> Option<Value> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["ctl", "--json", "--socket"]).arg(socket).args(line.split(' '));
    let output = command.stdin(Stdio::null()).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// What making one more VM takes, from the bundle's entry to a VM that has only to be zeroed and loaded.
fn creation(gic: u8, payload: &Path) -> Result<u64> {
    let counter = Counter::new()?;
    let kernel = std::fs::read(payload).context("cannot read the payload")?;
    // The first of them runs when the last has been made.
    let boot = |count: usize| -> Result<u64> {
        let guest = |index: usize| {
            let cmdline = "rows=reset".to_owned();
            let guest = Payload::new(format!("vm{index}"), kernel.clone());
            Payload { memory: SMALL, on_reboot: OnReboot::Stop, cmdline, ..guest }
        };
        let guests: Vec<_> = (0..count).map(guest).collect();
        let counts = count_of(&counter, gic, &guests)?;
        Ok(counts.first_guest.context("the guest never ran")?.all.total())
    };
    Ok(boot(2)?.saturating_sub(boot(1)?))
}

/// What taking one apart takes, its memory included.
fn destruction(gic: u8, payload: &Path) -> Result<u64> {
    let counter = Counter::new()?;
    let kernel = std::fs::read(payload).context("cannot read the payload")?;
    let run = |on_reboot: OnReboot| -> Result<u64> {
        let guest = |name: &str, memory, cmdline: &str| {
            let guest = Payload::new(name.to_owned(), kernel.clone());
            Payload { memory, cmdline: cmdline.to_owned(), ..guest }
        };
        // The one that stays takes longer: its memory has to be zeroed first.
        let goes = Payload { on_reboot, ..guest("goes", SMALL, "rows=reset") };
        let stays = guest("stays", 16 * SMALL, "rows=traps");
        Ok(count_of(&counter, gic, &[goes, stays])?.total.el2)
    };
    Ok(run(OnReboot::Destroy)?.saturating_sub(run(OnReboot::Stop)?))
}

fn count_of(counter: &Counter, gic: u8, guests: &[Payload]) -> Result<super::count::Counts> {
    let bundle = Bundle::pack(&MachineConfig::default(), guests)?;
    let hardware = counted::hardware(gic, 1, 1 << 30);
    Ok(counter.plinth(&hardware, &bundle, LIMIT)?.counts)
}
