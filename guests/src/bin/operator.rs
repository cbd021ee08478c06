//! Does another guest come and go at this one's word, and does it take as long each time? By its socket device it asks the monitor to
//! start the guest called `of=NAME` and to destroy it, `rounds=N` times, `life=MICROSECONDS` in between.
//!
//! What it takes until the answer is there is told for the first quarter of the rounds and for the last, in ticks of the counter:
//! where the machine's time is its instructions, in instructions.

#![no_std]
#![no_main]

use guests::machine;
use guests::mmio::{read8, read16, read32, write8, write16, write32, write64};
use guests::report::Report;
use guests::timer::{microseconds, now, spin, wait_until};
use guests::virtio::split::{Descriptor, Split, WRITE};
use guests::virtio::{Device, kind, memory};
use guests::{instruction, println};

guests::payload!(main);

/// Queues: what is received, what is sent.
const RX: u16 = 0;
const TX: u16 = 1;
const BUFFERS: u16 = 16;
/// `struct virtio_vsock_hdr`, and room for an answer behind it.
const HEADER: u64 = 44;
const ROOM: u64 = HEADER + 4096;
/// How much the monitor may send before it is told that there is room again, in bytes.
const CREDIT: u32 = 32 << 10;
/// The monitor's place, and ours.
const HOST: u64 = 2;
const MONITOR: u32 = 1;
const PORT: u32 = 1024;
/// How long an answer may take, in milliseconds: a VM's predecessor may have to be taken apart first.
const PATIENCE: u64 = 60_000;

/// "Socket Device: Device Operation".
mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RW: u16 = 5;
}

/// A connection to the monitor.
struct Monitor {
    device: Device,
    receive: Split,
    transmit: Split,
    buffers: u64,
    packet: u64,
    cid: u64,
    /// How many bytes have come.
    received: u32,
    /// How often it had to be asked again.
    again: u32,
}

impl Monitor {
    fn connect(device: Device) -> Option<Self> {
        let features = device.negotiate(0)?;
        let mut receive = device.split(RX, BUFFERS, features)?;
        let transmit = device.split(TX, 1, features)?;
        let buffers = memory::take(ROOM * u64::from(receive.size), 16);
        for number in 0..receive.size {
            let address = buffers + ROOM * u64::from(number);
            let size = ROOM as u32;
            receive.describe(number, Descriptor { address, size, flags: WRITE, next: 0 });
            receive.offer(number);
        }
        receive.show();
        device.start();
        device.notify(RX);
        let (packet, cid) = (memory::take(ROOM, 16), device.config64(0));
        let mut monitor =
            Self { device, receive, transmit, buffers, packet, cid, received: 0, again: 0 };
        monitor.send(op::REQUEST, "");
        let connected =
            wait_until(PATIENCE, || monitor.take().is_some_and(|it| it.0 == op::RESPONSE));
        connected.then_some(monitor)
    }

    fn send(&mut self, op: u16, text: &str) {
        let (at, length) = (self.packet, text.len() as u32);
        write64(at, self.cid);
        write64(at + 8, HOST);
        let words = [(16, PORT), (20, MONITOR), (24, length), (32, 0), (36, CREDIT)];
        words.iter().for_each(|(offset, word)| write32(at + offset, *word));
        write16(at + 28, 1); // a stream
        write16(at + 30, op);
        write32(at + 40, self.received);
        (at + HEADER..).zip(text.bytes()).for_each(|(at, byte)| write8(at, byte));
        self.transmit.chain(0, &[(at, HEADER as u32 + length, false)]);
        self.transmit.offer(0);
        if self.transmit.show() {
            self.device.notify(TX);
        }
        while self.transmit.take_used().is_none() {
            instruction!("yield");
        }
    }

    /// What has come: its operation, and its first bytes.
    fn take(&mut self) -> Option<(u16, [u8; 16])> {
        let used = self.receive.take_used()?;
        let at = self.buffers + ROOM * u64::from(used.id);
        let (op, length) = (read16(at + 30), read32(at + 24));
        let first = core::array::from_fn(|index| read8(at + HEADER + index as u64));
        self.received = self.received.wrapping_add(length);
        self.receive.offer(used.id);
        if self.receive.show() {
            self.device.notify(RX);
        }
        Some((op, first))
    }

    /// Whether a request was granted.
    fn answer(&mut self) -> Option<bool> {
        let mut granted = None;
        wait_until(PATIENCE, || {
            if let Some((op::RW, text)) = self.take() {
                granted =
                    text.strip_prefix(b"{\"id\":1,\"ok\":").map(|rest| rest.starts_with(b"t"));
            }
            granted.is_some()
        });
        granted
    }

    /// Has a command carried out, which may have to wait for what is still on its way out. How long it took; `None` if there was no answer.
    fn command(&mut self, words: &[&str]) -> Option<u64> {
        let mut line = [0; 128];
        let mut length = 0;
        let parts = ["{\"id\":1,\"command\":\"vm "].iter().chain(words).chain(&["\"}\n"]);
        for byte in parts.flat_map(|part| part.bytes()) {
            *line.get_mut(length)? = byte;
            length += 1;
        }
        let line = core::str::from_utf8(line.get(..length)?).ok()?;
        let end = now() + microseconds(PATIENCE * 1000);
        while now() < end {
            let began = now();
            self.send(op::RW, line);
            if self.answer()? {
                return Some(now() - began);
            }
            self.again += 1;
        }
        None
    }
}

/// The least and the most.
#[derive(Clone, Copy)]
struct Range(u64, u64);

impl Range {
    const NONE: Self = Self(u64::MAX, 0);

    fn add(&mut self, ticks: u64) {
        *self = Self(self.0.min(ticks), self.1.max(ticks));
    }
}

fn main(report: &mut Report) {
    let Some(device) = Device::find(kind::VSOCK, 0) else {
        return report.skip("another guest comes and goes", "there is no socket device");
    };
    let Some(mut monitor) = Monitor::connect(device) else {
        return report.skip("another guest comes and goes", "the monitor does not answer");
    };
    let tree = machine::tree();
    let mut arguments = tree.chosen().bootargs().unwrap_or_default().split(' ');
    let name = arguments.find_map(|word| word.strip_prefix("of=")).unwrap_or("other");
    let rounds = machine::number("rounds").unwrap_or(4);
    let life = machine::number("life").unwrap_or(20_000);
    let quarter = rounds.div_ceil(4);
    // Of the first quarter and of the last: starts, ends.
    let mut taken = [[Range::NONE; 2]; 2];
    let mut done = 0;
    for round in 0..rounds {
        let Some(start) = monitor.command(&["start ", name]) else { break };
        spin(life);
        let Some(destroy) = monitor.command(&["destroy ", name]) else { break };
        done += 1;
        let in_quarter = if round < quarter {
            Some(0)
        } else if round >= rounds - quarter {
            Some(1)
        } else {
            None
        };
        if let Some(quarter) = in_quarter {
            taken[quarter][0].add(start);
            taken[quarter][1].add(destroy);
        }
    }
    for (which, [start, end]) in ["first", "last"].iter().zip(taken) {
        println!(
            "operator: {which} quarter: start {} to {}, destroy {} to {}",
            start.0, start.1, end.0, end.1
        );
    }
    println!("operator: asked again {} times", monitor.again);
    report.equal("another guest comes and goes", done, rounds);
}
