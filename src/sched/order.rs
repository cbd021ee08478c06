//! The places of records in the order of something that each of them has.

use alloc::vec::Vec;

/// Places in a list of records, in the order of their keys; of equal keys, who came first is first.
///
/// The caller brings the keys, always those that were there when a place was put in. Finding is a binary search;
/// putting in and taking out moves the places before, a word each: for the hundreds that a CPU has at most, that is
/// less than a tree costs, and there is nothing to allocate. The first, which comes and goes most, is at the end.
#[derive(Debug, Default)]
pub(super) struct Order(Vec<usize>);

impl Order {
    /// Lets `count` places be put in without an allocation.
    pub fn make_room(&mut self, count: usize) {
        self.0.reserve(count.saturating_sub(self.0.len()));
    }

    /// The places in their order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().rev().copied()
    }

    /// The place with the least key.
    pub fn first(&self) -> Option<usize> {
        self.0.last().copied()
    }

    /// The place with the largest key.
    pub fn last(&self) -> Option<usize> {
        self.0.first().copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts `place` in.
    pub fn insert<K: Ord>(&mut self, place: usize, key: impl Fn(usize) -> K) {
        let mine = key(place);
        if self.first().is_none_or(|first| mine < key(first)) {
            self.0.push(place);
            return;
        }
        let at = self.0.partition_point(|other| key(*other) > mine);
        self.0.insert(at, place);
    }

    /// Takes `place` out, if it is in.
    pub fn remove<K: Ord>(&mut self, place: usize, key: impl Fn(usize) -> K) {
        if self.first() == Some(place) {
            self.0.pop();
            return;
        }
        let mine = key(place);
        let from = self.0.partition_point(|other| key(*other) > mine);
        let found = self.0.iter().skip(from).position(|other| *other == place);
        if let Some(distance) = found {
            self.0.remove(from + distance);
        }
    }

    /// The first place with this key.
    pub fn find<K: Ord>(&self, wanted: &K, key: impl Fn(usize) -> K) -> Option<usize> {
        self.first_from(|other| key(other) >= *wanted).filter(|place| key(*place) == *wanted)
    }

    /// The first place of those at the end for which `is_behind` holds, as it does for none before them.
    pub fn first_from(&self, is_behind: impl Fn(usize) -> bool) -> Option<usize> {
        let behind = self.0.partition_point(|other| is_behind(*other));
        self.0.get(behind.checked_sub(1)?).copied()
    }

    /// The record at the place `from` is at `to` now.
    pub fn rename(&mut self, from: usize, to: usize) {
        if let Some(place) = self.0.iter_mut().find(|place| **place == from) {
            *place = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Order;

    #[test]
    fn of_equal_keys_the_first_that_came_is_first() {
        let keys = [7, 3, 7, 3];
        let mut order = Order::default();
        (0..4).for_each(|place| order.insert(place, |at| keys[at]));
        assert!(order.iter().eq([1, 3, 0, 2]));
        assert_eq!((order.find(&7, |at| keys[at]), order.find(&5, |at| keys[at])), (Some(0), None));
        order.remove(3, |at| keys[at]);
        order.rename(2, 9);
        assert!(order.iter().eq([1, 0, 9]));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(200, 1))]

        #[test]
        fn it_is_always_a_stable_sort_of_what_is_in(
            keys in prop::collection::vec(0u8..6, 1..20),
            moves in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let (mut order, mut model) = (Order::default(), Vec::new());
            for place in moves {
                let place = place.index(keys.len());
                if model.contains(&place) {
                    order.remove(place, |at| keys[at]);
                    model.retain(|other| *other != place);
                } else {
                    order.insert(place, |at| keys[at]);
                    model.push(place);
                }
                model.sort_by_key(|at| keys[*at]);
                prop_assert!(order.iter().eq(model.iter().copied()));
                for wanted in 0..6 {
                    let found = model.iter().copied().find(|at| keys[*at] == wanted);
                    prop_assert_eq!(order.find(&wanted, |at| keys[at]), found);
                }
            }
        }
    }
}
