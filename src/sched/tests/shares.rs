//! Shares, against the reference model.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::machine::{SPIN, cpus, measure};
use super::model::{Demand, shares, shares_over_time};
use super::sim::{SLICE, Sim};
use crate::sched::policy::CpuSet;
use crate::sched::{Admission, Reservation, Terms};
use crate::testing::pick;
use crate::time::Ticks;

#[derive(Clone, Debug)]
struct Spinner {
    weight: u16,
    vcpus: usize,
    mask: u8,
}

fn spinner() -> impl Strategy<Value = Spinner> {
    let weight = prop_oneof![Just(100u16), 20u16..1000];
    let all = (weight, 1usize..4, mask());
    all.prop_map(|(weight, vcpus, mask)| Spinner { weight, vcpus, mask })
}

/// Affinities that are equal, within each other, apart, and overlap in part.
fn mask() -> impl Strategy<Value = u8> {
    prop_oneof![
        1 => Just(0xff),
        1 => (0u8..8).prop_map(|cpu| 1 << cpu),
        2 => (0u8..7).prop_map(|cpu| 3 << cpu),
        2 => any::<u8>(),
    ]
}

/// The vCPUs of `vms`, and what they would like to have.
fn spin(sim: &mut Sim, vms: &[Spinner], cap: Option<u16>) -> Vec<Demand> {
    let mut demands = Vec::new();
    for vm in vms {
        let terms = cpus(vm.mask, sim.queues.len());
        sim.vm(vm.weight, cap, &vec![SPIN; vm.vcpus], terms);
        let weight = f64::from(vm.weight) / vm.vcpus as f64;
        let most = cap.map_or(1.0, |cap| (f64::from(cap) / 100.0 / vm.vcpus as f64).min(1.0));
        demands.extend(vec![Demand { weight, affinity: terms.affinity, most }; vm.vcpus]);
    }
    demands
}

/// How far off the shares of many machines were.
#[derive(Debug, Default)]
struct Survey {
    machines: u32,
    /// More than 2 %.
    beyond: u32,
    worst: f64,
}

impl Survey {
    /// Count a machine whose vCPUs, or VMs, ran for `slices`. Returns by what part the one furthest off is.
    fn add(&mut self, found: &[f64], wanted: &[f64], slices: u64) -> f64 {
        // Some slices are the difference that may stand at any moment, however long it runs.
        let standing = 10.0 / slices as f64;
        let error = |(found, share): (&f64, &f64)| ((found - share).abs() - standing) / share;
        let error = found.iter().zip(wanted).map(error).fold(0.0, f64::max);
        self.machines += 1;
        self.beyond += u32::from(error > 0.02);
        self.worst = self.worst.max(error);
        error
    }
}

/// Spinning vCPUs get what weighted max-min fairness gives them, whatever their weights and affinities, and
/// seldom change CPUs for it: within 2 %, but for one machine in four thousand, where several that are in others'
/// way have to change CPUs all the time.
#[test]
fn shares_are_those_of_the_model() {
    let cases = crate::testing::cases(16, 1).cases;
    let machines = (1usize..=pick(8, 3), prop::collection::vec(spinner(), 1..pick(12, 4)));
    let (slices, warm) = pick((1500, 300), (10, 2));
    let mut runner = TestRunner::deterministic();
    let (mut survey, mut moves, mut turns) = (Survey::default(), 0, 0);
    for _ in 0..cases {
        let (count, vms) = machines.new_tree(&mut runner).unwrap().current();
        let mut sim = Sim::new(count);
        let demands = spin(&mut sim, &vms, None);
        let wanted = shares(&demands, &vec![1.0; count]);
        sim.run(warm * SLICE);
        let before = sim.migrations();
        let found = measure(&mut sim, slices * SLICE);
        let error = survey.add(&found, &wanted, slices);
        assert!(error <= 0.15, "{count} CPUs, {vms:?}: {found:.4?}, wanted {wanted:.4?}");
        assert_eq!(sim.longest_idle, 0, "{count} CPUs, {vms:?}");
        moves += sim.migrations() - before;
        turns += slices * count as u64;
    }
    let moves = moves as f64 / turns as f64;
    println!("{survey:?}, {moves:.3} moves a slice");
    assert!(survey.beyond <= cases / 4000, "{survey:?}");
    assert!(cfg!(miri) || moves < 0.1, "{moves} for each slice of a CPU");
}

/// Beside reservations, fair vCPUs get what is left: within 2 % of what could be had at best, in 9 machines out
/// of 10. To have it all, one would have to change CPUs at each moment that a reservation begins or ends.
#[test]
fn shares_beside_reservations_are_mostly_those_of_the_model() {
    let cases = crate::testing::cases(16, 1).cases;
    let weight = prop_oneof![Just(100u16), 20u16..1000];
    let vm = (weight, 1usize..3, any::<u8>());
    let vm = vm.prop_map(|(weight, vcpus, mask)| Spinner { weight, vcpus, mask });
    let asked = prop::collection::vec((1u64..60, 60u64..2000), 0..5);
    let machines = (1usize..=pick(4, 2), prop::collection::vec(vm, 1..pick(5, 3)), asked);
    let (slices, warm) = pick((1500, 300), (10, 2));
    let mut runner = TestRunner::deterministic();
    let mut survey = Survey::default();
    for _ in 0..cases {
        let (count, vms, asked) = machines.new_tree(&mut runner).unwrap().current();
        let mut sim = Sim::new(count);
        let demands = spin(&mut sim, &vms, None);
        reserve(&mut sim, &asked);
        sim.run(warm * SLICE);
        sim.left.clear();
        let found = measure(&mut sim, slices * SLICE);
        let total: u64 = sim.left.values().sum();
        let left = sim.left.iter().map(|(cpus, span)| (*cpus, *span as f64 / total as f64));
        let wanted = shares_over_time(&demands, count, &left.collect::<Vec<_>>());
        survey.add(&found, &wanted, slices);
    }
    println!("{survey:?}");
    assert!(cfg!(miri) || survey.beyond <= 1 + cases / 10, "{survey:?}");
}

/// A VM that a cap holds back, and those that it competes with, get their shares within 2 % in 8 machines out
/// of 10: the cap ends its turns at moments that nobody chooses, and all its vCPUs may run in the same one.
#[test]
fn shares_beside_caps_are_mostly_those_of_the_model() {
    let cases = crate::testing::cases(16, 1).cases;
    let vm = (spinner(), prop::option::of(20u16..200));
    let machines = (1usize..=pick(8, 3), prop::collection::vec(vm, 1..pick(10, 4)));
    let (slices, warm) = pick((1500, 300), (10, 2));
    let mut runner = TestRunner::deterministic();
    let mut survey = Survey::default();
    for _ in 0..cases {
        let (count, vms) = machines.new_tree(&mut runner).unwrap().current();
        let mut sim = Sim::new(count);
        let demands: Vec<Demand> = vms
            .iter()
            .flat_map(|(vm, cap)| spin(&mut sim, core::slice::from_ref(vm), *cap))
            .collect();
        let wanted = of_vms(&sim, &shares(&demands, &vec![1.0; count]));
        sim.run(warm * SLICE);
        let found = measure(&mut sim, slices * SLICE);
        survey.add(&of_vms(&sim, &found), &wanted, slices);
    }
    println!("{survey:?}");
    assert!(cfg!(miri) || survey.beyond <= 1 + cases / 5, "{survey:?}");
}

/// What the vCPUs of each VM have together.
fn of_vms(sim: &Sim, shares: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; sim.accounts.len()];
    for (task, share) in sim.tasks.iter().zip(shares) {
        sums[task.entity.vm.index()] += share;
    }
    sums
}

/// VMs with as many of the reservations `asked` for (hundredths, period) as there is room for. Returns what is
/// left of each CPU.
fn reserve(sim: &mut Sim, asked: &[(u64, u64)]) -> Vec<f64> {
    let mut admission = Admission::new(sim.queues.len());
    let mut left = vec![1.0; sim.queues.len()];
    for (hundredths, period) in asked {
        let budget = Ticks((period * hundredths / 100).max(1));
        let reservation = Reservation { budget, period: Ticks(*period) };
        let Ok(cpu) = admission.admit(reservation, CpuSet::ALL) else { continue };
        let affinity = CpuSet::EMPTY.with(cpu);
        sim.vm(100, None, &[SPIN], Terms { affinity, reservation: Some(reservation) });
        left[cpu.index()] -= budget.0 as f64 / *period as f64;
    }
    left
}

/// Fails unless the VMs' shares are right 300 slices after their affinities have changed to these, but for 100 slices.
fn assert_right_after_a_change(count: usize, vms: Vec<(Spinner, u8)>) -> Result<(), TestCaseError> {
    let mut sim = Sim::new(count);
    let (before, masks): (Vec<_>, Vec<_>) = vms.into_iter().unzip();
    let mut demands = spin(&mut sim, &before, None);
    sim.run(pick(400, 2) * SLICE);
    for (task, demand) in demands.iter_mut().enumerate() {
        let terms = cpus(masks[sim.tasks[task].entity.vm.index()], count);
        sim.set_terms(task, terms);
        demand.affinity = terms.affinity;
    }
    let wanted = shares(&demands, &vec![1.0; count]);
    sim.run(pick(300, 4) * SLICE);
    let slices = pick(1500, 6);
    let found = measure(&mut sim, slices * SLICE);
    for (found, share) in found.iter().zip(&wanted) {
        let allowed = 0.02 * share + pick(100.0, 3.0) / slices as f64;
        prop_assert!((found - share).abs() <= allowed, "{found:.4?}, wanted {wanted:.4?}");
    }
    Ok(())
}

const fn vm(weight: u16, vcpus: usize, mask: u8, then: u8) -> (Spinner, u8) {
    (Spinner { weight, vcpus, mask }, then)
}

/// CPUs that had nothing to do with each other, and have now.
#[test]
fn shares_are_right_again_where_vcpus_of_one_vm_come_to_share_what_was_apart() {
    let vms = vec![vm(100, 2, 209, 255), vm(361, 3, 255, 96), vm(240, 1, 3, 255)];
    assert_right_after_a_change(7, vms).unwrap();
}

/// Three heavy ones, on three CPUs of which each may use two, and light ones between them on two.
#[test]
fn one_that_waited_behind_lighter_ones_keeps_its_due_where_they_are_not() {
    let vms = vec![
        vm(697, 2, 3, 24),
        vm(100, 2, 255, 64),
        vm(182, 3, 255, 89),
        vm(384, 1, 4, 12),
        vm(100, 2, 159, 255),
        vm(100, 2, 24, 221),
        vm(100, 3, 216, 12),
    ];
    assert_right_after_a_change(5, vms).unwrap();
}

/// Four heavy ones that need four of six CPUs at every moment, and light ones in three places that come for two of them
/// at the same moment: each has to send its heavy one to another CPU.
#[test]
fn two_that_make_room_at_once_do_not_go_to_the_same_cpu() {
    let vms = vec![
        vm(524, 3, 164, 255),
        vm(150, 1, 3, 255),
        vm(100, 1, 255, 32),
        vm(100, 3, 24, 24),
        vm(100, 1, 63, 6),
    ];
    assert_right_after_a_change(6, vms).unwrap();
}

proptest! {
    #![proptest_config(crate::testing::cases(10, 1))]

    /// The same some time after affinities changed.
    #[test]
    fn shares_are_right_again_after_a_change(
        count in 1usize..=pick(8, 3),
        vms in prop::collection::vec((spinner(), mask()), 1..pick(8, 4)),
    ) {
        assert_right_after_a_change(count, vms)?;
    }

    /// Where caps hold VMs back, or reservations take the CPU from them, at times that nobody chooses,
    /// shares are not those of the model. But nobody gets less than half of what it would have if
    /// all shared the most reserved CPU, and a cap holds.
    #[test]
    fn caps_and_reservations_starve_nobody(
        count in 1usize..=pick(8, 3),
        free in prop::collection::vec(spinner(), 1..pick(6, 3)),
        capped in prop::collection::vec(spinner(), 0..pick(4, 2)),
        cap in 20u16..200,
        asked in prop::collection::vec((1u64..60, 60u64..2000), 0..4),
    ) {
        let mut sim = Sim::new(count);
        let mut demands = spin(&mut sim, &free, None);
        demands.extend(spin(&mut sim, &capped, Some(cap)));
        let left = reserve(&mut sim, &asked);
        let wanted = shares(&demands, &left);
        sim.run(pick(300, 4) * SLICE);
        let slices = pick(800, 12);
        let found = measure(&mut sim, slices * SLICE);
        let found = of_vms(&sim, &found);
        let wanted = of_vms(&sim, &wanted);
        let weight: f64 = demands.iter().map(|demand| demand.weight).sum();
        let least = left.iter().copied().fold(1.0, f64::min);
        for (vm, spinner) in free.iter().chain(&capped).enumerate() {
            let (found, wanted) = (found[vm], wanted[vm]);
            let floor = wanted.min(f64::from(spinner.weight) / weight * least);
            let standing = 10.0 / slices as f64;
            prop_assert!(found >= 0.5 * floor - standing, "VM {vm}: {found}, not {floor}");
            let is_free = vm < free.len();
            prop_assert!(is_free || found <= 1.02 * f64::from(cap) / 100.0 + standing);
        }
    }
}
