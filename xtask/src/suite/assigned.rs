//! Steps about devices of the board that belong to a guest: a UART, with its interrupt.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::many::{Guest, manifest};
use super::session::Session;
use super::{Bench, Outcome, Step};
use crate::{paths, qemu};

const SECONDS: u64 = 150;

/// The oldest QEMU whose `virt` board has a second UART for a non-secure world.
const OLDEST: (u32, u32) = (9, 1);

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("assigned/uart-gicv{gic}"), move |bench| {
            if qemu::find().is_some_and(|qemu| qemu.version < OLDEST) {
                let (major, minor) = OLDEST;
                return Outcome::Skipped(format!("needs QEMU >= {major}.{minor}"));
            }
            owner(bench, &["--gic", gic], "/pl011@9040000", "9040000,40").into()
        })
    };
    ["2", "3"].map(step).into()
}

/// On the machine of `args`, a guest owns the UART `node`, which lies at `place`: registers and INTID. It
/// answers what comes in there.
pub fn owner(bench: &Bench, args: &[&str], node: &str, place: &str) -> Result<()> {
    bench.machine()?;
    let more = format!("memory = \"64M\"\ncmdline = \"uart={place}\"\nassign = [\"{node}\"]");
    let guest = Guest { name: "owner".to_owned(), payload: "owner", more: &more };
    let file = manifest(bench, "owner.toml", &[guest])?;
    let socket = paths::scratch("uart-test")?;
    let line = format!("unix:{},server=on,wait=off", socket.display());
    let file = file.to_string_lossy();
    let args = [args, &[&file, "--other-serial", &line]].concat();
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.expect(" is mine", SECONDS)?;
    let mut uart = UnixStream::connect(&socket).context("no UART")?;
    uart.set_read_timeout(Some(Duration::from_secs(SECONDS)))?;
    for text in ["abc", "def", "ghi", "x."] {
        // The guest is to be done with what came before: QEMU's GICv2 does not look at a level again
        // when the guest's end of an interrupt deactivates the physical one.
        sleep(Duration::from_millis(300));
        uart.write_all(text.as_bytes())?;
        let mut answer = vec![0; text.len()];
        uart.read_exact(&mut answer).with_context(|| format!("no answer to {text}"))?;
        if answer != text.to_uppercase().as_bytes() {
            bail!("{text} is answered by {}", String::from_utf8_lossy(&answer));
        }
    }
    session.expect("GUEST-TEST: ok", SECONDS)?;
    session.end_with(0, SECONDS)?;
    let _ = std::fs::remove_file(&socket);
    Ok(())
}
