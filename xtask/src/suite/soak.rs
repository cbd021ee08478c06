//! Storms of the payload `hostile` beside a Debian guest that computes: `cargo xtask soak`, and short ones in `test`.
//!
//! A round boots a machine whose two storm guests are off, notes how much memory is free, starts them, and waits until
//! both are done. Meanwhile Debian computes the same checksum again and again. In the end the storm guests are
//! destroyed, and as much memory is free as before. What a guest does goes by its seed; with `--icount` time goes by
//! instructions as well, and what is left to chance is when the PC has it started.

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::ctl::Run;
use super::parallel::each;
use super::session::said;
use super::{Bench, Outcome, Step, debians};
use crate::cli::SoakOptions;
use crate::paths;

/// How many operations a short storm has, of both guests together, and how long one may take on a busy PC.
const SHORT: u64 = 10_000_000;
const SECONDS: u64 = 1500;
/// How many operations there are in a second on a busy PC.
const SLOWEST: u64 = 5_000;
const BOOT_SECONDS: u64 = 240;
const ANSWER_SECONDS: u64 = 60;
/// How much of the heap may be kept: lists and buffers that have grown are not made smaller.
pub(super) const KEPT: u64 = 32 << 10;
/// How much of its half of a CPU a guest has at least beside a storm.
const SHARE: f64 = 0.9;

/// Each storm has all the devices there are, and Debian the other end of its wires. One shares Debian's CPU, and both
/// have the other. What guests have written grows no further than it is at the start, so that it does not look like a leak.
const MACHINE: &str = "[machine]\nscrollback = \"4K\"\n\n[[network]]\nname = \"lan\"\n\n";
const DEBIAN: &str = "cpus = [0]\nnets = [\"lan\"]\nvsock = { group = \"storm\" }\n\
    ports = [{ name = \"one\", to = \"one\" }, { name = \"two\", to = \"two\" }]\n";
const STORMS: [&str; 2] = ["one", "two"];

/// One round.
#[derive(Clone, Copy, Debug)]
struct Round<'a> {
    gic: &'a str,
    seed: u64,
    /// Of both storm guests together.
    operations: u64,
    /// Time is counted in instructions, on one CPU.
    icount: bool,
    /// The machine's CPUs take turns on one of the PC's.
    turns: bool,
}

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        let round = Round { gic, seed: 1, operations: SHORT, icount: false, turns: false };
        Step::new(format!("soak/storms-beside-debian-gicv{gic}"), move |bench| {
            match round.run(bench) {
                Ok(remark) => Outcome::Remarked(remark),
                Err(why) => Outcome::Failed(format!("{why:#}")),
            }
        })
    };
    ["2", "3"].map(step).into()
}

/// `cargo xtask soak`: rounds on either GIC in turn, each with seeds of its own, until there were so many operations.
pub fn run(options: &SoakOptions) -> Result<ExitCode> {
    let gics = options.gic.as_deref().map_or(vec!["2", "3"], |gic| vec![gic]);
    let rounds = rounds(options, &gics);
    let start = Instant::now();
    if options.side_by_side {
        return side_by_side(options.operations, rounds, start);
    }
    let bench = Bench::new(false)?;
    for round in rounds {
        let Round { gic, seed, operations, .. } = round;
        println!("soak: GICv{gic}, seed {seed}, {operations} operations");
        let remark = round.run(&bench).with_context(|| round.again())?;
        println!("soak: {remark}; {} s so far", start.elapsed().as_secs());
    }
    Ok(ExitCode::SUCCESS)
}

fn rounds<'a>(options: &SoakOptions, gics: &[&'a str]) -> Vec<Round<'a>> {
    let &SoakOptions { mut seed, icount, turns, .. } = options;
    let (mut left, mut rounds) = (options.operations, Vec::new());
    while left > 0 {
        for gic in gics {
            let operations = left.min(options.round).max(1);
            left -= operations.min(left);
            rounds.push(Round { gic, seed, operations, icount, turns });
            if left == 0 {
                break;
            }
        }
        seed += STORMS.len() as u64;
    }
    rounds
}

/// Each round in a process and a folder of its own. When one has failed, no other is begun.
fn side_by_side(operations: u64, rounds: Vec<Round<'_>>, start: Instant) -> Result<ExitCode> {
    let (done, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    each(rounds, |round| -> Result<()> {
        if failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let ended = round.apart();
        failed.fetch_or(ended.is_err(), Ordering::Relaxed);
        ended.with_context(|| round.again())?;
        let done = done.fetch_add(round.operations, Ordering::Relaxed) + round.operations;
        let seconds = start.elapsed().as_secs();
        println!("soak: {done} of {operations} operations done, {seconds} s so far");
        Ok(())
    })
    .into_iter()
    .collect::<Result<()>>()?;
    Ok(ExitCode::SUCCESS)
}

impl Round<'_> {
    /// How to have it once more.
    fn again(&self) -> String {
        let Self { gic, seed, operations, .. } = self;
        format!(
            "the storm of `cargo xtask soak --icount --gic {gic} --seed {seed} --operations {operations} --round {operations}`"
        )
    }

    /// The round in a process of its own.
    fn apart(&self) -> Result<()> {
        let (seed, operations) = (self.seed.to_string(), self.operations.to_string());
        let folder = paths::work().join(format!("soak-{}-{seed}", self.gic));
        std::fs::create_dir_all(&folder)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["soak", "--turns", "--gic", self.gic, "--seed", &seed]);
        command.args(["--operations", &operations, "--round", &operations]);
        let status = command.env(paths::WORK, &folder).status()?;
        ensure!(status.success(), "a round ended with {status}");
        let _ = std::fs::remove_dir_all(&folder);
        Ok(())
    }

    fn manifest(&self) -> String {
        let mut text = MACHINE.to_owned();
        text += &debians::manifest("256M", &[("debian", "", DEBIAN)]);
        // Lines have their guest's name before them where there are several.
        text += "\n[[vm]]\nname = \"idle\"\nkernel = \"guest:heartbeat\"\nmemory = \"16M\"\n";
        // The first has half of a CPU, and so half as much to do.
        let first = self.operations.div_ceil(3);
        let shares = [(first, 1), (self.operations - first, 2)];
        for ((name, seed), (share, vcpus)) in STORMS.into_iter().zip(self.seed..).zip(shares) {
            let cpus = if vcpus == 1 || self.icount { "[0]" } else { "[0, 1]" };
            text += &format!(
                "\n[[vm]]\nname = \"{name}\"\nkernel = \"guest:hostile\"\nmemory = \"64M\"\nautostart = false\n\
                 cmdline = \"seed={seed} operations={share}\"\nvcpus = {vcpus}\ncpus = {cpus}\n\
                 disks = [{{ size = \"1M\" }}, {{ size = \"512K\", space = \"64K\" }}]\nnets = [\"lan\"]\n\
                 balloon = {{ min = \"32M\" }}\nagent = true\nvsock = {{ group = \"storm\", monitor = \"read\" }}\n\
                 ports = [{{ name = \"{name}\", to = \"debian\" }}]\n"
            );
        }
        text
    }

    /// How long it may take on a busy PC.
    fn seconds(&self) -> u64 {
        SECONDS.max(self.operations / SLOWEST)
    }

    /// Returns what it came to.
    fn run(&self, bench: &Bench) -> Result<String> {
        bench.debian()?;
        let manifest = debians::kept("soak", &self.manifest())?;
        let cpus = if self.icount { "1" } else { "2" };
        let mut args = vec!["--gic", self.gic, "--smp", cpus];
        args.extend(self.icount.then_some("--icount"));
        if self.turns {
            args.extend(["--", "-accel", "tcg,thread=single"]);
        }
        let mut run = Run::start_within(bench, &manifest, &args, &[], self.seconds())?;
        let run = &mut run;
        self.attend(run).with_context(|| run.session.text())
    }

    fn attend(&self, run: &mut Run<'_>) -> Result<String> {
        run.session.says("debian", "plinth-guest-ready", BOOT_SECONDS)?;
        // The first file is what all others are compared with.
        run.session.send(
            "head -c 400000 /dev/urandom >/run/f; sum() { sha256sum </run/f; }; first=$(sum); n=0; \
             while [ ! -e /run/end ]; do [ \"$(sum)\" = \"$first\" ] || echo wrong-$((6 * 7)); n=$((n + 1)); \
             [ $((n % 100)) = 0 ] && echo so-many-$((n * 1)); done &\r",
        )?;
        run.session.says("debian", "so-many-100", BOOT_SECONDS)?;
        let before = taken(run)?;
        let (time, used) = (Instant::now(), cpu_time(run, "debian")?);
        STORMS.into_iter().try_for_each(|name| run.ctl(&format!("vm start {name}")).map(drop))?;
        let mut shares = Vec::new();
        for name in STORMS {
            run.session.says(name, "GUEST-TEST: ", self.seconds())?;
            // As long as the first is there, it wants the CPU that Debian wants.
            shares.push((cpu_time(run, "debian")? - used) / time.elapsed().as_secs_f64());
        }
        let text = run.session.text();
        for name in STORMS {
            let said = said(&text, name);
            ensure!(said.contains("GUEST-TEST: ok"), "{name} is not well: {said}");
        }
        ensure!(!said(&text, "debian").contains("wrong-42"), "a checksum of Debian's was wrong");
        let bad = text.lines().find(|line| line.starts_with("plinth: "));
        ensure!(bad.is_none(), "the hypervisor says `{}`", bad.unwrap_or_default());
        let share = shares.first().copied().unwrap_or_default();
        // Where time is counted in instructions, it is not the PC's.
        ensure!(
            self.icount || share >= SHARE / 2.0,
            "Debian had {share:.3} of the CPU that it shares with one other"
        );
        STORMS.into_iter().try_for_each(|name| run.ctl(&format!("vm destroy {name}")).map(drop))?;
        let deadline = Instant::now() + Duration::from_secs(ANSWER_SECONDS);
        let more = loop {
            let now = taken(run)?;
            if now.frames == before.frames && now.heap <= before.heap + KEPT {
                break now.heap.saturating_sub(before.heap);
            }
            ensure!(
                Instant::now() < deadline,
                "{now:?} are taken when they are gone, and {before:?} were before"
            );
            sleep(Duration::from_millis(200));
        };
        run.session.send("touch /run/end; wait; echo over-$((n * 0 + 77))\r")?;
        run.session.says("debian", "over-77", ANSWER_SECONDS)?;
        run.ctl("poweroff")?;
        run.session.end_with(0, ANSWER_SECONDS)?;
        let sums = said(&text, "debian").matches("so-many-").count() * 100;
        Ok(format!(
            "seeds {} and {}: {} operations, Debian had {share:.3} of its CPU and computed {sums} checksums, {more} bytes \
             of the heap more are in use afterwards",
            self.seed,
            self.seed + 1,
            self.operations,
        ))
    }
}

/// How many bytes are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// Of the machine's memory without the heap, which grows and stays.
    pub(super) frames: u64,
    pub(super) heap: u64,
}

pub(super) fn taken(run: &Run<'_>) -> Result<Taken> {
    let told = run.json("memory")?;
    let number = |name: &str| told[name].as_u64().with_context(|| format!("no `{name}` in {told}"));
    let heap = number("heap_total")?;
    let frames = number("total")? - number("free")? - heap;
    Ok(Taken { frames, heap: heap - number("heap_free")? })
}

/// How long a VM has had CPUs, in seconds.
fn cpu_time(run: &Run<'_>, name: &str) -> Result<f64> {
    let told = run.json("vm list")?;
    let vm = told.as_array().and_then(|vms| vms.iter().find(|vm| vm["name"] == name));
    let time = vm.and_then(|vm| vm["cpu_micros"].as_f64()).map(|micros| micros / 1e6);
    time.with_context(|| format!("no CPU time of {name} in {told}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(operations: u64, round: u64) -> SoakOptions {
        let (seed, gic, icount, turns, side_by_side) = (7, None, false, false, false);
        SoakOptions { operations, round, seed, gic, icount, turns, side_by_side }
    }

    #[test]
    fn rounds_are_as_many_operations_as_asked_for_and_none_is_like_another() {
        let rounds = rounds(&asked(25, 10), &["2", "3"]);
        let found: Vec<_> = rounds.iter().map(|r| (r.gic, r.seed, r.operations)).collect();
        assert_eq!(found, [("2", 7, 10), ("3", 7, 10), ("2", 9, 5)]);
        assert!(super::rounds(&asked(0, 10), &["2"]).is_empty());
        let small = super::rounds(&asked(2, 0), &["3"]);
        assert_eq!(small.iter().map(|r| r.operations).collect::<Vec<_>>(), [1, 1]);
    }
}
