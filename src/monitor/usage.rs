//! How each command is used: what `help` says, errors show, and completion offers.

/// One command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Its words.
    pub words: &'static [&'static str],
    /// What it is followed by.
    pub arguments: &'static [Argument],
    /// How it is written.
    pub how: &'static str,
    /// What it does.
    pub what: &'static str,
}

/// What can follow a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Argument {
    /// A VM's name.
    Vm,
    /// One of these words, or none.
    Words(&'static [&'static str]),
    /// One of these words, in its place.
    Verb(&'static [&'static str]),
    /// Any number of these settings.
    Settings(&'static [&'static str]),
    /// A command, for `help`.
    Command,
}

const ASKS: Argument = Argument::Verb(&["ping", "info", "sync", "shutdown", "reboot"]);
const FORCE: Argument = Argument::Words(&["--force"]);
const LEVELS: Argument = Argument::Words(&["off", "error", "warn", "info", "debug", "trace"]);
const SCHED: Argument = Argument::Settings(&["weight=", "cap=", "cpus=", "reservation=", "wfi="]);

/// Makes the entries short.
const fn usage(
    words: &'static [&'static str],
    arguments: &'static [Argument],
    how: &'static str,
    what: &'static str,
) -> Usage {
    Usage { words, arguments, how, what }
}

/// Every command.
pub const USAGES: &[Usage] = &[
    usage(
        &["help"],
        &[Argument::Command],
        "help [COMMAND]",
        "what there is, or how one command is used",
    ),
    usage(&["vm", "list"], &[], "vm list", "all VMs: state, vCPUs, memory, CPU time, exits"),
    usage(
        &["vm", "info"],
        &[Argument::Vm],
        "vm info NAME",
        "one VM: its vCPUs, devices and policies",
    ),
    usage(&["vm", "dump"], &[Argument::Vm], "vm dump NAME", "the registers of its vCPUs"),
    usage(&["vm", "start"], &[Argument::Vm], "vm start NAME", "start a VM that is off"),
    usage(&["vm", "pause"], &[Argument::Vm], "vm pause NAME", "stop its vCPUs and its time"),
    usage(&["vm", "resume"], &[Argument::Vm], "vm resume NAME", "go on after a pause"),
    usage(
        &["vm", "stop"],
        &[Argument::Vm, FORCE],
        "vm stop [--force] NAME",
        "ask it to power off, as its manifest says; with --force do not ask",
    ),
    usage(&["vm", "reset"], &[Argument::Vm], "vm reset NAME", "begin again, as by a reset button"),
    usage(
        &["vm", "destroy"],
        &[Argument::Vm],
        "vm destroy NAME",
        "take it apart and free what it has",
    ),
    usage(
        &["vm", "balloon"],
        &[Argument::Vm],
        "vm balloon NAME SIZE",
        "let it have so much memory, as 256M: its balloon takes the rest",
    ),
    usage(
        &["agent"],
        &[Argument::Vm, ASKS],
        "agent NAME ping|info|sync|shutdown|reboot",
        "ask its guest agent: whether it is there, how the guest is; write all to disks; power off; reboot",
    ),
    usage(&["cpu"], &[], "cpu", "all CPUs: what they run, how busy they are"),
    usage(&["memory"], &[], "memory", "memory in all, free, and of each VM"),
    usage(&["irq"], &[Argument::Vm], "irq [NAME]", "the hypervisor's interrupts, or those of a VM"),
    usage(&["sched"], &[], "sched", "how the VMs share the CPUs"),
    usage(
        &["sched", "set"],
        &[Argument::Vm, SCHED],
        "sched set NAME [weight=N] [cap=N|none] [cpus=LIST|all] [reservation=BUDGET/PERIOD|none] \
         [wfi=auto|trap]",
        "change that: cap in hundredths of a CPU, cpus as 0-1,3, reservation as 2ms/10ms, wfi=trap to \
         see each wait",
    ),
    usage(
        &["stats"],
        &[Argument::Vm, Argument::Words(&["reset"])],
        "stats [NAME] [reset]",
        "exits and their cost by reason, for each VM, or each vCPU of one; reset counts anew",
    ),
    usage(
        &["log", "level"],
        &[LEVELS],
        "log level LEVEL",
        "off, error, warn, info, debug or trace",
    ),
    usage(
        &["console"],
        &[Argument::Vm],
        "console [NAME|all|focus]",
        "go to a guest; show all guests, or only the one with the focus",
    ),
    usage(
        &["console", "tail"],
        &[Argument::Vm],
        "console tail NAME [FROM]",
        "the newest of a guest's output, or what is behind a position",
    ),
    usage(&["quit"], &[], "quit", "leave the monitor, back to the guest"),
    usage(&["poweroff"], &[], "poweroff", "end it all: every VM, and the machine"),
    usage(&["reboot"], &[], "reboot", "the same, and the machine starts again"),
];

/// What is said of `vm` without more.
const VM: Usage = usage(
    &["vm"],
    &[],
    "vm list|info|dump|start|pause|resume|stop|reset|destroy|balloon [NAME]",
    "the VMs and their lives",
);

/// The command that a line means which begins with these two words; the second may be another's or
/// empty.
pub fn find(first: &str, second: &str) -> Option<&'static Usage> {
    let both = USAGES.iter().find(|usage| usage.words == [first, second]);
    let exact = both.or_else(|| USAGES.iter().find(|usage| usage.words == [first]));
    let begins = || USAGES.iter().find(|usage| usage.words.first() == Some(&first));
    exact.or_else(|| if first == "vm" { Some(&VM) } else { begins() })
}
