//! What the tests of all modules share: a guest's RAM, how a driver begins, and how much of a search is made, which is less under Miri, where
//! everything is some hundred times slower and undefined behaviour is looked for, not wrong sums.

use core::cell::{Cell, RefCell};

use proptest::test_runner::{Config, RngAlgorithm};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::addr::Ipa;
use crate::device::Device;
use crate::exit::Width;
use crate::memory::{FramePool, GuestMemory, Ram, Recorder};
use crate::time::Ticks;
use crate::virtio::queue::Place;
use crate::virtio::ram::SharedRam;

/// So many pages of a guest's RAM from `base` on, zeroed, in however many pieces.
pub fn ram(base: u64, pages: u64) -> GuestMemory {
    let (mut pool, size) = (FramePool::new(), pages * 4096);
    pool.add(Ram::from_heap(size, 4096).unwrap(), &[]);
    let frames = pool.allocate(size).unwrap().scrub().clean(&Recorder::default());
    let mut ram = GuestMemory::new();
    ram.add(Ipa::new(base), frames).unwrap();
    ram
}

/// The same as its devices reach it.
pub fn shared_ram(base: u64, pages: u64) -> SharedRam {
    let shared = SharedRam::default();
    shared.call_once(|| ram(base, pages));
    shared
}

/// A driver that wants these features and has its queues at these places begins with a virtio device ("Device
/// Initialization"). Returns whether the device takes that.
pub fn start(device: &mut impl Device, features: u64, places: &[Place]) -> bool {
    let mut set = |offset, value: u64| {
        device.write(offset, Width::Word, value & 0xffff_ffff, Ticks(0));
        device.read(0x070, Width::Word, Ticks(0))
    };
    for (offset, value) in [(0x070, 0), (0x070, 3), (0x024, 0), (0x020, features), (0x024, 1)] {
        set(offset, value);
    }
    set(0x020, features >> 32);
    if set(0x070, 11) != 11 {
        return false;
    }
    for (queue, place) in (0..).zip(places) {
        set(0x030, queue);
        set(0x038, place.size.into());
        let areas = [(0x080, place.descriptors), (0x090, place.driver), (0x0a0, place.device)];
        for (offset, area) in areas {
            set(offset, area);
            set(offset + 4, area >> 32);
        }
        set(0x044, 1);
    }
    set(0x070, 15) == 15
}

/// What was saved, after it has been bytes on their way to somewhere else.
pub fn carried<T: Serialize + DeserializeOwned>(saved: &T) -> T {
    postcard::from_bytes(&postcard::to_allocvec(saved).unwrap()).unwrap()
}

/// The same, with some of these bytes become others. `None` where nobody can read that.
pub fn damaged<T: Serialize + DeserializeOwned>(saved: &T, changes: &[(usize, u8)]) -> Option<T> {
    let mut bytes = postcard::to_allocvec(saved).unwrap();
    let length = bytes.len();
    changes.iter().for_each(|(at, byte)| bytes[at % length] = *byte);
    postcard::from_bytes(&bytes).ok()
}

/// How a property test runs: `ordinary` cases, or `under_miri`, unless `PROPTEST_CASES` says how many.
/// Failures are not kept in a file. Under Miri, random numbers are of the kind that costs least.
pub fn cases(ordinary: u32, under_miri: u32) -> Config {
    let asked = Config::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => asked.cases,
        None => pick(ordinary, under_miri),
    };
    let rng_algorithm = pick(asked.rng_algorithm, RngAlgorithm::XorShift);
    Config { cases, rng_algorithm, failure_persistence: None, ..asked }
}

/// All of these; under Miri the first alone, which goes the ways that the others go.
pub fn some<T>(items: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    items.into_iter().take(pick(usize::MAX, 1))
}

/// A count, size or stride: `ordinary`, or `under_miri`.
pub const fn pick<T: Copy>(ordinary: T, under_miri: T) -> T {
    if cfg!(miri) { under_miri } else { ordinary }
}

/// The bound of an exhaustive search: the `whole` of it where tests are built to search (`cargo test --profile search
/// exhaustive`, the step `host/exhaustive`), a part of it in the `ordinary` run, where each step takes ten times as long.
pub const fn bound<T: Copy>(whole: T, ordinary: T, under_miri: T) -> T {
    if cfg!(debug_assertions) { pick(ordinary, under_miri) } else { whole }
}

/// All ways to decide a number of times, one way after the other: what is decided, and how often, may depend on what was
/// decided before.
#[derive(Default)]
pub struct Choices {
    /// What is decided this time, of how many, from the first decision on.
    way: RefCell<Vec<(usize, usize)>>,
    /// How many decisions were made this time.
    made: Cell<usize>,
}

impl Choices {
    /// One of the numbers below `count`.
    pub fn below(&self, count: usize) -> usize {
        let mut way = self.way.borrow_mut();
        let at = self.made.replace(self.made.get() + 1);
        if at == way.len() {
            way.push((0, count));
        }
        let (choice, of) = way[at];
        assert_eq!(of, count, "the same decisions lead to another one");
        choice
    }

    /// One of these.
    pub fn of<T: Copy>(&self, these: &[T]) -> T {
        these[self.below(these.len())]
    }

    /// Tries every way. Returns how many there are.
    pub fn try_all(mut attempt: impl FnMut(&Self)) -> u64 {
        let choices = Self::default();
        for ways in 1.. {
            choices.made.set(0);
            attempt(&choices);
            let mut way = choices.way.borrow_mut();
            way.truncate(choices.made.get());
            while way.pop_if(|(choice, of)| *choice + 1 == *of).is_some() {}
            match way.last_mut() {
                Some((choice, _)) => *choice += 1,
                None => return ways,
            }
        }
        unreachable!("there are not that many")
    }
}
