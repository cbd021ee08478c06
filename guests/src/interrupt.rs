//! Interrupts taken by the book: acknowledge, count, log, let the payload's function see it, end.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::exception::{self, Frame};
use crate::sysreg::cpu;
use crate::{MAX_CPUS, gic};

const INTIDS: usize = 1020;
const LOG: usize = 512;

static COUNTS: [[AtomicU32; INTIDS]; MAX_CPUS] =
    [const { [const { AtomicU32::new(0) }; INTIDS] }; MAX_CPUS];
static SPURIOUS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static ORDER: [[AtomicU32; LOG]; MAX_CPUS] =
    [const { [const { AtomicU32::new(0) }; LOG] }; MAX_CPUS];
static LOGGED: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
static ACTIONS: [AtomicUsize; INTIDS] = [const { AtomicUsize::new(0) }; INTIDS];

/// From now on interrupts are taken here.
pub fn take() {
    exception::on_interrupt(taken);
}

/// `action` runs between the acknowledge and the end of every interrupt `intid`; it gets what the
/// acknowledge read.
pub fn on(intid: u32, action: fn(u32)) {
    ACTIONS[intid as usize].store(action as *const () as usize, Ordering::Release);
}

/// No action for `intid`.
pub fn off(intid: u32) {
    ACTIONS[intid as usize].store(0, Ordering::Release);
}

/// How many times CPU number `cpu` has taken `intid`.
pub fn count(cpu: usize, intid: u32) -> u32 {
    COUNTS[cpu][intid as usize].load(Ordering::Acquire)
}

/// How many of its interrupts were gone when CPU number `cpu` asked for them.
pub fn spurious(cpu: usize) -> u32 {
    SPURIOUS[cpu].load(Ordering::Acquire)
}

/// Forgets the order of this CPU's interrupts so far.
pub fn forget() {
    LOGGED[cpu()].store(0, Ordering::Release);
}

/// The INTIDs this CPU took since [`forget`], in order; the latest 512 at most.
pub fn taken_in_order() -> impl Iterator<Item = u32> {
    let own = cpu();
    let logged = LOGGED[own].load(Ordering::Acquire).min(LOG);
    ORDER[own][..logged].iter().map(|intid| intid.load(Ordering::Relaxed))
}

fn taken(_: &mut Frame) {
    let own = cpu();
    let acknowledged = gic::acknowledge();
    let intid = gic::intid(acknowledged);
    if intid as usize >= INTIDS {
        SPURIOUS[own].fetch_add(1, Ordering::Relaxed);
        return;
    }
    let at = LOGGED[own].fetch_add(1, Ordering::Relaxed);
    if let Some(slot) = ORDER[own].get(at) {
        slot.store(intid, Ordering::Relaxed);
    }
    let action = ACTIONS[intid as usize].load(Ordering::Acquire);
    if action != 0 {
        // SAFETY: only `on` stores here, a function of this type.
        let action = unsafe { core::mem::transmute::<usize, fn(u32)>(action) };
        action(acknowledged);
    }
    gic::end(acknowledged);
    COUNTS[own][intid as usize].fetch_add(1, Ordering::Release);
}
