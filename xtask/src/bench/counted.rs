//! A machine that runs to its end while its instructions are counted.
//!
//! With one CPU, its virtual time is its instructions (`-icount`), its random numbers and its clock are
//! always the same, and nobody types: so are the counts, from run to run. Several CPUs have a thread each,
//! and their counts depend on who comes first.

use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use plinth::manifest::MachineConfig;
use rustix::io::FdFlags;

use super::count::{Counts, Plugin};
use crate::board::{Board, Hardware};
use crate::build::{self, Hypervisor};
use crate::bundle::Bundle;
use crate::console::Killed;
use crate::guest::Payload;
use crate::image;
use crate::paths;
use crate::qemu::{self, Boot, Machine, Qemu, Virtio};

/// What a machine may find different from run to run, and must not here.
const SAME_EVERY_TIME: [&str; 4] = ["-seed", "1", "-rtc", "base=2025-01-01,clock=vm"];

/// How much of the console an error shows, in lines.
const SHOWN: usize = 30;

/// What Plinth says last when all is well.
const ALL_WELL: &str = "plinth: power off (ok)";

/// What it takes to count.
pub struct Counter {
    qemu: Qemu,
    plugin: Plugin,
    hypervisor: Hypervisor,
    folder: PathBuf,
}

/// A machine that has powered off.
pub struct Run {
    pub counts: Counts,
    /// All that it printed, and QEMU's own messages.
    pub console: String,
    /// The device tree of its first guest.
    pub tree: Option<Vec<u8>>,
}

impl Counter {
    /// Builds the plugin and the hypervisor.
    pub fn new() -> Result<Self> {
        // The plugin takes a newer QEMU than the board does; where the other board's is fetched, it comes with that.
        let qemu = qemu::need(Board::Rpi4)?;
        let plugin = Plugin::build(&qemu)?;
        let hypervisor = build::hypervisor()?;
        let folder = paths::scratch("bench")?;
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { qemu, plugin, hypervisor, folder })
    }

    /// Runs a bundle's guests on Plinth until the machine powers off.
    ///
    /// # Errors
    /// That did not happen within `limit`, or something went wrong in the machine.
    pub fn plinth(&self, hardware: &Hardware, bundle: &Bundle, limit: Duration) -> Result<Run> {
        self.plinth_with(hardware, bundle, &[], limit)
    }

    /// The same with more arguments for QEMU.
    ///
    /// # Errors
    /// As for [`Counter::plinth`].
    pub fn plinth_with(
        &self,
        hardware: &Hardware,
        bundle: &Bundle,
        more: &[&str],
        limit: Duration,
    ) -> Result<Run> {
        let initrd = self.write("guests.bundle", bundle.bytes())?;
        let boot = Boot::Kernel {
            kernel: &self.hypervisor.raw,
            initrd: Some(&initrd),
            append: "colour=off",
            tree: None,
        };
        let run = self.start("plinth", hardware, true, boot, more)?;
        let run = run.end(Instant::now() + limit)?;
        if !run.console.contains(ALL_WELL) {
            bail!("the hypervisor did not power off as it should\n{}", tail(&run.console));
        }
        Ok(run)
    }

    /// Runs the payload `name` of `guests/`, with so much memory, as the only guest on Plinth. Up to its
    /// first instruction, it is what the start of the machine takes.
    ///
    /// # Errors
    /// As for [`Counter::plinth`].
    pub fn payload(&self, name: &str, on: &Hardware, memory: u64, limit: Duration) -> Result<Run> {
        let path = build::guests()?.join(name);
        let kernel =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // As for any guest: nobody loads an ELF file's debug information.
        let kernel = image::without_sections(kernel);
        let guest = Payload { memory, ..Payload::new(name.to_owned(), kernel) };
        let bundle = Bundle::pack(&MachineConfig::default(), &[guest])?;
        self.plinth(on, &bundle, limit).with_context(|| format!("payload {name}"))
    }

    /// Runs an ELF file straight on the machine, with more arguments for QEMU, until it powers off.
    ///
    /// # Errors
    /// As for [`Counter::plinth`].
    pub fn bare(
        &self,
        hardware: &Hardware,
        image: &[u8],
        more: &[&str],
        limit: Duration,
    ) -> Result<Run> {
        self.start_bare("bare", hardware, image, more)?.end(Instant::now() + limit)
    }

    /// Runs two ELF files on two such machines side by side, until both power off. `more` gives QEMU's arguments for a
    /// machine of this index, which finds its end of the wire between them in the file descriptor of this number.
    ///
    /// # Errors
    /// As for [`Counter::plinth`].
    pub fn bare_pair(
        &self,
        hardware: &Hardware,
        images: [&[u8]; 2],
        more: impl Fn(usize, RawFd) -> Vec<String>,
        limit: Duration,
    ) -> Result<[Run; 2]> {
        let deadline = Instant::now() + limit;
        let (one, other) = UnixStream::pair().context("no pair of sockets")?;
        let start = |index: usize, wire: UnixStream| {
            // A child has it, too.
            rustix::io::fcntl_setfd(&wire, FdFlags::empty()).context("cannot pass a socket")?;
            let more = more(index, wire.as_raw_fd());
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            self.start_bare(&format!("bare-{index}"), hardware, images[index], &more)
        };
        let (first, second) = (start(0, one)?, start(1, other)?);
        Ok([first.end(deadline)?, second.end(deadline)?])
    }

    fn start_bare(
        &self,
        name: &str,
        hardware: &Hardware,
        image: &[u8],
        more: &[&str],
    ) -> Result<Running> {
        let kernel = self.write(&format!("{name}.elf"), image)?;
        let boot = Boot::Kernel { kernel: &kernel, initrd: None, append: "", tree: None };
        self.start(name, hardware, false, boot, more)
    }

    fn start(
        &self,
        name: &str,
        hardware: &Hardware,
        el2: bool,
        boot: Boot,
        more: &[&str],
    ) -> Result<Running> {
        let file = |kind: &str| self.folder.join(format!("{name}.{kind}"));
        let (report, tree) = (file("report"), file("tree"));
        // What an earlier run has left must not be taken for this one's.
        for file in [&report, &tree] {
            let _ = std::fs::remove_file(file);
        }
        let icount = hardware.smp == 1;
        let mut extra = SAME_EVERY_TIME.map(str::to_owned).to_vec();
        extra.extend(self.plugin.arguments(&report, Some(&tree), icount));
        extra.extend(more.iter().map(|argument| (*argument).to_owned()));
        let machine = Machine {
            hardware,
            el2,
            icount,
            boot,
            serial: 0,
            other_serial: None,
            virtio: Virtio::default(),
            extra: &extra,
        };
        let (from, to) = std::io::pipe().context("no pipe")?;
        let mut command = qemu::command(&self.qemu, &machine);
        command.stdout(to.try_clone()?).stderr(to);
        let child = Killed(command.spawn().context("cannot start QEMU")?);
        // The output ends when nobody holds its other end any more.
        drop(command);
        Ok(Running { child, pieces: collect(from), report, tree })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// A machine that runs.
struct Running {
    child: Killed,
    pieces: Receiver<Vec<u8>>,
    report: PathBuf,
    tree: PathBuf,
}

impl Running {
    /// Waits for its end.
    fn end(mut self, deadline: Instant) -> Result<Run> {
        let mut console = Vec::new();
        loop {
            let left = deadline.checked_duration_since(Instant::now());
            let piece =
                left.map_or(Err(RecvTimeoutError::Timeout), |left| self.pieces.recv_timeout(left));
            match piece {
                Ok(piece) => console.extend(piece),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let console = String::from_utf8_lossy(&console);
                    bail!("the machine was not done in time\n{}", tail(&console));
                }
            }
        }
        let status = self.child.0.wait().context("cannot wait for QEMU")?;
        let console = String::from_utf8_lossy(&console).into_owned();
        if !status.success() {
            bail!("QEMU: {status}\n{}", tail(&console));
        }
        let text = std::fs::read_to_string(&self.report).context("there is no report")?;
        let counts = Counts::parse(&text).with_context(|| self.report.display().to_string())?;
        Ok(Run { counts, console, tree: std::fs::read(&self.tree).ok() })
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The hardware that all is counted on, but for what differs.
pub fn hardware(gic: u8, smp: u32, memory: u64) -> Hardware {
    Hardware { board: Board::QemuVirt, gic, cpu: "cortex-a72".to_owned(), smp, memory }
}

/// What is read, piece by piece.
fn collect(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, pieces) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if send.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}

fn tail(console: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}
