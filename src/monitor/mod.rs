//! The monitor: a shell on the console, and its machine-readable twin.
//!
//! A line becomes a [`Command`], a command a [`Reply`] by way of [`Control`], which is all that the
//! monitor knows of the hypervisor, and a reply text or JSON. All of it is pure.
//!
//! | module | what it is |
//! |---|---|
//! | [`command`] | the commands, and how a line is read |
//! | [`usage`] | how each is used |
//! | [`complete`] | how a line can go on |
//! | [`editor`] | the line being typed |
//! | [`reply`] | the answers, as data |
//! | [`table`] | the answers as text |
//! | [`json`] | requests and answers as JSON |
//! | [`present`] | the hypervisor behind [`Control`] |
//! | [`gather`] | what of it CPUs have in hand |
//! | [`agent`] | what programs in guests are asked |
//! | [`asking`] | the commands that wait for those |
//! | [`rights`] | what a guest may ask |
//! | [`task`] | what is to be done, for the console or for a guest |

pub mod agent;
pub mod asking;
pub mod command;
pub mod complete;
pub mod editor;
pub mod gather;
pub mod json;
pub mod present;
pub mod reply;
pub mod rights;
pub mod table;
pub mod task;
pub mod usage;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ::log::LevelFilter;

use crate::console::End;
use agent::{Answer, Ask};
use command::{Command, ParseError, SchedChange, Target, VmChange};
use reply::{
    Asked, ConsoleState, ConsoleTail, CpuSummary, HelpEntry, IrqEntry, MemoryReport, Reply,
    SchedEntry, StatsEntry, VcpuDump, VmDetails, VmSummary,
};

/// Why a command is not carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It is none.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// There is no such VM.
    #[error("there is no VM `{0}`; `vm list` shows them")]
    NoSuchVm(String),
    /// The VM is not in a state for that.
    #[error("{name} is {state}; {allowed}")]
    State {
        /// The VM's name.
        name: String,
        /// What it is.
        state: String,
        /// What is possible then.
        allowed: String,
    },
    /// The hypervisor says no, for this reason.
    #[error("{0}")]
    Denied(String),
}

/// The hypervisor, as the monitor knows it. No call may wait: a change that takes time is begun, and
/// `vm list` shows when it is done.
///
/// A `name` is that of a VM; where none has it the answer is [`Refusal::NoSuchVm`].
pub trait Control {
    /// All VMs, by number.
    fn vms(&mut self) -> Vec<VmSummary>;
    /// One VM.
    fn vm(&mut self, name: &str) -> Result<VmDetails, Refusal>;
    /// The registers of a VM's vCPUs, as of their last exit; of one that runs only if that was
    /// [asked for](gather) before.
    fn dump(&mut self, name: &str) -> Result<Vec<VcpuDump>, Refusal>;
    /// Begin a change in a VM's life. Where that means to ask the guest: how it was asked.
    fn change(&mut self, name: &str, change: VmChange) -> Result<Option<Asked>, Refusal>;
    /// What a VM's agent has answered, which was [asked](asking) before.
    fn agent(&mut self, name: &str) -> Result<Answer, Refusal>;
    /// All CPUs, by number.
    fn cpus(&mut self) -> Vec<CpuSummary>;
    /// The memory.
    fn memory(&mut self) -> Result<MemoryReport, Refusal>;
    /// The hypervisor's interrupts, or those of a VM that are enabled, pending or active.
    fn irqs(&mut self, name: Option<&str>) -> Result<Vec<IrqEntry>, Refusal>;
    /// How each VM is scheduled.
    fn sched(&mut self) -> Result<Vec<SchedEntry>, Refusal>;
    /// Change how a VM is scheduled. All of `change` or nothing.
    fn set_sched(&mut self, name: &str, change: &SchedChange) -> Result<(), Refusal>;
    /// Exits by reason: a sum for each VM, or each vCPU of one.
    fn stats(&mut self, name: Option<&str>) -> Result<Vec<StatsEntry>, Refusal>;
    /// Count exits anew, of all VMs or one.
    fn reset_stats(&mut self, name: Option<&str>) -> Result<(), Refusal>;
    /// Log at this level from now on.
    fn set_log_level(&mut self, level: LevelFilter) -> Result<(), Refusal>;
    /// Show something else on the console, if asked; what it shows then.
    fn console(&mut self, target: Option<&Target>) -> Result<ConsoleState, Refusal>;
    /// What a guest has put out `from` a position on, or the newest of it.
    fn tail(&mut self, name: &str, from: Option<u64>) -> Result<ConsoleTail, Refusal>;
    /// Leave the monitor: what is typed goes to a guest.
    fn leave(&mut self) -> Result<(), Refusal>;
    /// End it all, once the answer is on its way.
    fn end(&mut self, end: End) -> Result<(), Refusal>;
}

/// Carries a command out.
///
/// # Errors
/// Why it is not.
pub fn execute(command: &Command, control: &mut impl Control) -> Result<Reply, Refusal> {
    Ok(match command {
        Command::Help(None) => Reply::Help(help(|_| true)),
        Command::Help(Some(wanted)) => {
            let found = help(|usage| {
                usage.words.join(" ") == *wanted || usage.words.first() == Some(&wanted.as_str())
            });
            if found.is_empty() {
                return Err(ParseError::Unknown(wanted.clone()).into());
            }
            Reply::Help(found)
        }
        Command::VmList => Reply::Vms(control.vms()),
        Command::VmInfo(name) => Reply::Vm(control.vm(name)?.into()),
        Command::VmDump(name) => Reply::Dump(control.dump(name)?),
        Command::VmChange(name, change) => {
            control.change(name, *change)?.map_or(Reply::Done, Reply::Asked)
        }
        Command::Agent(name, ask) => {
            let answer = control.agent(name)?;
            match ask {
                Ask::Ping | Ask::Info => Reply::Agent(Box::new(answer.into())),
                Ask::Sync => Reply::Done,
                Ask::Shutdown | Ask::Reboot => Reply::Asked(Asked { asked: "agent".into() }),
            }
        }
        Command::Cpu => Reply::Cpus(control.cpus()),
        Command::Memory => Reply::Memory(control.memory()?),
        Command::Irq(name) => Reply::Irqs(control.irqs(name.as_deref())?),
        Command::Sched => Reply::Sched(control.sched()?),
        Command::SchedSet(name, change) => done(control.set_sched(name, change)?),
        Command::Stats(name) => Reply::Stats(control.stats(name.as_deref())?),
        Command::StatsReset(name) => done(control.reset_stats(name.as_deref())?),
        Command::LogLevel(level) => done(control.set_log_level(*level)?),
        Command::Console(target) => Reply::Console(control.console(target.as_ref())?),
        Command::ConsoleTail(name, from) => Reply::Tail(control.tail(name, *from)?),
        Command::Quit => done(control.leave()?),
        Command::PowerOff => done(control.end(End::PowerOff)?),
        Command::Reboot => done(control.end(End::Restart)?),
    })
}

/// What the shell prints for a line.
pub fn shell(line: &str, control: &mut impl Control) -> String {
    let result = line.parse::<Command>().map_err(Refusal::from);
    match result.and_then(|command| execute(&command, control)) {
        Ok(reply) => table::render(&reply),
        Err(refusal) => format!("{refusal}\n"),
    }
}

/// What a frame with this text is answered.
pub fn serve(text: &[u8], control: &mut impl Control) -> String {
    let request = match json::request(text) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let result = request.command.parse::<Command>().map_err(Refusal::from);
    match result.and_then(|command| execute(&command, control)) {
        Ok(reply) => json::answer(request.id, &reply),
        Err(refusal) => json::refusal(Some(request.id), &refusal.to_string()),
    }
}

fn done((): ()) -> Reply {
    Reply::Done
}

fn help(wanted: impl Fn(&usage::Usage) -> bool) -> Vec<HelpEntry> {
    let usages = usage::USAGES.iter().filter(|usage| wanted(usage));
    usages.map(|usage| HelpEntry { command: usage.how, what: usage.what }).collect()
}

#[cfg(test)]
mod tests;
