//! A limit on how much comes in: a bucket of credit that fills with time, and that what comes through takes from.
//!
//! Credit is counted in units of which one second's filling is the limit times the counter's frequency. So it grows by
//! the limit with every tick, something of the size one costs the frequency, and nothing is divided or rounded.
//!
//! What is larger than a burst takes a full bucket, and leaves it owing the rest: else it would never come through. So
//! over any time no more comes through than the limit and a burst, or the largest thing where that is larger.

use serde::{Deserialize, Serialize};

use crate::sync::SpinMutex;
use crate::time::{Frequency, Ticks};

/// What a bucket has. A bucket that was never used is full.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// What is missing from a full one; more than that has, where it owes something.
    missing: u64,
    /// When that was so: the latest moment that was ever told.
    at: Ticks,
}

/// A bucket with its limit.
///
/// The lock is held for some twenty instructions, nothing is taken while it is, and hardly ever do two CPUs want it at
/// once: they would have to send by one port.
#[derive(Debug)]
pub(super) struct Meter {
    per_second: u64,
    burst: u64,
    frequency: u64,
    bucket: SpinMutex<Bucket>,
}

impl Meter {
    /// Lets `burst` through at once, and `per_second` over time.
    pub(super) fn new(per_second: u64, burst: u32, frequency: Frequency) -> Self {
        let frequency = u64::from(frequency.0.get());
        let bucket = SpinMutex::new(Bucket::default());
        Self { per_second, burst: u64::from(burst), frequency, bucket }
    }

    /// What a full bucket has: below 2^64, as both factors are below 2^32.
    fn capacity(&self) -> u64 {
        self.burst * self.frequency
    }

    /// What something of the size `size` costs; more than any bucket has where that is so.
    fn cost(&self, size: u64) -> u64 {
        size.saturating_mul(self.frequency)
    }

    /// The bucket at `now`. Time that goes backwards stands still.
    fn filled(&self, bucket: Bucket, now: Ticks) -> Bucket {
        let gain = now.since(bucket.at).0.saturating_mul(self.per_second);
        Bucket { missing: bucket.missing.saturating_sub(gain), at: now.max(bucket.at) }
    }

    /// Whether something of the size `size` comes through now. If so, it has.
    pub(super) fn take(&self, size: u64, now: Ticks) -> bool {
        let mut bucket = self.bucket.lock();
        let filled = self.filled(*bucket, now);
        let missing = filled.missing.saturating_add(self.cost(size));
        let passes = missing <= self.capacity() || filled.missing == 0;
        *bucket = if passes { Bucket { missing, ..filled } } else { filled };
        passes
    }

    /// When something of the size `size` comes through, if nothing else does before: `now`, or later.
    pub(super) fn ready(&self, size: u64, now: Ticks) -> Ticks {
        let filled = self.filled(*self.bucket.lock(), now);
        let missing = filled.missing.saturating_add(self.cost(size.min(self.burst)));
        let wait = missing.saturating_sub(self.capacity()).div_ceil(self.per_second.max(1));
        if wait == 0 { now } else { filled.at.saturating_add(Ticks(wait)) }
    }

    /// What the bucket has.
    pub(super) fn bucket(&self) -> Bucket {
        *self.bucket.lock()
    }

    /// Puts back what another's bucket had. It may be any.
    pub(super) fn set_bucket(&self, bucket: Bucket) {
        let missing = bucket.missing.min(self.capacity());
        *self.bucket.lock() = Bucket { missing, ..bucket };
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn hertz(frequency: u32) -> Frequency {
        Frequency(NonZeroU32::new(frequency).unwrap())
    }

    #[test]
    fn a_burst_comes_through_at_once_and_no_more() {
        let meter = Meter::new(10, 3, hertz(100));
        assert!((0..3).all(|_| meter.take(1, Ticks(5))));
        assert!(!meter.take(1, Ticks(5)));
        assert_eq!(meter.ready(1, Ticks(5)), Ticks(15));
        assert!(!meter.take(1, Ticks(14)));
        assert!(meter.take(1, Ticks(15)));
    }

    #[test]
    fn what_is_larger_than_a_burst_waits_for_a_full_bucket_and_is_paid_for_later() {
        let meter = Meter::new(10, 3, hertz(100));
        assert!(meter.take(1, Ticks(0)));
        assert_eq!(meter.ready(13, Ticks(0)), Ticks(10));
        assert!(!meter.take(13, Ticks(9)) && meter.take(13, Ticks(10)));
        assert_eq!(meter.ready(1, Ticks(10)), Ticks(120));
        assert!(!meter.take(1, Ticks(119)) && meter.take(1, Ticks(120)));
    }

    #[test]
    fn the_largest_limits_do_not_overflow() {
        let meter = Meter::new(u64::MAX, u32::MAX, hertz(u32::MAX));
        assert!(meter.take(u64::from(u32::MAX), Ticks(0)));
        assert!(!meter.take(1, Ticks(0)));
        assert!(meter.take(u64::MAX, Ticks(u64::MAX)));
        assert!(!meter.take(1, Ticks(u64::MAX)));
        assert_eq!(Meter::new(1, 1, hertz(1)).ready(u64::MAX, Ticks(7)), Ticks(7));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(128, 1))]

        #[test]
        fn no_window_has_more_than_the_rate_and_a_burst(
            rate in 1u64..2000,
            burst in 1u32..3000,
            frequency in 1u32..1000,
            steps in prop::collection::vec((0u64..300, 1u64..3500, any::<bool>()), 1..40),
        ) {
            let meter = Meter::new(rate, burst, hertz(frequency));
            let (mut now, mut latest, mut through) = (1000u64, 0, Vec::new());
            for (step, size, back) in steps {
                now = if back { now.saturating_sub(step / 2) } else { now + step };
                // Time that goes backwards is a window without a length.
                latest = now.max(latest);
                let ready = meter.ready(size, Ticks(now));
                let passes = meter.take(size, Ticks(now));
                prop_assert_eq!(passes, ready.0 == now);
                if passes {
                    through.push((latest, size));
                }
            }
            for first in 0..through.len() {
                let (mut sum, mut most_at_once) = (0, u64::from(burst));
                for (at, size) in &through[first..] {
                    sum += size;
                    most_at_once = most_at_once.max(*size);
                    let window = at - through[first].0;
                    let most = rate * window + most_at_once * u64::from(frequency);
                    prop_assert!(sum * u64::from(frequency) <= most);
                }
            }
        }

        #[test]
        fn it_is_ready_when_it_says_and_not_a_tick_before(
            rate in 1u64..2000,
            burst in 1u32..3000,
            frequency in 1u32..1000,
            sizes in prop::collection::vec(1u32..3000, 1..20),
        ) {
            let meter = Meter::new(rate, burst, hertz(frequency));
            let mut now = Ticks(1000);
            for size in sizes {
                let size = u64::from(size);
                let ready = meter.ready(size, now);
                if ready > now {
                    prop_assert!(!meter.take(size, Ticks(ready.0 - 1)));
                }
                prop_assert!(meter.take(size, ready));
                now = ready;
            }
        }

        #[test]
        fn no_moments_make_it_panic(
            moments in prop::collection::vec(any::<(u64, u64)>(), 1..20),
            missing: u64,
            at: u64,
        ) {
            let meter = Meter::new(1_000_000, 1000, hertz(62_500_000));
            meter.set_bucket(Bucket { missing, at: Ticks(at) });
            for (now, size) in moments {
                meter.ready(size, Ticks(now));
                meter.take(size, Ticks(now));
            }
        }
    }
}
