//! Chains and indices that are against the standard: the device says that it needs a reset, and works again after it.

use guests::machine::machine;
use guests::mmio::write16;
use guests::report::Report;
use guests::timer::wait_until;
use guests::virtio::split::{Descriptor, INDIRECT, NEXT, Split, WRITE};
use guests::virtio::{Device, feature, memory, status};

use crate::{begin, needs_reset, reasons};

/// Where a lie is told: a queue, and memory for a table and for data.
struct Place {
    queue: Split,
    table: u64,
    data: u64,
}

type Lie = fn(&mut Place);
/// Of a packed ring: what is told, and by which chain.
type PackedLie = (&'static str, &'static [(u64, u32, u16)]);

const SIZE: u16 = 8;

/// What is told, whether `INDIRECT_DESC` is negotiated, and how.
const LIES: [(&str, bool, Lie); 17] = [
    ("a head that is no descriptor's", true, |it| it.queue.offer(SIZE)),
    ("a next that is no descriptor's", true, |it| it.one(it.data, 8, NEXT | WRITE, SIZE)),
    ("a chain that leads back to itself", true, |it| it.one(it.data, 0, NEXT | WRITE, 0)),
    ("a buffer that is no RAM", true, |it| it.one(0x0a00_0000, 8, WRITE, 0)),
    ("a buffer that reaches beyond RAM", true, |it| {
        let end = machine().ram + machine().ram_size;
        it.one(end - 4, 8, WRITE, 0);
    }),
    ("a buffer that wraps round", true, |it| it.one(u64::MAX - 3, 8, WRITE, 0)),
    ("a buffer to be read after one to be written", true, |it| {
        it.queue.describe(1, Descriptor { address: it.data, size: 8, flags: 0, next: 0 });
        it.one(it.data, 8, NEXT | WRITE, 1);
    }),
    ("a table that was not negotiated", false, |it| it.table(16, INDIRECT)),
    ("a table of no bytes", true, |it| it.table(0, INDIRECT)),
    ("a table of one and a half descriptors", true, |it| it.table(24, INDIRECT)),
    ("a table that is larger than the queue", true, |it| it.table(16 * 9, INDIRECT)),
    ("a table that the chain goes on behind", true, |it| it.table(16, INDIRECT | NEXT)),
    ("a table that is no RAM", true, |it| it.one(0x1000, 16, INDIRECT, 0)),
    ("a table in a table", true, |it| {
        let inner = Descriptor { address: it.table, size: 16, flags: INDIRECT, next: 0 };
        inner.write(it.table, 0);
        it.one(it.table, 16, INDIRECT, 0);
    }),
    ("a table that leads out of itself", true, |it| {
        let entry = Descriptor { address: it.data, size: 8, flags: WRITE | NEXT, next: 7 };
        entry.write(it.table, 0);
        it.one(it.table, 16, INDIRECT, 0);
    }),
    ("more chains than there are descriptors", true, |it| {
        it.one(it.data, 8, WRITE, 0);
        it.queue.offered += SIZE;
    }),
    ("an index that went back", true, |it| {
        it.one(it.data, 8, WRITE, 0);
        it.queue.offered = 0xffff;
    }),
];

impl Place {
    fn one(&mut self, address: u64, size: u32, flags: u16, next: u16) {
        self.queue.describe(0, Descriptor { address, size, flags, next });
        self.queue.offer(0);
    }

    /// A table of so many bytes, of which the first descriptor is right.
    fn table(&mut self, size: u32, flags: u16) {
        let entry = Descriptor { address: self.data, size: 8, flags: WRITE, next: 0 };
        entry.write(self.table, 0);
        self.one(self.table, size, flags, 1);
    }

    /// Whether a right request is used.
    fn works(&mut self, device: Device) -> bool {
        self.one(self.data, 8, WRITE, 0);
        self.queue.show();
        device.notify(0);
        wait_until(5, || self.queue.take_used().is_some())
    }
}

pub fn ask(report: &mut Report, device: Device) {
    let queue = Split::new(SIZE, false);
    let (table, data) = (memory::take(16 * 16, 16), memory::take(64, 16));
    let mut it = Place { queue, table, data };
    for (lie, indirect, tell) in LIES {
        let features = if indirect { feature::INDIRECT_DESC } else { 0 };
        let begun = begin(device, &mut it.queue, features);
        let works = it.works(device);
        let used = it.queue.used_index();
        reasons(device);
        tell(&mut it);
        it.queue.show();
        device.notify(0);
        wait_until(1000, || needs_reset(device));
        // It has told so by an interrupt, does nothing more, and nothing but a reset changes that.
        let told = wait_until(5, || reasons(device) & 2 != 0);
        write16(it.queue.avail + 2, used);
        (it.queue.offered, it.queue.shown) = (used, used);
        let idle = !it.works(device) && it.queue.used_index() == used;
        device.set_status(status::DRIVER_OK);
        let stays = needs_reset(device);
        let again = begin(device, &mut it.queue, features) && it.works(device);
        report.equal(lie, [begun, works, told, idle, stays, again], [true; 6]);
    }
    empty(report, device, &mut it);
    packed(report, device);
}

/// What is odd, and allowed.
fn empty(report: &mut Report, device: Device, it: &mut Place) {
    let begun = begin(device, &mut it.queue, 0);
    it.one(it.data, 0, WRITE, 0);
    it.one(it.data, 8, 0, 0);
    it.queue.show();
    device.notify(0);
    let used = wait_until(100, || it.queue.used_index() == 2);
    let lengths =
        [it.queue.take_used(), it.queue.take_used()].map(|used| used.map(|it| it.written));
    let got = (begun, used && !needs_reset(device), lengths);
    // Both heads are one descriptor, which was changed before it was read.
    report.equal("no room for an answer is an answer of no bytes", got, (true, true, [Some(0); 2]));
}

fn packed(report: &mut Report, device: Device) {
    const LIES: [PackedLie; 4] = [
        ("packed: a chain that never ends", &[(0, 0, WRITE); 8]),
        ("packed: a table in a chain", &[(0, 0, WRITE), (0, 16, INDIRECT)]),
        ("packed: a table of one and a half descriptors", &[(0, 24, INDIRECT)]),
        ("packed: a buffer that is no RAM", &[(0x1000, 8, WRITE)]),
    ];
    for (number, (lie, buffers)) in LIES.iter().enumerate() {
        let agreed = device.negotiate(feature::RING_PACKED | feature::INDIRECT_DESC);
        if agreed.is_none_or(|agreed| agreed & feature::RING_PACKED == 0) {
            return report.skip(lie, "the device does not offer it");
        }
        let queue = device.packed(0, 8, feature::RING_PACKED);
        device.start();
        let Some(mut queue) = queue else {
            report.holds(lie, false, "the queue is not ready");
            continue;
        };
        reasons(device);
        queue.offer(5, buffers);
        if number == 0 {
            // The last one goes on as well.
            write16(queue.ring + 16 * 7 + 14, 1 << 7 | WRITE | NEXT);
        }
        device.notify(0);
        let needs = wait_until(1000, || needs_reset(device));
        let told = wait_until(5, || reasons(device) & 2 != 0);
        let used = queue.take_chain(1).is_some();
        report.equal(lie, [needs, told, used], [true, true, false]);
    }
    device.reset();
}
