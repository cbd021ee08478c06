//! One queue: states, events, and the choice.

use std::sync::Arc;

use proptest::prelude::*;

use crate::machine::CpuId;
use crate::sched::policy::CpuSet;
use crate::sched::record::{Record, State};
use crate::sched::{
    Account, Balance, Entity, Reservation, Retired, RunQueue, Terms, Timing, VmId, Woken,
};
use crate::testing::pick;
use crate::time::Ticks;
use crate::vcpu::VcpuId;

const fn entity(vm: u16) -> Entity {
    Entity { vm: VmId(vm), vcpu: VcpuId(0) }
}

const A: Entity = entity(0);
const B: Entity = entity(1);
const C: Entity = entity(2);

fn empty() -> RunQueue {
    RunQueue::new(CpuId(0), Arc::new(Balance::new(1, Timing::of_slice(Ticks(10)))))
}

fn add(queue: &mut RunQueue, entity: Entity, cap: Option<u16>, terms: Terms) {
    queue.add(entity, Arc::new(Account::new(100, cap, Ticks(40))), terms);
}

fn queue(entities: &[Entity]) -> RunQueue {
    let mut queue = empty();
    for entity in entities {
        add(&mut queue, *entity, None, Terms::default());
        assert!(queue.start(*entity, Ticks(0)));
    }
    queue
}

fn reserved(budget: u64, period: u64) -> Terms {
    let reservation = Reservation { budget: Ticks(budget), period: Ticks(period) };
    Terms { affinity: CpuSet::ALL, reservation: Some(reservation) }
}

#[test]
fn a_lone_entity_runs_on_without_a_slice() {
    let mut queue = queue(&[A]);
    assert_eq!(queue.pick(Ticks(0)), Some(A));
    assert_eq!(queue.next_event(), None);
    assert_eq!(queue.pick(Ticks(1_000_000)), Some(A));
    assert_eq!(queue.next_event(), None);
}

#[test]
fn two_take_turns_at_the_end_of_each_slice() {
    let mut queue = queue(&[A, B]);
    assert_eq!(queue.pick(Ticks(0)), Some(A));
    assert_eq!(queue.pick(Ticks(9)), Some(A));
    assert_eq!(queue.next_event(), Some(Ticks(10)));
    assert_eq!(queue.pick(Ticks(10)), Some(B));
    assert_eq!(queue.pick(Ticks(20)), Some(A));
}

#[test]
fn a_wake_up_between_the_last_look_and_blocking_is_not_lost() {
    let mut queue = queue(&[A]);
    queue.pick(Ticks(0));
    queue.attend(A);
    assert_eq!(queue.wake(A, Ticks(0)), Woken::Running);
    assert!(!queue.block(A, Ticks(0)));
    queue.attend(A);
    assert!(queue.block(A, Ticks(0)));
    assert_eq!(queue.pick(Ticks(1)), None);
    assert_eq!(queue.wake(A, Ticks(1)), Woken::Queued);
    assert_eq!(queue.wake(A, Ticks(1)), Woken::Nothing);
    assert_eq!(queue.pick(Ticks(2)), Some(A));
    assert_eq!(queue.wake(B, Ticks(2)), Woken::Elsewhere);
}

#[test]
fn a_deadline_wakes_who_is_blocked() {
    let mut queue = queue(&[A]);
    queue.pick(Ticks(0));
    queue.attend(A);
    assert!(queue.block(A, Ticks(0)));
    queue.set_deadline(A, Some(Ticks(50)));
    assert_eq!(queue.next_event(), Some(Ticks(50)));
    assert_eq!(queue.expire(Ticks(49)), None);
    assert_eq!(queue.expire(Ticks(50)), Some(A));
    assert_eq!(queue.expire(Ticks(50)), None);
    assert_eq!(queue.pick(Ticks(50)), Some(A));
}

#[test]
fn a_late_start_waits_for_its_time() {
    let mut queue = empty();
    add(&mut queue, A, None, Terms::default());
    assert!(queue.start_at(A, Some(Ticks(100)), Ticks(0)));
    assert!(!queue.start(A, Ticks(0)), "it is on already");
    assert_eq!(queue.pick(Ticks(99)), None);
    assert_eq!(queue.next_event(), Some(Ticks(100)));
    assert_eq!(queue.expire(Ticks(100)), Some(A));
    assert_eq!(queue.pick(Ticks(100)), Some(A));
}

#[test]
fn only_its_own_cpu_takes_a_running_entity_off() {
    let mut queue = queue(&[A, B]);
    queue.pick(Ticks(0));
    assert_eq!(queue.retire(A, Ticks(0)), Retired::Running);
    assert!(!queue.remove(A, Ticks(0)));
    assert_eq!(queue.retire(B, Ticks(0)), Retired::Off);
    queue.turn_off(A, Ticks(0));
    assert_eq!(queue.retire(A, Ticks(0)), Retired::WasOff);
    assert_eq!(queue.pick(Ticks(0)), None);
    assert!(queue.remove(A, Ticks(0)) && !queue.contains(A) && queue.len() == 1);
}

#[test]
fn who_yields_goes_behind_the_others_and_not_back_at_once() {
    let mut queue = queue(&[A, B]);
    assert_eq!(queue.pick(Ticks(0)), Some(A));
    queue.yield_now();
    assert_eq!(queue.pick(Ticks(1)), Some(B));
    assert_eq!(queue.pick(Ticks(2)), Some(B));
    assert_eq!(queue.pick(Ticks(11)), Some(A));
}

#[test]
fn who_yields_alone_goes_on() {
    let mut queue = queue(&[A]);
    queue.pick(Ticks(0));
    queue.yield_now();
    assert_eq!(queue.pick(Ticks(1)), Some(A));
}

#[test]
fn two_that_wake_each_other_do_not_starve_a_third() {
    let mut queue = queue(&[A, B, C]);
    let mut turns = 0;
    let mut running = queue.pick(Ticks(0)).unwrap();
    for now in (1..pick(1000, 40)).map(Ticks) {
        if running == C {
            turns += 1;
            running = queue.pick(now).unwrap();
            continue;
        }
        queue.wake(if running == A { B } else { A }, now);
        queue.attend(running);
        queue.block(running, now);
        running = queue.pick(now).unwrap();
    }
    assert!(turns >= pick(300, 12), "{turns}");
}

#[test]
fn who_wakes_up_takes_the_cpu_at_once_unless_it_has_had_its_share() {
    let mut queue = queue(&[A, B]);
    assert_eq!(queue.pick(Ticks(0)), Some(A));
    queue.attend(A);
    queue.block(A, Ticks(0));
    assert_eq!(queue.pick(Ticks(0)), Some(B));
    queue.pick(Ticks(100));
    queue.wake(A, Ticks(101));
    assert_eq!(queue.pick(Ticks(101)), Some(A), "it slept");
    // It goes on and on, and after its credit and a slice is no better than the other.
    assert_eq!(queue.pick(Ticks(111)), Some(B));
    queue.pick(Ticks(112));
    queue.wake(A, Ticks(112));
    assert_eq!(queue.pick(Ticks(113)), Some(B));
}

#[test]
fn sleeping_long_gives_no_more_credit_than_half_a_slice() {
    let mut queue = queue(&[A, B]);
    queue.pick(Ticks(0));
    queue.attend(A);
    queue.block(A, Ticks(0));
    let long = pick(100_000, 1000);
    for now in (0..long).step_by(10) {
        queue.pick(Ticks(now));
    }
    queue.wake(A, Ticks(long));
    let mut runs = 0;
    for now in long..long + 40 {
        runs += u32::from(queue.pick(Ticks(now)) == Some(A));
    }
    assert!((18..=26).contains(&runs), "{runs} of 40");
}

#[test]
fn a_paused_entity_does_not_run_whatever_wakes_it() {
    let mut queue = queue(&[A, B]);
    assert_eq!(queue.pick(Ticks(0)), Some(A));
    assert_eq!(queue.pause(A, Ticks(1)), Retired::Running);
    assert_eq!(queue.wake(A, Ticks(1)), Woken::Running);
    assert_eq!(queue.pick(Ticks(2)), Some(B));
    assert_eq!(queue.wake(A, Ticks(2)), Woken::Nothing);
    assert_eq!(queue.next_event(), None, "the other has no slice");
    assert_eq!(queue.pause(B, Ticks(3)), Retired::Running);
    assert_eq!(queue.pick(Ticks(4)), None);
    assert_eq!(queue.pause(B, Ticks(4)), Retired::WasOff);
    assert!(queue.resume(A, Ticks(5)) && !queue.resume(A, Ticks(5)));
    assert_eq!(queue.pick(Ticks(6)), Some(A));
}

#[test]
fn a_deadline_passes_unnoticed_in_a_pause_and_resuming_wakes() {
    let mut queue = queue(&[A]);
    queue.pick(Ticks(0));
    queue.attend(A);
    queue.block(A, Ticks(0));
    queue.set_deadline(A, Some(Ticks(50)));
    assert_eq!(queue.pause(A, Ticks(10)), Retired::Off);
    assert_eq!((queue.next_event(), queue.expire(Ticks(60))), (None, None));
    assert!(queue.resume(A, Ticks(70)));
    assert_eq!(queue.pick(Ticks(70)), Some(A));
    let usage = queue.usage(A, Ticks(75)).unwrap();
    assert_eq!((usage.ran, usage.waited), (Ticks(5), Ticks(0)));
}

#[test]
fn a_paused_entity_that_is_off_starts_when_it_is_resumed() {
    let mut queue = empty();
    add(&mut queue, A, None, Terms::default());
    assert_eq!(queue.pause(A, Ticks(0)), Retired::Off);
    assert!(queue.start(A, Ticks(1)));
    assert_eq!(queue.pick(Ticks(2)), None);
    queue.resume(A, Ticks(3));
    assert_eq!(queue.pick(Ticks(3)), Some(A));
}

#[test]
fn time_is_booked_as_used_or_waited_for() {
    let mut queue = queue(&[A, B]);
    for now in [0, 4, 10, 17, 20] {
        queue.pick(Ticks(now));
    }
    let usage = queue.usage(A, Ticks(26)).unwrap();
    assert_eq!((usage.ran, usage.waited), (Ticks(16), Ticks(10)));
    let usage = queue.usage(B, Ticks(26)).unwrap();
    assert_eq!((usage.ran, usage.waited), (Ticks(10), Ticks(16)));
    assert_eq!(queue.usage(C, Ticks(26)), None);
}

#[test]
fn a_server_runs_before_all_others_until_its_budget_is_used() {
    let mut queue = queue(&[A]);
    add(&mut queue, B, None, reserved(5, 20));
    assert_eq!(queue.pick(Ticks(0)), Some(A));
    queue.start(B, Ticks(3));
    assert_eq!(queue.pick(Ticks(3)), Some(B));
    assert_eq!(queue.next_event(), Some(Ticks(8)));
    queue.yield_now();
    assert_eq!(queue.pick(Ticks(4)), Some(B), "its budget is its own");
    assert_eq!(queue.pick(Ticks(8)), Some(A));
    assert_eq!(queue.next_event(), Some(Ticks(23)));
    assert_eq!(queue.pick(Ticks(22)), Some(A));
    assert_eq!(queue.pick(Ticks(23)), Some(B));
}

#[test]
fn the_server_with_the_earlier_deadline_goes_first() {
    let mut queue = empty();
    for (entity, terms) in [(A, reserved(10, 100)), (B, reserved(5, 20))] {
        add(&mut queue, entity, None, terms);
    }
    queue.start(A, Ticks(0));
    assert_eq!(queue.pick(Ticks(0)), Some(A));
    queue.start(B, Ticks(2));
    assert_eq!(queue.pick(Ticks(2)), Some(B));
    assert_eq!(queue.pick(Ticks(7)), Some(A));
    assert_eq!(queue.next_event(), Some(Ticks(15)));
    assert_eq!(queue.pick(Ticks(15)), None, "a reservation is hard");
    assert_eq!(queue.next_event(), Some(Ticks(22)));
}

#[test]
fn a_cap_holds_also_while_the_cpu_is_idle() {
    let mut queue = empty();
    add(&mut queue, A, Some(25), Terms::default());
    queue.start(A, Ticks(0));
    let mut now = Ticks(0);
    let long = pick(100_000, 2000);
    while now < Ticks(long) {
        queue.pick(now);
        now = queue.next_event().unwrap();
    }
    let ran = queue.usage(A, now).unwrap().ran.0;
    assert!((long / 4 - 200..long / 4 + 200).contains(&ran), "{ran} of {now:?}");
}

#[test]
fn a_policy_can_be_changed_while_it_runs() {
    let mut queue = queue(&[A, B]);
    assert_eq!(queue.pick(Ticks(0)), Some(A));
    assert!(queue.set_terms(B, reserved(5, 10), Ticks(1)));
    assert_eq!(queue.pick(Ticks(1)), Some(B));
    assert!(queue.set_terms(B, Terms::default(), Ticks(2)));
    let elsewhere = Terms { affinity: CpuSet::EMPTY.with(CpuId(1)), reservation: None };
    assert!(queue.set_terms(A, elsewhere, Ticks(3)));
    for now in 3..100 {
        assert_eq!(queue.pick(Ticks(now)), Some(B));
    }
    assert!(!queue.set_terms(C, elsewhere, Ticks(3)));
}

proptest! {
    #![proptest_config(crate::testing::cases(128, 1))]

    /// Spinning entities share the CPU to within a slice, whatever moments it is asked at.
    #[test]
    fn nobody_who_wants_the_cpu_starves(steps in prop::collection::vec(1u64..15, pick(200, 60))) {
        let all: Vec<Entity> = (0..5).map(entity).collect();
        let mut queue = queue(&all);
        let mut now = 0;
        let mut used = [0u64; 5];
        let mut running = queue.pick(Ticks(0)).unwrap();
        for step in steps {
            now += step;
            used[running.vm.index()] += step;
            running = queue.pick(Ticks(now)).unwrap();
        }
        let (least, most) = (used.iter().min().unwrap(), used.iter().max().unwrap());
        // A slice of 10, overrun by at most one step of 14.
        prop_assert!(most - least <= 48, "{used:?}");
    }

    /// At most one entity runs, only who may, and nothing is reported as due that picking does not settle.
    #[test]
    fn no_order_of_events_confuses_a_queue(
        ops in prop::collection::vec((0u8..12, 0u16..4, 0u64..30), 0..pick(300, 30)),
    ) {
        let mut queue = empty();
        let terms = [Terms::default(), Terms::default(), reserved(4, 20), reserved(1, 7)];
        for (vm, terms) in terms.into_iter().enumerate() {
            let cap = (vm == 1).then_some(30);
            add(&mut queue, entity(u16::try_from(vm).unwrap()), cap, terms);
        }
        let mut now = 0;
        for (op, vm, span) in ops {
            let entity = entity(vm);
            let at = Ticks(now);
            match op {
                0 => { queue.start(entity, at); }
                1 => { queue.wake(entity, at); }
                2 => {
                    queue.attend(entity);
                    queue.block(entity, at);
                    queue.set_deadline(entity, Some(Ticks(now + span)));
                }
                3 => { queue.retire(entity, at); }
                4 => { queue.expire(at); }
                5 => queue.yield_now(),
                6 => { queue.pause(entity, at); }
                7 => { queue.resume(entity, at); }
                8 => { queue.set_terms(entity, terms[usize::try_from(span % 4).unwrap()], at); }
                _ => now += span,
            }
            prop_assert!(queue.lists_are_true());
            let at = Ticks(now);
            let before: Vec<State> = queue.records.iter().map(|record| record.state).collect();
            let picked = queue.pick(at);
            let running: Vec<Entity> = queue.records.iter()
                .filter(|record| record.is_running()).map(|record| record.entity).collect();
            prop_assert_eq!(running, picked.into_iter().collect::<Vec<_>>());
            for (record, before) in queue.records.iter().zip(before) {
                prop_assert!(!record.is_running() || !record.paused && record.has_allowance());
                let was_up = matches!(before, State::Runnable | State::Running { .. });
                let is_up = matches!(record.state, State::Runnable | State::Running { .. });
                prop_assert_eq!(was_up, is_up);
            }
            let active: u32 = queue.records.iter().map(|record| record.account.active()).sum();
            let wanting = queue.records.iter().filter(|record| record.wants_cpu()).count();
            prop_assert_eq!(usize::try_from(active).unwrap(), wanting);
            while queue.expire(at).is_some() {}
            queue.pick(at);
            prop_assert!(queue.next_event().is_none_or(|next| next > at));
            let can = queue.records.iter().enumerate().any(|(index, _)| queue.can_run(index));
            prop_assert_eq!(can, queue.records.iter().any(Record::is_running));
        }
    }
}
