//! When the machine's disks are to be looked at.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::time::Ticks;

/// In an [`Alarm`]: never.
const NEVER: u64 = u64::MAX;

/// When some disk is to be looked at, as it may have a request for too long. One of it serves all disks.
#[derive(Debug)]
pub struct Alarm(AtomicU64);

impl Alarm {
    /// Never.
    pub const fn new() -> Self {
        Self(AtomicU64::new(NEVER))
    }

    /// When, if ever.
    #[inline]
    pub fn due(&self) -> Option<Ticks> {
        Some(self.0.load(Ordering::Relaxed)).filter(|at| *at != NEVER).map(Ticks)
    }

    /// If it is due, `look` is called, which looks at all disks; each says when it is to be looked at again.
    pub fn heed(&self, now: Ticks, look: impl FnOnce()) {
        if self.due().is_some_and(|due| due <= now) {
            // First: what is set meanwhile must stay.
            self.0.store(NEVER, Ordering::SeqCst);
            look();
        }
    }

    /// A look is due at `at`, if none is before.
    pub fn set(&self, at: Ticks) {
        if self.0.load(Ordering::Relaxed) > at.0 {
            self.0.fetch_min(at.0, Ordering::SeqCst);
        }
    }
}

impl Default for Alarm {
    fn default() -> Self {
        Self::new()
    }
}
