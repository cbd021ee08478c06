//! Who has a socket device, and what is behind each.

use alloc::boxed::Box;

use super::lines::Lines;
use super::{Connections, SharedConnections};
use crate::device::doorbell::Doorbell;
use crate::manifest::{Rights, VsockConfig};
use crate::sched::VmId;

/// What is behind a guest's socket device.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Its connections to the monitor.
    pub connections: SharedConnections,
    /// What it may ask there.
    pub rights: Rights,
    /// Whom it tells of lines.
    pub lines: Lines,
}

impl Socket {
    /// As the device's reset leaves it: nobody is connected.
    pub fn reset(&self) {
        self.connections.lock().reset();
    }
}

/// A guest's socket device, seen from outside the guest.
#[derive(Clone, Debug)]
pub struct Plugged {
    /// What is behind it.
    pub socket: Socket,
    /// Makes it look whether something is to be received.
    pub bell: Doorbell,
}

/// The sockets of all VMs.
#[derive(Debug)]
pub struct Sockets {
    vms: Box<[Option<Socket>]>,
    lines: Lines,
}

impl Sockets {
    /// What a checked manifest says of each VM.
    pub fn new<'a>(vms: impl Iterator<Item = Option<&'a VsockConfig>>) -> Self {
        let lines = Lines::default();
        let socket = |config: Option<&VsockConfig>| {
            let config = config?;
            let rights = config.monitor;
            let connections = Connections::new(config.cid.into(), rights != Rights::None);
            let connections = SharedConnections::new(connections.into());
            Some(Socket { connections, rights, lines: lines.clone() })
        };
        Self { vms: vms.map(socket).collect(), lines }
    }

    /// What is behind the device of a VM that has one.
    pub fn of(&self, vm: VmId) -> Option<&Socket> {
        self.vms.get(vm.index())?.as_ref()
    }

    /// Whether lines wait.
    pub const fn lines(&self) -> &Lines {
        &self.lines
    }
}
