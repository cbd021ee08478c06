//! Flags and words by which somebody is told to look: who has seen one sees what it is about.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plinth::addr::{Ipa, Region};
use plinth::device::Device;
use plinth::device::bus::{Bus, Peripheral};
use plinth::device::doorbell::{Doorbell, Doorbells};
use plinth::exit::Width;
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::virtio::queues::Queues;
use plinth::virtio::ram::SharedRam;
use plinth::virtio::vsock::lines::Lines;

use crate::{look, rounds};

/// What is told, and the word of it.
#[derive(Default)]
struct Told<T> {
    what: AtomicU64,
    by: T,
}

impl<T> Told<T> {
    fn by(by: T) -> Self {
        Self { what: AtomicU64::new(0), by }
    }

    fn put(&self) {
        self.what.store(7, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.what.load(Ordering::Relaxed)
    }
}

#[test]
fn who_answers_a_doorbell_sees_why_it_was_rung() {
    type Bells = Told<Arc<Doorbells>>;
    let ring = |told: &Bells| {
        told.put();
        Doorbell::new(told.by.clone(), VmId(1), 3).ring();
    };
    let answer = |told: &Bells| {
        look(|| {
            let mut found = None;
            told.by.answer(|vm, slots| {
                assert_eq!((vm, slots), (VmId(1), 1 << 3));
                found = Some(told.get());
            });
            found
        })
    };
    rounds(
        |_| Told::by(Arc::new(Doorbells::new(2))),
        ring,
        answer,
        |told, (), seen| {
            assert_eq!(seen, 7);
            told.by.answer(|_, _| panic!("it is answered twice"));
        },
    );
}

#[test]
fn who_looks_for_a_guests_line_sees_it() {
    let come = |told: &Told<Lines>| {
        told.put();
        told.by.come();
    };
    let take = |told: &Told<Lines>| look(|| told.by.take().then(|| told.get()));
    rounds(
        |_| Told::<Lines>::default(),
        come,
        take,
        |told, (), seen| {
            assert_eq!((seen, told.by.take()), (7, false));
        },
    );
}

/// `InterruptStatus` is read without a lock; its driver looks at the rings next.
#[test]
fn who_reads_why_a_device_interrupts_sees_what_it_has_done() {
    type Device = Told<Queues<SharedRam>>;
    let raise = |told: &Device| {
        told.put();
        assert!(told.by.raise(1));
    };
    let read = |told: &Device| look(|| (told.by.interrupt() != 0).then(|| told.get()));
    let queues = |_| Told::by(Queues::new(1, SharedRam::default()));
    rounds(queues, raise, read, |_, (), seen| assert_eq!(seen, 7));
}

/// A register that drivers poll is read without the device's lock.
#[test]
fn who_polls_a_device_sees_what_it_has_done() {
    /// Where its register is.
    const REGISTER: Ipa = Ipa::new(0x0900_0000);
    /// It does something, and says so in its register.
    struct Does(Arc<AtomicU64>, u32);
    impl Device for Does {
        fn read(&mut self, _: u64, _: Width, _: Ticks) -> u64 {
            self.1.into()
        }

        fn polled(&self) -> Option<(u64, u32)> {
            Some((0, self.1))
        }

        fn write(&mut self, _: u64, _: Width, _: u64, _: Ticks) {
            self.0.store(7, Ordering::Relaxed);
            self.1 = 1;
        }

        fn reset(&mut self) {}
    }
    let bus = |_| {
        let done = Arc::new(AtomicU64::new(0));
        let window = Region::new(REGISTER, 0x1000).unwrap();
        let device = Peripheral::new(window, Box::new(Does(done.clone(), 0)));
        (Bus::new(vec![device]).unwrap(), done)
    };
    let write = |(bus, _): &(Bus, Arc<AtomicU64>)| {
        bus.write(REGISTER, Width::Word, 0, Ticks(0), |_, _| {});
    };
    let poll = |(bus, done): &(Bus, Arc<AtomicU64>)| {
        look(|| (bus.peek(REGISTER) == Some(1)).then(|| done.load(Ordering::Relaxed)))
    };
    rounds(bus, write, poll, |_, (), seen| assert_eq!(seen, 7));
}
