//! Claims about the transport, made with a device that gives each byte it reads back increased by one.

use proptest::prelude::*;

use super::*;
use crate::addr::Ipa;
use crate::memory::GuestMemory;
use crate::testing::ram;
use crate::virtio::backend::Served;
use crate::virtio::queue::Chain;
use crate::virtio::queues::USED_BUFFER;
use crate::virtio::ram::GuestRam;

const NOW: Ticks = Ticks(0);
const BASE: u64 = 0x4000_0000;
const DATA: u64 = BASE + 0x8000;

/// Each chain's first readable byte, plus one, goes to its first writable one.
pub(super) struct Increment;

impl Backend for Increment {
    const ID: u32 = 42;
    const AT_ONCE: usize = 3;

    fn features(&self) -> u64 {
        1 << 5
    }

    fn queues(&self) -> &[u16] {
        &[8, 4]
    }

    fn serve(&mut self, _queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let mut byte = [0];
        if let Some(from) = chain.readable().first() {
            ram.read_bytes(from.ipa, &mut byte)?;
        }
        let Some(to) = chain.writable().first() else { return Ok(Served::Done(0)) };
        ram.write_bytes(to.ipa, &[byte[0].wrapping_add(1)])?;
        Ok(Served::Done(1))
    }

    fn read_config(&self, offset: u64, width: Width) -> u64 {
        (0x1122_3344_5566_7788 >> (8 * offset.min(7))) & width.mask()
    }
}

pub(super) type Tested = Transport<Increment, GuestMemory>;

pub(super) fn device() -> Tested {
    Transport::new(Increment, ram(BASE, 16), String::from("test"))
}

impl Tested {
    pub(super) fn get(&mut self, offset: u64) -> u32 {
        u32::try_from(self.read(offset, Width::Word, NOW)).unwrap()
    }

    pub(super) fn set(&mut self, offset: u64, value: u32) {
        self.write(offset, Width::Word, value.into(), NOW);
    }

    /// Up to `FEATURES_OK`, with these features.
    pub(super) fn negotiate(&mut self, features: u64) -> bool {
        self.set(register::STATUS, 0);
        self.set(register::STATUS, 1);
        self.set(register::STATUS, 3);
        for (sel, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.set(register::DRIVER_FEATURES_SEL, sel);
            self.set(register::DRIVER_FEATURES, u32::try_from(half).unwrap());
        }
        self.set(register::STATUS, 11);
        self.get(register::STATUS) & 8 != 0
    }

    /// Queue `index` where [`Self::offer`] expects it.
    pub(super) fn place(&mut self, index: u32, size: u32) {
        let at = u32::try_from(BASE).unwrap() + 0x2000 * index;
        self.set(register::QUEUE_SEL, index);
        self.set(register::QUEUE_NUM, size);
        self.set(register::QUEUE_DESC_LOW, at);
        self.set(register::QUEUE_DRIVER_LOW, at + 0x800);
        self.set(register::QUEUE_DEVICE_LOW, at + 0x1000);
        self.set(register::QUEUE_READY, 1);
    }

    pub(super) fn start(&mut self) {
        assert!(self.negotiate(feature::VERSION_1));
        self.place(0, 8);
        self.set(register::STATUS, 15);
    }

    /// `count` chains of two bytes each, the first to be increased into the second, in queue 0.
    pub(super) fn offer(&mut self, count: u16) {
        let index: u16 = self.queues.ram().read(Ipa::new(BASE + 0x802)).unwrap();
        for n in 0..count {
            let (first, number) = (BASE + 32 * u64::from(n), u64::from(n));
            self.queues.ram().write(Ipa::new(first), DATA + 2 * number).unwrap();
            self.queues
                .ram()
                .write(Ipa::new(first + 8), 1 | 1 << 32 | (2 * number + 1) << 48)
                .unwrap();
            self.queues.ram().write(Ipa::new(first + 16), DATA + 2 * number + 1).unwrap();
            self.queues.ram().write(Ipa::new(first + 24), 1u64 | 2 << 32).unwrap();
            let slot = u64::from(index.wrapping_add(n) % 8);
            self.queues.ram().write(Ipa::new(BASE + 0x804 + 2 * slot), 2 * n).unwrap();
        }
        self.queues.ram().write(Ipa::new(BASE + 0x802), index.wrapping_add(count)).unwrap();
    }

    pub(super) fn used(&self) -> u16 {
        self.queues.ram().read(Ipa::new(BASE + 0x1002)).unwrap()
    }
}

#[test]
fn a_driver_finds_the_device_and_its_features() {
    let mut device = device();
    assert_eq!(device.get(0x000), 0x7472_6976);
    assert_eq!(device.get(0x004), 2);
    assert_eq!(device.get(0x008), 42);
    let mut half = |sel| {
        device.set(0x014, sel);
        device.get(0x010)
    };
    assert_eq!(half(0), 1 << 28 | 1 << 29 | 1 << 5);
    assert_eq!(half(1), 1 | 1 << 2 | 1 << 8);
    assert_eq!(half(2), 0);
    let mut largest = |queue| {
        device.set(0x030, queue);
        device.get(0x034)
    };
    assert_eq!([largest(0), largest(1), largest(2), largest(u32::MAX)], [8, 4, 0, 0]);
    assert_eq!(device.read(0x100, Width::Half, NOW), 0x7788);
    assert_eq!(device.read(0x102, Width::Byte, NOW), 0x66);
    assert_eq!(device.read(0x000, Width::Byte, NOW), 0);
    assert_eq!(device.get(0x0b0), u32::MAX);
}

#[test]
fn features_that_are_not_offered_or_lack_version_1_are_refused() {
    let mut device = device();
    assert!(!device.negotiate(1 << 5));
    assert!(!device.negotiate(feature::VERSION_1 | 1 << 6));
    assert!(!device.negotiate(feature::VERSION_1 | 1 << 35), "nothing in order");
    assert!(device.negotiate(feature::VERSION_1 | 1 << 5));
    // Too late.
    device.set(register::DRIVER_FEATURES, 0);
    assert_eq!(device.state.driver_features, feature::VERSION_1 | 1 << 5);
    // And without that there is no DRIVER_OK.
    assert!(!device.negotiate(0));
    device.set(register::STATUS, 15);
    assert_eq!(device.get(register::STATUS), 3);
}

#[test]
fn chains_are_used_and_the_driver_is_interrupted_until_it_says_that_it_knows() {
    let mut device = device();
    device.start();
    device.queues.ram().write(Ipa::new(DATA), 41u8).unwrap();
    device.offer(1);
    assert!(!device.irq_level());
    device.set(register::QUEUE_NOTIFY, 0);
    assert_eq!(device.queues.ram().read(Ipa::new(DATA + 1)), Ok(42u8));
    assert_eq!(device.used(), 1);
    assert!(device.irq_level());
    assert_eq!(device.get(register::INTERRUPT_STATUS), 1);
    device.set(register::INTERRUPT_ACK, 2);
    assert!(device.irq_level());
    device.set(register::INTERRUPT_ACK, 1);
    assert!(!device.irq_level());
}

#[test]
fn what_is_too_much_at_once_is_done_later_and_not_forgotten() {
    let mut device = device();
    device.start();
    device.offer(4);
    device.set(register::QUEUE_NOTIFY, 0);
    assert_eq!((device.used(), device.deadline()), (3, Some(Ticks(0))));
    device.advance(NOW);
    assert_eq!((device.used(), device.deadline()), (4, None));
}

#[test]
fn a_queue_that_breaks_the_rules_stops_the_device_until_it_is_reset() {
    let mut device = device();
    device.start();
    device.queues.ram().write(Ipa::new(BASE + 0x802), 9u16).unwrap();
    device.set(register::QUEUE_NOTIFY, 0);
    assert_eq!(device.get(register::STATUS), 15 | 64);
    assert_eq!(device.get(register::INTERRUPT_STATUS), 2);
    device.queues.ram().write(Ipa::new(BASE + 0x802), 0u16).unwrap();
    device.offer(1);
    device.set(register::QUEUE_NOTIFY, 0);
    assert_eq!(device.used(), 0);
    // A driver cannot take it back but by a reset.
    device.set(register::STATUS, 15);
    assert_eq!(device.get(register::STATUS), 15 | 64);
    device.start();
    assert_eq!((device.get(register::STATUS), device.irq_level()), (15, false));
    device.set(register::QUEUE_NOTIFY, 0);
    assert_eq!(device.used(), 1);
}

#[test]
fn a_queue_that_cannot_be_there_is_not_ready() {
    let mut device = device();
    assert!(device.negotiate(feature::VERSION_1));
    for size in [0, 3, 16, 0x1_0008] {
        device.place(0, size);
        assert_eq!(device.get(register::QUEUE_READY), 0, "{size}");
        assert_ne!(device.get(register::STATUS) & 64, 0);
    }
    device.place(2, 4);
    assert_eq!(device.get(register::QUEUE_READY), 0);
    // Not before the features are known.
    device.set(register::STATUS, 0);
    device.place(0, 8);
    assert_eq!(device.get(register::QUEUE_READY), 0);
}

#[test]
fn a_queue_that_is_ready_stays_where_it_is_until_it_is_reset() {
    let mut device = device();
    device.start();
    device.set(register::QUEUE_DESC_LOW, 0);
    device.offer(1);
    device.set(register::QUEUE_NOTIFY, 0);
    assert_eq!(device.used(), 1);
    device.set(register::QUEUE_RESET, 1);
    assert_eq!((device.get(register::QUEUE_RESET), device.get(register::QUEUE_READY)), (0, 0));
    device.offer(1);
    device.set(register::QUEUE_NOTIFY, 0);
    assert_eq!(device.used(), 1);
}

#[test]
fn before_the_driver_is_ready_nothing_is_done() {
    let mut device = device();
    assert!(device.negotiate(feature::VERSION_1));
    device.place(0, 8);
    device.offer(1);
    device.set(register::QUEUE_NOTIFY, 0);
    device.set(register::QUEUE_NOTIFY, 31);
    device.set(register::QUEUE_NOTIFY, u32::MAX);
    assert_eq!((device.used(), device.deadline()), (0, None));
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    /// Whatever a driver writes wherever, in whatever order, and whatever is in its rings.
    #[test]
    fn no_driver_can_make_it_panic(
        accesses in prop::collection::vec(
            (0u64..0x210, prop_oneof![0u32..16, Just(u32::try_from(BASE).unwrap()), any::<u32>()]), 0..80),
        words in prop::collection::vec((0u64..0x1100, any::<u64>()), 0..40),
        started: bool,
    ) {
        let mut device = device();
        if started {
            device.start();
        }
        for (at, word) in words {
            device.queues.ram().write(Ipa::new(BASE + at), word).unwrap();
        }
        for (offset, value) in accesses {
            device.set(offset & !3, value);
            device.advance(NOW);
            let status = device.get(register::STATUS);
            prop_assert!(status & 4 == 0 || status & 8 != 0);
            prop_assert!(status & 64 == 0 || device.deadline().is_none());
            prop_assert_eq!(device.irq_level(), device.get(register::INTERRUPT_STATUS) != 0);
            let ready = (0..2).any(|index| device.queues.is_ready(index));
            prop_assert!(!ready || status & 8 != 0);
        }
    }
}

#[test]
fn what_is_raised_between_an_acknowledgement_and_a_look_at_the_level_is_an_edge() {
    let mut device = device();
    device.start();
    assert!(device.queues().raise(USED_BUFFER));
    assert!(device.irq_level() && !device.has_fallen());
    device.set(register::INTERRUPT_ACK, USED_BUFFER.into());
    // Another CPU, which has used a buffer, before this one looks at the level.
    assert!(device.queues().raise(USED_BUFFER));
    assert!(device.irq_level() && device.has_fallen());
    assert!(!device.has_fallen(), "it is told once");
    // What it has not acknowledged is told again; nothing would tell of it otherwise.
    device.queues().raise(CONFIGURATION);
    device.set(register::INTERRUPT_ACK, USED_BUFFER.into());
    assert!(device.irq_level() && device.has_fallen());
    // Also where the driver saw nothing to acknowledge.
    device.set(register::INTERRUPT_ACK, 0);
    assert!(device.irq_level() && device.has_fallen());
    device.set(register::INTERRUPT_ACK, CONFIGURATION.into());
    assert!(!device.irq_level());
}
