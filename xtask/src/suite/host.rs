//! Steps that run on the developer's PC alone.

use std::env;
use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};

use super::command::{self, Done};
use super::{Counts, Outcome, Step};
use crate::doctor::first_line;
use crate::{build, lint, paths};

/// Enough for a build from nothing on a slow machine.
const BUILD_SECONDS: u64 = 1200;

/// The modules whose tests Miri runs: those of each line in a run of their own, as Miri uses one CPU. What takes longest
/// comes first. All of them: `cargo +nightly miri test --lib`.
const MIRI_RUNS: [&[&str]; 6] = [
    &["memory::phys", "memory::guest", "memory::store"],
    &["sched::"],
    &["virtio::", "net::"],
    &["firmware::"],
    &["platform::driver"],
    &["device::", "exit::", "vcpu::"],
];
const SEED: &str = "PROPTEST_RNG_SEED";
/// How many cases each property of the scheduler is tried with.
const CASES_AT_LENGTH: &str = "300";
/// The cases are the same each time, so that a change and nothing else makes a difference; `PROPTEST_RNG_SEED` in the
/// environment looks at others.
const SEED_AT_LENGTH: &str = "2026";
/// What makes locks and atomics those of the model checker.
const MODELS: [&str; 2] = ["--features", "models"];
/// Miri is slow, and the suite is not to be.
const MIRI_SECONDS: u64 = 900;
/// Tests of those modules that take most of a minute each, or longer. The scheduler's simulator has small machines
/// of its own for Miri.
const MIRI_SLOW: [&str; 9] = [
    "all_ram_is_mapped",
    "frames_reach_a_guest_zeroed",
    "guests_and_stores_copy_at_every_alignment",
    "sched::tests::machine",
    "sched::tests::queue",
    "sched::tests::shares",
    // Read whole device trees; there is nothing unsafe in it.
    "platform::board",
    // They fill whole disks and many guests' memory; what is `unsafe` below them is `memory`'s.
    "virtio::block::tests",
    "virtio::net::tests",
];

/// The guests' package, in a workspace of its own.
const GUESTS: &str = "guests/Cargo.toml";
/// The package of QEMU's plugin, too.
const PLUGIN: &str = "plugin/Cargo.toml";
const LINUX: &str = "guests/linux/Cargo.toml";

pub fn steps() -> Vec<Step> {
    let mut steps = vec![
        Step::new("host/fmt", |_| cargo(&["fmt", "--all", "--check"]).into()),
        Step::new("host/lint", |_| house_rules().into()),
        Step::new("host/clippy", |_| {
            let targets = ["clippy", "--quiet", "--workspace", "--all-targets", "--"];
            cargo(&[targets.as_slice(), &["-D", "warnings"]].concat()).into()
        }),
        Step::new("host/clippy-bare", |_| clippy_bare().into()),
        Step::new("host/rustdoc", |_| {
            let mut cargo = build::cargo();
            cargo.args(["doc", "--workspace", "--document-private-items"]);
            rustdoc(&mut cargo).into()
        }),
        Step::new("host/rustdoc-bare", |_| {
            build::cargo_bare("doc")
                .and_then(|mut cargo| rustdoc(cargo.args(["--lib", "--document-private-items"])))
                .into()
        }),
        Step::new("host/tests", |_| {
            tests().unwrap_or_else(|why| Outcome::Failed(format!("{why:#}")))
        }),
        Step::new("host/scheduler-at-length", |_| {
            scheduler_at_length().unwrap_or_else(|why| Outcome::Failed(format!("{why:#}")))
        }),
        Step::new("host/exhaustive", |_| {
            exhaustive().unwrap_or_else(|why| Outcome::Failed(format!("{why:#}")))
        }),
        Step::new("host/models", |_| {
            models().unwrap_or_else(|why| Outcome::Failed(format!("{why:#}")))
        }),
        Step::new("host/clippy-models", |_| {
            let models = ["clippy", "--quiet", "--package", "plinth", "--test", "models"];
            cargo(&[models.as_slice(), &MODELS, &["--", "-D", "warnings"]].concat()).into()
        }),
        Step::new("host/miri", |_| miri()),
    ];
    if paths::root().join(GUESTS).exists() {
        steps.push(Step::new("host/fmt-guests", |_| {
            cargo(&["fmt", "--all", "--check", "--manifest-path", GUESTS]).into()
        }));
        steps.push(Step::new("host/clippy-guests", |_| clippy_guests().into()));
    }
    if paths::root().join(LINUX).exists() {
        steps.push(Step::new("host/fmt-linux", |_| {
            cargo(&["fmt", "--all", "--check", "--manifest-path", LINUX]).into()
        }));
        steps.push(Step::new("host/clippy-linux", |_| clippy_linux().into()));
    }
    if paths::root().join(PLUGIN).exists() {
        steps.push(Step::new("host/fmt-plugin", |_| {
            cargo(&["fmt", "--all", "--check", "--manifest-path", PLUGIN]).into()
        }));
        steps.push(Step::new("host/clippy-plugin", |_| {
            plugin(&["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]).into()
        }));
        steps.push(Step::new("host/tests-plugin", |_| plugin(&["test", "--quiet"]).into()));
    }
    steps
}

fn cargo(args: &[&str]) -> Result<()> {
    command::succeed(build::cargo().args(args), BUILD_SECONDS).map(drop)
}

fn house_rules() -> Result<()> {
    let offences = lint::offences(paths::root())?;
    if !offences.is_empty() {
        bail!("{}", offences.join("\n"));
    }
    Ok(())
}

fn clippy_bare() -> Result<()> {
    let mut cargo = build::cargo_bare("clippy")?;
    cargo.args(["--quiet", "--lib", "--bins", "--", "-D", "warnings"]);
    command::succeed(&mut cargo, BUILD_SECONDS).map(drop)
}

fn clippy_guests() -> Result<()> {
    build::need_target()?;
    let mut cargo = build::cargo();
    cargo.current_dir(paths::root().join("guests"));
    cargo.env("CARGO_TARGET_DIR", paths::target().join("guests"));
    cargo.args(["clippy", "--quiet", "--release", "--target", build::TARGET]);
    cargo.args(["--", "-D", "warnings"]);
    command::succeed(&mut cargo, BUILD_SECONDS).map(drop)
}

fn clippy_linux() -> Result<()> {
    build::need(build::LINUX_TARGET)?;
    let mut cargo = build::cargo();
    cargo.current_dir(paths::root().join("guests/linux"));
    cargo.env("CARGO_TARGET_DIR", paths::target().join("guests"));
    cargo.args(["clippy", "--quiet", "--release", "--target", build::LINUX_TARGET]);
    cargo.args(["--", "-D", "warnings"]);
    command::succeed(&mut cargo, BUILD_SECONDS).map(drop)
}

fn plugin(args: &[&str]) -> Result<()> {
    let mut cargo = build::cargo();
    cargo.current_dir(paths::root().join("plugin"));
    cargo.env("CARGO_TARGET_DIR", paths::target().join("plugin"));
    command::succeed(cargo.args(args), BUILD_SECONDS).map(drop)
}

fn rustdoc(cargo: &mut Command) -> Result<()> {
    cargo.args(["--quiet", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    command::succeed(cargo, BUILD_SECONDS).map(drop)
}

fn tests() -> Result<Outcome> {
    let mut cargo = build::cargo();
    cargo.args(["test", "--quiet", "--workspace", "--no-fail-fast"]);
    let Done { status, output } = command::run(&mut cargo, BUILD_SECONDS)?;
    let mut counts = counts(&output);
    if !status.success() {
        // Something that does not build, or crashes, never comes to count its failures.
        counts.failed = counts.failed.max(1);
    }
    Ok(Outcome::Many(counts, output))
}

/// The scheduler's property tests with thousands of random machines instead of a few.
fn scheduler_at_length() -> Result<Outcome> {
    let mut cargo = build::cargo();
    cargo.args(["test", "--quiet", "--profile", "search", "--lib", "--package", "plinth"]);
    cargo.args(["--", "sched::"]);
    let seed = env::var(SEED).unwrap_or_else(|_| SEED_AT_LENGTH.to_owned());
    cargo.env("PROPTEST_CASES", CASES_AT_LENGTH).env(SEED, &seed);
    let output = command::succeed(&mut cargo, BUILD_SECONDS)?;
    let passed = counts(&output).passed;
    if passed == 0 {
        bail!("no test of the scheduler has run");
    }
    Ok(Outcome::Remarked(format!(
        "{passed} tests, {CASES_AT_LENGTH} cases of each property, seed {seed}"
    )))
}

/// Everything that there is of small things: the tests called so, of which the ordinary run does a part. Built as the
/// scheduler's are.
fn exhaustive() -> Result<Outcome> {
    let mut cargo = build::cargo();
    cargo.args(["test", "--quiet", "--profile", "search", "--lib", "--package", "plinth"]);
    cargo.args(["--", "exhaustive::", "vgic::tests::file::"]);
    let passed = counts(&command::succeed(&mut cargo, BUILD_SECONDS)?).passed;
    if passed == 0 {
        bail!("no exhaustive test has run");
    }
    Ok(Outcome::Remarked(format!("{passed} tests")))
}

/// CPUs side by side, in hundreds of schedules.
fn models() -> Result<Outcome> {
    let mut cargo = build::cargo();
    cargo.args([
        "test",
        "--quiet",
        "--profile",
        "search",
        "--package",
        "plinth",
        "--test",
        "models",
    ]);
    cargo.args(MODELS).env_remove("MODEL_REPLAY");
    let passed = counts(&command::succeed(&mut cargo, BUILD_SECONDS)?).passed;
    if passed == 0 {
        bail!("no model has run");
    }
    Ok(Outcome::Remarked(format!("{passed} models")))
}

/// The sum over all `test result:` lines.
fn counts(output: &str) -> Counts {
    let mut sum = Counts::default();
    for line in output.lines().filter(|line| line.starts_with("test result: ")) {
        let number = |word: &str| {
            let parts = line.split([';', '.']).map(str::trim);
            let mut found =
                parts.filter_map(|part| part.strip_suffix(word)?.trim().parse::<u32>().ok());
            found.next_back().unwrap_or_default()
        };
        sum.passed += number("passed");
        sum.failed += number("failed");
        sum.skipped += number("ignored");
    }
    sum
}

/// The tests of what has `unsafe`, and of what is quick, once more under Miri, which finds what a test
/// run cannot see.
fn miri() -> Outcome {
    let nightly = |args: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo", "miri"]).args(args).current_dir(paths::root());
        for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
            command.env_remove(name);
        }
        // Property tests look at their environment and the clock.
        command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "2");
        command
    };
    if first_line(&["rustup", "run", "nightly", "cargo", "miri", "--version"]).is_none() {
        return Outcome::Skipped("there is no nightly toolchain with Miri".to_owned());
    }
    let built = command::succeed(&mut nightly(&["setup"]), BUILD_SECONDS).and_then(|_| {
        command::succeed(&mut nightly(&["test", "--no-run", "--lib"]), BUILD_SECONDS)
    });
    if let Err(why) = built {
        let why = format!("{why:#}");
        let line = why.lines().find(|line| line.starts_with("error")).unwrap_or_default();
        return Outcome::Skipped(format!("Miri cannot build the tests here: {line}"));
    }
    let run = |modules: &[&str]| {
        let mut command = nightly(&["test", "--quiet", "--lib", "--"]);
        command.args(modules);
        for slow in MIRI_SLOW {
            command.args(["--skip", slow]);
        }
        let begun = Instant::now();
        let done = command::run(&mut command, MIRI_SECONDS);
        (modules.join(", "), done, begun.elapsed().as_secs())
    };
    let left = Mutex::new(MIRI_RUNS.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZeroUsize::get) {
            scope.spawn(|| {
                while let Some(modules) = next() {
                    let result = run(modules);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    let mut remarks = Vec::new();
    for (modules, done, seconds) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match done {
            Ok(Done { status, output }) if status.success() => {
                remarks
                    .push(format!("{} tests of {modules} ({seconds} s)", counts(&output).passed));
            }
            Ok(Done { output, .. }) => return Outcome::Failed(output),
            Err(_) => {
                let why = format!("Miri was not done with {modules} within {MIRI_SECONDS} s");
                return Outcome::Skipped(why);
            }
        }
    }
    Outcome::Remarked(remarks.join("; "))
}

#[cfg(test)]
mod tests {
    use super::counts;
    use crate::suite::Counts;

    #[test]
    fn the_results_of_all_test_programs_are_added() {
        let output = "running 3 tests\n...\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; done\n\
            noise\n\
            test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out;\n";
        assert_eq!(counts(output), Counts { passed: 13, failed: 2, skipped: 1 });
    }
}
