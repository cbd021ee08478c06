//! One rule each.

use super::*;
use crate::testing::pick;

#[test]
fn two_cards_of_a_network_hear_each_other_at_once_and_nobody_else_does() {
    let switch = switch(&[(vec![plain(0), plain(1), plain(2)], false)]);
    assert_eq!(reach(&switch, 0, own(0, 1), own(0, 0)), Ok(vec![1]));
    assert_eq!(reach(&switch, 1, own(0, 0), own(0, 1)), Ok(vec![0]));
    assert_eq!(reach(&switch, 1, MacAddr::BROADCAST, own(0, 1)), Ok(vec![0, 2]));
}

#[test]
fn networks_do_not_reach_each_other() {
    let switch = switch(&[(vec![plain(0)], true), (vec![PortConfig::new(own(1, 0))], false)]);
    assert_eq!(reach(&switch, 0, own(1, 0), own(0, 0)), Ok(vec![1]), "that is the uplink");
    let broadcast = frame(MacAddr::BROADCAST, own(1, 0), &[], 0x0800);
    assert_eq!(send(&switch, port(1, 0), &broadcast, 0), Err(DropReason::Nobody));
    assert_eq!(switch.uplink(0), Some(port(0, 1)));
    assert_eq!((switch.uplink(1), switch.uplink(2)), (None, None));
}

#[test]
fn a_source_that_is_not_the_ports_own_is_filtered() {
    let switch = switch(&[(vec![plain(0), plain(1), spoofing(2)], true)]);
    for (from, source) in [(0, own(0, 1)), (0, foreign(1)), (2, own(0, 1)), (3, own(0, 1))] {
        let reached = reach(&switch, from, MacAddr::BROADCAST, source);
        assert_eq!(reached, Err(DropReason::Spoofed), "{from}: {source}");
    }
    assert_eq!(reach(&switch, 2, own(0, 0), foreign(1)), Ok(vec![0]));
    for source in [MacAddr::BROADCAST, MacAddr::default(), MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        assert_eq!(reach(&switch, 2, own(0, 0), source), Err(DropReason::Source));
    }
    assert_eq!(switch.counts(port(0, 0)).dropped(DropReason::Spoofed), 2);
    assert_eq!(switch.counts(port(0, 2)).dropped(DropReason::Source), 3);
}

#[test]
fn what_bridges_keep_to_themselves_goes_nowhere() {
    let switch = switch(&[(vec![plain(0), plain(1)], true)]);
    for last in 0..16 {
        let to = MacAddr([1, 0x80, 0xc2, 0, 0, last]);
        assert_eq!(reach(&switch, 0, to, own(0, 0)), Err(DropReason::Reserved));
    }
    let to = MacAddr([1, 0x80, 0xc2, 0, 0, 16]);
    assert_eq!(reach(&switch, 0, to, own(0, 0)), Ok(vec![1, 2]));
}

#[test]
fn a_frame_to_the_one_who_sends_it_goes_nowhere() {
    let switch = switch(&[(vec![spoofing(0), plain(1)], false)]);
    assert_eq!(reach(&switch, 0, own(0, 0), own(0, 0)), Err(DropReason::Same));
    assert_eq!(reach(&switch, 0, own(0, 1), foreign(1)), Ok(vec![1]));
    assert_eq!(reach(&switch, 0, foreign(1), own(0, 0)), Err(DropReason::Same));
}

#[test]
fn stations_behind_the_uplink_are_learned_and_forgotten() {
    let switch = switch(&[(vec![plain(0), plain(1)], true)]);
    let second = HERTZ;
    assert_eq!(reach(&switch, 0, foreign(1), own(0, 0)), Ok(vec![1, 2]));
    assert_eq!(reach_at(&switch, 2, own(0, 0), foreign(1), second), Ok(vec![0]));
    assert_eq!(reach_at(&switch, 0, foreign(1), own(0, 0), 300 * second), Ok(vec![2]));
    assert_eq!(reach_at(&switch, 0, foreign(1), own(0, 0), 301 * second), Ok(vec![1, 2]));
    assert_eq!(switch.stations(port(0, 2)), [Station { mac: foreign(1), vid: 1, heard: 1 }]);
}

#[test]
fn a_station_moves_between_ports_that_may_have_it() {
    let switch = switch(&[(vec![plain(0), spoofing(1), spoofing(2)], true)]);
    for place in [1, 3, 2, 1] {
        assert_eq!(reach(&switch, place, own(0, 0), foreign(1)), Ok(vec![0]));
        assert_eq!(reach(&switch, 0, foreign(1), own(0, 0)), Ok(vec![place]));
    }
    assert_eq!(reach(&switch, 0, own(0, 1), foreign(1)), Err(DropReason::Spoofed));
    assert_eq!(reach(&switch, 0, foreign(1), own(0, 0)), Ok(vec![1]));
}

#[test]
fn whoever_makes_addresses_up_pushes_out_none_of_others() {
    let switch = switch(&[(vec![plain(0), spoofing(1), spoofing(2)], true)]);
    assert_eq!(reach(&switch, 1, own(0, 0), foreign(1)), Ok(vec![0]));
    assert_eq!(reach(&switch, 3, own(0, 0), foreign(2)), Ok(vec![0]));
    for number in 0..pick(20_000u32, 300) {
        let [_, a, b, c] = number.to_be_bytes();
        reach(&switch, 2, own(0, 0), MacAddr([2, 0, 0, a, b, c])).unwrap();
    }
    assert_eq!(reach(&switch, 0, foreign(1), own(0, 0)), Ok(vec![1]));
    assert_eq!(reach(&switch, 0, foreign(2), own(0, 0)), Ok(vec![3]));
    assert!(switch.stations(port(0, 2)).len() <= 256);
}

#[test]
fn access_ports_have_their_vlan_without_a_tag() {
    let switch = switch(&[(vec![access(0, 10), access(1, 10), access(2, 20), plain(3)], false)]);
    assert_eq!(reach(&switch, 0, MacAddr::BROADCAST, own(0, 0)), Ok(vec![1]));
    assert_eq!(reach(&switch, 0, own(0, 2), own(0, 0)), Ok(vec![1]), "unknown in this VLAN");
    assert_eq!(reach(&switch, 2, MacAddr::BROADCAST, own(0, 2)), Err(DropReason::Nobody));
    for vid in [1, 10, 20, 4095] {
        let tagged = frame(own(0, 1), own(0, 0), &[vid], 0x0800);
        assert_eq!(send(&switch, port(0, 0), &tagged, 0), Err(DropReason::Vlan), "{vid}");
    }
}

#[test]
fn trunks_have_theirs_with_tags_and_the_native_one_without() {
    let ports =
        vec![access(0, 10), access(1, 1), trunk(2, &[10, 20], Some(1)), trunk(3, &[10], None)];
    let switch = switch(&[(ports, false)]);
    let all = MacAddr::BROADCAST;
    let untagged = |from: u8| frame(all, own(0, from), &[], 0x0800);
    let tagged = |from: u8, tag: u16| frame(all, own(0, from), &[tag], 0x0800);
    let sent = |from: u8, frame: &[u8]| send(&switch, port(0, from), frame, 0);
    let of_10 = tagged(0, 10);
    assert_eq!(sent(0, &untagged(0)), Ok(vec![(port(0, 2), of_10.clone()), (port(0, 3), of_10)]));
    assert_eq!(
        sent(2, &tagged(2, 0xa00a)),
        Ok(vec![(port(0, 0), untagged(2)), (port(0, 3), tagged(2, 0xa00a))])
    );
    assert_eq!(sent(2, &untagged(2)), Ok(vec![(port(0, 1), untagged(2))]));
    assert_eq!(sent(2, &tagged(2, 20)), Err(DropReason::Nobody));
    assert_eq!(sent(2, &tagged(2, 1)), Err(DropReason::Vlan), "the native one has no tag");
    assert_eq!(sent(2, &tagged(2, 30)), Err(DropReason::Vlan));
    assert_eq!(sent(3, &untagged(3)), Err(DropReason::Vlan));
}

#[test]
fn a_tag_for_priority_alone_counts_as_none_and_its_priority_is_kept() {
    let switch = switch(&[(vec![access(0, 10), access(1, 10), trunk(2, &[10], None)], false)]);
    let tagged = |tag: u16| frame(MacAddr::BROADCAST, own(0, 0), &[tag], 0x0800);
    let untagged = frame(MacAddr::BROADCAST, own(0, 0), &[], 0x0800);
    assert_eq!(
        send(&switch, port(0, 0), &tagged(0xe000), 0),
        Ok(vec![(port(0, 1), untagged), (port(0, 2), tagged(0xe00a))])
    );
}

#[test]
fn a_tag_within_a_tag_leads_into_no_other_vlan() {
    let ports = vec![access(0, 1), trunk(1, &[10, 20], Some(1)), access(2, 20)];
    let switch = switch(&[(ports, true)]);
    for tags in [&[0, 20][..], &[10, 20], &[1, 20], &[20, 20]] {
        for from in [0, 1] {
            let nested = frame(MacAddr::BROADCAST, own(0, from), tags, 0x0800);
            assert_eq!(send(&switch, port(0, from), &nested, 0), Err(DropReason::Nested));
        }
    }
    let provider = frame(MacAddr::BROADCAST, own(0, 0), &[], 0x88a8);
    assert_eq!(send(&switch, port(0, 0), &provider, 0), Err(DropReason::Nested));
}

#[test]
fn the_uplink_has_every_vlan_of_its_network_and_the_default_one_without_a_tag() {
    let switch = switch(&[(vec![access(0, 10), plain(1)], true)]);
    let untagged = |from: u8| frame(MacAddr::BROADCAST, own(0, from), &[], 0x0800);
    let tagged = frame(MacAddr::BROADCAST, own(0, 0), &[10], 0x0800);
    assert_eq!(send(&switch, port(0, 0), &untagged(0), 0), Ok(vec![(port(0, 2), tagged)]));
    let from_1 = untagged(1);
    assert_eq!(send(&switch, port(0, 1), &from_1, 0), Ok(vec![(port(0, 2), from_1.clone())]));
    let outside = |tags: &[u16]| frame(MacAddr::BROADCAST, foreign(1), tags, 0x0800);
    let sent = |tags: &[u16]| send(&switch, port(0, 2), &outside(tags), 0);
    assert_eq!(sent(&[10]), Ok(vec![(port(0, 0), outside(&[]))]));
    assert_eq!(sent(&[1]), Ok(vec![(port(0, 1), outside(&[]))]));
    assert_eq!(sent(&[]), Ok(vec![(port(0, 1), outside(&[]))]));
    assert_eq!(sent(&[11]), Err(DropReason::Vlan));
}

#[test]
fn one_address_behind_two_vlans_is_two_stations() {
    let ports =
        vec![access(0, 10), access(1, 20), trunk(2, &[10, 20], None), trunk(3, &[10, 20], None)];
    let ports = ports.into_iter().map(|port| PortConfig { spoof: true, ..port }).collect();
    let switch = switch(&[(ports, false)]);
    let sent = |from: u8, to: MacAddr, source: MacAddr, tag: u16| {
        let copies = send(&switch, port(0, from), &frame(to, source, &[tag], 0x0800), 0)?;
        Ok::<_, DropReason>(copies.iter().map(|(to, _)| to.index).collect::<Vec<_>>())
    };
    assert_eq!(sent(2, own(0, 0), foreign(1), 10), Ok(vec![0]));
    assert_eq!(sent(3, own(0, 1), foreign(1), 20), Ok(vec![1]));
    assert_eq!(reach(&switch, 0, foreign(1), own(0, 0)), Ok(vec![2]));
    assert_eq!(reach(&switch, 1, foreign(1), own(0, 1)), Ok(vec![3]));
}

#[test]
fn what_goes_to_many_is_limited_and_what_goes_to_one_is_not() {
    let limited = PortConfig { storm: 10, ..plain(0) };
    let switch = switch(&[(vec![limited, plain(1), plain(2)], false)]);
    let at = |to, now| reach_at(&switch, 0, to, own(0, 0), now);
    let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
    for number in 0..12 {
        let to = [MacAddr::BROADCAST, group, foreign(1)][number % 3];
        let expected = if number < 10 { Ok(vec![1, 2]) } else { Err(DropReason::Storm) };
        assert_eq!(at(to, 0), expected, "{number}");
        assert_eq!(at(own(0, 1), 0), Ok(vec![1]));
    }
    assert_eq!(at(group, HERTZ / 10), Ok(vec![1, 2]));
    assert_eq!(at(group, HERTZ / 10), Err(DropReason::Storm));
    let others = reach(&switch, 1, group, own(0, 1));
    assert_eq!(others, Ok(vec![0, 2]), "each port has its own limit");
    assert_eq!(switch.counts(port(0, 0)).dropped(DropReason::Storm), 3);
}

#[test]
fn a_rate_holds_for_all_that_comes_in_and_says_when_there_is_room() {
    let rate = Some(Rate { bits: 80_000, burst: 2048 });
    let limited = PortConfig { rate, ..plain(0) };
    let switch = switch(&[(vec![limited, plain(1)], false)]);
    let header = Header::parse(&frame(own(0, 1), own(0, 0), &[], 0x0800)).unwrap();
    let sent = |length, now| switch.forward(port(0, 0), &header, length, Ticks(now)).err();
    assert_eq!((sent(1500, 0), sent(548, 0), sent(1, 0)), (None, None, Some(DropReason::Rate)));
    // 10,000 bytes a second.
    assert_eq!(switch.ready(port(0, 0), 1500, Ticks(0)), Ticks(150));
    assert_eq!((sent(1500, 149), sent(1500, 150)), (Some(DropReason::Rate), None));
    // What is longer than a burst needs a whole one, and is paid for afterwards.
    assert_eq!(switch.ready(port(0, 0), 12_048, Ticks(150)), Ticks(355));
    assert_eq!((sent(12_048, 354), sent(12_048, 355)), (Some(DropReason::Rate), None));
    assert_eq!((sent(48, 1359), sent(48, 1360)), (Some(DropReason::Rate), None));
    let unlimited = switch.ready(port(0, 1), usize::MAX, Ticks(3));
    assert_eq!(unlimited, Ticks(3));
}

#[test]
fn what_is_delivered_and_what_is_not_is_counted_where_it_should_have_gone() {
    let switch = switch(&[(vec![plain(0), plain(1)], false)]);
    switch.went_out(port(0, 1), 60);
    switch.went_out(port(0, 1), 1500);
    switch.lost(port(0, 1));
    switch.refused(port(0, 0), 13);
    let out = switch.counts(port(0, 1));
    assert_eq!((out.frames_out, out.bytes_out, out.frames_in), (2, 1560, 0));
    assert_eq!(out.dropped(DropReason::NoRoom), 1);
    let refused = switch.counts(port(0, 0));
    assert_eq!((refused.frames_in, refused.bytes_in), (1, 13));
    assert_eq!(refused.dropped(DropReason::Short), 1);
}

#[test]
fn a_plan_has_its_limits() {
    let mut plan = Plan::default();
    let address =
        |number: u16| MacAddr([2, 0, 0, 0, number.to_be_bytes()[0], number.to_be_bytes()[1]]);
    for _ in 0..16 {
        plan.network(true).unwrap();
    }
    assert_eq!(plan.network(false), Err(PlanError::TooManyNetworks));
    assert_eq!(plan.join(16, plain(0)), Err(PlanError::NoNetwork));
    for number in 0..255 {
        plan.join(0, PortConfig::new(address(number + 1))).unwrap();
    }
    assert_eq!(plan.join(0, plain(0)), Err(PlanError::TooManyPorts));
    let bad = PortConfig { storm: 0, ..plain(0) };
    assert_eq!(plan.join(1, bad), Err(PlanError::Port(PortError::Storm { frames: 0 })));
    let frequency = Frequency(NonZeroU32::MIN);
    let switch = plan.build(frequency).unwrap();
    assert_eq!(switch.ports().count(), 255 + 16);
    assert_eq!(switch.uplink(0), Some(port(0, 255)));
    let reached = reach(&switch, 255, MacAddr::BROADCAST, foreign(1)).unwrap();
    assert!(reached.into_iter().eq(0..255));

    plan.join(1, plain(0)).unwrap();
    plan.join(2, plain(0)).unwrap();
    assert!(plan.build(frequency).is_ok(), "networks have nothing in common");
    plan.join(2, plain(0)).unwrap();
    assert_eq!(plan.build(frequency).unwrap_err(), PlanError::MacTwice { mac: own(0, 0) });
}

#[test]
fn a_port_that_the_switch_does_not_have_reaches_nobody() {
    let switch = switch(&[(vec![plain(0)], false)]);
    for absent in [port(0, 1), port(1, 0), port(255, 255)] {
        let frame = frame(own(0, 0), foreign(1), &[], 0x0800);
        assert_eq!(send(&switch, absent, &frame, 0), Err(DropReason::Nobody));
        assert_eq!(switch.state(absent), PortState::default());
        switch.set_state(absent, &PortState::default());
        switch.went_out(absent, 1);
        switch.lost(absent);
        switch.refused(absent, 1);
    }
}

#[test]
fn a_state_that_was_tampered_with_gives_a_port_nothing_of_others() {
    let mut alone = access(2, 20);
    alone.spoof = true;
    let switch = switch(&[(vec![plain(0), spoofing(1), alone, plain(3)], false)]);
    let station = |mac, vid| Station { mac, vid, heard: 0 };
    let stations = vec![
        station(own(0, 0), 1),
        station(own(0, 3), 20),
        station(foreign(1), 1),
        station(foreign(2), 20),
        station(foreign(3), 0),
        station(MacAddr::BROADCAST, 1),
        station(foreign(4), 4096 + 1),
    ];
    let state = PortState { stations, ..PortState::default() };
    for index in 0..4 {
        switch.set_state(port(0, index), &state);
    }
    assert_eq!(switch.stations(port(0, 0)), []);
    assert_eq!(switch.stations(port(0, 1)), [station(foreign(1), 1)]);
    let of_20 = switch.stations(port(0, 2));
    assert!(of_20.len() == 2 && of_20.contains(&station(own(0, 3), 20)));
    assert_eq!(reach(&switch, 1, own(0, 0), own(0, 1)), Ok(vec![0]));
}
