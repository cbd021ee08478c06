//! CPUs that watch each other: each looks now and then whether the next one still takes interrupts.
//!
//! A CPU that is at work takes every interrupt soon: in a guest it comes back to EL2 for it, and EL2 does nothing for long.
//! Its own look is such an interrupt. So one that has taken none since the last look is *asked* for a sign, by a kick. If after [`LOOKS`] looks there is none,
//! it hangs. Time is counted in looks of the watching CPU, and nothing else: while the whole machine stands still (it is virtual and
//! paused, or in a debugger), nobody looks, and a counter that has jumped makes one look, not many.

use super::{Clock, Phase};
use crate::machine::CpuId;
use crate::sched::Entity;
use crate::time::Ticks;
use crate::vm::tally::Reason;

/// How many looks in a row have to find no sign of life.
pub const LOOKS: u32 = 5;
/// How many more another CPU waits where a CPU looks at itself, as that one can say where it is.
pub const GRACE: u32 = 2;

/// What one look at a CPU comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finding {
    /// It sleeps, does not take part, or has taken an interrupt since the last look.
    Lives,
    /// It has not: a kick is to make it take one.
    Ask,
    /// It has been asked again and again.
    Hangs,
}

/// What a CPU has seen of the one that it watches.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    seen: Option<u64>,
    without: u32,
    looks: u32,
}

impl Watch {
    /// A CPU hangs if `looks` looks in a row find no sign of life.
    pub fn new(looks: u32) -> Self {
        Self { seen: None, without: 0, looks }
    }

    /// How long it takes at least until a CPU is said to hang.
    pub fn patience(&self, interval: Ticks) -> Ticks {
        Ticks(interval.0.saturating_mul(self.looks.into()))
    }

    /// `taken` is the number of interrupts that the CPU has taken so far; `None` while it sleeps or does not take part.
    pub fn look(&mut self, taken: Option<u64>) -> Finding {
        if taken.is_none() || taken != self.seen {
            *self = Self { seen: taken, without: 0, ..*self };
            return Finding::Lives;
        }
        self.without += 1;
        if self.without < self.looks { Finding::Ask } else { Finding::Hangs }
    }
}

/// A CPU that hangs, for a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hang {
    /// Which.
    pub cpu: CpuId,
    /// Who found it.
    pub by: CpuId,
    /// What it did last.
    pub phase: Phase,
    /// Why it left a guest last, but for what is answered at once.
    pub last_exit: Option<Reason>,
    /// The vCPU that has it.
    pub running: Option<Entity>,
    /// How long it has given no sign at least: the time between looks, all together.
    pub ticks: Ticks,
}

impl Hang {
    /// What `by` knows of `cpu`, whose clock this is.
    pub fn of(clock: &Clock, cpu: CpuId, by: CpuId, ticks: Ticks) -> Self {
        let (phase, last_exit, running) = (clock.phase(), clock.last_exit(), clock.running());
        Self { cpu, by, phase, last_exit, running, ticks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn who_gives_no_sign_is_asked_and_hangs_in_the_end() {
        let mut watch = Watch::new(LOOKS);
        let found = [(); 6].map(|()| watch.look(Some(7)));
        use Finding::*;
        assert_eq!(found, [Lives, Ask, Ask, Ask, Ask, Hangs]);
    }

    /// What a watched CPU does between two looks.
    #[derive(Clone, Copy, Debug)]
    enum Does {
        /// It takes so many interrupts, and the one that it was asked by.
        Works(u64),
        Sleeps,
        /// It takes none, whoever asks.
        Stands,
    }

    fn does() -> impl Strategy<Value = Does> {
        // Long stretches of each.
        prop_oneof![(0..3u64).prop_map(Does::Works), Just(Does::Sleeps), Just(Does::Stands)]
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        /// The model: it hangs exactly where the last looks, one more than [`LOOKS`], saw it at work and the same number.
        #[test]
        fn it_hangs_exactly_after_so_many_looks_at_the_same(
            all in vec((does(), 1..8usize), 1..60), start in any::<u64>(),
        ) {
            let (mut watch, mut taken, mut asked, mut seen) = (Watch::new(LOOKS), start, false, vec![]);
            for does in all.iter().flat_map(|&(does, times)| core::iter::repeat_n(does, times)) {
                match does {
                    Does::Works(more) => taken = taken.wrapping_add(more + u64::from(asked)),
                    Does::Sleeps | Does::Stands => {}
                }
                let observed = (!matches!(does, Does::Sleeps)).then_some(taken);
                seen.push(observed);
                let found = watch.look(observed);
                let same = seen.iter().rev().take_while(|it| it.is_some() && **it == observed).count();
                let same = u32::try_from(same).unwrap();
                prop_assert_eq!(found == Finding::Hangs, same > LOOKS);
                prop_assert_eq!(found == Finding::Ask, (2..=LOOKS).contains(&same));
                asked = found == Finding::Ask;
            }
        }

        /// Whoever takes the interrupt that it is asked by never hangs, however little else happens.
        #[test]
        fn who_answers_never_hangs(all in vec(prop_oneof![Just(None), Just(Some(0u64)), Just(Some(1))], 1..200)) {
            let (mut watch, mut taken) = (Watch::new(LOOKS), 0u64);
            for more in all {
                taken += more.unwrap_or(0);
                match watch.look(more.map(|_| taken)) {
                    Finding::Lives => {}
                    Finding::Ask => taken += 1,
                    Finding::Hangs => prop_assert!(false, "it has answered"),
                }
            }
        }
    }
}
