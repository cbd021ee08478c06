//! Memory that a disk of the machine's has.

use std::sync::Arc;

use plinth::addr::{Ipa, Region};
use plinth::host::alarm::Alarm;
use plinth::host::part::{Part, Place};
use plinth::host::share::{Lent, Share};
use plinth::host::{IoError, Operation};
use plinth::memory::{FramePool, GuestMemory, Ram, Uncached};
use plinth::time::Ticks;
use plinth::virtio::ram::SharedRam;

use crate::disk::FakeDisk;
use crate::{look, rounds};

const BASE: Ipa = Ipa::new(0x4000_0000);

fn ram() -> SharedRam {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(4096, 4096).unwrap(), &[]);
    let mut memory = GuestMemory::new();
    memory.add(BASE, pool.allocate(4096).unwrap().scrub().clean(&Uncached)).unwrap();
    let ram = SharedRam::default();
    ram.call_once(|| memory);
    ram
}

/// Whoever takes the VM apart, or begins it again, has its memory then.
#[test]
fn who_finds_that_a_disk_has_none_of_a_vms_memory_sees_what_it_has_written() {
    let disk = &FakeDisk::new(1);
    let alarm: &'static Alarm = Box::leak(Box::default());
    let share = &Arc::new(Share::new(disk.clone(), || Ticks(0), Ticks(100), alarm));
    let (lent, ram) = (Arc::new(Lent::default()), ram());
    let part =
        Part::new(Place { share: share.clone(), first: 0, sectors: 1, read_only: false }, &lent);
    part.set_ram(ram.clone());
    let (sector, memory) = (Region::new(BASE, 512).unwrap(), ram.get().unwrap());
    // A part that is reset meanwhile has an orphan.
    for reset in [false, true] {
        let ask = |_| {
            memory.write(BASE, 0u64).unwrap();
            assert!(part.submit(1, Operation::Read(0), [Some(sector)].into_iter()));
            if reset {
                part.abandon(|_| true);
            }
        };
        let answer = |(): &()| {
            // Some of what it should, and it fails.
            memory.write(BASE, 7u64).unwrap();
            disk.perform(0, Err(IoError::Device));
            share.attend();
        };
        let take = |(): &()| {
            let has = || if reset { lent.has_orphans() } else { lent.is_any() };
            look(|| (!has()).then(|| memory.read::<u64>(BASE).unwrap()))
        };
        rounds(ask, answer, take, |(), (), read| {
            assert_eq!((read, part.completed().is_some()), (7, !reset));
        });
    }
}
