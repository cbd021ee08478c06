//! Claims about networks and cards.

use plinth::manifest::CardConfig;
use plinth::net::{DEFAULT_STORM, MacAddr, PortConfig, Rate, Vlans};

use super::{good, mistakes, vm};

const LAN: &str = "[[network]]\nname = \"lan\"\nuplink = true\n[[network]]\nname = \"dmz\"\n";

/// The cards of one VM with this value of `nets`.
fn cards(nets: &str) -> Vec<CardConfig> {
    let mut draft = good(&format!("{}{LAN}", vm(&format!("nets = {nets}"))));
    draft.entries.remove(0).guest.nets
}

/// The only mistake of a VM with this value of `nets`, without its line, which is the fourth.
fn wrong(nets: &str) -> String {
    let found = mistakes(&format!("{}{LAN}", vm(&format!("nets = {nets}"))));
    let [one] = found.as_slice() else { panic!("`{nets}`: {found:#?}") };
    one.strip_prefix("4:").unwrap_or_else(|| panic!("{one}")).to_owned()
}

#[test]
fn networks_are_numbered_in_their_order_wherever_they_stand() {
    let draft = good(&format!("{}{LAN}", vm("nets = [\"dmz\", \"lan\", \"dmz\"]")));
    let networks: Vec<_> =
        draft.networks.iter().map(|one| (one.name.as_str(), one.uplink)).collect();
    assert_eq!(networks, [("lan", true), ("dmz", false)]);
    let on: Vec<_> = draft.entries[0].guest.nets.iter().map(|card| card.network).collect();
    assert_eq!(on, [1, 0, 1]);
}

#[test]
fn who_asks_for_no_card_has_none() {
    let draft = good(&vm(""));
    assert_eq!((draft.networks, draft.entries[0].guest.nets.clone()), (vec![], vec![]));
    assert_eq!(cards("[]"), []);
}

#[test]
fn a_name_alone_is_a_plain_card_whose_address_comes_from_the_guests_name() {
    let derived = |index| MacAddr::derived("a", index);
    assert_eq!(
        cards("[\"lan\", { network = \"lan\" }]"),
        [0, 1].map(|index| CardConfig { network: 0, port: PortConfig::new(derived(index)) })
    );
    let port = &cards("[\"lan\"]")[0].port;
    assert_eq!((&port.vlans, port.storm, port.spoof), (&Vlans::Access(1), DEFAULT_STORM, false));
    assert_eq!(port.rate, None);
}

#[test]
fn everything_can_be_said_of_a_card() {
    let port = |card: &str| cards(&format!("[{{ network = \"lan\", {card} }}]")).remove(0).port;
    let mac = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 1]);
    let access = port("mac = \"52:54:00:12:34:01\", vlan = 10");
    assert_eq!(access, PortConfig { vlans: Vlans::Access(10), ..PortConfig::new(mac) });
    let all = port(
        "trunk = [10, 20], native = 1, rate = \"100Mbit\", burst = \"64K\", storm = 1000, spoof = true",
    );
    let vlans = Vlans::Trunk { tagged: vec![10, 20], native: Some(1) };
    let rate = Some(Rate { bits: 100_000_000, burst: 65536 });
    assert_eq!((all.vlans, all.rate, all.storm, all.spoof), (vlans, rate, 1000, true));
    let vlans = Vlans::Trunk { tagged: vec![4094], native: None };
    assert_eq!(port("trunk = [4094]").vlans, vlans);
    for (rate, bits) in [("8Kbit", 8_000), ("64kbit", 64_000), ("400 Gbit", 400_000_000_000)] {
        assert_eq!(port(&format!("rate = \"{rate}\"")).rate, Some(Rate::new(bits)), "{rate}");
    }
}

#[test]
fn cards_of_the_defaults_get_an_address_for_each_guest() {
    let text = "[machine.defaults]\nnets = [\"lan\"]\n";
    let second = vm("").replace("\"a\"", "\"b\"");
    let third = vm("nets = []").replace("\"a\"", "\"c\"");
    let draft = good(&format!("{text}{}{second}{third}{LAN}", vm("")));
    let macs = |index: usize| {
        let nets = &draft.entries[index].guest.nets;
        nets.iter().map(|card| card.port.mac).collect::<Vec<_>>()
    };
    assert_eq!(macs(0), [MacAddr::derived("a", 0)]);
    assert_eq!(macs(1), [MacAddr::derived("b", 0)]);
    assert_eq!(macs(2), []);
}

#[test]
fn each_part_of_a_card_says_what_it_takes() {
    for (nets, said) in [
        ("\"lan\"", "8: vm 1, nets: `lan` will not do; want a list of networks as in [\"lan\""),
        ("[3]", "9: vm 1, nets: 3 will not do; want the name of a network, or a table as in {"),
        (
            "[\"lna\"]",
            "9: vm 1, nets: there is no network `lna`; did you mean `lan`? Known are lan, dmz",
        ),
        ("[{ network = \"x\" }]", "21: vm 1, nets.network: there is no network `x`; known are"),
        ("[{}]", "9: vm 1, nets.network: the field is missing"),
        (
            "[{ network = \"lan\", vlna = 1 }]",
            "28: vm 1, nets.vlna: unknown field; did you mean `vlan`? Known are network, mac,",
        ),
        (
            "[{ network = \"lan\", mac = \"52:54\" }]",
            "34: vm 1, nets.mac: `52:54` will not do: a MAC address is six bytes in hexadecimal",
        ),
        (
            "[{ network = \"lan\", mac = \"01:00:00:00:00:01\" }]",
            "34: vm 1, nets.mac: 01:00:00:00:00:01 is not the address of one station",
        ),
        (
            "[{ network = \"lan\", mac = \"00:00:00:00:00:00\" }]",
            "34: vm 1, nets.mac: 00:00:00:00:00:00 is not the address of one station",
        ),
        ("[{ network = \"lan\", mac = 1 }]", "34: vm 1, nets.mac: want a text in quotes, got a"),
        (
            "[{ network = \"lan\", vlan = 0 }]",
            "35: vm 1, nets.vlan: 0 will not do; want a whole number from 1 to 4094",
        ),
        ("[{ network = \"lan\", vlan = 4095 }]", "35: vm 1, nets.vlan: 4095 will not do"),
        (
            "[{ network = \"lan\", trunk = 10 }]",
            "36: vm 1, nets.trunk: 10 will not do; want a list of VLANs as in [10, 20]",
        ),
        ("[{ network = \"lan\", trunk = [] }]", "36: vm 1, nets.trunk: 0 VLANs; a trunk has 1 to"),
        ("[{ network = \"lan\", trunk = [1, 0] }]", "40: vm 1, nets.trunk: 0 will not do"),
        (
            "[{ network = \"lan\", trunk = [1, 2, 1] }]",
            "43: vm 1, nets.trunk: VLAN 1 is there already",
        ),
        (
            "[{ network = \"lan\", vlan = 1, trunk = [2] }]",
            "28: vm 1, nets.vlan: there is a trunk as well; a card has either",
        ),
        (
            "[{ network = \"lan\", native = 1 }]",
            "28: vm 1, nets.native: it is the VLAN that a trunk has without a tag; there is no trunk",
        ),
        (
            "[{ network = \"lan\", burst = \"64K\" }]",
            "28: vm 1, nets.burst: it goes with a rate; there is none",
        ),
        (
            "[{ network = \"lan\", rate = \"100M\" }]",
            "35: vm 1, nets.rate: `100M` will not do; want a whole number and a unit Kbit, Mbit or \
             Gbit (thousands), 8Kbit to 400Gbit, as in \"100Mbit\"",
        ),
        ("[{ network = \"lan\", rate = \"7Kbit\" }]", "35: vm 1, nets.rate: `7Kbit` will not do"),
        ("[{ network = \"lan\", rate = \"401Gbit\" }]", "35: vm 1, nets.rate: `401Gbit` will not"),
        ("[{ network = \"lan\", rate = 1000 }]", "35: vm 1, nets.rate: 1000 will not do; want a"),
        (
            "[{ network = \"lan\", rate = \"1Mbit\", burst = \"1K\" }]",
            "52: vm 1, nets.burst: 1K; a burst is 2K to 16M",
        ),
        (
            "[{ network = \"lan\", storm = 0 }]",
            "36: vm 1, nets.storm: 0 will not do; want a whole number from 1 to 1000000",
        ),
        (
            "[{ network = \"lan\", spoof = 1 }]",
            "36: vm 1, nets.spoof: 1 will not do; want true or false",
        ),
    ] {
        let found = wrong(nets);
        assert!(found.starts_with(said), "{nets}: {found}");
    }
    let nine = format!("[{}]", ["\"lan\""; 9].join(", "));
    assert_eq!(wrong(&nine), "8: vm 1, nets: 9 cards; 8 at most");
    let many: Vec<_> = (1..=65).map(|vid| vid.to_string()).collect();
    let many = format!("[{{ network = \"lan\", trunk = [{}] }}]", many.join(", "));
    assert_eq!(wrong(&many), "36: vm 1, nets.trunk: 65 VLANs; a trunk has 1 to 64");
}

#[test]
fn all_mistakes_of_a_card_come_at_once() {
    let nets = "nets = [{ network = \"x\", vlan = 0, rate = 1 }, { storm = 0 }]";
    assert_eq!(mistakes(&format!("{}{LAN}", vm(nets))).len(), 5);
}

#[test]
fn a_network_that_nobody_described_is_told_so() {
    assert_eq!(
        mistakes(&vm("nets = [\"lan\"]")),
        ["4:9: vm 1, nets: there is no network `lan`; the manifest has no [[network]]"]
    );
}

#[test]
fn each_part_of_a_network_says_what_it_takes() {
    let text = "[[network]]\nuplink = true\n[[network]]\nname = \"two words\"\nuplink = 1\n\
                [[network]]\nname = \"lan\"\nuplink = true\nmtu = 1\n\
                [[network]]\nname = \"lan\"\n";
    let rule = "a name has no `=`, does not begin with `--`, and is not all, focus, reset or tail";
    assert_eq!(
        mistakes(&format!("{text}{}", vm(""))),
        [
            "1:1: network 1, name: the field is missing".to_owned(),
            format!(
                "4:8: network 2, name: a name has 1 to 32 printable ASCII characters and no space, \
                 and {rule}"
            ),
            "5:10: network 2, uplink: 1 will not do; want true or false".to_owned(),
            "8:10: network 3, uplink: network 1 has it already; one network can".to_owned(),
            "9:1: network 3, mtu: unknown field; known are name, uplink".to_owned(),
            "11:8: network 4, name: `lan` is the name of network 3 already; each name is given once"
                .to_owned(),
        ]
    );
    let found = mistakes(&format!("network = 1\n{}", vm("")));
    assert_eq!(found, ["1:1: networks are written as [[network]] tables"]);
    let found = mistakes(&format!("network = [1]\n{}", vm("")));
    assert_eq!(found, ["1:12: network 1 is not a table"]);
    let many = |count: usize| {
        let all: String = (0..count).map(|n| format!("[[network]]\nname = \"n{n}\"\n")).collect();
        mistakes(&format!("{all}{}", vm("")))
    };
    assert_eq!(many(16), Vec::<String>::new());
    assert_eq!(many(18), ["33:1: network 17 is one too many; 16 are possible"]);
}

#[test]
fn an_address_is_given_to_one_card_of_all_guests() {
    let card = |network: &str| {
        format!("nets = [{{ network = \"{network}\", mac = \"52:54:00:00:00:01\" }}]")
    };
    let text = format!("{LAN}{}{}", vm(&card("lan")), vm(&card("dmz")).replace("\"a\"", "\"b\""));
    assert_eq!(
        mistakes(&text),
        [
            "13:8: vm 2, nets: card 1 has the address 52:54:00:00:00:01, as card 1 of vm 1; give one another"
        ]
    );
    let derived = MacAddr::derived("a", 0);
    let twice = format!("[\"lan\", {{ network = \"lan\", mac = \"{derived}\" }}]");
    assert!(wrong(&twice).starts_with("8: vm 1, nets: card 2 has the address"));
}

#[test]
fn a_network_has_room_for_255_cards_and_the_uplink() {
    let many = |first: &str| {
        let guest = |n| {
            let nets = if n == 0 { first } else { "[\"lan\", \"lan\"]" };
            format!("[[vm]]\nname = \"g{n}\"\nkernel = \"k\"\nnets = {nets}\n")
        };
        mistakes(&format!("{LAN}{}", (0..128).map(guest).collect::<String>()))
    };
    assert_eq!(many("[\"lan\"]"), Vec::<String>::new());
    let found = many("[\"lan\", \"lan\"]");
    assert_eq!(
        found,
        ["517:8: vm 128, nets: lan has one port too many; 256 are possible, the uplink among them"]
    );
}
