//! Does a disk keep what is written to it? Blocks are written and read in turn, one at a time, for so many rounds (`rounds=N` on the
//! command line). One that is lost, as zeros, is told, and written anew: with `loses` it goes on until there was one.

#![no_std]
#![no_main]

use guests::machine;
use guests::mmio::{read8, read64, write8, write32, write64};
use guests::report::Report;
use guests::virtio::split::Split;
use guests::virtio::{Device, kind, memory};
use guests::{instruction, println};

guests::payload!(main);

/// `VIRTIO_BLK_T_IN`, `VIRTIO_BLK_T_OUT`.
const IN: u32 = 0;
const OUT: u32 = 1;
const SECTOR: u64 = 512;
/// A block, and how many there are.
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 128;
/// How many rounds are told of at a time.
const TOLD: u64 = 64;

struct Disk {
    device: Device,
    queue: Split,
    header: u64,
    data: u64,
}

impl Disk {
    fn find() -> Option<Self> {
        let device = Device::find(kind::BLOCK, 0)?;
        let features = device.negotiate(0)?;
        let queue = device.split(0, 8, features)?;
        device.start();
        Some(Self { device, queue, header: memory::take(32, 16), data: memory::take(BLOCK, 4096) })
    }

    /// One request (`struct virtio_blk_req`); its status.
    fn ask(&mut self, task: u32, block: u64) -> u8 {
        let Self { device, queue, header, data } = self;
        write32(*header, task);
        write32(*header + 4, 0);
        write64(*header + 8, block * BLOCK / SECTOR);
        write8(*header + 16, 0xff);
        let chain =
            [(*header, 16, false), (*data, BLOCK as u32, task == IN), (*header + 16, 1, true)];
        queue.chain(0, &chain);
        queue.offer(0);
        if queue.show() {
            device.notify(0);
        }
        while queue.take_used().is_none() {
            instruction!("yield");
        }
        read8(*header + 16)
    }

    fn words(&self) -> impl Iterator<Item = u64> + use<> {
        (self.data..self.data + BLOCK).step_by(8)
    }
}

fn main(report: &mut Report) {
    let Some(mut disk) = Disk::find() else {
        return report.skip("a disk keeps what is written", "there is no disk");
    };
    let tree = machine::tree();
    let arguments = tree.chosen().bootargs().unwrap_or_default();
    let rounds = arguments.split(' ').find_map(|word| word.strip_prefix("rounds=")?.parse().ok());
    let rounds: u64 = rounds.unwrap_or(1000);
    let loses = arguments.split(' ').any(|word| word == "loses");
    let mut written = [0; BLOCKS as usize];
    let (mut refused, mut lost, mut wrong) = (0u64, 0, 0u64);
    let mut round = 0;
    while round < rounds || loses && lost == 0 {
        round += 1;
        let block = round % BLOCKS;
        disk.words().for_each(|at| write64(at, round << 32 | (at & (BLOCK - 1))));
        let status = disk.ask(OUT, block);
        refused += u64::from(status != 0);
        written[block as usize] = if status == 0 { round } else { 0 };
        // One that was written a while ago.
        let block = (round * 37) % BLOCKS;
        let was = written[block as usize];
        if was != 0 {
            let status = disk.ask(IN, block);
            refused += u64::from(status != 0);
            if status == 0 && disk.words().all(|at| read64(at) == 0) {
                println!("diskio: block {block} is lost");
                lost += 1;
                written[block as usize] = 0;
            } else if status == 0 {
                let right = |at| read64(at) == was << 32 | (at & (BLOCK - 1));
                wrong += u64::from(!disk.words().all(right));
            }
        }
        if round.is_multiple_of(TOLD) || round == 1 {
            println!("diskio: {round} rounds");
        }
    }
    println!("diskio: {round} rounds, {refused} requests failed, {lost} blocks are lost");
    report.equal("what is read was written", wrong, 0);
    report.equal("nothing is refused", refused, 0);
    report.equal("blocks are lost where they are to be", lost > 0, loses);
}
