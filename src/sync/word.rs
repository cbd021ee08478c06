//! Word left with who has a lock, by who does not wait for it.

use super::atomic::{AtomicBool, Ordering, fence};
use super::{TicketMutex, TicketMutexGuard};

/// Whether somebody who found a lock taken wants who has it to look again.
#[derive(Debug)]
pub struct Word(AtomicBool);

impl Word {
    /// Nobody does.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Somebody has `lock` who asks [`was_left`](Self::was_left) when he has unlocked it. The lock, if it is to be had by now.
    pub fn leave<'a, T>(&self, lock: &'a TicketMutex<T>) -> Option<TicketMutexGuard<'a, T>> {
        self.0.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst); // between the word and the lock, as on the other side
        lock.try_lock()
    }

    /// Whether there is word for who has just unlocked. It is told once.
    pub fn was_left(&self) -> bool {
        fence(Ordering::SeqCst); // between the lock and the word, as on the other side
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Default for Word {
    fn default() -> Self {
        Self::new()
    }
}
