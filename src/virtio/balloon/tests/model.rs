//! Whatever a driver names, against a set of what is in the balloon and one of what is missing.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::testing::pick;

#[derive(Clone, Debug)]
enum Act {
    Inflate(u64, u64),
    Deflate(u64, u64),
    Report(Vec<(u64, u32)>),
    Touch(usize),
    Settle,
    Reset,
}

fn act() -> impl Strategy<Value = Act> {
    // Mostly whole units, and sometimes anything, in pages from one unit before RAM to one behind it.
    let most = (UNITS as u64 + 3) * PAGES;
    let span = prop_oneof![
        3 => (0..UNITS as u64 + 3).prop_map(|unit| (unit * PAGES, PAGES)),
        2 => (0..most, 0..700u64),
    ];
    let range = prop_oneof![
        3 => (0..UNITS as u64 + 3, 1..3u32).prop_map(|(unit, count)| (BASE - UNIT + unit * UNIT, count << 21)),
        2 => (BASE - UNIT..BASE + RAM + UNIT, 0..3u32 << 21),
        1 => (any::<u64>(), any::<u32>()),
    ];
    prop_oneof![
        4 => span.clone().prop_map(|(first, count)| Act::Inflate(first, count)),
        2 => span.prop_map(|(first, count)| Act::Deflate(first, count)),
        3 => prop::collection::vec(range, 1..6).prop_map(Act::Report),
        3 => (0..UNITS + 2).prop_map(Act::Touch),
        1 => Just(Act::Settle),
        1 => Just(Act::Reset),
    ]
}

/// What is in the balloon, and what is missing.
#[derive(Default)]
struct Model {
    balloon: BTreeSet<u64>,
    holes: BTreeSet<usize>,
}

impl Model {
    fn take(&mut self, unit: usize) {
        let most = usize::try_from((RAM - KEEP) / UNIT).unwrap();
        if unit < UNITS && unit != 0 && self.holes.len() < most {
            self.holes.insert(unit);
        }
    }

    /// `page` counts from the start of RAM.
    fn inflate(&mut self, page: u64) {
        self.balloon.insert(page);
        let unit = page / PAGES;
        // From its end, as most units are named from their beginning.
        if (unit * PAGES..(unit + 1) * PAGES).rev().all(|page| self.balloon.contains(&page)) {
            self.take(usize::try_from(unit).unwrap());
        }
    }

    fn report(&mut self, start: u64, size: u32) {
        let Some(end) = start.checked_add(size.into()) else { return };
        let Some(mut unit) = start.checked_next_multiple_of(UNIT) else { return };
        // A range ends where it leaves RAM; one that begins outside names nothing.
        while unit + UNIT <= end && (BASE..BASE + UNITS as u64 * UNIT).contains(&unit) {
            self.take(usize::try_from((unit - BASE) / UNIT).unwrap());
            unit += UNIT;
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(32, 1))]

    /// Whatever a driver names: what is missing is what it has named as a whole, and nothing else.
    #[test]
    fn what_is_missing_is_what_the_model_says(
        acts in prop::collection::vec(act(), 1..pick(25, 3)),
        packed in any::<bool>(),
    ) {
        let mut guest = Guest::new(packed);
        let mut model = Model::default();
        let first = BASE / PAGE_SIZE - PAGES;
        for act in acts {
            match act {
                Act::Inflate(from, count) | Act::Deflate(from, count) => {
                    let inflates = matches!(act, Act::Inflate(..));
                    // Not what the rings are in: the test above is about that.
                    let named = (from..from + count).filter(|page| !(PAGES..2 * PAGES).contains(page));
                    let named: Vec<u32> = named.map(|page| u32::try_from(first + page).unwrap()).collect();
                    if inflates { guest.inflate(&named) } else { guest.deflate(&named) }
                    for page in named {
                        let page = u64::from(page).wrapping_sub(BASE / PAGE_SIZE);
                        if page < RAM / PAGE_SIZE {
                            if inflates {
                                model.inflate(page);
                            } else {
                                model.balloon.remove(&page);
                            }
                        }
                    }
                }
                Act::Report(ranges) => {
                    // As above. A driver has no descriptors of nothing.
                    let is_fine = |(start, size): &(u64, u32)| {
                        *size > 0 && start.checked_next_multiple_of(UNIT) != Some(BASE)
                    };
                    let ranges: Vec<_> = ranges.into_iter().filter(is_fine).collect();
                    if !ranges.is_empty() {
                        prop_assert!(guest.report(&ranges));
                    }
                    ranges.iter().for_each(|(start, size)| model.report(*start, *size));
                }
                Act::Touch(unit) => {
                    guest.room.settle();
                    if unit < UNITS {
                        guest.fill(unit);
                    }
                    model.holes.remove(&unit);
                }
                Act::Settle => guest.room.settle(),
                Act::Reset => {
                    guest.begin(1 << 5);
                    model.balloon.clear();
                }
            }
            let holes: Vec<_> = model.holes.iter().copied().collect();
            prop_assert_eq!(guest.holes(), holes);
        }
        guest.end();
    }
}
