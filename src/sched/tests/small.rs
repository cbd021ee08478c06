//! A few slices of a machine, short enough for Miri.

use super::machine::{assert_close, measure, only};
use super::sim::{Life, SLICE, Sim};

const SPIN: Life = Life::Spins;

#[test]
fn running_vcpus_move_on_so_that_one_who_has_no_choice_gets_a_cpu() {
    let mut sim = Sim::new(4);
    for cpus in [[0], [0], [1], [2]] {
        sim.vm(100, None, &[SPIN], only(&cpus));
    }
    sim.run(2 * SLICE);
    // CPU 3 is idle, but only the last may go there.
    for (task, cpus) in [(3, &[2, 3]), (2, &[1, 2]), (1, &[0, 1])] {
        sim.set_terms(task, only(cpus));
    }
    sim.run(4 * SLICE);
    let before = sim.migrations();
    assert_close(&measure(&mut sim, 5 * SLICE), &[1.0; 4]);
    assert_eq!(sim.migrations(), before);
}

#[test]
fn a_sleeper_and_two_that_spin_share_two_cpus() {
    let mut sim = Sim::new(2);
    let life = Life::Waits { run: 50, wait: 200, by_event: true };
    let sleeper = sim.vm(100, None, &[life], only(&[0]));
    sim.vm(100, None, &[SPIN, SPIN], only(&[0, 1]));
    let found = measure(&mut sim, 10 * SLICE);
    assert!(found[sleeper] > 0.15, "{found:?}");
    assert!(found.iter().sum::<f64>() > 1.99 && sim.longest_idle == 0, "{found:?}");
}
