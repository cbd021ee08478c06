//! The balloon as plain data: which pages are in it, what its driver was told and has told, and how far the chains in hand are.
//!
//! What it is to have, and what the guest has told of its memory, is the monitor's. Which memory is there goes with the
//! guest's RAM: a unit that is all in the balloon and is there is not taken by itself.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Balloon, Ordering, Progress, QUEUES, STATISTICS, State, WORDS, feature};
use crate::virtio::queue::Head;
use crate::virtio::queues::SavedQueue;
use crate::virtio::transport::saved::{Save, Unfit};

/// What a guest can change of a balloon, beside the queues.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedBalloon {
    pub(super) pages: Vec<[u64; WORDS]>,
    pub(super) told: u32,
    pub(super) actual: u32,
    pub(super) poison: u32,
    pub(super) progress: [Progress; QUEUES.len()],
    pub(super) statistics: Option<Head>,
}

impl SavedBalloon {
    /// Whether each chain that is looked at, or kept, is there.
    fn fits(&self, features: u64, queues: &[SavedQueue]) -> Result<(), Unfit> {
        for (index, progress) in self.progress.iter().enumerate() {
            let in_hand = queues.get(index).and_then(SavedQueue::in_hand);
            if *progress != Progress::default() && in_hand.is_none() {
                return Err(Unfit::Chain(index));
            }
        }
        if let Some(kept) = self.statistics {
            let queue = queues.get(STATISTICS);
            let in_hand = queue.and_then(SavedQueue::in_hand);
            let taken = in_hand.map_or(0, |chain| chain.head.descriptors());
            let all = queue.map_or(0, SavedQueue::held);
            let has = kept.descriptors() > 0 && all.checked_sub(taken) >= Some(kept.descriptors());
            if !has || features & feature::STATS_VQ == 0 {
                return Err(Unfit::Device("it keeps statistics that nobody has given it"));
            }
        }
        Ok(())
    }
}

impl Save for Balloon {
    type State = SavedBalloon;

    fn save(&self) -> SavedBalloon {
        let State { pages, told, actual, poison, progress, statistics, .. } = self.state.clone();
        SavedBalloon { pages, told, actual, poison, progress, statistics }
    }

    fn restore(&mut self, saved: SavedBalloon, queues: &[SavedQueue]) -> Result<(), Unfit> {
        if saved.pages.len() != self.state.pages.len() {
            return Err(Unfit::Device("it is the balloon of a guest with other RAM"));
        }
        let features = self.state.features;
        saved.fits(features, queues)?;
        let SavedBalloon { pages, told, actual, poison, progress, statistics } = saved;
        self.state = State { pages, told, actual, poison, features, progress, statistics };
        self.shared.actual.store(actual, Ordering::Release);
        Ok(())
    }
}
