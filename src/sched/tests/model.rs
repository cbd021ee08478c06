//! What shares are right: weighted max-min fairness under affinity, found by filling all up at the speed of
//! their weights until some cannot get more (progressive filling).
//!
//! Shares are possible exactly if no set of CPUs is overdrawn by those who can run nowhere else (Hall's
//! condition), so whoever is within a set that is used up has what it can get.

use crate::machine::CpuId;
use crate::sched::policy::CpuSet;

/// One that would always run.
#[derive(Clone, Debug)]
pub struct Demand {
    pub weight: f64,
    pub affinity: CpuSet,
    /// At most 1: it is on one CPU at a time.
    pub most: f64,
}

/// The share of a CPU that each gets, of CPUs that have so much to give: 1, less what is reserved.
pub fn shares(demands: &[Demand], cpus: &[f64]) -> Vec<f64> {
    let masks: Vec<u32> = demands.iter().map(|demand| mask(demand.affinity, cpus.len())).collect();
    let mut shares: Vec<Option<f64>> = vec![None; demands.len()];
    while shares.contains(&None) {
        // The height to which those in each set of CPUs could still be filled.
        let height = |set: u32| -> f64 {
            let inside = (0..demands.len()).filter(|one| masks[*one] & !set == 0);
            let (mut left, mut weight) = (capacity(set, cpus), 0.0f64);
            for one in inside {
                match shares[one] {
                    Some(share) => left -= share,
                    None => weight += demands[one].weight,
                }
            }
            if weight > 0.0 { left.max(0.0) / weight } else { f64::INFINITY }
        };
        let heights: Vec<f64> = (0..1 << cpus.len()).map(height).collect();
        let rising = || (0..demands.len()).filter(|one| shares[*one].is_none());
        let own = |one: usize| demands[one].most / demands[one].weight;
        let level = heights.iter().copied().chain(rising().map(own)).fold(f64::INFINITY, f64::min);
        let full = |height: f64| height <= level * (1.0 + 1e-9);
        let stuck = |one: &usize| {
            let within = |(set, height): (u32, f64)| full(height) && masks[*one] & !set == 0;
            full(own(*one)) || (0..).zip(heights.iter().copied()).any(within)
        };
        let stuck: Vec<usize> = rising().filter(stuck).collect();
        assert!(!stuck.is_empty(), "{demands:?}");
        for one in stuck {
            shares[one] = Some((level * demands[one].weight).min(demands[one].most));
        }
    }
    shares.into_iter().map(Option::unwrap).collect()
}

/// The same where reservations leave sets of CPUs (by bits), each for a part of the time. What a set of vCPUs can
/// have then is, at each moment, as many CPUs as can be given to one of them each. For few vCPUs only.
pub fn shares_over_time(demands: &[Demand], cpus: usize, left: &[(u32, f64)]) -> Vec<f64> {
    let masks: Vec<u32> = demands.iter().map(|demand| mask(demand.affinity, cpus)).collect();
    let all = || 0..demands.len();
    let within = |set: u32| all().filter(move |one| set >> one & 1 != 0);
    let served = |set: u32, cpus: u32| {
        let mut given = vec![None; 32];
        within(set).filter(|one| give(*one, &masks, cpus, &mut 0, &mut given)).count() as f64
    };
    let room = |set: u32| left.iter().map(|(cpus, part)| part * served(set, *cpus)).sum();
    let rooms: Vec<f64> = (0..1 << demands.len()).map(room).collect();
    let mut shares: Vec<Option<f64>> = vec![None; demands.len()];
    while shares.contains(&None) {
        let height = |set: u32, room: f64| {
            let taken: f64 = within(set).filter_map(|one| shares[one]).sum();
            let rising = within(set).filter(|one| shares[*one].is_none());
            let weight: f64 = rising.map(|one| demands[one].weight).sum();
            if weight > 0.0 { (room - taken).max(0.0) / weight } else { f64::INFINITY }
        };
        let heights: Vec<f64> = (0..).zip(&rooms).map(|(set, room)| height(set, *room)).collect();
        let level = heights.iter().copied().fold(f64::INFINITY, f64::min);
        let full = (0u32..).zip(&heights).filter(|(_, height)| **height <= level * (1.0 + 1e-9));
        let stuck = full.fold(0, |all, (set, _)| all | set);
        for one in within(stuck) {
            shares[one].get_or_insert(level * demands[one].weight);
        }
    }
    shares.into_iter().map(Option::unwrap).collect()
}

/// Whether `one` can have one of `cpus` too, others changing theirs (augmenting paths).
fn give(one: usize, masks: &[u32], cpus: u32, seen: &mut u32, given: &mut [Option<usize>]) -> bool {
    while let Some(cpu) = (0..32).find(|cpu| masks[one] & cpus & !*seen & 1 << cpu != 0) {
        *seen |= 1 << cpu;
        let cpu = cpu as usize;
        if given[cpu].is_none_or(|other| give(other, masks, cpus, seen, given)) {
            given[cpu] = Some(one);
            return true;
        }
    }
    false
}

fn mask(affinity: CpuSet, cpus: usize) -> u32 {
    let bits = (0..cpus).filter(|cpu| affinity.contains(CpuId(u8::try_from(*cpu).unwrap())));
    bits.fold(0, |all, cpu| all | 1 << cpu)
}

fn capacity(set: u32, cpus: &[f64]) -> f64 {
    cpus.iter().enumerate().filter(|(cpu, _)| set >> cpu & 1 != 0).map(|(_, one)| one).sum()
}

#[test]
fn the_model_knows_the_textbook_cases() {
    let one = |weight| Demand { weight, affinity: CpuSet::ALL, most: 1.0 };
    let on = |weight, cpus: &[u8]| {
        let affinity = cpus.iter().fold(CpuSet::EMPTY, |set, cpu| set.with(CpuId(*cpu)));
        Demand { affinity, ..one(weight) }
    };
    let close = |demands: &[Demand], cpus: &[f64], wanted: &[f64]| {
        let found = shares(demands, cpus);
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    };
    close(&[one(1.0), one(1.0), one(1.0)], &[1.0; 2], &[2.0 / 3.0; 3]);
    close(&[one(10.0), one(1.0), one(1.0)], &[1.0; 2], &[1.0, 0.5, 0.5]);
    close(&[on(1.0, &[0]), on(1.0, &[0]), one(1.0)], &[1.0; 2], &[0.5, 0.5, 1.0]);
    let capped = Demand { most: 0.2, ..one(5.0) };
    close(&[capped, one(2.0), one(1.0)], &[1.0], &[0.2, 1.6 / 3.0, 0.8 / 3.0]);
    // A chain: the first two have a CPU each, as the third is crowded.
    let chain = [on(1.0, &[0, 1]), on(1.0, &[1, 2]), on(1.0, &[2]), on(1.0, &[2])];
    close(&chain, &[1.0; 3], &[1.0, 1.0, 0.5, 0.5]);
    // One that never waits divides itself so that the other two are served alike.
    close(&[one(9.0), on(1.0, &[0]), on(3.0, &[1])], &[1.0; 2], &[1.0, 0.25, 0.75]);
    // One CPU within two: those who are bound to it have the level of that CPU.
    let nested = [on(1.0, &[0]), on(3.0, &[0]), on(1.0, &[0, 1]), on(1.0, &[1])];
    close(&nested, &[1.0; 2], &[0.25, 0.75, 0.5, 0.5]);
    // What is left beside reservations.
    close(&[one(1.0), on(1.0, &[0])], &[0.25, 0.5], &[0.5, 0.25]);
}

#[test]
fn the_model_knows_that_what_is_left_at_one_time_cannot_be_had_at_another() {
    let one = Demand { weight: 1.0, affinity: CpuSet::ALL, most: 1.0 };
    let close = |demands: &[Demand], left: &[(u32, f64)], wanted: &[f64]| {
        let found = shares_over_time(demands, 2, left);
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    };
    let alone = core::slice::from_ref(&one);
    close(alone, &[(0b01, 0.5), (0b10, 0.5)], &[1.0]);
    close(alone, &[(0b11, 0.5), (0b00, 0.5)], &[0.5]);
    let bound = Demand { affinity: CpuSet::EMPTY.with(CpuId(0)), ..one.clone() };
    close(&[one.clone(), bound.clone()], &[(0b11, 0.5), (0b00, 0.5)], &[0.5, 0.5]);
    close(&[one.clone(), bound], &[(0b01, 0.25), (0b11, 0.25), (0b10, 0.5)], &[0.75, 0.5]);
    close(&[one.clone(), one.clone(), one], &[(0b11, 1.0)], &[2.0 / 3.0; 3]);
}
