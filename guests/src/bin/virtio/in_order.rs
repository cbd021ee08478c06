//! A disk whose requests are used in the order in which they were made ("In-order use of descriptors"), by rings of both
//! formats. Some are refused, so not all of what they have room for is written: these are told of by themselves.

use guests::mmio::{read8, read64, write8, write32, write64};
use guests::report::Report;
use guests::timer::wait_until;
use guests::virtio::in_order::InOrder;
use guests::virtio::packed::Packed;
use guests::virtio::ring::{Buffer, Ring, Used};
use guests::virtio::split::{INDIRECT, Split, WRITE};
use guests::virtio::{Device, feature, memory};

/// How many descriptors the ring has, and how many requests are made at a time at most.
const SIZE: u16 = 16;
/// How often some are made.
const ROUNDS: u16 = 200;
/// What is read and written.
const BYTES: u32 = 512;

/// `virtio_blk_req.type`: two that there are, and one that there is not.
const IN: u32 = 0;
const OUT: u32 = 1;
const UNKNOWN: u32 = 99;

/// `VIRTIO_BLK_S_OK`, `VIRTIO_BLK_S_UNSUPP`.
const OK: u8 = 0;
const UNSUPP: u8 = 2;

struct Disk<R> {
    device: Device,
    ring: R,
    /// By request: a header with its status behind it, a table of three, and a sector.
    headers: u64,
    tables: u64,
    data: u64,
}

pub fn ask(report: &mut Report, device: Device) {
    by::<InOrder<Split>>(report, device, "a disk's requests are used in order, by a split ring");
    by::<InOrder<Packed>>(report, device, "a disk's requests are used in order, by a packed ring");
}

fn by<R: Ring>(report: &mut Report, device: Device, question: &str) {
    let wanted = R::FEATURES | feature::INDIRECT_DESC | feature::EVENT_IDX;
    let Some(features) = device.negotiate(wanted) else {
        report.holds(question, false, "the device does not agree");
        return;
    };
    if features & wanted != wanted {
        return report.skip(question, "the device does not offer it");
    }
    let Some(ring) = R::ready(device, 0, SIZE, features) else {
        report.holds(question, false, "the queue is not ready");
        return;
    };
    device.start();
    let requests = u64::from(SIZE);
    let headers = memory::take(32 * requests, 32);
    let (tables, data) = (memory::take(48 * requests, 16), memory::take(512 * requests, 512));
    let mut disk = Disk { device, ring, headers, tables, data };
    let mut tasks = [OUT; SIZE as usize];
    let written = disk.round(&tasks);
    let failed = (0..ROUNDS).find(|round| {
        let tasks = &mut tasks[..usize::from(1 + round % SIZE)];
        (0..).zip(tasks.iter_mut()).for_each(|(index, it)| *it = task(*round, index));
        !disk.round(tasks)
    });
    report.equal(question, (written, failed), (true, None));
    device.reset();
}

/// What request `index` of a round is for: in some rounds all are of one kind, so that all are used completely.
fn task(round: u16, index: u16) -> u32 {
    match round % 4 {
        0 => IN,
        1 => OUT,
        _ if (index + round) % 5 == 3 => UNKNOWN,
        _ if index.is_multiple_of(2) => IN,
        _ => OUT,
    }
}

/// What the driver calls request `index`: the number of no place in the ring.
fn name(index: u16) -> u16 {
    SIZE - 1 - index
}

impl<R: Ring> Disk<R> {
    /// Requests at one go. Whether they were used in order, each as it should be.
    fn round(&mut self, tasks: &[u32]) -> bool {
        (0..).zip(tasks).for_each(|(index, task)| self.make(index, *task));
        if self.ring.show() {
            self.device.notify(0);
        }
        let right = (0..).zip(tasks).all(|(index, task)| {
            let mut used = None;
            wait_until(1000, || {
                used = self.ring.take();
                used.is_some()
            });
            used.is_some_and(|used| self.is_right(index, *task, used))
        });
        right && self.ring.take().is_none()
    }

    /// Makes one available, for sector `index`.
    fn make(&mut self, index: u16, task: u32) {
        let at = u64::from(index);
        let (header, table) = (self.headers + 32 * at, self.tables + 48 * at);
        write32(header, task);
        write64(header + 8, at);
        write8(header + 16, 0xff);
        write64(self.data + 512 * at, if task == OUT { sector(index) } else { 0 });
        let data_flags = if task == OUT { 0 } else { WRITE };
        let entries = [
            Buffer { address: header, size: 16, flags: 0 },
            Buffer { address: self.data + 512 * at, size: BYTES, flags: data_flags },
            Buffer { address: header + 16, size: 1, flags: WRITE },
        ];
        for (number, entry) in (0..).zip(entries) {
            R::describe_entry(table, number, 3, entry);
        }
        let room = if task == OUT { 1 } else { BYTES + 1 };
        self.ring.add(name(index), Buffer { address: table, size: 48, flags: INDIRECT }, room);
    }

    fn is_right(&self, index: u16, task: u32, used: Used) -> bool {
        let at = u64::from(index);
        let status = read8(self.headers + 32 * at + 16);
        let has_read = || read64(self.data + 512 * at) == sector(index);
        used.id == name(index)
            && match task {
                IN => status == OK && used.written == BYTES + 1 && has_read(),
                OUT => status == OK && used.written == 1,
                _ => status == UNSUPP && used.written <= BYTES,
            }
    }
}

/// What a sector is to begin with.
fn sector(index: u16) -> u64 {
    0x5ec7_0000_0000_0000 | u64::from(index)
}
