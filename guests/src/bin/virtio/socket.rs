//! A socket device whose driver lies in its packets, and begins it anew while they are on their way, as its neighbour's does; then it
//! refuses what it has to.

use guests::mmio::{read16, read32, read64, write16, write32, write64};
use guests::report::Report;
use guests::timer::wait_until;
use guests::virtio::split::{Descriptor, Split, WRITE};
use guests::virtio::{Device, memory};

use crate::needs_reset;

const ROUNDS: u32 = 500;
const PACKETS: u16 = 32;
/// Room for what is received, and for what is sent, with its header.
const ROOM: u64 = 44 + 4096;
const SENT: u64 = 44 + (20 << 10);

/// "Socket Device: Device Operation".
mod op {
    pub const REQUEST: u16 = 1;
    pub const RST: u16 = 3;
}

/// What stands before a packet.
struct Header {
    from: u64,
    to: u64,
    ports: (u32, u32),
    len: u32,
    kind: u16,
    op: u16,
    rest: [u32; 3],
}

impl Header {
    fn write(&self, at: u64) {
        write64(at, self.from);
        write64(at + 8, self.to);
        let (low, high) = (at + 16, at + 28);
        [self.ports.0, self.ports.1, self.len]
            .iter()
            .zip(0..)
            .for_each(|(it, n)| write32(low + 4 * n, *it));
        write16(high, self.kind);
        write16(high + 2, self.op);
        self.rest.iter().zip(1..).for_each(|(it, n)| write32(high + 4 * n, *it));
    }
}

/// A number of the series that begins with `seed` (Knuth's MMIX generator).
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// One of what matters, mostly, or any.
fn often(seed: &mut u64, usual: &[u64]) -> u64 {
    let which = next(seed) as usize;
    if which.is_multiple_of(8) { next(seed) } else { usual[which / 8 % usual.len()] }
}

fn lie(seed: &mut u64, cid: u64) -> Header {
    Header {
        from: often(seed, &[cid]),
        to: often(seed, &[2, 3, 4]),
        ports: (often(seed, &[1, 2, 3]) as u32, often(seed, &[1, 2, 3]) as u32),
        len: often(seed, &[0, 1, 4096, 16 << 10]) as u32,
        kind: often(seed, &[1]) as u16,
        op: often(seed, &[1, 1, 2, 2, 3, 4, 5, 5, 6, 7]) as u16,
        rest: [often(seed, &[0, 1, 2, 3]), often(seed, &[0, 1 << 16]), often(seed, &[0])]
            .map(|word| word as u32),
    }
}

/// The device with room for what comes, and nothing to be sent. Whether it takes that.
fn begin(device: Device, receive: &mut Split, transmit: &mut Split, room: u64) -> bool {
    let agreed = device.negotiate(0).is_some();
    for queue in [&mut *receive, &mut *transmit] {
        crate::renew(queue, false);
    }
    let placed = [(0, &*receive), (1, &*transmit)]
        .iter()
        .all(|(index, it)| device.place(*index, it.size, it.table, it.avail, it.used));
    for number in 0..receive.size {
        let address = room + ROOM * u64::from(number);
        let size = ROOM as u32;
        receive.describe(number, Descriptor { address, size, flags: WRITE, next: 0 });
        receive.offer(number);
    }
    receive.show();
    device.start();
    device.notify(0);
    agreed && placed
}

pub fn ask(report: &mut Report, device: Device) {
    let cid = device.config64(0);
    let [mut receive, mut transmit] = [0; 2].map(|_: i32| Split::new(64, false));
    let (room, packets) =
        (memory::take(64 * ROOM, 16), memory::take(u64::from(PACKETS) * SENT, 16));
    let mut seed = cid;
    let fine = (0..ROUNDS).filter(|round| {
        let begun = begin(device, &mut receive, &mut transmit, room);
        for number in 0..PACKETS {
            let (address, header) = (packets + SENT * u64::from(number), lie(&mut seed, cid));
            header.write(address);
            let size = often(&mut seed, &[44, 44 + u64::from(header.len)]).min(SENT) as u32;
            transmit.describe(number, Descriptor { address, size, flags: 0, next: 0 });
            transmit.offer(number);
        }
        transmit.show();
        device.notify(1);
        // Where it has to wait for room it waits.
        if round % 2 == 0 {
            wait_until(2, || transmit.used_index() == PACKETS);
        }
        begun && transmit.used_index() <= PACKETS && !needs_reset(device)
    });
    report.equal("a socket device bears a driver that lies", fine.count(), ROUNDS as usize);
    let begun = begin(device, &mut receive, &mut transmit, room);
    let asks = Header {
        from: cid,
        to: 77,
        ports: (1000, 5),
        len: 0,
        kind: 1,
        op: op::REQUEST,
        rest: [0, 1 << 16, 0],
    };
    asks.write(packets);
    transmit.describe(0, Descriptor { address: packets, size: 44, flags: 0, next: 0 });
    transmit.offer(0);
    transmit.show();
    device.notify(1);
    // The neighbour may ask something meanwhile.
    let refused = wait_until(1000, || {
        let Some(used) = receive.take_used() else { return false };
        let at = room + ROOM * u64::from(used.id);
        let said = (read64(at), read64(at + 8), read32(at + 16), read32(at + 20), read16(at + 30));
        used.written == 44 && said == (77, cid, 5, 1000, op::RST)
    });
    report.equal("and refuses a connection to nobody", (begun, refused), (true, true));
    device.reset();
}
