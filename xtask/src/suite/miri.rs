//! `host/miri`: tests on the PC once more under Miri, which finds what a test run cannot see: undefined behaviour.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use super::command::{self, Done};
use super::host::{BUILD_SECONDS, counts};
use super::parallel;
use super::{Outcome, Step};
use crate::doctor::first_line;
use crate::paths;

/// The modules whose tests Miri runs: those of each line in a run of their own, as Miri uses one CPU. They are those that have
/// `unsafe`, or are next to it. All of them take most of an hour: `cargo +nightly miri test --lib`.
const RUNS: [&[&str]; 2] = [
    &["memory::phys", "memory::guest", "memory::store"],
    &["copy::", "host::", "platform::driver", "device::", "exit::", "vcpu::", "virtio::queue"],
];
/// Miri is slow, and the suite is not to be.
const SECONDS: u64 = 900;
/// Tests of those modules that take most of a minute each, or longer.
const SLOW: [&str; 5] = [
    "all_ram_is_mapped",
    "frames_reach_a_guest_zeroed",
    "guests_and_stores_copy_at_every_alignment",
    // All that there is of something small.
    "exhaustive",
    "what_a_load_leaves",
];
/// What Miri is made of, besides a nightly toolchain.
const COMPONENTS: [&str; 2] = ["miri", "rust-src"];

pub fn steps() -> Vec<Step> {
    vec![Step::new("host/miri", |_| miri())]
}

/// The toolchain, with nothing of how we were built and started.
fn nightly(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "miri"]).args(args).current_dir(paths::root());
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    // Property tests look at their environment and the clock.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "2");
    command
}

/// Installs Miri when it is missing.
fn need() -> Result<()> {
    let there =
        || first_line(&["rustup", "run", "nightly", "cargo", "miri", "--version"]).is_some();
    if there() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    if first_line(&["rustup", "run", "nightly", "rustc", "--version"]).is_some() {
        eprintln!("xtask: installing {} for Rust's nightly toolchain", COMPONENTS.join(" and "));
        rustup.args(["component", "add", "--toolchain", "nightly"]).args(COMPONENTS);
    } else {
        eprintln!("xtask: installing Rust's nightly toolchain with {}", COMPONENTS.join(" and "));
        rustup.args(["toolchain", "install", "nightly", "--no-self-update"]);
        rustup.args(["--profile", "minimal", "--component", &COMPONENTS.join(",")]);
    }
    rustup.env_remove("RUSTUP_TOOLCHAIN");
    let done = command::run(&mut rustup, BUILD_SECONDS)?;
    if !there() {
        bail!("there is no nightly toolchain with Miri: {}", done.output.trim());
    }
    Ok(())
}

/// The tests of what has `unsafe`.
fn miri() -> Outcome {
    if let Err(why) = need() {
        return Outcome::Skipped(format!("{why:#}"));
    }
    let built = command::succeed(&mut nightly(&["setup"]), BUILD_SECONDS).and_then(|_| {
        command::succeed(&mut nightly(&["test", "--no-run", "--lib"]), BUILD_SECONDS)
    });
    if let Err(why) = built {
        let why = format!("{why:#}");
        let line = why.lines().find(|line| line.starts_with("error")).unwrap_or_default();
        return Outcome::Skipped(format!("Miri cannot build the tests here: {line}"));
    }
    let mut remarks = Vec::new();
    for (modules, done, seconds) in parallel::each(RUNS, run) {
        match done {
            Ok(Done { status, output }) if status.success() => {
                remarks
                    .push(format!("{} tests of {modules} ({seconds} s)", counts(&output).passed));
            }
            Ok(Done { output, .. }) => return Outcome::Failed(output),
            Err(_) => {
                let why = format!("Miri was not done with {modules} within {SECONDS} s");
                return Outcome::Skipped(why);
            }
        }
    }
    Outcome::Remarked(remarks.join("; "))
}

/// Lets Miri run the tests of `modules`: their names, what it says, how many seconds it took.
fn run(modules: &[&str]) -> (String, Result<Done>, u64) {
    let mut command = nightly(&["test", "--quiet", "--lib", "--"]);
    command.args(modules);
    for slow in SLOW {
        command.args(["--skip", slow]);
    }
    let begun = Instant::now();
    let done = command::run(&mut command, SECONDS);
    (modules.join(", "), done, begun.elapsed().as_secs())
}
