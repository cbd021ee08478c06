//! `host/miri-…`: the unit tests once more under Miri, which finds what a test run cannot see: undefined behaviour.

use std::process::Command;

use anyhow::{Result, bail};

use super::command::{self, Done};
use super::host::{BUILD_SECONDS, counts};
use super::{Outcome, Step};
use crate::doctor::first_line;
use crate::{build as builder, paths};

/// Tests that are one run of Miri, which uses one CPU, and a third of a minute of that before the first test.
struct Part {
    name: &'static str,
    /// Those with one of these in their names, but for what an earlier part has; all that no other has, if there are none.
    modules: &'static [&'static str],
    /// Whether Miri looks as closely as it can: at accesses, aliasing, races.
    closely: bool,
}

/// How many runs of the suite, of one commit after the other, have had all that is in the other parts than the first: together they
/// take most of an hour.
const TURNS: usize = 30;

/// All tests. At the modules with `unsafe`, and those next to it, Miri looks closely.
const PARTS: [Part; 8] = [
    Part {
        name: "unsafe",
        modules: &[
            "copy::",
            "host::",
            "memory::",
            "platform::driver",
            "device::",
            "exit::",
            "vcpu::",
            "virtio::queue",
        ],
        closely: true,
    },
    Part { name: "boards", modules: &["platform::"], closely: false },
    Part { name: "bundles", modules: &["manifest::", "firmware::"], closely: false },
    Part { name: "sockets", modules: &["virtio::vsock"], closely: false },
    Part { name: "networks", modules: &["virtio::net", "net::"], closely: false },
    Part { name: "virtio", modules: &["virtio::"], closely: false },
    Part { name: "vcpus", modules: &["sched::", "vgic::"], closely: false },
    Part { name: "all-else", modules: &[], closely: false },
];
/// Set in the environment where all of them are wanted at once.
const ALL: &str = "MIRI_ALL";
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
/// Miri is slow, and other steps are under way.
const SECONDS: u64 = 3600;
/// What Miri is made of, besides a nightly toolchain.
const COMPONENTS: [&str; 2] = ["miri", "rust-src"];

pub fn steps() -> Vec<Step> {
    let step = |part: &'static Part| Step::new(format!("host/miri-{}", part.name), |_| miri(part));
    if std::env::var_os(ALL).is_some() {
        return PARTS.iter().map(step).collect();
    }
    vec![step(&PARTS[0]), Step::new("host/miri-in-turn", |_| in_turn())]
}

/// Those of the other parts whose turn it is.
fn in_turn() -> Outcome {
    let turn = commits() % TURNS;
    let all = match tests() {
        Ok(all) => all,
        Err(why) => return Outcome::Failed(format!("{why:#}")),
    };
    let tests = of_turn(&all, turn);
    if let Err(why) = build(&["--lib"]) {
        return why;
    }
    let mut command = nightly(&["test", "--quiet", "--lib", "--", "--exact"]);
    command.args(&tests).env("MIRIFLAGS", flags(false));
    match command::succeed(&mut command, SECONDS) {
        Ok(output) => {
            let counts = counts(&output);
            // Those that are too long for Miri are ignored there.
            if (counts.passed + counts.skipped) as usize != tests.len() || counts.passed == 0 {
                return Outcome::Failed(format!("not {} tests: {output}", tests.len()));
            }
            Outcome::Remarked(format!("{} tests, turn {} of {TURNS}", counts.passed, turn + 1))
        }
        Err(why) => Outcome::Failed(format!("{why:#}")),
    }
}

/// The names of the unit tests, in their order.
fn tests() -> Result<Vec<String>> {
    let mut cargo = builder::cargo();
    cargo.args(["test", "--quiet", "--lib", "--package", "plinth", "--", "--list"]);
    let output = command::succeed(&mut cargo, BUILD_SECONDS)?;
    let names = output.lines().filter_map(|line| line.trim().strip_suffix(": test"));
    Ok(names.map(str::to_owned).collect())
}

/// Those of the other parts than the first whose turn this is: neighbours, which take as long as each other, have other turns.
fn of_turn(tests: &[String], turn: usize) -> Vec<&str> {
    let is_first = |test: &str| PARTS[0].modules.iter().any(|module| test.contains(module));
    let others = tests.iter().filter(|test| !is_first(test) && !test.contains(LEFT_OUT));
    others.skip(turn).step_by(TURNS).map(String::as_str).collect()
}

/// How many commits there are up to this one; 0 where nobody knows.
fn commits() -> usize {
    let mut git = Command::new("git");
    git.args(["rev-list", "--count", "HEAD"]).current_dir(paths::root());
    let output = git.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().parse().unwrap_or(0)
}

/// The toolchain, with nothing of how we were built and started.
pub(super) fn nightly(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "miri"]).args(args).current_dir(paths::root());
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    // Tests look at their environment and the clock. How many cases a property has they say themselves.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env_remove("PROPTEST_CASES");
    command
}

/// Installs Miri when it is missing. Steps side by side do so one after the other.
fn need() -> Result<()> {
    let _lock = paths::lock(&paths::target().join("miri"))?;
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

/// Builds some tests for Miri, which is installed when it is missing. Or why they cannot be run.
pub(super) fn build(tests: &[&str]) -> Result<(), Outcome> {
    need().map_err(|why| Outcome::Skipped(format!("{why:#}")))?;
    let build = [&["test", "--no-run"], tests].concat();
    let built = command::succeed(&mut nightly(&["setup"]), BUILD_SECONDS)
        .and_then(|_| command::succeed(&mut nightly(&build), BUILD_SECONDS));
    built.map(drop).map_err(|why| {
        let why = format!("{why:#}");
        let line = why.lines().find(|line| line.starts_with("error")).unwrap_or_default();
        Outcome::Skipped(format!("Miri cannot build the tests here: {line}"))
    })
}

/// The tests of a part.
fn miri(part: &Part) -> Outcome {
    if let Err(why) = build(&["--lib"]) {
        return why;
    }
    match run(part) {
        Ok(Done { status, output }) if status.success() => {
            Outcome::Remarked(format!("{} tests", counts(&output).passed))
        }
        Ok(Done { output, .. }) => Outcome::Failed(output),
        Err(why) => Outcome::Failed(format!("{why:#}")),
    }
}

/// What is in the names of the tests of a part, any name if nothing is, and what is not.
fn filters(of: &Part) -> (&'static [&'static str], Vec<&'static str>) {
    let part = PARTS.iter().position(|part| part.name == of.name).unwrap_or(PARTS.len());
    let earlier = PARTS[..part].iter().flat_map(|part| part.modules).copied();
    (of.modules, earlier.collect())
}

/// How Miri is to look at tests, closely or not.
fn flags(closely: bool) -> String {
    let more = if closely { &[] } else { INLINED };
    [&["-Zmiri-disable-isolation"], more].concat().join(" ")
}

/// Lets Miri run it.
fn run(part: &Part) -> Result<Done> {
    let mut command = nightly(&["test", "--quiet", "--lib", "--", "--skip", LEFT_OUT]);
    let (modules, others) = filters(part);
    command.args(modules);
    for other in others {
        command.args(["--skip", other]);
    }
    command.env("MIRIFLAGS", flags(part.closely));
    command::run(&mut command, SECONDS)
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
    fn each_test_has_one_turn() {
        let mut tests: Vec<String> = (0..100).map(|it| format!("net::tests::{it}")).collect();
        tests.extend(["memory::tests::a", "vm::exhaustive::a"].map(str::to_owned));
        let mut had: Vec<_> = (0..TURNS).flat_map(|turn| of_turn(&tests, turn)).collect();
        had.sort_unstable();
        let mut others: Vec<_> = tests[..100].iter().collect();
        others.sort_unstable();
        assert_eq!(had, others);
    }

    #[test]
    fn each_test_is_in_one_part() {
        let is_in = |test: &str, part| {
            let (modules, others) = filters(part);
            let has = |modules: &[&str]| modules.iter().any(|module| test.contains(module));
            (modules.is_empty() || has(modules)) && !has(&others)
        };
        for test in [
            "memory::phys::tests::a",
            "memory::frames::tests::a",
            "memory::tests::a",
            "virtio::queue::tests::a",
            "virtio::balloon::tests::a",
            "virtio::net::tests::a",
            "virtio::vsock::tests::a",
            "net::tests::a",
            "vgic::tests::a",
            "virtio::tests::a",
            "platform::driver::tests::a",
            "platform::board::tests::a",
            "time::tests::a",
        ] {
            let parts = PARTS.iter().filter(|part| is_in(test, part));
            assert_eq!(parts.count(), 1, "{test}");
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
        let closely = PARTS.iter().filter(|part| part.closely).flat_map(|part| part.modules);
        for module in found {
            assert!(closely.clone().any(|known| module.starts_with(known)), "{module}");
        }
    }
}
