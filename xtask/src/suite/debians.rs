//! Several Debian guests of one manifest, on two CPUs and with their consoles.

use anyhow::Result;

use super::Bench;
use super::session::Session;
use crate::paths;

/// Enough for the boots on a slow machine that does other things too.
pub const BOOT_SECONDS: u64 = 200;
pub const RUN_SECONDS: u64 = 600;

/// A machine with this `manifest`, kept as `name`, in which each of `guests` has come up.
pub fn boot(
    bench: &Bench,
    name: &str,
    manifest: &str,
    gic: &str,
    guests: &[&str],
) -> Result<Session> {
    bench.machine()?;
    bench.debian()?;
    let file = paths::target().join(format!("xtask/{name}.toml"));
    paths::write_if_changed(&file, manifest.as_bytes())?;
    let file = file.to_string_lossy();
    let args = [&*file, "--gic", gic, "--smp", "2", "--memory", "1G"];
    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    for guest in guests {
        session.says(guest, "plinth-guest-ready", BOOT_SECONDS)?;
    }
    Ok(session)
}
