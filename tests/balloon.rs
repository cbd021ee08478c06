//! Whole-hypervisor scenarios: a guest wants memory back that others have.

use crate::common::*;
use plinth::addr::Ipa;
use plinth::cpu::Step;
use plinth::exit::{Direction, Exit, FaultSource, Gpr, MmioAccess, StageTwoFault, Width};
use plinth::hypervisor::Refusal;
use plinth::machine::fake::Op;
use plinth::memory::elastic::{Taken, UNIT};
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::vgic::GicVersion::V3;
use plinth::vm::balloon::BalloonError;
use plinth::vm::{Status, Stop};

/// The one that gives memory up, and the one that takes it.
const GIVES: VmId = VmId(0);
const TAKES: VmId = VmId(1);
const UNITS: u64 = 4;
/// The unit that the kernel is in, and those that are the guest's own affair.
const KERNEL: usize = 1;
const OTHERS: [usize; 2] = [2, 3];
/// How long who waits for memory sleeps: 5 ms.
const PATIENCE: u64 = 500;
/// Where a flat binary's first instruction is.
const FLAT: u64 = 0x4008_0000;

/// A guest of four units that has given up two, which another has; a third has nothing to do with it. What the first
/// wants next is not there.
fn starved(cpus: u8, given: [usize; 2], third: bool) -> Room {
    let gives = Guest { memory: UNITS * UNIT, balloon: Some(UNIT), ..guest("gives", 1) };
    let kernel = vec![0x1f; 300];
    let takes = Guest { memory: 2 * UNIT, autostart: false, kernel, ..guest("takes", 1) };
    let mut guests = vec![gives, takes];
    let mut memory = UNITS * UNIT + (256 << 10);
    if third {
        guests.push(guest("works", 1));
        memory += RAM + (128 << 10);
    }
    let mut room = Room::of(V3, cpus, 4, &bundle(&guests), memory, Box::new(|_, _| {}));
    room.program(0, ENTRY, &[Op::Mark(1), Op::Branch(SECOND)]);
    room.program(0, SECOND, &[Op::Work(40), Op::Branch(SECOND)]);
    if third {
        room.program(2, ENTRY, &[Op::Work(40), Op::Mark(7), Op::Branch(ENTRY)]);
    }
    until(&mut room, 100_000, |room| room.marks(0, 0) == [1]).expect("it boots");
    let free = room.hypervisor.memory().free;
    for number in given {
        assert_eq!(room.vm(0).elastic().unwrap().take(number), Taken::Taken);
    }
    let all_free = |room: &Room| room.hypervisor.memory().free > free + UNIT;
    until(&mut room, 10_000, all_free).expect("what was given up is free");
    room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, TAKES)).unwrap();
    assert!(room.hypervisor.memory().free < UNIT);
    room.world.program(vmid(&room.vm(1)), FLAT, &[Op::Wfi, Op::Branch(FLAT)]);
    room
}

/// The same, when it has found out.
fn waits_for_memory(cpus: u8, third: bool) -> Room {
    let mut room = starved(cpus, OTHERS, third);
    room.program(0, SECOND, &[touch(OTHERS[1])]);
    until(&mut room, 100_000, waits).expect("it needs memory");
    room
}

fn waits(room: &Room) -> bool {
    room.vm(0).balloon().expect("it has a balloon").waits
}

/// A store to a unit, again and again.
fn touch(unit: usize) -> Op {
    let at = 0x4000_0000 + unit as u64 * UNIT + 8;
    let source = FaultSource::Data { write: true };
    let (ipa, far) = (Some(Ipa::new(at)), Some(at));
    Op::Exit(Exit::Fault(StageTwoFault { ipa, far, source, walk: false }))
}

fn is_hole(room: &Room, unit: usize) -> bool {
    let vm = room.vm(0);
    let elastic = vm.elastic().expect("it has a balloon");
    elastic.has_hole(&elastic.ipas(unit).expect("it has so many"))
}

/// Lets the CPUs run until it is so, and counts their steps in which guests ran; `None` when it is not so after so many
/// ticks.
fn until(room: &mut Room, ticks: u64, is_so: impl Fn(&Room) -> bool) -> Option<u64> {
    let end = room.world.now().0 + ticks;
    let mut ran = 0;
    while room.world.now().0 < end {
        if is_so(room) {
            return Some(ran);
        }
        let awake = room.awake();
        if awake.is_empty() {
            let events = room.cpus.iter_mut().filter_map(|cpu| cpu.machine().next_event());
            let next = events.min().unwrap_or(Ticks(end));
            room.world.advance(next.min(Ticks(end)));
        }
        for cpu in awake {
            ran += u64::from(room.step(cpu) == Step::Ran);
        }
    }
    is_so(room).then_some(ran)
}

/// So many ticks later: in how many steps guests ran.
fn later(room: &mut Room, ticks: u64) -> u64 {
    let end = room.world.now().0 + ticks;
    until(room, ticks, |room| room.world.now().0 >= end).expect("time goes on")
}

fn destroy(room: &mut Room, vm: VmId) {
    room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, vm)).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "zeroes megabytes")]
fn who_needs_memory_of_others_sleeps_and_goes_on_when_there_is_some() {
    for cpus in [1, 2] {
        let mut room = waits_for_memory(cpus, false);
        // It looks about once in 5 ms, and that is all that happens.
        let ran = later(&mut room, 100 * PATIENCE);
        assert!((50..=400).contains(&ran), "{ran} steps");
        assert!(waits(&room) && is_hole(&room, OTHERS[1]));
        destroy(&mut room, TAKES);
        let comes = |room: &Room| !is_hole(room, OTHERS[1]);
        until(&mut room, 4 * PATIENCE, comes).expect("there is memory again");
        room.program(0, SECOND, &[Op::Mark(2), Op::Branch(LOOP)]);
        room.program(0, LOOP, &wait_loop());
        until(&mut room, PATIENCE, |room| room.marks(0, 0) == [1, 2]).expect("it goes on");
        assert!(!waits(&room));
        assert_eq!(room.vm(0).given_back(), UNIT, "only what was used has come back");
    }
}

/// Plain loads and stores are those that a device might answer. Here none does, and they are no mistakes.
#[test]
#[cfg_attr(miri, ignore = "zeroes megabytes")]
fn what_was_given_up_comes_back_for_a_plain_load_and_a_plain_store() {
    let load = Direction::Read { sign_extend: false, sixty_four: true };
    for (direction, unit) in [(load, OTHERS[0]), (Direction::Write, OTHERS[1])] {
        let mut room = starved(1, OTHERS, false);
        destroy(&mut room, TAKES);
        let at = 0x4000_0000 + unit as u64 * UNIT + 8;
        let (ipa, width) = (Ipa::new(at), Width::Double);
        let access =
            MmioAccess { ipa, far: at, width, direction, gpr: Gpr::new(3), swapped: false };
        room.program(0, SECOND, &[Op::Exit(Exit::Mmio(access))]);
        until(&mut room, 100_000, |room| !is_hole(room, unit)).expect("it is RAM again");
        later(&mut room, PATIENCE);
        assert_eq!(room.injected(0, 0), [], "and nothing was wrong");
    }
}

#[test]
#[cfg_attr(miri, ignore = "zeroes megabytes")]
fn who_sleeps_for_memory_leaves_the_cpu_to_others() {
    let mut room = waits_for_memory(1, true);
    let before = room.marks(2, 0).len();
    later(&mut room, 100 * PATIENCE);
    let rounds = room.marks(2, 0).len() - before;
    // Each takes 42 ticks.
    assert!(rounds as u64 * 42 > 95 * PATIENCE, "{rounds} rounds");
    assert!(waits(&room));
}

#[test]
#[cfg_attr(miri, ignore = "zeroes megabytes")]
fn who_sleeps_for_memory_can_be_stopped_held_and_begun_again() {
    for cpus in [1, 2] {
        let mut room = waits_for_memory(cpus, false);
        // Held, for longer than it would sleep, and not.
        room.ask(0, |hypervisor, machine| hypervisor.pause(machine, GIVES)).unwrap();
        later(&mut room, 2 * PATIENCE);
        assert!(later(&mut room, 20 * PATIENCE) < 10, "nothing happens meanwhile");
        room.ask(0, |hypervisor, machine| hypervisor.resume(machine, GIVES)).unwrap();
        assert!(later(&mut room, 20 * PATIENCE) >= 10);
        // Begun again it does without that memory.
        room.program(0, SECOND, &[Op::Mark(2), Op::Branch(LOOP)]);
        room.program(0, LOOP, &wait_loop());
        room.ask(0, |hypervisor, machine| hypervisor.stop(machine, GIVES, Stop::Restart)).unwrap();
        until(&mut room, 200_000, |room| room.marks(0, 0) == [1, 1, 2]).expect("it boots again");
        assert!(!waits(&room), "and is not said to wait");
        assert_eq!(room.vm(0).given_back(), 2 * UNIT);
        room.program(0, LOOP, &[touch(OTHERS[0])]);
        let mut room = waits_for_memory(cpus, false);
        room.ask(0, |hypervisor, machine| hypervisor.stop(machine, GIVES, Stop::Forced)).unwrap();
        let stopped = |room: &Room| room.vm(0).status() == Status::Stopped(Stop::Forced);
        until(&mut room, 4 * PATIENCE, stopped).expect("it stops");
        let mut room = waits_for_memory(cpus, false);
        destroy(&mut room, GIVES);
        destroy(&mut room, TAKES);
        let whole = |room: &Room| {
            let memory = room.hypervisor.memory();
            memory.free == memory.total
        };
        until(&mut room, 4 * PATIENCE, whole).expect("all of it is back");
    }
}

#[test]
#[cfg_attr(miri, ignore = "zeroes megabytes")]
fn an_image_whose_memory_others_have_is_waited_for_asleep() {
    for cpus in [1, 2] {
        let mut room = starved(cpus, [KERNEL, OTHERS[0]], false);
        let restart = |room: &mut Room, stop| {
            room.ask(0, |hypervisor, machine| hypervisor.stop(machine, GIVES, stop)).unwrap();
        };
        restart(&mut room, Stop::Restart);
        until(&mut room, 300_000, waits).expect("its image needs memory");
        let ran = later(&mut room, 100 * PATIENCE);
        assert!((50..=400).contains(&ran), "{ran} steps");
        // It can be begun again, held and stopped also then.
        restart(&mut room, Stop::Restart);
        later(&mut room, 300_000);
        assert!(waits(&room) && room.vm(0).is_loading());
        room.ask(0, |hypervisor, machine| hypervisor.pause(machine, GIVES)).unwrap();
        later(&mut room, 4 * PATIENCE);
        room.ask(0, |hypervisor, machine| hypervisor.resume(machine, GIVES)).unwrap();
        restart(&mut room, Stop::Forced);
        let stopped = |room: &Room| room.vm(0).status() == Status::Stopped(Stop::Forced);
        until(&mut room, 4 * PATIENCE, stopped).expect("it stops");
        room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, GIVES)).unwrap();
        until(&mut room, 300_000, waits).expect("its image needs memory");
        destroy(&mut room, TAKES);
        until(&mut room, 300_000, |room| room.marks(0, 0) == [1, 1]).expect("it boots");
        assert!(!is_hole(&room, KERNEL) && !waits(&room));
    }
}

#[test]
#[cfg_attr(miri, ignore = "zeroes megabytes")]
fn a_guest_is_told_to_have_what_its_manifest_allows_and_there_is() {
    let mut room = starved(1, OTHERS, false);
    let mut set = |vm, size| room.ask(0, |hypervisor, _| hypervisor.balloon(vm, size));
    let bounds = |refused: Result<(), Refusal>| match refused {
        Err(Refusal::Balloon(BalloonError::Size { least, most })) => Some((least, most)),
        _ => None,
    };
    for size in [0, UNIT - 1, UNITS * UNIT + 1, u64::MAX] {
        assert_eq!(bounds(set(GIVES, size)), Some((2, 8)), "{size}");
    }
    assert!(matches!(set(TAKES, UNIT), Err(Refusal::Balloon(BalloonError::None))));
    assert!(matches!(set(VmId(9), UNIT), Err(Refusal::NotCreated)));
    set(GIVES, UNIT).unwrap();
    // It has two units, and somebody else has the others.
    set(GIVES, 2 * UNIT).unwrap();
    assert!(matches!(set(GIVES, 3 * UNIT), Err(Refusal::NotFree { .. })));
    assert_eq!(room.vm(0).balloon().unwrap().target, 2 * UNIT);
}
