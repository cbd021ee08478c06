//! QEMU: finding it, its arguments, and starting it so that it never outlives us.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::apt;

/// The program.
pub const PROGRAM: &str = "qemu-system-aarch64";

/// The oldest version whose `virt` board does what Plinth needs of it.
const OLDEST: (u32, u32) = (7, 2);

/// A QEMU that is installed.
pub struct Qemu {
    pub path: PathBuf,
    pub version: (u32, u32),
}

/// The machine to emulate.
pub struct Machine<'a> {
    pub gic: u8,
    pub cpu: &'a str,
    pub smp: u32,
    pub memory: u64,
    /// Whether the kernel is entered at EL2 (and a reset ends the run) or at EL1.
    pub el2: bool,
    pub icount: bool,
    pub kernel: &'a Path,
    pub initrd: Option<&'a Path>,
    pub append: &'a str,
    pub extra: &'a [String],
}

impl Machine<'_> {
    /// QEMU's arguments for it; its serial line is QEMU's standard input and output.
    pub fn arguments(&self) -> Vec<OsString> {
        let virtualization = if self.el2 { "on" } else { "off" };
        let mut args: Vec<OsString> = vec!["-M".into()];
        args.push(format!("virt,virtualization={virtualization},gic-version={}", self.gic).into());
        args.extend(["-cpu".into(), self.cpu.into()]);
        args.extend(["-smp".into(), self.smp.to_string().into()]);
        args.extend(["-m".into(), format!("{}K", self.memory >> 10).into()]);
        args.extend(["-nodefaults", "-display", "none"].map(Into::into));
        args.extend(["-chardev", "stdio,id=console,signal=off"].map(Into::into));
        args.extend(["-serial", "chardev:console"].map(Into::into));
        if self.el2 {
            // Only the hypervisor resets this machine, and it does so to stop.
            args.push("-no-reboot".into());
        }
        if self.icount {
            args.extend(["-icount", "shift=0,sleep=off"].map(Into::into));
        }
        args.extend(["-kernel".into(), self.kernel.into()]);
        if let Some(initrd) = self.initrd {
            args.extend(["-initrd".into(), initrd.into()]);
        }
        if !self.append.is_empty() {
            args.extend(["-append".into(), self.append.into()]);
        }
        args.extend(self.extra.iter().map(Into::into));
        args
    }
}

/// The QEMU on the search path, if it runs at all.
pub fn find() -> Option<Qemu> {
    let path = crate::doctor::which(PROGRAM)?;
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output().ok()?;
    let version = version(&String::from_utf8_lossy(&output.stdout))?;
    Some(Qemu { path, version })
}

/// A QEMU that is new enough; installed if need be and possible.
pub fn need() -> Result<Qemu> {
    if find().is_none() {
        apt::install_qemu()?;
    }
    let Some(qemu) = find() else { bail!("{PROGRAM} was installed but does not run") };
    if qemu.version < OLDEST {
        let ((major, minor), (need, need_minor)) = (qemu.version, OLDEST);
        let path = qemu.path.display();
        bail!("{path} is version {major}.{minor}; Plinth needs {need}.{need_minor} or later");
    }
    Ok(qemu)
}

/// Major and minor number in the output of `--version`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split("version ").nth(1)?.split(['.', ' ', '(', '\n']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Starts QEMU with pipes for the serial line. The kernel kills it when we die of anything, which
/// a process has to ask for itself: so it starts as us ([`exec_with_parent`]) and becomes QEMU.
pub fn start(qemu: &Qemu, machine: &Machine<'_>) -> Result<Child> {
    Command::new("/proc/self/exe")
        .arg("exec-with-parent")
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(&qemu.path)
        .args(machine.arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot start QEMU")
}

/// Becomes `command`, to be killed when `parent` dies.
pub fn exec_with_parent(parent: u32, command: &[OsString]) -> Result<ExitCode> {
    let Some((program, args)) = command.split_first() else { bail!("no command") };
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie QEMU to its parent")?;
    // The parent may have died before the line above.
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now != Some(parent) {
        bail!("the process that wanted {} is gone", program.display());
    }
    Err(Command::new(program).args(args).exec()).context("cannot start QEMU")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Machine, version};

    #[test]
    fn the_version_is_read_from_what_qemu_says() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(version(text), Some((10, 0)));
        assert_eq!(version("QEMU emulator version 7.2\n"), Some((7, 2)));
        assert_eq!(version("something else"), None);
    }

    #[test]
    fn a_machine_becomes_arguments_and_the_users_come_last() {
        let extra = ["-d".to_owned(), "int".to_owned()];
        let machine = Machine {
            gic: 2,
            cpu: "max",
            smp: 4,
            memory: 1 << 30,
            el2: true,
            icount: true,
            kernel: Path::new("k.img"),
            initrd: Some(Path::new("b")),
            append: "loglevel=debug",
            extra: &extra,
        };
        let args: Vec<_> = machine.arguments().into_iter().map(|arg| arg.into_string()).collect();
        let args = args.into_iter().collect::<Result<Vec<_>, _>>().expect("all are text").join(" ");
        assert_eq!(
            args,
            "-M virt,virtualization=on,gic-version=2 -cpu max -smp 4 -m 1048576K -nodefaults \
             -display none -chardev stdio,id=console,signal=off -serial chardev:console \
             -no-reboot -icount shift=0,sleep=off -kernel k.img -initrd b \
             -append loglevel=debug -d int"
        );
    }
}
