//! Requests to a disk, as Linux' driver makes them: an indirect table each, the end by an interrupt that is acknowledged.
//! By a queue of any format.
//!
//! The disk begins with as many blocks of 4 KiB as it has, each with its number in its first word.

use core::sync::atomic::{AtomicU16, Ordering};

use guests::mmio::{read8, read64, write8, write32, write64};
use guests::virtio::ring::{Buffer, Ring};
use guests::virtio::split::{INDIRECT, Split, WRITE};
use guests::virtio::{Device, feature, kind, memory};
use guests::{gic, println};

use crate::{counted, vectors};

/// How many requests are made at a time at most.
const DEPTH: u16 = 32;
/// How many buffers of a block each one has at most.
const MOST: u16 = 32;
const BLOCK: u64 = 4096;

/// `virtio_blk_req.type`.
const IN: u32 = 0;
const OUT: u32 = 1;

/// Whose interrupt comes.
static SLOT: AtomicU16 = AtomicU16::new(0);

struct Disk<R> {
    device: Device,
    queue: R,
    /// How many blocks it has.
    blocks: u64,
    /// The requests' headers, each with its status behind it, their tables, and their data.
    headers: u64,
    tables: u64,
    data: u64,
    /// How many blocks a request has at most.
    most: u16,
    random: u64,
}

/// All rows, by split queues.
pub fn measure() {
    let Some(mut disk) = Disk::<Split>::find(MOST) else {
        return println!("bench: there is no disk");
    };
    disk.listen();
    counted::row("disk-read-4k", 1, || disk.random(IN, 1));
    counted::row("disk-write-4k", 1, || disk.random(OUT, 1));
    counted::row("disk-read-4k-depth-32", DEPTH.into(), || disk.random(IN, DEPTH));
    counted::row("disk-write-4k-depth-32", DEPTH.into(), || disk.random(OUT, DEPTH));
    let mut at = 0;
    counted::row("disk-read-1m", 1, || {
        const REQUESTS: u16 = 8;
        for index in 0..REQUESTS {
            disk.ask(index, IN, at % disk.blocks, MOST);
            at += u64::from(MOST);
        }
        disk.finish(REQUESTS);
    });
    disk.ignore();
}

/// Those in which the format matters, by queues of one.
pub fn measure_by<R: Ring>(format: &str) {
    let Some(mut disk) = Disk::<R>::find(1) else {
        return println!("bench: there is no disk with queues {format}");
    };
    disk.listen();
    counted::row(format_args!("disk-read-4k-{format}"), 1, || disk.random(IN, 1));
    let depth = format_args!("disk-read-4k-depth-32-{format}");
    counted::row(depth, DEPTH.into(), || disk.random(IN, DEPTH));
    disk.ignore();
}

extern "C" fn acknowledge() {
    Device { slot: SLOT.load(Ordering::Relaxed) }.acknowledge();
}

impl<R: Ring> Disk<R> {
    /// The first disk, for requests of so many blocks at most.
    fn find(most: u16) -> Option<Self> {
        let device = Device::find(kind::BLOCK, 0)?;
        SLOT.store(device.slot, Ordering::Relaxed);
        let wanted = feature::INDIRECT_DESC | feature::EVENT_IDX | R::FEATURES;
        let features = device.negotiate(wanted)?;
        if features & R::FEATURES != R::FEATURES {
            return None;
        }
        let queue = R::ready(device, 0, 128, features)?;
        device.start();
        let headers = memory::take(32 * u64::from(DEPTH), 64);
        let tables = memory::take(16 * u64::from(MOST + 2) * u64::from(DEPTH), 16);
        let data = memory::take(BLOCK * u64::from(most) * u64::from(DEPTH), BLOCK);
        let blocks = device.config64(0) * 512 / BLOCK;
        Some(Self { device, queue, blocks, headers, tables, data, most, random: 1 })
    }

    /// Its interrupts are taken.
    fn listen(&self) {
        gic::init();
        vectors::install_with(Some(acknowledge));
        gic::set_edge(self.device.intid(), true);
        gic::enable(self.device.intid());
    }

    fn ignore(&self) {
        gic::disable(self.device.intid());
        vectors::remove();
    }

    /// Makes request `index` ready: so many blocks from `block` on.
    fn ask(&mut self, index: u16, task: u32, block: u64, blocks: u16) {
        let header = self.headers + 32 * u64::from(index);
        write32(header, task);
        write64(header + 8, block * (BLOCK / 512));
        write8(header + 16, 0xff);
        let entries = blocks + 2;
        let table = self.tables + 16 * u64::from(MOST + 2) * u64::from(index);
        let write = |number: u16, address, size, flags| {
            R::describe_entry(table, number, entries, Buffer { address, size, flags });
        };
        let data_flags = if task == IN { WRITE } else { 0 };
        write(0, header, 16, 0);
        for number in 0..blocks {
            let data = self.data_of(index) + BLOCK * u64::from(number);
            write(number + 1, data, BLOCK as u32, data_flags);
        }
        write(entries - 1, header + 16, 1, WRITE);
        let size = 16 * u32::from(entries);
        let room = if task == IN { BLOCK as u32 * u32::from(blocks) + 1 } else { 1 };
        self.queue.add(index, Buffer { address: table, size, flags: INDIRECT }, room);
    }

    fn data_of(&self, index: u16) -> u64 {
        self.data + BLOCK * u64::from(self.most) * u64::from(index)
    }

    /// So many requests, of a block each, anywhere.
    fn random(&mut self, task: u32, requests: u16) {
        let mut asked = [0; DEPTH as usize];
        for (index, asked) in (0..requests).zip(&mut asked) {
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let block = (self.random >> 33) % self.blocks;
            *asked = block;
            if task == OUT {
                write64(self.data_of(index), block);
            }
            self.ask(index, task, block, 1);
        }
        self.finish(requests);
        for (index, block) in (0..requests).zip(asked) {
            let found = read64(self.data_of(index));
            assert!(found == block, "block {block} has the number {found}");
        }
    }

    /// Shows the device what was made ready, and sleeps until so much is done.
    fn finish(&mut self, requests: u16) {
        self.queue.want_interrupt(true);
        if self.queue.show() {
            self.device.notify(0);
        }
        let mut left = requests;
        loop {
            vectors::doze();
            while let Some(used) = self.queue.take() {
                let status = read8(self.headers + 32 * u64::from(used.id) + 16);
                assert!(status == 0, "request {} ended with status {status}", used.id);
                left -= 1;
            }
            while left > 0 && self.queue.want_interrupt(true) {
                while self.queue.take().is_some() {
                    left -= 1;
                }
            }
            if left == 0 {
                return;
            }
        }
    }
}
