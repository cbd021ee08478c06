//! Copying bytes that others may change meanwhile: on the PC. On the machine it is `arch::memory`.

#![allow(unsafe_code)]

/// How much Miri copies with one access, where there is as much: to it, an access takes the same time whatever its size, and it
/// looks at each byte of it.
type Piece = [u8; 512];

/// Copies `count` bytes; each is read and written at least once, and nothing is known of them before or afterwards. Where the
/// two overlap, each byte becomes any of those that were copied.
///
/// # Safety
/// `from` can be read and `to` written, by volatile accesses of up to eight aligned bytes, for `count` bytes.
pub unsafe fn bytes(mut from: *const u8, mut to: *mut u8, count: usize) {
    let alike = (from.addr() ^ to.addr()).is_multiple_of(8);
    let mut left = count;
    while left > 0 {
        let step = if cfg!(miri) && left >= size_of::<Piece>() {
            size_of::<Piece>()
        } else if alike && left >= 8 && to.addr().is_multiple_of(8) {
            8
        } else {
            1
        };
        // SAFETY: so many bytes are left at either end, and words are aligned at both; pieces need not be.
        unsafe {
            match step {
                1 => to.write_volatile(from.read_volatile()),
                8 => to.cast::<u64>().write_volatile(from.cast::<u64>().read_volatile()),
                _ => to.cast::<Piece>().write_volatile(from.cast::<Piece>().read_volatile()),
            }
        }
        (from, to) = (from.wrapping_add(step), to.wrapping_add(step));
        left -= step;
    }
}
