//! The same as a model checker has them, behind the interface of `spin`.
//!
//! Each operation is a place where another CPU may go on. All of it is sequentially consistent: what orderings are for is
//! not seen here, but by `tests/weak`.

extern crate std;

use core::ops::{Deref, DerefMut};
use core::panic::Location;
use std::sync::{OnceLock, PoisonError};

pub use shuttle::sync::atomic;
use shuttle::sync::atomic::{AtomicBool, Ordering};

use super::order::{self, Identity, Name};

/// Mutual exclusion. Who has to wait is not chosen before it is free, so that a deadlock is found as one.
#[derive(Debug)]
pub struct Mutex<T: ?Sized> {
    identity: Identity,
    inner: shuttle::sync::Mutex<T>,
}

/// Is dropped to unlock it.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized> {
    name: Name,
    inner: shuttle::sync::MutexGuard<'a, T>,
}

/// In no particular order.
pub type SpinMutex<T> = Mutex<T>;
/// In any order: a model that holds for all holds for that of arrival.
pub type TicketMutex<T> = Mutex<T>;
/// As for [`SpinMutex`].
pub type SpinMutexGuard<'a, T> = MutexGuard<'a, T>;
/// As for [`TicketMutex`].
pub type TicketMutexGuard<'a, T> = MutexGuard<'a, T>;

impl<T> Mutex<T> {
    /// Unlocked.
    #[track_caller]
    pub const fn new(value: T) -> Self {
        Self {
            identity: Identity::new(Location::caller()),
            inner: shuttle::sync::Mutex::new(value),
        }
    }

    /// What was in it.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until it is free.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let name = self.identity.name();
        order::wants(name);
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        order::has(name);
        MutexGuard { name, inner }
    }

    /// `None` when it is not free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = self.inner.try_lock().ok()?;
        let name = self.identity.name();
        order::has(name);
        Some(MutexGuard { name, inner })
    }

    /// Nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Default for Mutex<T> {
    #[track_caller]
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    #[track_caller]
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        order::lets_go(self.name);
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Something that is set once.
#[derive(Debug, Default)]
pub struct Once<T> {
    setting: Mutex<()>,
    set: AtomicBool,
    value: OnceLock<T>,
}

impl<T> Once<T> {
    /// Not set.
    pub const fn new() -> Self {
        Self { setting: Mutex::new(()), set: AtomicBool::new(false), value: OnceLock::new() }
    }

    /// Set from the beginning.
    pub fn initialized(value: T) -> Self {
        let set = AtomicBool::new(true);
        Self { setting: Mutex::new(()), set, value: OnceLock::from(value) }
    }

    /// What it is, if it is set.
    pub fn get(&self) -> Option<&T> {
        self.set.load(Ordering::SeqCst).then(|| self.value.get()).flatten()
    }

    /// Sets it if nobody has; waits for who is about to.
    pub fn call_once(&self, make: impl FnOnce() -> T) -> &T {
        let setting = self.setting.lock();
        let value = self.value.get_or_init(make);
        self.set.store(true, Ordering::SeqCst);
        drop(setting);
        value
    }

    /// What it was, if it was set.
    pub fn try_into_inner(self) -> Option<T> {
        self.value.into_inner()
    }
}
