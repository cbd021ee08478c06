//! Claims about consoles, made with a model of their drivers.

mod once;
mod saved;

use alloc::sync::Arc;
use alloc::vec;

use proptest::prelude::*;

use super::channel::ROOM;
use super::*;
use crate::addr::Ipa;
use crate::device::doorbell::Doorbells;
use crate::device::serial::ScriptedLine;
use crate::device::{Device, Signal};
use crate::monitor::agent::{Answer, Ask, Asker, Failure, Link, PORT};
use crate::sched::VmId;
use crate::testing::{pick, shared_ram};
use crate::time::Ticks;
use crate::virtio::queue::fake::{Driver, Offer};
use crate::virtio::queue::{Negotiated, Place};
use crate::virtio::ram::SharedRam;
use crate::virtio::transport::Transport;

const NOW: Ticks = Ticks(0);
const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 256;
const DATA: u64 = BASE + 0x2_0000;
const SIZE: u16 = 16;
const VERSION_1: u64 = 1 << 32;
const MULTIPORT: u64 = 1 << 1;

/// A guest: its device, its RAM, and the drivers of its queues.
struct Guest {
    ram: SharedRam,
    line: Arc<ScriptedLine>,
    device: Transport<ConsoleDevice<Arc<ScriptedLine>>, SharedRam>,
    drivers: Vec<Driver>,
    /// For each queue, the names of receive buffers and where they are.
    buffers: Vec<Vec<(u16, Buffer)>>,
    next: u64,
}

impl Guest {
    fn new(vm: u16, bells: &Arc<Doorbells>, has_keys: bool, ends: Vec<(&str, End)>) -> Self {
        let (ram, line) = (shared_ram(BASE, PAGES), Arc::new(ScriptedLine::default()));
        let named = ends.into_iter().map(|(name, end)| NamedPort { name: name.into(), end });
        let bell = Doorbell::new(bells.clone(), VmId(vm), 0);
        let device = ConsoleDevice::new(line.clone(), has_keys, named.collect(), bell);
        let queues = device.queues().len();
        let device = Transport::new(device, ram.clone(), "test".into());
        let buffers = vec![vec![]; queues];
        let mut guest = Self { ram, line, device, drivers: vec![], buffers, next: DATA };
        guest.begin();
        guest
    }

    /// The driver finds the device and places its queues.
    fn begin(&mut self) {
        let queues = self.buffers.len();
        let multiport = if queues > 2 { MULTIPORT } else { 0 };
        let mut set = |offset: u64, value: u64| self.device.write(offset, Width::Word, value, NOW);
        let features = multiport | VERSION_1;
        for status in [0, 1, 3] {
            set(0x070, status);
        }
        for (sel, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            set(0x024, sel);
            set(0x020, half);
        }
        set(0x070, 11);
        self.drivers.clear();
        for queue in 0..queues as u64 {
            let at = BASE + 0x1000 * queue;
            let place =
                Place { size: SIZE, descriptors: at, driver: at + 0x400, device: at + 0x800 };
            set(0x030, queue);
            set(0x038, place.size.into());
            for (offset, area) in [(0x080, at), (0x090, place.driver), (0x0a0, place.device)] {
                set(offset, area & 0xffff_ffff);
                set(offset + 4, area >> 32);
            }
            set(0x044, 1);
            self.drivers.push(Driver::new(place, Negotiated::default(), 0));
        }
        set(0x070, 15);
        self.buffers.iter_mut().for_each(Vec::clear);
        self.ram.get().unwrap().write_from(Ipa::new(BASE), &[0; 0x1_4000]).unwrap();
    }

    fn place(&mut self, size: usize) -> Buffer {
        if self.next + size as u64 > BASE + PAGES * 4096 {
            self.next = DATA;
        }
        let at = self.next;
        self.next += size as u64;
        Buffer { ipa: Ipa::new(at), size: size.try_into().unwrap() }
    }

    fn expect(&mut self, queue: usize, size: usize) {
        let buffer = self.place(size);
        let offer = Offer { writable: vec![buffer], ..Offer::default() };
        let name = self.drivers[queue].offer(self.ram.get().unwrap(), &offer).unwrap();
        self.drivers[queue].show(self.ram.get().unwrap());
        self.buffers[queue].push((name, buffer));
        self.notify(queue);
    }

    fn send(&mut self, queue: usize, bytes: &[u8], pieces: &[usize]) {
        let (mut readable, mut left) = (vec![], bytes);
        for size in pieces.iter().copied().chain([bytes.len()]) {
            let (now, rest) = left.split_at(size.min(left.len()));
            left = rest;
            if !now.is_empty() {
                let buffer = self.place(now.len());
                self.ram.get().unwrap().write_from(buffer.ipa, now).unwrap();
                readable.push(buffer);
            }
        }
        self.drivers[queue]
            .offer(self.ram.get().unwrap(), &Offer { readable, ..Offer::default() })
            .unwrap();
        self.drivers[queue].show(self.ram.get().unwrap());
        self.notify(queue);
    }

    fn notify(&mut self, queue: usize) {
        self.device.write(0x050, Width::Word, queue as u64, NOW);
        self.go_on();
    }

    fn go_on(&mut self) {
        while self.device.deadline().is_some() {
            self.device.advance(NOW);
        }
    }

    fn look(&mut self) {
        self.device.signal(Signal::Input, NOW);
        self.go_on();
    }

    /// How many chains of a queue by which the guest sends are used.
    fn sent(&mut self, queue: usize) -> usize {
        core::iter::from_fn(|| self.drivers[queue].used(self.ram.get().unwrap())).count()
    }

    fn received(&mut self, queue: usize) -> Option<Vec<u8>> {
        let (name, written) = self.drivers[queue].used(self.ram.get().unwrap())?;
        let at = self.buffers[queue].iter().position(|(one, _)| *one == name).unwrap();
        let (_, buffer) = self.buffers[queue].remove(at);
        let mut bytes = vec![0; usize::try_from(written).unwrap()];
        self.ram.get().unwrap().read_into(buffer.ipa, &mut bytes).unwrap();
        Some(bytes)
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        let word = u64::from(port) | u64::from(event) << 32 | u64::from(value) << 48;
        self.send(3, &word.to_le_bytes(), &[]);
        assert_eq!(self.sent(3), 1);
        self.look();
    }

    /// What the driver is told: port, event, value and name.
    fn told(&mut self) -> Vec<(u32, u16, u16, String)> {
        let mut all = vec![];
        loop {
            self.expect(2, 80);
            self.look();
            let Some(bytes) = self.received(2) else { return all };
            let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let name = String::from_utf8(bytes[8..].to_vec()).unwrap();
            let part = |shift: u32| u16::try_from(word >> shift & 0xffff).unwrap();
            all.push((u32::try_from(word & 0xffff_ffff).unwrap(), part(32), part(48), name));
        }
    }
}

/// Answers all bells.
fn answer(bells: &Doorbells, guests: &mut [Guest]) {
    while bells.is_rung() {
        let mut rung = vec![];
        bells.answer(|vm, _| rung.push(vm.index()));
        for vm in rung {
            if let Some(guest) = guests.get_mut(vm) {
                guest.look();
            }
        }
    }
}

/// Two guests whose ports `data` are joined, which know of their ports and have opened them.
fn joined() -> (Vec<Guest>, Arc<Doorbells>) {
    let bells = Arc::new(Doorbells::new(2));
    let ends = End::pair();
    let guest = |(vm, end): (u16, End)| Guest::new(vm, &bells, false, vec![("data", end)]);
    let mut guests: Vec<_> = (0..).zip(ends).map(guest).collect();
    for guest in &mut guests {
        guest.say(0, 0, 1);
        guest.say(0, 3, 1);
        guest.say(1, 3, 1);
        guest.say(1, 6, 1);
        guest.told();
    }
    answer(&bells, &mut guests);
    guests.iter_mut().for_each(|guest| drop(guest.told()));
    (guests, bells)
}

/// The queues of the port `data`.
const RECEIVE: usize = 4;
const TRANSMIT: usize = 5;

#[test]
fn what_is_sent_by_the_first_port_comes_to_the_line_and_waits_for_room_there() {
    let bells = Arc::new(Doorbells::new(1));
    let mut guest = Guest::new(0, &bells, false, vec![]);
    guest.send(1, b"hello, ", &[3]);
    assert_eq!((guest.sent(1), guest.line.take_output()), (1, b"hello, ".to_vec()));
    let long: Vec<u8> = (0..3000u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    guest.line.set_room(Some(1000));
    guest.send(1, &long, &[1, 700]);
    assert_eq!(guest.sent(1), 0);
    guest.line.set_room(None);
    guest.look();
    assert_eq!(guest.sent(1), 1);
    assert!(guest.line.take_output() == long);
}

#[test]
fn what_is_typed_comes_to_the_port_only_where_the_keys_are_its() {
    let bells = Arc::new(Doorbells::new(2));
    for has_keys in [true, false] {
        let mut guest = Guest::new(0, &bells, has_keys, vec![]);
        guest.expect(0, 3);
        guest.expect(0, 10);
        guest.line.type_in(b"typed");
        guest.look();
        let got = [guest.received(0), guest.received(0)];
        match has_keys {
            true => assert_eq!(got, [Some(b"typ".to_vec()), Some(b"ed".to_vec())]),
            false => assert_eq!((got, guest.line.waiting()), ([None, None], 5)),
        }
    }
}

#[test]
fn ports_are_told_one_thing_after_the_other() {
    let bells = Arc::new(Doorbells::new(2));
    let [own, other] = End::pair();
    let mut guest = Guest::new(0, &bells, false, vec![("data", own)]);
    assert_eq!(guest.device.read(0x104, Width::Word, NOW), 2, "ports");
    assert_eq!(guest.told(), []);
    guest.say(0, 0, 1);
    let plain = |port, event| (port, event, 1, String::new());
    // The buffers of `told` are worked off in order, so nothing is told twice.
    assert_eq!(guest.told(), [plain(0, 1), plain(1, 1)]);
    guest.say(0, 3, 1);
    assert_eq!(guest.told(), [plain(0, 4), plain(0, 6)]);
    guest.say(1, 3, 1);
    assert_eq!(guest.told(), [(1, 7, 1, "data".into())]);
    other.set_open(true);
    assert_eq!(guest.told(), [plain(1, 6)]);
    // Of what is not closed by the time it is told, nothing is told.
    other.set_open(false);
    other.set_open(true);
    assert_eq!(guest.told(), []);
    other.set_open(false);
    assert_eq!(guest.told(), [(1, 6, 0, String::new())]);
    // What there is not, and what is not a driver's to say, changes nothing.
    for (port, event) in [(2, 3), (u32::MAX, 6), (1, 1), (1, 4), (1, 7), (1, 99)] {
        guest.say(port, event, 1);
    }
    guest.send(3, &[1, 0, 0, 0, 6, 0, 1], &[]);
    assert_eq!((guest.told(), guest.device.read(0x070, Width::Word, NOW)), (vec![], 15));
}

#[test]
fn the_other_end_is_told_that_one_is_closed_when_all_has_been_taken() {
    let (mut guests, bells) = joined();
    guests[0].send(TRANSMIT, b"last words", &[]);
    assert_eq!(guests[0].sent(TRANSMIT), 1);
    guests[0].say(1, 6, 0);
    answer(&bells, &mut guests);
    assert_eq!(guests[1].told(), []);
    guests[1].expect(RECEIVE, 64);
    answer(&bells, &mut guests);
    assert_eq!(guests[1].received(RECEIVE), Some(b"last words".to_vec()));
    assert_eq!(guests[1].told(), [(1, 6, 0, String::new())]);
    // What is sent to a closed end waits for it.
    guests[1].send(TRANSMIT, b"are you there?", &[]);
    assert_eq!(guests[1].sent(TRANSMIT), 0);
    guests[0].expect(RECEIVE, 64);
    guests[0].say(1, 6, 1);
    answer(&bells, &mut guests);
    assert_eq!(guests[1].sent(TRANSMIT), 1);
    assert_eq!(guests[0].received(RECEIVE), Some(b"are you there?".to_vec()));
}

/// A guest whose agent has opened its port, and the monitor's way to it.
fn with_agent() -> (Guest, Link, Arc<Doorbells>) {
    let bells = Arc::new(Doorbells::new(1));
    let [own, monitor] = End::pair();
    let link = Link::new(monitor);
    let mut guest = Guest::new(0, &bells, false, vec![(PORT, own)]);
    let open = |guest: &mut Guest| {
        for (port, event) in [(0, 0), (0, 3), (1, 3)] {
            guest.say(port, event, 1);
        }
        assert!(guest.told().contains(&(1, 7, 1, PORT.into())));
        assert!(guest.device.backend().named[0].end.is_other_open(), "a reader is to sleep");
        guest.say(1, 6, 1);
    };
    open(&mut guest);
    (guest, link, bells)
}

#[test]
fn an_agent_is_asked_by_its_port_and_answers_there() {
    let (mut guest, link, bells) = with_agent();
    guest.expect(RECEIVE, 64);
    link.ask(1, Ask::Sync, Ticks(9), Asker::Console).unwrap();
    answer(&bells, core::slice::from_mut(&mut guest));
    assert_eq!(guest.received(RECEIVE), Some(b"{\"id\":1,\"do\":\"sync\"}\n".to_vec()));
    guest.send(TRANSMIT, b"{\"id\":1,", &[3]);
    assert_eq!(link.look(1, NOW), None);
    guest.send(TRANSMIT, b"\"ok\":{}}\n", &[]);
    assert_eq!((guest.sent(TRANSMIT), link.look(1, NOW)), (2, Some(Ok(Answer::default()))));
}

#[test]
fn a_device_that_is_reset_between_request_and_answer_ends_the_wait() {
    let (mut guest, link, bells) = with_agent();
    link.ask(1, Ask::Ping, Ticks(9), Asker::Console).unwrap();
    guest.device.reset();
    assert_eq!(link.look(1, NOW), Some(Err(Failure::Gone)));
    assert_eq!(link.ask(2, Ask::Ping, Ticks(9), Asker::Console), Err(Failure::Absent));
    guest.begin();
    for (port, event) in [(0, 0), (0, 3), (1, 3), (1, 6)] {
        guest.say(port, event, 1);
    }
    link.ask(3, Ask::Ping, Ticks(9), Asker::Console).unwrap();
    guest.expect(RECEIVE, 64);
    answer(&bells, core::slice::from_mut(&mut guest));
    assert_eq!(guest.received(RECEIVE), Some(b"{\"id\":3,\"do\":\"ping\"}\n".to_vec()));
    drop(guest);
    assert_eq!(link.look(3, NOW), Some(Err(Failure::Gone)));
}

#[test]
fn a_guest_that_says_more_than_anybody_asked_waits_alone() {
    let (mut guest, link, _) = with_agent();
    let long = vec![b'{'; 1000];
    for _ in 0..SIZE {
        guest.send(TRANSMIT, &long, &[]);
    }
    assert_eq!(guest.sent(TRANSMIT), ROOM / 1000);
    // What was said before it was asked is dropped, and the rest is no answer.
    link.ask(1, Ask::Ping, Ticks(9), Asker::Console).unwrap();
    for _ in 0..pick(200, 70) {
        assert_eq!(link.look(1, NOW), None);
        guest.look();
    }
    assert_eq!(guest.sent(TRANSMIT), usize::from(SIZE) - ROOM / 1000);
    guest.send(TRANSMIT, b"\n{\"id\":1,\"ok\":{}}\n", &[]);
    assert_eq!(link.look(1, NOW), Some(Ok(Answer::default())));
}

#[test]
fn a_guest_that_begins_again_or_goes_closes_its_ends() {
    let (mut guests, bells) = joined();
    guests[0].send(TRANSMIT, b"x", &[]);
    guests[1].device.reset();
    answer(&bells, &mut guests);
    assert_eq!(guests[0].told(), [(1, 6, 0, String::new())]);
    guests[1].begin();
    for (port, event) in [(0, 0), (0, 3), (1, 3), (1, 6)] {
        guests[1].say(port, event, 1);
    }
    answer(&bells, &mut guests);
    assert_eq!(guests[0].told(), [(1, 6, 1, String::new())]);
    // What came before it began again is gone.
    guests[1].expect(RECEIVE, 64);
    answer(&bells, &mut guests);
    assert_eq!(guests[1].received(RECEIVE), None);
    let gone = guests.pop();
    drop(gone);
    answer(&bells, &mut guests);
    assert_eq!(guests[0].told(), [(1, 6, 0, String::new())]);
}

#[test]
fn a_driver_without_anything_else_may_send_a_byte_by_the_configuration() {
    let bells = Arc::new(Doorbells::new(1));
    let mut guest = Guest::new(0, &bells, false, vec![]);
    guest.device.write(0x108, Width::Word, u64::from(b'!'), NOW);
    guest.device.write(0x100, Width::Word, u64::from(b'?'), NOW);
    assert_eq!(guest.line.take_output(), b"!");
}

#[test]
fn however_much_is_sent_no_more_than_a_channels_room_is_kept() {
    let (mut guests, _) = joined();
    let long = vec![7; 1000];
    for _ in 0..SIZE {
        guests[0].send(TRANSMIT, &long, &[]);
    }
    // The rest waits in the guest's own memory.
    assert_eq!(guests[0].sent(TRANSMIT), ROOM / 1000);
}

proptest! {
    #![proptest_config(crate::testing::cases(64, 1))]

    /// However sender and receiver divide their memory, and whenever they come: what goes in comes out, in order.
    #[test]
    fn a_channel_carries_what_is_sent_both_ways(
        steps in prop::collection::vec((0usize..2, any::<bool>(), 1usize..pick(2000, 200)), 1..pick(60, 6)),
    ) {
        let (mut guests, bells) = joined();
        let (mut sent, mut got) = ([vec![], vec![]], [vec![], vec![]]);
        let (mut offered, mut expected) = ([0, 0], [0, 0]);
        let mut counter = 0u8;
        let finish = [(0, false, 1900), (1, false, 1900)].repeat(pick(200, 10));
        for (who, sends, size) in steps.into_iter().chain(finish) {
            if sends {
                offered[who] -= guests[who].sent(TRANSMIT);
                if offered[who] < usize::from(SIZE) / 2 {
                    let bytes: Vec<u8> = (0..size).map(|_| { counter = counter.wrapping_add(1); counter }).collect();
                    guests[who].send(TRANSMIT, &bytes, &[size / 3]);
                    offered[who] += 1;
                    sent[who].extend(bytes);
                }
            } else if expected[who] < usize::from(SIZE) {
                guests[who].expect(RECEIVE, size);
                expected[who] += 1;
            }
            answer(&bells, &mut guests);
            for who in [0, 1] {
                while let Some(bytes) = guests[who].received(RECEIVE) {
                    prop_assert!(!bytes.is_empty());
                    expected[who] -= 1;
                    got[1 - who].extend(bytes);
                }
            }
        }
        prop_assert!(got == sent);
    }

    /// Whatever a driver says and offers, its device goes on or needs a reset.
    #[test]
    fn whatever_a_driver_says_nobody_else_is_the_worse_for_it(
        steps in prop::collection::vec((0usize..6, prop::collection::vec(any::<u8>(), 0..40)), 0..pick(40, 8)),
    ) {
        let (mut guests, bells) = joined();
        for (queue, bytes) in steps {
            if bytes.is_empty() {
                guests[0].notify(queue);
            } else if queue % 2 == 0 {
                guests[0].expect(queue, bytes.len());
            } else {
                guests[0].send(queue, &bytes, &[5]);
            }
            answer(&bells, &mut guests);
            for queue in 0..6 {
                guests[0].sent(queue);
            }
        }
        guests[1].send(1, b"still here", &[]);
        prop_assert_eq!(guests[1].line.take_output(), b"still here");
        prop_assert_eq!(guests[1].device.read(0x070, Width::Word, NOW), 15);
    }
}
