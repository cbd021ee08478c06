//! What shares are right: weighted max-min fairness, found by filling all up at the speed of their weights
//! until somebody cannot get more.

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

/// The share of a CPU that each gets.
pub fn shares(demands: &[Demand], cpus: usize) -> Vec<f64> {
    let mut shares: Vec<Option<f64>> = vec![None; demands.len()];
    while shares.contains(&None) {
        let at = |level: f64| -> Vec<f64> {
            let one = |(demand, share): (&Demand, &Option<f64>)| {
                share.unwrap_or((level * demand.weight).min(demand.most))
            };
            demands.iter().zip(&shares).map(one).collect()
        };
        let (mut low, mut high) = (0.0, 1e9);
        for _ in 0..200 {
            let level = f64::midpoint(low, high);
            match slack(demands, &at(level), cpus).iter().any(|left| *left < -1e-12) {
                true => high = level,
                false => low = level,
            }
        }
        let now = at(low);
        let full = slack(demands, &now, cpus);
        let mut fixed = false;
        for (index, demand) in demands.iter().enumerate() {
            let stuck = sets(cpus)
                .zip(&full)
                .any(|(set, left)| *left < 1e-6 && within(demand.affinity, set, cpus));
            if shares[index].is_none() && (stuck || now[index] >= demand.most - 1e-9) {
                shares[index] = Some(now[index]);
                fixed = true;
            }
        }
        assert!(fixed, "{demands:?}");
    }
    shares.into_iter().map(Option::unwrap).collect()
}

/// What each set of CPUs has left beside those who can run nowhere else (Hall's condition: the shares
/// are possible exactly if no set is overdrawn).
fn slack(demands: &[Demand], shares: &[f64], cpus: usize) -> Vec<f64> {
    let left = |set: u32| {
        let bound = demands.iter().zip(shares).filter(|(one, _)| within(one.affinity, set, cpus));
        f64::from(set.count_ones()) - bound.map(|(_, share)| share).sum::<f64>()
    };
    sets(cpus).map(left).collect()
}

fn sets(cpus: usize) -> std::ops::Range<u32> {
    1..1 << cpus
}

fn within(affinity: CpuSet, set: u32, cpus: usize) -> bool {
    (0..cpus)
        .all(|cpu| !affinity.contains(CpuId(u8::try_from(cpu).unwrap())) || set >> cpu & 1 != 0)
}

#[test]
fn the_model_knows_the_textbook_cases() {
    let one = |weight| Demand { weight, affinity: CpuSet::ALL, most: 1.0 };
    let close = |found: Vec<f64>, wanted: &[f64]| {
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    };
    close(shares(&[one(1.0), one(1.0), one(1.0)], 2), &[2.0 / 3.0; 3]);
    close(shares(&[one(10.0), one(1.0), one(1.0)], 2), &[1.0, 0.5, 0.5]);
    let pinned = Demand { affinity: CpuSet::EMPTY.with(CpuId(0)), ..one(1.0) };
    close(shares(&[pinned.clone(), pinned, one(1.0)], 2), &[0.5, 0.5, 1.0]);
    let capped = Demand { most: 0.2, ..one(5.0) };
    close(shares(&[capped, one(2.0), one(1.0)], 1), &[0.2, 1.6 / 3.0, 0.8 / 3.0]);
}
