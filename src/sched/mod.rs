//! Which vCPU a CPU runs next.
//!
//! Pure: the caller brings the time and performs what is decided. Each CPU has a [`RunQueue`], behind a
//! lock of the caller's; what queues know of each other is in [`Balance`], without a lock; what the vCPUs
//! of a VM have in common in [`Account`].
//!
//! | file | |
//! |---|---|
//! | `policy` | what users ask for |
//! | `account`, `cap` | a VM's weight, cap, and used time |
//! | `reservation` | constant bandwidth servers, admission |
//! | `record` | one vCPU in a queue |
//! | `lists`, `order` | who is where in a queue |
//! | `queue` | states and events: wake, block, pause, … |
//! | `pick` | the choice: servers by deadline, then fair vCPUs by virtual runtime |
//! | `balance` | what queues know of each other |
//! | `gaps` | how far their virtual clocks are apart |
//! | `transfer` | from CPU to CPU |
//!
//! The algorithm and its literature: `docs/decisions/0008-scheduler.md`.

mod account;
mod balance;
mod cap;
mod gaps;
mod lists;
mod order;
mod pick;
pub mod policy;
mod queue;
mod record;
mod reservation;
#[cfg(test)]
mod tests;
mod transfer;

pub use account::{Account, Usage};
pub use balance::{Balance, Timing};
pub use queue::{ROOM, RunQueue};
pub use record::Terms;
pub use reservation::{Admission, AdmissionError, RESERVABLE, Reservation};

use crate::vcpu::VcpuId;

/// A virtual machine, by its place in the bundle.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VmId(pub u16);

impl VmId {
    /// The index into the list of VMs.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a run queue schedules: one vCPU.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Entity {
    /// Its VM.
    pub vm: VmId,
    /// Which of the VM's vCPUs.
    pub vcpu: VcpuId,
}

/// What a wake-up found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Woken {
    /// It is off, or waits for the CPU already, or is paused.
    Nothing,
    /// It waits for the CPU now: the CPU should look at its queue.
    Queued,
    /// It is on the CPU: the CPU should look at its requests.
    Running,
    /// It does not belong to this queue (any more).
    Elsewhere,
}

/// What retiring or pausing found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retired {
    /// It was off (or paused) already, or belongs to another queue.
    WasOff,
    /// It is off (or paused) now.
    Off,
    /// It is on the CPU, which has to take it off itself.
    Running,
}
