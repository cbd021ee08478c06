//! A guest with every device comes and goes at another's word: no part of that keeps EL2 from interrupts for long, and the last
//! time it takes no longer than the first. In instructions, counted by QEMU's plugin, on one CPU whose time they are.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::masked::LONGEST;
use super::{Bench, Outcome, Step, debians};
use crate::bench::counted::Counter;
use crate::bench::measure;
use crate::board::{Board, Hardware};
use crate::bundle::Bundle;

const ROUNDS: usize = 40;
/// How much more of the counter's ticks the last rounds may take than the first: a hundredth.
const MORE: u64 = 100;
const LIMIT: Duration = Duration::from_secs(600);

pub fn steps() -> Vec<Step> {
    let step = |gic: u8| {
        Step::new(format!("soak/guests-come-and-go-gicv{gic}"), move |bench| {
            match come_and_go(bench, gic) {
                Ok(remark) => Outcome::Remarked(remark),
                Err(why) => Outcome::Failed(format!("{why:#}")),
            }
        })
    };
    [2, 3].map(step).into()
}

fn manifest() -> String {
    format!(
        "[[network]]\nname = \"lan\"\n\n\
         [[vm]]\nname = \"operator\"\nkernel = \"guest:operator\"\nmemory = \"16M\"\n\
         cmdline = \"of=guest rounds={ROUNDS} life=5000\"\nvsock = {{ monitor = \"control\", group = \"both\" }}\n\
         nets = [\"lan\"]\nports = [{{ name = \"wire\", to = \"guest\" }}]\n\n\
         [[vm]]\nname = \"guest\"\nkernel = \"guest:hostile\"\nmemory = \"64M\"\nautostart = false\n\
         cmdline = \"seed=7 operations=1000000\"\nvcpus = 8\n\
         disks = [{{ size = \"1M\" }}, {{ size = \"512K\", space = \"64K\" }}]\nnets = [\"lan\"]\n\
         balloon = {{ min = \"32M\" }}\nagent = true\nvsock = {{ group = \"both\", monitor = \"read\" }}\n\
         ports = [{{ name = \"wire\", to = \"operator\" }}]\n"
    )
}

fn come_and_go(bench: &Bench, gic: u8) -> Result<String> {
    bench.machine()?;
    bench.payloads()?;
    let bundle = Bundle::load(&debians::kept("come-and-go", &manifest())?)?;
    let on = Hardware {
        board: Board::QemuVirt,
        gic,
        cpu: measure::CPU.into(),
        smp: 1,
        memory: 512 << 20,
    };
    let run = Counter::new()?.plinth(&on, &bundle, LIMIT)?;
    ensure!(run.console.contains("PASS another guest comes and goes"), "{}", run.console);
    let found = run.counts.longest_stretch().context("there is no stretch at EL2")?;
    for reason in &run.counts.reasons {
        println!("{reason}");
    }
    ensure!(
        found.length < LONGEST,
        "EL2 took no interrupt for {} instructions, after {}: from {:#x} to {:#x}",
        found.length,
        found.entry,
        found.start,
        found.end
    );
    let [first, last] = ["first", "last"].map(|quarter| most(&run.console, quarter));
    let (first, last) = (first?, last?);
    for (what, first, last) in [("start", first[0], last[0]), ("destroy", first[1], last[1])] {
        ensure!(last <= first + first / MORE, "{what}: {last} in the end, {first} at first");
    }
    Ok(format!(
        "{ROUNDS} times, {} instructions at most, after {}; a start took {}, an end {}",
        found.length, found.entry, last[0], last[1]
    ))
}

/// The most that a start and an end took in a quarter of the rounds, as the operator tells it.
fn most(console: &str, quarter: &str) -> Result<[u64; 2]> {
    let told = || {
        let line = console.lines().find(|line| line.contains(&format!("operator: {quarter} ")))?;
        let mut most = line.split(" to ").skip(1).map(|rest| {
            rest.split(|it: char| !it.is_ascii_digit()).next().and_then(|word| word.parse().ok())
        });
        Some([most.next()??, most.next()??])
    };
    told()
        .with_context(|| format!("the operator does not tell of its {quarter} quarter: {console}"))
}
