//! A device that is begun anew a thousand times, most of them while it works.

use guests::mmio::{read8, write8, write16};
use guests::report::Report;
use guests::timer::{now, wait_until};
use guests::virtio::register::STATUS;
use guests::virtio::split::{Descriptor, Split, WRITE};
use guests::virtio::{Device, feature, kind, memory};

use crate::{begin, needs_reset};

pub const ROUNDS: u32 = 1000;

pub fn ask(report: &mut Report, device: Device) {
    let mut queue = Split::new(8, false);
    let data = memory::take(64, 16);
    queue.describe(0, Descriptor { address: data, size: 32, flags: WRITE, next: 0 });
    let begun = (0..ROUNDS).filter(|round| {
        let features = if round % 2 == 0 { feature::EVENT_IDX } else { 0 };
        let begun = begin(device, &mut queue, features);
        (0..8).for_each(|_| queue.offer(0));
        queue.show();
        device.notify(0);
        let used = queue.used_index();
        device.write(STATUS, 0);
        begun && used <= 8 && device.status() == 0
    });
    report.equal(
        "an entropy device is begun anew a thousand times",
        begun.count(),
        ROUNDS as usize,
    );
    let begun = begin(device, &mut queue, 0);
    queue.offer(0);
    queue.show();
    device.notify(0);
    let works = wait_until(100, || queue.take_used().is_some());
    report.equal("and works", (begun, works), (true, true));
    beside(report, device, &mut queue);
}

/// While one device needs a reset the others of its guest work.
fn beside(report: &mut Report, device: Device, queue: &mut Split) {
    let Some(card) = Device::find(kind::NET, 0) else {
        return report.skip("one device needs a reset, another works", "there is no other");
    };
    let begun = begin(device, queue, 0);
    queue.offer(99);
    queue.show();
    device.notify(0);
    let broken = wait_until(100, || needs_reset(device));
    let mut sending = Split::new(8, false);
    let frame = frame(card);
    let works = send(card, &mut sending, frame);
    report.equal(
        "one device needs a reset, another works",
        (begun, broken, works),
        (true, true, true),
    );
    device.reset();
    card.reset();
}

/// A frame for everybody, with what comes before it.
fn frame(card: Device) -> u64 {
    let frame = memory::take(12 + 1514, 16);
    (0..6).for_each(|at| write8(frame + 12 + at, 0xff));
    (0..6).for_each(|at| write8(frame + 18 + at, card.config8(at)));
    write16(frame + 24, 0xb588);
    frame
}

/// Begins the card, and sends a frame. Whether it was used.
fn send(card: Device, queue: &mut Split, frame: u64) -> bool {
    if card.negotiate(0).is_none() {
        return false;
    }
    crate::renew(queue, false);
    let placed = card.place(1, queue.size, queue.table, queue.avail, queue.used);
    card.start();
    queue.chain(0, &[(frame, 12, false), (frame + 12, 1514, false)]);
    queue.offer(0);
    queue.show();
    card.notify(1);
    placed && wait_until(1000, || queue.take_used().is_some())
}

/// A card that gets what others send, and sends itself, is begun anew; after a reset nothing is written to what it had.
pub fn of_card(report: &mut Report, card: Device) {
    let [mut receive, mut transmit] = [0; 2].map(|_: i32| Split::new(64, false));
    let (frame, room) = (frame(card), memory::take(2048 * 64, 16));
    let mut written = 0;
    let begun = (0..ROUNDS).filter(|round| {
        let features = feature::EVENT_IDX * u64::from(round % 2);
        let agreed = card.negotiate(features).is_some();
        for queue in [&mut receive, &mut transmit] {
            crate::renew(queue, features != 0);
        }
        let placed = [(0, &receive), (1, &transmit)]
            .iter()
            .all(|(index, it)| card.place(*index, it.size, it.table, it.avail, it.used));
        for number in 0..64 {
            let address = room + 2048 * u64::from(number);
            receive.describe(number, Descriptor { address, size: 2048, flags: WRITE, next: 0 });
            receive.offer(number);
        }
        receive.show();
        card.start();
        for number in 0..8 {
            transmit.chain(2 * number, &[(frame, 12, false), (frame + 12, 1514, false)]);
            transmit.offer(2 * number);
        }
        transmit.show();
        card.notify(1);
        card.write(STATUS, 0);
        if round % 100 == 0 {
            (0..64).for_each(|at| write8(room + 2048 * at + 20, 0xa5));
            let until = now();
            wait_until(2, || now() < until);
            written += (0..64).filter(|at| read8(room + 2048 * at + 20) != 0xa5).count();
        }
        agreed && placed && card.status() == 0
    });
    let begun = begun.count();
    report.equal("a card is begun anew a thousand times", (begun, written), (ROUNDS as usize, 0));
    report.equal("and sends", send(card, &mut transmit, frame), true);
    card.reset();
}
