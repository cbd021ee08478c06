//! The guest's bus: which device answers at which intermediate physical address.
//!
//! The list of windows never changes after it was made, so that a vCPU finds its device without a
//! lock while others do the same. RAM is not on the bus; stage 2 maps it. Only what stage 2 leaves
//! out arrives here.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{After, Device, Signal};
use crate::addr::{Ipa, Region};
use crate::exit::Width;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use crate::time::Ticks;
use crate::vgic::IntId;

/// One device at its place: its window, its interrupt and itself.
pub struct Peripheral {
    window: Region<Ipa>,
    irq: Option<IntId>,
    /// [`After::polled`] after the last call. Written while the device is locked.
    polled: AtomicU64,
    /// The level that was reported last, in the same way.
    reported: AtomicU8,
    /// [`After::due`], in the same way.
    due: AtomicU64,
    device: TicketMutex<Box<dyn Device>>,
}

/// In [`Peripheral::reported`]: none yet.
const NEVER_REPORTED: u8 = 2;

/// In [`Peripheral::due`]: never.
const NEVER: u64 = u64::MAX;

impl Peripheral {
    /// `device` at `window`, its interrupt output not connected.
    pub fn new(window: Region<Ipa>, device: Box<dyn Device>) -> Self {
        let due = AtomicU64::new(After::time(device.deadline()));
        let polled = AtomicU64::new(After::register(device.polled()));
        let reported = AtomicU8::new(NEVER_REPORTED);
        Self { window, irq: None, polled, reported, due, device: TicketMutex::new(device) }
    }

    /// With the interrupt output connected to the level-sensitive interrupt `irq`.
    #[must_use]
    pub fn with_irq(self, irq: IntId) -> Self {
        Self { irq: Some(irq), ..self }
    }

    /// Lets `access` at the device and reports the level that it leaves, if that is another than before. Its answer, and
    /// whether the device is due earlier than before.
    fn with_device<T>(
        &self,
        access: impl FnOnce(&mut dyn Device) -> T,
        mut line: impl FnMut(IntId, bool),
    ) -> (T, bool) {
        let mut device = self.device.lock();
        let answer = access(&mut **device);
        let After { due, level, polled } = device.after();
        let sooner = due < self.due.load(Ordering::Relaxed);
        self.due.store(due, Ordering::Relaxed);
        // Before the level is told: the driver may look at once, on another CPU.
        self.polled.store(polled, Ordering::Release);
        if let Some(irq) = self.irq {
            if self.reported.load(Ordering::Relaxed) != u8::from(level) {
                self.reported.store(level.into(), Ordering::Relaxed);
                if level {
                    device.has_fallen(); // this is the edge
                }
                line(irq, level);
            } else if level && device.has_fallen() {
                line(irq, false);
                line(irq, true);
            }
        }
        (answer, sooner)
    }
}

/// Two peripherals that cannot be on one bus.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Conflict {
    /// Both want to answer at some address.
    #[error("two devices overlap: {0} and {1}")]
    Overlap(Region<Ipa>, Region<Ipa>),
    /// Both drive one interrupt: the level of either would undo the other's.
    #[error("two devices share interrupt {}", .0.0)]
    SharedIrq(IntId),
}

/// The bus of one VM.
///
/// Every call that can change a device's interrupt output takes a `line` to report the new level to,
/// called when it is another than before, while that device is locked: if two vCPUs access the device at once, the levels are
/// reported in the order of the accesses, and the last one reported is the one that holds.
///
/// Locks, always taken in this order: a device's, then whatever `line` or the device's wiring takes
/// (the vGIC's, the console's). At most one device is locked at a time, and `line` may not access
/// the bus.
pub struct Bus {
    /// By address, without overlaps.
    peripherals: Vec<Peripheral>,
    /// Which one was accessed last: most accesses come in a row.
    last: AtomicUsize,
}

impl Bus {
    /// The bus with these `peripherals`, in any order.
    pub fn new(in_any_order: Vec<Peripheral>) -> Result<Self, Conflict> {
        let mut peripherals: Vec<Peripheral> = Vec::with_capacity(in_any_order.len());
        for one in in_any_order {
            let below = |other: &Peripheral| other.window.start() < one.window.start();
            peripherals.insert(peripherals.partition_point(below), one);
        }
        // In this order, if any two overlap, some neighbours do.
        for (a, b) in peripherals.iter().zip(peripherals.iter().skip(1)) {
            if a.window.overlaps(&b.window) {
                return Err(Conflict::Overlap(a.window, b.window));
            }
        }
        for (index, a) in peripherals.iter().enumerate() {
            let others = peripherals.iter().skip(index + 1);
            if let Some(irq) = a.irq.filter(|_| others.into_iter().any(|b| a.irq == b.irq)) {
                return Err(Conflict::SharedIrq(irq));
            }
        }
        Ok(Self { peripherals, last: AtomicUsize::new(0) })
    }

    /// Takes a device away, of a bus that nobody uses any more: the last one.
    pub fn take_one(&mut self) -> Option<Peripheral> {
        self.peripherals.pop()
    }

    /// The guest reads: the value, zero-extended, and whether the device is due earlier than before. `None` when nothing
    /// answers there: no device, an access that is not aligned to its width, or one that crosses the end of the device's
    /// window.
    pub fn read(
        &self,
        ipa: Ipa,
        width: Width,
        now: Ticks,
        line: impl FnMut(IntId, bool),
    ) -> Option<(u64, bool)> {
        let (peripheral, offset) = self.find(ipa, width)?;
        let (value, sooner) =
            peripheral.with_device(|device| device.read(offset, width, now), line);
        Some((value & width.mask(), sooner))
    }

    /// The guest reads a word that some driver polls: the value, without a lock. `None` where
    /// [`read`](Self::read) is to be asked.
    #[inline(always)]
    pub fn peek(&self, ipa: Ipa) -> Option<u32> {
        let (peripheral, offset) = self.at(ipa)?;
        let polled = peripheral.polled.load(Ordering::Acquire);
        (polled >> 32 == offset).then_some((polled & 0xffff_ffff) as u32)
    }

    /// The guest writes the low bits of `value`. Whether the device is due earlier than before; `None` as for
    /// [`read`](Self::read).
    pub fn write(
        &self,
        ipa: Ipa,
        width: Width,
        value: u64,
        now: Ticks,
        line: impl FnMut(IntId, bool),
    ) -> Option<bool> {
        let (peripheral, offset) = self.find(ipa, width)?;
        let value = value & width.mask();
        let ((), sooner) =
            peripheral.with_device(|device| device.write(offset, width, value, now), line);
        Some(sooner)
    }

    /// Something happened outside the guest to the device that drives `irq`. Whether it is due earlier than before.
    pub fn signal(
        &self,
        irq: IntId,
        signal: Signal,
        now: Ticks,
        line: impl FnMut(IntId, bool),
    ) -> bool {
        let peripheral = self.peripherals.iter().find(|p| p.irq == Some(irq));
        peripheral.is_some_and(|it| it.with_device(|device| device.signal(signal, now), line).1)
    }

    /// Lets the devices that are due at `now` take in the time; see [`deadline`](Self::deadline).
    pub fn poll(&self, now: Ticks, mut line: impl FnMut(IntId, bool)) {
        let is_due = |it: &&Peripheral| it.due.load(Ordering::Relaxed) <= now.0;
        for peripheral in self.peripherals.iter().filter(is_due) {
            peripheral.with_device(|device| device.advance(now), &mut line);
        }
    }

    /// The first moment at which [`poll`](Self::poll) would find a device with something to do.
    pub fn deadline(&self) -> Option<Ticks> {
        let first = self.peripherals.iter().map(|it| it.due.load(Ordering::Relaxed)).min();
        first.filter(|first| *first != NEVER).map(Ticks)
    }

    /// Resets every device.
    pub fn reset(&self, mut line: impl FnMut(IntId, bool)) {
        for peripheral in &self.peripherals {
            // Whoever is told has forgotten what was reported before.
            peripheral.reported.store(NEVER_REPORTED, Ordering::Relaxed);
            peripheral.with_device(|device| device.reset(), &mut line);
        }
    }

    /// The window of each device, and its interrupt.
    pub fn windows(&self) -> impl Iterator<Item = (Region<Ipa>, Option<IntId>)> {
        self.peripherals.iter().map(|peripheral| (peripheral.window, peripheral.irq))
    }

    /// Whether there is a device at `ipa`.
    pub fn answers(&self, ipa: Ipa) -> bool {
        self.find(ipa, Width::Byte).is_some()
    }

    /// Who answers all of an access, and at which offset.
    #[inline]
    fn find(&self, ipa: Ipa, width: Width) -> Option<(&Peripheral, u64)> {
        let (peripheral, offset) = self.at(ipa)?;
        let whole = width.bytes() <= peripheral.window.size() - offset;
        (whole && ipa.is_aligned(width.bytes())).then_some((peripheral, offset))
    }

    /// In whose window that is, and at which offset.
    #[inline(always)]
    fn at(&self, ipa: Ipa) -> Option<(&Peripheral, u64)> {
        let last = self.peripherals.get(self.last.load(Ordering::Relaxed));
        let peripheral = last.filter(|it| it.window.contains(ipa)).or_else(|| self.search(ipa))?;
        Some((peripheral, ipa.raw() - peripheral.window.start().raw()))
    }

    #[inline(never)]
    fn search(&self, ipa: Ipa) -> Option<&Peripheral> {
        // Where nothing is, it is mostly behind all.
        if self.peripherals.last()?.window.last() < ipa {
            return None;
        }
        let behind = self.peripherals.partition_point(|it| it.window.start() <= ipa);
        let index = behind.checked_sub(1)?;
        let peripheral = self.peripherals.get(index).filter(|it| it.window.contains(ipa))?;
        self.last.store(index, Ordering::Relaxed);
        Some(peripheral)
    }
}

#[cfg(test)]
mod tests;
