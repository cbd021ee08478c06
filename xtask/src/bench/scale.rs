//! What many guests cost each other: time among many, memory for each, and their coming and going.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use plinth::machine::CpuId;
use plinth::manifest::{MachineConfig, OnReboot};
use plinth::sched::policy::{CpuSet, Policy, Wfi};
use serde_json::Value;

use super::count::Counts;
use super::counted::{self, Counter};
use super::measure::{self, Figures, LIMIT, Spread, guest};
use crate::bundle::Bundle;
use crate::console::Killed;
use crate::guest::Payload;
use crate::paths;

/// What is in a guest's memory hardly matters, so it is small, in bytes.
const SMALL: u64 = 4 << 20;

/// How many VMs there are on one CPU, and what all but the one that measures do (see `guests/bench`).
const CROWDS: [(&str, u32); 6] =
    [("idle", 1), ("idle", 16), ("idle", 128), ("spin", 2), ("spin", 8), ("spin", 32)];

/// The rows of one machine.
pub fn figures(counter: &Counter, gic: u8) -> Result<Figures> {
    let mut figures = Figures::new();
    for (life, count) in CROWDS {
        let name = format!("{life}-{count}");
        let bench = guest("bench", 16 << 20, &format!("rows=scale as={name}"))?;
        let policy = Policy { wfi: Wfi::Trap, ..bench.policy };
        let mut guests = vec![Payload { policy, ..bench }];
        for index in 1..count {
            guests.push(guest(&format!("other{index}"), SMALL, &format!("rows={life}"))?);
        }
        let stretch = format!("longest-stretch-{name}");
        figures.extend(measure::counted_along(counter, gic, &guests, &[], &stretch)?);
    }
    figures.extend(descheduled(gic)?);
    let mut put = |name: &str, value| figures.insert(name.to_owned(), Spread::of(value));
    let [small, large] = memory(gic)?;
    put("memory-per-vm", small);
    put("memory-per-vcpu", large.saturating_sub(small) / 7);
    put("create-vm", creation(counter, gic)?);
    let (destruction, stretch) = destruction(counter, gic)?;
    put("destroy-vm", destruction);
    put("longest-stretch-destroy", stretch);
    Ok(figures)
}

/// SGIs to a vCPU whose CPU is busy with another guest.
fn descheduled(gic: u8) -> Result<Figures> {
    let bench = Payload { vcpus: 2, ..guest("bench", 16 << 20, "rows=descheduled")? };
    let other = guest("other", SMALL, "rows=yield")?;
    let policy = Policy { affinity: CpuSet::EMPTY.with(CpuId(1)), ..other.policy };
    measure::together(gic, 2, &[bench, Payload { policy, ..other }])
}

/// What a VM with one vCPU takes beside its RAM, and one with eight, in bytes.
fn memory(gic: u8) -> Result<[u64; 2]> {
    let names = ["one", "eight"];
    let [one, eight] = names.map(|name| guest(name, SMALL, "rows=yield"));
    let bundle = Bundle::pack(&MachineConfig::default(), &[one?, Payload { vcpus: 8, ..eight? }])?;
    let (file, socket) = (paths::scratch("bench-bundle")?, paths::scratch("bench-socket")?);
    std::fs::write(&file, bundle.bytes()).context("cannot write a bundle")?;
    let mut command = measure::command(gic, 1);
    command.arg("--socket").arg(&socket).arg(&file);
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
    let _ = std::fs::remove_file(&file);
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
fn creation(counter: &Counter, gic: u8) -> Result<u64> {
    // The first of them runs when the last has been made.
    let boot = |number: usize| -> Result<u64> {
        let guests = (0..number).map(|index| {
            let guest = guest(&format!("vm{index}"), SMALL, "rows=reset")?;
            Ok(Payload { on_reboot: OnReboot::Stop, ..guest })
        });
        let counts = count(counter, gic, &guests.collect::<Result<Vec<_>>>()?)?;
        Ok(counts.first_guest.context("the guest never ran")?.all.total())
    };
    Ok(boot(2)?.saturating_sub(boot(1)?))
}

/// What taking one apart takes, and the longest stretch at EL2 meanwhile.
fn destruction(counter: &Counter, gic: u8) -> Result<(u64, u64)> {
    let run = |on_reboot: OnReboot, longer: u64| -> Result<Counts> {
        // The one that stays takes longer: its memory has to be zeroed first.
        let goes = Payload { on_reboot, ..guest("goes", SMALL, "rows=reset")? };
        count(counter, gic, &[goes, guest("stays", (16 + longer) * SMALL, "rows=traps")?])
    };
    let (mut all, mut longest) = (Vec::new(), 0);
    // Two whole runs may differ by a turn of the console's work as well. So it is the least of some, each with another time
    // between the two guests: in which of them there is such a turn depends on how long the guests' files are.
    for longer in 0..5 {
        let (with, without) = (run(OnReboot::Destroy, longer)?, run(OnReboot::Stop, longer)?);
        all.push(with.total.el2.saturating_sub(without.total.el2));
        longest = longest.max(with.longest_stretch().map_or(0, |it| it.length));
    }
    Ok((all.into_iter().min().unwrap_or(0), longest))
}

fn count(counter: &Counter, gic: u8, guests: &[Payload]) -> Result<Counts> {
    let bundle = Bundle::pack(&MachineConfig::default(), guests)?;
    let hardware = counted::hardware(gic, 1, 1 << 30);
    Ok(counter.plinth(&hardware, &bundle, LIMIT)?.counts)
}
