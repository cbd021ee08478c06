//! `host/fuzz-targets`: each target of `fuzz/` for some seconds, with libFuzzer choosing what comes next by the code
//! that was reached.
//!
//! What cargo-fuzz adds to a build is a few flags, and all but those of the sanitizers are stable Rust's. What is
//! `unsafe` is Miri's to look at, so there are no sanitizers here, and no other toolchain is needed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::command::{self, Done};
use super::parallel;
use super::{Outcome, Step};
use crate::doctor::which;
use crate::{apt, build, paths};

const FOLDER: &str = "fuzz";
const BUILD_SECONDS: u64 = 1200;
/// How long each target is tried, and how long it may take on a busy PC.
const SECONDS: u64 = 1;
const LIMIT_SECONDS: u64 = 300;
/// The same each time, so that a change and nothing else makes a difference.
const SEED: u64 = 2026;
/// What one input may take, in seconds and in megabytes: nothing that is read may want more than its size explains.
const INPUT_SECONDS: u64 = 20;
const MEGABYTES: u64 = 1024;

/// Counters for each edge of the control flow and each comparison, which libFuzzer reads; overflows and assertions are
/// looked for (SanitizerCoverage, "Inline 8bit-counters", "PC-Table", "Tracing data flow").
const RUSTFLAGS: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "-Ccodegen-units=1",
];

pub fn steps() -> Vec<Step> {
    if !paths::root().join(FOLDER).exists() {
        return Vec::new();
    }
    vec![Step::new("host/fuzz-targets", |_| match all() {
        Ok(remark) => Outcome::Remarked(remark),
        Err(why) => Outcome::Failed(format!("{why:#}")),
    })]
}

/// Builds all targets, tries each, and returns what it came to.
fn all() -> Result<String> {
    let targets = targets()?;
    let programs = built()?;
    let scratch = paths::target().join("fuzz");
    let results =
        parallel::each(&targets, |target| tried(&programs.join(target), target, &scratch));
    let mut inputs = 0;
    for result in results {
        inputs += result?;
    }
    Ok(format!("{} targets, {inputs} inputs", targets.len()))
}

/// The names of the targets: their files.
fn targets() -> Result<Vec<String>> {
    let folder = paths::root().join(FOLDER).join("fuzz_targets");
    let mut names = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{} has no targets", folder.display());
    Ok(names)
}

/// Builds them, and returns the folder of the programs.
fn built() -> Result<PathBuf> {
    // libFuzzer is compiled with it.
    if env::var_os("CXX").is_none() && which("c++").is_none() {
        apt::install(apt::CXX, "a C++ compiler is missing")?;
    }
    let host = build::host()?;
    let target = paths::target().join("fuzz");
    let mut cargo = build::cargo();
    cargo.args(["build", "--release", "--quiet", "--locked", "--target", &host]);
    cargo.current_dir(paths::root().join(FOLDER)).env("CARGO_TARGET_DIR", &target);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f")).env_remove("RUSTFLAGS");
    // Whoever looks at a finding builds the target with cargo-fuzz.
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    command::succeed(&mut cargo, BUILD_SECONDS)?;
    Ok(target.join(host).join("release"))
}

/// Lets libFuzzer try `target` for a while. Returns how many inputs it had.
fn tried(program: &Path, target: &str, scratch: &Path) -> Result<u64> {
    let found = scratch.join("artifacts").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    let mut command = Command::new(program);
    command.args([
        format!("-seed={SEED}"),
        format!("-max_total_time={SECONDS}"),
        // Long inputs from the beginning: there is no time to come to them.
        "-len_control=0".to_owned(),
        format!("-timeout={INPUT_SECONDS}"),
        format!("-rss_limit_mb={MEGABYTES}"),
        format!("-artifact_prefix={}/", found.display()),
        "-print_final_stats=1".to_owned(),
    ]);
    let Done { status, output } = command::run(&mut command, LIMIT_SECONDS)?;
    ensure!(
        status.success(),
        "{target} does not stand what it was given; once more: `cargo +nightly fuzz run {target} FILE`\n{output}"
    );
    executed(&output).with_context(|| format!("{target} says nothing of how it went\n{output}"))
}

/// libFuzzer's count of inputs.
fn executed(output: &str) -> Option<u64> {
    let count =
        output.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    count?.trim().parse().ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::executed;

    #[test]
    fn the_count_of_inputs_is_libfuzzers_and_none_is_no_run() {
        let output = "Done 300 runs in 5 second(s)\nstat::number_of_executed_units: 300\n";
        assert_eq!(executed(output), Some(300));
        assert_eq!(executed("stat::number_of_executed_units: 0\n"), None);
        assert_eq!(executed("INFO: Running with entropic power schedule\n"), None);
    }
}
