//! A console that is saved at any moment, and restored, against one that is not.

use proptest::prelude::*;

use super::*;
use crate::testing::{carried, damaged, pick, start};
use crate::virtio::transport::saved::Unfit;

/// Two ports with names, and their queues beside those of the first and for control.
const QUEUES: usize = 8;

#[derive(Clone, Debug)]
enum Step {
    /// The driver says this of a port.
    Say {
        port: u32,
        event: u16,
        value: u16,
    },
    /// Offers a buffer of this size to be received into, or bytes that are sent.
    Expect(usize, usize),
    Send(usize, usize),
    Advance,
    Answer,
    Acknowledge,
    /// Somebody types, or the others' ends send, receive, or are opened and closed.
    Type(usize),
    OtherSends(usize, usize),
    OtherReceives(usize, usize),
    OtherOpens(usize, bool),
    /// The one is saved and restored here.
    Here,
}

struct World {
    ram: SharedRam,
    line: Arc<ScriptedLine>,
    bells: Arc<Doorbells>,
    ends: Vec<[End; 2]>,
    device: Option<Transport<ConsoleDevice<Arc<ScriptedLine>>, SharedRam>>,
    drivers: Vec<Driver>,
    next: u64,
    /// What has come back by the queues, at the line and at the others' ends.
    back: Vec<(usize, u16, u32)>,
    output: Vec<u8>,
    taken: Vec<u8>,
}

fn place(queue: usize) -> Place {
    let at = BASE + 0x1000 * queue as u64;
    Place { size: SIZE, descriptors: at, driver: at + 0x400, device: at + 0x800 }
}

impl World {
    fn new(packed: bool) -> Self {
        let (ram, line) = (shared_ram(BASE, PAGES), Arc::new(ScriptedLine::default()));
        let negotiated = Negotiated { packed, ..Negotiated::default() };
        let drivers = (0..QUEUES).map(|queue| Driver::new(place(queue), negotiated, 0)).collect();
        let (bells, ends) = (Arc::new(Doorbells::new(1)), vec![End::pair(), End::pair()]);
        let (back, output, taken) = (vec![], vec![], vec![]);
        let device = None;
        let mut world =
            Self { ram, line, bells, ends, device, drivers, next: DATA, back, output, taken };
        for ends in &world.ends {
            // Somebody is there who has memory for what comes.
            let nobody = Doorbell::new(Arc::new(Doorbells::new(1)), VmId(0), 0);
            ends[1].plug(Some(nobody));
            ends[1].set_open(true);
        }
        let mut device = world.fresh();
        let features = MULTIPORT | VERSION_1 | u64::from(packed) << 34;
        let places: Vec<_> = (0..QUEUES).map(place).collect();
        assert!(start(&mut device, features, &places));
        world.device = Some(device);
        world
    }

    fn fresh(&self) -> Transport<ConsoleDevice<Arc<ScriptedLine>>, SharedRam> {
        let named = self.ends.iter().zip(["one", "two"]);
        let named = named.map(|(ends, name)| NamedPort { name: name.into(), end: ends[0].clone() });
        let bell = Doorbell::new(self.bells.clone(), VmId(0), 0);
        let console = ConsoleDevice::new(self.line.clone(), true, named.collect(), bell);
        Transport::new(console, self.ram.clone(), "test".into())
    }

    fn device(&mut self) -> &mut Transport<ConsoleDevice<Arc<ScriptedLine>>, SharedRam> {
        self.device.as_mut().unwrap()
    }

    fn buffer(&mut self, size: usize) -> Buffer {
        if self.next + size as u64 > BASE + PAGES * 4096 {
            self.next = DATA;
        }
        let at = self.next;
        self.next += size as u64;
        Buffer { ipa: Ipa::new(at), size: size.try_into().unwrap() }
    }

    fn offer(&mut self, queue: usize, offer: &Offer) {
        self.drivers[queue].offer(self.ram.get().unwrap(), offer);
        if self.drivers[queue].show(self.ram.get().unwrap()) {
            self.device().write(0x050, Width::Word, queue as u64, NOW);
        }
    }

    fn send(&mut self, queue: usize, bytes: &[u8]) {
        let half = bytes.len() / 2;
        let mut readable = vec![];
        for part in [&bytes[..half], &bytes[half..]] {
            if !part.is_empty() {
                let buffer = self.buffer(part.len());
                self.ram.get().unwrap().write_from(buffer.ipa, part).unwrap();
                readable.push(buffer);
            }
        }
        self.offer(queue, &Offer { readable, ..Offer::default() });
    }

    fn act(&mut self, step: &Step, saves: bool) {
        let pattern =
            |size: usize| (0..size).map(|n| (n % 251).to_le_bytes()[0]).collect::<Vec<_>>();
        match *step {
            Step::Say { port, event, value } => {
                let bytes = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()];
                self.send(3, &bytes.concat());
            }
            Step::Expect(queue, size) => {
                let writable = vec![self.buffer(size)];
                self.offer(2 * queue, &Offer { writable, ..Offer::default() });
            }
            Step::Send(queue, size) => self.send(2 * queue + 1, &pattern(size)),
            Step::Advance => self.device().advance(NOW),
            Step::Answer => {
                let mut rung = false;
                self.bells.answer(|_, _| rung = true);
                if rung {
                    self.device().signal(Signal::Input, NOW);
                }
            }
            Step::Acknowledge => {
                let seen = self.device().read(0x060, Width::Word, NOW);
                self.device().write(0x064, Width::Word, seen, NOW);
                self.collect();
            }
            Step::Type(size) => self.line.type_in(&pattern(size)),
            Step::OtherSends(port, size) => {
                self.ends[port][1].send(&pattern(size));
            }
            Step::OtherReceives(port, size) => {
                let mut bytes = vec![0; size];
                let count = self.ends[port][1].receive(&mut bytes);
                self.taken.extend(&bytes[..count]);
            }
            Step::OtherOpens(port, open) => self.ends[port][1].set_open(open),
            Step::Here if saves => {
                // What the one before does when it goes is not answered by anybody.
                let rung = self.bells.is_rung();
                let saved = carried(&self.device().save());
                self.device = None;
                self.device = Some(self.fresh());
                self.device().restore(saved).unwrap();
                self.device().advance(NOW);
                if !rung {
                    self.bells.answer(|_, _| {});
                }
            }
            Step::Here => {
                let rung = self.bells.is_rung();
                self.device().signal(Signal::Input, NOW);
                if !rung {
                    self.bells.answer(|_, _| {});
                }
            }
        }
    }

    fn collect(&mut self) {
        for (queue, driver) in self.drivers.iter_mut().enumerate() {
            while let Some((id, written)) = driver.used(self.ram.get().unwrap()) {
                self.back.push((queue, id, written));
            }
        }
        self.output.extend(self.line.take_output());
    }

    fn ram(&self) -> Vec<u8> {
        let mut ram = vec![0; usize::try_from(PAGES * 4096).unwrap()];
        self.ram.get().unwrap().read_into(Ipa::new(BASE), &mut ram).unwrap();
        ram
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let queue = || prop_oneof![Just(0usize), Just(2), Just(3)];
    let event = prop_oneof![3 => Just(3u16), 4 => Just(6), 1 => 0u16..9];
    let say = (0u32..4, event, prop_oneof![4 => Just(1u16), 1 => Just(0)]);
    let begins = [
        Step::Say { port: 0, event: 0, value: 1 },
        Step::Say { port: 1, event: 3, value: 1 },
        Step::Say { port: 1, event: 6, value: 1 },
        Step::Say { port: 2, event: 6, value: 1 },
    ];
    let step = prop_oneof![
        2 => say.prop_map(|(port, event, value)| Step::Say { port, event, value }),
        4 => (0usize..4, 1usize..300).prop_map(|(queue, size)| Step::Expect(queue, size)),
        4 => (queue(), prop_oneof![1usize..300, 1000usize..pick(12_000, 1500)]).prop_map(|(queue, size)| Step::Send(queue, size)),
        4 => Just(Step::Advance),
        3 => Just(Step::Answer),
        2 => Just(Step::Acknowledge),
        1 => (1usize..200).prop_map(Step::Type),
        3 => (0usize..2, 1usize..pick(9000, 900)).prop_map(|(port, size)| Step::OtherSends(port, size)),
        3 => (0usize..2, 1usize..9000).prop_map(|(port, size)| Step::OtherReceives(port, size)),
        1 => (0usize..2, any::<bool>()).prop_map(|(port, open)| Step::OtherOpens(port, open)),
        4 => Just(Step::Here),
    ];
    prop::collection::vec(step, 1..pick(80, 8)).prop_map(move |mut steps| {
        steps.splice(0..0, begins.clone());
        steps
    })
}

proptest! {
    #![proptest_config(crate::testing::cases(128, 1))]

    #[test]
    fn a_console_that_is_saved_and_restored_goes_on_as_if_it_had_not_been(
        packed: bool, steps in steps(),
    ) {
        let [mut reference, mut saved] = [0; 2].map(|_| World::new(packed));
        for step in &steps {
            reference.act(step, false);
            saved.act(step, true);
            prop_assert_eq!(reference.device().save(), saved.device().save());
        }
        reference.collect();
        saved.collect();
        prop_assert_eq!(&reference.back, &saved.back);
        prop_assert!(reference.output == saved.output && reference.taken == saved.taken);
        prop_assert!(reference.ram() == saved.ram());
    }

    #[test]
    fn no_state_that_is_restored_makes_it_panic(
        packed: bool, steps in steps(), more in steps(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..5),
    ) {
        let mut world = World::new(packed);
        steps.iter().for_each(|step| world.act(step, false));
        let Some(saved) = damaged(&world.device().save(), &changes) else { return Ok(()) };
        world.device = None;
        let mut device = world.fresh();
        if let Err(why) = device.restore(saved) {
            prop_assert!(!why.to_string().is_empty());
        }
        world.device = Some(device);
        for step in more {
            if !matches!(step, Step::Acknowledge) {
                world.act(&step, false);
            }
        }
    }
}

#[test]
fn what_waits_for_a_guest_is_saved_with_it_and_what_it_has_half_sent_goes_on() {
    let mut world = World::new(false);
    for step in [
        Step::Say { port: 1, event: 6, value: 1 },
        Step::OtherSends(0, 3000),
        Step::Send(2, 12_000),
    ] {
        world.act(&step, false);
    }
    let saved = world.device().save();
    assert!(saved.queues()[5].in_hand().is_some(), "its chain is in hand");
    world.act(&Step::Here, true);
    for _ in 0..pick(200, 30) {
        for step in [
            Step::Advance,
            Step::Answer,
            Step::OtherReceives(0, pick(700, 3000)),
            Step::Expect(2, 400),
        ] {
            world.act(&step, false);
        }
        world.collect();
    }
    let pattern: Vec<u8> = (0..12_000).map(|n: usize| (n % 251).to_le_bytes()[0]).collect();
    assert!(world.taken == pattern);
    let received: u32 = world.back.iter().filter(|back| back.0 == 4).map(|back| back.2).sum();
    assert_eq!(received, 3000);
}

#[test]
fn more_than_a_channel_has_room_for_is_refused() {
    let mut world = World::new(false);
    world.act(&Step::Say { port: 1, event: 6, value: 1 }, false);
    world.act(&Step::OtherSends(0, 100), false);
    let saved = carried(&world.device().save());
    world.device = None;
    // The port that it waits for is nobody's.
    world.ends.pop();
    let mut other = world.fresh();
    let why = other.restore(saved).unwrap_err();
    assert_eq!(why, Unfit::Queues { got: 8, wanted: 6 });
}
