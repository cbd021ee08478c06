//! A VM that can be without some of its RAM: what it gives up, what it gets back, and when it waits for it.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::Vm;
use crate::addr::Ipa;
use crate::device::doorbell::Doorbell;
use crate::memory::elastic::{Filled, Means};
use crate::memory::{Elastic, SharedPool};
use crate::virtio::balloon::BalloonState;

/// What a VM with a balloon has for it.
pub(super) struct VmBalloon {
    /// How much the VM keeps, in bytes.
    pub keep: u64,
    /// The balloon's bell.
    pub bell: Doorbell,
    pub pool: Arc<SharedPool>,
    pub state: Arc<BalloonState>,
}

/// How much of its RAM a VM is without.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BalloonReport {
    /// How much it keeps whatever happens, in bytes.
    pub keep: u64,
    /// How much it is to have, in bytes.
    pub target: u64,
    /// How much it has by what it says of its balloon, in bytes.
    pub actual: u64,
    /// How much of it is back in the pool, in bytes.
    pub given_back: u64,
    /// How much it has reported as free and was taken, in all, in bytes.
    pub reported: u64,
    /// It needs memory that others have.
    pub waits: bool,
    /// How much is free there, as the guest says.
    pub guest_free: Option<u64>,
    /// How much it could use without swapping, as it says.
    pub guest_available: Option<u64>,
}

/// "Memory Statistics Tags".
const FREE: usize = 4;
const AVAILABLE: usize = 6;

impl Vm {
    /// What its RAM has to be able to do, if it has a balloon.
    pub(super) fn means(&self) -> Option<Means> {
        let balloon = self.balloon.as_ref()?;
        let bell = balloon.bell.clone();
        Some(Means {
            stage2: self.stage2.clone(),
            pool: balloon.pool.clone(),
            keep: balloon.keep,
            ring: Box::new(move || bell.ring()),
        })
    }

    /// Its RAM, if it can be without some.
    pub(super) fn elastic(&self) -> Option<&Elastic> {
        self.memory.get()?.elastic()
    }

    /// A vCPU needs what should be at `ipa`. `None` when that is not RAM that was given up.
    pub(super) fn fill(&self, ipa: Ipa) -> Option<Filled> {
        let elastic = self.elastic()?;
        let filled = elastic.fill_step(elastic.unit_of(ipa)?);
        if filled == Filled::NoFrames {
            self.tell_that_it_waits(elastic);
        }
        Some(filled)
    }

    #[cold]
    fn tell_that_it_waits(&self, elastic: &Elastic) {
        if elastic.begins_to_wait() {
            log::warn!("{}: it needs memory that others have, and waits for it", self.name);
        }
    }

    /// Let the VM have `size` bytes; its guest does what it can. The balloon's bell is rung.
    ///
    /// # Errors
    /// It has no balloon, or cannot have so much, or so little.
    pub fn set_balloon(&self, size: u64) -> Result<(), BalloonError> {
        let balloon = self.balloon.as_ref().ok_or(BalloonError::None)?;
        let most = self.memory_size();
        if !(balloon.keep..=most).contains(&size) {
            return Err(BalloonError::Size { least: balloon.keep >> 20, most: most >> 20 });
        }
        balloon.state.set_target(most - size);
        balloon.bell.ring();
        Ok(())
    }

    /// How much of its RAM is back in the pool, in bytes.
    pub fn given_back(&self) -> u64 {
        self.elastic().map_or(0, Elastic::given_back)
    }

    /// How much of its RAM it is without. What the guest says is asked for anew, for the next time.
    pub fn balloon(&self) -> Option<BalloonReport> {
        let balloon = self.balloon.as_ref()?;
        let (state, elastic, all) = (&balloon.state, self.elastic(), self.memory_size());
        state.ask();
        balloon.bell.ring();
        Some(BalloonReport {
            keep: balloon.keep,
            target: all.saturating_sub(state.target()),
            actual: all.saturating_sub(state.actual()),
            given_back: elastic.map_or(0, Elastic::given_back),
            reported: state.reported(),
            waits: elastic.is_some_and(Elastic::is_starved),
            guest_free: state.statistic(FREE),
            guest_available: state.statistic(AVAILABLE),
        })
    }
}

/// Why a VM cannot have so much memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BalloonError {
    /// It has no balloon.
    #[error("it has no balloon; its manifest gives it one: balloon = {{ min = SIZE }}")]
    None,
    /// Not as much.
    #[error("it can have {least}M to {most}M")]
    Size {
        /// How many MiB it keeps.
        least: u64,
        /// How many it has at most.
        most: u64,
    },
}
