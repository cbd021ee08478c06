//! Networks and cards that cannot be: each mistake on its way out and on its way in.

use super::*;
use crate::net::MAX_PORTS;
use crate::testing::some;

fn network(name: &str, uplink: bool) -> NetworkConfig {
    NetworkConfig { name: name.into(), uplink }
}

fn card(network: u8, number: u16) -> CardConfig {
    let [high, low] = number.to_be_bytes();
    CardConfig { network, port: PortConfig::new(MacAddr([2, 0, 0, 0, high, low])) }
}

fn with_cards(name: &str, cards: Vec<CardConfig>) -> VmConfig {
    VmConfig { nets: cards, ..config(name) }
}

/// What is said of them when they are written and when they are read: the same.
pub(super) fn said(networks: &[NetworkConfig], vms: &[VmConfig]) -> Option<ManifestError> {
    let sources: Vec<_> = vms.iter().map(|vm| vm.map(String::as_str, |_| &b"file"[..])).collect();
    let named: Vec<_> = networks.iter().map(NetworkConfig::source).collect();
    let written = write(&MachineConfig::default(), &named, &sources);
    let table = postcard::to_allocvec(&(MachineConfig::default(), networks, vms)).unwrap();
    let first = (32 + table.len()).next_multiple_of(4096);
    let mut bundle = forge(&[]);
    bundle.resize(first + 4096, 0);
    // The forged kernels are in the table's place where that is long: then they are moved behind it.
    let vms: Vec<_> = vms
        .iter()
        .map(|vm| VmConfig { kernel: Payload { offset: first as u64, size: 4 }, ..vm.clone() })
        .collect();
    let table = postcard::to_allocvec(&(MachineConfig::default(), networks, vms)).unwrap();
    bundle[16..24].copy_from_slice(&(first as u64 + 4096).to_le_bytes());
    bundle[24..32].copy_from_slice(&(table.len() as u64).to_le_bytes());
    bundle[32..32 + table.len()].copy_from_slice(&table);
    seal(&mut bundle);
    let read = read(&bundle).map(drop);
    assert_eq!(read.as_ref().err(), written.as_ref().err());
    read.err()
}

fn wrong(networks: &[NetworkConfig], vms: &[VmConfig]) -> NetworkError {
    match said(networks, vms) {
        Some(ManifestError::Network(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_mistake_of_a_network_has_its_own_error() {
    let vms = [config("a")];
    for name in some(["", "two words", &"n".repeat(33), "\u{e4}", "a=b", "all"]) {
        let networks = [network("lan", false), network(name, false)];
        assert_eq!(wrong(&networks, &vms), NetworkError::Name { index: 1 }, "{name}");
    }
    let twice = [network("lan", false), network("b", false), network("lan", false)];
    assert_eq!(wrong(&twice, &vms), NetworkError::NameDuplicate { index: 2, first: 0 });
    let uplinks = [network("a", false), network("b", true), network("c", true)];
    assert_eq!(wrong(&uplinks, &vms), NetworkError::UplinkDuplicate { index: 2, first: 1 });
    let many: Vec<_> = (0..17).map(|number| network(&format!("n{number}"), false)).collect();
    assert_eq!(wrong(&many, &vms), NetworkError::TooMany { count: 17 });
    assert_eq!(said(&many[..16], &vms), None);
}

#[test]
fn each_mistake_of_a_card_has_its_own_error() {
    let lan = [network("lan", false)];
    let place = Place { index: 1, name: "b".into() };
    let of = |cards| [config("a"), with_cards("b", cards)];

    let cards: Vec<_> = (0..9).map(|number| card(0, number)).collect();
    let many = NetworkError::TooManyCards { place: place.clone(), count: 9 };
    assert_eq!(wrong(&lan, &of(cards.clone())), many);
    assert_eq!(said(&lan, &of(cards[..8].to_vec())), None);

    let unknown = NetworkError::Unknown { place: place.clone(), card: 1, network: 1 };
    assert_eq!(wrong(&lan, &of(vec![card(0, 1), card(1, 2)])), unknown);
    assert!(matches!(wrong(&[], &of(vec![card(0, 1)])), NetworkError::Unknown { network: 0, .. }));

    let mut bad = card(0, 2);
    bad.port.vlans = Vlans::Access(4095);
    let why = PortError::Vlan { vid: 4095 };
    let expected = NetworkError::Port { place: place.clone(), card: 1, why };
    assert_eq!(wrong(&lan, &of(vec![card(0, 1), bad])), expected);
    assert_eq!(
        expected.to_string(),
        "VM 2 (\"b\"): card 2: there is no VLAN 4095; its number is 1 to 4094"
    );
}

#[test]
fn an_address_is_that_of_one_card_of_the_manifest() {
    let networks = [network("lan", false), network("dmz", false)];
    let vms = [
        with_cards("a", vec![card(0, 7), card(1, 1)]),
        with_cards("b", vec![card(1, 2), card(1, 7)]),
    ];
    let error = NetworkError::MacDuplicate {
        place: Place { index: 1, name: "b".into() },
        card: 1,
        mac: MacAddr([2, 0, 0, 0, 0, 7]),
        other: Place { index: 0, name: "a".into() },
        other_card: 0,
    };
    assert_eq!(wrong(&networks, &vms), error);
    let own = [with_cards("a", vec![card(0, 7), card(1, 7)])];
    assert!(matches!(
        wrong(&networks, &own),
        NetworkError::MacDuplicate { card: 1, other_card: 0, .. }
    ));
}

#[test]
#[cfg_attr(miri, ignore = "as many as there can be: minutes there")]
fn a_network_has_256_ports_and_the_uplink_is_one() {
    let vms = |count: usize| {
        let cards: Vec<_> =
            (0..count).map(|number| card(0, u16::try_from(number).unwrap())).collect();
        let vm = |(index, cards): (usize, &[CardConfig])| {
            with_cards(&format!("v{index}"), cards.to_vec())
        };
        cards.chunks(8).enumerate().map(vm).collect::<Vec<_>>()
    };
    for (uplink, most) in [(false, MAX_PORTS), (true, MAX_PORTS - 1)] {
        let lan = [network("lan", uplink)];
        assert_eq!(said(&lan, &vms(most)), None);
        let error = NetworkError::TooManyPorts { index: 0, count: MAX_PORTS + 1 };
        assert_eq!(wrong(&lan, &vms(most + 1)), error);
    }
}

#[test]
#[cfg_attr(miri, ignore = "as many as there can be: minutes there")]
fn the_longest_table_there_can_be_is_written_and_read() {
    let name = |prefix: &str, index: usize| {
        format!("{prefix}{index:0>width$}", width = MAX_NAME - prefix.len())
    };
    let networks: Vec<_> = (0..16).map(|index| network(&name("n", index), index == 0)).collect();
    let tagged: Vec<_> = (4031..=4094).collect();
    let cards = |index: usize| {
        let card = |number: usize| {
            let mut card = card(
                u8::try_from(number * 2 + index % 2).unwrap(),
                u16::try_from(index * 8 + number).unwrap(),
            );
            card.port.vlans = Vlans::Trunk { tagged: tagged.clone(), native: Some(4094) };
            card.port.rate = Some(Rate { bits: 400_000_000_000, burst: 16 << 20 });
            card.port.storm = 1_000_000;
            card
        };
        (0..8).map(card).collect::<Vec<_>>()
    };
    let vm = |index: usize| VmConfig {
        ram_base: Ipa::new(RAM_LIMIT - (512 << 20)),
        shutdown: Shutdown::Console("s".repeat(MAX_SHUTDOWN)),
        assign: vec!["a".repeat(MAX_NODE); MAX_ASSIGNED],
        cmdline: "c".repeat(MAX_CMDLINE),
        ..with_cards(&name("v", index), cards(index))
    };
    let vms: Vec<_> = (0..MAX_VMS).map(vm).collect();
    assert_eq!(said(&networks, &vms), None);
    let table = postcard::to_allocvec(&vms).unwrap();
    assert!(table.len() as u64 / MAX_VMS as u64 <= 8192 - 64);
}
