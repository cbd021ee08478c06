//! As much at once as the PC has CPUs.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::thread::{available_parallelism, scope};

/// What `work` makes of each of `items`, in the order in which that was done. Items are begun in their order: what takes
/// longest comes first.
pub fn each<T: Send, R: Send>(
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let items = Mutex::new(items.into_iter());
    let results = Mutex::new(Vec::new());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, NonZeroUsize::get) {
            scope.spawn(|| {
                while let Some(item) = next() {
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::each;

    #[test]
    fn each_item_is_worked_on_once() {
        let mut done = each(0..100, |item| item * 2);
        done.sort_unstable();
        assert_eq!(done, (0..100).map(|item| item * 2).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert!(each(Vec::<u8>::new(), |item| item).is_empty());
    }
}
