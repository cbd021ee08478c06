//! What drivers say by the control queues of network cards and consoles, in any pieces, and in any order with what else they do.
//! Each command is answered, with "OK" only where it can be done; a console tells of the ports that there are, and of each once
//! for each time that its driver is ready.
#![no_main]

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::sync::Arc;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::addr::{Ipa, Region};
use plinth::device::doorbell::{Doorbell, Doorbells};
use plinth::device::serial::ScriptedLine;
use plinth::device::{Device, Signal};
use plinth::exit::Width;
use plinth::net::{MacAddr, Plan, PortConfig};
use plinth::sched::VmId;
use plinth::time::{Frequency, Ticks};
use plinth::virtio::console::channel::End;
use plinth::virtio::console::{ConsoleDevice, NamedPort};
use plinth::virtio::net::NetDevice;
use plinth::virtio::net::lan::Lan;
use plinth::virtio::queue::fake::{Driver, Offer};
use plinth::virtio::queue::{Buffer, Negotiated, Place};
use plinth::virtio::ram::SharedRam;
use plinth::virtio::transport::Transport;
use plinth_fuzz::{RAM, often, shared_ram};

const SIZE: u64 = 32 * 4096;
const DATA: u64 = RAM + 0x1_0000;
const NOW: Ticks = Ticks(0);
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

fn place(queue: u64) -> Place {
    let at = RAM + 0x1000 * queue;
    Place { size: 16, descriptors: at, driver: at + 0x400, device: at + 0x800 }
}

/// A device, and the drivers of the queues by which it hears, and by which it says something, if it does.
struct World<D> {
    device: D,
    ram: SharedRam,
    features: u64,
    queues: u64,
    hears: (u64, Driver),
    says: Option<(u64, Driver)>,
    /// Where what was offered is: by name, the reply's place.
    replies: Vec<(u16, Buffer)>,
    next: u64,
}

impl<D: Device> World<D> {
    fn set(&mut self, offset: u64, value: u64) {
        self.device.write(offset, Width::Word, value & 0xffff_ffff, NOW);
    }

    fn status(&mut self) -> u64 {
        self.device.read(0x070, Width::Word, NOW)
    }

    fn begin(&mut self) {
        let all = Region::new(Ipa::new(RAM), SIZE).expect("it is RAM");
        self.ram.get().expect("there is some").zero(all).expect("it is RAM");
        let features = self.features | 1 << 32;
        for (offset, value) in [(0x070, 0), (0x070, 3), (0x024, 0), (0x020, features), (0x024, 1)] {
            self.set(offset, value);
        }
        self.set(0x020, features >> 32);
        self.set(0x070, 11);
        for queue in 0..self.queues {
            let at = place(queue);
            self.set(0x030, queue);
            self.set(0x038, at.size.into());
            for (offset, area) in [(0x080, at.descriptors), (0x090, at.driver), (0x0a0, at.device)]
            {
                self.set(offset, area);
                self.set(offset + 4, area >> 32);
            }
            self.set(0x044, 1);
        }
        self.set(0x070, 15);
        assert_eq!(self.status(), 15);
        let driver = |queue| Driver::new(place(queue), Negotiated::default(), 0);
        self.hears.1 = driver(self.hears.0);
        self.says = self.says.take().map(|(queue, _)| (queue, driver(queue)));
        self.replies.clear();
    }

    fn buffer(&mut self, size: usize) -> Buffer {
        let size = size.min(0x1000);
        if self.next + size as u64 > RAM + SIZE {
            self.next = DATA;
        }
        let at = self.next;
        self.next += size as u64;
        Buffer { ipa: Ipa::new(at), size: size as u32 }
    }

    /// Says `bytes` in two pieces, with room for an answer of a byte where there `is_answered`: where that is.
    fn say(&mut self, bytes: &[u8], cut: u8, is_answered: bool) -> Option<Ipa> {
        let bytes = bytes.get(..0x1000).unwrap_or(bytes);
        let (first, rest) = bytes.split_at(usize::from(cut).min(bytes.len()));
        let mut offer = Offer::default();
        for part in [first, rest] {
            if !part.is_empty() {
                let buffer = self.buffer(part.len());
                self.ram.get()?.write_from(buffer.ipa, part).expect("it is RAM");
                offer.readable.push(buffer);
            }
        }
        let answer = self.buffer(1);
        if is_answered {
            self.ram.get()?.write_from(answer.ipa, &[0xee]).expect("it is RAM");
            offer.writable.push(answer);
        }
        let ram = self.ram.clone();
        let name = self.hears.1.offer(ram.get().unwrap(), &offer)?;
        if self.hears.1.show(ram.get().unwrap()) {
            self.set(0x050, self.hears.0);
        }
        self.work();
        let used = self.hears.1.used(ram.get().unwrap()).expect("it is taken at once");
        assert_eq!(used, (name, u32::from(is_answered)));
        is_answered.then_some(answer.ipa)
    }

    fn work(&mut self) {
        for _ in 0..100 {
            if self.device.deadline().is_none() {
                return;
            }
            self.device.advance(NOW);
        }
        panic!("there is always something to do");
    }

    /// What the device has said.
    fn heard(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some((name, written)) =
            self.says.as_mut().and_then(|(_, driver)| driver.used(self.ram.get().unwrap()))
        {
            let at = self.replies.iter().position(|(other, _)| *other == name);
            let (_, buffer) = self.replies.swap_remove(at.expect("it was offered"));
            assert!(written <= buffer.size);
            let mut bytes = vec![0; written as usize];
            let memory = self.ram.get().expect("there is some");
            memory.read_into(buffer.ipa, &mut bytes).expect("it is RAM");
            all.push(bytes);
        }
        all
    }

    fn expect(&mut self, size: usize) {
        let writable = vec![self.buffer(size.max(8))];
        let offer = Offer { writable: writable.clone(), ..Offer::default() };
        let ram = self.ram.clone();
        let Some((queue, driver)) = &mut self.says else { return };
        let (queue, name) = (*queue, driver.offer(ram.get().unwrap(), &offer));
        let Some(name) = name else { return };
        let notify = driver.show(ram.get().unwrap());
        self.replies.push((name, writable[0]));
        if notify {
            self.set(0x050, queue);
        }
    }
}

fn card(steps: &[Step], ram: SharedRam) {
    let mut plan = Plan::default();
    plan.network(false).expect("there is room");
    let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    let port = plan.join(0, PortConfig::new(mac)).expect("there is room");
    let frequency = Frequency(NonZeroU32::new(1000).expect("not zero"));
    let lan = Arc::new(Lan::new(plan.build(frequency).expect("it can be"), || NOW));
    let device = NetDevice::new(lan, port, mac, PAIRS as u8);
    let steering = device.steering().clone();
    let device = Transport::new(device, ram.clone(), "fuzzed".to_owned());
    let queues = 2 * u64::from(PAIRS) + 1;
    let control = queues - 1;
    let driver = Driver::new(place(control), Negotiated::default(), 0);
    let features = 1 << 5 | 1 << 17 | 1 << 22;
    let (hears, replies) = ((control, driver), Vec::new());
    let mut world = World { device, ram, features, queues, hears, says: None, replies, next: DATA };
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
                let answer: u8 = world.ram.get().expect("there is some").read(at).expect("RAM");
                assert_eq!(answer, u8::from(asked.is_none()));
                pairs = asked.unwrap_or(pairs);
            }
            Step::Begin => {
                world.begin();
                pairs = 1;
            }
            Step::Signal => world.device.signal(Signal::Input, NOW),
            Step::Hear(_) | Step::Work => world.work(),
        }
        assert_eq!((u16::from(steering.pairs()), world.status()), (pairs, 15));
    }
}

fn console(steps: &[Step], ram: SharedRam) {
    let bells = Arc::new(Doorbells::new(1));
    let bell = Doorbell::new(bells.clone(), VmId(0), 0);
    let ends: [[End; 2]; PORTS] = [(); PORTS].map(|()| End::pair());
    let named = ends.iter().zip(["one", "two"]);
    let named = named.map(|([end, _], name)| NamedPort { name: name.into(), end: end.clone() });
    let line = Arc::new(ScriptedLine::default());
    let device = ConsoleDevice::new(line, true, named.collect(), bell);
    let device = Transport::new(device, ram.clone(), "fuzzed".to_owned());
    let driver = |queue| Driver::new(place(queue), Negotiated::default(), 0);
    let (hears, says) = ((3, driver(3)), Some((2, driver(2))));
    let queues = 2 * (PORTS as u64 + 2);
    let (features, replies) = (1 << 1, Vec::new());
    let mut world = World { device, ram, features, queues, hears, says, replies, next: DATA };
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
            Step::Hear(size) => world.expect((*size).into()),
            Step::Signal => world.device.signal(Signal::Input, NOW),
            Step::Work => world.work(),
        }
        let mut rung = false;
        bells.answer(|_, _| rung = true);
        if rung {
            world.device.signal(Signal::Input, NOW);
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
        assert_eq!(world.status(), 15);
    }
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (of_console, steps) = input;
    let ram = GUEST.with_borrow(Clone::clone);
    if of_console { console(&steps, ram) } else { card(&steps, ram) }
});
