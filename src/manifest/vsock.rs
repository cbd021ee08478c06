//! A VM's socket device: what a manifest says of it, and what must hold.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use super::config::VmConfig;
use super::error::Place;
use super::network::is_name;

/// The first CID that a guest can have: those below are the standard's ("Socket Device: Device configuration layout").
pub const FIRST_CID: u32 = 3;
/// The last: the one above means any.
pub const LAST_CID: u32 = u32::MAX - 1;

/// What a guest may ask the monitor for by a socket.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Rights {
    /// Nothing: the monitor does not listen.
    #[default]
    None,
    /// What the hypervisor knows of itself and of how guests run.
    Read,
    /// Everything.
    Control,
}

impl Rights {
    /// What each is called in a manifest.
    pub const NAMED: [(&str, Self); 3] =
        [("none", Self::None), ("read", Self::Read), ("control", Self::Control)];

    /// What it is called in a manifest.
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, rights)| *rights == self).map_or("none", |(name, _)| name)
    }
}

/// A socket device. `T` as in [`VmConfig`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct VsockConfig<T = String> {
    /// The guest's CID, [`FIRST_CID`] to [`LAST_CID`], unique in the manifest.
    pub cid: u32,
    /// What it may ask the monitor for.
    pub monitor: Rights,
    /// With whom it may be connected: guests that say the same. A name as networks have it.
    pub group: Option<T>,
}

impl<T> VsockConfig<T> {
    /// With this CID, and nobody to talk to.
    pub const fn new(cid: u32) -> Self {
        Self { cid, monitor: Rights::None, group: None }
    }

    pub(super) fn map<'a, U>(&'a self, text: &mut impl FnMut(&'a T) -> U) -> VsockConfig<U> {
        VsockConfig { cid: self.cid, monitor: self.monitor, group: self.group.as_ref().map(text) }
    }
}

/// What is wrong with socket devices. Messages count from 1.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VsockError {
    /// A CID that no guest can have.
    #[error("{place}: no guest can have the CID {cid}; {FIRST_CID} to {LAST_CID} are possible")]
    Cid {
        /// Which VM.
        place: Place,
        /// What it wants.
        cid: u32,
    },
    /// Two VMs have one CID.
    #[error("{place}: the CID {cid} is that of VM {}; give it another", first + 1)]
    Duplicate {
        /// Which VM.
        place: Place,
        /// The CID.
        cid: u32,
        /// The VM that had it first, counted from 0.
        first: usize,
    },
    /// A group cannot be called so.
    #[error("{place}: its group's name will not do; it has to be one that a network could have")]
    Group {
        /// Which VM.
        place: Place,
    },
}

/// What must hold of the socket devices of all VMs.
pub(super) fn check(vms: &[VmConfig]) -> Result<(), VsockError> {
    for (index, vm) in vms.iter().enumerate() {
        let Some(VsockConfig { cid, group, .. }) = &vm.vsock else { continue };
        let (cid, place) = (*cid, || Place::new(index, vm));
        if !(FIRST_CID..=LAST_CID).contains(&cid) {
            return Err(VsockError::Cid { place: place(), cid });
        }
        let mut earlier = vms.iter().take(index);
        let has_it = |other: &VmConfig| other.vsock.as_ref().is_some_and(|it| it.cid == cid);
        if let Some(first) = earlier.position(has_it) {
            return Err(VsockError::Duplicate { place: place(), cid, first });
        }
        if group.as_ref().is_some_and(|name| !is_name(name)) {
            return Err(VsockError::Group { place: place() });
        }
    }
    Ok(())
}
