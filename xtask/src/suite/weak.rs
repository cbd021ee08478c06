//! `host/weak-orderings`: `tests/weak` under Miri, where a CPU may see late what another one has stored, unless an ordering forbids that.

use anyhow::{Context, Result, bail};

use super::command;
use super::host::counts;
use super::miri::{build, nightly};
use super::{Outcome, Step};

/// How many times all is run. In each the threads meet in other ways, which are the same whenever it is run.
const SEEDS: u32 = 2;
/// A thread gives way to another one at each tenth jump: they are short, and what they do is to be mixed.
const PREEMPTION: &str = "-Zmiri-preemption-rate=0.1";
/// What is not its business, and takes time: values that cannot be, aliasing, and memory that is not freed.
const LESS: [&str; 5] = [
    "-Zmiri-disable-isolation",
    "-Zmiri-disable-stacked-borrows",
    "-Zmiri-disable-validation",
    "-Zmiri-permissive-provenance",
    "-Zmiri-ignore-leaks",
];
/// For all tests with one seed.
const SECONDS: u64 = 600;

/// The tests.
const TESTS: [&str; 2] = ["--test", "weak"];

pub fn steps() -> Vec<Step> {
    vec![Step::new("host/weak-orderings", |_| match build(&TESTS) {
        Ok(()) => run().map_or_else(|why| Outcome::Failed(format!("{why:#}")), Outcome::Remarked),
        Err(why) => why,
    })]
}

fn run() -> Result<String> {
    let mut tests = None;
    for seed in 0..SEEDS {
        let seed = format!("-Zmiri-seed={seed}");
        let flags = [&LESS[..], &[PREEMPTION, &seed]].concat().join(" ");
        let mut command = nightly(&["test", "--quiet"]);
        let output = command::succeed(command.args(TESTS).env("MIRIFLAGS", flags), SECONDS);
        let passed = counts(&output.with_context(|| format!("with {seed}"))?).passed;
        if passed == 0 || tests.is_some_and(|before| before != passed) {
            bail!("{passed} tests have run with {seed}");
        }
        tests = Some(passed);
    }
    Ok(format!("{} tests, {SEEDS} seeds", tests.unwrap_or_default()))
}
