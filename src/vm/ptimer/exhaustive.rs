//! The timer's sums against the manual's words, in numbers without an end: for every value of a counter of a few bits, and for 64 bits
//! at and around each value where something turns over.
//!
//! A counter of 8 bits is one of 64 whose lower 56 stand still: sums, differences and comparisons of such numbers are those of
//! 8 bits, and wrap where those wrap.

use super::*;
use crate::testing::bound;

/// How many values a counter has.
const VALUES: u64 = bound(256, 16, 4);
/// What one step of it is worth.
const UNIT: u64 = u64::MAX / VALUES + 1;
const SPACE: i128 = 1 << 64;

const CONTROLS: [u64; 4] = [0, 1, 2, 3];

/// "The Generic Timer", "Operation of the CompareValue views of the timers": the timer's condition is met while
/// `(Counter<63:0> - Offset<63:0>) - CompareValue<63:0> >= 0`, unsigned, of 64 bits the counter's and the offset's difference.
fn condition(counter: u64, offset: u64, compare: u64) -> bool {
    let count = (i128::from(counter) - i128::from(offset)).rem_euclid(SPACE);
    count - i128::from(compare) >= 0
}

/// What the manual says a timer with `ctl`, `cval` shows at a count, and when its output is high.
fn agrees(ctl: u64, cval: u64, physical: u64, offset: u64) {
    let timer = PhysicalTimer::from_registers(ctl, cval);
    let (enabled, masked) = (ctl & 1 != 0, ctl & 2 != 0);
    let met = enabled && condition(physical, offset, cval);
    let count = virtual_count(Ticks(physical), offset);
    assert_eq!(i128::from(count.0), (i128::from(physical) - i128::from(offset)).rem_euclid(SPACE));
    assert_eq!(timer.output(count), met && !masked, "{ctl} {cval:#x} {physical:#x} {offset:#x}");
    assert_eq!(timer.read(TimerReg::Ctl, count), ctl | if met { 4 } else { 0 });
    // "TimerValue = ((CompareValue - (Counter - Offset))<31:0>)".
    let left = (i128::from(cval) - i128::from(count.0)).rem_euclid(1 << 32);
    assert_eq!(i128::from(timer.read(TimerReg::Tval, count)), left);
    let deadline = timer.deadline(Ticks(physical), offset);
    assert_eq!(deadline.is_some(), enabled && !masked);
    assert_eq!(timer.remaining(count).is_some(), enabled && !masked);
    if let Some(Ticks(deadline)) = deadline {
        assert!(deadline >= physical);
        assert!(deadline == u64::MAX || condition(deadline, offset, cval));
        assert!(deadline == physical || !condition(deadline - 1, offset, cval));
        // Nor anywhere before, for the virtual count has not wrapped since.
        assert!(
            i128::from(deadline) - i128::from(physical)
                <= (i128::from(cval) - i128::from(count.0)).max(0)
        );
    }
}

#[test]
fn a_timer_of_a_few_bits_is_the_architectures_for_every_count_offset_and_value() {
    for cval in (0..VALUES).map(|value| value * UNIT) {
        for physical in (0..VALUES).map(|value| value * UNIT) {
            for offset in (0..VALUES).map(|value| value * UNIT) {
                let timer = PhysicalTimer::from_registers(1, cval);
                // The counter goes on, to its end, until the condition is met.
                let met = (physical / UNIT..VALUES).find(|at| condition(at * UNIT, offset, cval));
                let deadline = timer.deadline(Ticks(physical), offset);
                // Behind the last count there is nothing.
                let expected = met.map_or(u64::MAX, |at| at * UNIT);
                assert_eq!(deadline, Some(Ticks(expected)), "{cval:#x} {physical:#x} {offset:#x}");
                agrees(1, cval, physical, offset);
            }
        }
    }
}

#[test]
fn every_compare_value_of_16_bits_is_met_by_the_counts_from_it_on() {
    const BITS: u32 = bound(16, 10, 4);
    for cval in 0..1u64 << BITS {
        let cval = cval << (64 - BITS);
        let timer = PhysicalTimer::from_registers(1, cval);
        for count in 0..1u64 << BITS {
            let count = Ticks(count << (64 - BITS));
            assert_eq!(timer.output(count), count.0 >= cval);
            assert_eq!(timer.remaining(count), Some(Ticks(cval.saturating_sub(count.0))));
        }
    }
}

/// Values of 64 bits at and around those where bits 31, 32 and 63 change.
fn edges() -> Vec<u64> {
    let around = bound(3, 1, 1);
    let places =
        [0, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 63) + (1 << 31), (1 << 63) + (1 << 32)];
    let mirrored = places.into_iter().chain(places.map(u64::wrapping_neg));
    let mut all: Vec<u64> = mirrored
        .flat_map(|place| {
            (0..=2 * around).map(move |by| place.wrapping_add(by).wrapping_sub(around))
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn at_every_edge_of_64_bits_a_timer_is_the_architectures() {
    let edges = edges();
    for cval in &edges {
        for physical in &edges {
            for offset in &edges {
                CONTROLS.into_iter().for_each(|ctl| agrees(ctl, *cval, *physical, *offset));
            }
        }
    }
}

#[test]
fn a_tval_is_a_signed_word_from_the_count_on_at_every_edge() {
    let edges = edges();
    for tval in &edges {
        for count in &edges {
            let mut timer = PhysicalTimer::from_registers(1, 0);
            timer.write(TimerReg::Tval, *tval, Ticks(*count));
            // "CompareValue = ((Counter - Offset)<63:0> + SignExtend(TimerValue<31:0>))<63:0>".
            let word = i128::from(*tval).rem_euclid(1 << 32);
            let signed = if word >= 1 << 31 { word - (1 << 32) } else { word };
            let compare = (i128::from(*count) + signed).rem_euclid(SPACE);
            assert_eq!(i128::from(timer.read(TimerReg::Cval, Ticks(*count))), compare);
            for later in &edges {
                let left = (compare - i128::from(*later)).rem_euclid(1 << 32);
                assert_eq!(i128::from(timer.read(TimerReg::Tval, Ticks(*later))), left);
            }
        }
    }
}

/// All 2^16 upper halves of a word, and the lower halves that matter, from counts that matter.
#[test]
fn every_upper_half_of_a_tval_is_signed() {
    for high in (0..=0xffff_u64).step_by(bound(1, 255, 4095)) {
        for low in [0, 1, 0xffff] {
            let tval = high << 16 | low;
            for count in [0, 5, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
                let mut timer = PhysicalTimer::from_registers(1, 0);
                timer.write(TimerReg::Tval, tval, Ticks(count));
                let back = if tval >> 31 == 1 { (1 << 32) - tval } else { 0 };
                let expected =
                    if back > 0 { count.wrapping_sub(back) } else { count.wrapping_add(tval) };
                assert_eq!(timer.read(TimerReg::Cval, Ticks(count)), expected);
            }
        }
    }
}
