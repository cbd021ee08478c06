//! What is to be done for the console, or for a guest that asks by a socket.

use alloc::sync::Arc;

use super::agent::Outcome;
use super::command::Command;
use super::{json, rights};
use crate::console::Work;
use crate::hypervisor::{Line, Refusal};
use crate::sched::VmId;
use crate::vm::Vm;

/// One thing to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Task {
    /// The console cannot do it by itself.
    Console(Work),
    /// A guest wants this answered.
    Line(Line),
}

impl Task {
    /// The guest that wants it.
    pub const fn guest(&self) -> Option<VmId> {
        match self {
            Self::Console(_) => None,
            Self::Line(line) => Some(line.vm),
        }
    }

    /// The command that it is, if it may be carried out.
    pub fn command(&self) -> Option<Command> {
        match self {
            Self::Console(Work::Command(line)) => line.parse().ok(),
            Self::Console(Work::Request(text)) => json::request(text).ok()?.command.parse().ok(),
            Self::Console(Work::Attend(_) | Work::End(_)) => None,
            Self::Line(line) => rights::permitted(&line.text, line.rights),
        }
    }
}

/// What has become of what a task waited for before it could be carried out, as no call waits.
#[derive(Default)]
pub enum Waited {
    /// It did not wait.
    #[default]
    Nothing,
    /// For a VM's agent.
    Agent(Outcome),
    /// For a VM to be built, which is to be started.
    Creation(Result<Arc<Vm>, Refusal>),
}
