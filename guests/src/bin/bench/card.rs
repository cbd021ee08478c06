//! A network card as Linux' driver uses it: mergeable buffers, the header before the frame in one buffer, a long frame by an
//! indirect table; what has come is told by an interrupt that is acknowledged. By queues of any format.

use core::sync::atomic::{AtomicU16, Ordering};

use guests::mmio::{read8, read16, write8, write16, write32, write64};
use guests::virtio::ring::{Buffer, Ring};
use guests::virtio::split::{INDIRECT, WRITE};
use guests::virtio::{Device, feature, kind, memory};
use guests::{gic, instruction};

use crate::vectors;

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
/// The size of Ethernet's header.
pub const ETHERNET: u64 = 14;
/// A type for experiments (IEEE 802, "Local Experimental Ethertypes").
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// How many descriptors a queue has.
pub const SIZE: u16 = 256;
/// A receive buffer, and a piece of a long frame.
const PIECE: u64 = 4096;
/// How many frames there are to be sent at a time: a whole queue.
const FRAMES: u16 = SIZE;
/// The data of a segment: 64 KiB but for what would make it longer than an IP packet can be.
const SEGMENT: u64 = (64 << 10) - 128;
/// The headers before it, and before each part of it that a wire carries.
const HEADERS: u64 = 14 + 20 + 32;
/// The data of such a part.
const PART: u64 = 1448;
const PIECES: u16 = SEGMENT.div_ceil(PIECE) as u16;

/// Whose interrupt comes.
static SLOT: AtomicU16 = AtomicU16::new(0);

/// A network card.
pub struct Card<R> {
    device: Device,
    features: u64,
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

extern "C" fn acknowledge() {
    Device { slot: SLOT.load(Ordering::Relaxed) }.acknowledge();
}

impl<R: Ring> Card<R> {
    /// The machine's card of this index, with its queues, and all receive buffers given to it.
    pub fn find(index: usize) -> Option<Self> {
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
            features,
            mac: device.config64(0) & 0xffff_ffff_ffff,
            room: memory::take(PIECE * u64::from(receive.size()), PIECE),
            receive,
            transmit,
            frames: memory::take(128 * u64::from(FRAMES), 128),
            tables: memory::take(512 * u64::from(FRAMES), 512),
            data: memory::take(PIECE * u64::from(PIECES), PIECE),
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

    /// Its station's address, in the byte order of the wire from bit 0 on.
    pub fn mac(&self) -> u64 {
        self.mac
    }

    /// Where the last frame is that has come.
    pub fn last(&self) -> u64 {
        self.last + HEADER
    }

    /// Who has sent it.
    pub fn sender(&self) -> u64 {
        (0..6).map(|at| u64::from(read8(self.last() + 6 + at)) << (8 * at)).sum()
    }

    /// Whether the device takes segments as they are, and divides them where need be.
    pub fn sends_segments(&self) -> bool {
        self.features & HOST_TSO4 != 0
    }

    /// This card's interrupts are taken.
    pub fn listen(&mut self) {
        SLOT.store(self.device.slot, Ordering::Relaxed);
        gic::init();
        vectors::install_with(Some(acknowledge));
        gic::set_edge(self.device.intid(), true);
        gic::enable(self.device.intid());
        // What had come before was no edge, and nobody has asked to be told of what came behind it.
        self.device.acknowledge();
        self.taken();
    }

    /// They are no longer.
    pub fn ignore(&self) {
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
    pub fn small(&mut self, to: u64, size: u64) -> u64 {
        let (number, address) = self.begin(to);
        let size = (HEADER + size) as u32;
        self.transmit.add(number, Buffer { address, size, flags: 0 }, 0);
        address + HEADER
    }

    /// Offers 64 KiB of TCP to a station; `fill` gets where each frame of it begins. How many frames that are: one, or, where
    /// the device does not divide it, those that a wire carries, without their checksums.
    #[inline(always)]
    pub fn segment(&mut self, to: u64, fill: impl Fn(u64)) -> u16 {
        if self.sends_segments() {
            fill(self.frame(to, true, 0, SEGMENT));
            return 1;
        }
        let mut frames = 0;
        for at in (0..SEGMENT).step_by(PART as usize) {
            fill(self.frame(to, false, at, PART.min(SEGMENT - at)));
            frames += 1;
        }
        frames
    }

    /// Offers the headers of a frame and a part of the data. Where it begins.
    #[inline(always)]
    fn frame(&mut self, to: u64, whole: bool, at: u64, size: u64) -> u64 {
        let (number, address) = self.begin(to);
        if whole {
            // NEEDS_CSUM, TCPV4, header's length, parts' size, where the checksum starts, and where in that it is.
            write8(address, 1);
            write8(address + 1, 1);
            for (at, value) in (address + 2..).step_by(2).zip([HEADERS as u16, PART as u16, 34, 16])
            {
                write16(at, value);
            }
        }
        let table = self.tables + 512 * u64::from(number);
        let entries = 1 + size.div_ceil(PIECE) as u16;
        let headers = Buffer { address, size: (HEADER + HEADERS) as u32, flags: 0 };
        R::describe_entry(table, 0, entries, headers);
        for (entry, from) in (1..).zip((0..size).step_by(PIECE as usize)) {
            let address = self.data + at + from;
            let size = PIECE.min(size - from) as u32;
            R::describe_entry(table, entry, entries, Buffer { address, size, flags: 0 });
        }
        let size = 16 * u32::from(entries);
        self.transmit.add(number, Buffer { address: table, size, flags: INDIRECT }, 0);
        address + HEADER
    }

    /// Shows what was offered. When that was.
    pub fn show(&mut self) -> u64 {
        self.transmit.want_interrupt(false);
        let wanted = self.transmit.show();
        let now = vectors::now();
        if wanted {
            self.device.notify(TRANSMIT);
        }
        now
    }

    /// Waits until the device is done with the frame that was shown last, and takes no more interrupts.
    pub fn finish(mut self) {
        let last = (self.next + FRAMES - 1) % FRAMES;
        while self.transmit.take().is_none_or(|used| used.id != last) {
            instruction!("yield");
        }
        self.ignore();
    }

    /// Sleeps until so many frames have come, and gives their buffers back.
    pub fn take(&mut self, frames: u16) {
        let mut left = frames;
        while left > 0 {
            left -= self.take_some();
        }
    }

    /// Sleeps until something comes. How many frames that were.
    pub fn take_some(&mut self) -> u16 {
        loop {
            vectors::doze();
            match self.taken() {
                0 => {}
                frames => return frames,
            }
        }
    }

    /// How many frames have come; their buffers are given back. The next one interrupts.
    pub fn taken(&mut self) -> u16 {
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
