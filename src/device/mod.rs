//! The devices a guest finds on its bus, and the bus.
//!
//! A device is a pure model: an access changes its state, and its interrupt output is a level that
//! anyone may ask for. It knows neither the interrupt controller nor the machine; the [`bus`] reports
//! the level after every access, and the caller drives the vGIC with it.
//!
//! Each model keeps what a guest can change in one serialisable `State`, apart from its wiring (the
//! line a UART is plugged into, a clock's frequency), which is made anew after a restore.

pub mod bus;
pub mod doorbell;
pub mod pl011;
pub mod pl031;
pub mod pl061;
pub mod primecell;
pub mod serial;

use crate::exit::Width;
use crate::time::Ticks;

/// What happens to a device from outside the guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// Something came for it: bytes, a packet, the end of a request.
    Input,
    /// Its button was pressed.
    Press,
}

/// What the bus wants to know of a device after each call, at one go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct After {
    /// [`Device::deadline`] in ticks; the largest value for never.
    pub due: u64,
    /// [`Device::irq_level`].
    pub level: bool,
    /// [`Device::polled`]: the offset above the value; all ones for no register.
    pub polled: u64,
}

impl After {
    fn time(deadline: Option<Ticks>) -> u64 {
        deadline.map_or(u64::MAX, |at| at.0)
    }

    fn register(polled: Option<(u64, u32)>) -> u64 {
        polled.map_or(u64::MAX, |(offset, value)| offset << 32 | u64::from(value))
    }
}

/// A device on the [`bus`]. The bus serialises the calls.
///
/// Nothing here fails: an access that the device's manual does not allow reads as zero and writes
/// nothing, as the manuals of Arm's peripherals say of reserved locations.
pub trait Device: Send {
    /// What the guest reads at `offset`, in the low bits. The bus sees to it that the access is
    /// aligned and lies inside the device's window.
    fn read(&mut self, offset: u64, width: Width, now: Ticks) -> u64;

    /// A register that drivers poll, by its offset, a multiple of 4 below 2^32, and what reading that word gives now: nothing
    /// is changed by reading it, and who changes it otherwise makes a call of this trait afterwards. Asked after
    /// [`irq_level`](Self::irq_level): it tells of whatever has made that high.
    fn polled(&self) -> Option<(u64, u32)> {
        None
    }

    /// The guest writes the low bits of `value`; the bus has cleared the others.
    fn write(&mut self, offset: u64, width: Width, value: u64, now: Ticks);

    /// The level of the interrupt output.
    fn irq_level(&self) -> bool {
        false
    }

    /// Whether what is high is to be told once more, since this was asked last: its driver has answered an interrupt, and
    /// somebody outside may have raised it again before the level was looked at. Who looks for edges is to see one.
    fn has_fallen(&mut self) -> bool {
        false
    }

    /// Takes in what happened outside the guest up to `now`: time that passed, bytes that came.
    fn advance(&mut self, _now: Ticks) {}

    /// Takes in what came from outside. What a device has no use for is no more than time passing.
    fn signal(&mut self, _signal: Signal, now: Ticks) {
        self.advance(now);
    }

    /// When [`advance`](Self::advance) has to be called for an interrupt, or what the device does by
    /// itself, to be in time, if by then the guest makes no access.
    fn deadline(&self) -> Option<Ticks> {
        None
    }

    /// What a call has come to.
    fn after(&self) -> After {
        let due = After::time(self.deadline());
        // In this order: somebody outside may have raised the level just before it is looked at, and whoever is interrupted
        // finds out why.
        let level = self.irq_level();
        let polled = After::register(self.polled());
        After { due, level, polled }
    }

    /// As the machine's reset leaves it.
    fn reset(&mut self);
}
