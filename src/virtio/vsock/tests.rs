//! Two guests of a group with their devices and drivers: bells, what is done at one go, and what is saved.

mod once;

use alloc::vec;
use alloc::vec::Vec;

use super::packet::{PacketHeader, SIZE, STREAM, op};
use super::sockets::Sockets;
use super::*;
use crate::addr::Ipa;
use crate::device::doorbell::Doorbells;
use crate::device::{Device, Signal};
use crate::manifest::VsockConfig;
use crate::sched::VmId;
use crate::testing::{carried, shared_ram, start};
use crate::time::Ticks;
use crate::virtio::queue::fake::{Driver, Offer};
use crate::virtio::queue::{Negotiated, Place};
use crate::virtio::ram::SharedRam;
use crate::virtio::transport::Transport;

const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 128;
const DATA: u64 = BASE + 0x1_0000;
const NOW: Ticks = Ticks(0);
const ROOM: u32 = 44 + 4096;

type Tested = Transport<VsockDevice, SharedRam>;

struct Guest {
    ram: SharedRam,
    device: Option<Tested>,
    drivers: [Driver; 3],
    /// Where the next buffer is.
    next: u64,
    /// The buffers to be received into, by name.
    offered: Vec<(u16, Buffer)>,
}

struct Pair {
    sockets: Sockets,
    bells: Arc<Doorbells>,
    guests: [Guest; 2],
}

fn place(queue: u64) -> Place {
    let at = BASE + 0x1000 * queue;
    Place { size: 16, descriptors: at, driver: at + 0x400, device: at + 0x800 }
}

fn packet(from: usize, port: u32, op: u16, len: usize) -> PacketHeader {
    let port_of = |who| if who == 0 { port } else { 7 };
    PacketHeader {
        src_cid: 3 + from as u64,
        dst_cid: 4 - from as u64,
        src_port: port_of(from),
        dst_port: port_of(1 - from),
        len: u32::try_from(len).unwrap(),
        kind: STREAM,
        op,
        buf_alloc: 1 << 16,
        ..PacketHeader::default()
    }
}

impl Guest {
    fn buffer(&mut self, size: u32) -> Buffer {
        let ipa = Ipa::new(self.next);
        self.next += u64::from(size).next_multiple_of(64);
        assert!(self.next <= BASE + PAGES * 4096, "the test's guest has more RAM");
        Buffer { ipa, size }
    }

    fn device(&mut self) -> &mut Tested {
        self.device.as_mut().unwrap()
    }

    fn offer(&mut self, queue: usize, offer: &Offer) -> u16 {
        self.drivers[queue].offer(self.ram.get().unwrap(), offer).unwrap()
    }

    fn notify(&mut self, queue: usize) {
        if self.drivers[queue].show(self.ram.get().unwrap()) {
            self.device().write(0x050, Width::Word, queue as u64, NOW);
        }
    }

    /// A packet that is sent with the next notification.
    fn put(&mut self, header: PacketHeader) {
        let buffer = self.buffer(44 + header.len);
        let bytes = [&header.bytes()[..], &vec![b'x'; header.len as usize]].concat();
        self.ram.get().unwrap().write_bytes(buffer.ipa, &bytes).unwrap();
        self.offer(TRANSMIT, &Offer { readable: vec![buffer], ..Offer::default() });
    }

    fn sent(&mut self) -> usize {
        core::iter::from_fn(|| self.drivers[TRANSMIT].used(self.ram.get().unwrap())).count()
    }

    /// Room for so many packets.
    fn expect(&mut self, count: usize) {
        for _ in 0..count {
            let buffer = self.buffer(ROOM);
            let name = self.offer(RECEIVE, &Offer { writable: vec![buffer], ..Offer::default() });
            self.offered.push((name, buffer));
        }
        self.notify(RECEIVE);
    }

    /// What has come.
    fn received(&mut self) -> Vec<PacketHeader> {
        let mut all = Vec::new();
        while let Some((name, written)) = self.drivers[RECEIVE].used(self.ram.get().unwrap()) {
            let at = self.offered.iter().position(|(other, _)| *other == name).unwrap();
            let (_, buffer) = self.offered.swap_remove(at);
            let mut bytes = [0; SIZE];
            self.ram.get().unwrap().read_bytes(buffer.ipa, &mut bytes).unwrap();
            let header = PacketHeader::parse(&bytes);
            assert_eq!(written, 44 + header.len);
            all.push(header);
        }
        all
    }

    fn ops(&mut self) -> Vec<u16> {
        self.received().iter().map(|header| header.op).collect()
    }
}

impl Pair {
    fn new() -> Self {
        let group = || Some("test".into());
        let configs = [3, 4].map(|cid| VsockConfig { group: group(), ..VsockConfig::new(cid) });
        let sockets = Sockets::new(configs.iter().map(Some));
        let guest = |_| Guest {
            ram: shared_ram(BASE, PAGES),
            device: None,
            drivers: [0, 1, 2].map(|queue| Driver::new(place(queue), Negotiated::default(), 0)),
            next: DATA,
            offered: Vec::new(),
        };
        let bells = Arc::new(Doorbells::new(2));
        let mut pair = Self { sockets, bells, guests: [0, 1].map(guest) };
        for who in 0..2 {
            pair.plug(who);
            let guest = &mut pair.guests[who];
            assert!(start(guest.device(), 1 << 32, &[0, 1, 2].map(place)));
            let buffer = guest.buffer(8);
            guest.offer(EVENTS, &Offer { writable: vec![buffer], ..Offer::default() });
            guest.notify(EVENTS);
            guest.expect(4);
        }
        pair
    }

    /// A new device.
    fn plug(&mut self, who: usize) {
        let vm = VmId(u16::try_from(who).unwrap());
        let bell = Doorbell::new(self.bells.clone(), vm, 0);
        let socket = self.sockets.of(vm).unwrap().clone();
        let ram = self.guests[who].ram.clone();
        let device = Transport::new(VsockDevice::new(socket, bell), ram, "test".into());
        self.guests[who].device = Some(device);
    }

    fn count(&self, who: u16) -> usize {
        let group = self.sockets.of(VmId(who)).unwrap().group.as_ref().unwrap();
        let (group, me) = group.lock();
        group.streams.count(me)
    }

    /// Answers the bells that were rung, once. Whose were.
    fn answer(&mut self) -> Vec<u16> {
        let mut rung = Vec::new();
        self.bells.answer(|vm, _| rung.push(vm.0));
        for vm in &rung {
            self.guests[usize::from(*vm)].device().signal(Signal::Input, NOW);
        }
        rung
    }

    /// Until nothing more happens.
    fn settle(&mut self) {
        for _ in 0..100 {
            let rung = self.answer();
            let mut due = false;
            for guest in &mut self.guests {
                if guest.device().deadline().is_some() {
                    guest.device().advance(NOW);
                    due = true;
                }
            }
            if !due && rung.is_empty() {
                return;
            }
        }
        panic!("there is always something to do");
    }

    fn send(&mut self, who: usize, header: PacketHeader) {
        self.guests[who].put(header);
        self.guests[who].notify(TRANSMIT);
    }

    fn connect(&mut self, port: u32) {
        self.send(0, packet(0, port, op::REQUEST, 0));
        self.settle();
        assert_eq!(self.guests[1].ops(), [op::REQUEST]);
        self.send(1, packet(1, port, op::RESPONSE, 0));
        self.settle();
        assert_eq!(self.guests[0].ops(), [op::RESPONSE]);
        self.guests.iter_mut().for_each(|guest| guest.expect(1));
        self.settle();
    }
}

#[test]
fn a_bell_for_one_packet_leaves_nothing_to_be_done() {
    let mut pair = Pair::new();
    pair.connect(1);
    for _ in 0..3 {
        pair.send(0, packet(0, 1, op::RW, 5));
        assert_eq!(pair.answer(), [1]);
        assert_eq!(pair.guests[1].ops(), [op::RW]);
        // Nobody has to be called to go on with it.
        assert_eq!(pair.guests[1].device().deadline(), None);
        pair.guests[1].expect(1);
    }
}

#[test]
fn a_refusal_comes_before_who_asks_by_the_same_ports_since() {
    for turns in 0..2 {
        let mut pair = Pair::new();
        for _ in 0..turns {
            pair.guests[1].device().signal(Signal::Input, NOW);
        }
        pair.send(1, packet(1, 1, op::RW, 0));
        pair.send(0, packet(0, 1, op::REQUEST, 0));
        pair.settle();
        assert_eq!(pair.guests[1].ops(), [op::RST, op::REQUEST]);
    }
}

#[test]
fn what_is_copied_at_one_go_is_bounded() {
    let mut pair = Pair::new();
    (1..4).for_each(|port| pair.connect(port));
    for port in 1..4 {
        pair.guests[0].put(packet(0, port, op::RW, 16 << 10));
    }
    let guest = &mut pair.guests[0];
    guest.sent();
    guest.notify(TRANSMIT);
    let mut all = 0;
    for _ in 0..6 {
        let sent = guest.sent();
        assert!(sent <= 1, "{sent} of them at one go");
        all += sent;
        if all < 3 {
            assert_eq!(guest.device().deadline(), Some(NOW));
            guest.device().advance(NOW);
        }
    }
    assert_eq!(all, 3);
    pair.settle();
    // All came that there is room for.
    assert_eq!(pair.guests[1].ops(), [op::RW; 4]);
    pair.guests[1].expect(8);
    pair.settle();
    assert_eq!(pair.guests[1].ops(), [op::RW; 8]);
}

#[test]
fn a_device_that_is_restored_has_no_streams_and_tells_its_driver_so() {
    let mut pair = Pair::new();
    pair.connect(1);
    pair.send(1, packet(1, 1, op::RW, 5));
    let saved = carried(&pair.guests[0].device().save());
    // The other one hears of it as of any end.
    pair.guests[0].device = None;
    pair.plug(0);
    pair.guests[0].device().restore(saved).unwrap();
    pair.settle();
    assert_eq!(pair.guests[1].ops(), [op::RST]);
    assert_eq!((pair.count(0), pair.count(1)), (0, 0));
    let guest = &mut pair.guests[0];
    assert_eq!(
        guest.drivers[EVENTS].used(guest.ram.get().unwrap()).map(|(_, written)| written),
        Some(4)
    );
    assert_eq!(guest.drivers[EVENTS].used(guest.ram.get().unwrap()), None);
    assert_eq!((guest.ops(), guest.device().read(0x070, Width::Word, NOW)), (vec![], 15));
    // A packet of a stream that was is refused; and a new one is opened by the same driver.
    pair.send(0, packet(0, 1, op::RW, 5));
    pair.settle();
    assert_eq!(pair.guests[0].ops(), [op::RST]);
    pair.guests.iter_mut().for_each(|guest| guest.expect(1));
    pair.connect(1);
    // It is told once.
    let guest = &mut pair.guests[0];
    let buffer = guest.buffer(8);
    guest.offer(EVENTS, &Offer { writable: vec![buffer], ..Offer::default() });
    guest.notify(EVENTS);
    pair.settle();
    let guest = &mut pair.guests[0];
    assert_eq!(guest.drivers[EVENTS].used(guest.ram.get().unwrap()), None);
}

#[test]
fn a_driver_that_begins_after_the_device_was_restored_is_told_nothing() {
    let mut pair = Pair::new();
    let guest = &mut pair.guests[0];
    guest.device().write(0x070, Width::Word, 0, NOW);
    let saved = carried(&guest.device().save());
    guest.device().restore(saved).unwrap();
    guest.drivers = [0, 1, 2].map(|queue| Driver::new(place(queue), Negotiated::default(), 0));
    guest
        .ram
        .get()
        .unwrap()
        .zero(crate::addr::Region::new(Ipa::new(BASE), 0x3000).unwrap())
        .unwrap();
    assert!(start(guest.device(), 1 << 32, &[0, 1, 2].map(place)));
    let buffer = guest.buffer(8);
    guest.offer(EVENTS, &Offer { writable: vec![buffer], ..Offer::default() });
    guest.notify(EVENTS);
    assert_eq!(guest.drivers[EVENTS].used(guest.ram.get().unwrap()), None);
}
