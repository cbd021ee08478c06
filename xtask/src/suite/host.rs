//! Steps that run on the developer's PC alone.

use std::env;
use std::process::Command;

use anyhow::{Result, bail};

use super::command::{self, Done};
use super::{Counts, Outcome, Step};
use crate::{build, lint, paths};

/// Enough for a build from nothing on a slow machine.
pub(super) const BUILD_SECONDS: u64 = 1200;

const SEED: &str = "PROPTEST_RNG_SEED";
/// How many cases each property of the scheduler is tried with.
const CASES_AT_LENGTH: &str = "40";
/// The cases are the same each time, so that a change and nothing else makes a difference; `PROPTEST_RNG_SEED` in the
/// environment looks at others.
const SEED_AT_LENGTH: &str = "2026";
/// What makes locks and atomics those of the model checker.
const MODELS: [&str; 2] = ["--features", "models"];

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
    cargo.args(["test", "--quiet", "--workspace", "--no-fail-fast", "--"]);
    let elsewhere = BY_THEMSELVES.iter().chain(&[SCHEDULER]);
    cargo.args(elsewhere.flat_map(|tests| ["--skip", tests]));
    let Done { status, output } = command::run(&mut cargo, BUILD_SECONDS)?;
    let mut counts = counts(&output);
    if !status.success() {
        // Something that does not build, or crashes, never comes to count its failures.
        counts.failed = counts.failed.max(1);
    }
    Ok(Outcome::Many(counts, output))
}

/// The scheduler's tests, which `host/scheduler-at-length` runs.
const SCHEDULER: &str = "sched::";
/// Tests of the library that take ten times as long in an ordinary build: `host/exhaustive` runs them, and `host/tests` does not.
const BY_THEMSELVES: [&str; 3] = ["blob::every_byte_of", "::tests::saved::", "::tests::once::"];

/// The scheduler's property tests with thousands of random machines instead of a few.
fn scheduler_at_length() -> Result<Outcome> {
    let mut cargo = build::cargo();
    cargo.args(["test", "--quiet", "--profile", "search", "--lib", "--package", "plinth"]);
    cargo.args(["--", SCHEDULER]);
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

/// Everything that there is of small things: the tests called so, of which the ordinary run does a part; and those that take long. Built
/// as the scheduler's are.
fn exhaustive() -> Result<Outcome> {
    let mut cargo = build::cargo();
    cargo.args(["test", "--quiet", "--profile", "search", "--lib", "--package", "plinth"]);
    cargo.args(["--", "exhaustive::", "vgic::tests::file::"]).args(BY_THEMSELVES);
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
pub(super) fn counts(output: &str) -> Counts {
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
