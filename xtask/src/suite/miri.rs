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

/// The modules with `unsafe`, and those next to it: at these Miri looks as closely as it can, at accesses, aliasing, races.
const UNSAFE: &[&str] = &[
    "copy::",
    "host::",
    "memory::phys",
    "memory::guest",
    "memory::store",
    "platform::driver",
    "device::",
    "exit::",
    "vcpu::",
    "virtio::queue",
];
/// All others, in parts that take some minutes each; what none of them names is one more. At the first three it looks closely, too.
const OTHERS: [&[&str]; 11] = [
    &["memory::stage2", "memory::frames"],
    &["memory::"],
    &["virtio::balloon"],
    &["virtio::block"],
    &["virtio::net", "virtio::console"],
    &["virtio::"],
    &["platform::", "firmware::"],
    &["manifest::"],
    &["sched::"],
    &["vgic::"],
    &["console::", "monitor::", "a64::"],
];
const CLOSELY: usize = 3;
/// In the environment: `all` for all parts, or one's number; 0 is that of what has `unsafe`.
const WHICH: &str = "MIRI";
/// How Miri runs the tests of all other modules, in which there is no `unsafe`: with calls inlined it takes half as long. It still
/// sees accesses beyond what is there, races, values that cannot be, and memory that nobody frees; but not what only the aliasing
/// rules forbid, and nothing that is optimised away.
const INLINED: &[&str] = &[
    "-Zmiri-disable-stacked-borrows",
    "-Zmir-opt-level=3",
    "-Zinline-mir=yes",
    "-Zinline-mir-threshold=300",
    "-Zinline-mir-hint-threshold=600",
    "-Zcross-crate-inline-threshold=always",
];
/// All that there is of something small: `host/exhaustive` runs it.
const LEFT_OUT: &str = "exhaustive::";
/// Miri is slow, and the suite is not to be.
const SECONDS: u64 = 1500;
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
    // Tests look at their environment and the clock. How many cases a property has they say themselves.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env_remove("PROPTEST_CASES");
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

/// The tests of what has `unsafe`, or of the parts that the environment names: all of them take too long for each run of the suite. Each
/// part is a run of its own, as Miri uses one CPU.
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
    let last = OTHERS.len() + 1;
    let parts = match std::env::var(WHICH) {
        Ok(all) if all == "all" => (0..=last).collect(),
        Ok(part) => vec![part.parse().unwrap_or(0).min(last)],
        Err(_) => vec![0],
    };
    let mut remarks = Vec::new();
    for (what, done, seconds) in parallel::each(parts, run) {
        match done {
            Ok(Done { status, output }) if status.success() => {
                remarks.push(format!("{} tests of {what} ({seconds} s)", counts(&output).passed));
            }
            Ok(Done { output, .. }) => return Outcome::Failed(output),
            Err(_) => {
                let why = format!("Miri was not done with {what} within {SECONDS} s");
                return Outcome::Skipped(why);
            }
        }
    }
    Outcome::Remarked(remarks.join("; "))
}

/// The modules of a part, all if none is named, and those that are not in it.
fn modules(part: usize) -> (&'static [&'static str], Vec<&'static str>) {
    let all = [&[UNSAFE], &OTHERS[..]].concat();
    let named = all.get(part).copied().unwrap_or_default();
    (named, all[..part.min(all.len())].concat())
}

/// Lets Miri run a part of the tests: what it is, what Miri says, how many seconds it took.
fn run(part: usize) -> (String, Result<Done>, u64) {
    let mut command = nightly(&["test", "--quiet", "--lib", "--", "--skip", LEFT_OUT]);
    let (named, others) = modules(part);
    command.args(named);
    for module in others {
        command.args(["--skip", module]);
    }
    if part > CLOSELY {
        command.env("MIRIFLAGS", [&["-Zmiri-disable-isolation"], INLINED].concat().join(" "));
    }
    let begun = Instant::now();
    let done = command::run(&mut command, SECONDS);
    let what = match (part, named) {
        (0, _) => "what has `unsafe`".to_owned(),
        (_, []) => "all else".to_owned(),
        _ => named.join(", "),
    };
    (what, done, begun.elapsed().as_secs())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The files below `at` that may have `unsafe`, as modules.
    fn with_unsafe(at: &Path, of: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let module = match name.strip_suffix(".rs") {
                Some("mod") => of.to_owned(),
                Some(name) => format!("{of}{name}::"),
                None => format!("{of}{name}::"),
            };
            if entry.path().is_dir() {
                with_unsafe(&entry.path(), &module, found);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(entry.path()).unwrap();
                if text.contains("allow(unsafe_code)") {
                    found.push(module);
                }
            }
        }
    }

    #[test]
    fn each_test_is_in_one_part() {
        let is_in = |test: &str, part| {
            let (named, others) = modules(part);
            let has = |modules: &[&str]| modules.iter().any(|module| test.contains(module));
            (named.is_empty() || has(named)) && !has(&others)
        };
        for test in [
            "memory::phys::tests::a",
            "memory::frames::tests::a",
            "memory::tests::a",
            "virtio::queue::tests::a",
            "virtio::balloon::tests::a",
            "virtio::tests::a",
            "platform::driver::tests::a",
            "platform::board::tests::a",
            "time::tests::a",
        ] {
            let parts: Vec<_> = (0..OTHERS.len() + 2).filter(|&part| is_in(test, part)).collect();
            assert_eq!(parts.len(), 1, "{test} is in {parts:?}");
        }
    }

    #[test]
    fn who_has_unsafe_is_looked_at_closely() {
        let mut found = Vec::new();
        with_unsafe(&paths::root().join("src"), "", &mut found);
        with_unsafe(&paths::root().join("platform"), "platform::", &mut found);
        // Of the machine alone.
        found.retain(|module| !module.starts_with("arch::") && module != "main::");
        assert!(found.len() > 3, "{found:?}");
        let closely = [&[UNSAFE], &OTHERS[..CLOSELY]].concat().concat();
        for module in found {
            assert!(closely.iter().any(|known| module.starts_with(known)), "{module}");
        }
    }
}
