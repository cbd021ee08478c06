//! `cargo xtask run`: from options to a running machine and its exit status.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use plinth::manifest::VmSource;

use crate::channel::socket::Socket;
use crate::cli::RunOptions;
use crate::console::{self, End, LastWords, Watch};
use crate::guest::{DEFAULT_MEMORY, Field, Guest, Payload};
use crate::qemu::Machine;
use crate::symbols::Symbols;
use crate::{build, debian, manifest, paths, qemu, size};

/// What a machine needs beside its guests' memory: the hypervisor itself and its tables.
const HYPERVISOR_MEMORY: u64 = 16 << 20;

/// Boots what the options say and reports how it went.
pub fn run(options: &RunOptions) -> Result<ExitCode> {
    check_machine(options)?;
    let guests = guests(options)?;
    check_memory(options, &guests)?;
    let qemu = qemu::need()?;
    if options.bare {
        run_bare(options, &qemu, &guests)
    } else {
        run_plinth(options, &qemu, &guests)
    }
}

/// Refuses machines that QEMU could not build.
fn check_machine(options: &RunOptions) -> Result<()> {
    if options.board != "qemu-virt" {
        bail!("unknown board `{}`; known are: qemu-virt", options.board);
    }
    let most = if options.gic == 2 { 8 } else { 512 };
    if options.smp == 0 || options.smp > most {
        let (smp, gic) = (options.smp, options.gic);
        bail!("--smp: {smp} CPUs; qemu-virt with a GICv{gic} has 1 to {most}");
    }
    if options.cpu.is_empty() || options.cpu.contains(char::is_whitespace) {
        bail!("--cpu: `{}` is not a CPU's name", options.cpu);
    }
    Ok(())
}

/// The guests of this run, each checked.
fn guests(options: &RunOptions) -> Result<Vec<Payload>> {
    if let Some(path) = &options.manifest {
        return manifest::load(path);
    }
    let memory = options.guest_memory.unwrap_or(DEFAULT_MEMORY);
    let guest = match &options.kernel {
        Some(kernel) => Guest {
            name: name_of(kernel),
            kernel: kernel.clone(),
            initrd: options.initrd.clone(),
            cmdline: options.cmdline.clone().unwrap_or_default(),
            memory,
            vcpus: options.vcpus.unwrap_or(1),
        },
        None => {
            let vcpus = options.vcpus.unwrap_or(2);
            // Mistakes on the command line are told before anything is fetched for them.
            let probe = Guest { vcpus, memory, ..default_guest(PathBuf::new(), PathBuf::new()) };
            check_options(probe, |field| !matches!(field, Field::Kernel | Field::Initrd))?;
            let files = debian::guest()?;
            let standard = default_guest(files.kernel, files.initrd);
            let cmdline = options.cmdline.clone().unwrap_or_else(|| standard.cmdline.clone());
            Guest { vcpus, memory, cmdline, ..standard }
        }
    };
    Ok(vec![check_options(guest, |_| true)?.context("the guest was checked before")?])
}

/// The guest that boots when none is named.
fn default_guest(kernel: PathBuf, initrd: PathBuf) -> Guest {
    Guest {
        name: "debian".to_owned(),
        kernel,
        initrd: Some(initrd),
        cmdline: "console=ttyAMA0".to_owned(),
        memory: DEFAULT_MEMORY,
        vcpus: 2,
    }
}

/// Loads a guest; problems with the fields that `matter` are an error that names the options.
fn check_options(guest: Guest, matter: impl Fn(Field) -> bool) -> Result<Option<Payload>> {
    match guest.load() {
        Ok(payload) => Ok(Some(payload)),
        Err(problems) => {
            let lines = problems.iter().filter(|problem| matter(problem.field));
            let lines: Vec<_> = lines.map(ToString::to_string).collect();
            if !lines.is_empty() {
                bail!("{}", lines.join("\nerror: "));
            }
            Ok(None)
        }
    }
}

/// A guest's name from its kernel's file name.
fn name_of(kernel: &Path) -> String {
    let stem = kernel.file_stem().unwrap_or_default().to_string_lossy();
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = stem.chars().filter(|c| keep(*c)).take(31).collect();
    if name.is_empty() { "guest".to_owned() } else { name }
}

/// Refuses guests that together want more memory than the machine has.
fn check_memory(options: &RunOptions, guests: &[Payload]) -> Result<()> {
    let files = |guest: &Payload| guest.kernel.len() + guest.initrd.as_ref().map_or(0, Vec::len);
    let bundle: usize = guests.iter().map(files).sum();
    let memory: u64 = guests.iter().map(|guest| guest.memory).fold(0, u64::saturating_add);
    let needs = memory.saturating_add(bundle as u64).saturating_add(HYPERVISOR_MEMORY);
    if !options.bare && needs > options.memory {
        bail!(
            "the guests have {} of memory; with their files and the hypervisor that needs {}, but \
             the machine has {} (--memory)",
            size::show(memory),
            size::show(needs),
            size::show(options.memory)
        );
    }
    Ok(())
}

fn run_plinth(options: &RunOptions, qemu: &qemu::Qemu, guests: &[Payload]) -> Result<ExitCode> {
    let sources: Vec<_> = guests.iter().map(source).collect();
    let bundle = plinth::manifest::write(&sources)?;
    let hypervisor = build::hypervisor()?;
    let files = RunFiles::new()?;
    let bundle_path = files.write("guests.bundle", &bundle)?;
    let symbols = Symbols::read(&hypervisor.elf);
    let machine = Machine {
        gic: options.gic,
        cpu: &options.cpu,
        smp: options.smp,
        memory: options.memory,
        el2: true,
        icount: options.icount,
        kernel: &hypervisor.raw,
        initrd: Some(&bundle_path),
        append: options.hv_args.as_deref().unwrap_or_default(),
        extra: &options.qemu,
    };
    boot(options, qemu, &machine, symbols.as_ref())
}

fn source(guest: &Payload) -> VmSource<'_> {
    VmSource {
        name: &guest.name,
        memory: guest.memory,
        vcpus: guest.vcpus,
        kernel: &guest.kernel,
        initrd: guest.initrd.as_deref(),
        cmdline: &guest.cmdline,
    }
}

fn run_bare(options: &RunOptions, qemu: &qemu::Qemu, guests: &[Payload]) -> Result<ExitCode> {
    let [guest] = guests else { bail!("--bare boots one guest") };
    let files = RunFiles::new()?;
    let kernel = files.write("kernel", &guest.kernel)?;
    let initrd = guest.initrd.as_ref().map(|bytes| files.write("initrd", bytes)).transpose()?;
    let machine = Machine {
        gic: options.gic,
        cpu: &options.cpu,
        smp: u32::from(guest.vcpus),
        memory: guest.memory,
        el2: false,
        icount: options.icount,
        kernel: &kernel,
        initrd: initrd.as_deref(),
        append: &guest.cmdline,
        extra: &options.qemu,
    };
    boot(options, qemu, &machine, None)
}

/// Files of one run, gone after it.
struct RunFiles(PathBuf);

impl RunFiles {
    fn new() -> Result<Self> {
        let folder = paths::scratch("run")?;
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.0.join(name);
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
    eprintln!(
        "xtask: {} x {}, GICv{}, {}; press Ctrl-] to quit",
        machine.smp,
        machine.cpu,
        machine.gic,
        size::show(machine.memory)
    );
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
            eprintln!("xtask: `cargo xtask ctl` and `top` reach it at {}", socket.path.display());
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
    }
}
