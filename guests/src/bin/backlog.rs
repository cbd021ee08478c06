//! A guest whose disk is never done with what it has asked for: as many requests as the queue holds, each of many long
//! buffers, all of them in the same memory. Then it waits, for ever: by `WFI`, or, with `suspend` on its command line, by
//! CPU_SUSPEND.

#![no_std]
#![no_main]

use guests::mmio::write64;
use guests::report::Report;
use guests::virtio::ring::{Buffer, Ring};
use guests::virtio::split::{INDIRECT, Split, WRITE};
use guests::virtio::{Device, feature, kind, memory};
use guests::{instruction, machine, println, psci};

guests::payload!(main);

/// Of each request: so many buffers, of so many bytes.
const BUFFERS: u16 = 120;
const SIZE: u32 = 2 << 20;

fn main(report: &mut Report) {
    let Some(device) = Device::find(kind::BLOCK, 0) else {
        return report.skip("a disk is never done", "there is no disk");
    };
    let features = device.negotiate(feature::INDIRECT_DESC).expect("its features");
    let mut queue = device.split(0, u16::MAX, features).expect("its queue");
    device.start();
    // `struct virtio_blk_req`: IN, from the disk's beginning.
    let (header, data) = (memory::take(32, 16), memory::take(SIZE.into(), 4096));
    write64(header, 0);
    write64(header + 8, 0);
    let entries = BUFFERS + 2;
    let table = memory::take(16 * u64::from(entries), 16);
    let describe = |number, buffer| Split::describe_entry(table, number, entries, buffer);
    describe(0, Buffer { address: header, size: 16, flags: 0 });
    for number in 1..=BUFFERS {
        describe(number, Buffer { address: data, size: SIZE, flags: WRITE });
    }
    describe(BUFFERS + 1, Buffer { address: header + 16, size: 1, flags: WRITE });
    let size = 16 * u32::from(entries);
    for number in 0..queue.size {
        queue.add(number, Buffer { address: table, size, flags: INDIRECT }, 0);
    }
    queue.show();
    println!("backlog: {} requests", queue.size);
    device.notify(0);
    println!("backlog: waits");
    let suspends = machine::tree().chosen().bootargs() == Some("suspend");
    loop {
        if suspends {
            psci::call(psci::CPU_SUSPEND, [0; 3]);
        } else {
            instruction!("wfi");
        }
    }
}
