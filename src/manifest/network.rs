//! Networks, and the cards that VMs have on them: what a manifest says of them, and what must hold.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::config::VmConfig;
use super::error::{ManifestError, Place};
use super::{MAX_CARDS, MAX_NAME};
use crate::monitor::command::{NAME_RULE, can_be_meant};
use crate::net::{MAX_NETWORKS, MAX_PORTS, MacAddr, PortConfig, PortError};

/// A network: what is on it reaches each other. `T` as in [`VmConfig`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig<T = String> {
    /// Its name: as a VM's, unique among networks.
    pub name: T,
    /// Whether it goes on outside, by the machine's network card. One network does at most.
    pub uplink: bool,
}

impl NetworkConfig {
    /// The same by reference.
    pub fn source(&self) -> NetworkSource<'_> {
        NetworkConfig { name: &self.name, uplink: self.uplink }
    }
}

/// What [`super::write()`] makes a [`NetworkConfig`] from.
pub type NetworkSource<'a> = NetworkConfig<&'a str>;

/// A network card of a VM.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CardConfig {
    /// The network it is on, by its place in the manifest, counted from 0.
    pub network: u8,
    /// Its port there. Its address is unique in the manifest.
    pub port: PortConfig,
}

/// What is wrong with networks and cards. Messages count from 1.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// More than [`MAX_NETWORKS`].
    #[error(
        "the manifest names {count} networks, at most {MAX_NETWORKS} are possible; remove some"
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A name that a VM could not have either.
    #[error(
        "network {}: its name has to have 1 to {MAX_NAME} printable ASCII characters and no space, \
         and {NAME_RULE}; rename it",
        index + 1
    )]
    Name {
        /// The network's place in the manifest, counted from 0.
        index: usize,
    },
    /// Two networks have one name.
    #[error("network {}: network {} has the same name already; rename one", index + 1, first + 1)]
    NameDuplicate {
        /// The network's place in the manifest, counted from 0.
        index: usize,
        /// The place of the one that had the name first.
        first: usize,
    },
    /// A second network with an uplink.
    #[error("network {}: network {} has the uplink already; one can", index + 1, first + 1)]
    UplinkDuplicate {
        /// The network's place in the manifest, counted from 0.
        index: usize,
        /// The place of the one that has it.
        first: usize,
    },
    /// More ports than [`MAX_PORTS`], the uplink among them.
    #[error("network {}: it has {count} ports, at most {MAX_PORTS} are possible", index + 1)]
    TooManyPorts {
        /// The network's place in the manifest, counted from 0.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// More cards than [`MAX_CARDS`].
    #[error("{place}: it has {count} network cards, at most {MAX_CARDS} are possible")]
    TooManyCards {
        /// Which VM.
        place: Place,
        /// How many there are.
        count: usize,
    },
    /// A card is on a network that the manifest does not have.
    #[error("{place}: card {} is on network {}, which there is not", card + 1, network + 1)]
    Unknown {
        /// Which VM.
        place: Place,
        /// Which of its cards, counted from 0.
        card: usize,
        /// The network's place.
        network: usize,
    },
    /// A card's port cannot be.
    #[error("{place}: card {}: {why}", card + 1)]
    Port {
        /// Which VM.
        place: Place,
        /// Which of its cards, counted from 0.
        card: usize,
        /// What is wrong with it.
        why: PortError,
    },
    /// Two cards have one address.
    #[error(
        "{place}: card {} has the address {mac}, as card {} of {other}; give one another",
        card + 1, other_card + 1
    )]
    MacDuplicate {
        /// Which VM.
        place: Place,
        /// Which of its cards, counted from 0.
        card: usize,
        /// The address.
        mac: MacAddr,
        /// The VM that has it already; it may be the same one.
        other: Place,
        /// Which of that VM's cards.
        other_card: usize,
    },
}

/// All that must hold of networks and cards.
pub(super) fn check(networks: &[NetworkConfig], vms: &[VmConfig]) -> Result<(), ManifestError> {
    if networks.len() > MAX_NETWORKS {
        return Err(NetworkError::TooMany { count: networks.len() }.into());
    }
    for (index, network) in networks.iter().enumerate() {
        if !is_name(&network.name) {
            return Err(NetworkError::Name { index }.into());
        }
        let mut earlier = networks.iter().take(index);
        if let Some(first) = earlier.position(|other| other.name == network.name) {
            return Err(NetworkError::NameDuplicate { index, first }.into());
        }
        let mut earlier = networks.iter().take(index);
        if let Some(first) = earlier.position(|other| other.uplink && network.uplink) {
            return Err(NetworkError::UplinkDuplicate { index, first }.into());
        }
    }
    let mut ports: Vec<usize> = networks.iter().map(|one| usize::from(one.uplink)).collect();
    let mut addresses = vec![];
    for (index, vm) in vms.iter().enumerate() {
        cards(index, vm, &mut ports)?;
        addresses.extend(vm.nets.iter().enumerate().map(|(card, at)| (at.port.mac, index, card)));
    }
    if let Some((index, count)) =
        ports.into_iter().enumerate().find(|(_, count)| *count > MAX_PORTS)
    {
        return Err(NetworkError::TooManyPorts { index, count }.into());
    }
    apart(vms, addresses)
}

/// Whether a network can have this name.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic())
        && can_be_meant(name)
}

/// The cards of a VM; `ports` are counted, by network.
fn cards(index: usize, vm: &VmConfig, ports: &mut [usize]) -> Result<(), NetworkError> {
    let place = || Place::new(index, vm);
    if vm.nets.len() > MAX_CARDS {
        return Err(NetworkError::TooManyCards { place: place(), count: vm.nets.len() });
    }
    for (card, config) in vm.nets.iter().enumerate() {
        let network = usize::from(config.network);
        match ports.get_mut(network) {
            Some(count) => *count += 1,
            None => return Err(NetworkError::Unknown { place: place(), card, network }),
        }
        let wrong = |why| NetworkError::Port { place: place(), card, why };
        config.port.check().map_err(wrong)?;
    }
    Ok(())
}

/// No two cards have one address. Each comes with its VM's place and its own.
fn apart(
    vms: &[VmConfig],
    mut addresses: Vec<(MacAddr, usize, usize)>,
) -> Result<(), ManifestError> {
    addresses.sort_unstable();
    for pair in addresses.windows(2) {
        let &[(mac, other, other_card), (another, index, card)] = pair else { continue };
        if let (true, Some(vm), Some(with)) = (mac == another, vms.get(index), vms.get(other)) {
            let (place, other) = (Place::new(index, vm), Place::new(other, with));
            return Err(NetworkError::MacDuplicate { place, card, mac, other, other_card }.into());
        }
    }
    Ok(())
}
