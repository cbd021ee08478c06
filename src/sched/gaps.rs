//! Gaps between the virtual clocks of CPUs, and how far they are closed.
//!
//! Clocks of CPUs that exchange vCPUs keep together by that (see `transfer`); others drift apart for good reason: a
//! vCPU whose weight is worth more than a CPU, a busier set of CPUs, one that nobody shares. That difference must not
//! become a claim when the situation changes. So gaps, and only gaps, are closed to a few slices; clocks on the same
//! side of a gap keep their order and their distances.
//!
//! Whoever looks sees to all gaps, not only to those beside its own clock: a CPU with one vCPU has no timer and does not
//! look, so nobody would see to a gap between two such.

use alloc::vec::Vec;

/// What is left of a gap while nothing changes, in slices of the lightest vCPU below it.
pub(super) const SLICES: u64 = 4;

/// One CPU's virtual clock among the others'.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// By how much it is ahead of some clock, the same for all.
    pub height: i64,
    /// The most that a slice costs there.
    pub step: u64,
    /// The CPU.
    pub cpu: usize,
}

/// The clocks of all CPUs at one moment.
#[derive(Debug)]
pub(super) struct Gaps(Vec<Standing>);

impl Gaps {
    /// With room for `cpus` clocks.
    pub fn new(cpus: usize) -> Self {
        Self(Vec::with_capacity(cpus))
    }

    /// Close the gaps between clocks, of no more CPUs than there is room for, so that `slices` of each are left at most:
    /// `lift` puts a CPU's clock forward.
    pub fn close(
        &mut self,
        clocks: impl Iterator<Item = Standing>,
        slices: u64,
        mut lift: impl FnMut(usize, u64),
    ) {
        let Self(standings) = self;
        standings.clear();
        standings.extend(clocks.take(standings.capacity()));
        standings.sort_unstable_by_key(|it| it.height);
        // What a slice costs the lightest vCPU there or below.
        let mut lightest = 0;
        for it in standings.iter_mut() {
            lightest = it.step.max(lightest);
            it.step = lightest;
        }
        let (mut by, mut above) = (0u64, None::<Standing>);
        for it in standings.iter().rev() {
            if let Some(above) = above {
                let left = above.step.saturating_mul(slices);
                by = by.saturating_add(above.height.abs_diff(it.height).saturating_sub(left));
            }
            if by > 0 {
                lift(it.cpu, by);
            }
            above = Some(*it);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Gaps, SLICES, Standing};

    /// Heights after gaps were closed, by CPU.
    fn closed(clocks: &[(i64, u64)], slices: u64) -> Vec<i64> {
        let mut heights: Vec<i64> = clocks.iter().map(|(height, _)| *height).collect();
        let standings = (0..).zip(clocks);
        let standings =
            standings.map(|(cpu, (height, step))| Standing { height: *height, step: *step, cpu });
        Gaps::new(clocks.len()).close(standings, slices, |cpu, by| {
            heights[cpu] = heights[cpu].checked_add_unsigned(by).unwrap();
        });
        heights
    }

    #[test]
    fn all_gaps_are_closed_whoever_looks() {
        assert_eq!(closed(&[(0, 1), (100, 1), (1000, 1)], SLICES), [992, 996, 1000]);
        assert_eq!(closed(&[(7, 1)], SLICES), [7]);
        assert_eq!(closed(&[], SLICES), [0; 0]);
    }

    #[test]
    fn a_gap_is_measured_by_the_lightest_below_it_and_the_one_above() {
        assert_eq!(closed(&[(0, 10), (100, 1), (1000, 2)], SLICES), [920, 960, 1000]);
        assert_eq!(closed(&[(0, 1), (100, 10), (200, 1)], SLICES), [120, 160, 200]);
        assert_eq!(closed(&[(0, 1), (100, 1), (1000, 50)], SLICES), [796, 800, 1000]);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(200, 1))]

        /// As if each gap were looked at for itself, from the lowest to the highest.
        #[test]
        fn gaps_and_only_gaps_are_closed(
            clocks in prop::collection::vec((-1000i64..1000, 0u64..50), 0..10),
            slices in 0u64..6,
        ) {
            let mut wanted = clocks.clone();
            let mut order: Vec<usize> = (0..clocks.len()).collect();
            order.sort_by_key(|at| clocks[*at].0);
            for pair in order.windows(2) {
                let (below, above) = (clocks[pair[0]].0, clocks[pair[1]].0);
                let lower = clocks.iter().filter(|(height, _)| *height <= below);
                let step = lower.map(|(_, step)| *step).chain([clocks[pair[1]].1]).max().unwrap();
                let excess = (above - below - (step * slices).cast_signed()).max(0);
                for (one, (before, _)) in wanted.iter_mut().zip(&clocks) {
                    one.0 += if *before <= below { excess } else { 0 };
                }
            }
            let wanted: Vec<i64> = wanted.into_iter().map(|(height, _)| height).collect();
            prop_assert_eq!(closed(&clocks, slices), wanted);
        }
    }
}
