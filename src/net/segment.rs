//! One network: its ports, its VLANs, and what it does with a frame.
//!
//! A bridge of IEEE 802.1Q, with independent learning in each VLAN: "Frame reception" (ingress), "The Forwarding
//! Process", "Frame transmission" (egress).

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::counters::{Counters, Counts, DropReason};
use super::fixed::Fixed;
use super::frame::{Header, Tag, TagChange};
use super::mac::MacAddr;
use super::meter::{Bucket, Meter};
use super::port::{DEFAULT_STORM, DEFAULT_VID, PortConfig, Vlans};
use super::set::{PortId, PortSet};
use super::stations::{Key, Station, Stations};
use super::switch::{Copies, PlanError, PortState};
use crate::time::{Frequency, Ticks};

/// How many stations are remembered behind a guest's port, and behind the uplink: so many groups of four, as a power
/// of two.
const GUEST_ORDER: u32 = 6;
const UPLINK_ORDER: u32 = 9;

/// A VLAN's ports ("Member set", "Untagged set").
#[derive(Debug)]
struct Vlan {
    vid: u16,
    members: PortSet,
    untagged: PortSet,
}

#[derive(Debug)]
struct Port {
    /// Its own address; the uplink has none.
    mac: Option<MacAddr>,
    /// The VLAN of frames without a tag: its place among the network's.
    native: Option<u16>,
    /// Those that have one, by their numbers: the places of each, in the order of the numbers.
    tagged: Box<[(u16, u16)]>,
    /// The stations behind it; `None`: its own alone.
    stations: Option<Stations>,
    rate: Option<Meter>,
    storm: Meter,
    counters: Counters,
}

impl Port {
    /// Where the VLAN of a frame with this tag is among the network's.
    #[inline]
    fn vlan_of(&self, tag: Option<Tag>) -> Option<u16> {
        match tag {
            Some(tag) if tag.vid() != 0 => {
                let at = self.tagged.binary_search_by_key(&tag.vid(), |(vid, _)| *vid).ok()?;
                self.tagged.get(at).map(|(_, place)| *place)
            }
            _ => self.native,
        }
    }
}

/// One network.
#[derive(Debug)]
pub(super) struct Segment {
    number: u8,
    ports: Box<[Port]>,
    vlans: Box<[Vlan]>,
    fixed: Fixed,
    /// The ports that learn.
    learning: Box<[u8]>,
    frequency: Frequency,
}

impl Segment {
    /// The network `number` of these ports, with an uplink behind them where there is one.
    pub(super) fn new(
        number: u8,
        configs: &[PortConfig],
        uplink: bool,
        frequency: Frequency,
    ) -> Result<Self, PlanError> {
        let vlans = vlans(configs, uplink);
        let mut fixed = Fixed::new(configs.len());
        let mut ports = Vec::with_capacity(configs.len() + usize::from(uplink));
        for (index, config) in (0..=u8::MAX).zip(configs) {
            config.check()?;
            let twice = |_| PlanError::MacTwice { mac: config.mac };
            fixed.add(config.mac, index).map_err(twice)?;
            ports.push(port(config, &vlans, frequency));
        }
        if uplink {
            ports.push(uplink_port(&vlans, frequency));
        }
        let learns = |(index, port): (u8, &Port)| port.stations.as_ref().map(|_| index);
        let learning = (0..=u8::MAX).zip(&ports).filter_map(learns).collect();
        let ports = ports.into_boxed_slice();
        Ok(Self { number, ports, vlans, fixed, learning, frequency })
    }

    fn port(&self, index: u8) -> Option<&Port> {
        self.ports.get(usize::from(index))
    }

    pub(super) fn forward(
        &self,
        from: u8,
        header: &Header,
        length: usize,
        now: Ticks,
    ) -> Result<Copies, DropReason> {
        let port = self.port(from).ok_or(DropReason::Nobody)?;
        port.counters.came_in(length);
        let copies = self.copies(from, port, header, length, now);
        if let Err(reason) = copies {
            port.counters.dropped(reason);
        }
        copies
    }

    fn copies(
        &self,
        from: u8,
        port: &Port,
        header: &Header,
        length: usize,
        now: Ticks,
    ) -> Result<Copies, DropReason> {
        let vlan = self.admit(port, header)?;
        let Header { source, destination, tag, .. } = *header;
        if port.rate.as_ref().is_some_and(|rate| !rate.take(length as u64 * 8, now)) {
            return Err(DropReason::Rate);
        }
        if let Some(stations) = port.stations.as_ref().filter(|_| port.mac != Some(source)) {
            let key = Key::new(source, vlan.vid);
            if stations.hear(key, self.seconds(now)) {
                self.moved(key, from);
            }
        }
        let to = match self.find(destination, vlan, now) {
            Some(to) if to == from => return Err(DropReason::Same),
            Some(to) => PortSet::EMPTY.with(to),
            None => {
                let to = vlan.members.without(from);
                if to.is_empty() {
                    return Err(DropReason::Nobody);
                }
                if !port.storm.take(1, now) {
                    return Err(DropReason::Storm);
                }
                to
            }
        };
        Ok(self.tagged(to, vlan, tag))
    }

    /// See [`Switch::go_on`](super::Switch::go_on).
    pub(super) fn go_on(&self, from: u8, header: &Header, left: PortSet) -> Option<Copies> {
        let vlan = self.admit(self.port(from)?, header).ok()?;
        let members = vlan.members.without(from);
        // What is for a port's own address goes nowhere else.
        let only = self.owner(header.destination, vlan);
        let mut to = left;
        let all = to.all(|port| members.contains(port) && only.is_none_or(|only| only == port));
        all.then(|| self.tagged(left, vlan, header.tag))
    }

    /// The VLAN of a frame that may come in by `port`.
    #[inline]
    fn admit(&self, port: &Port, header: &Header) -> Result<&Vlan, DropReason> {
        let Header { source, destination, tag, .. } = *header;
        if !source.is_station() {
            return Err(DropReason::Source);
        }
        if destination.is_reserved() {
            return Err(DropReason::Reserved);
        }
        if header.is_nested() {
            return Err(DropReason::Nested);
        }
        let vlan = port.vlan_of(tag).and_then(|place| self.vlans.get(usize::from(place)));
        let vlan = vlan.ok_or(DropReason::Vlan)?;
        let mine = port.mac == Some(source);
        if !mine && (port.stations.is_none() || self.owner(source, vlan).is_some()) {
            return Err(DropReason::Spoofed);
        }
        Ok(vlan)
    }

    /// With what tag a frame goes to each of these.
    #[inline]
    fn tagged(&self, to: PortSet, vlan: &Vlan, tag: Option<Tag>) -> Copies {
        let (with_tag, without_tag) = changes(tag, vlan.vid);
        Copies { network: self.number, to, untagged: vlan.untagged, with_tag, without_tag }
    }

    /// The port whose own address this is in `vlan`.
    #[inline]
    fn owner(&self, mac: MacAddr, vlan: &Vlan) -> Option<u8> {
        self.fixed.owner(mac).filter(|port| vlan.members.contains(*port))
    }

    /// The port behind which `mac` is. A group is behind none.
    #[inline]
    fn find(&self, mac: MacAddr, vlan: &Vlan, now: Ticks) -> Option<u8> {
        if mac.is_multicast() {
            return None;
        }
        self.owner(mac, vlan).or_else(|| {
            let (key, now) = (Key::new(mac, vlan.vid), self.seconds(now));
            let has = |port: &u8| self.stations(*port).is_some_and(|one| one.has(key, now));
            self.learning.iter().copied().find(has).filter(|port| vlan.members.contains(*port))
        })
    }

    /// A station was heard behind `to`: it is no longer anywhere else.
    #[cold]
    fn moved(&self, key: Key, to: u8) {
        for port in self.learning.iter().filter(|port| **port != to) {
            if let Some(stations) = self.stations(*port) {
                stations.forget(key);
            }
        }
    }

    fn stations(&self, port: u8) -> Option<&Stations> {
        self.port(port).and_then(|port| port.stations.as_ref())
    }

    fn seconds(&self, now: Ticks) -> u32 {
        u32::try_from(self.frequency.to_secs(now)).unwrap_or(u32::MAX)
    }

    pub(super) fn ready(&self, from: u8, length: usize, now: Ticks) -> Ticks {
        let rate = self.port(from).and_then(|port| port.rate.as_ref());
        rate.map_or(now, |rate| rate.ready((length as u64).saturating_mul(8), now))
    }

    pub(super) fn refused(&self, from: u8, length: usize) {
        if let Some(port) = self.port(from) {
            port.counters.came_in(length);
            port.counters.dropped(DropReason::Short);
        }
    }

    pub(super) fn went_out(&self, to: u8, length: usize) {
        if let Some(port) = self.port(to) {
            port.counters.went_out(length);
        }
    }

    pub(super) fn lost(&self, to: u8) {
        if let Some(port) = self.port(to) {
            port.counters.dropped(DropReason::NoRoom);
        }
    }

    pub(super) fn counts(&self, port: u8) -> Counts {
        self.port(port).map(|port| port.counters.counts()).unwrap_or_default()
    }

    pub(super) fn learned(&self, port: u8) -> Vec<Station> {
        self.stations(port).map(Stations::all).unwrap_or_default()
    }

    pub(super) fn state(&self, port: u8) -> PortState {
        let rate = self.port(port).and_then(|port| port.rate.as_ref());
        PortState {
            counts: self.counts(port),
            rate: rate.map_or_else(Bucket::default, Meter::bucket),
            storm: self.port(port).map_or_else(Bucket::default, |port| port.storm.bucket()),
            stations: self.learned(port),
        }
    }

    /// Puts back a port's state. Stations that it could not have learned are left out.
    pub(super) fn set_state(&self, index: u8, state: &PortState) {
        let Some(port) = self.port(index) else { return };
        port.counters.set(&state.counts);
        port.storm.set_bucket(state.storm);
        if let Some(rate) = &port.rate {
            rate.set_bucket(state.rate);
        }
        let Some(stations) = &port.stations else { return };
        stations.clear();
        for station in &state.stations {
            let vlan = self.vlans.binary_search_by_key(&station.vid, |vlan| vlan.vid).ok();
            let vlan = vlan.and_then(|place| self.vlans.get(place));
            let possible = vlan.is_some_and(|vlan| {
                vlan.members.contains(index) && self.owner(station.mac, vlan).is_none()
            });
            if possible && station.mac.is_station() {
                let key = Key::new(station.mac, station.vid);
                stations.hear(key, station.heard);
                self.moved(key, index);
            }
        }
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = PortId> {
        let (network, count) = (self.number, self.ports.len());
        (0..=u8::MAX).take(count).map(move |index| PortId { network, index })
    }
}

/// What becomes of a frame's tag where it goes out with one, and where it goes out without.
#[inline]
fn changes(tag: Option<Tag>, vid: u16) -> (TagChange, TagChange) {
    match tag {
        None => (TagChange::Insert(Tag(vid)), TagChange::Keep),
        Some(tag) if tag.vid() == vid => (TagChange::Keep, TagChange::Strip),
        Some(tag) => (TagChange::Replace(tag.with_vid(vid)), TagChange::Strip),
    }
}

/// The VLANs of a network, in the order of their numbers, with the ports of each. The uplink has them all, the default one
/// without a tag.
fn vlans(configs: &[PortConfig], uplink: bool) -> Box<[Vlan]> {
    let mut vlans: Vec<Vlan> = Vec::new();
    let mut join = |vid: u16, port: u8, tagged: bool| {
        let place = vlans.binary_search_by_key(&vid, |vlan| vlan.vid).unwrap_or_else(|place| {
            let new = Vlan { vid, members: PortSet::EMPTY, untagged: PortSet::EMPTY };
            vlans.insert(place, new);
            place
        });
        if let Some(vlan) = vlans.get_mut(place) {
            vlan.members = vlan.members.with(port);
            if !tagged {
                vlan.untagged = vlan.untagged.with(port);
            }
        }
    };
    for (index, config) in (0..=u8::MAX).zip(configs) {
        match &config.vlans {
            Vlans::Access(vid) => join(*vid, index, false),
            Vlans::Trunk { tagged, native } => {
                tagged.iter().for_each(|vid| join(*vid, index, true));
                native.iter().for_each(|vid| join(*vid, index, false));
            }
        }
    }
    if let Some(index) = u8::try_from(configs.len()).ok().filter(|_| uplink) {
        join(DEFAULT_VID, index, false);
        for vlan in &mut vlans {
            vlan.members = vlan.members.with(index);
        }
    }
    vlans.into_boxed_slice()
}

fn place(vlans: &[Vlan], vid: u16) -> Option<u16> {
    let place = vlans.binary_search_by_key(&vid, |vlan| vlan.vid).ok()?;
    u16::try_from(place).ok()
}

fn port(config: &PortConfig, vlans: &[Vlan], frequency: Frequency) -> Port {
    let mut tagged = Vec::new();
    let native = match &config.vlans {
        Vlans::Access(vid) => place(vlans, *vid),
        Vlans::Trunk { tagged: vids, native } => {
            tagged.extend(vids.iter().filter_map(|vid| Some((*vid, place(vlans, *vid)?))));
            native.and_then(|vid| place(vlans, vid))
        }
    };
    tagged.sort_unstable();
    let meter = |rate: super::Rate| Meter::new(rate.bits, rate.burst.saturating_mul(8), frequency);
    Port {
        mac: Some(config.mac),
        native,
        tagged: tagged.into_boxed_slice(),
        stations: config.spoof.then(|| Stations::new(GUEST_ORDER)),
        rate: config.rate.map(meter),
        storm: Meter::new(config.storm.into(), config.storm, frequency),
        counters: Counters::default(),
    }
}

fn uplink_port(vlans: &[Vlan], frequency: Frequency) -> Port {
    let tagged = vlans.iter().filter_map(|vlan| Some((vlan.vid, place(vlans, vlan.vid)?)));
    Port {
        mac: None,
        native: place(vlans, DEFAULT_VID),
        tagged: tagged.collect(),
        stations: Some(Stations::new(UPLINK_ORDER)),
        rate: None,
        storm: Meter::new(DEFAULT_STORM.into(), DEFAULT_STORM, frequency),
        counters: Counters::default(),
    }
}
