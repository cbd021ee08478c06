//! Steps that give a guest a UART of the board's for its own, and use it from outside.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::session::Session;
use super::{Bench, Outcome, Step};
use crate::board::Board;
use crate::{paths, qemu};

const SECONDS: u64 = 120;

/// The first QEMU whose `virt` board has a second UART for the normal world.
const TWO_UARTS: (u32, u32) = (9, 1);

pub fn steps() -> Vec<Step> {
    ["2", "3"]
        .map(|gic| {
            Step::new(format!("assign/a-second-uart-is-a-guests-own-gicv{gic}"), move |bench| {
                match qemu::find().filter(|qemu| qemu.version < TWO_UARTS) {
                    // Where CI sets the machine up, it is to have a QEMU that is new enough.
                    Some(_) if std::env::var_os("CI").is_some() => {
                        qemu::need(Board::Rpi4).and_then(|_| virt(bench, gic)).into()
                    }
                    Some(_) => Outcome::Skipped("needs QEMU >= 9.1".to_owned()),
                    None => virt(bench, gic).into(),
                }
            })
        })
        .into()
}

/// The guest that has it echoes what comes; who wants the same one, or the console, is refused.
fn virt(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    let kernel = bench.payloads()?.join("owner");
    let vm = |name: &str, more: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\nkernel = {:?}\nmemory = \"16M\"\n{more}\n",
            kernel.display()
        )
    };
    let text = [
        vm("owner", "cmdline = \"uart=9040000,40\"\nassign = [\"pl011@9040000\"]\n"),
        vm("second", "assign = [\"/pl011@9040000\"]\n"),
        vm("console", "assign = [\"pl011@9000000\"]\n"),
        vm("nothing", "assign = [\"uart@1\"]\n"),
    ];
    let manifest = paths::work().join("assigned.toml");
    paths::write_if_changed(&manifest, text.concat().as_bytes())?;
    let socket = paths::scratch("assigned-uart")?;
    let _ = std::fs::remove_file(&socket);
    let serial = format!("unix:{},server=on,wait=on", socket.display());
    let manifest = manifest.to_string_lossy();
    let args = [&*manifest, "--gic", gic, "--smp", "2", "--", "-serial", &serial];
    let mut session = Session::start(bench, &args, SECONDS)?;
    // QEMU waits for this one.
    let mut line = connect(&socket)?;
    session.wait_for("the UART at 0x9040000 is mine", SECONDS)?;
    talk(&mut line)?;
    session.end_with(0, SECONDS)?;
    let text = session.text();
    for told in [
        "second: refused: assign: /pl011@9040000 is assigned to the manifest's guest 1 already",
        "console: refused: assign: /pl011@9000000 is the hypervisor's own console",
        "nothing: refused: assign: the board's device tree has no \"uart@1\"",
        "GUEST-TEST: ok",
    ] {
        if !text.contains(told) {
            bail!("`{told}` is missing\n{text}");
        }
    }
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

/// Types to the payload `owner` until it ends: it answers in capitals.
pub fn talk(line: &mut UnixStream) -> Result<()> {
    expect(line, "owner: ready\r\n")?;
    for (sent, comes) in [("abc\r", "ABC\r"), ("plinth\r", "PLINTH\r"), ("end.", "END.")] {
        // The guest is to be done with what came before: QEMU's GICv2 does not look at a level again
        // when the guest's end of an interrupt deactivates the physical one.
        std::thread::sleep(Duration::from_millis(300));
        line.write_all(sent.as_bytes()).context("cannot type to the second UART")?;
        expect(line, comes)?;
    }
    Ok(())
}

/// The other end of a UART's line, which QEMU offers at `socket`.
pub fn connect(socket: &std::path::Path) -> Result<UnixStream> {
    let deadline = std::time::Instant::now() + Duration::from_secs(SECONDS);
    loop {
        match UnixStream::connect(socket) {
            Ok(line) => {
                line.set_read_timeout(Some(Duration::from_secs(SECONDS)))?;
                return Ok(line);
            }
            Err(why) if std::time::Instant::now() > deadline => {
                return Err(why).context("QEMU offers no second UART");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// What comes next on the line.
fn expect(line: &mut UnixStream, text: &str) -> Result<()> {
    let mut got = vec![0; text.len()];
    line.read_exact(&mut got).context("nothing more comes from the second UART")?;
    if got != text.as_bytes() {
        bail!("`{}` came instead of `{text}`", String::from_utf8_lossy(&got));
    }
    Ok(())
}
