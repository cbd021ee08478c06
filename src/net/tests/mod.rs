//! Claims about the switch.

mod model;
mod property;
mod rules;
mod shared;

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use super::*;
use crate::time::{Frequency, Ticks};

/// Ticks in a second.
const HERTZ: u64 = 1000;
const FREQUENCY: Frequency = Frequency(NonZeroU32::new(1000).unwrap());

/// A network: its guests' ports, and whether it has an uplink.
type Network = (Vec<PortConfig>, bool);

fn switch(networks: &[Network]) -> Switch {
    let mut plan = Plan::default();
    for (number, (ports, uplink)) in networks.iter().enumerate() {
        plan.network(*uplink).unwrap();
        for (index, port) in ports.iter().enumerate() {
            let id = plan.join(number, port.clone()).unwrap();
            assert_eq!((id.network(), id.index()), (number, index));
        }
    }
    plan.build(FREQUENCY).unwrap()
}

/// The port `index` of the network `network`.
fn port(network: u8, index: u8) -> PortId {
    PortId { network, index }
}

/// The address of the port `index` in the network `network`.
fn own(network: u8, index: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, network, index])
}

/// An address of no port's.
fn foreign(number: u8) -> MacAddr {
    MacAddr([0, 0x1b, 0x21, 0, 0, number])
}

fn plain(index: u8) -> PortConfig {
    PortConfig::new(own(0, index))
}

fn access(index: u8, vid: u16) -> PortConfig {
    PortConfig { vlans: Vlans::Access(vid), ..plain(index) }
}

fn trunk(index: u8, tagged: &[u16], native: Option<u16>) -> PortConfig {
    PortConfig { vlans: Vlans::Trunk { tagged: tagged.to_vec(), native }, ..plain(index) }
}

fn spoofing(index: u8) -> PortConfig {
    PortConfig { spoof: true, ..plain(index) }
}

/// A frame: its addresses, its tags, its type, and two bytes.
fn frame(to: MacAddr, from: MacAddr, tags: &[u16], ethertype: u16) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    for tag in tags {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend([0xaa, 0xbb]);
    frame
}

/// Sends a frame: which ports get it, and as what.
fn send(
    switch: &Switch,
    from: PortId,
    frame: &[u8],
    now: u64,
) -> Result<Vec<(PortId, Vec<u8>)>, DropReason> {
    let header = Header::parse(&frame[..frame.len().min(HEADER)]).unwrap();
    let copies = switch.forward(from, &header, frame.len(), Ticks(now))?;
    let bytes = |change: TagChange| {
        let head = change.head(&header);
        [head.bytes(), &frame[head.replaces()..]].concat()
    };
    Ok(copies.map(|(to, change)| (to, bytes(change))).collect())
}

/// Sends a frame without a tag within network 0: the ports that get it.
fn reach(switch: &Switch, from: u8, to: MacAddr, source: MacAddr) -> Result<Vec<u8>, DropReason> {
    reach_at(switch, from, to, source, 0)
}

fn reach_at(
    switch: &Switch,
    from: u8,
    to: MacAddr,
    source: MacAddr,
    now: u64,
) -> Result<Vec<u8>, DropReason> {
    let copies = send(switch, port(0, from), &frame(to, source, &[], 0x0800), now)?;
    Ok(copies.iter().map(|(port, _)| port.index).collect())
}
