//! Any frames at any times, by any ports of a switch of any ports. A copy stays in its network and its VLAN, never goes back,
//! and a port's own address is nobody else's.
#![no_main]

use std::num::NonZeroU32;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::net::{HEADER, Header, MacAddr, Plan, PortConfig, PortId, Rate, Switch, Vlans};
use plinth::time::{Frequency, Ticks};
use plinth_fuzz::often;

const MOMENTS: [u64; 5] = [0, 1, 1000, 299_000, 301_000];

/// An address that some port, or some station behind one, may have.
fn mac(u: &mut Unstructured<'_>) -> Result<MacAddr> {
    Ok(match u.int_in_range(0..=9)? {
        0 => MacAddr::BROADCAST,
        1 => MacAddr(u.arbitrary()?),
        _ => MacAddr([2, 0, 0, 0, 0, u.int_in_range(1..=10)?]),
    })
}

fn vid(u: &mut Unstructured<'_>) -> Result<u16> {
    Ok(u.int_in_range(1..=4)?)
}

fn port(u: &mut Unstructured<'_>, number: u8) -> Result<PortConfig> {
    let mut port = PortConfig::new(MacAddr([2, 0, 0, 0, 0, number]));
    if u.arbitrary()? {
        let tagged = vid(u)?..=4;
        let native = if u.arbitrary()? { Some(vid(u)?) } else { None };
        port.vlans = Vlans::Trunk { tagged: tagged.collect(), native };
    } else {
        port.vlans = Vlans::Access(vid(u)?);
    }
    port.spoof = u.arbitrary()?;
    port.rate = u.ratio(1, 4)?.then_some(Rate { bits: 1_000_000, burst: 4096 });
    port.storm = u.int_in_range(1..=1_000_000)?;
    Ok(port)
}

/// The ports of each network; those after the guests' are uplinks.
type Ports = Vec<(PortId, Option<PortConfig>)>;

fn switch(u: &mut Unstructured<'_>) -> Result<(Switch, Ports)> {
    let mut plan = Plan::default();
    let mut ports = Ports::new();
    for network in 0..u.int_in_range(1..=2)? {
        plan.network(u.arbitrary()?).expect("there are two at most");
        for number in 1..=u.int_in_range(1..=5)? {
            let config = port(u, number)?;
            ports.push((plan.join(network, config.clone()).expect("a good port"), Some(config)));
        }
    }
    let switch = plan.build(Frequency(NonZeroU32::new(1000).unwrap())).expect("all differ");
    ports.extend((0..2).filter_map(|network| Some((switch.uplink(network)?, None))));
    Ok((switch, ports))
}

/// Whether a port has a VLAN, and whether without a tag.
fn has(port: &Option<PortConfig>, vid: u16) -> (bool, bool) {
    match port.as_ref().map(|port| &port.vlans) {
        None => (true, vid == 1),
        Some(Vlans::Access(own)) => (*own == vid, *own == vid),
        Some(Vlans::Trunk { tagged, native }) => {
            (tagged.contains(&vid) || *native == Some(vid), *native == Some(vid))
        }
    }
}

/// The VLAN that a frame without a tag has.
fn native(port: &Option<PortConfig>) -> Option<u16> {
    match port.as_ref().map(|port| &port.vlans) {
        None => Some(1),
        Some(Vlans::Access(own)) => Some(*own),
        Some(Vlans::Trunk { native, .. }) => *native,
    }
}

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let (switch, ports) = switch(u)?;
    while !u.is_empty() {
        let (from, config) = u.choose(&ports)?.clone();
        let mut frame = [mac(u)?.0, mac(u)?.0].concat();
        if u.arbitrary()? {
            frame.extend([0x81, 0]);
            frame.extend((u16::arbitrary(u)? & 0xf007).to_be_bytes());
        }
        frame.extend(if u.ratio(9, 10)? { 0x0800u16 } else { u.arbitrary()? }.to_be_bytes());
        frame.resize(60, 0x55);
        let now = Ticks(often(u, &MOMENTS)?);
        let header = Header::parse(&frame[..HEADER]).expect("it is long enough");
        let Ok(copies) = switch.forward(from, &header, frame.len(), now) else { continue };

        let vid = header.tag.map(|tag| tag.vid()).filter(|vid| *vid != 0);
        let vid = vid.or(native(&config)).expect("a frame of no VLAN goes nowhere");
        assert!(has(&config, vid).0);
        let owner = |mac: MacAddr| {
            let owns = |port: &Option<PortConfig>| {
                has(port, vid).0 && port.as_ref().is_some_and(|port| port.mac == mac)
            };
            let mut here = ports.iter().filter(|(id, _)| id.network() == from.network());
            here.find(|(_, port)| owns(port)).map(|(id, _)| *id)
        };
        assert!(owner(header.source).is_none_or(|owner| owner == from));
        assert!(copies.clone().count() > 0);
        for (to, change) in copies {
            assert!(to != from && to.network() == from.network());
            assert!(owner(header.destination).is_none_or(|owner| owner == to));
            let port = &ports.iter().find(|(id, _)| *id == to).expect("a port of it").1;
            let (member, untagged) = has(port, vid);
            assert!(member);
            let head = change.head(&header);
            let sent = [head.bytes(), &frame[head.replaces()..]].concat();
            let tag = Header::parse(&sent).expect("still a frame").tag;
            assert_eq!(tag.map(|tag| tag.vid()), (!untagged).then_some(vid));
        }
    }
    // What is saved of a port is the same again.
    for (id, _) in &ports {
        let state = switch.state(*id);
        switch.set_state(*id, &state);
        assert_eq!(switch.state(*id).counts, state.counts);
        assert_eq!(switch.state(*id).stations.len(), state.stations.len());
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = check(&mut Unstructured::new(bytes));
});
