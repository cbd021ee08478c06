//! The socket device as plain data: there is none. Whom a guest is connected to goes on without it, so what was saved of a
//! stream would be one side's word. A guest that is restored has no connections, and its driver is told so by an event
//! ("Socket Device: Device Events"), as if it had moved.

use serde::{Deserialize, Serialize};

use super::VsockDevice;
use crate::virtio::queues::SavedQueue;
use crate::virtio::transport::saved::{Save, Unfit};

/// Nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedVsock;

impl Save for VsockDevice {
    type State = SavedVsock;

    fn save(&self) -> SavedVsock {
        SavedVsock
    }

    fn restore(&mut self, SavedVsock: SavedVsock, _queues: &[SavedQueue]) -> Result<(), Unfit> {
        self.is_torn = true;
        Ok(())
    }
}
