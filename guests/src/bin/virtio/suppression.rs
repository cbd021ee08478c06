//! Which notifications and interrupts there are, and that there are no others ("Used Buffer Notification Suppression",
//! "Available Buffer Notification Suppression", "Driver and Device Event Suppression").

use guests::gic;
use guests::mmio::{read16, write16};
use guests::report::Report;
use guests::timer::wait_until;
use guests::virtio::packed::Packed;
use guests::virtio::register::{INTERRUPT_ACK, INTERRUPT_STATUS};
use guests::virtio::split::{Descriptor, Split, WRITE};
use guests::virtio::{Device, feature, memory};

use crate::{begin, interrupts};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;

/// How long an interrupt may take, and one that does not come is waited for, in milliseconds.
const SOON: u64 = 5;

pub fn ask(report: &mut Report, device: Device) {
    let mut queue = Split::new(8, false);
    let data = memory::take(64, 16);
    queue.describe(0, Descriptor { address: data, size: 1, flags: WRITE, next: 0 });
    by_flags(report, device, &mut queue);
    by_index(report, device, &mut queue);
    status(report, device, &mut queue);
    packed(report, device, data);
}

/// So many chains at one go; how many interrupts that gave.
fn go(device: Device, queue: &mut Split, chains: u32) -> u32 {
    let before = interrupts(device);
    (0..chains).for_each(|_| queue.offer(0));
    queue.show();
    device.notify(0);
    wait_until(1000, || queue.used_index() == queue.offered);
    while queue.take_used().is_some() {}
    wait_until(SOON, || interrupts(device) > before + 1);
    interrupts(device) - before
}

fn by_flags(report: &mut Report, device: Device, queue: &mut Split) {
    let begun = begin(device, queue, 0);
    let got = [1, 1, 6].map(|chains| go(device, queue, chains));
    report.equal("what is used at one go is one interrupt", (begun, got), (true, [1; 3]));
    write16(queue.avail, NO_INTERRUPT);
    let got = [1, 1, 6].map(|chains| go(device, queue, chains));
    report.equal("and none when the driver wants none", got, [0; 3]);
    report.equal("the device wants to be notified when it has done all", read16(queue.used), 0);
}

fn by_index(report: &mut Report, device: Device, queue: &mut Split) {
    let begun = begin(device, queue, feature::EVENT_IDX);
    let event = |queue: &Split, at: u16| write16(queue.avail + 4 + 16, at);
    // At the third from now on.
    event(queue, queue.seen + 2);
    let got: [u32; 6] = core::array::from_fn(|_| go(device, queue, 1));
    report.equal(
        "used_event: one interrupt, at that chain",
        (begun, got),
        (true, [0, 0, 1, 0, 0, 0]),
    );
    event(queue, queue.seen + 3);
    report.equal("one when it is passed in a batch", go(device, queue, 6), 1);
    event(queue, queue.seen.wrapping_sub(1));
    report.equal("none when it was passed before", go(device, queue, 6), 0);
    let wanted = read16(queue.used + 4 + 64);
    report.equal("avail_event: notifications of the next chain", wanted, queue.offered);
}

/// `InterruptStatus` stays until it is acknowledged, bit by bit.
fn status(report: &mut Report, device: Device, queue: &mut Split) {
    let begun = begin(device, queue, 0);
    gic::disable(device.intid());
    go(device, queue, 1);
    let first = device.read(INTERRUPT_STATUS);
    device.write(INTERRUPT_ACK, 2);
    let kept = device.read(INTERRUPT_STATUS);
    device.write(INTERRUPT_ACK, 1);
    let gone = device.read(INTERRUPT_STATUS);
    gic::clear_pending(device.intid());
    gic::enable(device.intid());
    let got = (begun, [first, kept, gone]);
    report.equal("an interrupt's reason stays until it is acknowledged", got, (true, [1, 1, 0]));
}

fn packed(report: &mut Report, device: Device, data: u64) {
    let wanted = feature::RING_PACKED | feature::EVENT_IDX;
    if device.negotiate(wanted).is_none_or(|agreed| agreed & wanted != wanted) {
        return report.skip("event suppression of a packed ring", "the device does not offer it");
    }
    let Some(mut queue) = device.packed(0, 8, wanted) else {
        report.holds("a packed queue is ready", false, 0);
        return;
    };
    device.start();
    let mut go = |kind, at| {
        queue.suppress(kind, at);
        let got: [u32; 4] = core::array::from_fn(|_| {
            let before = interrupts(device);
            one(device, &mut queue, data);
            wait_until(SOON, || interrupts(device) > before + 1);
            interrupts(device) - before
        });
        got
    };
    report.equal("packed: every chain is an interrupt", go(0, (0, true)), [1; 4]);
    report.equal("or none is", go(1, (0, true)), [0; 4]);
    // At position 2 of the next round, from position 0 on.
    let got = go(2, (2, false));
    report.equal("or the one at a position", got, [0, 0, 1, 0]);
    report.equal("one of another round is not", go(2, (5, true)), [0; 4]);
    let (kind, at) = queue.wants_notification();
    report.equal("the device wants to be notified of the next chain", (kind, at), (2, queue.next));
}

fn one(device: Device, queue: &mut Packed, data: u64) {
    queue.offer(0, &[(data, 1, WRITE)]);
    device.notify(0);
    wait_until(1000, || queue.take_chain(1).is_some());
}
