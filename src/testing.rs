//! What the tests of all modules share: how much of a search is made, which is less under Miri, where
//! everything is some hundred times slower and undefined behaviour is looked for, not wrong sums.

use proptest::test_runner::Config;

/// How a property test runs: `ordinary` cases, or `under_miri`, unless `PROPTEST_CASES` says how many.
/// Failures are not kept in a file.
pub fn cases(ordinary: u32, under_miri: u32) -> Config {
    let asked = Config::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => asked.cases,
        None => pick(ordinary, under_miri),
    };
    Config { cases, failure_persistence: None, ..asked }
}

/// A count, size or stride: `ordinary`, or `under_miri`.
pub const fn pick<T: Copy>(ordinary: T, under_miri: T) -> T {
    if cfg!(miri) { under_miri } else { ordinary }
}
