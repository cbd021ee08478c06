//! The monitor's commands, and how a line of text becomes one.

use alloc::string::String;
use core::str::FromStr;

use ::log::LevelFilter;

use super::agent::Ask;
use super::usage;
use crate::machine::CpuId;
use crate::sched::policy::{CpuSet, MAX_WEIGHT, MIN_BUDGET_MICROS, PERIOD_MICROS, Wfi};
use crate::vcpu::MAX_VCPUS;

/// What somebody wants the hypervisor to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// `help [COMMAND]`.
    Help(Option<String>),
    /// `vm list`.
    VmList,
    /// `vm info NAME`.
    VmInfo(String),
    /// `vm dump NAME`.
    VmDump(String),
    /// `vm start NAME` and the like.
    VmChange(String, VmChange),
    /// `agent NAME ping` and the like.
    Agent(String, Ask),
    /// `cpu`.
    Cpu,
    /// `memory`.
    Memory,
    /// `irq [NAME]`.
    Irq(Option<String>),
    /// `sched`.
    Sched,
    /// `sched set NAME …`.
    SchedSet(String, SchedChange),
    /// `stats [NAME]`.
    Stats(Option<String>),
    /// `stats [NAME] reset`.
    StatsReset(Option<String>),
    /// `log level LEVEL`.
    LogLevel(LevelFilter),
    /// `console [NAME|all|focus]`.
    Console(Option<Target>),
    /// `console tail NAME [FROM]`.
    ConsoleTail(String, Option<u64>),
    /// `quit`.
    Quit,
    /// `poweroff`.
    PowerOff,
    /// `reboot`.
    Reboot,
}

/// What is to happen to a VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VmChange {
    /// It is started, from its image.
    Start,
    /// Its vCPUs stop, and its virtual time with them.
    Pause,
    /// It goes on after a pause.
    Resume,
    /// It is asked to power off; or, with force, powered off.
    Stop {
        /// Without asking the guest.
        force: bool,
    },
    /// It begins again, as by its reset button.
    Reset,
    /// It is taken apart, and all it has is given back.
    Destroy,
    /// It is to have so many bytes of memory.
    Balloon(u64),
}

/// What of a VM's scheduling is to change; `None` leaves it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SchedChange {
    /// 1 to [`MAX_WEIGHT`].
    pub weight: Option<u16>,
    /// In hundredths of a CPU; `Some(None)` for no cap.
    pub cap: Option<Option<u16>>,
    /// The CPUs it may run on.
    pub cpus: Option<CpuSet>,
    /// `Some(None)` for fair sharing.
    pub reservation: Option<Option<Reservation>>,
    /// Whether the hypervisor sees its vCPUs wait.
    pub wfi: Option<Wfi>,
}

/// Time that each vCPU gets in every period.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// In microseconds.
    pub budget: u32,
    /// In microseconds.
    pub period: u32,
}

/// What the console is to show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// This guest, which also gets what is typed.
    Guest(String),
    /// All guests' output.
    All,
    /// Only that of the guest with the focus.
    Focus,
}

/// Why a line is no command.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseError {
    /// Nothing was said.
    #[error("no command; try `help`")]
    Empty,
    /// There is no such command.
    #[error("`{0}` is no command; try `help`")]
    Unknown(String),
    /// The command is not used like that.
    #[error("use: {0}")]
    Usage(&'static str),
    /// A setting that there is not.
    #[error(
        "`{0}` is no setting; there are weight=N, cap=N, cpus=LIST, reservation=BUDGET/PERIOD and \
         wfi=auto|trap"
    )]
    Setting(String),
    /// A value that a setting cannot have.
    #[error("{0}={1}: {2}")]
    Value(&'static str, String, &'static str),
    /// A level that there is not.
    #[error("`{0}` is no level; there are off, error, warn, info, debug and trace")]
    Level(String),
}

impl FromStr for Command {
    type Err = ParseError;

    fn from_str(line: &str) -> Result<Self, ParseError> {
        // No command has more words.
        let mut words = [""; 8];
        let mut count = 0;
        for word in line.split_ascii_whitespace() {
            if let Some(slot) = words.get_mut(count) {
                *slot = word;
            }
            count += 1;
        }
        let Some(words) = words.get(..count) else {
            let first = words.first().copied().unwrap_or_default();
            return Err(misused(first, ""));
        };
        parse(words)
    }
}

fn parse(words: &[&str]) -> Result<Command, ParseError> {
    let owned = |text: &&str| String::from(*text);
    Ok(match words {
        [] => return Err(ParseError::Empty),
        ["help" | "?"] => Command::Help(None),
        ["help" | "?", command] => Command::Help(Some(owned(command))),
        ["help" | "?", first, second] => Command::Help(Some(alloc::format!("{first} {second}"))),
        ["vm", "list"] | ["vm"] => Command::VmList,
        ["vm", "info", name] => Command::VmInfo(owned(name)),
        ["vm", "dump", name] => Command::VmDump(owned(name)),
        ["vm", "balloon", name, size] => {
            let why = "a size in MiB or GiB, as 256M or 1G";
            let wrong = || ParseError::Value("size", size.chars().take(32).collect(), why);
            let size = bytes(size).ok_or_else(wrong)?;
            Command::VmChange(owned(name), VmChange::Balloon(size))
        }
        ["vm", "start", name] => Command::VmChange(owned(name), VmChange::Start),
        ["vm", "pause", name] => Command::VmChange(owned(name), VmChange::Pause),
        ["vm", "resume", name] => Command::VmChange(owned(name), VmChange::Resume),
        ["vm", "reset", name] => Command::VmChange(owned(name), VmChange::Reset),
        ["vm", "destroy", name] => Command::VmChange(owned(name), VmChange::Destroy),
        ["vm", "stop", "--force", name] | ["vm", "stop", name, "--force"] => {
            Command::VmChange(owned(name), VmChange::Stop { force: true })
        }
        ["vm", "stop", name] if *name != "--force" => {
            Command::VmChange(owned(name), VmChange::Stop { force: false })
        }
        ["agent", name, what] => match Ask::NAMED.iter().find(|(word, _)| word == what) {
            Some((_, ask)) => Command::Agent(owned(name), *ask),
            None => return Err(misused("agent", "")),
        },
        ["cpu"] => Command::Cpu,
        ["memory"] => Command::Memory,
        ["irq"] => Command::Irq(None),
        ["irq", name] => Command::Irq(Some(owned(name))),
        ["sched"] => Command::Sched,
        ["sched", "set", name, first, rest @ ..] if !name.contains('=') => {
            let mut change = SchedChange::default();
            for setting in [first].into_iter().chain(rest) {
                change.read(setting)?;
            }
            Command::SchedSet(owned(name), change)
        }
        ["stats"] => Command::Stats(None),
        ["stats", "reset"] => Command::StatsReset(None),
        ["stats", name] => Command::Stats(Some(owned(name))),
        ["stats", name, "reset"] => Command::StatsReset(Some(owned(name))),
        ["log", "level", level] => {
            Command::LogLevel(level.parse().map_err(|_| ParseError::Level(String::from(*level)))?)
        }
        ["console"] => Command::Console(None),
        ["console", "all"] => Command::Console(Some(Target::All)),
        ["console", "focus"] => Command::Console(Some(Target::Focus)),
        ["console", "tail", name] => Command::ConsoleTail(owned(name), None),
        ["console", "tail", name, from] => match from.parse() {
            Ok(from) => Command::ConsoleTail(owned(name), Some(from)),
            Err(_) => return Err(misused("console", "tail")),
        },
        ["console", name] => Command::Console(Some(Target::Guest(owned(name)))),
        ["quit" | "exit"] => Command::Quit,
        ["poweroff"] => Command::PowerOff,
        ["reboot"] => Command::Reboot,
        [first, rest @ ..] => {
            return Err(misused(first, rest.first().copied().unwrap_or_default()));
        }
    })
}

/// Words of commands that stand where a VM's name can.
const RESERVED: [&str; 4] = ["all", "focus", "reset", "tail"];

/// What [`can_be_meant`] asks of a name.
pub const NAME_RULE: &str =
    "a name has no `=`, does not begin with `--`, and is not all, focus, reset or tail";

/// Whether every command takes `name` for that of a VM.
pub fn can_be_meant(name: &str) -> bool {
    !name.contains('=') && !name.starts_with("--") && !RESERVED.contains(&name)
}

/// A line that begins like a command.
fn misused(first: &str, second: &str) -> ParseError {
    match usage::find(first, second) {
        Some(usage) => ParseError::Usage(usage.how),
        None => ParseError::Unknown(first.chars().take(32).collect()),
    }
}

impl SchedChange {
    fn read(&mut self, setting: &str) -> Result<(), ParseError> {
        let short = |text: &str| text.chars().take(32).collect::<String>();
        let unknown = || ParseError::Setting(short(setting));
        let (key, value) = setting.split_once('=').ok_or_else(unknown)?;
        let wrong = |key, why| ParseError::Value(key, short(value), why);
        match key {
            "weight" => {
                let weight = value.parse().ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight));
                self.weight = Some(weight.ok_or_else(|| wrong("weight", "1 to 10000"))?);
            }
            "cap" if value == "none" => self.cap = Some(None),
            "cap" => {
                let most = u16::try_from(MAX_VCPUS * 100).unwrap_or(u16::MAX);
                let cap = value.parse().ok().filter(|cap| (1..=most).contains(cap));
                let why = "hundredths of a CPU, 1 to 100 for each vCPU, or none";
                self.cap = Some(Some(cap.ok_or_else(|| wrong("cap", why))?));
            }
            "cpus" if value == "all" => self.cpus = Some(CpuSet::ALL),
            "cpus" => {
                let why = "CPUs and ranges as 0-1,3, or all";
                self.cpus = Some(cpu_set(value).ok_or_else(|| wrong("cpus", why))?);
            }
            "reservation" if value == "none" => self.reservation = Some(None),
            "reservation" => {
                let why =
                    "a budget of at least 50us in a period of 500us to 1s, as 2ms/10ms, or none";
                let reservation = reservation(value).ok_or_else(|| wrong("reservation", why))?;
                self.reservation = Some(Some(reservation));
            }
            "wfi" => {
                let found = Wfi::NAMED.iter().find(|(name, _)| *name == value);
                self.wfi = Some(found.ok_or_else(|| wrong("wfi", "auto or trap"))?.1);
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

/// A number of `M` or `G`.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1 << 30),
        None => (text.strip_suffix(['M', 'm'])?, 1 << 20),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// `0-1,3`.
fn cpu_set(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::EMPTY;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u8>().ok()?, last.parse::<u8>().ok()?);
        if first > last {
            return None;
        }
        set = (first..=last).fold(set, |set, cpu| set.with(CpuId(cpu)));
    }
    Some(set)
}

/// `2ms/10ms`.
fn reservation(text: &str) -> Option<Reservation> {
    let (budget, period) = text.split_once('/')?;
    let (budget, period) = (micros(budget)?, micros(period)?);
    let fits = PERIOD_MICROS.contains(&period) && (MIN_BUDGET_MICROS..=period).contains(&budget);
    fits.then_some(Reservation { budget, period })
}

/// A number of `s`, `ms` or `us`.
fn micros(text: &str) -> Option<u32> {
    let (number, unit) = if let Some(number) = text.strip_suffix("us") {
        (number, 1)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1_000)
    } else {
        (text.strip_suffix('s')?, 1_000_000)
    };
    number.parse::<u32>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pick;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn read(line: &str) -> Result<Command, String> {
        line.parse().map_err(|error: ParseError| error.to_string())
    }

    fn web() -> String {
        String::from("web")
    }

    #[test]
    fn every_command_of_the_help_is_read() {
        for (line, command) in [
            ("help", Command::Help(None)),
            ("help sched set", Command::Help(Some("sched set".into()))),
            ("vm list", Command::VmList),
            (" vm  info\tweb ", Command::VmInfo(web())),
            ("vm dump web", Command::VmDump(web())),
            ("vm start web", Command::VmChange(web(), VmChange::Start)),
            ("vm pause web", Command::VmChange(web(), VmChange::Pause)),
            ("vm resume web", Command::VmChange(web(), VmChange::Resume)),
            ("vm stop web", Command::VmChange(web(), VmChange::Stop { force: false })),
            ("vm stop --force web", Command::VmChange(web(), VmChange::Stop { force: true })),
            ("vm stop web --force", Command::VmChange(web(), VmChange::Stop { force: true })),
            ("vm reset web", Command::VmChange(web(), VmChange::Reset)),
            ("vm destroy web", Command::VmChange(web(), VmChange::Destroy)),
            ("agent web ping", Command::Agent(web(), Ask::Ping)),
            ("agent web info", Command::Agent(web(), Ask::Info)),
            ("agent web sync", Command::Agent(web(), Ask::Sync)),
            ("agent web shutdown", Command::Agent(web(), Ask::Shutdown)),
            ("agent web reboot", Command::Agent(web(), Ask::Reboot)),
            ("cpu", Command::Cpu),
            ("memory", Command::Memory),
            ("irq", Command::Irq(None)),
            ("irq web", Command::Irq(Some(web()))),
            ("sched", Command::Sched),
            ("stats", Command::Stats(None)),
            ("stats web", Command::Stats(Some(web()))),
            ("stats reset", Command::StatsReset(None)),
            ("stats web reset", Command::StatsReset(Some(web()))),
            ("log level debug", Command::LogLevel(LevelFilter::Debug)),
            ("console", Command::Console(None)),
            ("console all", Command::Console(Some(Target::All))),
            ("console focus", Command::Console(Some(Target::Focus))),
            ("console web", Command::Console(Some(Target::Guest(web())))),
            ("console tail web", Command::ConsoleTail(web(), None)),
            ("console tail web 4096", Command::ConsoleTail(web(), Some(4096))),
            ("quit", Command::Quit),
            ("poweroff", Command::PowerOff),
            ("reboot", Command::Reboot),
        ] {
            assert_eq!(read(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn scheduling_is_changed_setting_by_setting() {
        let change = SchedChange {
            weight: Some(200),
            cap: Some(Some(150)),
            cpus: Some(CpuSet::EMPTY.with(CpuId(0)).with(CpuId(1)).with(CpuId(3))),
            reservation: Some(Some(Reservation { budget: 2_000, period: 10_000 })),
            wfi: Some(Wfi::Trap),
        };
        let line = "sched set web weight=200 cap=150 cpus=0-1,3 reservation=2ms/10ms wfi=trap";
        assert_eq!(read(line), Ok(Command::SchedSet(web(), change)));
        let none = SchedChange {
            cap: Some(None),
            cpus: Some(CpuSet::ALL),
            reservation: Some(None),
            wfi: Some(Wfi::Auto),
            ..SchedChange::default()
        };
        let line = "sched set web cap=none cpus=all reservation=none wfi=auto";
        assert_eq!(read(line), Ok(Command::SchedSet(web(), none)));
    }

    #[test]
    fn errors_say_what_is_allowed() {
        for (line, error) in [
            ("", "no command; try `help`"),
            ("halt", "`halt` is no command; try `help`"),
            ("vm start", "use: vm start NAME"),
            ("vm stop --force", "use: vm stop [--force] NAME"),
            (
                "vm fly web",
                "use: vm list|info|dump|start|pause|resume|stop|reset|destroy|balloon [NAME]",
            ),
            ("agent web", "use: agent NAME ping|info|sync|shutdown|reboot"),
            ("agent web dance", "use: agent NAME ping|info|sync|shutdown|reboot"),
            ("cpu 1", "use: cpu"),
            ("console tail web -1", "use: console tail NAME [FROM]"),
            ("console a b", "use: console [NAME|all|focus]"),
            (
                "sched set web",
                "use: sched set NAME [weight=N] [cap=N|none] [cpus=LIST|all] \
             [reservation=BUDGET/PERIOD|none] [wfi=auto|trap]",
            ),
            (
                "log level loud",
                "`loud` is no level; there are off, error, warn, info, debug and trace",
            ),
            ("sched set web weight=0", "weight=0: 1 to 10000"),
            ("sched set web wfi=never", "wfi=never: auto or trap"),
            ("sched set web cpus=3-1", "cpus=3-1: CPUs and ranges as 0-1,3, or all"),
            (
                "sched set web cap=801",
                "cap=801: hundredths of a CPU, 1 to 100 for each vCPU, or none",
            ),
            (
                "sched set web speed=1",
                "`speed=1` is no setting; there are weight=N, cap=N, cpus=LIST, \
             reservation=BUDGET/PERIOD and wfi=auto|trap",
            ),
            (
                "sched set web reservation=20ms/10ms",
                "reservation=20ms/10ms: a budget of at least 50us \
             in a period of 500us to 1s, as 2ms/10ms, or none",
            ),
            ("cpu a b c d e f g h i", "use: cpu"),
        ] {
            assert_eq!(read(line), Err(error.to_string()), "{line}");
        }
    }

    /// Every command that has a VM's name.
    fn all_that_name(name: &str) -> Vec<(String, Command)> {
        let own = || String::from(name);
        let weight = SchedChange { weight: Some(5), ..SchedChange::default() };
        [
            ("vm info NAME", Command::VmInfo(own())),
            ("vm dump NAME", Command::VmDump(own())),
            ("vm start NAME", Command::VmChange(own(), VmChange::Start)),
            ("vm balloon NAME 1G", Command::VmChange(own(), VmChange::Balloon(1 << 30))),
            ("vm stop NAME", Command::VmChange(own(), VmChange::Stop { force: false })),
            ("vm stop --force NAME", Command::VmChange(own(), VmChange::Stop { force: true })),
            ("agent NAME info", Command::Agent(own(), Ask::Info)),
            ("irq NAME", Command::Irq(Some(own()))),
            ("sched set NAME weight=5", Command::SchedSet(own(), weight)),
            ("stats NAME", Command::Stats(Some(own()))),
            ("stats NAME reset", Command::StatsReset(Some(own()))),
            ("console NAME", Command::Console(Some(Target::Guest(own())))),
            ("console tail NAME", Command::ConsoleTail(own(), None)),
        ]
        .map(|(line, command)| (line.replace("NAME", name), command))
        .to_vec()
    }

    #[test]
    fn names_that_some_command_takes_for_something_else_cannot_be_given() {
        for name in ["a=b", "reset", "all", "focus", "--force"] {
            let misread = all_that_name(name).iter().any(|(line, it)| read(line) != Ok(it.clone()));
            assert!(misread && !can_be_meant(name), "{name}");
        }
        assert!(!can_be_meant("tail") && can_be_meant("tails"));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn any_name_that_can_be_given_can_be_meant(
            name in prop_oneof![
                "[!-~]{1,32}",
                prop::sample::select(vec!["vm", "set", "list", "level", "help", "?", "-", "--", "stop"])
                    .prop_map(String::from),
            ],
        ) {
            if can_be_meant(&name) {
                for (line, command) in all_that_name(&name) {
                    prop_assert_eq!(read(&line), Ok(command));
                }
            }
        }

        #[test]
        fn any_line_is_a_command_or_an_error_of_bounded_length(
            words in prop::collection::vec(prop_oneof![
                prop::sample::select(vec!["vm", "sched", "set", "stop", "--force", "stats", "reset", "log", "level"]),
                Just("weight=99999999999999999999"), Just("cpus=0-300"), Just("reservation=9999999999s/1s"),
            ], 0..12),
            rest in pick("\\PC{0,80}", "\\PC{0,10}"),
        ) {
            let line = words.join(" ") + " " + &rest;
            if let Err(error) = line.parse::<Command>() {
                prop_assert!(error.to_string().len() < 400);
            }
        }
    }
}
