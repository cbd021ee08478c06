//! Any frames, sent by anybody at any time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::model::Bridge;
use super::*;
use crate::testing::pick;

const NETWORKS: u8 = 2;

fn vlans() -> impl Strategy<Value = Vlans> {
    let trunk = (prop::collection::btree_set(1u16..5, 1..4), prop::option::of(1u16..5))
        .prop_map(|(tagged, native)| Vlans::Trunk { tagged: tagged.into_iter().collect(), native });
    prop_oneof![(1u16..4).prop_map(Vlans::Access), trunk]
}

fn networks() -> impl Strategy<Value = Vec<Network>> {
    let port = (vlans(), any::<bool>());
    let network = (prop::collection::vec(port, 1..7), any::<bool>());
    prop::collection::vec(network, usize::from(NETWORKS)).prop_map(|networks| {
        let network = |(number, (ports, uplink)): (u8, (Vec<(Vlans, bool)>, bool))| {
            let port = |(index, (vlans, spoof)): (u8, (Vlans, bool))| {
                let port = PortConfig::new(own(number, index));
                PortConfig { vlans, spoof, storm: 1_000_000, ..port }
            };
            ((0..).zip(ports).map(port).collect(), uplink)
        };
        (0..).zip(networks).map(network).collect()
    })
}

fn destinations() -> impl Strategy<Value = MacAddr> {
    prop_oneof![
        4 => (0..NETWORKS, 0u8..7).prop_map(|(network, index)| own(network, index)),
        3 => (0u8..4).prop_map(foreign),
        1 => Just(MacAddr::BROADCAST),
        1 => any::<u8>().prop_map(|last| MacAddr([1, 0, 0x5e, 0, 0, last])),
        1 => (0u8..32).prop_map(|last| MacAddr([1, 0x80, 0xc2, 0, 0, last])),
        1 => any::<[u8; 6]>().prop_map(MacAddr),
    ]
}

/// `None`: the port's own address.
fn sources() -> impl Strategy<Value = Option<MacAddr>> {
    prop_oneof![3 => Just(None), 3 => (0u8..4).prop_map(|number| Some(foreign(number))), 1 => destinations().prop_map(Some)]
}

/// Somebody sends something, so long after what was sent before, or so long before it.
#[derive(Clone, Debug)]
struct Sent {
    network: u8,
    index: u8,
    to: MacAddr,
    source: Option<MacAddr>,
    tags: Vec<u16>,
    ethertype: u16,
    wait: u64,
    back: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let vid = prop_oneof![4 => 0u16..6, 1 => 4094u16..4096];
    let tag = (vid, 0u16..16).prop_map(|(vid, priority)| priority << 12 | vid);
    let tags = prop_oneof![
        3 => Just(Vec::new()),
        6 => tag.clone().prop_map(|tag| vec![tag]),
        1 => prop::collection::vec(tag, 2),
    ];
    // 0x8100 would be a tag's, of which there are as many as `tags` says.
    let other = any::<u16>().prop_filter("a tag", |ethertype| *ethertype != 0x8100);
    let ethertype = prop_oneof![8 => Just(0x0800), 1 => Just(0x88a8), 1 => other];
    let wait = prop_oneof![9 => Just(0u64), 9 => 0u64..2000, 1 => 298_000u64..302_000];
    let what = (destinations(), sources(), tags, ethertype);
    (0..NETWORKS, 0u8..8, what, wait, prop::bool::weighted(0.1)).prop_map(
        |(network, index, (to, source, tags, ethertype), wait, back)| Sent {
            network,
            index,
            to,
            source,
            tags,
            ethertype,
            wait,
            back,
        },
    )
}

/// The switch and a model of each network; both get what is sent.
struct Both {
    switch: Switch,
    bridges: Vec<Bridge>,
    now: u64,
}

type Delivered = BTreeMap<(usize, usize), Vec<u8>>;

impl Both {
    fn new(networks: &[Network]) -> Self {
        let bridges = networks.iter().map(Bridge::new).collect();
        Self { switch: switch(networks), bridges, now: 1_000_000 }
    }

    /// What the switch and the model deliver, and the frame; `None` where there is no such port.
    fn send(&mut self, sent: &Sent) -> Option<(Delivered, Delivered, Vec<u8>)> {
        let network = usize::from(sent.network);
        let bridge = self.bridges.get_mut(network)?;
        let index = usize::from(sent.index);
        let mine = bridge.ports.get(index)?.mac.unwrap_or(foreign(9));
        self.now = match sent.back {
            true => self.now.saturating_sub(sent.wait),
            false => self.now + sent.wait,
        };
        let frame = frame(sent.to, sent.source.unwrap_or(mine), &sent.tags, sent.ethertype);
        let from = port(sent.network, sent.index);
        let copies = send(&self.switch, from, &frame, self.now).unwrap_or_default();
        let model = bridge.forward(index, &frame, self.now / HERTZ);
        let copies =
            copies.into_iter().map(|(to, bytes)| ((to.network(), to.index()), bytes)).collect();
        let model = model.into_iter().map(|(to, bytes)| ((network, to), bytes)).collect();
        Some((copies, model, frame))
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(150, 1))]

    #[test]
    fn every_frame_goes_where_a_plain_bridge_sends_it(
        networks in networks(),
        all in prop::collection::vec(sent(), 1..pick(120, 8)),
    ) {
        let mut both = Both::new(&networks);
        for sent in &all {
            if let Some((copies, model, _)) = both.send(sent) {
                prop_assert_eq!(copies, model, "{:?}", sent);
            }
        }
    }

    #[test]
    fn no_frame_is_sent_back_or_leaves_its_network_or_its_vlan(
        networks in networks(),
        all in prop::collection::vec(sent(), 1..pick(60, 8)),
    ) {
        let mut both = Both::new(&networks);
        for sent in &all {
            let Some((copies, _, frame)) = both.send(sent) else { continue };
            let from = (usize::from(sent.network), usize::from(sent.index));
            let vid = both.bridges[from.0].vlan(from.1, &frame);
            for ((network, index), bytes) in copies {
                prop_assert!(network == from.0 && index != from.1);
                let bridge = &both.bridges[network];
                let vid = vid.expect("a frame of no VLAN goes nowhere");
                prop_assert!(bridge.ports[index].has(vid));
                // What goes out is of this VLAN for who is there as well.
                let without = bridge.ports[index].native == Some(vid);
                let expected = if without { None } else { Some(vid) };
                let tag = Header::parse(&bytes).unwrap().tag.map(|tag| tag.vid());
                prop_assert_eq!(tag, expected);
            }
        }
    }

    #[test]
    fn nobody_takes_a_ports_own_address(
        networks in networks(),
        all in prop::collection::vec(sent(), 1..pick(60, 8)),
    ) {
        let mut both = Both::new(&networks);
        for sent in &all {
            let Some((copies, _, frame)) = both.send(sent) else { continue };
            let (network, from) = (usize::from(sent.network), usize::from(sent.index));
            let bridge = &both.bridges[network];
            let Some(vid) = bridge.vlan(from, &frame) else { continue };
            let address = |at: usize| MacAddr(frame[at..at + 6].try_into().unwrap());
            if bridge.owner(address(6), vid).is_some_and(|owner| owner != from) {
                prop_assert!(copies.is_empty(), "it says it is another's");
            }
            if let Some(owner) = bridge.owner(address(0), vid) {
                prop_assert!(copies.keys().all(|to| *to == (network, owner)));
            }
        }
    }

    #[test]
    fn no_bytes_at_any_time_make_it_panic(
        networks in networks(),
        all in prop::collection::vec((any::<[u8; HEADER]>(), any::<u64>(), 0u8..8, any::<bool>()), 1..20),
    ) {
        let switch = switch(&networks);
        for (mut bytes, now, index, likely) in all {
            if likely {
                bytes[..12].copy_from_slice(&frame(MacAddr::BROADCAST, own(0, index), &[], 0)[..12]);
            }
            let header = Header::parse(&bytes).unwrap();
            let length = usize::try_from(now).unwrap();
            switch.ready(port(0, index), length, Ticks(now));
            if let Ok(copies) = switch.forward(port(0, index), &header, length, Ticks(now)) {
                prop_assert!(copies.clone().count() > 0);
                prop_assert!(copies.into_iter().all(|(to, _)| to.network == 0 && to.index != index));
            }
        }
    }

    #[test]
    fn counters_say_what_became_of_every_frame(
        networks in networks(),
        all in prop::collection::vec(sent(), 1..pick(60, 8)),
    ) {
        let mut both = Both::new(&networks);
        let mut expected: BTreeMap<(usize, usize), (u64, u64, u64)> = BTreeMap::new();
        for sent in &all {
            let Some((copies, _, frame)) = both.send(sent) else { continue };
            let count = expected.entry((sent.network.into(), sent.index.into())).or_default();
            count.0 += 1;
            count.1 += frame.len() as u64;
            count.2 += u64::from(copies.is_empty());
        }
        for id in both.switch.ports() {
            let counts = both.switch.counts(id);
            let (frames, bytes, dropped) =
                expected.get(&(id.network(), id.index())).copied().unwrap_or_default();
            prop_assert_eq!((counts.frames_in, counts.bytes_in), (frames, bytes));
            prop_assert_eq!(counts.dropped.iter().sum::<u64>(), dropped);
        }
    }

    #[test]
    fn a_port_that_is_saved_and_put_back_is_the_same(
        networks in networks(),
        all in prop::collection::vec(sent(), 1..pick(60, 8)),
        next in sent(),
    ) {
        let mut both = Both::new(&networks);
        for sent in &all {
            both.send(sent);
        }
        let other = switch(&networks);
        for id in both.switch.ports() {
            let bytes = postcard::to_allocvec(&both.switch.state(id)).unwrap();
            let state: PortState = postcard::from_bytes(&bytes).unwrap();
            other.set_state(id, &state);
            prop_assert_eq!(other.state(id).counts, state.counts);
        }
        both.switch = other;
        if let Some((copies, model, _)) = both.send(&next) {
            prop_assert_eq!(copies, model);
        }
    }
}
