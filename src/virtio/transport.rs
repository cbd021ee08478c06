//! The transport: virtio over MMIO, version 2 (VIRTIO 1.2, "Virtio Over MMIO").
//!
//! A window of registers by which a driver finds the device, negotiates features, places queues, and notifies.
//! Registers are read and written by words; other widths do nothing, but in the device's own configuration. What the
//! standard does not let a driver do is ignored, or, where it leaves a queue that cannot be used, answered with
//! `DEVICE_NEEDS_RESET`.
//!
//! Chains are worked off where the driver notifies, a bounded number at a time; what is left then is due at once, as the
//! device's own work.

pub mod saved;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::backend::Backend;
use super::queue::{Bad, Negotiated, Place, Virtqueue};
use super::queues::{CONFIGURATION, Queues};
use super::ram::RamSource;
use super::slot::{MAGIC, TRANSPORT_VERSION, VENDOR};
use crate::device::{Device, Signal};
use crate::exit::Width;
use crate::speculation;
use crate::time::Ticks;

/// The registers, by offset ("MMIO Device Register Layout").
mod register {
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const QUEUE_RESET: u64 = 0x0c0;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// A bit for each in a word.
const MAX_QUEUES: usize = 32;

/// "Device Status Field".
mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// Those that a driver sets.
    pub const OF_DRIVER: u8 = 1 | 2 | DRIVER_OK | FEATURES_OK | 128;
}

/// "Reserved Feature Bits".
mod feature {
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_PACKED: u64 = 1 << 34;
    pub use super::super::backend::IN_ORDER;
    pub const RING_RESET: u64 = 1 << 40;
    /// What every device here has.
    pub const TRANSPORT: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_PACKED | RING_RESET;
}

/// What a guest can change, beside the queues themselves.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct State {
    status: u8,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    places: Vec<Place>,
    /// A bit for each queue in which more chains may wait.
    busy: u32,
    /// A bit for each queue that goes on when something has happened outside.
    waits: u32,
    /// The queue after the one that was worked off last by itself.
    turn: u32,
    /// When those go on at the latest, because there was no memory.
    again: Option<u64>,
}

/// How often a guest's mistakes are told.
const COMPLAINTS: u8 = 4;

/// A device behind its transport.
#[derive(Debug)]
pub struct Transport<B, R> {
    state: State,
    backend: B,
    queues: Arc<Queues<R>>,
    /// Whose it is, for the log.
    owner: String,
    /// How many more of its driver's mistakes are told.
    complaints: u8,
    /// The driver has acknowledged an interrupt, and what there is by now it may not have seen.
    fallen: bool,
    /// When it was called last.
    now: Ticks,
}

impl<B: Backend, R: RamSource> Transport<B, R> {
    /// The device whose queues are in `ram`. The log calls it `owner`.
    pub fn new(backend: B, ram: R, owner: String) -> Self {
        let count = backend.queues().len().min(MAX_QUEUES);
        let state = State { places: alloc::vec![Place::default(); count], ..State::default() };
        let queues = Arc::new(Queues::new(count, ram));
        Self { state, backend, queues, owner, complaints: COMPLAINTS, fallen: false, now: Ticks(0) }
    }

    /// Its queues, for who uses them from outside the guest.
    pub const fn queues(&self) -> &Arc<Queues<R>> {
        &self.queues
    }

    /// What is behind it.
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    fn offered(&self) -> u64 {
        self.backend.features() | feature::TRANSPORT
    }

    /// Whether a driver may have these features.
    fn agrees(&self, features: u64) -> bool {
        let needs = |(bits, any): &(u64, u64)| features & bits == 0 || features & any != 0;
        features & feature::VERSION_1 != 0
            && features & !self.offered() == 0
            && B::NEEDS.iter().all(needs)
    }

    fn has(&self, bits: u8) -> bool {
        self.state.status & bits == bits
    }

    fn register(&self, offset: u64) -> u32 {
        let half = |value: u64, sel: u32| match sel {
            0 => low(value),
            1 => low(value >> 32),
            _ => 0,
        };
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => TRANSPORT_VERSION,
            register::DEVICE_ID => B::ID,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.offered(), self.state.device_features_sel),
            register::QUEUE_NUM_MAX => {
                let selected = self.state.queue_sel as usize;
                let largest = speculation::get(self.backend.queues(), selected);
                largest.copied().unwrap_or(0).into()
            }
            register::QUEUE_READY => self.queues.is_ready(self.state.queue_sel as usize).into(),
            register::INTERRUPT_STATUS => self.queues.interrupt().into(),
            register::STATUS => self.state.status.into(),
            // There is no shared memory: a length of all ones says so.
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => u32::MAX,
            register::CONFIG_GENERATION => self.backend.generation(),
            // QUEUE_RESET too: it is done at once.
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        let state = &mut self.state;
        match offset {
            register::DEVICE_FEATURES_SEL => state.device_features_sel = value,
            register::DRIVER_FEATURES_SEL => state.driver_features_sel = value,
            register::DRIVER_FEATURES if state.status & status::FEATURES_OK == 0 => {
                match state.driver_features_sel {
                    0 => set_low(&mut state.driver_features, value),
                    1 => set_high(&mut state.driver_features, value),
                    _ => {}
                }
            }
            register::QUEUE_SEL => state.queue_sel = value,
            register::QUEUE_READY => self.set_ready(value & 1 != 0),
            register::QUEUE_NOTIFY => self.notified(value),
            register::INTERRUPT_ACK => {
                self.queues.acknowledge(value.to_le_bytes()[0]);
                // Whatever is left, or has come since, is another interrupt, also where this one was for nothing.
                self.fallen = true;
            }
            register::STATUS => self.set_status(value),
            register::QUEUE_RESET if value & 1 != 0 => self.set_ready(false),
            _ => self.set_place(offset, value),
        }
    }

    /// A register of the queue that is selected, while that is not ready.
    fn set_place(&mut self, offset: u64, value: u32) {
        let index = self.state.queue_sel as usize;
        let Some(place) = speculation::get_mut(&mut self.state.places, index) else { return };
        if self.queues.is_ready(index) {
            return;
        }
        match offset {
            // One that does not fit is no size at all.
            register::QUEUE_NUM => place.size = u16::try_from(value).unwrap_or(0),
            register::QUEUE_DESC_LOW => set_low(&mut place.descriptors, value),
            register::QUEUE_DESC_HIGH => set_high(&mut place.descriptors, value),
            register::QUEUE_DRIVER_LOW => set_low(&mut place.driver, value),
            register::QUEUE_DRIVER_HIGH => set_high(&mut place.driver, value),
            register::QUEUE_DEVICE_LOW => set_low(&mut place.device, value),
            register::QUEUE_DEVICE_HIGH => set_high(&mut place.device, value),
            _ => {}
        }
    }

    /// The selected queue becomes ready where it has been placed, or is no more.
    fn set_ready(&mut self, ready: bool) {
        let index = self.state.queue_sel as usize;
        let Some(place) = speculation::get_mut(&mut self.state.places, index) else { return };
        if !ready {
            *place = Place::default();
            self.queues.set_ring(index, None);
            self.backend.stop(index);
            return;
        }
        if self.queues.is_ready(index) || self.state.status & status::FEATURES_OK == 0 {
            return;
        }
        let negotiated = negotiated(self.state.driver_features);
        let largest = speculation::get(self.backend.queues(), index).copied().unwrap_or(0);
        let ring = Some(*place)
            .filter(|place| place.size <= largest)
            .and_then(|place| Virtqueue::new(place, negotiated, self.queues.ram().ram()?));
        if ring.is_none() {
            return self.needs_reset(Mistake::Place(index));
        }
        self.queues.set_ring(index, ring);
    }

    /// "Device Initialization": a driver sets bits and clears none, but all of them at once, which is a reset.
    fn set_status(&mut self, value: u32) {
        let [value, ..] = value.to_le_bytes();
        if value == 0 {
            return self.begin_again();
        }
        let mut set = value & status::OF_DRIVER & !self.state.status;
        let features = self.state.driver_features;
        if !self.agrees(features) {
            set &= !status::FEATURES_OK;
        }
        if (self.state.status | set) & status::FEATURES_OK == 0 {
            set &= !status::DRIVER_OK;
        }
        self.state.status |= set;
        if set & status::DRIVER_OK != 0 && !self.has(status::DEVICE_NEEDS_RESET) {
            self.backend.begin(features);
            self.queues.set_features(features);
        }
    }

    fn begin_again(&mut self) {
        // A guest does this as often as it likes: nothing is allocated.
        let mut places = core::mem::take(&mut self.state.places);
        places.fill(Place::default());
        self.state = State { places, ..State::default() };
        self.queues.reset();
        self.backend.reset();
    }

    /// "DEVICE_NEEDS_RESET": nothing is done before it is reset.
    fn needs_reset(&mut self, mistake: Mistake) {
        self.state.busy = 0;
        self.state.waits = 0;
        self.state.status |= status::DEVICE_NEEDS_RESET;
        if self.has(status::DRIVER_OK) {
            self.queues.set_features(0);
            self.queues.raise(CONFIGURATION);
        }
        if let Some(left) = self.complaints.checked_sub(1) {
            self.complaints = left;
            log::warn!("{}: {mistake}; the device needs a reset", self.owner);
        }
    }

    /// There is something in queue `index`.
    fn notified(&mut self, index: u32) {
        let at = index as usize;
        if at >= self.queues.count() {
            return;
        }
        let at = speculation::below(at, self.queues.count());
        if !self.backend.is_used_from_outside(at) {
            self.state.busy |= 1 << index;
            self.work(at);
        } else if self.has(status::DRIVER_OK) && !self.has(status::DEVICE_NEEDS_RESET) {
            // Whoever uses it looks for himself.
            if let Err(why) = self.queues.want_no_notification(at) {
                self.needs_reset(Mistake::Queue(at, why));
            }
        }
    }

    /// Works some of queue `index`, below 32, off.
    fn work(&mut self, index: usize) {
        let bit = 1 << index;
        self.state.busy &= !bit;
        self.state.waits &= !bit;
        if !self.has(status::DRIVER_OK) || self.has(status::DEVICE_NEEDS_RESET) {
            return;
        }
        match self.queues.work_off(&mut self.backend, index) {
            Ok(progress) => {
                self.state.busy |= u32::from(progress.more) << index;
                self.state.waits |= u32::from(progress.waits) << index;
                if let Some(patience) = progress.starved {
                    self.state.again = Some(self.now.saturating_add(patience).0);
                }
            }
            Err(why) => self.needs_reset(Mistake::Queue(index, why)),
        }
    }

    /// Takes in what has happened outside the guest.
    fn look_outside(&mut self) {
        if let Some(why) = self.queues.take_broken() {
            return self.needs_reset(Mistake::Outside(why));
        }
        if !self.has(status::DRIVER_OK) || self.has(status::DEVICE_NEEDS_RESET) {
            return;
        }
        if let Err(why) = self.queues.give_back(&mut self.backend) {
            return self.needs_reset(Mistake::Outside(why));
        }
        if self.backend.has_changed() {
            self.queues.raise(CONFIGURATION);
        }
        let mut waits = self.state.waits;
        while waits != 0 {
            let index = waits.trailing_zeros();
            waits &= waits - 1;
            if self.backend.can_go_on(index as usize) {
                self.state.waits &= !(1 << index);
                self.state.busy |= 1 << index;
            }
        }
        self.state.busy |= self.backend.looks_into();
    }
}

/// What a driver has done wrong.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Mistake {
    #[error("its driver wants queue {0} where it cannot be")]
    Place(usize),
    #[error("its driver has broken queue {0}: {1}")]
    Queue(usize, Bad),
    #[error("its driver has broken a queue: {0}")]
    Outside(Bad),
}

impl<B: Backend, R: RamSource + Send + Sync> Device for Transport<B, R> {
    fn read(&mut self, offset: u64, width: Width, _now: Ticks) -> u64 {
        match offset.checked_sub(register::CONFIG) {
            Some(offset) => self.backend.read_config(offset, width),
            None if width == Width::Word => self.register(offset).into(),
            None => 0,
        }
    }

    fn write(&mut self, offset: u64, width: Width, value: u64, now: Ticks) {
        self.now = now;
        match offset.checked_sub(register::CONFIG) {
            Some(offset) => self.backend.write_config(offset, width, value),
            None if width == Width::Word => self.set_register(offset, low(value)),
            None => {}
        }
    }

    /// Each interrupt begins with a look why.
    fn polled(&self) -> Option<(u64, u32)> {
        Some((register::INTERRUPT_STATUS, self.queues.interrupt().into()))
    }

    fn irq_level(&self) -> bool {
        self.queues.interrupt() != 0
    }

    fn has_fallen(&mut self) -> bool {
        core::mem::take(&mut self.fallen)
    }

    fn signal(&mut self, _signal: Signal, now: Ticks) {
        self.look_outside();
        self.advance(now);
    }

    fn advance(&mut self, now: Ticks) {
        self.now = now;
        if let Some(ram) = self.queues.ram().ram() {
            self.backend.attend(ram);
        }
        if self.state.again.take_if(|at| *at <= now.0).is_some() {
            self.state.busy |= core::mem::take(&mut self.state.waits);
        }
        // One queue, for each may take as long as one go does; the others are due.
        let busy = self.state.busy;
        let later = busy & u32::MAX.checked_shl(self.state.turn).unwrap_or(0);
        let index = if later == 0 { busy } else { later }.trailing_zeros();
        if index < u32::BITS {
            self.state.turn = index + 1;
            self.work(index as usize);
        }
    }

    fn deadline(&self) -> Option<Ticks> {
        let is_due = |ram| self.backend.is_due(ram);
        let attends = || B::ATTENDS && self.queues.ram().ram().is_some_and(is_due);
        let at_once = self.state.busy != 0 || attends();
        if at_once { Some(Ticks(0)) } else { self.state.again.map(Ticks) }
    }

    fn reset(&mut self) {
        self.begin_again();
    }
}

/// What of the features changes how queues work.
const fn negotiated(features: u64) -> Negotiated {
    Negotiated {
        indirect: features & feature::INDIRECT_DESC != 0,
        event_index: features & feature::EVENT_IDX != 0,
        packed: features & feature::RING_PACKED != 0,
        in_order: features & feature::IN_ORDER != 0,
    }
}

/// The low word.
#[allow(clippy::cast_possible_truncation, reason = "the low bits are asked for")]
const fn low(value: u64) -> u32 {
    value as u32
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register & !0xffff_ffff | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = *register & 0xffff_ffff | u64::from(value) << 32;
}

#[cfg(test)]
mod tests;
