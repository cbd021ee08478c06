//! Runs a command to its end within a time limit and keeps what it prints.

use std::fs::File;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths;

/// A command that has ended.
pub struct Done {
    pub status: ExitStatus,
    /// Standard output and standard error, interleaved as they came.
    pub output: String,
}

/// Runs `command` for at most `seconds`.
pub fn run(command: &mut Command, seconds: u64) -> Result<Done> {
    let folder = paths::target().join("xtask");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("output-{}", std::process::id()));
    let file = File::create(&path).context("cannot keep output")?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
    let _ = std::fs::remove_file(&path);
    match status {
        Some(status) => Ok(Done { status, output }),
        None => bail!("{name} was not done after {seconds} s\n{output}"),
    }
}

/// Runs `command`; failure is an error with its output.
pub fn succeed(command: &mut Command, seconds: u64) -> Result<String> {
    let Done { status, output } = run(command, seconds)?;
    if !status.success() {
        bail!("{status}\n{output}");
    }
    Ok(output)
}
