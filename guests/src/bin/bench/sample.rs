//! Samples of a cost, and what they come to.

use core::fmt::Display;

use guests::println;

/// How often each thing is done.
pub const SAMPLES: usize = 64;

/// The costs seen so far.
pub struct Samples {
    ticks: [u64; SAMPLES],
    count: usize,
}

impl Samples {
    /// None yet.
    pub const fn new() -> Self {
        Self { ticks: [0; SAMPLES], count: 0 }
    }

    /// One more.
    pub fn add(&mut self, ticks: u64) {
        if let Some(slot) = self.ticks.get_mut(self.count) {
            *slot = ticks;
            self.count += 1;
        }
    }

    /// Says what they come to: the least, the middle one, the most.
    pub fn tell(&mut self, row: impl Display) {
        let ticks = &mut self.ticks[..self.count];
        ticks.sort_unstable();
        if let (Some(min), Some(max)) = (ticks.first(), ticks.last()) {
            println!("bench: {row} {min} {} {max}", ticks[ticks.len() / 2]);
        }
    }
}

/// What one execution of `op` costs: the counter after, less the counter before, less the reading itself.
/// Operands are those of `asm!`.
#[macro_export]
macro_rules! timed {
    ($op:literal $(, $($operands:tt)*)?) => {{
        let (before, after): (u64, u64);
        // SAFETY: the callers' instructions do what their operands say and touch no memory of Rust's.
        unsafe {
            core::arch::asm!(
                "isb", "mrs {before}, cntvct_el0",
                $op,
                "isb", "mrs {after}, cntvct_el0",
                before = out(reg) before, after = out(reg) after,
                $($($operands)*,)? options(nostack));
        }
        (after - before).saturating_sub($crate::sample::reading())
    }};
}

/// What reading the counter twice costs.
pub fn reading() -> u64 {
    let (before, after): (u64, u64);
    // SAFETY: reads a counter.
    unsafe {
        core::arch::asm!(
            "isb", "mrs {before}, cntvct_el0",
            "isb", "mrs {after}, cntvct_el0",
            before = out(reg) before, after = out(reg) after, options(nostack));
    }
    after - before
}

/// Does something [`SAMPLES`] times, the first time for nothing, and tells what it cost.
pub fn row(name: impl Display, mut cost: impl FnMut() -> u64) {
    let mut samples = Samples::new();
    cost();
    for _ in 0..SAMPLES {
        samples.add(cost());
    }
    samples.tell(name);
}
