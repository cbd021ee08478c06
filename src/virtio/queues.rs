//! A device's queues, for the device itself and for whoever uses them from outside its guest.
//!
//! A network card's receive queue is filled by the CPU on which another VM sends. So each queue has a lock of its own,
//! and what tells the driver of it is in atomics.
//!
//! Lock order: a device's, a queue by which its driver sends, what that leads through, a queue by which another driver
//! receives. Who has one of the last takes no other.

use alloc::boxed::Box;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::backend::{Backend, Served};
use super::queue::{Bad, Chain, Head, Virtqueue};
use super::ram::{GuestRam, RamSource};
use crate::memory::Elastic;
use crate::memory::elastic::{Filled, UNIT};
use crate::speculation;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::sync::{TicketMutex, TicketMutexGuard};
use crate::time::Ticks;

/// "InterruptStatus": a buffer was used.
pub const USED_BUFFER: u8 = 1;
/// "InterruptStatus": the configuration, or the device's status, has changed.
pub const CONFIGURATION: u8 = 2;

/// One queue.
#[derive(Debug, Default)]
pub struct Queue {
    /// While the driver has made it ready.
    pub ring: Option<Virtqueue>,
    /// The chain that was taken last. Kept, so that its memory is.
    pub chain: Chain,
    /// The chains that one frame was put into, and how much into each. Kept as well.
    pub filled: Vec<(Head, u32)>,
    /// That chain is to be served again.
    in_hand: bool,
    /// So far its buffers are RAM: a buffer, and how much of it.
    filled_to: (usize, u64),
}

/// One queue as plain data.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct SavedQueue {
    /// While the driver has made it ready.
    pub(super) ring: Option<Virtqueue>,
    /// The chain that is to be served again. What its buffers are was looked at once, so they are kept.
    pub(super) in_hand: Option<Chain>,
}

impl SavedQueue {
    /// How many descriptors, of a split ring chains, were taken and not given back.
    pub fn held(&self) -> u16 {
        self.ring.as_ref().map_or(0, Virtqueue::held)
    }

    /// The chain that is to be served again.
    pub const fn in_hand(&self) -> Option<&Chain> {
        self.in_hand.as_ref()
    }
}

/// The queues of a device, and what its driver is told of them.
#[derive(Debug)]
pub struct Queues<R> {
    /// `InterruptStatus`.
    interrupt: AtomicU8,
    /// What was negotiated, while the driver is ready; else 0.
    features: AtomicU64,
    /// What the driver has done wrong in a queue that is used from outside, until the device has looked.
    broken: TicketMutex<Option<Bad>>,
    queues: Box<[TicketMutex<Queue>]>,
    ram: R,
}

/// What came of working a queue off for a while.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Progress {
    /// There is more to be done at once.
    pub more: bool,
    /// It goes on when something has happened outside.
    pub waits: bool,
    /// That something may be that somebody has memory to spare, which nobody tells: it looks again after so long.
    pub starved: Option<Ticks>,
}

impl<R: RamSource> Queues<R> {
    /// So many queues in `ram`, none of them ready.
    pub fn new(count: usize, ram: R) -> Self {
        Self {
            interrupt: AtomicU8::new(0),
            features: AtomicU64::new(0),
            broken: TicketMutex::default(),
            queues: (0..count).map(|_| TicketMutex::default()).collect(),
            ram,
        }
    }

    /// The RAM that they are in.
    pub const fn ram(&self) -> &R {
        &self.ram
    }

    /// Takes it back.
    #[cfg(test)]
    pub fn into_ram(self) -> R {
        self.ram
    }

    /// How many.
    pub const fn count(&self) -> usize {
        self.queues.len()
    }

    /// Queue `index`; nobody else uses it meanwhile.
    #[inline]
    pub fn lock(&self, index: usize) -> Option<TicketMutexGuard<'_, Queue>> {
        speculation::get(&self.queues, index).map(TicketMutex::lock)
    }

    /// The features that were negotiated; 0 while the driver is not ready.
    #[inline]
    pub fn features(&self) -> u64 {
        self.features.load(Ordering::Acquire)
    }

    pub(super) fn set_features(&self, features: u64) {
        self.features.store(features, Ordering::Release);
    }

    /// `InterruptStatus`.
    #[inline]
    pub fn interrupt(&self) -> u8 {
        self.interrupt.load(Ordering::Acquire)
    }

    /// The driver is to be interrupted. Returns whether it was not to be before.
    #[inline]
    pub fn raise(&self, bits: u8) -> bool {
        self.interrupt.fetch_or(bits, Ordering::AcqRel) == 0
    }

    /// The driver has seen these.
    pub(super) fn acknowledge(&self, bits: u8) {
        self.interrupt.fetch_and(!bits, Ordering::AcqRel);
    }

    /// The driver has broken a rule in a queue that is used from outside: the device needs a reset, once it looks.
    pub fn set_broken(&self, why: Bad) {
        self.set_features(0);
        *self.broken.lock() = Some(why);
    }

    /// Whether that is still to be looked at.
    pub(super) fn broken(&self) -> Option<Bad> {
        *self.broken.lock()
    }

    pub(super) fn take_broken(&self) -> Option<Bad> {
        self.broken.lock().take()
    }

    /// As reset leaves them.
    pub(super) fn reset(&self) {
        self.set_features(0);
        (0..self.count()).for_each(|index| self.set_ring(index, None));
        self.interrupt.store(0, Ordering::Release);
        *self.broken.lock() = None;
    }

    pub(super) fn set_ring(&self, index: usize, ring: Option<Virtqueue>) {
        if let Some(mut queue) = self.lock(index) {
            queue.ring = ring;
            queue.in_hand = false;
            queue.filled_to = (0, 0);
        }
    }

    pub(super) fn save(&self, index: usize) -> SavedQueue {
        self.lock(index).map_or_else(SavedQueue::default, |queue| SavedQueue {
            ring: queue.ring,
            in_hand: queue.in_hand.then(|| queue.chain.clone()),
        })
    }

    /// Puts a queue in its place that has been looked at.
    pub(super) fn restore(&self, index: usize, saved: SavedQueue) {
        if let Some(mut queue) = self.lock(index) {
            queue.ring = saved.ring;
            queue.in_hand = saved.in_hand.is_some();
            queue.chain = saved.in_hand.unwrap_or_default();
        }
    }

    pub(super) fn is_ready(&self, index: usize) -> bool {
        self.lock(index).is_some_and(|queue| queue.ring.is_some())
    }

    /// Uses at most [`Backend::AT_ONCE`] chains of queue `index`.
    pub(super) fn work_off<B: Backend>(
        &self,
        backend: &mut B,
        index: usize,
    ) -> Result<Progress, Bad> {
        let Some(ram) = self.ram.ram() else { return Ok(Progress::default()) };
        let Some(mut queue) = self.lock(index) else { return Ok(Progress::default()) };
        let Queue { ring: Some(ring), chain, in_hand, filled_to, .. } = &mut *queue else {
            return Ok(Progress::default());
        };
        // While chains are taken, the driver need not say that there are more.
        ring.want_notification(ram, false)?;
        let mut progress = Progress { more: true, ..Progress::default() };
        let elastic = ram.memory().and_then(|ram| ram.elastic()).filter(|_| B::FILLS);
        let (mut known, mut left) = (false, B::AT_ONCE);
        while left > 0 {
            left -= 1;
            // Where all that was known of was taken, there is a look anyway once the driver is asked to tell of more.
            let drained = known && ring.is_drained();
            if !*in_hand && (drained || !ring.take(ram, chain)?) {
                if ring.want_notification(ram, true)? {
                    ring.want_notification(ram, false)?;
                    known = false;
                    continue;
                }
                progress.more = false;
                break;
            }
            known = true;
            if let Some(elastic) = elastic {
                match fill(elastic, chain, filled_to) {
                    Filled::There => *filled_to = (0, 0),
                    Filled::More => {
                        *in_hand = true;
                        break;
                    }
                    Filled::NoFrames => {
                        *in_hand = true;
                        let starved = Some(elastic.patience());
                        progress = Progress { more: false, waits: true, starved };
                        break;
                    }
                }
            }
            let served = backend.serve(index, chain, ram)?;
            *in_hand = served == Served::More;
            match served {
                Served::Done(written) => ring.give_back(ram, chain.head, written)?,
                Served::Later => {}
                Served::More => break,
                Served::NotNow => {
                    ring.untake(chain.head);
                    progress = Progress { more: false, waits: true, starved: None };
                    break;
                }
            }
            left = left.saturating_sub(usize::from(chain.looked_at() / DESCRIPTORS));
        }
        if ring.publish(ram)? {
            self.raise(USED_BUFFER);
        }
        Ok(progress)
    }

    /// The driver need not say that there is something in queue `index`.
    pub(super) fn want_no_notification(&self, index: usize) -> Result<(), Bad> {
        let Some(ram) = self.ram.ram() else { return Ok(()) };
        let Some(mut queue) = self.lock(index) else { return Ok(()) };
        let Some(ring) = &mut queue.ring else { return Ok(()) };
        ring.want_notification(ram, false).map(drop)
    }

    /// Gives back what `backend` has used by now of the chains that it had kept.
    pub(super) fn give_back<B: Backend>(&self, backend: &mut B) -> Result<(), Bad> {
        let Some(ram) = self.ram.ram() else { return Ok(()) };
        while let Some(done) = backend.completed() {
            let Some(mut queue) = self.lock(done.queue) else { continue };
            let Some(ring) = &mut queue.ring else { continue };
            ring.give_back(ram, done.head, done.written)?;
            if ring.publish(ram)? {
                self.raise(USED_BUFFER);
            }
        }
        Ok(())
    }
}

/// So many descriptors of a chain, which may be of no bytes, take as long as a chain does otherwise.
const DESCRIPTORS: u16 = 16;

/// How many units of a chain's buffers are looked at in one go.
const LOOKS: usize = 64;

/// Lets the buffers of `chain` be RAM from `at` on, some more of them.
fn fill(elastic: &Elastic, chain: &Chain, at: &mut (usize, u64)) -> Filled {
    let buffers = chain.readable().iter().chain(chain.writable());
    let mut looks = LOOKS;
    for buffer in buffers.skip(at.0) {
        while at.1 < u64::from(buffer.size) {
            let Some(looks_left) = looks.checked_sub(1) else { return Filled::More };
            looks = looks_left;
            // What is outside RAM is found out by who serves.
            let Some(ipa) = buffer.ipa.checked_add(at.1) else { break };
            let Some(unit) = elastic.unit_of(ipa) else { break };
            match elastic.fill_step(unit) {
                Filled::There => at.1 += UNIT - ipa.raw() % UNIT,
                wait => return wait,
            }
        }
        *at = (at.0 + 1, 0);
    }
    Filled::There
}
