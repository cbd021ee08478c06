//! Any accesses to the PL031 at any times, backwards too. Its interrupt output is what `RTCMIS` says,
//! and rises at its deadline and not before.
#![no_main]

use std::num::NonZeroU32;

use libfuzzer_sys::fuzz_target;
use plinth::device::Device;
use plinth::device::pl031::Pl031;
use plinth::exit::Width;
use plinth::time::{Frequency, Ticks};
use plinth_fuzz::Access;

const RTCMIS: u64 = 0x018;

fuzz_target!(|input: (NonZeroU32, u64, u32, Vec<Access>)| {
    let (frequency, now, count, accesses) = input;
    let frequency = Frequency(frequency);
    let mut clock = Pl031::new(frequency, Ticks(now), count);
    for access in accesses {
        access.perform(&mut clock);
        let masked = clock.read(RTCMIS, Width::Word, Ticks(0));
        assert_eq!(clock.irq_level(), masked != 0);
        let Some(Ticks(deadline)) = clock.deadline() else { continue };
        assert!(!clock.irq_level());
        let mut later = Pl031::restore(frequency, clock.state().clone());
        later.advance(Ticks(deadline - 1));
        assert!(!later.irq_level(), "before {deadline}");
        later.advance(Ticks(deadline));
        assert!(later.irq_level(), "at {deadline}");
    }
});
