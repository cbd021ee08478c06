//! Two locks are always taken in the same order, whoever takes them: otherwise two CPUs may wait for each other for ever, in
//! another schedule than the one at hand.

extern crate std;

use core::cell::{Cell, RefCell};
use core::panic::Location;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::thread_local;
use std::vec::Vec;

/// Where a lock is made.
type Class = &'static Location<'static>;

/// A lock, as others are told of it.
#[derive(Debug)]
pub(super) struct Identity {
    class: Class,
    /// None has it twice; 0: it was never waited for.
    number: AtomicUsize,
}

/// The number of a lock, and where it is made.
pub(super) type Name = (usize, Class);

thread_local! {
    static NEXT: Cell<usize> = const { Cell::new(1) };
    /// What each CPU has.
    static HELD: RefCell<BTreeMap<usize, Vec<Name>>> = const { RefCell::new(BTreeMap::new()) };
    /// Of which two the first was had when the second was waited for.
    static ORDER: RefCell<BTreeSet<(usize, usize)>> = const { RefCell::new(BTreeSet::new()) };
}

fn me() -> usize {
    shuttle::current::me().into()
}

impl Identity {
    pub(super) const fn new(class: Class) -> Self {
        Self { class, number: AtomicUsize::new(0) }
    }

    /// What it is called.
    pub(super) fn name(&self) -> Name {
        if self.number.load(Ordering::Relaxed) == 0 {
            self.number.store(NEXT.replace(NEXT.get() + 1), Ordering::Relaxed);
        }
        (self.number.load(Ordering::Relaxed), self.class)
    }
}

/// A CPU is about to wait for a lock.
pub(super) fn wants((number, class): Name) {
    let held = HELD.with_borrow(|held| held.get(&me()).cloned().unwrap_or_default());
    for (had, made) in held {
        let both = ORDER
            .with_borrow_mut(|order| order.insert((had, number)) && leads_to(order, number, had));
        if both && had != number && !std::thread::panicking() {
            panic!(
                "a lock of {class} is waited for with one of {made} locked, and the other way round elsewhere"
            );
        }
    }
}

/// Whether `to` is waited for with `from` locked, or with one that is waited for with `from` locked, and so on.
fn leads_to(order: &BTreeSet<(usize, usize)>, from: usize, to: usize) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), Vec::from([from]));
    while let Some(number) = next.pop() {
        if number == to {
            return true;
        }
        if seen.insert(number) {
            next.extend(order.range((number, 0)..=(number, usize::MAX)).map(|(_, wanted)| *wanted));
        }
    }
    false
}

/// It has the lock.
pub(super) fn has(name: Name) {
    HELD.with_borrow_mut(|held| held.entry(me()).or_default().push(name));
}

/// It has unlocked it.
pub(super) fn lets_go((number, _): Name) {
    HELD.with_borrow_mut(|held| {
        let Some(held) = held.get_mut(&me()) else { return };
        if let Some(at) = held.iter().rposition(|(had, _)| *had == number) {
            held.remove(at);
        }
    });
}
