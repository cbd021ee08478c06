//! RAM that is taken and comes back, against a set of what is missing.

use super::fake::Room;
use super::*;
use crate::addr::PAGE_SIZE;
use crate::memory::Ram;
use crate::testing::pick;
use proptest::prelude::*;
use std::collections::BTreeSet;

const BASE: Ipa = Ipa::new(0x4000_0000);
/// Six units and a bit.
const SIZE: u64 = 6 * UNIT + 0x5000;
const KEEP: u64 = 2 * UNIT;

fn room(beside: u64) -> Room {
    // Tables are 4 KiB each.
    Room::quiet(BASE, SIZE, KEEP, UNIT + beside)
}

fn fill(room: &Room, unit: usize) -> Filled {
    for _ in 0..=UNIT / STEP {
        match room.elastic().fill_step(unit) {
            Filled::More => {}
            end => return end,
        }
    }
    panic!("it takes more steps than there are")
}

/// Stage 2 and the accesses agree, and every frame has one owner.
fn check(room: &Room, holes: &BTreeSet<usize>) {
    let mut frames = BTreeSet::new();
    for unit in 0..7 {
        let ipa = BASE.checked_add(unit as u64 * UNIT + 0x1238).unwrap();
        let mapped = room.translate(ipa);
        let read = room.memory().read::<u64>(ipa);
        assert_eq!(read.is_ok(), !holes.contains(&unit), "unit {unit}");
        assert_eq!(mapped.is_some(), read.is_ok());
        if let Some(at) = mapped {
            assert_eq!(Some(phys::read::<u64>(at)), read.ok());
            assert!(frames.insert(at.raw() / UNIT));
        }
    }
    assert_eq!(room.elastic().given_back(), holes.len() as u64 * UNIT);
}

#[test]
fn a_unit_that_was_taken_is_free_once_all_cpus_have_passed_and_comes_back_with_zeroes() {
    let room = room(0);
    let ipa = BASE.checked_add(3 * UNIT + 8).unwrap();
    room.memory().write(ipa, 0x5a5a_u64).unwrap();
    let before = room.free();
    assert_eq!(room.elastic().take(3), Taken::Taken);
    assert_eq!(room.elastic().take(3), Taken::Kept, "there is nothing any more");
    check(&room, &BTreeSet::from([3]));
    assert!(room.free() <= before, "some CPU may have looked it up");
    room.settle();
    // A table may have been needed to split a block.
    assert!(room.free() >= before + UNIT - PAGE_SIZE);
    assert_eq!(fill(&room, 3), Filled::There);
    assert_eq!(room.memory().read::<u64>(ipa), Ok(0));
    check(&room, &BTreeSet::new());
    room.end();
}

#[test]
fn what_the_vm_keeps_what_is_no_unit_and_what_is_pinned_stay() {
    let room = room(0);
    let across = Region::new(BASE.checked_add(2 * UNIT - 8).unwrap(), 16).unwrap();
    let first = room.memory().segments(across).unwrap().next().unwrap();
    assert_eq!(first.size(), 8);
    assert_eq!(room.elastic().take(1), Taken::Kept);
    assert_eq!(room.elastic().take(2), Taken::Kept);
    assert_eq!(room.elastic().take(6), Taken::Kept, "not a whole unit");
    assert_eq!(room.elastic().take(7), Taken::Kept, "no RAM");
    assert_eq!(room.elastic().take(usize::MAX), Taken::Kept);
    room.memory().unpin(across);
    room.memory().unpin(across);
    for unit in [2, 0, 1, 5] {
        assert_eq!(room.elastic().take(unit), Taken::Taken, "unit {unit}");
    }
    assert_eq!(room.elastic().take(3), Taken::Kept, "it keeps two units");
    assert!(room.memory().segments(across).is_err(), "a hole cannot be pinned");
    check(&room, &BTreeSet::from([0, 1, 2, 5]));
    room.end();
}

#[test]
fn a_hole_stays_one_while_others_have_the_memory() {
    let room = room(0);
    assert_eq!(room.elastic().take(4), Taken::Taken);
    room.settle();
    let mut others = Vec::new();
    while let Some(block) = room.pool.lend(ORDER) {
        others.push(block);
    }
    assert_eq!(fill(&room, 4), Filled::NoFrames);
    assert!(room.elastic().is_starved() && room.elastic().begins_to_wait());
    assert!(!room.elastic().begins_to_wait(), "it is told once");
    check(&room, &BTreeSet::from([4]));
    room.pool.take_back(others.pop().unwrap());
    assert_eq!(fill(&room, 4), Filled::There);
    assert!(!room.elastic().is_starved());
    others.into_iter().for_each(|block| room.pool.take_back(block));
    room.end();
}

#[test]
fn what_somebody_else_would_write_to_is_filled_by_the_vms_own() {
    let room = room(0);
    assert_eq!(room.elastic().take(0), Taken::Taken);
    let ipas = Region::new(BASE.checked_add(100).unwrap(), 1500).unwrap();
    assert!(room.elastic().want(&ipas) && room.elastic().is_wanted());
    room.settle();
    let steps = (0..100).take_while(|_| room.elastic().is_wanted());
    assert_eq!(steps.map(|_| room.elastic().fill_wanted()).count() as u64, UNIT / STEP);
    assert!(!room.elastic().want(&ipas));
    check(&room, &BTreeSet::new());
    room.end();
}

#[test]
fn nothing_is_taken_while_the_limbo_is_full() {
    let room = room(0);
    assert_eq!(room.crowd(), 64);
    assert_eq!(room.elastic().take(2), Taken::Later);
    check(&room, &BTreeSet::new());
    room.settle();
    assert_eq!(room.elastic().take(2), Taken::Taken);
    room.end();
}

#[test]
fn ram_of_many_small_pieces_stays_and_is_reached_across_them() {
    // Every other page is somebody else's (every 32nd under Miri), but for a unit at the end.
    let stride = pick(2, 32);
    let ram = Ram::from_heap(6 * UNIT, UNIT).unwrap();
    let start = ram.region().start().raw();
    let page = |at: u64| Region::new(PhysAddr::new(start + at), PAGE_SIZE).unwrap();
    let others: Vec<_> = (0..5 * UNIT).step_by(stride * 4096).map(page).collect();
    let mut frames = FramePool::new();
    frames.add(ram, &others);
    // What is given first is in one piece, the rest where there is some.
    let room = Room::new(BASE, 2 * UNIT + UNIT / 2, 0, frames, 1, Box::new(|| ()));
    let at = |offset: u64| BASE.checked_add(offset).unwrap();
    let there: Vec<u8> = (0..=255).collect::<Vec<u8>>().repeat(700 << 2);
    room.memory().write_from(at(UNIT + UNIT - (300 << 10)), &there).unwrap();
    let taken = (0..3).filter(|unit| room.elastic().take(*unit) == Taken::Taken).count();
    assert_eq!(taken, 1, "the unit in one piece");
    let mut read = vec![0; 100 << 10];
    room.memory().read_into(at(2 * UNIT), &mut read).unwrap();
    assert_eq!(read, there[300 << 10..400 << 10]);
    assert!(room.memory().read_into(at(0), &mut read).is_err(), "a hole");
    let all = Region::new(at(2 * UNIT), UNIT / 2).unwrap();
    assert!(room.memory().pieces(all).unwrap().count() > pick(100, 10));
    room.end();
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Take(usize),
    Fill(usize),
    Step(usize),
    Settle,
    Write(u64, u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..8usize).prop_map(Act::Take),
        2 => (0..8usize).prop_map(Act::Fill),
        2 => (0..8usize).prop_map(Act::Step),
        1 => Just(Act::Settle),
        2 => (0..SIZE, any::<u8>()).prop_map(|(at, byte)| Act::Write(at, byte)),
    ]
}

proptest! {
    #![proptest_config(crate::testing::cases(24, 1))]
    #[test]
    fn no_frame_is_lost_or_had_twice_and_what_stays_is_as_it_was(
        acts in prop::collection::vec(act(), 1..pick(30, 8)),
    ) {
        let room = room(2 * UNIT);
        let mut holes = BTreeSet::new();
        let mut written = std::collections::BTreeMap::new();
        for act in acts {
            match act {
                Act::Take(unit) => {
                    let may = unit < 6 && !holes.contains(&unit) && holes.len() < 4;
                    let taken = room.elastic().take(unit);
                    prop_assert_eq!(taken == Taken::Taken, may);
                    if may {
                        holes.insert(unit);
                        let first = unit as u64 * UNIT;
                        written.retain(|at, _| !(first..first + UNIT).contains(at));
                    }
                }
                Act::Fill(unit) => {
                    if fill(&room, unit) == Filled::There {
                        holes.remove(&unit);
                    }
                }
                Act::Step(unit) => {
                    if room.elastic().fill_step(unit) == Filled::There {
                        holes.remove(&unit);
                    }
                }
                Act::Settle => room.settle(),
                Act::Write(at, byte) => {
                    let ipa = BASE.checked_add(at).unwrap();
                    let there = !holes.contains(&usize::try_from(at / UNIT).unwrap());
                    prop_assert_eq!(room.memory().write(ipa, byte).is_ok(), there);
                    if there {
                        written.insert(at, byte);
                    }
                }
            }
            check(&room, &holes);
        }
        for (at, byte) in written {
            prop_assert_eq!(room.memory().read(BASE.checked_add(at).unwrap()), Ok(byte));
        }
        room.end();
    }
}
