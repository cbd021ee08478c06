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
const CLOSELY: &[&str] = &[
    "copy::",
    "host::",
    "memory::",
    "platform::driver",
    "device::",
    "exit::",
    "vcpu::",
    "virtio::queue",
    // Memory is taken from vCPUs that use it.
    "virtio::balloon",
];
/// About half of all other modules, by the time that they take.
const LONG: &[&str] = &["virtio::", "platform::", "manifest::"];
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

/// All tests of the library, in three runs, as Miri uses one CPU: those of [`CLOSELY`], those of [`LONG`], and those that are in neither.
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
    for (what, done, seconds) in parallel::each([Part::Long, Part::Closely, Part::Rest], run) {
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

/// One of the runs.
#[derive(Clone, Copy)]
enum Part {
    Closely,
    Long,
    Rest,
}

/// Lets Miri run a part of the tests: what it is, what Miri says, how many seconds it took.
fn run(part: Part) -> (&'static str, Result<Done>, u64) {
    let mut command = nightly(&["test", "--quiet", "--lib", "--", "--skip", LEFT_OUT]);
    let what = match part {
        Part::Closely => {
            command.args(CLOSELY);
            "what has `unsafe`"
        }
        Part::Long => {
            command.args(LONG);
            "virtio devices, boards and manifests"
        }
        Part::Rest => {
            for module in LONG {
                command.args(["--skip", module]);
            }
            "all else"
        }
    };
    if !matches!(part, Part::Closely) {
        for module in CLOSELY {
            command.args(["--skip", module]);
        }
        command.env("MIRIFLAGS", [&["-Zmiri-disable-isolation"], INLINED].concat().join(" "));
    }
    let begun = Instant::now();
    let done = command::run(&mut command, SECONDS);
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
    fn who_has_unsafe_is_looked_at_closely() {
        let mut found = Vec::new();
        with_unsafe(&paths::root().join("src"), "", &mut found);
        with_unsafe(&paths::root().join("platform"), "platform::", &mut found);
        // Of the machine alone.
        found.retain(|module| !module.starts_with("arch::") && module != "main::");
        assert!(found.len() > 3, "{found:?}");
        for module in found {
            assert!(CLOSELY.iter().any(|known| module.starts_with(known)), "{module}");
        }
    }
}
