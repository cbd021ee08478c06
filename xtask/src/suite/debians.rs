//! Several Debian guests of one manifest, on two CPUs and with their consoles.

use std::path::PathBuf;

use anyhow::Result;

use super::Bench;
use super::ctl::Run;
use super::session::Session;
use crate::paths;

/// Enough for the boots on a slow machine that does other things too.
pub const BOOT_SECONDS: u64 = 200;
pub const RUN_SECONDS: u64 = 600;

const MACHINE: [&str; 4] = ["--smp", "2", "--memory", "1G"];

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
    let file = kept(name, manifest)?;
    let file = file.to_string_lossy();
    let args = [&[&*file, "--gic", gic][..], &MACHINE].concat();
    let mut session = Session::start(bench, &args, RUN_SECONDS)?;
    all_come_up(&mut session, guests)?;
    Ok(session)
}

/// The same, with `more` arguments for the run, whose monitor is asked from the PC as well.
pub fn boot_to_ask<'b>(
    bench: &'b Bench,
    name: &str,
    manifest: &str,
    gic: &str,
    guests: &[&str],
    more: &[&str],
) -> Result<Run<'b>> {
    bench.debian()?;
    let args = [&["--gic", gic][..], &MACHINE, more].concat();
    let mut run = Run::start(bench, &kept(name, manifest)?, &args, &[])?;
    all_come_up(&mut run.session, guests)?;
    Ok(run)
}

/// A manifest of Debian guests that have so much `memory`, if they do not say otherwise: their names, what their command
/// lines have beside the console, and lines of their own.
pub fn manifest(memory: &str, guests: &[(&str, &str, &str)]) -> String {
    let mut text = format!("[machine.defaults]\nmemory = \"{memory}\"\n");
    for (name, cmdline, own) in guests {
        let cmdline = format!("console=ttyAMA0 quiet {cmdline}");
        text += &format!(
            "\n[[vm]]\nname = \"{name}\"\nkernel = \"debian:kernel\"\ninitrd = \"debian:initrd\"\n\
             cmdline = \"{}\"\n{own}\n",
            cmdline.trim_end()
        );
    }
    text
}

/// Types to the guest with this digit from now on.
pub fn focus(session: &mut Session, guest: u8) -> Result<()> {
    session.send(&format!("\x01{guest}"))
}

/// The file that `manifest` is kept in as `name`.
pub fn kept(name: &str, manifest: &str) -> Result<PathBuf> {
    let file = paths::work().join(format!("{name}.toml"));
    paths::write_if_changed(&file, manifest.as_bytes())?;
    Ok(file)
}

fn all_come_up(session: &mut Session, guests: &[&str]) -> Result<()> {
    guests.iter().try_for_each(|guest| session.says(guest, "plinth-guest-ready", BOOT_SECONDS))
}
