//! A device as plain data: saved in the middle of its work, and put into another one that has the same wiring.
//!
//! Who saves sees to it that nothing happens meanwhile: the VM is paused, and nobody has the device's queues. The guest's RAM is
//! saved, and restored, with it. What was saved may have been anywhere: all of it is looked at before it is used, and
//! what could not have come to be is [`Unfit`]. Then the device is as reset leaves it.
//!
//! A device that was restored takes what waits for something outside for due, so no bell that was rung before is missed.

use alloc::vec::Vec;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{MAX_QUEUES, State, Transport, negotiated, status};
use crate::virtio::backend::Backend;
use crate::virtio::queue::{Bad, Chain};
use crate::virtio::queues::{CONFIGURATION, SavedQueue, USED_BUFFER};
use crate::virtio::ram::RamSource;

/// A device whose state can be saved.
pub trait Save: Backend {
    /// What a guest can change of it, and how far it is with what it does.
    type State: Serialize + DeserializeOwned;

    /// A copy of that.
    fn save(&self) -> Self::State;

    /// Goes on from such a copy, which may be any: the device is as reset leaves it, and knows what the driver has
    /// negotiated. `queues` are those that go with it.
    ///
    /// # Errors
    /// It cannot have been this device's. It is reset then.
    fn restore(&mut self, state: Self::State, queues: &[SavedQueue]) -> Result<(), Unfit>;
}

/// A device with its transport and queues, as plain data.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Saved<S> {
    registers: State,
    queues: Vec<SavedQueue>,
    interrupt: u8,
    broken: Option<Bad>,
    fallen: bool,
    backend: S,
}

impl<S> Saved<S> {
    /// Its queues.
    pub fn queues(&self) -> &[SavedQueue] {
        &self.queues
    }
}

/// Why something cannot be a device's state.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// A status that no driver can bring about.
    #[error("its status is {0:#x}, which cannot be")]
    Status(u8),
    /// Features that are not offered, or not together.
    #[error("its driver has features {0:#x}, which the device does not offer so")]
    Features(u64),
    /// It is another device's.
    #[error("it has {got} queues, and the device {wanted}")]
    Queues {
        /// How many it has.
        got: usize,
        /// How many the device has.
        wanted: usize,
    },
    /// A queue that is not where it was placed, or not as far as it can be.
    #[error("queue {0} cannot be as it says, or not where it says")]
    Queue(usize),
    /// A chain that cannot be that queue's.
    #[error("queue {0} has a chain in hand that cannot be its own")]
    Chain(usize),
    /// Queues in which there is something to do that is not the device's to do.
    #[error("there is work to do in queues {0:#x}, which the device does not do")]
    Work(u32),
    /// No such interrupt.
    #[error("its interrupt status is {0:#x}, which cannot be")]
    Interrupt(u8),
    /// What is the device's own.
    #[error("{0}")]
    Device(&'static str),
}

impl<B: Save, R: RamSource> Transport<B, R> {
    /// A copy of the state.
    pub fn save(&self) -> Saved<B::State> {
        Saved {
            registers: self.state.clone(),
            queues: (0..self.queues.count()).map(|index| self.queues.save(index)).collect(),
            interrupt: self.queues.interrupt(),
            broken: self.queues.broken(),
            fallen: self.fallen,
            backend: self.backend.save(),
        }
    }

    /// Goes on from such a copy, which may be any. The device is new, or reset.
    ///
    /// # Errors
    /// [`Unfit`]; the device is as reset leaves it.
    pub fn restore(&mut self, saved: Saved<B::State>) -> Result<(), Unfit> {
        self.queues.reset();
        let restored = self.check(&saved).and_then(|()| self.go_on_from(saved));
        if restored.is_err() {
            self.begin_again();
        }
        restored
    }

    /// All that can be said before it is this device's.
    fn check<S>(&self, saved: &Saved<S>) -> Result<(), Unfit> {
        let Saved { registers, queues, interrupt, .. } = saved;
        let (wanted, got) = (self.queues.count(), queues.len());
        if got != wanted || registers.places.len() != wanted {
            return Err(Unfit::Queues { got, wanted });
        }
        let has = |bits: u8| registers.status & bits != 0;
        let known = status::OF_DRIVER | status::DEVICE_NEEDS_RESET;
        if has(!known) || (has(status::DRIVER_OK) && !has(status::FEATURES_OK)) {
            return Err(Unfit::Status(registers.status));
        }
        if has(status::FEATURES_OK) && !self.agrees(registers.driver_features) {
            return Err(Unfit::Features(registers.driver_features));
        }
        if interrupt & !(USED_BUFFER | CONFIGURATION) != 0 {
            return Err(Unfit::Interrupt(*interrupt));
        }
        let sizes = self.backend.queues();
        for (index, (queue, place)) in queues.iter().zip(&registers.places).enumerate() {
            let Some(ring) = &queue.ring else {
                if queue.in_hand.is_some() {
                    return Err(Unfit::Chain(index));
                }
                continue;
            };
            let fits = sizes.get(index).is_some_and(|largest| place.size <= *largest);
            let negotiated = negotiated(registers.driver_features);
            let ram = self.queues.ram().ram();
            let sound = fits && ram.is_some_and(|ram| ring.is_sound(*place, negotiated, ram));
            if !sound || !has(status::FEATURES_OK) {
                return Err(Unfit::Queue(index));
            }
            let is_held = |chain| ring.held() > 0 && Chain::is_sound(chain, place.size);
            if !queue.in_hand.as_ref().is_none_or(is_held) {
                return Err(Unfit::Chain(index));
            }
        }
        Ok(())
    }

    fn go_on_from(&mut self, saved: Saved<B::State>) -> Result<(), Unfit> {
        let Saved { registers, queues, interrupt, broken, fallen, backend } = saved;
        self.state = registers;
        self.fallen = fallen;
        let features = self.state.driver_features;
        if self.has(status::DRIVER_OK) {
            self.backend.begin(features);
        }
        let works = self.has(status::DRIVER_OK) && !self.has(status::DEVICE_NEEDS_RESET);
        let is_its = |index: &usize| works && !self.backend.is_used_from_outside(*index);
        let its: u32 =
            (0..queues.len().min(MAX_QUEUES)).filter(is_its).map(|index| 1 << index).sum();
        let work = self.state.busy | self.state.waits;
        if work & !its != 0 {
            return Err(Unfit::Work(work));
        }
        self.backend.restore(backend, &queues)?;
        queues.into_iter().enumerate().for_each(|(index, queue)| self.queues.restore(index, queue));
        self.queues.raise(interrupt);
        if let Some(why) = broken {
            self.queues.set_broken(why);
        } else if works {
            self.queues.set_features(features);
        }
        self.look_outside();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
