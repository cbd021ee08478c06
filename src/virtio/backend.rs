//! What a device of some type does, whatever it is reached by.

use super::queue::{Bad, Chain, Head};
use super::ram::GuestRam;
use crate::exit::Width;

/// `VIRTIO_F_IN_ORDER` ("Reserved Feature Bits").
pub const IN_ORDER: u64 = 1 << 35;

/// What became of a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Served {
    /// It was used, and so many bytes were written to its buffers.
    Done(u32),
    /// More is to be done for it than at one go: the same chain is to be served again.
    More,
    /// The backend has what it needs of it, and says through [`Backend::completed`] when it was used.
    Later,
    /// Nothing can be done with it now, or with others of its queue; it stays where it is until the device's doorbell is
    /// rung, or the driver notifies.
    NotNow,
}

/// A chain that was left for later, and was used now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Completed {
    /// Its queue.
    pub queue: usize,
    /// What [`Chain::head`] was.
    pub head: Head,
    /// How many bytes were written to its buffers.
    pub written: u32,
}

/// What a device of some type does.
pub trait Backend: Send {
    /// Its type ("Device Types").
    const ID: u32;

    /// How many chains are worked off before the guest, or somebody else, goes on: some ten thousand instructions.
    const AT_ONCE: usize;

    /// Whether the buffers of a chain are RAM, where the guest has given that up, before the chain is served.
    const FILLS: bool = true;

    /// Whether [`is_due`](Self::is_due) is to be asked after each access.
    const ATTENDS: bool = false;

    /// The feature bits of its type that it offers: 0 to 23, and 50 to 127 as far as they are below 64. And [`IN_ORDER`] if it
    /// gives chains back in the order in which it took them.
    fn features(&self) -> u64 {
        0
    }

    /// Which of them a driver cannot have alone: with any of the first it takes any of the second ("Feature bit
    /// requirements").
    const NEEDS: &'static [(u64, u64)] = &[];

    /// The largest size of each of its queues, a power of two each; 32 queues at most.
    fn queues(&self) -> &[u16];

    /// Whether somebody outside its guest uses a queue's chains: they are not served then.
    fn is_used_from_outside(&self, _queue: usize) -> bool {
        false
    }

    /// The low bits of its configuration at `offset`; what is not there reads as zero.
    fn read_config(&self, _offset: u64, _width: Width) -> u64 {
        0
    }

    /// The driver writes its configuration.
    fn write_config(&mut self, _offset: u64, _width: Width, _value: u64) {}

    /// The driver is ready, with these feature bits.
    fn begin(&mut self, _features: u64) {}

    /// Uses a chain of queue `queue`.
    ///
    /// # Errors
    /// What makes the device need a reset.
    fn serve(&mut self, queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad>;

    /// Whether a queue that waits may go on, now that something has happened outside: one that cannot is not looked at.
    fn can_go_on(&self, _queue: usize) -> bool {
        true
    }

    /// The next chain that was left for later and is used now.
    fn completed(&mut self) -> Option<Completed> {
        None
    }

    /// Whether its configuration has changed by itself since the last call, or since the driver was ready.
    fn has_changed(&mut self) -> bool {
        false
    }

    /// Queues, a bit for each, that are looked into although the driver has not said that there is something.
    fn looks_into(&self) -> u32 {
        0
    }

    /// Another number after each such change ("ConfigGeneration").
    fn generation(&self) -> u32 {
        0
    }

    /// Whether there is work for [`attend`](Self::attend), driver or not.
    fn is_due(&self, _ram: &impl GuestRam) -> bool {
        false
    }

    /// Does some work that is no chain's.
    fn attend(&mut self, _ram: &impl GuestRam) {}

    /// The driver has taken queue `queue` away: nothing of it is under way.
    fn stop(&mut self, _queue: usize) {}

    /// As the machine's, or the driver's, reset leaves it: nothing is under way.
    fn reset(&mut self) {}
}
