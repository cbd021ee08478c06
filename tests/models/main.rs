//! Models: the hypervisor on several CPUs, each a thread, where a checker decides at every lock and every atomic which of
//! them goes on.
//!
//! The other tests step one scripted CPU after the other, so that nothing ever happens inside of a step. Here it does. What
//! runs is the hypervisor as it is; its locks and atomics are the checker's ([`plinth::sync`]). Schedules are chosen at
//! random and by priorities that change a few times, and are the same each time; one that fails is printed, and tried
//! again with `MODEL_REPLAY`. `MODEL_TIMES` tries so many times as many.
//!
//! Not modelled: the orderings of atomics (all are sequentially consistent; see `tests/weak`), and torn accesses of guests' memory.

#![allow(unsafe_code, reason = "one piece of memory serves one execution after the other")]

#[path = "../common/asking.rs"]
mod asking;
mod code;
#[path = "../common/mod.rs"]
mod common;
mod destruction;
#[path = "../common/disk.rs"]
mod disk;
mod frames;
mod interrupts;
mod power;
mod ram;
mod stage;
