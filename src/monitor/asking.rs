//! Commands that a guest's agent has to do: they wait for its answer, and others are carried out meanwhile.
//!
//! No call waits: the agent is asked, and it is looked again every so often whether it has answered, as long as there are such commands.
//! One that has its answer, or has waited long enough, is carried out as any other, with what is known then.

use alloc::collections::VecDeque;

use super::agent::{Ask, Failure, Outcome, PATIENCE_MICROS};
use super::command::{Command, VmChange};
use super::json;
use crate::console::Work;
use crate::hypervisor::Hypervisor;
use crate::manifest::Shutdown;
use crate::sched::VmId;
use crate::time::Ticks;

/// How many commands wait for agents at most.
const MOST: usize = 8;
/// How often one of them is looked at, in turn, in microseconds.
const LOOK_MICROS: u64 = 1_000;

/// A command that waits.
#[derive(Debug)]
struct Waiting {
    work: Work,
    vm: VmId,
    number: u32,
}

/// What is to be done with a command.
#[derive(Debug, PartialEq)]
pub enum Begun {
    /// No agent is concerned, or there is none that could be asked.
    Other(Work),
    /// It waits now.
    Waits,
    /// The agent is not asked, and why is known.
    Known(Work, Outcome),
}

/// The commands that wait for agents.
#[derive(Debug, Default)]
pub struct Asking {
    waiting: VecDeque<Waiting>,
    /// The number of the last request.
    last: u32,
    /// When one is looked at next.
    due: Ticks,
}

impl Asking {
    /// None.
    pub const fn new() -> Self {
        Self { waiting: VecDeque::new(), last: 0, due: Ticks(0) }
    }

    /// Asks the agent that `work` concerns, if it concerns one.
    pub fn begin(&mut self, hypervisor: &Hypervisor, now: Ticks, work: Work) -> Begun {
        let Some((vm, ask)) = wanted(hypervisor, &work) else { return Begun::Other(work) };
        let Ok(running) = hypervisor.running(vm) else { return Begun::Other(work) };
        let Some(link) = running.agent() else { return Begun::Other(work) };
        if self.waiting.len() >= MOST {
            return Begun::Known(work, Err(Failure::Busy));
        }
        let micros = |micros| hypervisor.frequency().micros(micros);
        self.last = self.last.wrapping_add(1);
        let number = self.last;
        if let Err(why) = link.ask(number, ask, now.saturating_add(micros(PATIENCE_MICROS))) {
            return Begun::Known(work, Err(why));
        }
        if self.waiting.is_empty() {
            self.due = now.saturating_add(micros(LOOK_MICROS));
        }
        self.waiting.push_back(Waiting { work, vm, number });
        Begun::Waits
    }

    /// Looks at one of them if it is time to: it is given back when it waits no longer, with what became of the request.
    pub fn look(&mut self, hypervisor: &Hypervisor, now: Ticks) -> Option<(Work, Outcome)> {
        if self.deadline().is_none_or(|due| due > now) {
            return None;
        }
        self.due = now.saturating_add(hypervisor.frequency().micros(LOOK_MICROS));
        let first = self.waiting.pop_front()?;
        let vm = hypervisor.vm(first.vm);
        let link = vm.as_deref().and_then(|vm| vm.agent());
        let outcome = link.map_or(Some(Err(Failure::Gone)), |link| link.look(first.number, now));
        match outcome {
            Some(outcome) => Some((first.work, outcome)),
            None => {
                self.waiting.push_back(first);
                None
            }
        }
    }

    /// When [`Self::look`] is due.
    pub fn deadline(&self) -> Option<Ticks> {
        (!self.waiting.is_empty()).then_some(self.due)
    }
}

/// Whose agent is to be asked what.
fn wanted(hypervisor: &Hypervisor, work: &Work) -> Option<(VmId, Ask)> {
    let command: Command = match work {
        Work::Command(line) => line.parse().ok()?,
        Work::Request(text) => json::request(text).ok()?.command.parse().ok()?,
        Work::Attend(_) | Work::End(_) => return None,
    };
    let (name, ask) = match command {
        Command::Agent(name, ask) => (name, Some(ask)),
        Command::VmChange(name, VmChange::Stop { force: false }) => (name, None),
        _ => return None,
    };
    let (vm, config) = hypervisor.configs().find(|(_, config)| config.name == name)?;
    let by_agent = (config.shutdown == Shutdown::Agent).then_some(Ask::Shutdown);
    Some((vm, ask.or(by_agent)?))
}
