//! Time as the generic timer counts it (Arm ARM, "The Generic Timer").

use core::num::NonZeroU32;

/// A value of the system counter (`CNTPCT_EL0`), or a span of it. The unit is one tick of the
/// counter, whose length only [`Frequency`] knows.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Ord,
    PartialEq,
    PartialOrd,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Ticks(pub u64);

impl Ticks {
    /// This moment and `span` more; stays at the end of time rather than wrap.
    pub const fn saturating_add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The span since `earlier`; none when `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// The counter's frequency (`CNTFRQ_EL0`), in hertz.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frequency(pub NonZeroU32);

impl Frequency {
    /// The ticks in `microseconds`, rounded down.
    pub fn micros(self, microseconds: u64) -> Ticks {
        let ticks = u128::from(microseconds) * u128::from(self.0.get()) / 1_000_000;
        Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    /// The whole microseconds in `span`.
    pub fn to_micros(self, span: Ticks) -> u64 {
        let micros = u128::from(span.0) * 1_000_000 / u128::from(self.0.get());
        u64::try_from(micros).unwrap_or(u64::MAX)
    }

    /// The whole nanoseconds in `span`; stays at the most there can be.
    pub fn to_nanos(self, span: Ticks) -> u64 {
        let nanos = u128::from(span.0) * 1_000_000_000 / u128::from(self.0.get());
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// The whole seconds in `span`.
    pub fn to_secs(self, span: Ticks) -> u64 {
        span.0 / u64::from(self.0.get())
    }
}
