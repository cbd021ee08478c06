//! The internet checksum (RFC 1071, "Computing the Internet Checksum").
//!
//! The sum is the same in either order of bytes, once it is stored in that order, and in words of any size ("Byte Order
//! Independence", "Parallel Summation"). So it is made of 64-bit words.

/// A ones' complement sum.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Sum(u64);

impl Sum {
    /// With these bytes too, as if zeros followed up to a whole word: only the last ones may be of odd number.
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let (words, tail) = bytes.as_chunks();
        let mut last = [0; 8];
        last.iter_mut().zip(tail).for_each(|(to, byte)| *to = *byte);
        Self(words.iter().fold(add(self.0, last), |sum, word| add(sum, *word)))
    }

    /// What goes into the field.
    pub(super) const fn checksum(self) -> [u8; 2] {
        let mut sum = self.0;
        // Three of four times, as each leaves fewer bits.
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        let [low, high, ..] = sum.to_le_bytes();
        [!low, !high]
    }
}

/// With end-around carry.
const fn add(sum: u64, word: [u8; 8]) -> u64 {
    let (sum, carry) = sum.overflowing_add(u64::from_le_bytes(word));
    // After a carry, there is room for it.
    sum.wrapping_add(carry as u64)
}
