//! Whole-hypervisor scenarios: a CPU that hangs is found by another one, and only such a CPU.

use std::cell::RefCell;
use std::mem::take;

use crate::common::*;
use plinth::hypervisor::watchdog::{Hang, LOOKS};
use plinth::machine::fake::Op;
use plinth::time::Ticks;

const INTERVAL: Ticks = Ticks(3000);

thread_local! {
    static FOUND: RefCell<Vec<Hang>> = const { RefCell::new(Vec::new()) };
}

fn found() -> Vec<Hang> {
    FOUND.with_borrow_mut(take)
}

/// Guests on CPUs that watch each other.
fn watched(cpus: u8, program: &[Op]) -> Room {
    let guests: Vec<_> = (0..cpus).map(|n| guest(&format!("guest{n}"), 1)).collect();
    let mut room = Room::new(plinth::vgic::GicVersion::V3, cpus, &guests);
    for vm in 0..cpus {
        room.program(vm, ENTRY, program);
    }
    let watch = |cpu: plinth::cpu::Cpu<'static, _>| {
        cpu.with_watchdog(INTERVAL, LOOKS, |_, hang| {
            FOUND.with_borrow_mut(|found| found.push(hang))
        })
    };
    room.cpus = take(&mut room.cpus).into_iter().map(watch).collect();
    found();
    room
}

/// Steps all CPUs but `not`, until so much time has passed.
fn pass(room: &mut Room, time: Ticks, not: Option<usize>) {
    let end = room.world.now().saturating_add(time);
    while room.world.now() < end {
        let awake: Vec<_> = room.awake().into_iter().filter(|&cpu| Some(cpu) != not).collect();
        if awake.is_empty() {
            let next = room.cpus.iter_mut().filter_map(|cpu| cpu.machine().next_event()).min();
            room.world.advance(next.unwrap_or(end).min(end));
        }
        for cpu in awake {
            room.step(cpu);
        }
    }
}

fn times(times: u64) -> Ticks {
    Ticks(INTERVAL.0 * times)
}

#[test]
fn nobody_is_said_to_hang_who_works_or_sleeps() {
    let never_leaves = [Op::Work(1 << 40)];
    let leaves = [Op::Work(100), psci(0x8400_0000), Op::Branch(ENTRY)];
    let waits = [Op::Wfi, Op::Branch(ENTRY)];
    for program in [&never_leaves[..], &leaves, &waits] {
        for cpus in [1, 2, 3] {
            let mut room = watched(cpus, program);
            pass(&mut room, times(40), None);
            assert_eq!(found(), []);
        }
    }
}

#[test]
fn a_cpu_that_stands_is_found_by_the_one_before_it_and_not_too_early() {
    for (hangs, by) in [(0, 2), (1, 0), (2, 1)] {
        let mut room = watched(3, &[Op::Work(100), psci(0x8400_0000), Op::Branch(ENTRY)]);
        pass(&mut room, times(10), None);
        pass(&mut room, times(u64::from(LOOKS) - 1), Some(hangs));
        assert_eq!(found(), [], "CPU {hangs}");
        pass(&mut room, times(3), Some(hangs));
        let found = found();
        assert!(!found.is_empty(), "CPU {hangs}");
        for hang in found {
            let cpus = (usize::from(hang.cpu.0), usize::from(hang.by.0));
            assert_eq!((cpus, hang.ticks), ((hangs, by), times(LOOKS.into())));
            assert!(hang.running.is_some());
        }
    }
}

#[test]
fn time_that_passes_for_nobody_is_no_hang() {
    let mut room = watched(2, &[Op::Work(100), psci(0x8400_0000), Op::Branch(ENTRY)]);
    for _ in 0..20 {
        // The machine stood still, and its counter went on.
        let later = room.world.now().saturating_add(times(1000));
        room.world.advance(later);
        pass(&mut room, times(2), None);
        assert_eq!(found(), []);
    }
}

#[test]
fn one_cpu_watches_nobody() {
    let mut room = watched(1, &[Op::Work(1 << 40)]);
    pass(&mut room, times(10), None);
    assert_eq!((found(), room.kicks()), (vec![], vec![]));
    assert_eq!(room.cpus[0].machine().next_event(), None, "and nothing is due");
}
