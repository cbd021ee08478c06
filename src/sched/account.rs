//! What the vCPUs of a VM have in common, wherever they run: the weight they divide, the cap they draw
//! from, and the time they used.
//!
//! Nothing here is behind a lock: CPUs that run vCPUs of one VM at the same time each add their part.

use super::cap::Bucket;
use super::policy::MAX_WEIGHT;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::time::Ticks;

/// Virtual time that one tick of a vCPU costs whose VM has weight 1 and runs no other.
pub(super) const UNIT_SHIFT: u32 = 16;

/// How much CPU time was used, and how much waited for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Spent on a CPU.
    pub ran: Ticks,
    /// Able to run, but not on a CPU: others had it, or cap or budget were used up. This is what DEN0057,
    /// "Stolen time", reports. A paused vCPU does not wait.
    pub waited: Ticks,
}

/// One VM's account.
#[derive(Debug)]
pub struct Account {
    weight: AtomicU32,
    /// How many vCPUs want to run (bits 4:0), and the sum of the moments since when (bits 63:5, modulo
    /// 2^59). One word, so that both change at once.
    active: AtomicU64,
    /// How many are on a CPU.
    running: AtomicU32,
    pub(super) bucket: Bucket,
    ran: AtomicU64,
    waited: AtomicU64,
}

const COUNT_BITS: u32 = 5;

impl Account {
    /// The account of a VM with `weight` (1 to [`MAX_WEIGHT`]) and `cap` in hundredths of a CPU, measured
    /// over `period`.
    pub fn new(weight: u16, cap: Option<u16>, period: Ticks) -> Self {
        Self {
            weight: AtomicU32::new(clamped(weight)),
            active: AtomicU64::new(0),
            running: AtomicU32::new(0),
            bucket: Bucket::new(cap, period),
            ran: AtomicU64::new(0),
            waited: AtomicU64::new(0),
        }
    }

    /// The weight.
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Change the weight, from the present slice on.
    pub fn set_weight(&self, weight: u16) {
        self.weight.store(clamped(weight), Ordering::Relaxed);
    }

    /// Change or remove the cap. CPUs that run the VM see it when they next pick.
    pub fn set_cap(&self, cap: Option<u16>) {
        self.bucket.set_cap(cap);
    }

    /// What all vCPUs of the VM used and waited for together, up to their last exits.
    pub fn usage(&self) -> Usage {
        let load = |sum: &AtomicU64| Ticks(sum.load(Ordering::Relaxed));
        Usage { ran: load(&self.ran), waited: load(&self.waited) }
    }

    /// How many vCPUs want to run.
    pub fn active(&self) -> u32 {
        let [low, ..] = self.active.load(Ordering::Relaxed).to_le_bytes();
        u32::from(low) & ((1 << COUNT_BITS) - 1)
    }

    /// One more vCPU wants to run.
    pub(super) fn enter(&self, now: Ticks) {
        self.active.fetch_add((now.0 << COUNT_BITS).wrapping_add(1), Ordering::Relaxed);
    }

    /// One that wanted to run does not any more.
    pub(super) fn leave(&self, now: Ticks) {
        self.active.fetch_sub((now.0 << COUNT_BITS).wrapping_add(1), Ordering::Relaxed);
    }

    /// The number that want to run, summed over time; only differences mean something. A vCPU that runs
    /// while others of its VM come and go is charged with as many shares as there were at each moment.
    pub(super) fn demand(&self, now: Ticks) -> u64 {
        let word = self.active.load(Ordering::Relaxed);
        let count = word & ((1 << COUNT_BITS) - 1);
        (count.wrapping_mul(now.0).wrapping_sub(word >> COUNT_BITS)) << COUNT_BITS
    }

    /// The virtual time that `ran` costs over which [`Self::demand`] went from `from` to now's.
    pub(super) fn cost(&self, ran: Ticks, from: u64, now: Ticks) -> i128 {
        let shares = self.demand(now).wrapping_sub(from) >> COUNT_BITS;
        // CPUs may read the time in one order and get here in another, so it may seem to have gone back;
        // it is at least the one that ran.
        let most = ran.0.saturating_mul(1 << COUNT_BITS);
        let is_negative = shares >> (63 - COUNT_BITS) != 0;
        self.scale(if is_negative { ran.0 } else { shares.clamp(ran.0, most) })
    }

    /// The virtual time that a span costs at present.
    pub(super) fn price(&self, span: Ticks) -> i128 {
        self.scale(span.0.saturating_mul(u64::from(self.active().max(1))))
    }

    fn scale(&self, shares: u64) -> i128 {
        let weight = u64::from(self.weight());
        match shares.checked_mul(1 << UNIT_SHIFT) {
            Some(units) => i128::from(units / weight),
            None => (i128::from(shares) << UNIT_SHIFT) / i128::from(weight),
        }
    }

    pub(super) fn goes_on(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn goes_off(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many are on a CPU.
    pub(super) fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }

    pub(super) fn add_ran(&self, span: Ticks) {
        self.ran.fetch_add(span.0, Ordering::Relaxed);
        self.bucket.take(span);
    }

    pub(super) fn add_waited(&self, span: Ticks) {
        self.waited.fetch_add(span.0, Ordering::Relaxed);
    }
}

fn clamped(weight: u16) -> u32 {
    u32::from(weight.clamp(1, MAX_WEIGHT))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREVER: u64 = 1 << 58;

    #[test]
    fn a_vcpu_is_charged_for_each_moment_by_how_many_shared_the_weight() {
        for start in [0, 1000, FOREVER - 500, u64::MAX >> 5] {
            let at = |span: u64| Ticks(start.wrapping_add(span));
            let account = Account::new(100, None, Ticks(1));
            account.enter(at(0));
            let mark = account.demand(at(0));
            account.enter(at(300));
            account.leave(at(500));
            // 300 alone, 200 with another, 500 alone.
            let cost = account.cost(Ticks(1000), mark, at(1000));
            assert_eq!(cost, (1200 << UNIT_SHIFT) / 100, "from {start}");
        }
    }

    #[test]
    fn a_cost_is_never_below_the_time_that_was_used() {
        let account = Account::new(1, None, Ticks(1));
        account.enter(Ticks(50));
        let mark = account.demand(Ticks(90));
        assert_eq!(account.cost(Ticks(10), mark, Ticks(80)), 10 << UNIT_SHIFT);
    }

    #[test]
    fn years_at_the_smallest_weight_do_not_overflow() {
        let account = Account::new(1, None, Ticks(1));
        for _ in 0..8 {
            account.enter(Ticks(0));
        }
        assert_eq!(account.price(Ticks(FOREVER)), (i128::from(FOREVER) * 8) << UNIT_SHIFT);
    }

    #[test]
    fn a_weight_of_zero_or_beyond_the_largest_is_brought_into_range() {
        let account = Account::new(0, None, Ticks(1));
        assert_eq!(account.weight(), 1);
        account.set_weight(u16::MAX);
        assert_eq!(account.weight(), u32::from(MAX_WEIGHT));
    }
}
