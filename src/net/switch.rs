//! The switch: every network of the machine, its ports decided when it is made.
//!
//! Several CPUs forward frames at once, each with `&self`. What is looked up for a frame between two ports' own addresses
//! never changes, and needs no lock; what is learned is atomic words ([`Stations`](super::stations)); what is counted is
//! too. A port with a rate, and a frame for many, take the lock of that port's [`Meter`](super::meter), which is the last
//! that anybody takes.
//!
//! Networks have nothing in common, not even a table: a frame that comes in by a port of one is not looked at by another.

use alloc::boxed::Box;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::counters::{Counts, DropReason};
use super::frame::{Header, TagChange};
use super::mac::MacAddr;
use super::meter::Bucket;
use super::port::{PortConfig, PortError};
use super::segment::Segment;
use super::set::{MAX_PORTS, PortId, PortSet};
use super::stations::Station;
use crate::time::{Frequency, Ticks};

/// The most networks there can be.
pub const MAX_NETWORKS: usize = 16;

/// Why there cannot be such a switch.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// More networks than [`MAX_NETWORKS`].
    #[error("more than {MAX_NETWORKS} networks")]
    TooManyNetworks,
    /// A port of a network that was not added.
    #[error("there is no such network")]
    NoNetwork,
    /// More ports than [`MAX_PORTS`], the uplink among them.
    #[error("more than {MAX_PORTS} ports in one network")]
    TooManyPorts,
    /// Two ports of one network have the same address.
    #[error("two ports of one network have the address {mac}")]
    MacTwice {
        /// The address.
        mac: MacAddr,
    },
    /// A port that cannot be.
    #[error("{0}")]
    Port(#[from] PortError),
}

/// What a [`Switch`] is made from: networks, and the ports of each.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    networks: Vec<(bool, Vec<PortConfig>)>,
}

impl Plan {
    /// Adds a network: they are numbered from 0. With an uplink, a last port of it leads outside.
    ///
    /// # Errors
    /// [`PlanError::TooManyNetworks`].
    pub fn network(&mut self, uplink: bool) -> Result<(), PlanError> {
        if self.networks.len() >= MAX_NETWORKS {
            return Err(PlanError::TooManyNetworks);
        }
        self.networks.push((uplink, Vec::new()));
        Ok(())
    }

    /// Adds a port to a network.
    ///
    /// # Errors
    /// [`PlanError::NoNetwork`], [`PlanError::TooManyPorts`], [`PlanError::Port`].
    pub fn join(&mut self, network: usize, port: PortConfig) -> Result<PortId, PlanError> {
        port.check()?;
        let number = u8::try_from(network).map_err(|_| PlanError::NoNetwork)?;
        let (uplink, ports) = self.networks.get_mut(network).ok_or(PlanError::NoNetwork)?;
        if ports.len() + usize::from(*uplink) >= MAX_PORTS {
            return Err(PlanError::TooManyPorts);
        }
        let index = u8::try_from(ports.len()).map_err(|_| PlanError::TooManyPorts)?;
        ports.push(port);
        Ok(PortId { network: number, index })
    }

    /// The switch, on a machine with such a counter.
    ///
    /// # Errors
    /// [`PlanError::MacTwice`].
    pub fn build(&self, frequency: Frequency) -> Result<Switch, PlanError> {
        let networks = (0..=u8::MAX).zip(&self.networks);
        let segments = networks
            .map(|(number, (uplink, ports))| Segment::new(number, ports, *uplink, frequency))
            .collect::<Result<Vec<_>, _>>()?;
        let uplinks = self.networks.iter().map(|(uplink, _)| *uplink).collect();
        Ok(Switch { segments: segments.into_boxed_slice(), uplinks })
    }
}

/// Where a frame goes: an iterator of the ports, each with what becomes of the tag on the way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Copies {
    pub(super) network: u8,
    pub(super) to: PortSet,
    pub(super) untagged: PortSet,
    pub(super) with_tag: TagChange,
    pub(super) without_tag: TagChange,
}

/// The ports to which a frame is still to go, as plain data.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Left(PortSet);

impl Copies {
    /// To nobody.
    pub const NOWHERE: Self = Self {
        network: 0,
        to: PortSet::EMPTY,
        untagged: PortSet::EMPTY,
        with_tag: TagChange::Keep,
        without_tag: TagChange::Keep,
    };

    /// Where it is still to go.
    pub const fn left(&self) -> Left {
        Left(self.to)
    }
}

impl Left {
    /// This port alone.
    pub const fn one(port: PortId) -> Self {
        Self(PortSet::EMPTY.with(port.index))
    }
}

impl Iterator for Copies {
    type Item = (PortId, TagChange);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let index = self.to.next()?;
        let tag = if self.untagged.contains(index) { self.without_tag } else { self.with_tag };
        Some((PortId { network: self.network, index }, tag))
    }
}

/// What may come to be at one port: plain data, to be saved with the guest that is there.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct PortState {
    /// What went through.
    pub counts: Counts,
    /// What is left of its rate.
    pub rate: Bucket,
    /// What is left of its storm limit.
    pub storm: Bucket,
    /// The stations behind it.
    pub stations: Vec<Station>,
}

/// The networks of a machine.
#[derive(Debug)]
pub struct Switch {
    segments: Box<[Segment]>,
    uplinks: Box<[bool]>,
}

impl Switch {
    fn segment(&self, port: PortId) -> Option<&Segment> {
        self.segments.get(port.network())
    }

    /// A frame of `length` bytes comes in by `from` at `now`: where it goes. It is counted as come in; whoever delivers
    /// a copy says so by [`went_out`](Self::went_out) or [`lost`](Self::lost).
    ///
    /// # Errors
    /// Why it goes nowhere, which has been counted.
    pub fn forward(
        &self,
        from: PortId,
        header: &Header,
        length: usize,
        now: Ticks,
    ) -> Result<Copies, DropReason> {
        let segment = self.segment(from).ok_or(DropReason::Nobody)?;
        segment.forward(from.index, header, length, now)
    }

    /// Where a frame still goes that came in by `from` before, and of whose copies these are left. `None` where it cannot have been
    /// sent there. Nothing is counted, or asked of limits, a second time.
    pub fn go_on(&self, from: PortId, header: &Header, left: Left) -> Option<Copies> {
        self.segment(from)?.go_on(from.index, header, left.0)
    }

    /// From when on a frame of `length` bytes, come in by `from`, would be within the port's rate: `now`, or later. Who can
    /// wait until then loses none; the others are dropped.
    pub fn ready(&self, from: PortId, length: usize, now: Ticks) -> Ticks {
        self.segment(from).map_or(now, |segment| segment.ready(from.index, length, now))
    }

    /// What came in by `from` was no frame: [`Header::parse`] found no header in its `length` bytes.
    pub fn refused(&self, from: PortId, length: usize) {
        if let Some(segment) = self.segment(from) {
            segment.refused(from.index, length);
        }
    }

    /// A copy of `length` bytes has been delivered at `to`.
    pub fn went_out(&self, to: PortId, length: usize) {
        if let Some(segment) = self.segment(to) {
            segment.went_out(to.index, length);
        }
    }

    /// A copy could not be delivered at `to`: [`DropReason::NoRoom`].
    pub fn lost(&self, to: PortId) {
        if let Some(segment) = self.segment(to) {
            segment.lost(to.index);
        }
    }

    /// What went through a port.
    pub fn counts(&self, port: PortId) -> Counts {
        self.segment(port).map(|segment| segment.counts(port.index)).unwrap_or_default()
    }

    /// The stations that were learned behind a port, however long ago; its own address is not among them.
    pub fn stations(&self, port: PortId) -> Vec<Station> {
        self.segment(port).map(|segment| segment.learned(port.index)).unwrap_or_default()
    }

    /// A copy of what has come to be at a port.
    pub fn state(&self, port: PortId) -> PortState {
        self.segment(port).map(|segment| segment.state(port.index)).unwrap_or_default()
    }

    /// Puts such a copy in its place. It may be any: what could not be at that port is left out.
    pub fn set_state(&self, port: PortId, state: &PortState) {
        if let Some(segment) = self.segment(port) {
            segment.set_state(port.index, state);
        }
    }

    /// Every port, the uplinks among them.
    pub fn ports(&self) -> impl Iterator<Item = PortId> {
        self.segments.iter().flat_map(Segment::ports)
    }

    /// The port of a network that leads outside.
    pub fn uplink(&self, network: usize) -> Option<PortId> {
        self.uplinks.get(network).filter(|uplink| **uplink)?;
        self.segments.get(network)?.ports().last()
    }
}
