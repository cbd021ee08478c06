//! Numbers that a guest chose, where they lead into tables of EL2's: see `src/speculation.rs`, which has the same for the PC.
//!
//! Arm's "Cache Speculation Side-channels" asks for a conditional select that depends on the check, and `CSDB` behind it: what is selected
//! is not guessed, and nothing behind goes on with a guess. In assembly, as the compiler knows how the branch before went, and
//! would leave the select out.

use core::arch::asm;
use core::hint::assert_unchecked;

/// `index` if it is below `len`; else 0.
#[inline(always)]
pub fn below(index: usize, len: usize) -> usize {
    let kept: usize;
    // SAFETY: registers and flags, nothing else; and what is selected is below `len`, or 0.
    unsafe {
        asm!(
            "cmp {index}, {len}",
            "csel {kept}, {index}, xzr, lo",
            "hint #20", // CSDB
            index = in(reg) index,
            len = in(reg) len,
            kept = lateout(reg) kept,
            options(pure, nomem, nostack),
        );
        // It was selected so: the compiler need not check it again.
        assert_unchecked(kept < len || len == 0);
    }
    kept
}

/// `offset` if `size` bytes from there on, one at least, end at `last` or before.
#[inline(always)]
pub fn inside(offset: u64, last: u64, size: u64) -> Option<u64> {
    let (kept, fits): (u64, u64);
    // SAFETY: registers and flags, nothing else.
    unsafe {
        asm!(
            "cmp {offset}, {last}",
            "ccmp {size}, {room}, #2, ls", // #2: higher
            "csel {kept}, {offset}, xzr, ls", // what a wrong guess goes on with is 0
            "cset {fits}, ls",
            "hint #20", // CSDB
            offset = in(reg) offset,
            last = in(reg) last,
            size = in(reg) size.wrapping_sub(1),
            room = in(reg) last.wrapping_sub(offset),
            kept = lateout(reg) kept,
            fits = lateout(reg) fits,
            options(pure, nomem, nostack),
        );
    }
    (fits != 0).then_some(kept)
}

/// `offset` if it is `last` or less.
#[inline(always)]
pub fn within(offset: u64, last: u64) -> Option<u64> {
    let (kept, fits): (u64, u64);
    // SAFETY: registers and flags, nothing else.
    unsafe {
        asm!(
            "cmp {offset}, {last}",
            "csel {kept}, {offset}, xzr, ls",
            "cset {fits}, ls",
            "hint #20", // CSDB
            offset = in(reg) offset,
            last = in(reg) last,
            kept = lateout(reg) kept,
            fits = lateout(reg) fits,
            options(pure, nomem, nostack),
        );
    }
    (fits != 0).then_some(kept)
}

/// The entry with this number, if there is one.
#[inline(always)]
pub fn get<T>(table: &[T], index: usize) -> Option<&T> {
    if index >= table.len() {
        return None;
    }
    // SAFETY: it is `index`, which is an entry's.
    Some(unsafe { table.get_unchecked(below(index, table.len())) })
}

/// The same, to be changed.
#[inline(always)]
pub fn get_mut<T>(table: &mut [T], index: usize) -> Option<&mut T> {
    let len = table.len();
    if index >= len {
        return None;
    }
    // SAFETY: it is `index`, which is an entry's.
    Some(unsafe { table.get_unchecked_mut(below(index, len)) })
}
