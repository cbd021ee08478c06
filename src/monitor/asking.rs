//! Commands that a guest's agent has to do: they wait for its answer, and others are carried out meanwhile.
//!
//! No call waits: the agent is asked, and it is looked again every so often whether it has answered, as long as there are such commands.
//! One that has its answer, or has waited long enough, is carried out as any other, with what is known then.
//!
//! The console and each guest that asks by sockets have places of their own, so nobody keeps another out by what it asks. Those of
//! the console are looked at in turn with those of all guests, and an agent that a guest has asked is free for the console all the
//! same (see `agent::link`).

use alloc::collections::VecDeque;

use super::agent::{Ask, Asker, Failure, Outcome, PATIENCE_MICROS};
use super::command::{Command, VmChange};
use super::task::Task;
use crate::hypervisor::Hypervisor;
use crate::manifest::Shutdown;
use crate::sched::VmId;
use crate::time::Ticks;
use crate::virtio::vsock::connections::MOST_ASKED;

/// How many commands of the console's wait for agents at most.
const OF_CONSOLE: usize = 8;
/// How many of each guest's: as many as are answered at a time.
const OF_GUEST: usize = MOST_ASKED;
/// How often one of them is looked at, in turn, in microseconds.
const LOOK_MICROS: u64 = 1_000;

/// A command that waits.
#[derive(Debug)]
struct Waiting {
    task: Task,
    vm: VmId,
    number: u32,
}

/// What is to be done with a command.
#[derive(Debug, PartialEq)]
pub enum Begun {
    /// No agent is concerned, or there is none that could be asked.
    Other(Task),
    /// It waits now.
    Waits,
    /// The agent is not asked, and why is known.
    Known(Task, Outcome),
}

/// The commands that wait for agents.
#[derive(Debug, Default)]
pub struct Asking {
    /// The console's.
    console: VecDeque<Waiting>,
    /// Those of all guests.
    guests: VecDeque<Waiting>,
    /// One of the guests' is looked at next, if there is one.
    guests_next: bool,
    /// The number of the last request.
    last: u32,
    /// When one is looked at next.
    due: Ticks,
}

impl Asking {
    /// None.
    pub const fn new() -> Self {
        Self {
            console: VecDeque::new(),
            guests: VecDeque::new(),
            guests_next: false,
            last: 0,
            due: Ticks(0),
        }
    }

    /// Asks the agent that `task`, which is `command`, concerns, if it concerns one.
    pub fn begin(
        &mut self,
        hypervisor: &Hypervisor,
        now: Ticks,
        task: Task,
        command: Option<&Command>,
    ) -> Begun {
        let Some((vm, ask)) = command.and_then(|command| wanted(hypervisor, command)) else {
            return Begun::Other(task);
        };
        let Ok(running) = hypervisor.running(vm) else { return Begun::Other(task) };
        let Some(link) = running.agent() else { return Begun::Other(task) };
        if !self.has_place(task.guest()) {
            return Begun::Known(task, Err(Failure::Crowded));
        }
        let micros = |micros| hypervisor.frequency().micros(micros);
        self.last = self.last.wrapping_add(1);
        let number = self.last;
        let until = now.saturating_add(micros(PATIENCE_MICROS));
        let who = if task.guest().is_some() { Asker::Guest } else { Asker::Console };
        if let Err(why) = link.ask(number, ask, until, who) {
            return Begun::Known(task, Err(why));
        }
        if self.deadline().is_none() {
            self.due = now.saturating_add(micros(LOOK_MICROS));
        }
        self.of(who).push_back(Waiting { task, vm, number });
        Begun::Waits
    }

    /// Whether one more command may wait: of this guest's, or of the console's.
    fn has_place(&self, guest: Option<VmId>) -> bool {
        match guest {
            None => self.console.len() < OF_CONSOLE,
            Some(_) => {
                let own = self.guests.iter().filter(|waiting| waiting.task.guest() == guest);
                own.count() < OF_GUEST
            }
        }
    }

    const fn of(&mut self, who: Asker) -> &mut VecDeque<Waiting> {
        match who {
            Asker::Console => &mut self.console,
            Asker::Guest => &mut self.guests,
        }
    }

    /// Looks at one of them if it is time to: it is given back when it waits no longer, with what became of the request.
    pub fn look(&mut self, hypervisor: &Hypervisor, now: Ticks) -> Option<(Task, Outcome)> {
        if self.deadline().is_none_or(|due| due > now) {
            return None;
        }
        self.due = now.saturating_add(hypervisor.frequency().micros(LOOK_MICROS));
        let who = if self.console.is_empty() || self.guests_next && !self.guests.is_empty() {
            Asker::Guest
        } else {
            Asker::Console
        };
        self.guests_next = who == Asker::Console;
        let first = self.of(who).pop_front()?;
        let vm = hypervisor.vm(first.vm);
        let link = vm.as_deref().and_then(|vm| vm.agent());
        let outcome = link.map_or(Some(Err(Failure::Gone)), |link| link.look(first.number, now));
        match outcome {
            Some(outcome) => Some((first.task, outcome)),
            None => {
                self.of(who).push_back(first);
                None
            }
        }
    }

    /// When [`Self::look`] is due.
    pub fn deadline(&self) -> Option<Ticks> {
        (!self.console.is_empty() || !self.guests.is_empty()).then_some(self.due)
    }
}

/// Whose agent is to be asked what.
fn wanted(hypervisor: &Hypervisor, command: &Command) -> Option<(VmId, Ask)> {
    let (name, ask) = match command {
        Command::Agent(name, ask) => (name, Some(*ask)),
        Command::VmChange(name, VmChange::Stop { force: false }) => (name, None),
        _ => return None,
    };
    let (vm, config) = hypervisor.configs().find(|(_, config)| config.name == *name)?;
    let by_agent = (config.shutdown == Shutdown::Agent).then_some(Ask::Shutdown);
    Some((vm, ask.or(by_agent)?))
}
