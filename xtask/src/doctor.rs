//! `cargo xtask doctor`: what is installed, what is missing, and what to do about it.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use crate::board::Board;
use crate::{apt, build, debian, disks, qemu};

/// The program `name` on the search path.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// One thing that was looked for.
struct Finding {
    what: &'static str,
    /// What was found, or what its absence means and how to end it.
    found: Result<String, String>,
    needed: bool,
}

/// Prints every finding; fails when something is missing that Plinth cannot do without.
#[allow(clippy::unnecessary_wraps, reason = "every task has this signature")]
pub fn report() -> Result<ExitCode> {
    let findings = [
        rust("rustc", &["rustc", "--version"]),
        target(),
        qemu(),
        disk_images(),
        raspberry_pi(),
        packages(),
        default_guest(),
        Finding { needed: false, ..rust("rustfmt", &["cargo", "fmt", "--version"]) },
        Finding { needed: false, ..rust("clippy", &["cargo", "clippy", "--version"]) },
        miri(),
    ];
    let mut healthy = true;
    for Finding { what, found, needed } in findings {
        let (mark, text) = match found {
            Ok(text) => ("ok", text),
            Err(text) if needed => {
                healthy = false;
                ("MISSING", text)
            }
            Err(text) => ("missing", text),
        };
        let indented = text.replace('\n', &format!("\n{:25}", ""));
        println!("{mark:8} {what:15} {indented}");
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The first line a command prints, if it succeeds.
pub fn first_line(command: &[&str]) -> Option<String> {
    let (program, args) = command.split_first()?;
    let mut command = Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").to_owned();
    output.status.success().then_some(text)
}

fn rust(what: &'static str, command: &[&str]) -> Finding {
    let hint = || format!("`rustup component add {what}` installs it");
    Finding { what, found: first_line(command).ok_or_else(hint), needed: true }
}

fn target() -> Finding {
    let hint = || format!("`rustup target add {}` installs it; `run` does so too", build::TARGET);
    let found = build::has_target().then(|| build::TARGET.to_owned()).ok_or_else(hint);
    Finding { what: "rust target", found, needed: true }
}

fn qemu() -> Finding {
    let found = match qemu::find() {
        Some(found) => {
            let (major, minor) = found.version;
            Ok(format!("{major}.{minor}, {}", found.path.display()))
        }
        None if which("apt-get").is_none() => {
            Err(format!("no {}, and no apt-get to install it with", qemu::PROGRAM))
        }
        None => {
            Err(format!("`run` installs it as root, like this:\n{}", apt::plan(apt::QEMU).script()))
        }
    };
    Finding { what: "QEMU", found, needed: true }
}

fn disk_images() -> Finding {
    let hint = || {
        let script = apt::plan(apt::QEMU_IMG).script();
        format!("what packs a disk image installs it as root, like this:\n{script}")
    };
    let found = which(disks::PROGRAM).map(|path| path.display().to_string()).ok_or_else(hint);
    Finding { what: "qemu-img", found, needed: false }
}

fn raspberry_pi() -> Finding {
    let found = match qemu::find().map(|found| qemu::emulates(found.version, Board::Rpi4)) {
        Some(Ok(())) => Ok("QEMU emulates it".to_owned()),
        Some(Err((major, minor))) => Err(format!("`--board rpi4` takes QEMU {major}.{minor}")),
        None => Err("no QEMU".to_owned()),
    };
    Finding { what: "Raspberry Pi 4", found, needed: false }
}

fn packages() -> Finding {
    let tools = ["apt-get", "apt-cache", "dpkg-deb"];
    let missing: Vec<_> = tools.into_iter().filter(|tool| which(tool).is_none()).collect();
    let found = match missing.as_slice() {
        [] => Ok(tools.join(", ")),
        _ => Err(format!("no {}: the default guest cannot be fetched", missing.join(", "))),
    };
    Finding { what: "Debian tools", found, needed: false }
}

fn default_guest() -> Finding {
    let hint = || "not fetched yet; `run` does so, once".to_owned();
    let found = debian::cached().map(|version| format!("Linux {version}")).ok_or_else(hint);
    Finding { what: "default guest", found, needed: false }
}

fn miri() -> Finding {
    let hint = || {
        "`rustup toolchain install nightly --component miri,rust-src`; only `test` uses it, and does so too"
            .to_owned()
    };
    let found = first_line(&["rustup", "run", "nightly", "cargo", "miri", "--version"]);
    Finding { what: "Miri", found: found.ok_or_else(hint), needed: false }
}
