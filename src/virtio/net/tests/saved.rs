//! Cards that are saved at any moment, and restored, against cards that are not.

use super::*;
use crate::net::Counts;
use crate::testing::{carried, damaged, pick};
use crate::virtio::transport::saved::{Saved, Unfit};

const CARDS: usize = 3;
/// How many vCPUs the guests have.
const VCPUS: u8 = 2;
const SEVERAL: u64 = feature::ALL | feature::MQ | feature::CTRL_VQ;

#[derive(Clone, Debug)]
enum Step {
    /// One card sends such a frame to the next one, or to all; by the second pair too.
    Send {
        card: usize,
        second: bool,
        all: bool,
        payload: usize,
        segment: u16,
    },
    /// One card has room for so many frames of this size.
    Expect(usize, usize, u32),
    UsePairs(usize, u16),
    Advance(usize),
    Answer,
    Acknowledge(usize),
    /// The one is saved and restored here.
    Here(usize),
}

struct World {
    cards: Vec<Card>,
    lan: Arc<Lan>,
    bells: Arc<Doorbells>,
    ports: Vec<PortId>,
    /// What has come back, by card and queue.
    back: Vec<(usize, usize, u16, u32)>,
}

impl World {
    fn new() -> Self {
        let mut plan = Plan::default();
        plan.network(false).unwrap();
        let vlans = [
            Vlans::default(),
            Vlans::default(),
            Vlans::Trunk { tagged: vec![crate::net::DEFAULT_VID], native: None },
        ];
        let port = |(at, vlans)| PortConfig { vlans, ..PortConfig::new(mac(at)) };
        let configs: Vec<_> = vlans.into_iter().enumerate().map(port).collect();
        let ports: Vec<_> = configs.into_iter().map(|port| plan.join(0, port).unwrap()).collect();
        let switch = plan.build(Frequency(NonZeroU32::new(1000).unwrap())).unwrap();
        let lan = Arc::new(Lan::new(switch, || Ticks(5)));
        let bells = Arc::new(Doorbells::new(CARDS));
        let features = [SEVERAL, SEVERAL, feature::MAC];
        let cards = (0..CARDS).map(|at| {
            let bell = Doorbell::new(bells.clone(), VmId(u16::try_from(at).unwrap()), 0);
            Card::with_vcpus(&lan, ports[at], mac(at), bell, features[at], VCPUS)
        });
        Self { cards: cards.collect(), lan: lan.clone(), bells, ports, back: vec![] }
    }

    fn offer(&mut self, card: usize, queue: usize, offer: &Offer) {
        let Card { ram, transmit, receive, more, device, .. } = &mut self.cards[card];
        let driver = match queue {
            0 => receive,
            1 => transmit,
            _ => &mut more[queue - 2],
        };
        driver.offer(ram.get().unwrap(), offer);
        if driver.show(ram.get().unwrap()) {
            device.write(0x050, Width::Word, queue as u64, NOW);
        }
    }

    fn act(&mut self, step: &Step, saves: bool) {
        match *step {
            Step::Send { card, second, all, payload, segment } => {
                let (header, mut frame) = tcp(payload, segment);
                let to = (card + 1) % CARDS;
                frame[..6].copy_from_slice(&if all { [0xff; 6] } else { mac(to).0 });
                frame[6..12].copy_from_slice(&mac(card).0);
                let bytes = [header, frame].concat();
                let at = SENT + if second { 0x1_0000 } else { 0 };
                self.cards[card].ram.get().unwrap().write_from(Ipa::new(at), &bytes).unwrap();
                let size = u32::try_from(bytes.len()).unwrap();
                let piece = |from: u32, size| Buffer { ipa: Ipa::new(at + u64::from(from)), size };
                let readable = vec![piece(0, 40), piece(40, size - 40)];
                let queue = if second && card < 2 { 3 } else { 1 };
                self.offer(card, queue, &Offer { readable, ..Offer::default() });
            }
            Step::Expect(card, count, size) => {
                for pair in 0..if card < 2 { 2 } else { 1 } {
                    for _ in 0..count {
                        let at = &mut self.cards[card].next;
                        if *at + 2 * u64::from(size) > BASE + PAGES * 4096 {
                            *at = RECEIVED;
                        }
                        let buffer = Buffer { ipa: Ipa::new(*at), size };
                        *at += u64::from(size) + 3;
                        let offer = Offer { writable: vec![buffer], ..Offer::default() };
                        self.offer(card, 2 * pair, &offer);
                    }
                }
            }
            Step::UsePairs(card, pairs) => {
                let at = SENT + 0x1_f000;
                let command = [&[4, 0][..], &pairs.to_le_bytes()].concat();
                self.cards[card].ram.get().unwrap().write_from(Ipa::new(at), &command).unwrap();
                let readable = vec![Buffer { ipa: Ipa::new(at), size: 4 }];
                let writable = vec![Buffer { ipa: Ipa::new(at + 4), size: 1 }];
                self.offer(card, 4, &Offer { readable, writable, indirect: false });
            }
            Step::Advance(card) => self.cards[card].device.advance(NOW),
            Step::Answer => {
                let mut rung = vec![];
                self.bells.answer(|vm, _| rung.push(vm.index()));
                for card in rung {
                    self.cards[card].device.signal(Signal::Input, NOW);
                }
            }
            Step::Acknowledge(card) => {
                let device = &mut self.cards[card].device;
                let seen = device.read(0x060, Width::Word, NOW);
                device.write(0x064, Width::Word, seen, NOW);
                self.collect(card);
            }
            Step::Here(card) if saves => {
                let saved = carried(&self.cards[card].device.save());
                self.replace(card);
                self.cards[card].device.restore(saved).unwrap();
                self.cards[card].device.advance(NOW);
            }
            Step::Here(card) => self.cards[card].device.signal(Signal::Input, NOW),
        }
    }

    /// Another card is where this one was.
    fn replace(&mut self, card: usize) {
        let (port, ram) = (self.ports[card], self.cards[card].ram.clone());
        let new = || NetDevice::new(self.lan.clone(), port, mac(card), VCPUS);
        // What is there goes first.
        self.cards[card].device = Transport::new(new(), ram.clone(), "none".into());
        let device = new();
        let steering = device.steering().clone();
        self.cards[card].device = Transport::new(device, ram, "test".into());
        let bell = Doorbell::new(self.bells.clone(), VmId(u16::try_from(card).unwrap()), 0);
        let queues = self.cards[card].device.queues().clone();
        self.lan.plug(port, Some(Plug { queues, bell, steering }));
    }

    fn collect(&mut self, card: usize) {
        let Card { ram, transmit, receive, more, .. } = &mut self.cards[card];
        let drivers = [receive, transmit].into_iter().chain(more);
        for (queue, driver) in drivers.enumerate() {
            while let Some((id, written)) = driver.used(ram.get().unwrap()) {
                self.back.push((card, queue, id, written));
            }
        }
    }

    fn saved(&self) -> Vec<Saved<super::super::saved::SavedNet>> {
        self.cards.iter().map(|card| card.device.save()).collect()
    }

    fn counts(&self) -> Vec<Counts> {
        self.ports.iter().map(|port| self.lan.switch().counts(*port)).collect()
    }

    fn ram(&self) -> Vec<u8> {
        let mut all = vec![];
        for card in &self.cards {
            let mut ram = vec![0; usize::try_from(PAGES * 4096).unwrap()];
            card.ram.get().unwrap().read_into(Ipa::new(BASE), &mut ram).unwrap();
            all.extend(ram);
        }
        all
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let card = || 0..CARDS;
    let payload = prop_oneof![1usize..1400, 20_000usize..60_000];
    let send = (card(), any::<bool>(), any::<bool>(), payload, 256u16..1461);
    let send = send.prop_map(|(card, second, all, payload, segment)| Step::Send {
        card,
        second,
        all,
        payload,
        segment,
    });
    let step = prop_oneof![
        5 => send,
        4 => (card(), 1usize..12, prop_oneof![Just(1530u32), Just(4096)])
            .prop_map(|(card, count, size)| Step::Expect(card, count, size)),
        1 => (0usize..2, 0u16..4).prop_map(|(card, pairs)| Step::UsePairs(card, pairs)),
        5 => card().prop_map(Step::Advance),
        1 => Just(Step::Answer),
        2 => card().prop_map(Step::Acknowledge),
        5 => card().prop_map(Step::Here),
    ];
    prop::collection::vec(step, 1..pick(60, 8))
}

proptest! {
    #![proptest_config(crate::testing::cases(96, 1))]

    #[test]
    fn a_card_that_is_saved_and_restored_goes_on_as_if_it_had_not_been(steps in steps()) {
        let [mut reference, mut saved] = [0; 2].map(|_| World::new());
        for step in &steps {
            reference.act(step, false);
            saved.act(step, true);
            prop_assert_eq!(reference.saved(), saved.saved());
        }
        for card in 0..CARDS {
            reference.collect(card);
            saved.collect(card);
        }
        prop_assert_eq!(&reference.back, &saved.back);
        prop_assert_eq!(reference.counts(), saved.counts());
        prop_assert!(reference.ram() == saved.ram());
    }

    #[test]
    fn no_state_that_is_restored_makes_it_panic(
        steps in steps(), more in steps(), card in 0..CARDS,
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..5),
    ) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.act(step, false));
        let Some(saved) = damaged(&world.cards[card].device.save(), &changes) else { return Ok(()) };
        world.replace(card);
        if let Err(why) = world.cards[card].device.restore(saved) {
            prop_assert!(!why.to_string().is_empty());
            prop_assert_eq!(world.cards[card].device.queues().features(), 0);
        }
        for step in more {
            if !matches!(step, Step::Acknowledge(_)) {
                world.act(&step, false);
            }
        }
    }
}

/// A frame for all is on its way in plain ones.
fn half_sent() -> World {
    let mut world = World::new();
    for card in 1..CARDS {
        world.act(&Step::Expect(card, 16, 4096), false);
    }
    let send = Step::Send { card: 0, second: false, all: true, payload: 30_000, segment: 1000 };
    world.act(&send, false);
    world
}

#[test]
fn a_frame_that_is_half_sent_is_saved_and_goes_on_to_whom_it_has_not_come() {
    let mut world = half_sent();
    let saved = world.cards[0].device.save();
    assert!(saved.queues()[1].in_hand().is_some(), "its chain is in hand");
    // The card that takes it as it is has it, the other not all of its parts.
    assert_eq!(world.cards[1].device.queues().interrupt(), 1);
    world.act(&Step::Here(0), true);
    world.cards[0].go_on();
    world.collect(2);
    let parts = world.back.iter().filter(|(_, queue, ..)| *queue == 0).count();
    assert_eq!(parts, 16, "as many as there was room for");
    world.back.clear();
    world.collect(1);
    assert_eq!(world.back.len(), 8, "30 KiB, once");
}

#[test]
fn a_frame_that_was_changed_while_it_was_saved_goes_to_nobody_who_is_not_to_have_it() {
    let mut world = half_sent();
    let saved = world.cards[0].device.save();
    let bytes = postcard::to_allocvec(&saved).unwrap();
    // As another card's, by the address that it is from.
    let (own, others) = (mac(0).0, mac(1).0);
    let places = bytes.windows(6).enumerate().filter(|(_, bytes)| *bytes == own);
    let places: Vec<_> = places.map(|(at, _)| at).collect();
    assert_eq!(places.len(), 1);
    let mut changed = bytes;
    changed[places[0]..places[0] + 6].copy_from_slice(&others);
    let changed: Saved<_> = postcard::from_bytes(&changed).unwrap();
    world.replace(0);
    let refused = world.cards[0].device.restore(changed);
    assert_eq!(refused, Err(Unfit::Device("a frame is on its way that cannot be")));
    // And by a card at another port, which has not sent it.
    let mut other = half_sent();
    assert!(other.cards[1].device.restore(carried(&saved)).is_err());
    assert_eq!(other.cards[1].device.queues().features(), 0);
}
