//! Memory that is shared with devices: taken once, from behind the image on, and never given back.
//!
//! It is reached by address, with [`mmio`](crate::mmio)'s accesses: a device may read and write it at any time.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::machine::machine;

unsafe extern "C" {
    safe static __image_end: u8;
}

/// What was taken so far ends here; 0 before the first time.
static END: AtomicU64 = AtomicU64::new(0);

/// So many zeroed bytes at a multiple of `alignment`, a power of two.
pub fn take(size: u64, alignment: u64) -> u64 {
    let machine = machine();
    let mut start = END.load(Ordering::Relaxed).max((&raw const __image_end) as u64);
    start = start.next_multiple_of(alignment);
    let (tree, tree_end) = (machine.tree, machine.tree + machine.tree_size);
    if start < tree_end && tree < start + size {
        start = tree_end.next_multiple_of(alignment);
    }
    let end = start + size;
    assert!(end <= machine.ram + machine.ram_size, "no more memory for devices");
    END.store(end, Ordering::Relaxed);
    // SAFETY: RAM behind the image that nobody else has.
    unsafe { core::ptr::write_bytes(start as *mut u8, 0, size as usize) };
    start
}
