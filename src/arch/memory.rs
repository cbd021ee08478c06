//! Copying and filling bytes.

use core::arch::global_asm;

global_asm!(include_str!("../../boot/copy.S"));

// In place of those of `compiler_builtins`, which take bytes one by one before and behind aligned words, and put words together
// from bytes where the two ends are not aligned alike.
global_asm!(".global memcpy", ".set memcpy, plinth_copy");
global_asm!(".global memset", ".set memset, plinth_fill");

unsafe extern "C" {
    fn plinth_copy(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
}

/// Copies `count` bytes; each is read and written at least once, and nothing is known of them before or afterwards. Where the
/// two overlap, each byte becomes any of those that were copied.
///
/// # Safety
/// Both are Normal memory; `from` can be read and `to` written for `count` bytes.
#[inline]
pub unsafe fn bytes(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: as the caller promises.
    unsafe { plinth_copy(to, from, count) };
}
