//! Whose each frame is, written down a second time where tests run: what the types and the pool's bookkeeping are to keep is
//! looked at whenever frames are taken, mapped, unmapped and given back.
//!
//! Only of memory of the heap's ([`Ram::from_heap`](crate::memory::Ram::from_heap)), in builds with debug assertions, and never in an image: `no_ghost.rs`
//! is what is built instead.

extern crate std;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::addr::{PAGE_SIZE, PhysAddr, Region};

/// Whether anything is written down.
pub const WATCHES: bool = true;

/// For each piece of memory, by its first frame, what its frames are.
static RAM: RwLock<BTreeMap<u64, Box<[AtomicU64]>>> = RwLock::new(BTreeMap::new());

/// What a frame is: one of these, or mapped, by the root table of the translation.
const FREE: u64 = 0;
const TAKEN: u64 = 1;
const TABLE: u64 = 2;

struct Frame(u64);

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            FREE => f.write_str("free"),
            TAKEN => f.write_str("taken"),
            TABLE => f.write_str("a table"),
            root => write!(f, "mapped by the translation at {root:#x}"),
        }
    }
}

/// Memory that is looked after from now on; nobody else has it, ever.
pub fn add(ram: Region<PhysAddr>) {
    let frames = (0..ram.size() / PAGE_SIZE).map(|_| AtomicU64::new(FREE)).collect();
    let mut all = RAM.write().unwrap_or_else(PoisonError::into_inner);
    all.insert(ram.start().raw() / PAGE_SIZE, frames);
}

/// Taken out of a pool.
pub fn take(frames: Region<PhysAddr>) {
    change(frames, "taken", TAKEN, |old| old == FREE);
}

/// Given back to a pool.
pub fn give_back(frames: Region<PhysAddr>) {
    change(frames, "given back", FREE, |old| matches!(old, TAKEN | TABLE));
}

/// To be a table.
pub fn make_table(frames: Region<PhysAddr>) {
    change(frames, "made a table", TABLE, |old| old == TAKEN);
}

/// Mapped by the translation whose root is there.
pub fn map(frames: Region<PhysAddr>, root: PhysAddr) {
    change(frames, "mapped", root.raw(), |old| old == TAKEN);
}

/// Mapped by that translation no more.
pub fn unmap(frames: Region<PhysAddr>, root: PhysAddr) {
    change(frames, "unmapped", TAKEN, |old| old == root.raw());
}

fn change(frames: Region<PhysAddr>, deed: &str, to: u64, may: impl Fn(u64) -> bool) {
    let all = RAM.read().unwrap_or_else(PoisonError::into_inner);
    let mut number = frames.start().raw() / PAGE_SIZE;
    let end = number + frames.size() / PAGE_SIZE;
    while number < end {
        let frame = all.range(..=number).next_back().and_then(|(first, piece)| {
            let at = usize::try_from(number - first).ok()?;
            piece.get(at)
        });
        let Some(frame) = frame else {
            // What is not looked after goes as far as the next piece that is.
            number = all.range(number..).next().map_or(end, |(first, _)| *first);
            continue;
        };
        let old = frame.swap(to, Ordering::Relaxed);
        assert!(
            may(old) || std::thread::panicking(),
            "the frame at {:#x} is {deed} and was {}",
            number * PAGE_SIZE,
            Frame(old)
        );
        number += 1;
    }
}
