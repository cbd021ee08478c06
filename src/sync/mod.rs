//! Locks and atomics: the one place where the crate has them from.
//!
//! They are `spin`'s and the language's own, by another name. With the feature `models`, which no image is built with, they
//! are those of a model checker that decides at each of them which CPU goes on: `tests/models` runs CPUs on it.
//!
//! Not from here: `arch`, the host's serial line, and scripted machines, of which no model is made, and memory that guests
//! have, which they change without asking anybody.

#[cfg(feature = "models")]
mod modelled;
#[cfg(feature = "models")]
mod order;
mod word;

#[cfg(not(feature = "models"))]
pub use core::sync::atomic;
#[cfg(feature = "models")]
pub use modelled::{Once, SpinMutex, SpinMutexGuard, TicketMutex, TicketMutexGuard, atomic};
#[cfg(not(feature = "models"))]
pub use spin::Once;
#[cfg(not(feature = "models"))]
pub use spin::mutex::{SpinMutex, SpinMutexGuard, TicketMutex, TicketMutexGuard};
pub use word::Word;
