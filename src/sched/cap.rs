//! A VM's cap: a token bucket that all its vCPUs draw from, whatever CPUs they run on.
//!
//! Tokens come in at the rate of the cap and are kept for one period. A VM that has none is held back
//! until it has half a period's. What was used beyond them is a debt, so that over a long time the VM
//! gets what the cap says, however late an interrupt came.

use crate::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use crate::time::Ticks;

/// The bucket. A token is a hundredth of a tick of one CPU.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: AtomicI64,
    /// Up to when tokens have come in.
    filled: AtomicU64,
    /// Hundredths of one CPU; 0: no cap.
    cap: AtomicU32,
    /// How long tokens are kept, in ticks.
    period: u64,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(cap: Option<u16>, period: Ticks) -> Self {
        let bucket = Self {
            tokens: AtomicI64::new(0),
            filled: AtomicU64::new(0),
            cap: AtomicU32::new(0),
            period: period.0.clamp(1, 1 << 40),
        };
        bucket.set_cap(cap);
        bucket
    }

    /// Change the cap; the bucket is full.
    pub(super) fn set_cap(&self, cap: Option<u16>) {
        self.cap.store(cap.map_or(0, |cap| u32::from(cap.max(1))), Ordering::Relaxed);
        self.tokens.store(self.size(), Ordering::Relaxed);
    }

    /// Whether there is a cap.
    pub(super) fn is_capped(&self) -> bool {
        self.cap.load(Ordering::Relaxed) != 0
    }

    /// `ran` ticks were used.
    pub(super) fn take(&self, ran: Ticks) {
        if self.is_capped() {
            self.tokens.fetch_sub(tokens(ran.0), Ordering::Relaxed);
        }
    }

    /// Whether the VM has to wait.
    pub(super) fn is_empty(&self, now: Ticks) -> bool {
        self.is_capped() && self.level(now) <= 0
    }

    /// When a VM that had to wait may run again; `None`: now.
    pub(super) fn ready_at(&self, now: Ticks) -> Option<Ticks> {
        let cap = i64::from(self.cap.load(Ordering::Relaxed));
        if cap == 0 {
            return None;
        }
        let missing = (self.size() / 2).saturating_sub(self.level(now));
        let wait = u64::try_from(missing).ok().filter(|missing| *missing > 0)?;
        Some(now.saturating_add(Ticks(wait.div_ceil(cap.unsigned_abs()))))
    }

    /// When to look again if `running` vCPUs of the VM go on running. Each books its time when its CPU looks,
    /// so half a period is the longest; else tokens would overflow that are used already.
    pub(super) fn look_at(&self, now: Ticks, running: u32) -> Option<Ticks> {
        let cap = u64::from(self.cap.load(Ordering::Relaxed));
        if cap == 0 {
            return None;
        }
        let loss = (100 * u64::from(running.max(1))).saturating_sub(cap);
        let level = u64::try_from(self.level(now)).unwrap_or(0);
        let span = level.checked_div(loss).map_or(u64::MAX, |span| span.saturating_add(1));
        // Not too soon: another vCPU of the VM may have stopped meanwhile, and again before it.
        let (soonest, latest) = ((self.period / 64).max(1), (self.period / 2).max(1));
        Some(now.saturating_add(Ticks(span.clamp(soonest, latest))))
    }

    fn level(&self, now: Ticks) -> i64 {
        let before = self.filled.fetch_max(now.0, Ordering::Relaxed);
        let size = self.size();
        // Only one CPU gets the span since the last time.
        let span = now.0.saturating_sub(before).min(self.period.saturating_mul(1 << 10));
        let cap = i64::from(self.cap.load(Ordering::Relaxed));
        let income = i64::try_from(span).unwrap_or(i64::MAX).saturating_mul(cap);
        if income > 0 {
            let fill = |level: i64| Some(level.saturating_add(income).min(size));
            let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fill);
        }
        self.tokens.load(Ordering::Relaxed)
    }

    fn size(&self) -> i64 {
        let cap = u64::from(self.cap.load(Ordering::Relaxed));
        i64::try_from(self.period.saturating_mul(cap)).unwrap_or(i64::MAX)
    }
}

fn tokens(ran: u64) -> i64 {
    i64::try_from(ran.saturating_mul(100)).unwrap_or(i64::MAX).min(1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_without_a_cap_never_waits() {
        let bucket = Bucket::new(None, Ticks(1000));
        bucket.take(Ticks(u64::MAX));
        assert!(!bucket.is_empty(Ticks(1)));
        assert_eq!((bucket.ready_at(Ticks(1)), bucket.look_at(Ticks(1), 8)), (None, None));
    }

    #[test]
    fn what_was_used_comes_back_at_the_rate_of_the_cap() {
        let bucket = Bucket::new(Some(25), Ticks(1000));
        assert_eq!(bucket.look_at(Ticks(0), 1), Some(Ticks(334)), "250 ticks and what comes in");
        bucket.take(Ticks(350));
        assert!(bucket.is_empty(Ticks(350)));
        let ready = bucket.ready_at(Ticks(350)).unwrap();
        // 250 - 350 + 350 / 4 = -12.5; 125 are wanted.
        assert_eq!(ready, Ticks(350 + 550));
        assert_eq!(bucket.ready_at(ready), None);
        assert!(!bucket.is_empty(ready));
    }

    #[test]
    fn more_than_a_period_is_not_saved_up() {
        let bucket = Bucket::new(Some(50), Ticks(1000));
        assert!(!bucket.is_empty(Ticks(1 << 60)));
        bucket.take(Ticks(501));
        assert!(bucket.is_empty(Ticks(1 << 60)));
    }

    #[test]
    fn time_is_booked_twice_a_period_also_while_the_cap_is_far() {
        let bucket = Bucket::new(Some(200), Ticks(1000));
        assert_eq!(bucket.look_at(Ticks(0), 2), Some(Ticks(500)));
        assert_eq!(bucket.look_at(Ticks(0), 5), Some(Ticks(500)));
        bucket.take(Ticks(1999));
        assert_eq!(bucket.look_at(Ticks(0), 3), Some(Ticks(15)));
    }
}
