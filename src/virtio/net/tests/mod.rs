//! Claims about network cards, made with a model of their drivers.

mod empty;
mod formats;
mod outside;
mod pairs;
mod saved;
mod start;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use proptest::prelude::*;

use super::lan::Lan;
use super::socket::Plug;
use super::*;
use crate::addr::Ipa;
use crate::device::doorbell::{Doorbell, Doorbells};
use crate::device::{Device, Signal};
use crate::net::{Plan, PortConfig, Vlans};
use crate::sched::VmId;
use crate::testing::{pick, shared_ram, start};
use crate::time::{Frequency, Ticks};
use crate::virtio::queue::fake::{Driver, Offer};
use crate::virtio::queue::{Buffer, Negotiated, Place};
use crate::virtio::ram::SharedRam;
use crate::virtio::transport::Transport;

const NOW: Ticks = Ticks(0);
const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 128;
/// Where a driver has what it sends, and its receive buffers.
const SENT: u64 = BASE + 0x2_0000;
const RECEIVED: u64 = BASE + 0x4_0000;
/// Where the tables of indirect chains are, of those queues for which there is room.
const TABLES: u64 = BASE + 0x7_0000;
const SIZE_OF_QUEUE: u16 = 64;
const VERSION_1: u64 = 1 << 32;

/// A card with its driver, in RAM of its own.
struct Card {
    ram: SharedRam,
    device: Transport<NetDevice, SharedRam>,
    transmit: Driver,
    receive: Driver,
    /// The other pairs' queues, from receive queue 2 on, and the control queue.
    more: Vec<Driver>,
    /// For each name of a receive buffer's where it is.
    buffers: Vec<(u16, Buffer)>,
    next: u64,
}

fn place(queue: u64) -> Place {
    let at = BASE + 0x3000 * queue;
    Place { size: SIZE_OF_QUEUE, descriptors: at, driver: at + 0x1000, device: at + 0x2000 }
}

impl Card {
    fn new(lan: &Arc<Lan>, port: PortId, mac: MacAddr, bell: Doorbell, features: u64) -> Self {
        Self::with_vcpus(lan, port, mac, bell, features, 1)
    }

    fn with_vcpus(
        lan: &Arc<Lan>,
        port: PortId,
        mac: MacAddr,
        bell: Doorbell,
        features: u64,
        vcpus: u8,
    ) -> Self {
        let ram = shared_ram(BASE, PAGES);
        let card = NetDevice::new(lan.clone(), port, mac, vcpus);
        let steering = card.steering().clone();
        let queues = u64::try_from(card.queues().len()).unwrap();
        let mut device = Transport::new(card, ram.clone(), String::from("test"));
        lan.plug(port, Some(Plug { queues: device.queues().clone(), bell, steering }));
        let mut set = |offset: u64, value: u64| device.write(offset, Width::Word, value, NOW);
        let features = features | VERSION_1;
        for status in [0, 1, 3] {
            set(0x070, status);
        }
        for (sel, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            set(0x024, sel);
            set(0x020, half);
        }
        set(0x070, 11);
        for queue in 0..queues {
            let place = place(queue);
            set(0x030, queue);
            set(0x038, place.size.into());
            let areas = [(0x080, place.descriptors), (0x090, place.driver), (0x0a0, place.device)];
            for (offset, area) in areas {
                set(offset, area & 0xffff_ffff);
                set(offset + 4, area >> 32);
            }
            set(0x044, 1);
        }
        set(0x070, 15);
        assert_eq!(device.read(0x070, Width::Word, NOW), 15);
        let has = |bit: u32| features & 1 << bit != 0;
        let (indirect, event_index, packed, in_order) = (has(28), has(29), has(34), has(35));
        let negotiated = Negotiated { indirect, event_index, packed, in_order };
        let driver = |queue| Driver::new(place(queue), negotiated, TABLES + 0x4000 * queue);
        let (receive, transmit) = (driver(0), driver(1));
        let more = (2..queues).map(driver).collect();
        Self { ram, device, transmit, receive, more, buffers: vec![], next: RECEIVED }
    }

    /// Offers receive buffers of these sizes.
    fn expect(&mut self, sizes: &[u32]) {
        for size in sizes {
            let buffer = Buffer { ipa: Ipa::new(self.next), size: *size };
            self.next += u64::from(*size) + 3;
            let offer = Offer { writable: vec![buffer], ..Offer::default() };
            let name = self.receive.offer(self.ram.get().unwrap(), &offer).unwrap();
            self.buffers.push((name, buffer));
        }
        self.receive.show(self.ram.get().unwrap());
    }

    /// Sends a frame with this header, in pieces of these sizes and a last one.
    fn send(&mut self, header: &[u8], frame: &[u8], pieces: &[u32]) {
        let bytes = [header, frame].concat();
        self.ram.get().unwrap().write_from(Ipa::new(SENT), &bytes).unwrap();
        let (mut at, mut readable) = (0, vec![]);
        let whole = u32::try_from(bytes.len()).unwrap();
        for size in pieces.iter().copied().chain([whole]) {
            let size = size.min(whole - at);
            readable.push(Buffer { ipa: Ipa::new(SENT + u64::from(at)), size });
            at += size;
        }
        readable.retain(|buffer| buffer.size > 0);
        self.transmit
            .offer(self.ram.get().unwrap(), &Offer { readable, ..Offer::default() })
            .unwrap();
        self.transmit.show(self.ram.get().unwrap());
        self.device.write(0x050, Width::Word, 1, NOW);
    }

    /// Does what is left to do. How often it was asked.
    fn go_on(&mut self) -> usize {
        let mut asked = 0;
        while self.device.deadline().is_some() {
            self.device.advance(NOW);
            asked += 1;
        }
        asked
    }

    /// What has become of the next frame that was sent.
    fn sent(&mut self) -> Option<(u16, u32)> {
        self.transmit.used(self.ram.get().unwrap())
    }

    /// The next frame that has come, and the header before it.
    fn received(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut bytes = vec![];
        let mut left = 1;
        while left > 0 {
            let (name, written) = self.receive.used(self.ram.get().unwrap())?;
            let at = self.buffers.iter().position(|(one, _)| *one == name).unwrap();
            let (_, buffer) = self.buffers.remove(at);
            let mut part = vec![0; usize::try_from(written).unwrap()];
            self.ram.get().unwrap().read_into(buffer.ipa, &mut part).unwrap();
            if bytes.is_empty() {
                left = u16::from_le_bytes([part[10], part[11]]);
            }
            bytes.extend(part);
            left -= 1;
        }
        let frame = bytes.split_off(12);
        Some((bytes, frame))
    }
}

fn mac(number: usize) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, u8::try_from(number).unwrap()])
}

/// Cards of one network, at such ports and with such features.
fn cards(ports: Vec<(Vlans, u64)>) -> (Vec<Card>, Arc<Lan>, Arc<Doorbells>) {
    let mut plan = Plan::default();
    plan.network(false).unwrap();
    let ids: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(at, (vlans, _))| {
            let port = PortConfig { vlans: vlans.clone(), ..PortConfig::new(mac(at)) };
            plan.join(0, port).unwrap()
        })
        .collect();
    let switch = plan.build(Frequency(NonZeroU32::new(1000).unwrap())).unwrap();
    let lan = Arc::new(Lan::new(switch, || Ticks(5)));
    let bells = Arc::new(Doorbells::new(ports.len()));
    let all = ids.iter().zip(&ports).enumerate().map(|(at, (port, (_, features)))| {
        let bell = Doorbell::new(bells.clone(), VmId(u16::try_from(at).unwrap()), 0);
        Card::new(&lan, *port, mac(at), bell, *features)
    });
    (all.collect(), lan.clone(), bells)
}

fn two(features: u64) -> Vec<Card> {
    cards(vec![(Vlans::default(), feature::ALL), (Vlans::default(), features)]).0
}

/// The internet checksum (RFC 1071), the slow way.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn pseudo(frame: &[u8]) -> Vec<u8> {
    let length = u16::try_from(frame.len() - 34).unwrap();
    [&frame[26..34], &[0, 6], &length.to_be_bytes()].concat()
}

/// TCP over IPv4 from the first card to the second, its checksum not finished, and the header that says so.
fn tcp(payload: usize, segment: u16) -> (Vec<u8>, Vec<u8>) {
    let mut frame = [&mac(1).0[..], &mac(0).0, &[8, 0]].concat();
    let length = u16::try_from(40 + payload).unwrap();
    let mut ip = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend([0x12, 0x34, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|n| (n % 251).to_le_bytes()[0]));
    let partial = !checksum(&pseudo(&frame));
    frame[50..52].copy_from_slice(&partial.to_be_bytes());
    let kind = u8::from(segment > 0);
    let [low, high] = segment.to_le_bytes();
    let header = vec![1, kind, 54, 0, low, high, 34, 0, 16, 0, 0, 0];
    (header, frame)
}

#[test]
fn what_is_left_to_be_done_goes_to_who_does_it_in_as_many_buffers_as_it_takes() {
    let mut cards = two(feature::ALL);
    let (header, frame) = tcp(9000, 1460);
    cards[1].expect(&[1500; 10]);
    cards[0].send(&header, &frame, &[12, 54]);
    assert_eq!(cards[1].device.queues().interrupt(), 1);
    let (got_header, got) = cards[1].received().unwrap();
    assert_eq!(got_header[..10], header[..10]);
    assert_eq!(u16::from_le_bytes([got_header[10], got_header[11]]), 7);
    assert!(got == frame);
    assert_eq!(cards[0].sent(), Some((0, 0)));
}

#[test]
fn who_takes_only_finished_frames_gets_them_finished() {
    let mut cards = two(feature::MAC);
    let (header, frame) = tcp(5000, 1460);
    cards[1].expect(&[1600; 6]);
    cards[0].send(&header, &frame, &[]);
    cards[0].go_on();
    let mut payload = vec![];
    for length in [1460, 1460, 1460, 620] {
        let (header, frame) = cards[1].received().unwrap();
        assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(frame.len(), 54 + length);
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(checksum(&[&pseudo(&frame)[..], &frame[34..]].concat()), 0);
        payload.extend_from_slice(&frame[54..]);
    }
    assert!(payload == frame[54..]);
    assert!(cards[1].received().is_none());
    // And one whose checksum alone is left.
    let (header, frame) = tcp(100, 0);
    cards[0].send(&header, &frame, &[]);
    cards[0].go_on();
    let (_, got) = cards[1].received().unwrap();
    assert_eq!(checksum(&[&pseudo(&got)[..], &got[34..]].concat()), 0);
    assert!(got[54..] == frame[54..]);
}

#[test]
fn a_tag_that_is_put_in_moves_what_the_header_speaks_of() {
    let access = (Vlans::Access(7), feature::ALL);
    let trunk = Vlans::Trunk { tagged: vec![7, 8], native: None };
    let (mut cards, ..) = cards(vec![access, (trunk, feature::ALL)]);
    let (header, frame) = tcp(300, 0);
    cards[1].expect(&[1600]);
    cards[0].send(&header, &frame, &[]);
    let (got_header, got) = cards[1].received().unwrap();
    assert!(got == [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat());
    assert_eq!(got_header, [1, 0, 58, 0, 0, 0, 38, 0, 16, 0, 1, 0]);
    // What concerns the addresses or the tag is not a receiver's to do.
    let early = [1, 0, 0, 0, 0, 0, 13, 0, 0, 0, 0, 0];
    cards[1].expect(&[1600]);
    cards[0].send(&early, &frame, &[]);
    assert!(cards[1].received().is_none());
}

#[test]
fn one_for_many_is_copied_a_few_at_a_time() {
    const COUNT: usize = pick(60, 40);
    let (mut cards, lan, bells) = cards(vec![(Vlans::default(), feature::ALL); COUNT]);
    for card in cards.iter_mut().skip(1) {
        card.expect(&[2000]);
    }
    let frame = [&[0xff; 6][..], &mac(0).0, &[0x88, 0xb5], &[3; 1000]].concat();
    cards[0].send(&[0; 12], &frame, &[]);
    let (mut rung, mut begun) = (0, 0);
    bells.answer(|_, _| begun += 1);
    assert!((1..30).contains(&begun), "{begun} at one go");
    assert!(cards[0].sent().is_none());
    // Others come first.
    assert!(cards[0].go_on() > 1);
    assert!(cards[0].sent().is_some());
    bells.answer(|_, _| rung += 1);
    assert_eq!(begun + rung, COUNT - 1);
    for card in cards.iter_mut().skip(1) {
        card.device.signal(Signal::Input, NOW);
        assert!(card.device.irq_level());
        assert!(card.received().unwrap().1 == frame);
    }
    let out = |at| lan.switch().counts(lan.switch().ports().nth(at).unwrap()).frames_out;
    assert!((1..COUNT).all(|at| out(at) == 1));
    // A reset in the middle of it: the rest is not sent, and the device works again.
    cards[0].send(&[0; 12], &frame, &[]);
    cards[0].device.reset();
    assert_eq!(cards[0].go_on(), 0);
}

proptest! {
    #![proptest_config(crate::testing::cases(64, 1))]

    /// However sender and receiver divide their memory: a frame arrives as it was sent, or not at all.
    #[test]
    fn a_frame_arrives_whole_or_not_at_all(
        sizes in prop::collection::vec(1u32..3000, 1..20),
        pieces in prop::collection::vec(1u32..3000, 0..6),
        length in 0usize..9000,
        mergeable: bool,
    ) {
        let features = if mergeable { feature::ALL } else { feature::ALL & !feature::MRG_RXBUF };
        let mut cards = two(features);
        cards[1].expect(&sizes);
        let payload: Vec<u8> = (0..length).map(|n| (n % 253).to_le_bytes()[0]).collect();
        let frame = [&mac(1).0[..], &mac(0).0, &[0x88, 0xb5], &payload].concat();
        cards[0].send(&[0; 12], &frame, &pieces);
        cards[0].go_on();
        prop_assert!(cards[0].sent().is_some());
        let room: usize = sizes.iter().map(|size| usize::try_from(*size).unwrap()).sum();
        let first = usize::try_from(sizes[0]).unwrap();
        let fits = 12 + frame.len() <= if mergeable { room } else { first };
        if first >= 12 {
            let got = cards[1].received();
            prop_assert_eq!(got.is_some(), fits);
            prop_assert!(got.is_none_or(|(_, got)| got == frame));
        }
    }
}

#[test]
fn features_that_need_others_are_refused_without_them() {
    let (mut one, ..) = pairs::one_with(2, feature::MAC);
    let all = feature::ALL | feature::MQ | feature::CTRL_VQ | VERSION_1;
    let mut takes = |features| start(&mut one.device, features, &[]);
    assert!(takes(all));
    let needs = [
        (feature::GUEST_TSO4, feature::GUEST_CSUM),
        (feature::GUEST_TSO6, feature::GUEST_CSUM),
        (feature::GUEST_ECN, feature::GUEST_CSUM | feature::GUEST_TSO4),
        (feature::GUEST_ECN, feature::GUEST_CSUM | feature::GUEST_TSO6),
        (feature::HOST_TSO4, feature::CSUM),
        (feature::HOST_TSO6, feature::CSUM),
        (feature::HOST_ECN, feature::CSUM | feature::HOST_TSO4),
        (feature::HOST_ECN, feature::CSUM | feature::HOST_TSO6),
        (feature::MQ, feature::CTRL_VQ),
    ];
    for (feature, needed) in needs {
        assert!(takes(feature | needed | VERSION_1), "{feature:#x} with {needed:#x}");
        assert!(!takes(feature | VERSION_1), "{feature:#x} alone");
        // What is needed is of use without it.
        assert!(takes(needed | VERSION_1), "{needed:#x} alone");
    }
    // One of the two is enough, none is not.
    let tso = feature::GUEST_TSO4 | feature::GUEST_TSO6;
    assert!(takes(all & !feature::GUEST_TSO4) && takes(all & !feature::GUEST_TSO6));
    assert!(!takes(all & !tso) && !takes(all & !feature::CSUM) && !takes(all & !feature::CTRL_VQ));
    assert!(takes(all & !tso & !feature::GUEST_ECN));
}
