//! Every region of 8-bit addresses, and every pair of them, against sets of bytes: once where the 64-bit space begins and once where it
//! ends, since what wraps does it there.

use alloc::vec::Vec;
use core::array;

use super::*;
use crate::testing::bound;

/// How many addresses: 8 bits of them.
const SPACE: u64 = bound(256, 24, 4);
const UNITS: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// A set of bytes.
type Set = [u64; 4];

const NONE: Set = [0; 4];

fn set(bytes: impl IntoIterator<Item = u64>) -> Set {
    let mut set = NONE;
    bytes.into_iter().for_each(|byte| set[usize::try_from(byte / 64).unwrap()] |= 1 << (byte % 64));
    set
}

fn both(a: Set, b: Set) -> Set {
    array::from_fn(|word| a[word] & b[word])
}

fn less(a: Set, b: Set) -> Set {
    array::from_fn(|word| a[word] & !b[word])
}

/// Some addresses from `base` on, and what bytes each region of them is.
struct Space {
    base: u64,
    size: u64,
    /// Those of the region from one number to another, by both.
    sets: Vec<Set>,
}

impl Space {
    /// Where the 64-bit space begins, and where it ends.
    fn all(size: u64) -> [Self; 2] {
        [0, u64::MAX - (size - 1)].map(|base| {
            let pairs = (0..size).flat_map(|first| (0..size).map(move |last| (first, last)));
            Self { base, size, sets: pairs.map(|(first, last)| set(first..=last)).collect() }
        })
    }

    fn at(&self, number: u64) -> Ipa {
        Ipa::new(self.base + number)
    }

    /// All that are not empty, each with its bytes.
    fn regions(&self) -> impl Iterator<Item = (Region<Ipa>, Set)> + Clone {
        (0..self.size).flat_map(move |first| {
            (first..self.size).map(move |last| {
                let region = Region::new(self.at(first), last - first + 1).unwrap();
                (region, self.set_of(&region))
            })
        })
    }

    /// The bytes of a region, which has to lie in this space.
    fn set_of(&self, region: &Region<Ipa>) -> Set {
        let number = |at: Ipa| at.raw().checked_sub(self.base).filter(|number| *number < self.size);
        let (first, last) = (number(region.start()).unwrap(), number(region.last()).unwrap());
        assert!(first <= last, "{region:?}");
        self.sets[usize::try_from(first * self.size + last).unwrap()]
    }

    fn set_of_some(&self, region: Option<Region<Ipa>>) -> Set {
        region.map_or(NONE, |region| self.set_of(&region))
    }
}

#[test]
fn a_region_is_made_of_any_bytes_that_are_some_and_do_not_wrap() {
    for space in Space::all(SPACE) {
        for first in 0..SPACE {
            let start = space.at(first);
            for size in (0..=2 * SPACE).chain([u64::MAX - SPACE, u64::MAX - 1, u64::MAX]) {
                let made = Region::new(start, size);
                // One behind the last byte, in more bits than addresses have.
                let end = u128::from(start.raw()) + u128::from(size);
                assert_eq!(made.is_some(), size > 0 && end <= 1 << 64, "{start} {size}");
                let Some(region) = made else { continue };
                assert_eq!((region.start(), region.size()), (start, size));
                assert_eq!(u128::from(region.last().raw()) + 1, end);
                assert_eq!(
                    region.end().map(|end| u128::from(end.raw())),
                    Some(end).filter(|end| *end < 1 << 64)
                );
            }
            for last in 0..SPACE {
                let made = Region::between(start, space.at(last));
                assert_eq!(space.set_of_some(made), set(first..last));
                assert_eq!(space.at(last).offset_from(start), last.checked_sub(first));
            }
            for unit in UNITS {
                let aligned = u128::from(unit);
                let up = u128::from(start.raw()).div_ceil(aligned) * aligned;
                assert_eq!(
                    start.align_up(unit).map(|at| u128::from(at.raw())),
                    Some(up).filter(|up| *up < 1 << 64)
                );
                assert_eq!(start.align_down(unit).raw(), start.raw() / unit * unit);
                assert_eq!(start.is_aligned(unit), start.raw().is_multiple_of(unit));
            }
        }
    }
}

#[test]
fn a_region_is_cut_to_units_and_in_two_as_a_set_of_bytes_is() {
    // The space begins at a multiple of each of these sizes.
    let units = UNITS.into_iter().filter(|unit| SPACE.is_multiple_of(*unit));
    let of = |unit| (0..SPACE / unit).map(move |number| set(number * unit..(number + 1) * unit));
    let units: Vec<(u64, Vec<Set>)> = units.map(|unit| (unit, of(unit).collect())).collect();
    for space in Space::all(SPACE) {
        for (region, bytes) in space.regions() {
            for (unit, all) in &units {
                let unit = *unit;
                let (mut inside, mut around) = (NONE, NONE);
                for each in all.iter().copied() {
                    let touched = both(each, bytes);
                    let add = |to: &mut Set| *to = array::from_fn(|word| to[word] | each[word]);
                    if touched == each {
                        add(&mut inside);
                    }
                    if touched != NONE {
                        add(&mut around);
                    }
                }
                assert_eq!(space.set_of_some(region.shrink_to(unit)), inside, "{region} {unit}");
                assert_eq!(space.set_of(&region.grow_to(unit)), around, "{region} {unit}");
            }
            for size in (0..=SPACE + 1).chain([u64::MAX]) {
                let (front, rest) = region.split_front(size);
                let most = size.clamp(1, region.size());
                let first = region.start().raw() - space.base;
                assert_eq!((front.start(), front.size()), (space.at(first), most));
                assert_eq!(space.set_of_some(rest), less(bytes, space.set_of(&front)));
            }
            for number in 0..SPACE {
                let inside = both(bytes, set([number])) != NONE;
                assert_eq!(region.contains(space.at(number)), inside);
                assert_eq!(region.contains_bytes(space.at(number), 0), inside);
                // They wrap, or are more than there are.
                assert!(!region.contains_bytes(space.at(number), u64::MAX));
                assert!(!region.contains_bytes(space.at(number), SPACE + 1));
            }
        }
    }
}

#[test]
fn two_regions_are_to_each_other_what_their_bytes_are() {
    for space in Space::all(bound(48, 16, 4)) {
        for (a, of_a) in space.regions() {
            for (b, of_b) in space.regions() {
                let shared = both(of_a, of_b);
                assert_eq!(a.overlaps(&b), shared != NONE);
                assert_eq!(space.set_of_some(a.intersection(&b)), shared);
                assert_eq!(a.contains_region(&b), shared == of_b);
                assert_eq!(a.contains_bytes(b.start(), b.size()), shared == of_b);
                let [below, above] = a.without(&b).map(|part| space.set_of_some(part));
                assert_eq!(both(below, above), NONE);
                let left: Set = array::from_fn(|word| below[word] | above[word]);
                assert_eq!(left, less(of_a, of_b));
            }
        }
    }
}

/// All 2^32 quadruples of 8-bit numbers, less those that are no regions, where the space ends: as intervals of numbers that do not.
#[test]
fn two_regions_at_the_end_of_the_space_are_to_each_other_what_intervals_are() {
    let base = u64::MAX - (SPACE - 1);
    // A region's first number and the one behind its last; nothing for none.
    let interval =
        |region: &Region<Ipa>| (region.start().raw() - base, region.last().raw() - base + 1);
    let some = |region: Option<Region<Ipa>>| region.map_or((0, 0), |region| interval(&region));
    let or_none = |(from, to): (u64, u64)| if from < to { (from, to) } else { (0, 0) };
    let pairs = (0..SPACE).flat_map(|from| (from + 1..=SPACE).map(move |to| (from, to)));
    let region = |(from, to)| (Region::new(Ipa::new(base + from), to - from).unwrap(), from, to);
    let regions: Vec<_> = pairs.map(region).collect();
    for (a, from_a, to_a) in regions.iter().copied() {
        for (b, from_b, to_b) in regions.iter().copied() {
            let shared = or_none((from_a.max(from_b), to_a.min(to_b)));
            let inside = from_a <= from_b && to_b <= to_a;
            let [below, above] = a.without(&b).map(some);
            let expected = match shared {
                (0, 0) => [(from_a, to_a), (0, 0)],
                _ => [or_none((from_a, from_b)), or_none((to_b, to_a))],
            };
            let right = a.overlaps(&b) == (shared != (0, 0))
                && some(a.intersection(&b)) == shared
                && a.contains_region(&b) == inside
                && a.contains_bytes(b.start(), to_b - from_b) == inside
                && [below, above] == expected;
            assert!(right, "{a} {b}");
        }
    }
}
