//! The block device as plain data. What is on the disk is not among it: that is the VM's.

use serde::{Deserialize, Serialize};

use super::request::Budget;
use super::{BlockDevice, State};
use crate::virtio::queues::SavedQueue;
use crate::virtio::transport::saved::{Save, Unfit};

/// The requests that have been begun, and what is left of what may be done at one go.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedBlock {
    state: State,
    budget: Budget,
}

impl Save for BlockDevice {
    type State = SavedBlock;

    fn save(&self) -> SavedBlock {
        SavedBlock { state: self.state.clone(), budget: self.budget }
    }

    fn restore(&mut self, saved: SavedBlock, queues: &[SavedQueue]) -> Result<(), Unfit> {
        if !saved.budget.is_sound() {
            return Err(Unfit::Device("more is to be done at one go than the disk ever does"));
        }
        let disk = self.disk.lock();
        for (index, request) in saved.state.requests.iter().enumerate() {
            let Some(request) = request else { continue };
            let Some(chain) = queues.get(index).and_then(SavedQueue::in_hand) else {
                return Err(Unfit::Device("a request has been begun that its queue does not have"));
            };
            if !request.is_sound(&disk, chain) {
                return Err(Unfit::Device("a request is for what the disk does not have"));
            }
        }
        drop(disk);
        (self.state, self.budget) = (saved.state, saved.budget);
        Ok(())
    }
}
