//! A driver that writes any registers of the entropy device, and any words of its rings. Work ends, the driver is never
//! ready without its features, and after a reset a driver that keeps to the rules gets its bytes.
#![no_main]

use std::cell::RefCell;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::addr::Ipa;
use plinth::device::Device;
use plinth::exit::Width;
use plinth::firmware::entropy::Entropy;
use plinth::memory::{FramePool, GuestMemory, Ram, Recorder};
use plinth::time::Ticks;
use plinth::virtio::entropy::EntropyDevice;
use plinth::virtio::ram::SharedRam;
use plinth::virtio::transport::Transport;
use plinth_fuzz::{RAM, often};

const SIZE: u64 = 8 * 4096;
const STATUS: u64 = 0x070;
const NOTIFY: u64 = 0x050;

#[derive(Debug)]
enum Step {
    Register(u64, u32),
    Word(u64, u64),
    Work,
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=4)? {
            0 => Self::Work,
            1 | 2 => {
                let value = often(u, &[0, 1, 3, 8, 11, 15, RAM, RAM + 0x1000, RAM + 0x2000])?;
                Self::Register(u.int_in_range(0..=0x60)? * 4, (value & 0xffff_ffff) as u32)
            }
            _ => {
                Self::Word(u.int_in_range(0..=0x600)? * 8, often(u, &[0, 1, 8, RAM, 1 << 32 | 32])?)
            }
        })
    }
}

fn ram() -> SharedRam {
    let mut pool = FramePool::new();
    pool.add(Ram::from_heap(SIZE, SIZE).unwrap(), &[]);
    let frames = pool.allocate(SIZE).unwrap().scrub().clean(&Recorder::default());
    let mut memory = GuestMemory::new();
    memory.add(Ipa::new(RAM), frames).unwrap();
    let ram = SharedRam::default();
    ram.call_once(|| memory);
    ram
}

fn set(device: &mut impl Device, offset: u64, value: u32) {
    device.write(offset, Width::Word, value.into(), Ticks(0));
}

/// Up to `DRIVER_OK`, with one queue of eight.
fn start(device: &mut impl Device) {
    let low = |at: u64| (at & 0xffff_ffff) as u32;
    let registers = [
        (STATUS, 0),
        (STATUS, 3),
        (0x024, 0),
        (0x020, 0),
        (0x024, 1),
        (0x020, 1),
        (STATUS, 11),
        (0x030, 0),
        (0x038, 8),
        (0x080, low(RAM)),
        (0x090, low(RAM + 0x1000)),
        (0x0a0, low(RAM + 0x2000)),
        (0x084, 0),
        (0x094, 0),
        (0x0a4, 0),
        (0x044, 1),
        (STATUS, 15),
    ];
    registers.into_iter().for_each(|(offset, value)| set(device, offset, value));
}

thread_local! {
    // What it takes of the heap is never given back.
    static GUEST: RefCell<SharedRam> = RefCell::new(ram());
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (started, steps) = input;
    let shared = GUEST.with_borrow(Clone::clone);
    let memory = shared.get().expect("it was put there");
    for at in (0..SIZE).step_by(8) {
        memory.write(Ipa::new(RAM + at), 0u64).expect("it is RAM");
    }
    let generator = Entropy::from_seed(&[1; 32]).expect("long enough");
    let mut device = Transport::new(EntropyDevice::new(generator), shared.clone(), String::from("fuzz"));
    if started {
        start(&mut device);
    }
    for step in steps {
        match step {
            Step::Register(offset, value) => set(&mut device, offset, value),
            Step::Word(at, value) => memory.write(Ipa::new(RAM + at), value).expect("it is RAM"),
            Step::Work => device.advance(Ticks(0)),
        }
        let status = device.read(STATUS, Width::Word, Ticks(0));
        assert!(status & 4 == 0 || status & 8 != 0, "ready without its features: {status:#x}");
    }
    // Each pass works off some, and what is available is bounded by the queue.
    for _ in 0..8 {
        device.advance(Ticks(0));
    }
    assert_eq!(device.deadline(), None);

    let put = |at: u64, value: u64| memory.write(Ipa::new(RAM + at), value).expect("it is RAM");
    (put(0x1000, 0), put(0x2000, 0));
    start(&mut device);
    (put(0, RAM + 0x3000), put(8, 32 | 2 << 32), put(0x3000, 0));
    put(0x1000, 1 << 16);
    set(&mut device, NOTIFY, 0);
    assert_eq!(memory.read::<u64>(Ipa::new(RAM + 0x2000)), Ok(1 << 16), "one chain used");
    assert_ne!(memory.read::<u64>(Ipa::new(RAM + 0x3000)), Ok(0), "and bytes in it");
    assert!(device.irq_level());
});
