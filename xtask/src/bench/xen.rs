//! Debian's Xen with one guest, on the machine that Plinth runs on.
//!
//! Xen starts the guest by itself, without a dom0 ("dom0less"): it finds it described in the board's device tree
//! ([`tree`]) and in memory, where QEMU has put it. The guest's console goes over Xen's own ([`console`]).
//!
//! | module | what it is |
//! |---|---|
//! | [`package`] | Xen's image, fetched from Debian |
//! | [`tree`] | the guest, described to Xen |
//! | [`console`] | the guest's lines, out of Xen's |

mod console;
mod package;
mod tree;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::board::Hardware;
use crate::build;
use crate::console::{End, Killed, drain_line};
use crate::qemu::{self, Boot, Machine, Qemu, Virtio};
use crate::rpi4::Tree;
use crate::run::RunFiles;

use console::{Console, Stop};

/// Where the guest's image waits for Xen: in any RAM of QEMU's board of 512 MiB or more, and away from its start,
/// where QEMU puts Xen and the device tree.
const GUEST_AT: u64 = 0x5000_0000;

/// How long QEMU may take to write its device tree.
const TREE_LIMIT: Duration = Duration::from_secs(60);

/// How many of Xen's last lines an error shows.
const SHOWN_LINES: usize = 30;

/// Debian's Xen.
pub struct Xen {
    image: PathBuf,
    /// Its package's version.
    pub version: String,
}

/// The guest.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// A payload of `guests/`: its ELF file, or an arm64 Image.
    pub payload: &'a Path,
    /// Its command line.
    pub cmdline: &'a str,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// How much memory it has, in bytes.
    pub memory: u64,
}

impl Xen {
    /// Xen out of the cache, or from Debian when it is not there.
    pub fn fetch() -> Result<Self> {
        package::fetch()
    }

    /// Boots Xen with this one guest, and gives what the guest has printed up to and with the line that has
    /// `until` in it. QEMU is gone then: Xen does not switch the machine off when its guest is.
    pub fn boot(
        &self,
        hardware: &Hardware,
        guest: &Guest<'_>,
        until: &str,
        limit: Duration,
    ) -> Result<String> {
        let image = image(guest.payload)?;
        let qemu = qemu::need(hardware.board)?;
        let files = RunFiles::new("xen")?;
        let mut tree = board_tree(&qemu, hardware, &files)?;
        tree::describe(&mut tree, guest, GUEST_AT, image.len())?;
        let tree = files.write("board.dtb", &tree.bytes())?;
        let loaded = qemu::loader(&files.write("guest", &image)?, GUEST_AT);
        let kernel =
            Boot::Kernel { kernel: &self.image, initrd: None, append: "", tree: Some(&tree) };
        let machine = machine(hardware, kernel, &loaded);

        let mut console = Console::new(until);
        let errors = files.path("errors");
        let command = qemu::command(&qemu, &machine);
        let end = listen(command, &errors, limit, |bytes| console.feed(bytes).is_some())?;
        let why = match (end, console.stop()) {
            (End::Found, Some(Stop::Until)) => return Ok(console.into_guest()),
            (End::Found, _) => "Xen has panicked".to_owned(),
            (End::Exit(status), _) => format!("QEMU ended ({status}): {}", said(&errors)),
            _ => format!("no `{until}` from the guest within {} s", limit.as_secs()),
        };
        bail!(
            "{why}, with Xen {} on {hardware}; the end of the console:\n{}",
            self.version,
            console.last_lines(SHOWN_LINES)
        )
    }
}

/// The bytes of a payload as an arm64 Image, the only kind of guest that Xen takes.
fn image(payload: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot use the guest {}", payload.display());
    let bytes = std::fs::read(payload).with_context(what)?;
    let elf = bytes.starts_with(b"\x7fELF");
    let image = if elf { build::flatten(&bytes).with_context(what)? } else { bytes };
    // "Booting AArch64 Linux": the header's magic number.
    if image.get(56..60) != Some(b"ARM\x64") {
        bail!("{}: Xen boots an arm64 Image, and this has no such header", what());
    }
    Ok(image)
}

/// The machine with virtual time, as for Plinth.
fn machine<'a>(hardware: &'a Hardware, boot: Boot<'a>, extra: &'a [String]) -> Machine<'a> {
    Machine {
        hardware,
        el2: true,
        icount: true,
        boot,
        serial: 0,
        other_serial: None,
        virtio: Virtio::default(),
        extra,
    }
}

/// The device tree that QEMU would give to what it boots.
fn board_tree(qemu: &Qemu, hardware: &Hardware, files: &RunFiles) -> Result<Tree> {
    let (path, errors) = (files.path("qemu.dtb"), files.path("errors"));
    let extra = ["-machine".to_owned(), format!("dumpdtb={}", qemu::value(&path))];
    let command = qemu::command(qemu, &machine(hardware, Boot::Loaded(&[]), &extra));
    match listen(command, &errors, TREE_LIMIT, |_| false)? {
        End::Exit(status) if status.success() => {}
        End::Exit(status) => {
            bail!("QEMU gave no device tree of {hardware} ({status}): {}", said(&errors))
        }
        _ => bail!("QEMU gave no device tree of {hardware} within {} s", TREE_LIMIT.as_secs()),
    }
    let blob = std::fs::read(&path).context("QEMU left no device tree")?;
    Tree::read(&blob).context("QEMU's device tree")
}

/// What a program has written to this file, in one line.
fn said(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Hands on what comes over the machine's serial line until `each` has seen enough, QEMU ends, or the time is up;
/// afterwards QEMU is gone. What QEMU itself says goes to a file: that Xen leaves the machine without a timer, which
/// it warns of, is no news.
fn listen(
    mut command: Command,
    errors: &Path,
    limit: Duration,
    mut each: impl FnMut(&[u8]) -> bool,
) -> Result<End> {
    let deadline = Instant::now() + limit;
    let errors = File::create(errors).context("no file for QEMU's messages")?;
    let child =
        command.stdout(Stdio::piped()).stderr(errors).spawn().context("cannot start QEMU")?;
    let mut child = Killed(child);
    let output = child.0.stdout.take().context("QEMU has no output")?;
    // Bounded: QEMU has to wait for us, not our memory to grow.
    let (send, pieces) = sync_channel(64);
    thread::spawn(move || drain_line(output, None, |bytes| send.send(bytes).is_ok()));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match pieces.recv_timeout(left) {
            Ok(bytes) if each(&bytes) => return Ok(End::Found),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return Ok(End::Timeout),
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(End::Exit(child.0.wait().context("cannot wait for QEMU")?));
            }
        }
    }
}
