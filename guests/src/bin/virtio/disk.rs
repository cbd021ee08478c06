//! A disk's requests ("Block Device"): what is written is there, also after a thousand resets in the middle of others.

use guests::fp;
use guests::mmio::{read8, read32, write8, write32, write64};
use guests::report::Report;
use guests::timer::{now, wait_until};
use guests::virtio::register::STATUS;
use guests::virtio::split::Split;
use guests::virtio::{Device, memory};

use crate::storm::ROUNDS;
use crate::{begin, needs_reset, reasons};

/// `virtio_blk_req.type`.
const IN: u32 = 0;
const OUT: u32 = 1;
/// More than a device here copies at one go.
const BYTES: u32 = 256 << 10;

struct Disk {
    device: Device,
    queue: Split,
    /// A request's header, with its status behind it, and its data.
    header: u64,
    data: u64,
}

impl Disk {
    fn begin(&mut self) -> bool {
        begin(self.device, &mut self.queue, 0)
    }

    /// Asks for all that is copied, from the disk's beginning.
    fn ask(&mut self, task: u32) {
        write32(self.header, task);
        write64(self.header + 8, 0);
        write8(self.header + 16, 0xff);
        self.queue.chain(
            0,
            &[
                (self.header, 16, false),
                (self.data, BYTES, task == IN),
                (self.header + 16, 1, true),
            ],
        );
        self.queue.offer(0);
        self.queue.show();
        self.device.notify(0);
    }

    fn finish(&mut self) -> Option<(u8, u32)> {
        let mut used = None;
        wait_until(2000, || {
            used = self.queue.take_used();
            used.is_some()
        });
        used.map(|used| (read8(self.header + 16), used.written))
    }

    fn fill(&self, what: impl Fn(u32) -> u32) {
        (0..BYTES / 4).for_each(|at| write32(self.data + 4 * u64::from(at), what(at)));
    }

    fn is(&self, what: impl Fn(u32) -> u32) -> bool {
        (0..BYTES / 4).all(|at| read32(self.data + 4 * u64::from(at)) == what(at))
    }
}

/// What is on the disk.
fn pattern(at: u32) -> u32 {
    at.wrapping_mul(0x9e37_79b1) ^ 0x1234
}

pub fn ask(report: &mut Report, device: Device) {
    let (header, data) = (memory::take(32, 16), memory::take(BYTES.into(), 4096));
    let mut disk = Disk { device, queue: Split::new(8, false), header, data };
    let begun = disk.begin();
    disk.fill(pattern);
    disk.ask(OUT);
    report.equal("a disk is written to", (begun, disk.finish()), (true, Some((0, 1))));
    disk.fill(|_| 0);
    fp::enable();
    let registers = fp::Registers::pattern(1, 2);
    registers.load();
    disk.ask(IN);
    let read = (disk.finish(), disk.is(pattern));
    let kept = fp::Registers::store() == registers;
    report.equal("and read, and it is the same", read, (Some((0, BYTES + 1)), true));
    // EL2 copies by some of them.
    report.holds("and FP registers are as before", kept, ());
    disk.ask(99);
    report.equal("what it does not know it says", disk.finish().map(|it| it.0), Some(2));

    reasons(device);
    disk.queue.chain(0, &[(disk.header, 16, false)]);
    disk.queue.offer(0);
    disk.queue.show();
    device.notify(0);
    let needs = wait_until(100, || needs_reset(device));
    let told = wait_until(5, || reasons(device) & 2 != 0);
    report.equal("no place for a status needs a reset", (needs, told), (true, true));

    let mut written = 0;
    let rounds = (0..ROUNDS).filter(|round| {
        let begun = disk.begin();
        disk.ask(IN);
        device.write(STATUS, 0);
        let at = disk.data + u64::from(BYTES) - 4;
        if round % 100 == 0 {
            // What was under way is not: nothing comes any more.
            write32(at, 0);
            let until = now();
            wait_until(2, || now() < until);
            written += u32::from(read32(at) != 0);
        }
        begun && device.status() == 0
    });
    let rounds = rounds.count();
    report.equal("a disk is begun anew a thousand times", (rounds, written), (ROUNDS as usize, 0));
    let begun = disk.begin();
    disk.fill(|_| 0);
    disk.ask(IN);
    let read = (begun, disk.finish(), disk.is(pattern));
    report.equal("and has what it had", read, (true, Some((0, BYTES + 1)), true));
    device.reset();
}
