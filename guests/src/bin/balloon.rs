//! Is memory that was given back gone for every CPU at once, and what comes back empty? The first CPU reports memory to the
//! balloon as free, again and again, while the second stores to it and the third reads it. What the third finds is never older than
//! what the second has stored before, and it is nothing only where it may have been given back since.
//!
//! With one CPU: what it stores is there until it gives it back, and then all of it is empty. Beside one with three, it has what was
//! the other's a moment ago.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guests::mmio::{read64, write64};
use guests::report::Report;
use guests::timer::{microseconds, now};
use guests::virtio::ring::{Buffer, Ring};
use guests::virtio::split::{Split, WRITE};
use guests::virtio::{Device, kind, memory};
use guests::{instruction, machine, println, smp};

guests::payload!(main);

/// `VIRTIO_BALLOON_F_REPORTING`, and its queue where there are neither statistics nor hints.
const REPORTING: u64 = 1 << 5;
const QUEUE: u16 = 2;

/// What memory is given back in, and how much is.
const UNIT: u64 = 2 << 20;
const UNITS: u64 = 2;
/// Where in a unit is stored: so many words, each in a page of its own.
const SPOTS: u64 = 16;
const PAGE: u64 = 4096;

/// How often memory is given back: as often as it can be in so many seconds, but no more than so often, nor less.
const ROUNDS: u64 = 4000;
const LEAST: u64 = 20;
const SECONDS: u64 = 5;

static BASE: AtomicU64 = AtomicU64::new(0);
/// The last number that the second CPU has stored in every unit.
static STORED: AtomicU64 = AtomicU64::new(0);
/// Whatever was stored behind this number is there, as nothing is given back meanwhile. 0: that may be.
static QUIET: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
/// How often each CPU found what cannot be, and the last one.
static WRONG: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
/// How often the third CPU looked, and how often it found nothing.
static LOOKS: AtomicU64 = AtomicU64::new(0);
static EMPTY: AtomicU64 = AtomicU64::new(0);

fn main(report: &mut Report) {
    let Some(device) = Device::find(kind::BALLOON, 0) else {
        return report.skip("memory is given back", "there is no balloon");
    };
    let features = device.negotiate(REPORTING).expect("its features");
    assert!(features & REPORTING != 0, "free pages cannot be reported");
    let mut queue = device.split(QUEUE, 32, features).expect("its queue");
    device.start();
    BASE.store(memory::take(UNITS * UNIT, UNIT), Ordering::Relaxed);
    let rounds = match machine::machine().cpus().len() {
        1 => alone(report, device, &mut queue),
        _ => together(report, device, &mut queue),
    };
    println!("balloon: {rounds} times");
    report.holds("memory is given back often", rounds >= LEAST, rounds);
    let wrong = WRONG.load(Ordering::SeqCst);
    report.equal("nothing old is found, and nothing is lost", wrong, 0);
    if wrong > 0 {
        println!("balloon: the last was {:#x}", LAST.load(Ordering::SeqCst));
    }
}

/// Where number `number` is stored in a unit. A TLB that knows pages by the lowest bits of their addresses knows all of them at once.
fn spot(unit: u64, number: u64) -> u64 {
    BASE.load(Ordering::Relaxed) + unit * (UNIT + SPOTS * PAGE + 8) + number % SPOTS * PAGE
}

/// The last number up to `last` that is stored where `number` is.
fn at_the_same_spot(number: u64, last: u64) -> u64 {
    last - (last + SPOTS - number % SPOTS) % SPOTS
}

fn wrong(what: u64, value: u64) {
    WRONG.fetch_add(1, Ordering::SeqCst);
    LAST.store(what << 56 | value, Ordering::SeqCst);
}

/// Reports so many units, and waits until they were taken.
fn give_back(device: Device, queue: &mut Split, units: u64) {
    let base = BASE.load(Ordering::Relaxed);
    queue.add(0, Buffer { address: base, size: (units * UNIT) as u32, flags: WRITE }, 0);
    if queue.show() {
        device.notify(QUEUE);
    }
    while queue.take().is_none() {
        instruction!("yield");
    }
}

fn together(report: &mut Report, device: Device, queue: &mut Split) -> u64 {
    let mains = [stores as smp::Main, reads];
    for (other, main) in smp::others().zip(mains) {
        smp::start(other, main, 0);
    }
    let end = now() + microseconds(SECONDS * 1_000_000);
    let mut rounds = 0;
    while rounds < ROUNDS && (rounds < LEAST || now() < end) {
        QUIET.store(0, Ordering::SeqCst);
        give_back(device, queue, 1 + rounds % UNITS);
        // One may have been begun before.
        let behind = STORED.load(Ordering::SeqCst) + 1;
        QUIET.store(behind, Ordering::SeqCst);
        while STORED.load(Ordering::SeqCst) < behind + SPOTS {
            instruction!("yield");
        }
        let numbers = behind + 1..=behind + SPOTS;
        for (unit, number) in (0..UNITS).flat_map(|unit| numbers.clone().map(move |at| (unit, at)))
        {
            let found = read64(spot(unit, number));
            if found < number || found % SPOTS != number % SPOTS {
                wrong(1, found);
            }
        }
        rounds += 1;
    }
    END.store(1, Ordering::SeqCst);
    let (looks, empty) = (LOOKS.load(Ordering::SeqCst), EMPTY.load(Ordering::SeqCst));
    println!("balloon: {looks} looks, of which {empty} found nothing");
    report.holds("what is given back is found empty", empty > 0, empty);
    rounds
}

/// Numbers, without end. What was just stored is there, or nothing is.
fn stores(_: u64) {
    let mut number = 0;
    while END.load(Ordering::Relaxed) == 0 {
        number += 1;
        for unit in 0..UNITS {
            let at = spot(unit, number);
            write64(at, number);
            let found = read64(at);
            if found != number && found != 0 {
                wrong(2, found);
            }
        }
        STORED.store(number, Ordering::SeqCst);
    }
}

/// What is read is not older than what was stored before, and not nothing when nothing is given back.
fn reads(_: u64) {
    let (mut looks, mut empty) = (0, 0);
    while END.load(Ordering::Relaxed) == 0 {
        looks += 1;
        let quiet = QUIET.load(Ordering::SeqCst);
        let stored = STORED.load(Ordering::SeqCst) + SPOTS;
        let stored = at_the_same_spot(looks, stored).saturating_sub(SPOTS);
        let found = read64(spot(looks / SPOTS % UNITS, looks));
        let still = quiet != 0 && quiet == QUIET.load(Ordering::SeqCst);
        if found == 0 {
            empty += 1;
        }
        let gone = found == 0 && (!still || stored <= quiet);
        if !gone && (found < stored || found % SPOTS != looks % SPOTS) {
            wrong(3, found);
        }
        LOOKS.store(looks, Ordering::Relaxed);
        EMPTY.store(empty, Ordering::Relaxed);
    }
}

/// Every word of a page's worth in each unit, and back.
fn alone(report: &mut Report, device: Device, queue: &mut Split) -> u64 {
    let base = BASE.load(Ordering::Relaxed);
    let spots = || (0..UNITS * UNIT).step_by(0x1_0008 & !7).map(move |at| base + at);
    let end = now() + microseconds(SECONDS * 1_000_000);
    let (mut rounds, mut kept) = (0, 0);
    while rounds < ROUNDS && (rounds < LEAST || now() < end) {
        rounds += 1;
        spots().for_each(|at| write64(at, at ^ rounds << 40));
        for at in spots() {
            let found = read64(at);
            if found != at ^ rounds << 40 {
                wrong(4, found);
            }
        }
        give_back(device, queue, UNITS);
        for at in spots() {
            let found = read64(at);
            if found == at ^ rounds << 40 {
                kept += 1;
            } else if found != 0 {
                wrong(5, found);
            }
        }
    }
    report.equal("all that is given back is taken", kept, 0);
    rounds
}
