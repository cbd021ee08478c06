//! A driver that writes any registers of the entropy device, and any words of its rings, split or packed. Work ends, the
//! driver is never ready without its features, and after a reset a driver that keeps to the rules gets its bytes.
#![no_main]

use std::cell::RefCell;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plinth::addr::{Ipa, Region};
use plinth::device::Device;
use plinth::exit::Width;
use plinth::firmware::entropy::Entropy;
use plinth::memory::GuestMemory;
use plinth::virtio::entropy::EntropyDevice;
use plinth::virtio::queue::fake::{Driver, Offer};
use plinth::virtio::queue::{Buffer, Negotiated, Place};
use plinth::virtio::ram::SharedRam;
use plinth::virtio::transport::Transport;
use plinth_fuzz::driver::{NOW, QUEUE_NOTIFY, STATUS, begin, features, set};
use plinth_fuzz::{RAM, often, shared_ram};

const SIZE: u64 = 8 * 4096;
/// Its one queue, and what the driver has besides.
const PLACE: Place =
    Place { size: 8, descriptors: RAM, driver: RAM + 0x1000, device: RAM + 0x2000 };
const TABLES: u64 = RAM + 0x3000;
const DATA: u64 = RAM + 0x4000;

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
                // A buffer that the device writes, as a split ring and as both rounds of a packed one have it.
                let usual = [0, 1, 8, RAM, 1 << 32 | 32, 0x0082 << 48 | 32, 0x8002 << 48 | 32];
                Self::Word(u.int_in_range(0..=0x600)? * 8, often(u, &usual)?)
            }
        })
    }
}

thread_local! {
    static GUEST: RefCell<SharedRam> = RefCell::new(shared_ram(SIZE));
}

/// A driver that keeps to the rules, several times round the ring.
fn drive(device: &mut impl Device, memory: &GuestMemory, negotiated: Negotiated) {
    clear(memory);
    begin(device, features(negotiated), &[PLACE]);
    let mut driver = Driver::new(PLACE, negotiated, TABLES);
    for round in 0..5 {
        let count = u64::from(PLACE.size) - round;
        for number in 0..count {
            let buffer = Buffer { ipa: Ipa::new(DATA + 32 * number), size: 32 };
            memory.zero(Region::new(buffer.ipa, 32).expect("it is RAM")).expect("it is RAM");
            let indirect = negotiated.indirect && number % 2 == 0;
            let offer = Offer { writable: vec![buffer], indirect, ..Offer::default() };
            driver.offer(memory, &offer).expect("there is room for it");
            if driver.show(memory) {
                set(device, QUEUE_NOTIFY, 0);
            }
        }
        for number in 0..count {
            assert!(matches!(driver.used(memory), Some((_, 32))), "a chain of 32 bytes is used");
            assert_ne!(memory.read::<u64>(Ipa::new(DATA + 32 * number)), Ok(0), "and written");
        }
        assert_eq!(driver.used(memory), None);
    }
    assert!(device.irq_level());
}

fn clear(memory: &GuestMemory) {
    let all = Region::new(Ipa::new(RAM), SIZE).expect("it is RAM");
    memory.zero(all).expect("it is RAM");
}

fuzz_target!(|input: ([bool; 4], Vec<Step>)| {
    let ([started, indirect, event_index, packed], steps) = input;
    let negotiated = Negotiated { indirect, event_index, packed, in_order: false };
    let shared = GUEST.with_borrow(Clone::clone);
    let memory = shared.get().expect("it was put there");
    clear(memory);
    let generator = Entropy::from_seed(&[1; 32]).expect("long enough");
    let device = EntropyDevice::new(generator);
    let mut device = Transport::new(device, shared.clone(), "fuzzed".to_owned());
    if started {
        begin(&mut device, features(negotiated), &[PLACE]);
    }
    for step in steps {
        match step {
            Step::Register(offset, value) => set(&mut device, offset, value.into()),
            Step::Word(at, value) => memory.write(Ipa::new(RAM + at), value).expect("it is RAM"),
            Step::Work => device.advance(NOW),
        }
        let status = device.read(STATUS, Width::Word, NOW);
        assert!(status & 4 == 0 || status & 8 != 0, "ready without its features: {status:#x}");
    }
    // Each pass works off some, and what is available is bounded by the queue.
    for _ in 0..8 {
        device.advance(NOW);
    }
    assert_eq!(device.deadline(), None);
    drive(&mut device, memory, negotiated);
});
