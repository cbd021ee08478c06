//! What drivers say by the control queues of network cards and consoles, in any pieces, and in any order with what else they do.
//! Each command is answered, with "OK" only where it can be done; a console tells of the ports that there are, and of each once
//! for each time that its driver is ready.
#![no_main]

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::sync::Arc;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::addr::Ipa;
use plinth::device::doorbell::{Doorbell, Doorbells};
use plinth::device::serial::ScriptedLine;
use plinth::device::{Device, Signal};
use plinth::net::{MacAddr, Plan, PortConfig};
use plinth::sched::VmId;
use plinth::time::Frequency;
use plinth::virtio::console::channel::End;
use plinth::virtio::console::{ConsoleDevice, NamedPort};
use plinth::virtio::net::NetDevice;
use plinth::virtio::net::lan::Lan;
use plinth::virtio::queue::Buffer;
use plinth::virtio::queue::fake::Offer;
use plinth::virtio::ram::SharedRam;
use plinth::virtio::transport::Transport;
use plinth_fuzz::driver::{Driven, NOW, RUNNING, Rings, STATUS};
use plinth_fuzz::{often, shared_ram};

const SIZE: u64 = 32 * 4096;
/// How many pairs of queues the card has, and how many ports with names the console.
const PAIRS: u16 = 2;
const PORTS: usize = 2;

#[derive(Debug)]
enum Step {
    /// These bytes, cut here.
    Say(Vec<u8>, u8),
    /// A buffer of this size for what the device says.
    Hear(u8),
    Work,
    Signal,
    Begin,
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=9)? {
            0 => Self::Work,
            1 => Self::Signal,
            2 => Self::Begin,
            3 | 4 => Self::Hear(u.arbitrary()?),
            // Class, command and pairs; or port, event and value.
            5 | 6 => Self::Say(
                [&[4, 0][..], &u.int_in_range(0..=5u16)?.to_le_bytes()].concat(),
                u.arbitrary()?,
            ),
            7 | 8 => {
                let (port, event) = (u.int_in_range(0..=3u32)?, u.int_in_range(0..=8u16)?);
                let value = often(u, &[0, 1])?.to_le_bytes();
                Self::Say(
                    [&port.to_le_bytes()[..], &event.to_le_bytes(), &value[..2]].concat(),
                    u.arbitrary()?,
                )
            }
            _ => Self::Say(u.arbitrary()?, u.arbitrary()?),
        })
    }
}

thread_local! {
    static GUEST: RefCell<SharedRam> = RefCell::new(shared_ram(SIZE));
}

/// A device, the queue by which it hears, and the one by which it says something, if it does.
struct World<D> {
    driven: Driven<D>,
    features: u64,
    rings: Rings,
    queues: usize,
    hears: usize,
    says: Option<usize>,
    /// Where what was offered is: by name, the reply's place.
    replies: Vec<(u16, Buffer)>,
}

impl<D: Device> World<D> {
    fn begin(&mut self) {
        self.driven.begin(self.features, self.rings, &[16; 8][..self.queues]);
        self.replies.clear();
    }

    /// Says `bytes` in two pieces, with room for an answer of a byte where there `is_answered`: where that is.
    fn say(&mut self, bytes: &[u8], cut: u8, is_answered: bool) -> Option<Ipa> {
        let bytes = bytes.get(..0x1000).unwrap_or(bytes);
        let readable = self.driven.pieces(bytes, cut);
        let answer = self.driven.text(&[0xee]);
        let writable = if is_answered { vec![answer] } else { Vec::new() };
        let name =
            self.driven.offer(self.hears, Offer { readable, writable, indirect: cut & 1 != 0 })?;
        self.driven.show(self.hears);
        self.work();
        let used = self.driven.used(self.hears).expect("it is taken at once");
        assert_eq!(used, (name, u32::from(is_answered)));
        is_answered.then_some(answer.ipa)
    }

    fn work(&mut self) {
        for _ in 0..100 {
            if self.driven.device.deadline().is_none() {
                return;
            }
            self.driven.device.advance(NOW);
        }
        panic!("there is always something to do");
    }

    /// What the device has said.
    fn heard(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some((name, written)) = self.says.and_then(|queue| self.driven.used(queue)) {
            let at = self.replies.iter().position(|(other, _)| *other == name);
            let (_, buffer) = self.replies.swap_remove(at.expect("it was offered"));
            assert!(written <= buffer.size);
            let mut bytes = vec![0; written as usize];
            self.driven.memory().read_into(buffer.ipa, &mut bytes).expect("it is RAM");
            all.push(bytes);
        }
        all
    }

    fn expect(&mut self, size: u8) {
        let Some(queue) = self.says else { return };
        let buffer = self.driven.buffer(usize::from(size).max(8));
        let offer = Offer { writable: vec![buffer], indirect: size & 1 != 0, ..Offer::default() };
        if let Some(name) = self.driven.offer(queue, offer) {
            self.replies.push((name, buffer));
            self.driven.show(queue);
        }
    }
}

fn card(steps: &[Step], rings: Rings, ram: SharedRam) {
    let mut plan = Plan::default();
    plan.network(false).expect("there is room");
    let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    let port = plan.join(0, PortConfig::new(mac)).expect("there is room");
    let frequency = Frequency(NonZeroU32::new(1000).expect("not zero"));
    let lan = Arc::new(Lan::new(plan.build(frequency).expect("it can be"), || NOW));
    let device = NetDevice::new(lan, port, mac, PAIRS as u8);
    let steering = device.steering().clone();
    let device = Transport::new(device, ram.clone(), "fuzzed".to_owned());
    let driven = Driven::new(device, ram, SIZE);
    let (queues, features) = (2 * usize::from(PAIRS) + 1, 1 << 5 | 1 << 17 | 1 << 22);
    let (hears, replies) = (queues - 1, Vec::new());
    let mut world = World { driven, features, rings, queues, hears, says: None, replies };
    world.begin();
    let mut pairs = 1;
    for step in steps {
        match step {
            Step::Say(bytes, cut) => {
                let Some(at) = world.say(bytes, *cut, true) else { continue };
                let asked = match bytes.as_slice() {
                    [4, 0, low, high, ..] => Some(u16::from_le_bytes([*low, *high])),
                    _ => None,
                };
                let asked = asked.filter(|asked| (1..=PAIRS).contains(asked));
                let answer: u8 = world.driven.memory().read(at).expect("it is RAM");
                assert_eq!(answer, u8::from(asked.is_none()));
                pairs = asked.unwrap_or(pairs);
            }
            Step::Begin => {
                world.begin();
                pairs = 1;
            }
            Step::Signal => world.driven.device.signal(Signal::Input, NOW),
            Step::Hear(_) | Step::Work => world.work(),
        }
        assert_eq!((u16::from(steering.pairs()), world.driven.get(STATUS)), (pairs, RUNNING));
    }
}

fn console(steps: &[Step], rings: Rings, ram: SharedRam) {
    let bells = Arc::new(Doorbells::new(1));
    let bell = Doorbell::new(bells.clone(), VmId(0), 0);
    let ends: [[End; 2]; PORTS] = [(); PORTS].map(|()| End::pair());
    let named = ends.iter().zip(["one", "two"]);
    let named = named.map(|([end, _], name)| NamedPort { name: name.into(), end: end.clone() });
    let line = Arc::new(ScriptedLine::default());
    let device = ConsoleDevice::new(line, true, named.collect(), bell);
    let device = Transport::new(device, ram.clone(), "fuzzed".to_owned());
    let driven = Driven::new(device, ram, SIZE);
    let (hears, says, replies) = (3, Some(2), Vec::new());
    let (queues, features) = (2 * (PORTS + 2), 1 << 1);
    let mut world = World { driven, features, rings, queues, hears, says, replies };
    world.begin();
    // How often each port may still be told of.
    let mut adds = [0usize; PORTS + 1];
    for step in steps {
        match step {
            Step::Say(bytes, cut) => {
                let before = world.says.is_some();
                world.say(bytes, *cut, false);
                // It says that it is ready.
                if before && bytes.get(4..8) == Some(&[0, 0, 1, 0]) {
                    adds.iter_mut().for_each(|adds| *adds += 1);
                }
            }
            Step::Begin => {
                world.begin();
                adds = [0; PORTS + 1];
            }
            Step::Hear(size) => world.expect(*size),
            Step::Signal => world.driven.device.signal(Signal::Input, NOW),
            Step::Work => world.work(),
        }
        let mut rung = false;
        bells.answer(|_, _| rung = true);
        if rung {
            world.driven.device.signal(Signal::Input, NOW);
            world.work();
        }
        for told in world.heard() {
            let Some((head, name)) = told.split_first_chunk::<8>() else { panic!("half of one") };
            let [a, b, c, d, event, 0, value, 0] = *head else { panic!("{head:?}") };
            let port = u32::from_le_bytes([a, b, c, d]) as usize;
            assert!(port <= PORTS, "there is no port {port}");
            match (event, value) {
                (1, 1) => adds[port] = adds[port].checked_sub(1).expect("it was told of before"),
                (4, 1) => assert_eq!(port, 0),
                (6, 0 | 1) => {}
                (7, 1) => assert!([&b"one"[..], b"two"][port - 1].starts_with(name)),
                other => panic!("{other:?} is told"),
            }
        }
        assert_eq!(world.driven.get(STATUS), RUNNING);
    }
}

fuzz_target!(|input: (bool, Rings, Vec<Step>)| {
    let (of_console, rings, steps) = input;
    let ram = GUEST.with_borrow(Clone::clone);
    if of_console { console(&steps, rings, ram) } else { card(&steps, rings, ram) }
});
