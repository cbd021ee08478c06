//! A VM's named console ports: what a manifest says of them, and what must hold.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::config::{Shutdown, VmConfig};
use super::error::Place;
use crate::monitor::agent::PORT;
use crate::virtio::console::MAX_PORTS;

/// The longest name of a port, in bytes.
pub const MAX_PORT_NAME: usize = 64;

/// A port of the virtio console, joined to one of the same name of another VM. `T` as in [`VmConfig`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ConsolePort<T = String> {
    /// Its name: 1 to [`MAX_PORT_NAME`] printable ASCII characters but `/`, unique in the VM.
    pub name: T,
    /// The VM whose port it is joined to, which says the same of this one.
    pub to: T,
}

impl<T> ConsolePort<T> {
    pub(super) fn map<'a, U>(&'a self, text: &mut impl FnMut(&'a T) -> U) -> ConsolePort<U> {
        ConsolePort { name: text(&self.name), to: text(&self.to) }
    }
}

/// Where a guest gets what is typed to it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Keys {
    /// By its UART.
    #[default]
    Uart,
    /// By the first port of its virtio console, which it has then.
    Virtio,
}

/// What is wrong with ports. Messages count from 1.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PortsError {
    /// More than [`MAX_PORTS`].
    #[error("{place}: it has {count} ports, at most {MAX_PORTS} are possible")]
    TooMany {
        /// Which VM.
        place: Place,
        /// How many there are.
        count: usize,
    },
    /// A name that a port cannot have.
    #[error(
        "{place}: port {}: its name has to have 1 to {MAX_PORT_NAME} printable ASCII characters, no \
         space and no `/`",
        port + 1
    )]
    Name {
        /// Which VM.
        place: Place,
        /// Which of its ports, counted from 0.
        port: usize,
    },
    /// A name that only the port to the monitor has.
    #[error("{place}: port {}: `{PORT}` is the port of its agent; say `agent = true` for it", port + 1)]
    Agents {
        /// Which VM.
        place: Place,
        /// Which of its ports, counted from 0.
        port: usize,
    },
    /// It is to be asked by an agent to power off, and has no port for one.
    #[error("{place}: its shutdown is by its agent, and it has none; say `agent = true`")]
    NoAgent {
        /// Which VM.
        place: Place,
    },
    /// Two ports of a VM have one name.
    #[error("{place}: port {} has the name of port {}; rename one", port + 1, first + 1)]
    Duplicate {
        /// Which VM.
        place: Place,
        /// Which of its ports, counted from 0.
        port: usize,
        /// The one that had the name first.
        first: usize,
    },
    /// There is no other VM of that name with a port of this name that leads back.
    #[error(
        "{place}: port {}: it leads to {to:?}, which has no port of this name that leads back",
        port + 1
    )]
    Loose {
        /// Which VM.
        place: Place,
        /// Which of its ports, counted from 0.
        port: usize,
        /// Where it leads.
        to: String,
    },
}

/// Whether a port can be called so.
pub fn is_port(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    (1..=MAX_PORT_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

/// Whether port `port` of VM `vm` has another end.
pub fn is_joined<P, T: PartialEq>(
    vms: &[&VmConfig<P, T>],
    vm: usize,
    port: &ConsolePort<T>,
) -> bool {
    let Some(own) = vms.get(vm) else { return false };
    let mut others = vms.iter().enumerate().filter(|(at, _)| *at != vm).map(|(_, other)| other);
    let other = others.find(|other| other.name == port.to);
    other.is_some_and(|other| {
        other.ports.iter().any(|end| end.name == port.name && end.to == own.name)
    })
}

/// What must hold of the ports of all VMs.
pub(super) fn check(vms: &[VmConfig]) -> Result<(), PortsError> {
    let all: Vec<&VmConfig> = vms.iter().collect();
    for (index, vm) in vms.iter().enumerate() {
        let place = || Place::new(index, vm);
        if vm.ports.len() > MAX_PORTS {
            return Err(PortsError::TooMany { place: place(), count: vm.ports.len() });
        }
        if vm.shutdown == Shutdown::Agent && !vm.agent {
            return Err(PortsError::NoAgent { place: place() });
        }
        for (number, port) in vm.ports.iter().enumerate() {
            if !is_port(&port.name) {
                return Err(PortsError::Name { place: place(), port: number });
            }
            if port.name == PORT {
                return Err(PortsError::Agents { place: place(), port: number });
            }
            let mut earlier = vm.ports.iter().take(number);
            if let Some(first) = earlier.position(|other| other.name == port.name) {
                return Err(PortsError::Duplicate { place: place(), port: number, first });
            }
            if !is_joined(&all, index, port) {
                let to = port.to.clone();
                return Err(PortsError::Loose { place: place(), port: number, to });
            }
        }
    }
    Ok(())
}
