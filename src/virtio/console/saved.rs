//! The console device as plain data: what driver and device know of each other's ports, and what waits for the guest in channels.
//! What waits for others there is theirs, and what was typed and not taken is the line's.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::channel::SavedEnd;
use super::{BUDGET, ConsoleDevice, State};
use crate::device::serial::SerialLine;
use crate::virtio::queues::SavedQueue;
use crate::virtio::transport::saved::{Save, Unfit};

/// What is known of ports, what waits for the named ones, and what is left of what is done at one go.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedConsole {
    state: State,
    ends: Vec<SavedEnd>,
    budget: usize,
}

impl<L: SerialLine> Save for ConsoleDevice<L> {
    type State = SavedConsole;

    fn save(&self) -> SavedConsole {
        let ends = self.named.iter().map(|port| port.end.save()).collect();
        SavedConsole { state: self.state.clone(), ends, budget: self.budget }
    }

    fn restore(&mut self, saved: SavedConsole, _queues: &[SavedQueue]) -> Result<(), Unfit> {
        let SavedConsole { state, ends, budget } = saved;
        if state.ports.len() != self.state.ports.len() || ends.len() != self.named.len() {
            return Err(Unfit::Device("it has another number of ports than the device"));
        }
        if state.multiport != self.state.multiport {
            return Err(Unfit::Device("its driver has not asked for ports, or for none"));
        }
        if budget > BUDGET {
            return Err(Unfit::Device("more is to be done at one go than a console ever does"));
        }
        let open = state.ports.iter().skip(1).map(|port| port.open);
        for ((port, saved), open) in self.named.iter().zip(&ends).zip(open) {
            if !port.end.restore(open, saved) {
                return Err(Unfit::Device("more waits for a port than there can"));
            }
        }
        (self.state, self.budget) = (state, budget);
        Ok(())
    }
}
