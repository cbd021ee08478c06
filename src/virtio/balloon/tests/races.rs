//! vCPUs that give up and use memory at the same time.

use std::time::Duration;

use super::*;
use crate::sync::atomic::AtomicUsize;
use crate::testing::pick;

/// How often something is given up.
const ROUNDS: usize = pick(400, 12);
/// Between two of a thread's turns, so that the others get theirs.
const A_MOMENT: Duration = Duration::from_micros(50);

#[test]
fn vcpus_that_give_up_and_use_the_same_units_at_once_find_zeroes_or_what_they_wrote() {
    let guest = Guest::new(false);
    let (elastic, memory) = (guest.elastic(), guest.room.memory());
    let rounds = &AtomicUsize::new(0);
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // One reports what it likes, as its device does.
        let reporter = scope.spawn(|| {
            for round in 0..ROUNDS {
                let taken = elastic.take(1 + round % 4);
                assert_ne!(taken, Taken::Later, "others take what was given up in");
                rounds.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(A_MOMENT);
            }
        });
        // Two vCPUs have a unit each that nobody else writes to; they fill what they find gone.
        let users: Vec<_> = [1u64, 2]
            .map(|unit| {
                scope.spawn(move || {
                    let (mut expected, mut lost) = (None, 0);
                    // Until all was given up, and then once more: what is gone by then is found.
                    for round in 1u64.. {
                        let is_last = rounds.load(Ordering::Relaxed) == ROUNDS;
                        let ipa = Ipa::new(at(unit) + round % 64 * 8);
                        while memory.write(ipa, round | unit << 32).is_err() {
                            let index = usize::try_from(unit).unwrap();
                            while elastic.fill_step(index) == Filled::More {}
                            (expected, lost) = (None, lost + 1);
                        }
                        if let Some((before, value)) = expected {
                            let read = memory.read::<u64>(before);
                            assert!(matches!(read, Err(_) | Ok(0)) || read == Ok(value));
                        }
                        expected = Some((ipa, round | unit << 32));
                        if is_last {
                            break;
                        }
                    }
                    lost
                })
            })
            .into_iter()
            .collect();
        // And CPUs pass from step to step.
        let settler = scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                guest.room.settle();
                std::thread::sleep(A_MOMENT);
            }
        });
        let reported = reporter.join();
        if reported.is_err() {
            rounds.store(ROUNDS, Ordering::Relaxed);
        }
        let lost: Vec<_> = users.into_iter().map(|user| user.join()).collect();
        // Before anything is asserted: who waits for it would wait for ever.
        end.store(true, Ordering::Relaxed);
        settler.join().unwrap();
        reported.unwrap();
        let lost: u64 = lost.into_iter().map(Result::unwrap).sum();
        assert!(lost > 0, "nothing was taken from anybody");
    });
    assert_eq!(rounds.load(Ordering::Relaxed), ROUNDS);
    guest.holes();
    guest.end();
}
