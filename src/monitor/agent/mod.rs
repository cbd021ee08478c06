//! The guest agent: a program in a guest that does what the monitor asks for.
//!
//! It is reached by a port of the guest's virtio console. What is said there, a line of JSON for each request and each answer, is the
//! convention of `docs/src/guest-agent.md`. All that comes from there is a guest's: lines are of bounded length, what they say is
//! cut to what can be shown, and what was not asked for is passed over.
//!
//! | module | what it is |
//! |---|---|
//! | [`message`] | requests and answers as lines |
//! | [`lines`] | lines from bytes |
//! | [`link`] | one VM's agent: what it was asked, and what came back |

pub mod lines;
pub mod link;
pub mod message;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

pub use link::Link;

/// The name of an agent's port. The number at its end is the convention's; what is not compatible gets another.
pub const PORT: &str = "org.plinth.agent.0";
/// The longest line, without its line feed, in bytes.
pub const LONGEST: usize = 1024;
/// How long an answer is waited for, in microseconds.
pub const PATIENCE_MICROS: u64 = 5_000_000;

/// What an agent is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ask {
    /// Whether it is there.
    Ping,
    /// How the guest is.
    Info,
    /// To have the guest write to its disks what it has not written yet.
    Sync,
    /// To have the guest power off.
    Shutdown,
    /// To have the guest begin again.
    Reboot,
}

impl Ask {
    /// Each with its name, in the monitor's command and in a request.
    pub const NAMED: [(&'static str, Self); 5] = [
        ("ping", Self::Ping),
        ("info", Self::Info),
        ("sync", Self::Sync),
        ("shutdown", Self::Shutdown),
        ("reboot", Self::Reboot),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, ask)| *ask == self).map_or("", |(name, _)| name)
    }
}

/// Who wants it asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asker {
    /// Somebody at the console, or a program on the machine's serial line.
    Console,
    /// A guest, by a socket.
    Guest,
}

/// What an agent answered. Texts have no control characters, and are cut.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// Which version of the convention it keeps to.
    pub version: Option<u32>,
    /// The guest's kernel.
    pub kernel: Option<String>,
    /// For how long the guest has been up, in seconds.
    pub uptime: Option<u64>,
    /// The guest's memory as it sees it, in bytes.
    pub memory: Option<u64>,
    /// What of it can be had, in bytes.
    pub available: Option<u64>,
    /// The guest's network addresses.
    pub addresses: Vec<String>,
}

/// Why an agent has not done what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Failure {
    /// Nobody in the guest has its port open.
    #[error("no agent listens")]
    Absent,
    /// Others wait for an answer.
    #[error("its agent has not answered an earlier command yet")]
    Busy,
    /// The console has asked meanwhile.
    #[error("the console has asked its agent something else since")]
    Overtaken,
    /// Whoever asks waits for as many answers as it may already.
    #[error("too many commands wait for agents")]
    Crowded,
    /// It does not read what it was sent before.
    #[error("its agent does not take what it is asked")]
    Full,
    /// The port was closed before the answer came.
    #[error("its agent went away without an answer")]
    Gone,
    /// Nothing came in time.
    #[error("no answer within {} s", PATIENCE_MICROS / 1_000_000)]
    Late,
    /// It says no, for this reason.
    #[error("its agent: {0}")]
    Refused(String),
    /// What it says is no answer.
    #[error("its agent's answer cannot be read")]
    Garbled,
}

/// What became of a request.
pub type Outcome = Result<Answer, Failure>;
