//! The memory of the machines: one piece for all that a test makes, one after the other.

use std::alloc::{Layout, alloc};
use std::cell::Cell;

use plinth::addr::{PhysAddr, Region};
use plinth::memory::{FramePool, Ram};

thread_local! {
    /// Where it is, and how large.
    static PIECE: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// What it holds before anybody has written to it.
const STALE: u8 = 0x5a;

/// Frames for a machine of this thread, whose last one is no more.
pub fn frames(size: u64) -> FramePool {
    let bytes = usize::try_from(size).unwrap();
    let (start, had) = PIECE.get().unwrap_or_else(|| {
        let layout = Layout::from_size_align(bytes, 2 << 20).unwrap();
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) }.expose_provenance();
        assert_ne!(start, 0);
        (start, bytes)
    });
    PIECE.set(Some((start, had)));
    assert_eq!(had, bytes, "the machines of a test are alike");
    // SAFETY: allocated above, and of its size; what an execution before has left behind runs no more.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(start).write_bytes(STALE, bytes) };
    let region = Region::new(PhysAddr::new(start as u64), size).unwrap();
    let mut pool = FramePool::new();
    // SAFETY: nothing else is in it, and it stays for good.
    pool.add(unsafe { Ram::new(region) }, &[]);
    pool
}

/// How often this byte is somewhere in it 64 times in a row.
pub fn rows_of(byte: u8) -> usize {
    let (start, bytes) = PIECE.get().unwrap();
    let (mut row, mut rows) = (0, 0);
    for at in start..start + bytes {
        // SAFETY: it was allocated, and no CPU runs beside this one.
        let there = unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() };
        row = if there == byte { row + 1 } else { 0 };
        rows += usize::from(row == 64);
    }
    rows
}
