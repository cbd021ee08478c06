//! Whether some guest has a line that is to be answered: one word for all, as it is looked at often.

use alloc::sync::Arc;

use crate::sync::atomic::{AtomicBool, Ordering};

/// Whether it is worth while to look for lines.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<AtomicBool>);

impl Lines {
    /// There is one.
    pub fn come(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether there may be one.
    #[inline]
    pub fn wait(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Somebody looks for one now. Whether there may be one; what comes from here on is told anew.
    pub fn take(&self) -> bool {
        self.wait() && self.0.swap(false, Ordering::AcqRel)
    }
}
