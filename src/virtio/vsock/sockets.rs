//! Who has a socket device, and what is behind each.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::group::Membership;
use super::lines::Lines;
use super::{Connections, SharedConnections, connections, streams};
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
    /// The guests that it may be connected to.
    pub group: Option<Membership>,
}

impl Socket {
    /// What it takes of memory at most, in bytes.
    pub fn most_memory(&self) -> usize {
        let connections = if self.rights == Rights::None { 0 } else { connections::MOST_MEMORY };
        let streams = if self.group.is_some() { streams::MOST_MEMORY } else { 0 };
        connections + streams
    }

    /// As the device's reset leaves it: nobody is connected.
    pub fn reset(&self) {
        self.connections.lock().reset();
        if let Some(group) = &self.group {
            group.leave();
        }
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
        let configs: Vec<_> = vms.collect();
        let socket = |config: &VsockConfig| {
            let rights = config.monitor;
            let connections = Connections::new(config.cid.into(), rights != Rights::None);
            let connections = SharedConnections::new(connections.into());
            Socket { connections, rights, lines: lines.clone(), group: None }
        };
        let mut vms: Box<[_]> = configs.iter().map(|config| config.map(socket)).collect();
        let mut groups: BTreeMap<&str, Vec<(usize, u64)>> = BTreeMap::new();
        for (vm, config) in configs.iter().enumerate() {
            if let Some(VsockConfig { cid, group: Some(name), .. }) = config {
                groups.entry(name).or_default().push((vm, u64::from(*cid)));
            }
        }
        for guests in groups.values() {
            let cids: Vec<_> = guests.iter().map(|(_, cid)| *cid).collect();
            for ((vm, _), membership) in guests.iter().zip(Membership::all(&cids)) {
                if let Some(Some(socket)) = vms.get_mut(*vm) {
                    socket.group = Some(membership);
                }
            }
        }
        Self { vms, lines }
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
