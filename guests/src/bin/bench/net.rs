//! Frames between network cards, as Linux' driver sends and takes them: mergeable buffers, the header before the frame in
//! one buffer, a long frame by an indirect table; what has come is told by an interrupt that is acknowledged.
//!
//! Either one guest has both cards, or each of two has one. On CPUs of their own, the first says then how long a frame
//! takes from one's notification to the other's vector, as the mean of there and back: guests' counters differ, and in the
//! sum of both that is gone. On one CPU, the first sends many at a time, and waits until the other has them all in hand.

use core::sync::atomic::{AtomicU16, Ordering};

use guests::mmio::{read8, read16, read64, write8, write16, write32, write64};
use guests::virtio::ring::{Buffer, Ring};
use guests::virtio::split::{INDIRECT, Split, WRITE};
use guests::virtio::{Device, feature, kind, memory};
use guests::{gic, instruction, println, sysreg};

use crate::sample::{SAMPLES, Samples};
use crate::{counted, vectors};

/// "Network Device: Feature bits": checksums and TCP segments left to the other side, and buffers for them.
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;

/// The queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// `struct virtio_net_hdr`: its size, and where the number of buffers is.
const HEADER: u64 = 12;
const BUFFERS: u64 = 10;
/// Ethernet's header.
const ETHERNET: u64 = 14;
/// A type for experiments (IEEE 802, "Local Experimental Ethertypes").
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

const SIZE: u16 = 256;
/// A receive buffer, and a piece of a long frame.
const PIECE: u64 = 4096;
/// How many frames there are to be sent at a time: a whole queue.
const FRAMES: u16 = SIZE;
/// How many small ones are sent at one go.
const BULK: u16 = 64;
/// And how many long ones.
const SEGMENTS: u16 = 8;
/// The data of a long frame, and the headers before it.
const SEGMENT: u64 = 64 << 10;
const SEGMENT_HEADERS: u64 = 66;
const SEGMENT_PIECES: u16 = (SEGMENT / PIECE) as u16;

/// Whose interrupt comes.
static SLOT: AtomicU16 = AtomicU16::new(0);

/// Where in a frame of two guests' is what one tells the other: when it was interrupted, and when it had sent before. Or,
/// of many frames, what to do when this one has come.
const WORDS: u64 = ETHERNET + 6;
const NOTHING: u64 = 0;
const ANSWER: u64 = 1;
const END: u64 = 2;
/// How long is waited for the other guest at first, in ticks.
const PATIENCE: u64 = 20_000_000;

struct Card<R> {
    device: Device,
    mac: u64,
    receive: R,
    transmit: R,
    room: u64,
    /// The frames to be sent, each with its header.
    frames: u64,
    tables: u64,
    data: u64,
    next: u16,
    /// Where the last frame that has come begins, with its header.
    last: u64,
}

/// One guest that has both cards: all rows, by split queues.
pub fn measure() {
    let (Some(mut from), Some(mut to)) = (Card::<Split>::find(0), Card::find(1)) else {
        return println!("bench: there are no two network cards");
    };
    to.listen();
    counted::row("net-packet", 1, || packets(1, &mut from, &mut to));
    counted::row("net-packet-bulk", BULK.into(), || packets(BULK, &mut from, &mut to));
    if from.sends_segments() {
        counted::row("net-segment-64k", 1, || {
            from.segment(to.mac);
            from.show();
            to.take(1);
        });
        counted::row("net-segment-64k-bulk", SEGMENTS.into(), || {
            for _ in 0..SEGMENTS {
                from.segment(to.mac);
            }
            from.show();
            to.take(SEGMENTS);
        });
    }
    to.ignore();
}

/// The same, those in which the format matters, by queues of one.
pub fn measure_by<R: Ring>(format: &str) {
    let (Some(mut from), Some(mut to)) = (Card::<R>::find(0), Card::find(1)) else {
        return println!("bench: there are no two network cards with queues {format}");
    };
    to.listen();
    counted::row(format_args!("net-packet-{format}"), 1, || packets(1, &mut from, &mut to));
    let bulk = format_args!("net-packet-bulk-{format}");
    counted::row(bulk, BULK.into(), || packets(BULK, &mut from, &mut to));
    to.ignore();
}

/// So many small frames at one go.
fn packets<R: Ring>(count: u16, from: &mut Card<R>, to: &mut Card<R>) {
    for _ in 0..count {
        from.small(to.mac, 64);
    }
    from.show();
    to.take(count);
}

/// The one that begins.
pub fn measure_pair() {
    let Some(mut card) = Card::<Split>::find(0) else {
        return println!("bench: there is no network card");
    };
    card.listen();
    let other = card.meet();
    let (mut way, mut round) = (Samples::new(), Samples::new());
    let mut before = None;
    for index in 0..=SAMPLES + 1 {
        card.small(other, 64);
        let began = card.show();
        card.take(1);
        let answered = vectors::now();
        let taken = vectors::stamps().taken;
        // When the other one was interrupted, and when it had sent its answer before this one.
        let their_taken = read64(card.last + HEADER + WORDS);
        let their_sent = read64(card.last + HEADER + WORDS + 8);
        if let Some((taken, there)) = before
            && index > 1
        {
            let back = u64::wrapping_sub(taken, their_sent);
            way.add(u64::wrapping_add(there, back) / 2);
            round.add(answered.wrapping_sub(began) / 2);
        }
        before = Some((taken, their_taken.wrapping_sub(began)));
    }
    way.tell("net-packet-to-handler");
    round.tell("net-packet-between-guests");
    card.ignore();
}

/// The one that answers, for ever.
pub fn answer() -> ! {
    let mut card = Card::<Split>::find(0).expect("a network card");
    card.listen();
    let mut sent = 0;
    loop {
        card.take(1);
        let frame = {
            let to = card.sender();
            card.small(to, 64)
        };
        write64(frame + WORDS, vectors::stamps().taken);
        write64(frame + WORDS + 8, sent);
        sent = card.show();
    }
}

/// The one that sends many at a time, and has them answered by one.
pub fn measure_stream() {
    let Some(mut card) = Card::<Split>::find(0) else {
        return println!("bench: there is no network card");
    };
    card.listen();
    let other = card.meet();
    counted::row("net-stream", SIZE.into(), || {
        for left in (0..SIZE).rev() {
            let frame = card.small(other, 64);
            write64(frame + WORDS, if left == 0 { ANSWER } else { NOTHING });
        }
        card.show();
        card.take(1);
    });
    if card.sends_segments() {
        counted::row("net-stream-segment-64k", SEGMENTS.into(), || {
            for _ in 0..SEGMENTS {
                let frame = card.segment(other);
                write64(frame + WORDS, NOTHING);
            }
            let frame = card.small(other, 64);
            write64(frame + WORDS, ANSWER);
            card.show();
            card.take(1);
        });
    }
    let frame = card.small(other, 64);
    write64(frame + WORDS, END);
    card.show();
    card.ignore();
}

/// The one that takes them.
pub fn sink() {
    let mut card = Card::<Split>::find(0).expect("a network card");
    card.listen();
    loop {
        card.take_some();
        match read64(card.last + HEADER + WORDS) {
            NOTHING => {}
            END => return card.ignore(),
            _ => {
                let to = card.sender();
                card.small(to, 64);
                card.show();
            }
        }
    }
}

extern "C" fn acknowledge() {
    Device { slot: SLOT.load(Ordering::Relaxed) }.acknowledge();
}

impl<R: Ring> Card<R> {
    fn find(index: usize) -> Option<Self> {
        let device = Device::find(kind::NET, index)?;
        let offloads = CSUM | GUEST_CSUM | GUEST_TSO4 | HOST_TSO4 | MRG_RXBUF;
        let wanted = feature::INDIRECT_DESC | feature::EVENT_IDX | offloads | R::FEATURES;
        let features = device.negotiate(wanted)?;
        if features & R::FEATURES != R::FEATURES {
            return None;
        }
        let receive = R::ready(device, RECEIVE, SIZE, features)?;
        let transmit = R::ready(device, TRANSMIT, SIZE, features)?;
        device.start();
        let mut card = Self {
            device,
            mac: device.config64(0) & 0xffff_ffff_ffff,
            room: memory::take(PIECE * u64::from(receive.size()), PIECE),
            receive,
            transmit,
            frames: memory::take(128 * u64::from(FRAMES), 128),
            tables: memory::take(512 * u64::from(FRAMES), 512),
            data: memory::take(SEGMENT, PIECE),
            next: 0,
            last: 0,
        };
        for number in 0..card.receive.size() {
            card.give(number);
        }
        if card.receive.show() {
            device.notify(RECEIVE);
        }
        Some(card)
    }

    /// Makes receive buffer `number` available.
    fn give(&mut self, number: u16) {
        let (address, size) = (self.room + PIECE * u64::from(number), PIECE as u32);
        self.receive.add(number, Buffer { address, size, flags: WRITE }, size);
    }

    /// Sends frames to everybody until somebody answers: who that is. Other answers are over then.
    fn meet(&mut self) -> u64 {
        loop {
            let frame = self.small(0xffff_ffff_ffff, 64);
            write64(frame + WORDS, ANSWER);
            self.show();
            let until = vectors::now() + PATIENCE;
            let mut met = false;
            while vectors::now() < until {
                instruction!("yield");
                met |= self.taken() > 0;
            }
            if met {
                // What interrupted is over.
                sysreg::unmask_interrupts();
                instruction!("isb");
                sysreg::mask_interrupts();
                return self.sender();
            }
        }
    }

    /// Who has sent the last frame.
    fn sender(&self) -> u64 {
        (0..6).map(|at| u64::from(read8(self.last + HEADER + 6 + at)) << (8 * at)).sum()
    }

    fn sends_segments(&self) -> bool {
        self.device.features() & HOST_TSO4 != 0
    }

    /// This card's interrupts are taken.
    fn listen(&self) {
        SLOT.store(self.device.slot, Ordering::Relaxed);
        gic::init();
        vectors::install_with(Some(acknowledge));
        gic::set_edge(self.device.intid(), true);
        gic::enable(self.device.intid());
        self.receive.want_interrupt(true);
    }

    fn ignore(&self) {
        gic::disable(self.device.intid());
        vectors::remove();
    }

    /// A frame's place, with its header made zeros, and the addresses written.
    fn begin(&mut self, to: u64) -> (u16, u64) {
        while self.transmit.take().is_some() {}
        let number = self.next;
        self.next = (number + 1) % FRAMES;
        let header = self.frames + 128 * u64::from(number);
        write64(header, 0);
        write32(header + 8, 0);
        let [a, b, c, d, e, f, ..] = to.to_le_bytes();
        let [g, h, i, j, k, l, ..] = self.mac.to_le_bytes();
        let [m, n] = EXPERIMENT;
        for (at, byte) in (header + HEADER..).zip([a, b, c, d, e, f, g, h, i, j, k, l, m, n]) {
            write8(at, byte);
        }
        (number, header)
    }

    /// Offers a frame of so many bytes, at most 116, to a station. Where it is.
    fn small(&mut self, to: u64, size: u64) -> u64 {
        let (number, address) = self.begin(to);
        let size = (HEADER + size) as u32;
        self.transmit.add(number, Buffer { address, size, flags: 0 }, 0);
        address + HEADER
    }

    /// Offers 64 KiB of TCP to a station. Where it begins.
    fn segment(&mut self, to: u64) -> u64 {
        let (number, address) = self.begin(to);
        // NEEDS_CSUM, TCPV4, header's length, segments' size, where the checksum starts, and where in that it is.
        write8(address, 1);
        write8(address + 1, 1);
        for (at, value) in (address + 2..).step_by(2).zip([SEGMENT_HEADERS as u16, 1448, 34, 16]) {
            write16(at, value);
        }
        let table = self.tables + 512 * u64::from(number);
        let size = (HEADER + SEGMENT_HEADERS) as u32;
        let entries = SEGMENT_PIECES + 1;
        R::describe_entry(table, 0, entries, Buffer { address, size, flags: 0 });
        for piece in 1..=SEGMENT_PIECES {
            let address = self.data + PIECE * u64::from(piece - 1);
            // The last byte of it would make it longer than an IP packet can be.
            let size = if piece == SEGMENT_PIECES { PIECE - 128 } else { PIECE } as u32;
            R::describe_entry(table, piece, entries, Buffer { address, size, flags: 0 });
        }
        let size = 16 * u32::from(entries);
        self.transmit.add(number, Buffer { address: table, size, flags: INDIRECT }, 0);
        address + HEADER
    }

    /// Shows what was offered. When that was.
    fn show(&mut self) -> u64 {
        self.transmit.want_interrupt(false);
        let wanted = self.transmit.show();
        let now = vectors::now();
        if wanted {
            self.device.notify(TRANSMIT);
        }
        now
    }

    /// Sleeps until so many frames have come, and gives their buffers back.
    fn take(&mut self, frames: u16) {
        let mut left = frames;
        while left > 0 {
            left -= self.take_some();
        }
    }

    /// Sleeps until something comes. How many frames that were.
    fn take_some(&mut self) -> u16 {
        loop {
            vectors::doze();
            match self.taken() {
                0 => {}
                frames => return frames,
            }
        }
    }

    /// How many frames have come; their buffers are given back. The next one interrupts.
    fn taken(&mut self) -> u16 {
        let mut frames = 0;
        loop {
            let mut more = 0;
            while let Some(used) = self.receive.take() {
                if more == 0 {
                    frames += 1;
                    self.last = self.room + PIECE * u64::from(used.id);
                    more = read16(self.last + BUFFERS);
                }
                more -= 1;
                self.give(used.id);
            }
            assert!(more == 0, "a frame is not whole");
            if self.receive.show() {
                self.device.notify(RECEIVE);
            }
            if !self.receive.want_interrupt(true) {
                return frames;
            }
        }
    }
}
