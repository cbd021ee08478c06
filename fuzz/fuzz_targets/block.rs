//! A driver that asks anything of a disk, in buffers cut anywhere, in RAM or not. Each request is answered in bounded visits,
//! nothing that others have left in memory comes to light, and what is read is what was written last.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use plinth::addr::Ipa;
use plinth::device::Device;
use plinth::exit::Width;
use plinth::memory::{FramePool, GuestMemory, Ram, Recorder};
use plinth::virtio::block::disk::{Creation, Disk, Owner};
use plinth::virtio::block::{BlockDevice, SharedDisk};
use plinth::virtio::queue::Place;
use plinth::virtio::ram::SharedRam;
use plinth::virtio::transport::Transport;
use plinth_fuzz::RAM;
use plinth_fuzz::driver::{NOW, QUEUE_NOTIFY, STATUS, begin, set};

/// The guest's RAM: rings, then data.
const SIZE: u64 = 16 * 4096;
const PLACE: Place =
    Place { size: 128, descriptors: RAM, driver: RAM + 0x1000, device: RAM + 0x2000 };
const DATA: u64 = RAM + 3 * 4096;
/// The disk, and how much of it can have been written to.
const DISK: u64 = 64 * 1024;
const SPACE: u64 = 8 * 4096;
/// What others have left in memory.
const SECRET: u8 = 0xee;

#[derive(Arbitrary, Debug)]
struct Request {
    kind: u8,
    sector: u8,
    high: bool,
    data: Vec<u8>,
    /// Sizes of buffers that are read, and written, and whether they lie in RAM.
    buffers: Vec<(u16, bool, bool)>,
}

type Bench = (SharedRam, Vec<plinth::addr::Region<plinth::addr::PhysAddr>>);

fn ram() -> Bench {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(SIZE, SIZE).unwrap(), &[]);
    let frames = pool.allocate(SIZE).unwrap().scrub().clean(&Recorder::default());
    let regions = frames.regions().collect();
    let mut memory = GuestMemory::new();
    memory.add(Ipa::new(RAM), frames).unwrap();
    let ram = SharedRam::default();
    ram.call_once(|| memory);
    (ram, regions)
}

thread_local! {
    // What they take of the heap is never given back.
    static GUEST: RefCell<Bench> = RefCell::new(ram());
    static POOL: RefCell<FramePool> = RefCell::new({
        let mut pool = FramePool::new();
        pool.add(Ram::from_heap(1 << 20, 1 << 16).unwrap(), &[]);
        pool
    });
}

/// All that is free has somebody's secrets in it.
fn leave_secrets(pool: &mut FramePool) {
    let frames = pool.allocate(2 * SPACE + 64 * 1024).unwrap().scrub().clean(&Recorder::default());
    let size = frames.size() as usize;
    let mut memory = GuestMemory::new();
    memory.add(Ipa::new(0), frames).unwrap();
    memory.write_from(Ipa::new(0), &vec![SECRET; size]).unwrap();
    memory.release(pool);
}

fuzz_target!(|requests: Vec<Request>| {
    let (ram, _) = GUEST.with_borrow(Clone::clone);
    let memory = ram.get().expect("it was put there");
    memory.write_from(Ipa::new(RAM), &vec![0; SIZE as usize]).expect("it is RAM");
    let disk = POOL.with_borrow_mut(|pool| {
        leave_secrets(pool);
        let owner = Arc::new(Owner::new("fuzz".into()));
        let creation =
            Creation { size: DISK, base: None, space: Some(SPACE), serial: "fuzz".into(), owner };
        Disk::new(creation, pool).expect("there is enough")
    });
    let disk = SharedDisk::new(disk.into());
    while !disk.lock().step().expect("it has no image") {}
    let mut device = Transport::new(BlockDevice::new(disk.clone(), 1), ram.clone(), "fuzz".into());
    begin(&mut device, 0, &[PLACE]);
    for (number, request) in (1u16..).zip(requests.iter().take(200)) {
        let Request { kind, sector, high, data, buffers } = request;
        let header = [u32::from(*kind), 0, u32::from(*sector), if *high { u32::MAX } else { 0 }];
        let header: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = [&header[..], data].concat();
        // What the guest itself writes is never what others have left.
        bytes.iter_mut().filter(|byte| **byte == SECRET).for_each(|byte| *byte = 0);
        bytes.truncate(8 * 4096);
        memory.write_from(Ipa::new(DATA), &bytes).expect("it is RAM");
        let mut at = DATA;
        let mut chain = Vec::new();
        for (size, write, inside) in buffers.iter().take(100) {
            chain.push((
                if *inside { at } else { RAM + SIZE - 100 },
                u32::from(*size) % 9000,
                *write,
            ));
            at = DATA + (at - DATA + u64::from(*size)) % (4 * 4096);
        }
        chain.sort_by_key(|(_, _, write)| *write);
        chain.insert(0, (DATA, 16, false));
        for (index, (at, size, write)) in (0u16..).zip(&chain) {
            let place = RAM + 16 * u64::from(index);
            let last = usize::from(index) + 1 == chain.len();
            let flags = u16::from(!last) | u16::from(*write) << 1;
            memory.write(Ipa::new(place), *at).expect("it is RAM");
            memory.write(Ipa::new(place + 8), *size).expect("it is RAM");
            memory.write(Ipa::new(place + 12), flags).expect("it is RAM");
            memory.write(Ipa::new(place + 14), index + 1).expect("it is RAM");
        }
        memory
            .write(Ipa::new(RAM + 0x1004 + 2 * u64::from((number - 1) % 128)), 0u16)
            .expect("RAM");
        memory.write(Ipa::new(RAM + 0x1002), number).expect("it is RAM");
        set(&mut device, QUEUE_NOTIFY, 0);
        let mut visits = 0;
        while device.deadline().is_some() {
            device.advance(NOW);
            visits += 1;
            assert!(visits < 200_000, "it goes on for ever");
        }
        if device.read(STATUS, Width::Word, NOW) & 64 != 0 {
            break;
        }
        assert_eq!(memory.read(Ipa::new(RAM + 0x2002)), Ok(number), "it was answered");
        let mut all = vec![0; (SIZE - 3 * 4096) as usize];
        memory.read_into(Ipa::new(DATA), &mut all).expect("it is RAM");
        assert!(!all.contains(&SECRET), "what others left has come to light");
    }
    drop(device);
    let disk = Arc::into_inner(disk).expect("nobody else has it").into_inner();
    POOL.with_borrow_mut(|pool| {
        disk.release(pool);
        assert_eq!(pool.free_bytes(), pool.total_bytes(), "all came back");
    });
});
