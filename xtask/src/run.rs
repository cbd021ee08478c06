//! `cargo xtask run`: from options to a running machine and its exit status.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use plinth::console::Settings;
use plinth::manifest::{MachineConfig, Manifest};
use plinth::monitor::command::can_be_meant;

use crate::board::{Board, Hardware};
use crate::bundle::Bundle;
use crate::channel::socket::Socket;
use crate::cli::RunOptions;
use crate::console::{self, End, LastWords, Watch};
use crate::guest::{self, Guest, Payload, Problem};
use crate::qemu::{Boot, Machine, Virtio};
use crate::source::{Part, Source, Store};
use crate::symbols::Symbols;
use crate::{build, paths, qemu, rpi4, size};

/// What a machine needs beside its guests' memory: the hypervisor itself and its tables.
const HYPERVISOR_MEMORY: u64 = 16 << 20;

/// Boots what the options say and reports how it went.
pub fn run(options: &RunOptions) -> Result<ExitCode> {
    let hardware = Hardware::of(options)?;
    if options.bare {
        let guest = guest(options)?;
        return run_bare(options, &hardware, &guest);
    }
    if let Some(card) = &options.card {
        return run_card(options, &hardware, card);
    }
    let bundle = match &options.manifest {
        Some(path) => Bundle::load(path)?,
        None if options.one_guest() => Bundle::pack(&MachineConfig::default(), &[guest(options)?])?,
        None => Bundle::load(&paths::root().join(hardware.board.default_manifest()))?,
    };
    check_memory(options, &hardware, &bundle)?;
    run_plinth(options, &hardware, &bundle)
}

/// The one guest that the options describe.
fn guest(options: &RunOptions) -> Result<Payload> {
    let mut guest = match &options.kernel {
        Some(kernel) => {
            let initrd = options.initrd.clone().map(Source::File);
            Guest { initrd, ..Guest::new(name_of(kernel), Source::File(kernel.clone())) }
        }
        None => debian(),
    };
    if let Some(cmdline) = &options.cmdline {
        guest.cmdline.clone_from(cmdline);
    }
    guest.vcpus = options.vcpus.unwrap_or(guest.vcpus);
    guest.memory = options.guest_memory.unwrap_or(guest.memory);
    // Mistakes on the command line are told before anything is fetched for them.
    told(&guest::look_over(&guest))?;
    let store = Store::default();
    guest::fetch(&guest, &store)?;
    guest::load(&guest, &store).or_else(|problems| {
        told(&problems)?;
        bail!("the guest cannot boot")
    })
}

/// The guest that boots when one is wanted and none is named.
fn debian() -> Guest {
    Guest {
        initrd: Some(Source::Debian(Part::Initrd)),
        cmdline: "console=ttyAMA0".to_owned(),
        vcpus: 2,
        ..Guest::new("debian".to_owned(), Source::Debian(Part::Kernel))
    }
}

/// Fails when there are problems, with one line for each, which names the option.
fn told(problems: &[Problem]) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    bail!("{}", lines.join("\nerror: "))
}

/// A guest's name from its kernel's file name.
fn name_of(kernel: &Path) -> String {
    let stem = kernel.file_stem().unwrap_or_default().to_string_lossy();
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = stem.chars().filter(|c| keep(*c)).take(31).collect();
    if name.is_empty() {
        "guest".to_owned()
    } else if can_be_meant(&name) {
        name
    } else {
        format!("guest-{name}").chars().take(31).collect()
    }
}

/// Refuses guests that together want more memory than the machine has.
fn check_memory(options: &RunOptions, hardware: &Hardware, bundle: &Bundle) -> Result<()> {
    let has = hardware.usable_memory();
    let memory = bundle.memory_at_start()?;
    let needs = memory.saturating_add(bundle.bytes().len() as u64);
    let boot_arguments = options.hv_args.as_deref().unwrap_or_default();
    let scrollback = scrollback(&bundle.manifest()?, boot_arguments, has);
    let needs = needs.saturating_add(HYPERVISOR_MEMORY).saturating_add(scrollback);
    if needs > has {
        bail!(
            "the guests have {} of memory; with their files and the hypervisor that needs {}, but \
             the machine has {}{}",
            size::show(memory),
            size::show(needs),
            size::show(has),
            hardware.board.memory_option()
        );
    }
    Ok(())
}

/// The memory that the hypervisor takes for scrollback on a machine of `memory` bytes, beyond what it has
/// for that anyway.
fn scrollback(manifest: &Manifest<'_>, boot_arguments: &str, memory: u64) -> u64 {
    let settings = Settings::for_machine(manifest.machine(), boot_arguments);
    let blocks = settings.more_blocks(manifest.vms().len(), memory);
    (blocks as u64).saturating_mul(settings.block() as u64)
}

fn run_plinth(options: &RunOptions, hardware: &Hardware, bundle: &Bundle) -> Result<ExitCode> {
    let qemu = qemu::need(hardware.board)?;
    let hypervisor = build::hypervisor()?;
    let files = RunFiles::new("run")?;
    let initrd = files.write("guests.bundle", bundle.bytes())?;
    let symbols = Symbols::read(&hypervisor.elf);
    let append = boot_arguments(options, std::io::stdout().is_terminal());
    let tree = match hardware.board {
        Board::QemuVirt => None,
        Board::Rpi4 => {
            let mut tree = rpi4::Tree::for_qemu()?;
            tree.put_into_use(&bundle.manifest()?)?;
            Some(tree)
        }
    };
    let serial = tree.as_ref().map(rpi4::Tree::serial_line).transpose()?;
    let tree = tree.map(|tree| files.write("board.dtb", &tree.bytes())).transpose()?;
    let mut virtio = virtio(options, hardware)?;
    // On another board the hypervisor says what is missing.
    virtio.nic |= hardware.board == Board::QemuVirt
        && bundle.manifest()?.networks().iter().any(|network| network.uplink);
    let machine = Machine {
        hardware,
        el2: true,
        icount: options.icount,
        boot: Boot::Kernel {
            kernel: &hypervisor.raw,
            initrd: Some(&initrd),
            append: &append,
            tree: tree.as_deref(),
        },
        serial: serial.unwrap_or(0),
        other_serial: options.other_serial.as_deref(),
        virtio,
        extra: &options.qemu,
    };
    boot(options, &qemu, &machine, symbols.as_ref())
}

/// Boots a card as the board's firmware does.
fn run_card(options: &RunOptions, hardware: &Hardware, card: &Path) -> Result<ExitCode> {
    let words = boot_arguments(options, std::io::stdout().is_terminal());
    let (tree, loaded) = rpi4::firmware::boot(card, &words)?;
    let serial = tree.serial_line()?;
    let qemu = qemu::need(hardware.board)?;
    let files = RunFiles::new("run")?;
    let place = |(name, bytes, at): (_, Vec<u8>, _)| anyhow::Ok((files.write(name, &bytes)?, at));
    let memory = loaded.memory(&tree)?.into_iter().map(place).collect::<Result<Vec<_>>>()?;
    let machine = Machine {
        hardware,
        el2: true,
        icount: options.icount,
        boot: Boot::Loaded(&memory),
        serial,
        other_serial: options.other_serial.as_deref(),
        virtio: virtio(options, hardware)?,
        extra: &options.qemu,
    };
    boot(options, &qemu, &machine, None)
}

/// The hypervisor's boot arguments. What a program reads has no colours in it.
fn boot_arguments(options: &RunOptions, terminal: bool) -> String {
    let mut words = options.hv_args.clone().unwrap_or_default();
    if (options.until.is_some() || !terminal) && !words.contains("colour=") {
        words += if words.is_empty() { "colour=off" } else { " colour=off" };
    }
    words
}

fn run_bare(options: &RunOptions, hardware: &Hardware, guest: &Payload) -> Result<ExitCode> {
    let qemu = qemu::need(hardware.board)?;
    let hardware =
        Hardware { smp: u32::from(guest.vcpus), memory: guest.memory, ..hardware.clone() };
    let files = RunFiles::new("run")?;
    let kernel = files.write("kernel", &guest.kernel)?;
    let initrd = guest.initrd.as_ref().map(|bytes| files.write("initrd", bytes)).transpose()?;
    let machine = Machine {
        hardware: &hardware,
        el2: false,
        icount: options.icount,
        boot: Boot::Kernel {
            kernel: &kernel,
            initrd: initrd.as_deref(),
            append: &guest.cmdline,
            tree: None,
        },
        serial: 0,
        other_serial: options.other_serial.as_deref(),
        virtio: virtio(options, &hardware)?,
        extra: &options.qemu,
    };
    boot(options, &qemu, &machine, None)
}

/// The virtio devices that the options name.
fn virtio<'a>(options: &'a RunOptions, hardware: &Hardware) -> Result<Virtio<'a>> {
    let forwards = &options.forward;
    let nic = options.nic || !forwards.is_empty();
    let virtio = Virtio { nic, forwards, disks: &options.disk };
    if hardware.board != Board::QemuVirt && (virtio.nic || !virtio.disks.is_empty()) {
        bail!(
            "the board {} has no place for a virtio device: --nic, --forward and --disk are for \
             qemu-virt",
            hardware.board
        );
    }
    if let Some(disk) = virtio.disks.iter().find(|disk| !disk.is_file()) {
        bail!("there is no disk {}", disk.display());
    }
    Ok(virtio)
}

/// Files of one run, gone after it.
pub struct RunFiles(PathBuf);

impl RunFiles {
    /// A folder for them; a process has one of a kind at a time.
    pub fn new(kind: &str) -> Result<Self> {
        let folder = paths::scratch(kind)?;
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }

    /// Where the file of this name is, or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, and gives its path.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for RunFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn boot(
    options: &RunOptions,
    qemu: &qemu::Qemu,
    machine: &Machine<'_>,
    symbols: Option<&Symbols>,
) -> Result<ExitCode> {
    let signals = console::hold_signals()?;
    eprintln!("xtask: {}; press Ctrl-] to quit", machine.hardware);
    // Without Plinth there is nobody to answer.
    let socket = if machine.el2 { open_socket(options)? } else { None };
    let clients = socket.as_ref().map(|socket| socket.listener.try_clone()).transpose();
    let clients = clients.context("no socket")?;
    let limit = options.timeout.map(Duration::from_secs_f64);
    let mut watch = Watch::new(options.until.as_deref(), symbols);
    let end = console::pump(qemu::start(qemu, machine)?, signals, clients, &mut watch, limit)?;
    watch.finish();
    let until = options.until.as_deref();
    let verdict = verdict(&end, watch.last_words(), until, machine.el2);
    if let Err(why) = &verdict.0 {
        eprintln!("\nerror: {why}");
    } else {
        eprintln!();
    }
    Ok(ExitCode::from(verdict.1))
}

/// The socket for `ctl` and `top`. A run goes on without it, unless it was asked for by its path.
fn open_socket(options: &RunOptions) -> Result<Option<Socket>> {
    match Socket::bind(options.socket.as_deref()) {
        Ok(socket) => {
            let path = paths::from_here(&socket.path);
            eprintln!("xtask: `cargo xtask ctl` and `top` reach it at {}", path.display());
            Ok(Some(socket))
        }
        Err(why) if options.socket.is_some() => Err(why),
        Err(why) => {
            eprintln!("xtask: `cargo xtask ctl` and `top` will not reach it: {why:#}");
            Ok(None)
        }
    }
}

/// What a run comes to: the reason of a failure, and the exit status.
fn verdict(
    end: &End,
    words: Option<&LastWords>,
    until: Option<&str>,
    plinth: bool,
) -> (Result<(), String>, u8) {
    let fail = |why: String| (Err(why), 1);
    match (end, words) {
        (End::Found | End::Quit, _) => (Ok(()), 0),
        (End::Timeout, _) => (
            Err(match until {
                Some(until) => format!("the time limit was reached before `{until}` appeared"),
                None => "the time limit was reached".to_owned(),
            }),
            124,
        ),
        (End::Signal(number), _) => {
            (Err(format!("stopped by signal {number}")), u8::try_from(128 + number).unwrap_or(255))
        }
        (End::Unread, _) => fail("nobody reads the console's output any more".to_owned()),
        (End::Exit(status), _) if !status.success() => fail(format!("QEMU: {status}")),
        (End::Exit(_), Some(LastWords::Failed(why))) => {
            fail(format!("the hypervisor failed: {why}"))
        }
        (End::Exit(_), None) if plinth => {
            fail("QEMU ended, but the hypervisor did not say that it powered off".to_owned())
        }
        (End::Exit(_), _) => match until {
            Some(until) => fail(format!("the machine powered off before `{until}` appeared")),
            None => (Ok(()), 0),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::ExitStatus;

    use super::{name_of, verdict};
    use crate::console::{End, LastWords};

    fn exit(code: i32) -> End {
        End::Exit(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn success_takes_the_last_words_and_qemus_own_status() {
        let failed = LastWords::Failed("vm a crashed".to_owned());
        assert_eq!(verdict(&exit(0), Some(&LastWords::Ok), None, true).1, 0);
        assert_eq!(verdict(&exit(1), Some(&LastWords::Ok), None, true).1, 1);
        assert_eq!(verdict(&exit(0), Some(&failed), None, true).1, 1);
        assert_eq!(verdict(&exit(0), None, None, true).1, 1);
        assert_eq!(verdict(&exit(0), None, None, false).1, 0);
    }

    #[test]
    fn a_clean_power_off_is_a_failure_when_the_awaited_text_never_came() {
        let (why, code) = verdict(&exit(0), Some(&LastWords::Ok), Some("ready"), true);
        assert_eq!(code, 1);
        assert!(why.is_err_and(|why| why.contains("`ready`")));
    }

    #[test]
    fn the_time_limit_has_the_exit_status_of_timeout_and_a_signal_that_of_a_shell() {
        assert_eq!(verdict(&End::Timeout, None, None, true).1, 124);
        assert_eq!(verdict(&End::Signal(15), None, None, true).1, 143);
        assert_eq!(verdict(&End::Found, None, Some("x"), true).1, 0);
    }

    #[test]
    fn a_kernels_file_name_becomes_a_guests_name() {
        assert_eq!(name_of(Path::new("/boot/vmlinuz-6.1 x")), "vmlinuz-6");
        assert_eq!(name_of(Path::new("/boot/Image")), "Image");
        assert_eq!(name_of(Path::new("\u{e4}")), "guest");
        assert_eq!(name_of(Path::new("/boot/reset")), "guest-reset");
        assert_eq!(name_of(Path::new("--all")), "guest---all");
    }
}
