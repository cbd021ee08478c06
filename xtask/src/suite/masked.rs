//! The longest time that EL2 takes no interrupt, while guests storm: in instructions, counted by QEMU's plugin.
//!
//! There is one CPU, whose time is its instructions: what is counted is the same each time. With several there
//! would be waiting for locks in it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bench, Outcome, Step, debians};
use crate::bench::counted::Counter;
use crate::bench::measure;
use crate::board::{Board, Hardware};
use crate::bundle::Bundle;

/// How many instructions EL2 may execute without a look for interrupts.
pub const LONGEST: u64 = 20_000;
const OPERATIONS: u64 = 400_000;
const LIMIT: Duration = Duration::from_secs(600);

/// Two storms with every device there is, wired to each other.
const MACHINE: &str = "[[network]]\nname = \"lan\"\n";

pub fn steps() -> Vec<Step> {
    let step = |gic: u8| {
        Step::new(format!("soak/interrupts-wait-no-longer-gicv{gic}"), move |bench| {
            match longest(bench, gic) {
                Ok(remark) => Outcome::Remarked(remark),
                Err(why) => Outcome::Failed(format!("{why:#}")),
            }
        })
    };
    [2, 3].map(step).into()
}

fn manifest() -> String {
    let mut text = MACHINE.to_owned();
    for (name, other, seed) in [("one", "two", 11), ("two", "one", 12)] {
        text += &format!(
            "\n[[vm]]\nname = \"{name}\"\nkernel = \"guest:hostile\"\nmemory = \"64M\"\n\
             cmdline = \"seed={seed} operations={}\"\nvcpus = 2\ncpus = [0]\n\
             disks = [{{ size = \"1M\" }}, {{ size = \"512K\", space = \"64K\" }}]\nnets = [\"lan\"]\n\
             balloon = {{ min = \"32M\" }}\nagent = true\nvsock = {{ group = \"storm\", monitor = \"read\" }}\n\
             ports = [{{ name = \"wire\", to = \"{other}\" }}]\n",
            OPERATIONS / 2,
        );
    }
    text
}

fn longest(bench: &Bench, gic: u8) -> Result<String> {
    bench.machine()?;
    bench.payloads()?;
    let manifest = debians::kept("masked", &manifest())?;
    let bundle = Bundle::load(&manifest)?;
    let counter = Counter::new()?;
    let on = Hardware {
        board: Board::QemuVirt,
        gic,
        cpu: measure::CPU.into(),
        smp: 1,
        memory: 512 << 20,
    };
    let run = counter.plinth(&on, &bundle, LIMIT)?;
    for name in ["one", "two"] {
        let well = format!("[{name}] GUEST-TEST: ok");
        ensure!(run.console.contains(&well), "{name} is not well:\n{}", run.console);
    }
    let found = run.counts.longest_stretch().context("there is no stretch at EL2")?;
    ensure!(
        found.length < LONGEST,
        "EL2 took no interrupt for {} instructions, after {}: from {:#x} to {:#x}",
        found.length,
        found.entry,
        found.start,
        found.end
    );
    for reason in &run.counts.reasons {
        println!("{reason}");
    }
    Ok(format!(
        "{OPERATIONS} operations, {} instructions at most, after {}",
        found.length, found.entry
    ))
}
