//! Virtqueues: a driver on one CPU, its device on another one.
//!
//! The driver has a fence at every access. The device has its own fences alone.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};

use plinth::addr::{Ipa, Region};
use plinth::memory::{OutsideRam, Store};
use plinth::virtio::queue::fake::{Driver, Offer};
use plinth::virtio::queue::{Buffer, Chain, Negotiated, Place, Virtqueue};
use plinth::virtio::ram::GuestRam;

use crate::{look, races, rounds};

const BASE: u64 = 0x4000_0000;
const SIZE: usize = 0xc8;
const PLACE: Place = Place { size: 4, descriptors: BASE, driver: BASE + 0x40, device: BASE + 0x80 };
/// Where data is.
const DATA: Ipa = Ipa::new(BASE + 0xc0);

/// A guest's RAM in words, as one side sees it.
struct Words {
    words: Arc<[AtomicU64]>,
    /// With such fences before and behind each access.
    fences: Option<Ordering>,
}

impl Words {
    fn at<T>(&self, ipa: Ipa, access: impl FnOnce(&AtomicU64, u64) -> T) -> Result<T, OutsideRam> {
        let offset = ipa.raw().checked_sub(BASE).ok_or(OutsideRam { ipa, size: 8 })?;
        let index = usize::try_from(offset / 8).unwrap();
        let word = self.words.get(index).ok_or(OutsideRam { ipa, size: 8 })?;
        self.fence();
        let result = access(word, 8 * (offset % 8));
        self.fence();
        Ok(result)
    }

    fn fence(&self) {
        if let Some(ordering) = self.fences {
            fence(ordering);
        }
    }

    fn read(&self, ipa: Ipa) -> Result<u64, OutsideRam> {
        self.at(ipa, |word, shift| word.load(Ordering::Relaxed) >> shift)
    }

    /// Writes so many bits.
    fn write(&self, ipa: Ipa, bits: u32, value: u64) -> Result<(), OutsideRam> {
        let mask = u64::MAX >> (64 - bits);
        self.at(ipa, |word, shift| {
            let new = |old: u64| Some(old & !(mask << shift) | (value & mask) << shift);
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, new);
        })
    }
}

impl GuestRam for Words {
    fn read_u16(&self, ipa: Ipa) -> Result<u16, OutsideRam> {
        Ok(u16::try_from(self.read(ipa)? & 0xffff).unwrap())
    }

    fn write_u16(&self, ipa: Ipa, value: u16) -> Result<(), OutsideRam> {
        self.write(ipa, 16, value.into())
    }

    fn read_u32(&self, ipa: Ipa) -> Result<u32, OutsideRam> {
        Ok(u32::try_from(self.read(ipa)? & 0xffff_ffff).unwrap())
    }

    fn write_u32(&self, ipa: Ipa, value: u32) -> Result<(), OutsideRam> {
        self.write(ipa, 32, value.into())
    }

    fn read_u64(&self, ipa: Ipa) -> Result<u64, OutsideRam> {
        self.read(ipa)
    }

    fn write_u64(&self, ipa: Ipa, value: u64) -> Result<(), OutsideRam> {
        self.at(ipa, |word, _| word.store(value, Ordering::Relaxed))
    }

    fn read_bytes(&self, ipa: Ipa, _: &mut [u8]) -> Result<(), OutsideRam> {
        Err(OutsideRam { ipa, size: 0 })
    }

    fn write_bytes(&self, ipa: Ipa, _: &[u8]) -> Result<(), OutsideRam> {
        Err(OutsideRam { ipa, size: 0 })
    }

    fn copy_from(&self, ipa: Ipa, _: &Store, _: u64, size: u64) -> Result<(), OutsideRam> {
        Err(OutsideRam { ipa, size })
    }

    fn copy_to(&self, ipa: Ipa, _: &Store, _: u64, size: u64) -> Result<(), OutsideRam> {
        Err(OutsideRam { ipa, size })
    }

    fn zero(&self, ipas: Region<Ipa>) -> Result<(), OutsideRam> {
        Err(OutsideRam { ipa: ipas.start(), size: ipas.size() })
    }

    fn holds(&self, ipas: &Region<Ipa>) -> bool {
        ipas.start().raw() >= BASE && ipas.last().raw() < BASE + SIZE as u64
    }
}

/// Both sides of a queue.
struct Sides {
    driver: Mutex<Driver>,
    device: Mutex<(Virtqueue, Chain)>,
    of_driver: Words,
    of_device: Words,
}

impl Sides {
    fn new(packed: bool, fences: Ordering) -> Self {
        let words: Arc<[AtomicU64]> = (0..SIZE / 8).map(|_| AtomicU64::new(0)).collect();
        let of_driver = Words { words: words.clone(), fences: Some(fences) };
        let of_device = Words { words, fences: None };
        let negotiated = Negotiated { packed, event_index: true, ..Negotiated::default() };
        let queue = Virtqueue::new(PLACE, negotiated, &of_device).unwrap();
        let driver = Mutex::new(Driver::new(PLACE, negotiated, 0));
        Self { driver, device: Mutex::new((queue, Chain::default())), of_driver, of_device }
    }

    /// The driver shows a buffer. Whether the device wants to be notified.
    fn offer(&self) -> bool {
        let mut driver = self.driver.lock().unwrap();
        self.of_driver.write_u64(DATA, 7).unwrap();
        let buffer = vec![Buffer { ipa: DATA, size: 8 }];
        let offer = Offer { writable: buffer, ..Offer::default() };
        driver.offer(&self.of_driver, &offer).unwrap();
        driver.show(&self.of_driver)
    }

    /// The device takes it: what is in the buffer.
    fn take(&self) -> Option<u64> {
        let (queue, chain) = &mut *self.device.lock().unwrap();
        let taken = queue.take(&self.of_device, chain).unwrap();
        taken.then(|| self.of_device.read_u64(chain.writable()[0].ipa).unwrap())
    }

    /// The device has written to it, and shows that. Whether the driver wants an interrupt.
    fn give_back(&self) -> bool {
        let (queue, chain) = &mut *self.device.lock().unwrap();
        self.of_device.write_u64(DATA, 8).unwrap();
        queue.give_back(&self.of_device, chain.head, 8).unwrap();
        queue.publish(&self.of_device).unwrap()
    }

    /// The driver has it back: what is in it now.
    fn used(&self) -> Option<u64> {
        let used = self.driver.lock().unwrap().used(&self.of_driver);
        used.map(|(_, written)| {
            assert_eq!(written, 8);
            self.of_driver.read_u64(DATA).unwrap()
        })
    }

    /// Whether the device has to be notified from now on. Whether there is a chain already.
    fn want_notification(&self, wanted: bool) -> bool {
        let (queue, _) = &mut *self.device.lock().unwrap();
        queue.want_notification(&self.of_device, wanted).unwrap()
    }

    /// With a buffer that the device has.
    fn taken(self) -> Self {
        self.offer();
        assert_eq!(self.take(), Some(7));
        self
    }
}

#[test]
fn a_device_that_takes_a_chain_sees_what_is_in_it() {
    for packed in [false, true] {
        let take = |sides: &Sides| look(|| sides.take());
        rounds(
            |_| Sides::new(packed, Ordering::AcqRel),
            Sides::offer,
            take,
            |_, _, seen| {
                assert_eq!(seen, 7, "packed {packed}");
            },
        );
    }
}

#[test]
fn a_driver_that_gets_a_chain_back_sees_what_was_written() {
    for packed in [false, true] {
        let used = |sides: &Sides| look(|| sides.used());
        let sides = |_| Sides::new(packed, Ordering::AcqRel).taken();
        rounds(sides, Sides::give_back, used, |_, _, seen| {
            assert_eq!(seen, 8, "packed {packed}");
        });
    }
}

#[test]
fn a_device_that_goes_to_sleep_is_notified_or_sees_the_chain() {
    for packed in [false, true] {
        let sides = |_| {
            let sides = Sides::new(packed, Ordering::SeqCst).taken();
            sides.give_back();
            // So far it wants none.
            sides.want_notification(false);
            sides
        };
        let sleep = |sides: &Sides| sides.want_notification(true);
        races(sides, Sides::offer, sleep, |_, notified, seen| {
            assert!(notified || seen, "packed {packed}: it sleeps for ever");
        });
    }
}

#[test]
fn a_driver_that_goes_to_sleep_is_interrupted_or_sees_what_was_used() {
    for packed in [false, true] {
        let sides = |_| {
            let sides = Sides::new(packed, Ordering::SeqCst).taken();
            // Then the first element, for which an interrupt is wanted from the start, has passed.
            sides.give_back();
            assert_eq!(sides.used(), Some(8));
            sides.driver.lock().unwrap().want_interrupt(&sides.of_driver, None);
            sides.taken()
        };
        let sleep =
            |sides: &Sides| sides.driver.lock().unwrap().want_interrupt(&sides.of_driver, Some(0));
        races(sides, Sides::give_back, sleep, |_, interrupted, seen| {
            assert!(interrupted || seen, "packed {packed}: it sleeps for ever");
        });
    }
}
