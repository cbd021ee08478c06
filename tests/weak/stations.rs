//! What ports of a switch learn.

use std::num::NonZeroU32;

use plinth::net::{Header, MacAddr, Plan, PortConfig, PortId, Switch};
use plinth::time::{Frequency, Ticks};

use crate::races;

/// A network of two ports that learn.
fn switch() -> (Switch, [PortId; 2]) {
    let mut plan = Plan::default();
    plan.network(false).unwrap();
    let ports = [0, 1].map(|index| {
        let port = PortConfig::new(MacAddr([0x52, 0x54, 0, 0, 0, index]));
        plan.join(0, PortConfig { spoof: true, ..port }).unwrap()
    });
    (plan.build(Frequency(NonZeroU32::new(1000).unwrap())).unwrap(), ports)
}

/// A frame of the station that a round is about, to everybody.
fn header(round: usize) -> Header {
    let mut frame = [0xff; 64];
    let station = [0, 0x1b, 0x21, 0, 0, u8::try_from(round).unwrap()];
    frame[6..12].copy_from_slice(&station);
    frame[12..14].copy_from_slice(&[0x08, 0]);
    Header::parse(&frame[..plinth::net::HEADER.min(64)]).unwrap()
}

#[test]
fn a_station_that_is_heard_behind_two_ports_at_once_is_not_remembered_behind_both() {
    let (switch, ports) = &switch();
    let send = |port: usize, header: &Header| {
        switch.forward(ports[port], header, 64, Ticks(1000)).unwrap();
    };
    races(
        header,
        |header| send(0, header),
        |header| send(1, header),
        |header, (), ()| {
            let knows = |port: &&PortId| {
                switch.stations(**port).iter().any(|station| station.mac == header.source)
            };
            assert!(ports.iter().filter(knows).count() < 2, "it is behind both");
        },
    );
}
