//! Copying bytes that others may change meanwhile: on the PC. On the machine it is `arch::memory`.

#![allow(unsafe_code)]

/// Copies `count` bytes; each is read and written at least once, and nothing is known of them before or afterwards. Where the
/// two overlap, each byte becomes any of those that were copied.
///
/// # Safety
/// `from` can be read and `to` written, by volatile accesses of up to eight aligned bytes, for `count` bytes.
pub unsafe fn bytes(mut from: *const u8, mut to: *mut u8, count: usize) {
    let alike = (from.addr() ^ to.addr()).is_multiple_of(8);
    let mut left = count;
    while left > 0 {
        let step = if alike && left >= 8 && to.addr().is_multiple_of(8) { 8 } else { 1 };
        // SAFETY: so many bytes are left at either end, and words are aligned at both.
        unsafe {
            if step == 8 {
                to.cast::<u64>().write_volatile(from.cast::<u64>().read_volatile());
            } else {
                to.write_volatile(from.read_volatile());
            }
        }
        (from, to) = (from.wrapping_add(step), to.wrapping_add(step));
        left -= step;
    }
}
