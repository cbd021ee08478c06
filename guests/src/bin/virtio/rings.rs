//! Rings of both formats, with an entropy device behind them ("Virtqueues").

use guests::mmio::{read8, write8};
use guests::report::Report;
use guests::timer::wait_until;
use guests::virtio::packed::Packed;
use guests::virtio::register::{QUEUE_DESC_LOW, QUEUE_READY, QUEUE_RESET, QUEUE_SEL};
use guests::virtio::ring::{Buffer, Ring};
use guests::virtio::split::{Descriptor, INDIRECT, Split, WRITE};
use guests::virtio::{Device, feature, memory};

use crate::{begin, interrupts};

/// How many bytes a request gets at most.
pub const MOST: u32 = 32;
/// What was in a buffer before.
const BEFORE: u8 = 0xa5;

/// A queue of either format, and where buffers and tables for it are.
enum Queue {
    Split(Split),
    Packed(Packed),
}

struct Asking {
    device: Device,
    ring: Queue,
    data: u64,
    table: u64,
    /// How many requests were made.
    count: u16,
}

/// How a request's buffers are described.
const SHAPES: [&[u32]; 5] = [&[32], &[8, 8, 16], &[1, 0, 31], &[16], &[5, 40]];

impl Asking {
    fn begin(device: Device, features: u64) -> Option<Self> {
        let agreed = device.negotiate(features)?;
        let ring = if agreed & feature::RING_PACKED == 0 {
            Queue::Split(device.split(0, 8, agreed)?)
        } else {
            Queue::Packed(device.packed(0, 8, agreed)?)
        };
        device.start();
        let (data, table) = (memory::take(64, 16), memory::take(16 * 8, 16));
        Some(Self { device, ring, data, table, count: 0 })
    }

    /// Asks for bytes into buffers of such sizes, one after the other, and waits for them. Whether as many came, not the same
    /// twice, and no byte more.
    fn ask(&mut self, sizes: &[u32], indirect: bool) -> bool {
        (0..64).for_each(|at| write8(self.data + at, BEFORE));
        let mut buffers = [(0, 0, true); 4];
        let mut at = self.data;
        for (buffer, size) in buffers.iter_mut().zip(sizes) {
            *buffer = (at, *size, true);
            at += u64::from(*size);
        }
        let buffers = &buffers[..sizes.len()];
        let id = self.count % 7;
        self.count += 1;
        if indirect {
            let describe = match self.ring {
                Queue::Split(_) => Split::describe_entry,
                Queue::Packed(_) => Packed::describe_entry,
            };
            for (number, &(address, size, _)) in (0..).zip(buffers) {
                let buffer = Buffer { address, size, flags: WRITE };
                describe(self.table, number, buffers.len() as u16, buffer);
            }
        }
        let whole = (self.table, 16 * sizes.len() as u32);
        let (device, mut got) = (self.device, None);
        match &mut self.ring {
            Queue::Split(queue) => {
                match indirect {
                    true => queue.describe(
                        id,
                        Descriptor { address: whole.0, size: whole.1, flags: INDIRECT, next: 0 },
                    ),
                    false => queue.chain(0, buffers),
                }
                let head = if indirect { id } else { 0 };
                queue.offer(head);
                queue.show();
                device.notify(0);
                wait_until(1000, || {
                    got = queue.take_used().map(|used| (used.id == head, used.written));
                    got.is_some()
                });
            }
            Queue::Packed(queue) => {
                let mut all = [(0, 0, WRITE); 4];
                all.iter_mut().zip(buffers).for_each(|(to, from)| (to.0, to.1) = (from.0, from.1));
                let chain = &[(whole.0, whole.1, INDIRECT)][..];
                let chain = if indirect { chain } else { &all[..sizes.len()] };
                queue.offer(id, chain);
                device.notify(0);
                let descriptors = chain.len() as u16;
                wait_until(1000, || {
                    got = queue.take_chain(descriptors).map(|used| (used.id == id, used.written));
                    got.is_some()
                });
            }
        }
        let room: u32 = sizes.iter().sum();
        let wanted = room.min(MOST);
        let filled = (0..u64::from(wanted)).any(|at| read8(self.data + at) != BEFORE);
        let kept = (u64::from(wanted)..64).all(|at| read8(self.data + at) == BEFORE);
        got == Some((true, wanted)) && filled && kept
    }
}

pub fn ask(report: &mut Report, device: Device) {
    use feature::{EVENT_IDX, INDIRECT_DESC, RING_PACKED};
    for (question, features) in [
        ("requests go round a split ring", 0),
        ("a split ring with EVENT_IDX", EVENT_IDX),
        ("a packed ring", RING_PACKED),
        ("a packed ring with EVENT_IDX", RING_PACKED | EVENT_IDX),
    ] {
        let Some(mut asking) = Asking::begin(device, features | INDIRECT_DESC) else {
            report.holds(question, false, "the device does not begin");
            continue;
        };
        let before = interrupts(device);
        let failed = (0..100).find(|n| !asking.ask(SHAPES[n % 5], n / 5 % 2 == 1));
        report.equal(question, failed, None);
        report.holds("the driver is interrupted meanwhile", interrupts(device) > before, before);
    }
    indices(report, device);
    ready(report, device);
    again(report, device);
}

/// A ring's indices have 16 bits, and go round.
fn indices(report: &mut Report, device: Device) {
    let mut queue = Split::new(8, true);
    let data = memory::take(64, 16);
    let begun = begin(device, &mut queue, feature::EVENT_IDX);
    queue.describe(0, Descriptor { address: data, size: 1, flags: WRITE, next: 0 });
    queue.want_interrupt(false);
    // Eight at a time, by one descriptor.
    let rounds = (0..8400).filter(|_| {
        (0..8).for_each(|_| queue.offer(0));
        if queue.show() {
            device.notify(0);
        }
        wait_until(1000, || queue.used_index() == queue.offered) && {
            while queue.take_used().is_some() {}
            queue.want_interrupt(false);
            true
        }
    });
    report.equal("indices go round at 65536", (begun, rounds.count()), (true, 8400));
}

/// What a driver writes of a queue that is ready moves nothing.
fn ready(report: &mut Report, device: Device) {
    let Some(mut asking) = Asking::begin(device, 0) else { return };
    device.write(QUEUE_SEL, 0);
    device.write(QUEUE_DESC_LOW, 0);
    let works = asking.ask(&[32], false);
    report.equal("a queue that is ready stays where it is", works, true);
}

/// `VIRTIO_F_RING_RESET` ("Virtqueue Reset").
fn again(report: &mut Report, device: Device) {
    let mut queue = Split::new(8, false);
    let data = memory::take(64, 16);
    if device.features() & feature::RING_RESET == 0 {
        return report.skip("one queue is reset", "the device does not offer it");
    }
    let begun = begin(device, &mut queue, feature::RING_RESET);
    let asks = |queue: &mut Split| {
        queue.describe(0, Descriptor { address: data, size: 8, flags: WRITE, next: 0 });
        queue.offer(0);
        queue.show();
        device.notify(0);
        wait_until(5, || queue.take_used().is_some())
    };
    report.equal("a queue works before it is reset alone", (begun, asks(&mut queue)), (true, true));
    device.write(QUEUE_SEL, 0);
    device.write(QUEUE_RESET, 1);
    let state = (device.read(QUEUE_RESET), device.read(QUEUE_READY), device.status());
    report.equal("then it is not ready, and the device goes on", state, (0, 0, 15));
    report.equal("nothing is used of it", asks(&mut queue), false);
    crate::renew(&mut queue, false);
    let placed = device.place(0, 8, queue.table, queue.avail, queue.used);
    report.equal("it can be made ready again, and works", (placed, asks(&mut queue)), (true, true));
}
