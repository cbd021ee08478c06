//! The locks: who has one sees all that was done with it before.

use std::hint;
use std::sync::atomic::{AtomicBool, Ordering};

use plinth::sync::{Once, SpinMutex, TicketMutex, Word};

use crate::{look, races, rounds};

/// How often each locks in a round.
const TIMES: u64 = 3;

#[test]
fn who_has_a_spin_lock_sees_what_was_done_under_it() {
    let add = |counter: &SpinMutex<u64>| {
        for _ in 0..TIMES {
            *counter.lock() += 1;
        }
    };
    rounds(
        |_| SpinMutex::new(0),
        add,
        add,
        |counter, (), ()| {
            assert_eq!(counter.into_inner(), 2 * TIMES);
        },
    );
}

#[test]
fn who_has_a_ticket_lock_sees_what_was_done_under_it() {
    let add = |counter: &TicketMutex<u64>| {
        for _ in 0..TIMES {
            *counter.lock() += 1;
        }
    };
    rounds(
        |_| TicketMutex::new(0),
        add,
        add,
        |counter, (), ()| {
            assert_eq!(counter.into_inner(), 2 * TIMES);
        },
    );
}

#[test]
fn who_gets_a_lock_by_trying_sees_what_was_done_under_it() {
    let add = |(spin, ticket): &(SpinMutex<u64>, TicketMutex<u64>)| {
        for _ in 0..TIMES {
            while spin.try_lock().map(|mut counter| *counter += 1).is_none() {
                hint::spin_loop();
            }
            while ticket.try_lock().map(|mut counter| *counter += 1).is_none() {
                hint::spin_loop();
            }
        }
    };
    rounds(
        |_| (SpinMutex::new(0), TicketMutex::new(0)),
        add,
        add,
        |(spin, ticket), (), ()| {
            assert_eq!((spin.into_inner(), ticket.into_inner()), (2 * TIMES, 2 * TIMES));
        },
    );
}

#[test]
fn what_is_set_once_is_all_there() {
    let set = |once: &Once<Box<u64>>| **once.call_once(|| Box::new(7));
    let get = |once: &Once<Box<u64>>| look(|| once.get().map(|value| **value));
    rounds(|_| Once::new(), set, get, |_, set, got| assert_eq!((set, got), (7, 7)));
}

/// What is wanted, the lock of who does it, and the word left for him.
#[derive(Default)]
struct Chore {
    wanted: AtomicBool,
    lock: TicketMutex<u32>,
    word: Word,
}

impl Chore {
    /// As the hypervisor takes VMs apart.
    fn look(&self) {
        loop {
            let lock = self.lock.try_lock().or_else(|| self.word.leave(&self.lock));
            let Some(mut done) = lock else { return };
            if self.wanted.load(Ordering::Relaxed) {
                *done = 1;
            }
            drop(done);
            if !self.word.was_left() {
                return;
            }
        }
    }
}

#[test]
fn who_leaves_word_is_heard_by_who_has_the_lock_or_gets_it() {
    let want = |chore: &Chore| {
        chore.wanted.store(true, Ordering::Relaxed);
        chore.look();
    };
    // Enough for one to come to the lock while the other leaves it.
    for _ in 0..4 {
        races(
            |_| Chore::default(),
            want,
            Chore::look,
            |chore, (), ()| {
                assert_eq!(chore.lock.into_inner(), 1, "nobody has looked again");
            },
        );
    }
}
