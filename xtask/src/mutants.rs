//! `cargo xtask mutants`: changes the source in small ways, one at a time, and says which changes no unit test notices.
//!
//! Each change is built and its part's own tests are run, half a minute or so: all of them are a night's work. What is not noticed is
//! either a test that is missing, or a change that makes no difference, which only reading tells.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::cli::MutantsOptions;
use crate::doctor::first_line;
use crate::{build, paths};

/// What is changed, and the tests that are to notice.
struct Part {
    name: &'static str,
    files: &'static [&'static str],
    tests: &'static str,
}

const PARTS: [Part; 4] = [
    Part { name: "stage-2", files: &["src/memory/stage2/**"], tests: "memory::stage2::" },
    Part { name: "vgic", files: &["src/vgic/**"], tests: "vgic::" },
    Part { name: "virtqueue", files: &["src/virtio/queue/**"], tests: "virtio::queue::" },
    Part {
        name: "psci",
        files: &["src/firmware/psci.rs", "src/firmware/psci/**"],
        tests: "firmware::psci::",
    },
];
/// Tests themselves, and what is made for them, are not changed.
const TESTS: [&str; 4] = ["**/tests.rs", "**/tests/**", "**/fake.rs", "**/fake/**"];
/// A change may lead to a loop without end, in seconds.
const TIMEOUT: &str = "120";

/// Which changes of a part came out how: one to a line of the tool's lists.
#[derive(Debug, Default, Eq, PartialEq)]
struct Outcomes {
    noticed: usize,
    not_noticed: Vec<String>,
    /// Among them those that the compiler refuses.
    not_built: usize,
}

impl Outcomes {
    /// Reads the lists in `folder`.
    fn read(folder: &Path) -> Result<Self> {
        let lines = |name: &str| -> Result<Vec<String>> {
            let path = folder.join(name);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("there is no {}", path.display()))?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        // A loop without end is noticed.
        let noticed = lines("caught.txt")?.len() + lines("timeout.txt")?.len();
        let (not_noticed, not_built) = (lines("missed.txt")?, lines("unviable.txt")?.len());
        Ok(Self { noticed, not_noticed, not_built })
    }
}

/// Tries the changes of the parts that are named, or of all.
pub fn run(options: &MutantsOptions) -> Result<ExitCode> {
    let is_wanted = |part: &&Part| {
        options.parts.is_empty() || options.parts.iter().any(|name| name == part.name)
    };
    let known = |name: &String| PARTS.iter().any(|part| part.name == name);
    if let Some(unknown) = options.parts.iter().find(|name| !known(name)) {
        let names = PARTS.map(|part| part.name).join(", ");
        bail!("there is no part `{unknown}` to change; there are {names}");
    }
    need()?;
    let mut all_noticed = true;
    for part in PARTS.iter().filter(is_wanted) {
        let Outcomes { noticed, not_noticed, not_built } = changed(part, options)?;
        let count = not_noticed.len();
        println!("{}: {noticed} changes noticed, {count} not; {not_built} do not build", part.name);
        not_noticed.iter().for_each(|change| println!("  not noticed: {change}"));
        all_noticed &= count == 0;
    }
    Ok(if all_noticed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Installs cargo-mutants where it is missing.
fn need() -> Result<()> {
    let there = || first_line(&["cargo", "mutants", "--version"]).is_some();
    if there() {
        return Ok(());
    }
    eprintln!("xtask: installing cargo-mutants");
    let status = Command::new("cargo").args(["install", "--locked", "cargo-mutants"]).status();
    ensure!(
        status.is_ok_and(|status| status.success()) && there(),
        "cargo-mutants is missing; install it with `cargo install --locked cargo-mutants`"
    );
    Ok(())
}

fn changed(part: &Part, options: &MutantsOptions) -> Result<Outcomes> {
    let folder = paths::target().join("mutants").join(part.name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut cargo = build::cargo();
    cargo.args(["mutants", "--package", "plinth", "--timeout", TIMEOUT]);
    for files in part.files {
        cargo.args(["--file", files]);
    }
    for files in TESTS {
        cargo.args(["--exclude", files]);
    }
    cargo.arg("--output").arg(&folder);
    if let Some(shard) = &options.shard {
        cargo.args(["--shard", shard]);
    }
    cargo.args(["--", "--lib", part.tests]);
    // Its status tells of changes that were not noticed as well as of others' failures; its lists are told from those.
    let status = cargo.status().context("cannot start cargo-mutants")?;
    let code = status.code().unwrap_or(1);
    ensure!(matches!(code, 0 | 2 | 3), "cargo-mutants ended with {status}");
    Outcomes::read(&folder.join("mutants.out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_there() {
        for files in PARTS.iter().flat_map(|part| part.files) {
            let path = files.split('*').next().unwrap();
            assert!(paths::root().join(path).exists(), "{path}");
        }
    }

    #[test]
    fn lists_are_counted_and_what_nobody_noticed_is_named() {
        let folder = paths::scratch("mutants").unwrap();
        fs::create_dir_all(&folder).unwrap();
        assert!(Outcomes::read(&folder).is_err(), "no lists");
        for (name, text) in [
            ("caught.txt", "a\nb\n"),
            ("timeout.txt", "c\n"),
            ("missed.txt", "src/x.rs:1:2: replace f with ()\n"),
            ("unviable.txt", ""),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let expected = Outcomes {
            noticed: 3,
            not_noticed: vec!["src/x.rs:1:2: replace f with ()".to_owned()],
            not_built: 0,
        };
        assert_eq!(Outcomes::read(&folder).unwrap(), expected);
        fs::remove_dir_all(folder).unwrap();
    }
}
