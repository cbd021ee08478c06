//! RAM that is taken from a VM and comes back, while others use it: nobody has it before all who had it have done with it.
//!
//! Who has memory to himself uses it by plain accesses, so that Miri sees a data race where he has it too early.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use plinth::addr::{Ipa, Region};
use plinth::machine::CpuId;
use plinth::memory::elastic::fake::Room;
use plinth::memory::elastic::{Filled, Taken, UNIT};

use crate::{look, rounds};

const BASE: Ipa = Ipa::new(0x4000_0000);
/// The unit that is taken, and where it begins.
const TAKEN: usize = 1;
const AT: Ipa = Ipa::new(0x4020_0000);
const HERE: CpuId = CpuId(0);
const THERE: CpuId = CpuId(1);

/// A guest with two units of RAM, of which it keeps one, and no other memory. It takes long to make.
fn room() -> MutexGuard<'static, Room> {
    static ROOM: LazyLock<Mutex<Room>> =
        LazyLock::new(|| Mutex::new(Room::quiet(BASE, 2 * UNIT, UNIT, 64 << 10)));
    ROOM.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fill(room: &Room) -> Filled {
    loop {
        match room.elastic().fill_step(TAKEN) {
            Filled::More => {}
            end => return end,
        }
    }
}

/// With all of its RAM.
fn there(room: &Room) {
    room.settle();
    assert_eq!(fill(room), Filled::There);
    room.memory().write(AT, u64::MAX).unwrap();
}

#[test]
fn a_unit_is_nobody_elses_before_every_cpu_has_done_with_it() {
    let room = &*room();
    let is_over = AtomicBool::new(false);
    let prepare = |_| {
        there(room);
        is_over.store(false, Ordering::Relaxed);
    };
    // Step for step it writes to it.
    let use_it = |(): &()| {
        look(|| {
            let _ = room.memory().write(AT, 1u64);
            room.pool.heed(HERE);
            is_over.load(Ordering::Relaxed).then_some(())
        });
    };
    let take = |(): &()| {
        assert_eq!(room.elastic().take(TAKEN), Taken::Taken);
        assert!(room.pool.begin_round());
        look(|| {
            room.pool.heed(THERE);
            // There is no other block than that one. Its new owner writes to it.
            (room.elastic().fill_step(TAKEN) != Filled::NoFrames).then_some(())
        });
        is_over.store(true, Ordering::Relaxed);
    };
    // Enough for one to look between what the other says and the lock that it takes next.
    for _ in 0..3 {
        rounds(prepare, use_it, take, |(), (), ()| ());
    }
}

#[test]
fn a_unit_that_comes_back_is_erased() {
    let room = &*room();
    let prepare = |_| {
        there(room);
        assert_eq!(room.elastic().take(TAKEN), Taken::Taken);
        room.settle();
        // All but its end, which is erased in the last step.
        for _ in 0..7 {
            assert_eq!(room.elastic().fill_step(TAKEN), Filled::More);
        }
    };
    let end = AT.checked_add(UNIT - 8).unwrap();
    let read = |(): &()| look(|| room.memory().read::<u64>(end).ok());
    rounds(
        prepare,
        |(): &()| fill(room),
        read,
        |(), filled, read| {
            assert_eq!((filled, read), (Filled::There, 0));
        },
    );
}

#[test]
fn a_unit_that_was_pinned_is_nobody_elses_before_it_is_done_with() {
    let room = &*room();
    let ipas = Region::new(AT, 512).unwrap();
    // A device of the machine's, which is between no steps.
    let lend = |(): &()| {
        let pinned = room.memory().segments(ipas).is_ok_and(|pieces| pieces.count() == 1);
        if pinned {
            room.memory().write(AT, 1u64).unwrap();
            room.memory().unpin(ipas);
        }
    };
    let take = |(): &()| {
        look(|| {
            let taken = room.elastic().take(TAKEN) == Taken::Taken;
            taken.then(|| {
                room.settle();
                assert_ne!(room.elastic().fill_step(TAKEN), Filled::NoFrames);
            })
        });
    };
    rounds(|_| there(room), lend, take, |(), (), ()| ());
}
