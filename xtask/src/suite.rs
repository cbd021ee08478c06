//! `cargo xtask test`: everything CI runs, one named step after the other.
//!
//! | steps | what they show |
//! |---|---|
//! | `host/…` | formatting, lints, documentation, tests on the developer's PC, Miri |
//! | `run/…` | the command line refuses what is wrong, and leaves no QEMU behind; the hypervisor reports its own crashes and refuses guests it cannot build |
//! | `guests/…` | each payload of `guests/` gets the answers it wants, on both GICs |
//! | `bundle/…` | manifests are refused with every mistake, bundles are packed, boot, and are refused when damaged |
//! | `ctl/…`, `many/…`, `shares/…` | the monitor from the PC; many guests at once; who gets how much of the CPUs |
//! | `waits/…` | guests that wait on CPUs of their own are seen by the hypervisor where their policy says so |
//! | `consoles/…` | one line shared by several guests and the monitor: escape key, scrollback, frames |
//! | `debian/…` | Debian boots, takes input, reboots and powers off, beside hostile guests as well |
//! | `soak/…` | ten million hostile operations beside a Debian guest that computes: see `cargo xtask soak` |
//! | `bench/…` | no exit costs more instructions than the baseline says |
//! | `assign/…` | a guest owns a UART of the board |
//! | `rpi4/…` | all that on a Raspberry Pi 4, and from the card that is made for it |

mod aborts;
mod agent;
mod assigned;
mod balloon;
mod bench;
mod bounds;
mod come_and_go;
mod command;
mod consoles;
mod crash;
mod ctl;
mod debian;
mod debians;
mod disks;
mod exits;
mod firmware;
mod fuzz;
mod hang;
mod host;
mod host_disks;
mod hostile;
mod images;
mod kills;
mod lanes;
mod machine;
mod manifests;
mod many;
mod masked;
mod miri;
mod net;
mod oracle;
mod parallel;
mod payloads;
mod ports;
mod refusals;
mod registers;
mod rpi4;
mod secrets;
mod session;
mod shares;
mod soak;
mod streams;
mod trees;
mod virtio;
mod vsock;
mod waits;
mod weak;
mod workarounds;

use std::cell::OnceCell;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::board::Board;
use crate::{build, paths, qemu};

use self::lanes::Answer;
pub use self::soak::run as soak;

/// How many tests came out how.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

/// What a step comes to.
pub enum Outcome {
    Passed,
    /// Passed, with a remark on what that means.
    Remarked(String),
    /// With the reason.
    Skipped(String),
    /// With the reason and the output that shows it.
    Failed(String),
    /// A step that runs many tests of its own.
    Many(Counts, String),
}

impl Outcome {
    /// Its counts, its result in a word or two, and the output to show if it failed.
    fn describe(&self) -> (Counts, String, &str) {
        let one = Counts::default();
        match self {
            Self::Passed => (Counts { passed: 1, ..one }, "ok".to_owned(), ""),
            Self::Remarked(what) => (Counts { passed: 1, ..one }, format!("ok: {what}"), ""),
            Self::Skipped(why) => (Counts { skipped: 1, ..one }, format!("skipped: {why}"), ""),
            Self::Failed(output) => (Counts { failed: 1, ..one }, "FAILED".to_owned(), output),
            Self::Many(counts, output) => {
                let Counts { passed, failed, skipped } = counts;
                let word = if *failed == 0 { "ok" } else { "FAILED" };
                let text = format!("{word}: {passed} passed, {failed} failed, {skipped} skipped");
                (*counts, text, output)
            }
        }
    }
}

impl From<Result<()>> for Outcome {
    fn from(done: Result<()>) -> Self {
        match done {
            Ok(()) => Self::Passed,
            Err(why) => Self::Failed(format!("{why:#}")),
        }
    }
}

/// One named test.
pub struct Step {
    name: String,
    run: Box<dyn Fn(&Bench) -> Outcome>,
}

impl Step {
    fn new(name: impl Into<String>, run: impl Fn(&Bench) -> Outcome + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// What steps share: made when the first step needs it, and made once.
pub struct Bench {
    /// Guests run straight on QEMU instead of on Plinth.
    bare: bool,
    /// A copy of ourselves: a step may build us anew.
    program: PathBuf,
    hypervisor: OnceCell<Result<(), String>>,
    payloads: OnceCell<Result<PathBuf, String>>,
    debian: OnceCell<Result<(), String>>,
}

impl Bench {
    fn new(bare: bool) -> Result<Self> {
        let program = paths::scratch("test")?;
        std::fs::copy("/proc/self/exe", &program).context("cannot copy xtask")?;
        Ok(Self {
            bare,
            program,
            hypervisor: OnceCell::new(),
            payloads: OnceCell::new(),
            debian: OnceCell::new(),
        })
    }

    /// What comes of `test`. Where guests run straight on QEMU it is skipped if that machine `lacks` something.
    fn with_what_it_takes(
        &self,
        lacks: Option<&str>,
        test: impl FnOnce() -> Result<()>,
    ) -> Outcome {
        match lacks.filter(|_| self.bare) {
            Some(lacks) => Outcome::Skipped(format!("QEMU's own machine has no {lacks}")),
            None => test().into(),
        }
    }

    /// QEMU, and a hypervisor if guests are to run on one.
    fn machine(&self) -> Result<()> {
        let make = || {
            qemu::need(Board::QemuVirt)?;
            if !self.bare {
                build::hypervisor()?;
            }
            Ok(())
        };
        once(&self.hypervisor, make).map(drop)
    }

    /// The folder of the payloads' ELF files.
    fn payloads(&self) -> Result<PathBuf> {
        once(&self.payloads, build::guests)
    }

    /// The default guest is in the cache.
    fn debian(&self) -> Result<()> {
        once(&self.debian, || crate::debian::guest().map(drop))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.program);
    }
}

fn once<T: Clone>(
    cell: &OnceCell<Result<T, String>>,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let made = cell.get_or_init(|| make().map_err(|why| format!("{why:#}")));
    made.clone().map_err(anyhow::Error::msg)
}

/// Runs every step whose name contains `filter`. The last line of output is the total.
pub fn run(filter: Option<&str>, bare: bool) -> Result<ExitCode> {
    command::stop_on_signals()?;
    let steps = steps(bare)?;
    let wanted = |step: &&Step| filter.is_none_or(|text| step.name.contains(text));
    let steps: Vec<&Step> = steps.iter().filter(wanted).collect();
    let mut total = Counts::default();
    let mut failed = Vec::new();
    let mut done = |answer: Answer| {
        let Answer { name, counts, text, output, seconds } = answer;
        println!("test {name} ... {text} ({seconds:.1} s)");
        if counts.failed > 0 {
            println!("---- {name} ----\n{}\n----", output.trim_end());
            failed.push(name);
        }
        total.passed += counts.passed;
        total.failed += counts.failed;
        total.skipped += counts.skipped;
    };
    match lanes::count(steps.len()) {
        0 | 1 => {
            let bench = Bench::new(bare)?;
            steps.iter().for_each(|step| done(Answer::of(step, &bench)));
        }
        several => {
            let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
            lanes::run(&names, several, bare, done)?;
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    let Counts { passed, failed, skipped } = total;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    let ran = passed + failed + skipped > 0;
    if !ran {
        eprintln!("error: no test has `{}` in its name", filter.unwrap_or_default());
    }
    Ok(if failed == 0 && ran { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the steps whose names come by standard input: see [`lanes`].
pub fn lane(bare: bool) -> Result<ExitCode> {
    command::stop_on_signals()?;
    lanes::serve(&steps(bare)?, &Bench::new(bare)?)
}

/// All of them, in their order.
fn steps(bare: bool) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    if !bare {
        steps.extend(host::steps());
        steps.extend(fuzz::steps());
        steps.extend(miri::steps());
        steps.extend(weak::steps());
        steps.extend(bounds::steps());
        steps.extend(refusals::steps());
        steps.extend(machine::steps());
        steps.extend(crash::steps());
        steps.extend(hang::steps());
        steps.extend(firmware::steps());
        steps.extend(workarounds::steps());
        steps.extend(aborts::steps());
        steps.extend(images::steps());
        steps.extend(trees::steps());
        steps.extend(manifests::steps());
    }
    steps.extend(payloads::steps()?);
    steps.extend(debian::steps());
    if !bare {
        steps.extend(manifests::debian_steps());
        steps.extend(net::steps());
        steps.extend(exits::steps());
        steps.extend(ports::steps());
        steps.extend(agent::steps());
        steps.extend(vsock::steps());
        steps.extend(streams::steps());
        steps.extend(balloon::steps());
        steps.extend(disks::steps());
        steps.extend(host_disks::steps());
        steps.extend(hostile::steps());
        steps.extend(soak::steps());
        steps.extend(masked::steps());
        steps.extend(come_and_go::steps());
        steps.extend(many::steps());
        steps.extend(secrets::steps());
        steps.extend(oracle::steps());
        steps.extend(kills::steps());
        steps.extend(virtio::steps());
        steps.extend(bench::steps());
        steps.extend(shares::steps());
        steps.extend(waits::steps());
        steps.extend(consoles::steps());
        steps.extend(ctl::steps());
        steps.extend(assigned::steps());
        steps.extend(rpi4::steps());
    }
    Ok(steps)
}
