//! A VM's socket device, for who answers what the guest asks by it.

use alloc::vec::Vec;

use super::Vm;
use crate::manifest::Rights;
use crate::virtio::vsock::connections::ConnectionId;

impl Vm {
    /// The next line that the guest wants answered: of which connection, and what the guest may ask.
    pub fn take_line(&self) -> Option<(ConnectionId, Rights, Vec<u8>)> {
        let socket = &self.sockets.as_ref()?.socket;
        if self.has_stopped() {
            return None;
        }
        let (id, line) = socket.connections.lock().take_line()?;
        Some((id, socket.rights, line))
    }

    /// Answers a line that was taken.
    pub fn answer_line(&self, id: ConnectionId, answer: Vec<u8>) {
        if let Some(sockets) = &self.sockets {
            sockets.socket.connections.lock().answer(id, answer);
            sockets.bell.ring();
        }
    }

    /// Whoever is connected to the guest is told that it is not there any more.
    pub(super) fn close_sockets(&self) {
        if let Some(sockets) = &self.sockets {
            sockets.socket.reset();
        }
    }
}
