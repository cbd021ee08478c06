//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::board::Board;
use crate::channel::client::Which;
use crate::guest::VCPUS;
use crate::qemu::Forward;
use crate::size;

/// What `cargo xtask bounds` shows.
#[derive(Args, Clone, Debug, Default)]
pub struct BoundsOptions {
    /// Shows who is on each stack when it is deepest
    #[arg(long)]
    pub ways: bool,
    /// Shows each place where a panic may begin, and a way there
    #[arg(long)]
    pub panics: bool,
    /// Writes the list of those places anew, if it has become shorter
    #[arg(long, conflicts_with = "panics")]
    pub update: bool,
}

/// What `cargo xtask mutants` changes.
#[derive(Args, Clone, Debug, Default)]
pub struct MutantsOptions {
    /// Only these parts of the source: stage-2, vgic, virtqueue, psci
    pub parts: Vec<String>,
    /// One of so many heaps of changes, from 0 on
    #[arg(long, value_name = "K/N")]
    pub shard: Option<String>,
}

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Builds, runs and tests Plinth.")]
#[command(disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Boots guests on Plinth under QEMU; with nothing named, two Debian guests and a bare-metal one
    Run(Box<RunOptions>),
    /// Packs a manifest and its files into the one file that a boot loader passes as the initrd
    Bundle {
        /// A TOML file that describes the guests
        manifest: PathBuf,
        /// The file to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Makes the card that a board boots from: Plinth, guests, and the board's firmware
    Image(ImageOptions),
    /// Asks the monitor of a run in progress, or tells it what to do
    Ctl(CtlOptions),
    /// Watches a run in progress: CPUs, VMs, exits, memory
    Top(TopOptions),
    /// Runs everything that CI runs
    Test {
        /// Only the tests whose name contains this
        filter: Option<String>,
        /// Only the guests, straight on QEMU: what fails here is not Plinth's fault
        #[arg(long)]
        bare: bool,
    },
    /// Lets hostile guests storm beside a Debian guest that computes, for as long as there are operations
    Soak(SoakOptions),
    /// Measures what Plinth costs, in instructions, and fails when that has grown
    Bench(BenchOptions),
    /// Builds the hypervisor's image and prints where it is
    Build,
    /// Says what is installed and what is missing
    Doctor,
    /// Checks what can be known of the image without running it: stacks, recursion, panics
    Bounds(BoundsOptions),
    /// Checks the house rules of the source tree
    Lint,
    /// Changes the source in small ways, one at a time, and says which changes no unit test notices
    Mutants(MutantsOptions),
    /// Runs the tests whose names it reads, for a run of the suite that has several under way
    #[command(hide = true)]
    TestLane {
        #[arg(long)]
        bare: bool,
    },
    /// Becomes another program that dies with its parent (how QEMU is started)
    #[command(hide = true)]
    ExecWithParent {
        parent: u32,
        /// First makes standard input its controlling terminal
        #[arg(long)]
        terminal: bool,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// The machine and the guests of one run.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// A TOML file that describes the guests, or a bundle
    pub manifest: Option<PathBuf>,
    /// The one default Debian guest; so do --vcpus, --guest-memory and --cmdline without --kernel
    #[arg(long, conflicts_with_all = ["manifest", "kernel"])]
    pub single: bool,
    /// The board that QEMU emulates, qemu-virt or rpi4 [default: qemu-virt; rpi4 for a card]
    #[arg(long, value_parser = Board::parse)]
    pub board: Option<Board>,
    /// Boots a Raspberry Pi 4's card, an image of `cargo xtask image`, as that board's firmware does
    #[arg(long, value_name = "FILE", conflicts_with_all = ["manifest", "single", "kernel", "cmdline", "vcpus", "guest_memory", "bare"])]
    pub card: Option<PathBuf>,
    /// The machine's interrupt controller, GICv2 or GICv3 [default: 3; rpi4: 2]
    #[arg(long, value_parser = gic)]
    pub gic: Option<u8>,
    /// The machine's CPU, by QEMU's name [default: cortex-a72]
    #[arg(long, value_name = "NAME")]
    pub cpu: Option<String>,
    /// How many CPUs the machine has [default: 2; rpi4: 4]
    #[arg(long, value_name = "N")]
    pub smp: Option<u32>,
    /// How much memory the machine has [default: 2G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub memory: Option<u64>,
    /// One guest without a manifest: its kernel (arm64 Image, raw or gzip'd; ELF; flat binary)
    #[arg(long, value_name = "FILE", conflicts_with = "manifest")]
    pub kernel: Option<PathBuf>,
    /// The guest's initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// The guest's kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "manifest")]
    pub cmdline: Option<String>,
    /// How many vCPUs the guest has, 1 to 8 [default: 1, and 2 for the Debian guest]
    #[arg(long, value_name = "N", value_parser = vcpus, conflicts_with = "manifest")]
    pub vcpus: Option<u8>,
    /// How much memory the guest has [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "manifest")]
    pub guest_memory: Option<u64>,
    /// Succeed as soon as TEXT has appeared on a console
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Give up, with a failure, after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<f64>,
    /// Where `ctl` and `top` find this run [default: a place of its own in the target folder]
    #[arg(long, value_name = "PATH", conflicts_with = "bare")]
    pub socket: Option<PathBuf>,
    /// What the board's second serial line is connected to, as QEMU's `-serial` has it
    #[arg(long, value_name = "WHERE")]
    pub other_serial: Option<String>,
    /// Gives the machine a network card that QEMU connects to the PC's network
    #[arg(long)]
    pub nic: bool,
    /// Makes TCP connections to a port of this PC a guest's: as in 8080:10.0.2.21:80; several times for several
    #[arg(long, value_name = "PORT:ADDRESS:PORT", value_parser = Forward::parse, conflicts_with = "bare")]
    pub forward: Vec<Forward>,
    /// Gives the machine a disk, a raw image or one named .qcow2; several times for several
    #[arg(long, value_name = "FILE")]
    pub disk: Vec<PathBuf>,
    /// Deterministic virtual time: one instruction is one nanosecond
    #[arg(long)]
    pub icount: bool,
    /// Boot arguments for the hypervisor
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub hv_args: Option<String>,
    /// The one guest straight on QEMU, without Plinth, to compare
    #[arg(long, conflicts_with_all = ["manifest", "hv_args"])]
    pub bare: bool,
    /// Passed on to QEMU
    #[arg(last = true, value_name = "ARGS")]
    pub qemu: Vec<String>,
}

impl RunOptions {
    /// Whether an option speaks of one guest, so that no manifest is asked for.
    pub fn one_guest(&self) -> bool {
        let named = self.kernel.is_some() || self.initrd.is_some() || self.cmdline.is_some();
        let sized = self.vcpus.is_some() || self.guest_memory.is_some();
        self.single || self.bare || named || sized
    }
}

/// A card.
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["output", "dir"]))]
pub struct ImageOptions {
    /// A TOML file that describes the guests, or a bundle [default: that of `run --board rpi4`]
    pub manifest: Option<PathBuf>,
    /// The board that boots from it
    #[arg(long, value_parser = Board::parse)]
    pub board: Board,
    /// The image to write, to be copied to a card as a whole
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The folder to write the card's files into instead
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// Trusted Firmware-A, out of Debian's package, as the boot stub: with it there is PSCI
    #[arg(long)]
    pub tfa: bool,
    /// Boot arguments for the hypervisor
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub hv_args: Option<String>,
}

/// What is measured besides, and what becomes of it.
#[derive(Args, Clone, Debug)]
pub struct BenchOptions {
    /// Measures another hypervisor with the same guest, and prints how many times ours its figures are
    #[arg(long, value_name = "NAME")]
    pub against: Option<Against>,
    /// Makes what is measured the baseline
    #[arg(long)]
    pub update_baseline: bool,
    /// Measures virtio devices alone, and holds nothing to the baseline
    #[arg(long, conflicts_with_all = ["against", "update_baseline"])]
    pub virtio: bool,
}

/// How long hostile guests storm, and how.
#[derive(Args, Clone, Debug)]
pub struct SoakOptions {
    /// How many operations there are in all
    #[arg(long, default_value_t = 1_000_000_000)]
    pub operations: u64,
    /// How many of them before the machine starts again, with other seeds
    #[arg(long, default_value_t = 10_000_000)]
    pub round: u64,
    /// What the first round begins from; the same seed does the same
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// On this GIC alone, 2 or 3, instead of on either in turn
    #[arg(long, value_parser = ["2", "3"])]
    pub gic: Option<String>,
    /// Counts time in instructions, on one CPU, so that a round is the same each time but for when the PC starts its storms
    #[arg(long)]
    pub icount: bool,
    /// The machine's CPUs take turns on one of the PC's instead of running at once: they do more in all, and meet less often
    #[arg(long, conflicts_with = "icount")]
    pub turns: bool,
    /// As many rounds at once as the PC has CPUs, in each of which the machine's take turns
    #[arg(long, conflicts_with = "icount")]
    pub side_by_side: bool,
}

/// Another hypervisor.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Eq, PartialEq)]
pub enum Against {
    /// Debian's Xen
    Xen,
}

/// A command for the monitor.
#[derive(Args, Clone, Debug)]
pub struct CtlOptions {
    #[command(flatten)]
    pub which: Which,
    /// Print the result as JSON, as it came
    #[arg(long)]
    pub json: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: f64,
    /// As in the monitor: `vm list`, `vm pause NAME`, `stats`, …; `help` lists them. Without one,
    /// commands are read from standard input, one a line
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// The live view.
#[derive(Args, Clone, Debug)]
pub struct TopOptions {
    #[command(flatten)]
    pub which: Which,
    /// Ask anew after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub interval: f64,
}

fn gic(text: &str) -> Result<u8, String> {
    match text {
        "2" => Ok(2),
        "3" => Ok(3),
        _ => Err("a GIC is version 2 or 3".to_owned()),
    }
}

fn vcpus(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|number| VCPUS.contains(number));
    number.ok_or_else(|| format!("a guest has {} to {} vCPUs", VCPUS.start(), VCPUS.end()))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e9 => Ok(seconds),
        _ => Err("want a positive number of seconds".to_owned()),
    }
}

/// Why the command line leads to no task: help was asked for, or it is wrong.
#[derive(Debug)]
pub struct Stop(clap::Error);

impl Stop {
    /// Prints the help, or the mistake as one line, and gives the exit status.
    pub fn report(&self) -> ExitCode {
        match self.0.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                print!("{}", self.0);
                ExitCode::SUCCESS
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                eprint!("{}", self.0);
                ExitCode::from(2)
            }
            _ => {
                eprintln!("{}", self.line());
                ExitCode::from(2)
            }
        }
    }

    /// clap's message without its blank lines, usage and tips.
    fn line(&self) -> String {
        let text = self.0.to_string();
        let message = text
            .lines()
            .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("tip:"));
        message.collect::<Vec<_>>().join(" ")
    }
}

/// Reads the command line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Task, Stop> {
    CommandLine::try_parse_from(args).map(|line| line.task).map_err(Stop)
}

#[cfg(test)]
mod tests {
    use super::{RunOptions, Stop, Task, parse};
    use crate::board::{Board, Hardware};

    fn args(line: &str) -> Result<Task, Stop> {
        parse(["xtask"].into_iter().chain(line.split_whitespace()).map(Into::into))
    }

    fn run(line: &str) -> RunOptions {
        match args(line) {
            Ok(Task::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_plain_run_has_the_documented_defaults() {
        let options = run("run");
        let hardware = Hardware::of(&options).expect("a good machine");
        assert_eq!(hardware.board, Board::QemuVirt);
        assert_eq!((hardware.gic, hardware.cpu.as_str(), hardware.smp), (3, "cortex-a72", 2));
        assert_eq!(hardware.memory, 2 << 30);
        assert!(options.manifest.is_none() && options.kernel.is_none() && !options.icount);
    }

    #[test]
    fn options_about_a_guest_ask_for_one_guest() {
        for line in ["run", "run --gic 2 --smp 4 --memory 4G --until x", "run a.toml"] {
            assert!(!run(line).one_guest(), "{line}");
        }
        for line in ["--single", "--vcpus 1", "--guest-memory 1G", "--cmdline x", "--bare"] {
            assert!(run(&format!("run {line}")).one_guest(), "{line}");
        }
    }

    #[test]
    fn a_bundle_has_a_manifest_and_an_output() {
        let Ok(Task::Bundle { manifest, output }) = args("bundle a.toml -o a.bundle") else {
            panic!("a good command line");
        };
        assert_eq!((manifest, output), ("a.toml".into(), "a.bundle".into()));
    }

    #[test]
    fn a_card_is_an_image_or_a_folder() {
        let Ok(Task::Image(options)) = args("image --board rpi4 --dir card --tfa") else {
            panic!("a good command line");
        };
        assert!(options.tfa && options.manifest.is_none() && options.output.is_none());
        assert_eq!(Hardware::of(&run("run --card a.img")).expect("good").board, Board::Rpi4);
    }

    #[test]
    fn what_follows_two_dashes_goes_to_qemu() {
        let options = run("run --gic 2 guests.toml -- -d int -D log");
        assert_eq!(options.qemu, ["-d", "int", "-D", "log"]);
        assert_eq!(options.manifest.as_deref(), Some("guests.toml".as_ref()));
    }

    #[test]
    fn texts_may_start_with_a_dash() {
        assert_eq!(run("run --until --ready --hv-args -x").until.as_deref(), Some("--ready"));
    }

    #[test]
    fn all_that_follows_a_command_of_the_monitor_is_part_of_it() {
        let Ok(Task::Ctl(options)) = args("ctl --json --run 12 vm stop --force web") else {
            panic!("no ctl");
        };
        assert_eq!(options.command, ["vm", "stop", "--force", "web"]);
        assert!(options.json && options.which.run == Some(12));
    }

    #[test]
    fn a_mistake_is_one_line_that_names_it() {
        for (line, word) in [
            ("run --gic 4", "GIC is version 2 or 3"),
            ("run --memory 1024", "unit"),
            ("run --board pdp11", "known are: qemu-virt, rpi4"),
            ("run --timeout never", "seconds"),
            ("run a.toml --kernel Image", "--kernel"),
            ("run a.toml --vcpus 2", "--vcpus"),
            ("run --vcpus 0", "1 to 8"),
            ("run --vcpus 9", "1 to 8"),
            ("run --vcpus 257", "1 to 8"),
            ("run a.toml --single", "--single"),
            ("run --initrd x", "--kernel"),
            ("bundle a.toml", "--output"),
            ("image --board rpi4", "--output"),
            ("image -o a.img", "--board"),
            ("image --board rpi4 -o a.img --dir a", "--dir"),
            ("run a.toml --card a.img", "--card"),
            ("run --colour", "--colour"),
            ("run --bare --socket x", "--socket"),
            ("ctl --socket x --run 1", "--run"),
            ("ctl --timeout 0 cpu", "seconds"),
            ("top cpu", "cpu"),
            ("walk", "walk"),
        ] {
            let text = args(line).err().unwrap_or_else(|| panic!("{line} is accepted")).line();
            assert!(text.starts_with("error: ") && text.contains(word), "{line}: {text}");
            assert!(!text.contains('\n'), "{text}");
        }
    }
}
