//! A global allocator that counts what this thread has, as a heap that hands out powers of two counts it, and that can
//! refuse some.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

/// The allocator. A test makes it the global one.
pub struct Counting;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static JUDGE: Cell<Option<fn() -> bool>> = const { Cell::new(None) };
}

/// What this thread has allocated and not freed, in bytes. Less than nothing where it freed what others had allocated.
pub fn live() -> i64 {
    LIVE.get()
}

/// What came of something: how many allocations, how many bytes more there were at the most, and in the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Taken {
    pub count: u64,
    pub most: i64,
    pub kept: i64,
}

/// Does something, and counts.
pub fn counted<T>(what: impl FnOnce() -> T) -> (T, Taken) {
    let (before, count) = (LIVE.get(), COUNT.get());
    PEAK.set(before);
    let done = what();
    let (most, kept) = (PEAK.get() - before, LIVE.get() - before);
    (done, Taken { count: COUNT.get() - count, most, kept })
}

/// Does something, while `judge` says of each allocation whether it succeeds.
pub fn judged<T>(judge: fn() -> bool, what: impl FnOnce() -> T) -> T {
    JUDGE.set(Some(judge));
    let done = what();
    JUDGE.set(None);
    done
}

fn rounded(layout: Layout) -> i64 {
    let size = layout.size().next_power_of_two().max(layout.align()).max(size_of::<usize>());
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Whether the allocation may be.
fn begin(layout: Layout) -> bool {
    // The judge allocates, too.
    if let Some(judge) = JUDGE.take() {
        let (live, peak, count) = (LIVE.get(), PEAK.get(), COUNT.get());
        let may_be = judge();
        LIVE.set(live);
        PEAK.set(peak);
        COUNT.set(count);
        JUDGE.set(Some(judge));
        if !may_be {
            return false;
        }
    }
    COUNT.set(COUNT.get() + 1);
    let live = LIVE.get() + rounded(layout);
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
    true
}

// SAFETY: the system's allocator does all of it; numbers are kept beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if begin(layout) { unsafe { System.alloc(layout) } } else { null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if begin(layout) { unsafe { System.alloc_zeroed(layout) } } else { null_mut() }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - rounded(layout));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) };
    }

    // As the hypervisor's heap has it: a new block, a copy, and the old one goes.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(larger) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        // SAFETY: the caller's promise: `size` is not 0, and there are as many bytes to copy in both.
        unsafe {
            let new = self.alloc(larger);
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            new
        }
    }
}
