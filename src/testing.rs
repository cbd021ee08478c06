//! What the tests of all modules share: a guest's RAM, and how much of a search is made, which is less under Miri, where
//! everything is some hundred times slower and undefined behaviour is looked for, not wrong sums.

use proptest::test_runner::Config;

use crate::addr::Ipa;
use crate::memory::{FramePool, GuestMemory, Ram, Recorder};
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

/// How a property test runs: `ordinary` cases, or `under_miri`, unless `PROPTEST_CASES` says how many.
/// Failures are not kept in a file.
pub fn cases(ordinary: u32, under_miri: u32) -> Config {
    let asked = Config::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => asked.cases,
        None => pick(ordinary, under_miri),
    };
    Config { cases, failure_persistence: None, ..asked }
}

/// A count, size or stride: `ordinary`, or `under_miri`.
pub const fn pick<T: Copy>(ordinary: T, under_miri: T) -> T {
    if cfg!(miri) { under_miri } else { ordinary }
}
