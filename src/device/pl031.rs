//! The PrimeCell real-time clock, PL031 (ARM DDI 0224), as a guest sees it: a 32-bit count of
//! seconds, with an alarm.
//!
//! The count is derived from the system counter, so nothing happens between two alarms. It never
//! stops: like QEMU's model this one is enabled from the start, and a reset of the machine leaves the
//! time as it is. A write to `RTCLR` takes effect at once rather than at the next second.
//!
//! Not modelled: the test registers.

use serde::{Deserialize, Serialize};

use super::Device;
use super::primecell::{self, Registers};
use crate::exit::Width;
use crate::time::{Frequency, Ticks};

/// RTCDR, "Data Register": the count.
const DR: u64 = 0x000;
/// RTCMR, "Match Register".
const MR: u64 = 0x004;
/// RTCLR, "Load Register".
const LR: u64 = 0x008;
/// RTCCR, "Control Register".
const CR: u64 = 0x00c;
/// RTCIMSC, "Interrupt Mask Set or Clear Register".
const IMSC: u64 = 0x010;
/// RTCRIS, "Raw Interrupt Status Register".
const RIS: u64 = 0x014;
/// RTCMIS, "Masked Interrupt Status Register".
const MIS: u64 = 0x018;
/// RTCICR, "Interrupt Clear Register".
const ICR: u64 = 0x01c;

/// The one bit of RTCCR, RTCIMSC, RTCRIS, RTCMIS and RTCICR.
const BIT: u32 = 1;

/// How many counts until the count is the same again.
const PERIOD: u64 = 1 << 32;

/// What of a PL031 a guest can change.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What the count was, modulo 2^32, when the system counter was zero.
    count_at_zero: u32,
    /// Whole seconds of the system counter up to which matches were looked for.
    seen: u64,
    matches: u32,
    load: u32,
    unmasked: bool,
    raised: bool,
}

/// A PL031 with its clock.
pub struct Pl031 {
    state: State,
    frequency: Frequency,
}

impl Pl031 {
    /// A clock that counts `count` seconds (since 1970, by convention) at the moment `now` of a
    /// system counter of `frequency`.
    #[expect(clippy::cast_possible_truncation, reason = "the count is modulo 2^32")]
    pub fn new(frequency: Frequency, now: Ticks, count: u32) -> Self {
        let seen = frequency.to_secs(now);
        let state = State {
            count_at_zero: count.wrapping_sub(seen as u32),
            seen,
            matches: 0,
            load: 0,
            unmasked: false,
            raised: false,
        };
        Self::restore(frequency, state)
    }

    /// A clock in a saved `state`; it goes on as if the system counter were the one it was saved
    /// under.
    pub const fn restore(frequency: Frequency, state: State) -> Self {
        Self { state, frequency }
    }

    /// What to save.
    pub const fn state(&self) -> &State {
        &self.state
    }
}

impl State {
    /// RTCDR.
    #[expect(clippy::cast_possible_truncation, reason = "the count is modulo 2^32")]
    const fn count(&self) -> u32 {
        self.count_at_zero.wrapping_add(self.seen as u32)
    }

    /// The seconds until the count next becomes the match value: a whole period if it is that now.
    const fn to_match(&self) -> u64 {
        match self.matches.wrapping_sub(self.count()) {
            0 => PERIOD,
            seconds => seconds as u64,
        }
    }

    /// The system counter has counted `seconds`. Earlier than what was seen means that the caller
    /// looked at the counter before another one who came first; the clock does not go back.
    const fn advance(&mut self, seconds: u64) {
        let passed = seconds.saturating_sub(self.seen);
        if passed >= self.to_match() {
            self.raised = true;
        }
        self.seen += passed;
    }

    const fn set_count(&mut self, count: u32) {
        self.load = count;
        self.count_at_zero = self.count_at_zero.wrapping_add(count.wrapping_sub(self.count()));
        self.compare();
    }

    const fn set_match(&mut self, count: u32) {
        self.matches = count;
        self.compare();
    }

    const fn compare(&mut self) {
        if self.count() == self.matches {
            self.raised = true;
        }
    }

    const fn is_interrupting(&self) -> bool {
        self.raised && self.unmasked
    }
}

impl Registers for Pl031 {
    const IDENTIFICATION: [u8; 8] = [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

    fn read_register(&mut self, offset: u64) -> u32 {
        match offset {
            DR => self.state.count(),
            MR => self.state.matches,
            LR => self.state.load,
            CR => BIT,
            IMSC => self.state.unmasked.into(),
            RIS => self.state.raised.into(),
            MIS => self.state.is_interrupting().into(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let bit = value & BIT != 0;
        match offset {
            MR => self.state.set_match(value),
            LR => self.state.set_count(value),
            IMSC => self.state.unmasked = bit,
            ICR if bit => self.state.raised = false,
            _ => {}
        }
    }
}

impl Device for Pl031 {
    fn read(&mut self, offset: u64, width: Width, now: Ticks) -> u64 {
        self.advance(now);
        primecell::read(self, offset, width)
    }

    fn write(&mut self, offset: u64, width: Width, value: u64, now: Ticks) {
        self.advance(now);
        primecell::write(self, offset, width, value);
    }

    fn irq_level(&self) -> bool {
        self.state.is_interrupting()
    }

    fn advance(&mut self, now: Ticks) {
        self.state.advance(self.frequency.to_secs(now));
    }

    fn deadline(&self) -> Option<Ticks> {
        if self.state.raised || !self.state.unmasked {
            return None;
        }
        let seconds = self.state.seen.checked_add(self.state.to_match())?;
        seconds.checked_mul(self.frequency.0.get().into()).map(Ticks)
    }

    fn reset(&mut self) {
        self.state.matches = 0;
        self.state.load = 0;
        self.state.unmasked = false;
        self.state.raised = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU32;
    use proptest::prelude::*;

    const HZ: u64 = 1000;

    /// A clock that counts `count` when the system counter is zero.
    fn clock(count: u32) -> Pl031 {
        clock_at(0, count)
    }

    fn clock_at(now: u64, count: u32) -> Pl031 {
        Pl031::new(Frequency(NonZeroU32::new(1000).unwrap()), Ticks(now), count)
    }

    fn read(clock: &mut Pl031, offset: u64, now: u64) -> u64 {
        clock.read(offset, Width::Word, Ticks(now))
    }

    fn write(clock: &mut Pl031, offset: u64, value: u64, now: u64) {
        clock.write(offset, Width::Word, value, Ticks(now));
    }

    #[test]
    fn the_data_register_counts_whole_seconds_and_wraps() {
        let mut clock = clock(u32::MAX - 1);
        assert_eq!(read(&mut clock, 0x000, 0), 0xffff_fffe);
        assert_eq!(read(&mut clock, 0x000, HZ - 1), 0xffff_fffe);
        assert_eq!(read(&mut clock, 0x000, HZ), 0xffff_ffff);
        assert_eq!(read(&mut clock, 0x000, 2 * HZ), 0);
    }

    #[test]
    fn a_clock_made_late_starts_with_its_count_and_no_match() {
        let mut clock = clock_at(1000 * HZ + 1, 3);
        assert_eq!(read(&mut clock, 0x000, 1001 * HZ), 4);
        assert_eq!(read(&mut clock, 0x014, 1001 * HZ), 0);
    }

    #[test]
    fn writing_the_load_register_sets_the_time() {
        let mut clock = clock(7);
        write(&mut clock, 0x008, 1_700_000_000, 5 * HZ);
        assert_eq!(read(&mut clock, 0x008, 5 * HZ), 1_700_000_000);
        assert_eq!(read(&mut clock, 0x000, 5 * HZ), 1_700_000_000);
        assert_eq!(read(&mut clock, 0x000, 8 * HZ), 1_700_000_003);
    }

    #[test]
    fn the_interrupt_rises_at_the_deadline_and_not_before() {
        let mut clock = clock(100);
        write(&mut clock, 0x004, 110, HZ / 2);
        assert_eq!(clock.deadline(), None);
        write(&mut clock, 0x010, 1, HZ / 2);
        assert_eq!(clock.deadline(), Some(Ticks(10 * HZ)));
        clock.advance(Ticks(10 * HZ - 1));
        assert!(!clock.irq_level());
        clock.advance(Ticks(10 * HZ));
        assert!(clock.irq_level());
        assert_eq!(clock.deadline(), None);
    }

    #[test]
    fn a_match_that_nobody_watched_is_raised_by_the_next_access() {
        let mut clock = clock(100);
        write(&mut clock, 0x004, 110, 0);
        assert_eq!(read(&mut clock, 0x014, 500 * HZ), 1);
        assert_eq!(read(&mut clock, 0x018, 500 * HZ), 0);
        assert!(!clock.irq_level());
        write(&mut clock, 0x010, 1, 500 * HZ);
        assert_eq!(read(&mut clock, 0x018, 500 * HZ), 1);
        assert!(clock.irq_level());
    }

    #[test]
    fn a_cleared_interrupt_returns_at_the_next_match_only() {
        let mut clock = clock(100);
        write(&mut clock, 0x010, 1, 0);
        write(&mut clock, 0x004, 100, 0);
        assert!(clock.irq_level());
        write(&mut clock, 0x01c, 0, 0);
        assert!(clock.irq_level());
        write(&mut clock, 0x01c, 1, 0);
        assert!(!clock.irq_level());
        assert_eq!(clock.deadline(), Some(Ticks((1 << 32) * HZ)));
        assert_eq!(read(&mut clock, 0x014, 1000 * HZ), 0);
        write(&mut clock, 0x008, 100, 1000 * HZ);
        assert!(clock.irq_level());
    }

    #[test]
    fn the_clock_is_always_enabled_and_identifies_itself() {
        let mut clock = clock(0);
        write(&mut clock, 0x00c, 0, 0);
        assert_eq!(read(&mut clock, 0x00c, 0), 1);
        let id = [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
        for (offset, byte) in (0xfe0..0x1000).step_by(4).zip(id) {
            assert_eq!(read(&mut clock, offset, 0), byte);
        }
    }

    #[test]
    fn a_reset_clears_the_alarm_and_keeps_the_time() {
        let mut clock = clock(100);
        write(&mut clock, 0x008, 5000, 0);
        write(&mut clock, 0x004, 5001, 0);
        write(&mut clock, 0x010, 1, HZ);
        assert!(clock.irq_level());
        clock.reset();
        assert!(!clock.irq_level());
        assert_eq!(clock.deadline(), None);
        assert_eq!(read(&mut clock, 0x000, 3 * HZ), 5003);
    }

    #[test]
    fn an_access_with_an_older_time_does_not_turn_the_clock_back() {
        let mut clock = clock(0);
        assert_eq!(read(&mut clock, 0x000, 9 * HZ), 9);
        assert_eq!(read(&mut clock, 0x000, 3 * HZ), 9);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        /// Against a clock that looks at each second that passes.
        #[test]
        fn random_accesses_equal_those_of_a_clock_that_steps_each_second(
            start in prop_oneof![0u32..8, u32::MAX - 8..=u32::MAX],
            steps in prop::collection::vec((0u64..0x9, 0u32..12, 0u64..3 * HZ), 0..crate::testing::pick(40, 8)),
        ) {
            let mut clock = clock(start);
            let (mut count, mut matches, mut mask, mut raised) = (start, 0u32, false, false);
            let mut now = 0;
            for (register, value, wait) in steps {
                let later = now + wait;
                let was_raised = raised;
                for _ in now / HZ..later / HZ {
                    count = count.wrapping_add(1);
                    raised |= count == matches;
                }
                let due = clock.deadline().is_some_and(|deadline| deadline <= Ticks(later));
                prop_assert_eq!(due, mask && raised && !was_raised);
                now = later;
                // Small values on both sides of the wrap.
                let value = value.wrapping_sub(4);
                let offset = register * 4;
                clock.write(offset, Width::Word, value.into(), Ticks(now));
                match offset {
                    MR => matches = value,
                    LR => count = value,
                    IMSC => mask = value & 1 != 0,
                    ICR => raised &= value & 1 == 0,
                    _ => {}
                }
                raised |= (offset == MR || offset == LR) && count == matches;
                prop_assert_eq!(clock.read(DR, Width::Word, Ticks(now)), u64::from(count));
                prop_assert_eq!(clock.read(RIS, Width::Word, Ticks(now)), u64::from(raised));
                prop_assert_eq!(clock.irq_level(), raised && mask);
            }
        }
    }
}
