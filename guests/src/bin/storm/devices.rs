//! Devices that are never done: whatever they have done they are asked again at once, and each time they interrupt.

use guests::mmio::{write8, write64};
use guests::println;
use guests::virtio::ring::{Buffer, Ring};
use guests::virtio::split::{Split, WRITE};
use guests::virtio::{Device, kind, memory};

/// How many descriptors a queue has.
const SIZE: u16 = 256;
/// The queues of a network card.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// `struct virtio_net_hdr`, and Ethernet's smallest frame without its checksum.
const HEADER: u64 = 12;
const FRAME: u64 = 60;
/// How much room there is for a frame.
const ROOM: u64 = 2048;

/// The station that QEMU's own network has as its gateway, and that one's address and a guest's there.
const GATEWAY: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const GATEWAY_IP: [u8; 4] = [10, 0, 2, 2];
const OWN_IP: [u8; 4] = [10, 0, 2, 77];

/// How many are told of at a time.
const TOLD: u64 = 1 << 14;

/// Tells how often something was done, now and then.
struct Told {
    what: &'static str,
    done: u64,
}

impl Told {
    fn one_more(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(TOLD) {
            println!("storm: {} {}", self.what, self.done);
        }
    }
}

/// The station to which frames go that nobody answers.
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

/// Questions to the gateway ("who has 10.0.2.2?"), as fast as they go, and its answers.
pub fn net(_: u64) {
    flood(GATEWAY, true);
}

/// Small frames to another guest, as fast as they go.
pub fn frames(_: u64) {
    flood(OTHER, false);
}

/// The same question to a station, without end.
fn flood(to: [u8; 6], answered: bool) {
    let device = Device::find(kind::NET, 0).expect("a network card");
    let features = device.negotiate(0).expect("its features");
    let mut receive = device.split(RECEIVE, SIZE, features).expect("its queues");
    let mut transmit = device.split(TRANSMIT, SIZE, features).expect("its queues");
    device.start();
    let room = memory::take(ROOM * u64::from(receive.size), 16);
    for number in 0..receive.size {
        let address = room + ROOM * u64::from(number);
        receive.add(number, Buffer { address, size: ROOM as u32, flags: WRITE }, 0);
    }
    receive.show();
    device.notify(RECEIVE);
    let (ask_all, ask) = (question(device, [0xff; 6]), question(device, to));
    let add = |queue: &mut Split, number, address| {
        queue.add(number, Buffer { address, size: (HEADER + FRAME) as u32, flags: 0 }, 0);
    };
    // The first is for everybody: so the switch learns where the gateway is.
    add(&mut transmit, 0, ask_all);
    transmit.show();
    device.notify(TRANSMIT);
    let mut sent = Told { what: "frames", done: 0 };
    let mut came = Told { what: "answers", done: 0 };
    while answered && receive.used().is_none() {}
    for number in 1..transmit.size {
        add(&mut transmit, number, ask);
    }
    loop {
        if transmit.show() {
            device.notify(TRANSMIT);
        }
        while let Some(used) = transmit.take() {
            add(&mut transmit, used.id, ask);
            sent.one_more();
        }
        while let Some(used) = receive.take() {
            receive.offer(used.id);
            came.one_more();
        }
        if receive.show() {
            device.notify(RECEIVE);
        }
    }
}

/// An ARP request (RFC 826) in a frame to a station, behind the device's header. Where it is.
fn question(device: Device, to: [u8; 6]) -> u64 {
    let at = memory::take(HEADER + FRAME, 16);
    let own = device.config64(0).to_le_bytes();
    let own = &own[..6];
    let arp = [0, 1, 8, 0, 6, 4, 0, 1];
    let bytes = [&to, own, &[8, 6], &arp, own, &OWN_IP, &[0; 6], &GATEWAY_IP].into_iter().flatten();
    (at + HEADER..).zip(bytes).for_each(|(at, byte)| write8(at, *byte));
    at
}

/// Reads of a sector, as many at once as the queue holds.
pub fn disk(_: u64) {
    const SECTOR: u32 = 512;
    let device = Device::find(kind::BLOCK, 0).expect("a disk");
    let features = device.negotiate(0).expect("its features");
    let mut queue = device.split(0, SIZE, features).expect("its queue");
    device.start();
    // `struct virtio_blk_req`: IN, of the first sector, for all of them the same.
    let (header, data) = (memory::take(32, 16), memory::take(SECTOR.into(), 512));
    write64(header, 0);
    write64(header + 8, 0);
    for first in (0..queue.size - 2).step_by(3) {
        queue.chain(first, &[(header, 16, false), (data, SECTOR, true), (header + 16, 1, true)]);
        queue.offer(first);
    }
    let mut done = Told { what: "reads", done: 0 };
    loop {
        if queue.show() {
            device.notify(0);
        }
        while let Some(used) = queue.take() {
            queue.offer(used.id);
            done.one_more();
        }
    }
}
