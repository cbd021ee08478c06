//! Numbers that a guest chose, where they lead into tables of EL2's: on the PC. On the machine it is `arch::speculation`.
//!
//! A check alone does not do: the CPU guesses how it ends and goes on, reads behind the end of the table, and by what it reads there
//! reads once more, which leaves a trace in the caches (Spectre-v1, CVE-2017-5753). So the number is
//! forced into the table by arithmetic, which is not guessed. Where a number has no more values than the table has entries, or is
//! found by a search and not taken from the guest, a check does.

/// `index` if it is below `len`; else 0.
#[inline(always)]
pub fn below(index: usize, len: usize) -> usize {
    if index < len { index } else { 0 }
}

/// `offset` if `size` bytes from there on, one at least, end at `last` or before.
#[inline(always)]
pub fn inside(offset: u64, last: u64, size: u64) -> Option<u64> {
    let fits = offset <= last && size.wrapping_sub(1) <= last - offset;
    fits.then_some(offset)
}

/// `offset` if it is `last` or less.
#[inline(always)]
pub fn within(offset: u64, last: u64) -> Option<u64> {
    (offset <= last).then_some(offset)
}

/// The entry with this number, if there is one.
#[inline(always)]
pub fn get<T>(table: &[T], index: usize) -> Option<&T> {
    (index < table.len()).then(|| &table[below(index, table.len())])
}

/// The same, to be changed.
#[inline(always)]
pub fn get_mut<T>(table: &mut [T], index: usize) -> Option<&mut T> {
    let len = table.len();
    (index < len).then(|| &mut table[below(index, len)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_entry_is_none() {
        let mut table = [3, 5, 7];
        assert_eq!(get(&table, 2), Some(&7));
        assert_eq!(get(&table, 3), None);
        assert_eq!(get(&table[..0], 0), None);
        assert_eq!(get_mut(&mut table, usize::MAX), None);
        *get_mut(&mut table, 1).unwrap() = 6;
        assert_eq!(table, [3, 6, 7]);
    }

    /// Small numbers and such as wrap.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..20, (0u64..20).prop_map(|n| u64::MAX - n), any::<u64>()]
    }

    proptest! {
        #![proptest_config(crate::testing::cases(512, 1))]

        #[test]
        fn bytes_are_inside_if_each_of_them_is(offset in number(), last in number(), size in number()) {
            let end = u128::from(offset) + u128::from(size);
            let fits = size > 0 && end <= u128::from(last) + 1;
            prop_assert_eq!(inside(offset, last, size), fits.then_some(offset));
            prop_assert_eq!(within(offset, last), inside(offset, last, 1));
        }
    }
}
