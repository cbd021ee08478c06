//! What CPUs tell each other without a lock, and the locks themselves, under an emulator of weak memory.
//!
//! Two real threads do what two CPUs do, round after round; Miri runs them. A load may then give what was there before, as
//! the language allows it, unless an ordering or a fence forbids that; and memory that is used by two threads of which
//! neither has waited for the other is a data race. What another CPU may see late is in atomics that are `Relaxed`, or in no
//! atomics at all, so that nothing but what is tested puts it in order.
//!
//! Run by `cargo xtask test host/weak-orderings`. On the PC itself, which forgives much, they say little.
//!
//! Not seen: stores that become visible in another order to who reads them by read-modify-write, which always has the newest
//! value here; and loads that are late.

mod bells;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/disk.rs"]
mod disk;
mod lent;
mod locks;
mod machine;
mod memory;
mod rings;
mod stations;

use std::hint;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// How often each test tries. Each time the two meet in another way.
const ROUNDS: usize = 12;
/// Who has looked so often in vain waits for ever.
const LOOKS: usize = 20_000;

/// Where two threads wait for each other, and sleep.
#[derive(Default)]
struct Meeting {
    /// How often somebody has come, and whether one of them comes no more.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Meeting {
    /// Returns when both are here for the `times`th time.
    fn wait(&self, times: usize) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        let waits = |(came, is_over): &mut (usize, bool)| *came < 2 * times && !*is_over;
        let (_, is_over) = *self.changed.wait_while(state, waits).unwrap();
        assert!(!is_over, "the other thread has failed");
    }
}

/// Whoever fails lets the other one go.
struct Here<'a>(&'a Meeting);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
            self.0.changed.notify_all();
        }
    }
}

/// In each round `prepare` makes something, with which `one` and `other` do what they do at the same time, each in its own
/// thread; then `check` has it alone, and what they have returned. Either may wait for the other.
fn rounds<T: Send + Sync, A: Send, B>(
    prepare: impl FnMut(usize) -> T,
    one: impl Fn(&T) -> A + Sync,
    other: impl Fn(&T) -> B,
    check: impl FnMut(T, A, B),
) {
    run(&[When::AtOnce], prepare, one, other, check);
}

/// The same, and neither waits for the other: in some rounds it begins when that one has ended, and does not see all that
/// it has done, perhaps.
fn races<T: Send + Sync, A: Send, B>(
    prepare: impl FnMut(usize) -> T,
    one: impl Fn(&T) -> A + Sync,
    other: impl Fn(&T) -> B,
    check: impl FnMut(T, A, B),
) {
    run(&[When::AtOnce, When::OneLater, When::OtherLater], prepare, one, other, check);
}

/// When the threads begin.
#[derive(Clone, Copy, Eq, PartialEq)]
enum When {
    AtOnce,
    OneLater,
    OtherLater,
}

fn run<T: Send + Sync, A: Send, B>(
    when: &[When],
    mut prepare: impl FnMut(usize) -> T,
    one: impl Fn(&T) -> A + Sync,
    other: impl Fn(&T) -> B,
    mut check: impl FnMut(T, A, B),
) {
    let (subject, result) = (Mutex::new(None), Mutex::new(None));
    let (meeting, came) = (Meeting::default(), AtomicUsize::new(0));
    // Who has slept is late: so they wait once more.
    let at_once = |round: usize| {
        came.fetch_add(1, Ordering::AcqRel);
        while came.load(Ordering::Acquire) < 2 * (round + 1) {
            hint::spin_loop();
        }
    };
    let when = |round: usize| when[round % when.len()];
    // How many rounds each has ended.
    let (ended, other_ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let later = |round: usize, ended: &AtomicUsize| {
        while ended.load(Ordering::Relaxed) <= round {
            hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let _here = Here(&meeting);
            for round in 0..ROUNDS {
                meeting.wait(2 * round + 1);
                let subject: Arc<T> = subject.lock().unwrap().clone().unwrap();
                at_once(round);
                if when(round) == When::OneLater {
                    later(round, &other_ended);
                }
                let of_one = one(&subject);
                ended.store(round + 1, Ordering::Relaxed);
                drop(subject);
                *result.lock().unwrap() = Some(of_one);
                meeting.wait(2 * round + 2);
            }
        });
        let _here = Here(&meeting);
        for round in 0..ROUNDS {
            let prepared = Arc::new(prepare(round));
            *subject.lock().unwrap() = Some(prepared.clone());
            meeting.wait(2 * round + 1);
            at_once(round);
            if when(round) == When::OtherLater {
                later(round, &ended);
            }
            let of_other = other(&prepared);
            other_ended.store(round + 1, Ordering::Relaxed);
            meeting.wait(2 * round + 2);
            *subject.lock().unwrap() = None;
            let of_one = result.lock().unwrap().take().unwrap();
            check(Arc::into_inner(prepared).unwrap(), of_one, of_other);
        }
    });
}

/// Looks until the other thread has come so far.
fn look<T>(mut at: impl FnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS {
        if let Some(found) = at() {
            return found;
        }
        hint::spin_loop();
    }
    panic!("what was waited for has not come");
}
