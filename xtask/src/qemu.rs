//! QEMU: finding it, its arguments, and starting it so that it never outlives us.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Error, Result, bail};
use plinth::manifest::{MAX_SERIAL, is_serial};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::apt;
use crate::board::{Board, Hardware};

/// The program.
pub const PROGRAM: &str = "qemu-system-aarch64";

/// The oldest version whose `virt` board does what Plinth needs of it.
const OLDEST: (u32, u32) = (7, 2);

/// A QEMU that is installed.
pub struct Qemu {
    pub path: PathBuf,
    pub version: (u32, u32),
}

/// The oldest version that has the `raspi4b` board.
const OLDEST_RPI4: (u32, u32) = (9, 0);

/// The machine to emulate.
pub struct Machine<'a> {
    pub hardware: &'a Hardware,
    /// Whether the kernel is entered at EL2 (and a reset ends the run) or at EL1.
    pub el2: bool,
    pub icount: bool,
    pub boot: Boot<'a>,
    /// Which of the board's two serial lines is the console.
    pub serial: usize,
    /// What the other is connected to, as QEMU's `-serial` has it.
    pub other_serial: Option<&'a str>,
    pub virtio: Virtio<'a>,
    pub extra: &'a [String],
}

/// The virtio devices of the `virt` board.
#[derive(Clone, Copy, Default)]
pub struct Virtio<'a> {
    /// A network card on the PC's network, as QEMU's user mode has it.
    pub nic: bool,
    /// What comes to ports of the PC goes to guests.
    pub forwards: &'a [Forward],
    /// Disks, in the order in which they are numbered.
    pub disks: &'a [PathBuf],
}

/// TCP connections to a port of the PC are a guest's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forward {
    /// Of the PC's own address 127.0.0.1.
    pub port: u16,
    /// The guest's.
    pub address: Ipv4Addr,
    /// The guest's port.
    pub to: u16,
}

impl Forward {
    /// Reads `PORT:ADDRESS:PORT`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        let mut parts = text.split(':');
        let mut next = || parts.next().unwrap_or_default();
        let forward = (port(next()), next().parse().ok(), port(next()));
        match (forward, parts.next()) {
            ((Some(port), Some(address), Some(to)), None) => Ok(Self { port, address, to }),
            _ => Err("a port of this PC, a guest's address and its port are wanted, as in \
                      8080:10.0.2.21:80"
                .to_owned()),
        }
    }
}

impl Virtio<'_> {
    fn arguments(&self, args: &mut Vec<OsString>) {
        if self.nic {
            let mut network = String::from("user,id=plinth-net");
            for Forward { port, address, to } in self.forwards {
                network += &format!(",hostfwd=tcp:127.0.0.1:{port}-{address}:{to}");
            }
            args.extend(["-netdev".into(), network.into()]);
            args.extend(["-device", "virtio-net-device,netdev=plinth-net"].map(Into::into));
        }
        for (index, disk) in self.disks.iter().enumerate() {
            // What a guest writes into a raw image may look like another format: QEMU is told, and does not guess.
            let format = if is_qcow2(disk) { "qcow2" } else { "raw" };
            let file = value(disk);
            // What a guest discards is given back by the image too.
            let drive =
                format!("file={file},if=none,id=plinth-disk{index},format={format},discard=unmap");
            args.extend(["-drive".into(), drive.into()]);
            let serial =
                serial_of(disk).map_or_else(String::new, |serial| format!(",serial={serial}"));
            let device = format!("virtio-blk-device,drive=plinth-disk{index}{serial}");
            args.extend(["-device".into(), device.into()]);
        }
    }
}

/// What a disk calls itself: as its file is named, without its extension, as far as a serial can have that.
fn serial_of(disk: &Path) -> Option<String> {
    let stem = disk.file_stem()?.to_string_lossy().into_owned();
    let serial: String = stem.chars().filter(|c| c.is_ascii_graphic() && *c != ',').collect();
    let serial: String = serial.chars().take(MAX_SERIAL).collect();
    is_serial(&serial).then_some(serial)
}

/// Whether an image is not a raw one, by its name.
fn is_qcow2(disk: &Path) -> bool {
    disk.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("qcow2"))
}

/// How the machine comes to its first instruction.
#[derive(Clone, Copy)]
pub enum Boot<'a> {
    /// QEMU is the boot loader.
    Kernel {
        kernel: &'a Path,
        initrd: Option<&'a Path>,
        append: &'a str,
        /// A device tree to start from, where it is not QEMU's own.
        tree: Option<&'a Path>,
    },
    /// All CPUs begin at address 0, with these files in memory.
    Loaded(&'a [(PathBuf, u64)]),
}

impl Boot<'_> {
    fn arguments(&self, args: &mut Vec<OsString>) {
        match self {
            Self::Kernel { kernel, initrd, append, tree } => {
                args.extend(["-kernel".into(), kernel.into()]);
                if let Some(initrd) = initrd {
                    args.extend(["-initrd".into(), initrd.into()]);
                }
                if let Some(tree) = tree {
                    args.extend(["-dtb".into(), tree.into()]);
                }
                if !append.is_empty() {
                    args.extend(["-append".into(), append.into()]);
                }
            }
            Self::Loaded(files) => {
                let loaders = files.iter().flat_map(|(path, address)| loader(path, *address));
                args.extend(loaders.map(OsString::from));
            }
        }
    }
}

impl Machine<'_> {
    /// QEMU's arguments for it; its serial line is QEMU's standard input and output.
    pub fn arguments(&self) -> Vec<OsString> {
        let Hardware { board, gic, cpu, smp, memory } = self.hardware;
        let mut args: Vec<OsString> = vec!["-M".into()];
        match board {
            Board::QemuVirt => {
                let el2 = if self.el2 { "on" } else { "off" };
                args.push(format!("virt,virtualization={el2},gic-version={gic}").into());
                args.extend(["-cpu".into(), cpu.into()]);
                args.extend(["-smp".into(), smp.to_string().into()]);
                args.extend(["-m".into(), format!("{}K", memory >> 10).into()]);
            }
            // Everything else is as that board has it.
            Board::Rpi4 => args.push("raspi4b".into()),
        }
        args.extend(["-nodefaults", "-display", "none"].map(Into::into));
        args.extend(["-chardev", "stdio,id=console,signal=off"].map(Into::into));
        let mut lines = vec!["chardev:console"];
        if self.serial > 0 {
            lines.insert(0, self.other_serial.unwrap_or("null"));
        } else {
            lines.extend(self.other_serial);
        }
        args.extend(lines.into_iter().flat_map(|line| ["-serial", line]).map(Into::into));
        if self.icount {
            args.extend(["-icount", "shift=0,sleep=off"].map(Into::into));
        }
        self.virtio.arguments(&mut args);
        self.boot.arguments(&mut args);
        args.extend(self.extra.iter().map(Into::into));
        args
    }
}

/// The arguments that put a file's bytes into memory.
pub fn loader(path: &Path, address: u64) -> [String; 2] {
    let device = format!("loader,file={},addr={address:#x},force-raw=on", value(path));
    ["-device".to_owned(), device]
}

/// A path as the value of an option: QEMU reads a doubled comma there as one.
pub fn value(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The QEMU on the search path, if it runs at all.
pub fn find() -> Option<Qemu> {
    let path = crate::doctor::which(PROGRAM)?;
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output().ok()?;
    let version = version(&String::from_utf8_lossy(&output.stdout))?;
    Some(Qemu { path, version })
}

/// Whether this QEMU emulates the board, or the oldest version that does.
pub fn emulates(version: (u32, u32), board: Board) -> Result<(), (u32, u32)> {
    let oldest = match board {
        Board::QemuVirt => OLDEST,
        Board::Rpi4 => OLDEST_RPI4,
    };
    if version < oldest { Err(oldest) } else { Ok(()) }
}

/// A QEMU that is new enough for the board; installed if need be and possible.
pub fn need(board: Board) -> Result<Qemu> {
    match find() {
        None => apt::install(apt::QEMU, &format!("{PROGRAM} is missing"))?,
        Some(qemu) => match check_version(&qemu, board) {
            Err(why) if apt::has_newer_qemu() => apt::install(apt::QEMU, &why)?,
            _ => {}
        },
    }
    let Some(qemu) = find() else { bail!("{PROGRAM} was installed but does not run") };
    check_version(&qemu, board).map_err(Error::msg)?;
    Ok(qemu)
}

/// What is wrong with a QEMU that does not emulate the board.
fn check_version(qemu: &Qemu, board: Board) -> Result<(), String> {
    emulates(qemu.version, board).map_err(|(need, need_minor)| {
        let (major, minor) = qemu.version;
        let path = qemu.path.display();
        format!(
            "{path} is version {major}.{minor}; the board {board} needs {need}.{need_minor} or later"
        )
    })
}

/// Major and minor number in the output of `--version`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split("version ").nth(1)?.split(['.', ' ', '(', '\n']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Starts QEMU with pipes for the serial line.
pub fn start(qemu: &Qemu, machine: &Machine<'_>) -> Result<Child> {
    let mut command = command(qemu, machine);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().context("cannot start QEMU")
}

/// QEMU as a command with a pipe to the serial line. The kernel kills it when we die of anything, which
/// a process has to ask for itself: so it starts as us ([`exec_with_parent`]) and becomes QEMU.
pub fn command(qemu: &Qemu, machine: &Machine<'_>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("exec-with-parent").arg(std::process::id().to_string()).arg("--");
    command.arg(&qemu.path).args(machine.arguments()).stdin(Stdio::piped());
    command
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

    use super::{Boot, Forward, Machine, Virtio, emulates, version};
    use crate::board::{Board, Hardware};

    fn text(machine: &Machine<'_>) -> String {
        let args = machine.arguments().into_iter().map(|arg| arg.into_string());
        args.collect::<Result<Vec<_>, _>>().expect("all are text").join(" ")
    }

    #[test]
    fn the_version_is_read_from_what_qemu_says() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(version(text), Some((10, 0)));
        assert_eq!(version("QEMU emulator version 7.2\n"), Some((7, 2)));
        assert_eq!(version("something else"), None);
    }

    #[test]
    fn the_raspberry_pi_takes_a_newer_qemu_than_the_virtual_board() {
        assert_eq!(emulates((7, 2), Board::QemuVirt), Ok(()));
        assert_eq!(emulates((7, 1), Board::QemuVirt), Err((7, 2)));
        assert_eq!(emulates((8, 2), Board::Rpi4), Err((9, 0)));
        assert_eq!(emulates((9, 0), Board::Rpi4), Ok(()));
    }

    #[test]
    fn what_is_forwarded_is_two_ports_and_an_address() {
        for wrong in ["", "80", "80:10.0.2.21", "0:10.0.2.21:80", "80:host:80", "80:10.0.2.21:0"]
            .into_iter()
            .chain(["80:10.0.2.21:80:1", "65536:10.0.2.21:80", "80:10.0.2.21,x=1:80"])
        {
            assert!(Forward::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_machine_becomes_arguments_and_the_users_come_last() {
        let extra = ["-d".to_owned(), "int".to_owned()];
        let hardware = Hardware {
            board: Board::QemuVirt,
            gic: 2,
            cpu: "max".to_owned(),
            smp: 4,
            memory: 1 << 30,
        };
        let machine = Machine {
            hardware: &hardware,
            el2: true,
            icount: true,
            boot: Boot::Kernel {
                kernel: Path::new("k.img"),
                initrd: Some(Path::new("b")),
                append: "loglevel=debug",
                tree: None,
            },
            serial: 0,
            other_serial: Some("file:x"),
            virtio: Virtio {
                nic: true,
                forwards: &[Forward::parse("8080:10.0.2.21:80").expect("it is one")],
                disks: &["a,b.img".into(), "c.QCOW2".into()],
            },
            extra: &extra,
        };
        assert_eq!(
            text(&machine),
            "-M virt,virtualization=on,gic-version=2 -cpu max -smp 4 -m 1048576K -nodefaults \
             -display none -chardev stdio,id=console,signal=off -serial chardev:console \
             -serial file:x -icount shift=0,sleep=off \
             -netdev user,id=plinth-net,hostfwd=tcp:127.0.0.1:8080-10.0.2.21:80 \
             -device virtio-net-device,netdev=plinth-net \
             -drive file=a,,b.img,if=none,id=plinth-disk0,format=raw,discard=unmap \
             -device virtio-blk-device,drive=plinth-disk0,serial=ab \
             -drive file=c.QCOW2,if=none,id=plinth-disk1,format=qcow2,discard=unmap \
             -device virtio-blk-device,drive=plinth-disk1,serial=c -kernel k.img -initrd b \
             -append loglevel=debug -d int"
        );
    }

    #[test]
    fn a_raspberry_pi_begins_with_what_its_firmware_has_loaded() {
        let hardware = Hardware {
            board: Board::Rpi4,
            gic: 2,
            cpu: "cortex-a72".to_owned(),
            smp: 4,
            memory: 2 << 30,
        };
        let files = [("stub".into(), 0), ("a,b".into(), 0x20_0000)];
        let boot = Boot::Loaded(&files);
        let machine = Machine {
            hardware: &hardware,
            el2: true,
            icount: false,
            boot,
            serial: 1,
            other_serial: None,
            virtio: Virtio::default(),
            extra: &[],
        };
        assert_eq!(
            text(&machine),
            "-M raspi4b -nodefaults -display none -chardev stdio,id=console,signal=off \
             -serial null -serial chardev:console \
             -device loader,file=stub,addr=0x0,force-raw=on \
             -device loader,file=a,,b,addr=0x200000,force-raw=on"
        );
    }
}
