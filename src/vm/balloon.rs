//! A VM that can be without some of its RAM: what it gives up, what it gets back, and when it waits for it.

use alloc::boxed::Box;
use alloc::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Vm;
use crate::addr::Ipa;
use crate::device::doorbell::Doorbell;
use crate::memory::elastic::{Filled, Means};
use crate::memory::{Elastic, SharedPool};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::time::{Frequency, Ticks};
use crate::virtio::balloon::BalloonState;

/// How long who waits for memory sleeps: a few times a slice, for nobody tells it that there is some.
const PATIENCE_MICROS: u64 = 5_000;

/// The same in ticks.
pub(super) fn patience(frequency: Frequency) -> Ticks {
    frequency.micros(PATIENCE_MICROS)
}

/// What a VM with a balloon has for it.
pub(super) struct VmBalloon {
    /// How much the VM keeps, in bytes.
    pub keep: u64,
    /// How long a vCPU or a device of it sleeps before it looks again whether there is memory.
    pub patience: Ticks,
    /// That a vCPU waits is not told before this moment.
    pub silent_until: AtomicU64,
    /// The balloon's bell.
    pub bell: Doorbell,
    pub pool: Arc<SharedPool>,
    pub state: Arc<BalloonState>,
}

/// How much of its RAM a VM is without, as `vm info` has it, too.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct BalloonReport {
    /// How much it keeps whatever happens, in bytes.
    pub min: u64,
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
    /// How much is free there, as the guest says, in bytes.
    pub guest_free: Option<u64>,
    /// How much it could use without swapping, as it says, in bytes.
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
            patience: balloon.patience,
            ring: Box::new(move || bell.ring()),
        })
    }

    /// Its RAM, if it can be without some.
    pub fn elastic(&self) -> Option<&Elastic> {
        self.memory.get()?.elastic()
    }

    /// A vCPU needs what should be at `ipa`. `None` when that is not RAM that was given up.
    pub(super) fn fill(&self, ipa: Ipa) -> Option<Filled> {
        let elastic = self.elastic()?;
        Some(elastic.fill_step(elastic.unit_of(ipa)?))
    }

    /// One of its vCPUs begins, or goes on, to wait for memory. That it begins is told, but for one second only once. Returns
    /// when the vCPU looks again.
    pub(crate) fn wait_for_memory(&self, now: Ticks) -> Ticks {
        let Some((balloon, elastic)) = self.balloon.as_ref().zip(self.elastic()) else {
            return now;
        };
        if elastic.begins_to_wait() && balloon.silent_until.load(Ordering::Relaxed) <= now.0 {
            let second = balloon.patience.0.saturating_mul(1_000_000 / PATIENCE_MICROS);
            balloon.silent_until.store(now.saturating_add(Ticks(second)).0, Ordering::Relaxed);
            log::warn!("{}: it needs memory that others have, and waits for it", self.name);
        }
        now.saturating_add(balloon.patience)
    }

    /// Let the VM have `size` bytes; its guest does what it can. The balloon's bell is rung.
    ///
    /// # Errors
    /// It has no balloon, or cannot have so much, or so little.
    pub fn set_balloon(&self, size: u64) -> Result<(), BalloonError> {
        let balloon = self.can_have(size)?;
        balloon.state.set_target(self.memory_size() - size);
        balloon.bell.ring();
        Ok(())
    }

    /// Its balloon, if it has one and can have `size` bytes.
    fn can_have(&self, size: u64) -> Result<&VmBalloon, BalloonError> {
        let balloon = self.balloon.as_ref().ok_or(BalloonError::None)?;
        let (least, most) = (balloon.keep, self.memory_size());
        if !(least..=most).contains(&size) {
            return Err(BalloonError::Size { least: least >> 20, most: most >> 20 });
        }
        Ok(balloon)
    }

    /// How many bytes have to be free for the VM to get `size` bytes, if it is to have more than it was to have before.
    ///
    /// # Errors
    /// As for [`Self::set_balloon`].
    pub fn wanted_for(&self, size: u64) -> Result<u64, BalloonError> {
        let balloon = self.can_have(size)?;
        let all = self.memory_size();
        let grows = size > all.saturating_sub(balloon.state.target());
        Ok(if grows { size.saturating_sub(all.saturating_sub(self.given_back())) } else { 0 })
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
            min: balloon.keep,
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
