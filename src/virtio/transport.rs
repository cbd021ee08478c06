//! The transport: virtio over MMIO, version 2 (VIRTIO 1.2, "Virtio Over MMIO").
//!
//! A window of registers by which a driver finds the device, negotiates features, places queues, and notifies.
//! Registers are read and written by words; other widths do nothing, but in the device's own configuration. What the
//! standard does not let a driver do is ignored, or, where it leaves a queue that cannot be used, answered with
//! `DEVICE_NEEDS_RESET`.
//!
//! Chains are worked off where the driver notifies, a bounded number at a time; what is left then is due at once, as the
//! device's own work.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::queue::{Bad, Chain, Negotiated, Place, Virtqueue};
use super::ram::GuestRam;
use super::slot::{MAGIC, TRANSPORT_VERSION, VENDOR};
use crate::device::Device;
use crate::exit::Width;
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
    pub const CONFIG: u64 = 0x100;
}

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
    pub const RING_RESET: u64 = 1 << 40;
    /// What every device here has.
    pub const TRANSPORT: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_RESET;
}

/// "InterruptStatus": a buffer was used; the configuration, or the device's status, has changed.
const USED_BUFFER: u8 = 1;
const CONFIGURATION: u8 = 2;

/// What a device of some type does, whatever it is reached by.
pub trait Backend: Send {
    /// Its type ("Device Types").
    const ID: u32;

    /// How many chains are worked off before the guest, or somebody else, goes on: some ten thousand instructions.
    const AT_ONCE: usize;

    /// The feature bits of its type that it offers: 0 to 23, and 50 to 127 as far as they are below 64.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each of its queues, a power of two each.
    fn queues(&self) -> &'static [u16];

    /// The low bits of its configuration at `offset`; what is not there reads as zero.
    fn read_config(&self, _offset: u64, _width: Width) -> u64 {
        0
    }

    /// The driver writes its configuration.
    fn write_config(&mut self, _offset: u64, _width: Width, _value: u64) {}

    /// Uses a chain of queue `queue`. Returns how many bytes were written to its buffers.
    ///
    /// # Errors
    /// What makes the device need a reset.
    fn serve(&mut self, queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<u32, Bad>;

    /// As the machine's, or the driver's, reset leaves it.
    fn reset(&mut self) {}
}

/// What a guest can change.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct State {
    status: u8,
    interrupt: u8,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<Queue>,
    /// A bit for each queue in which more chains may wait.
    busy: u32,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct Queue {
    place: Place,
    ready: Option<Virtqueue>,
}

/// A device behind its transport.
#[derive(Debug)]
pub struct Transport<B, R> {
    state: State,
    backend: B,
    ram: R,
    /// The chain that is worked off; empty between calls. Kept, so that its memory is.
    chain: Chain,
}

impl<B: Backend, R: GuestRam> Transport<B, R> {
    /// The device whose queues are in `ram`.
    pub fn new(backend: B, ram: R) -> Self {
        let queues = alloc::vec![Queue::default(); backend.queues().len()];
        let state = State { queues, ..State::default() };
        Self { state, backend, ram, chain: Chain::default() }
    }

    fn offered(&self) -> u64 {
        self.backend.features() | feature::TRANSPORT
    }

    fn has(&self, bits: u8) -> bool {
        self.state.status & bits == bits
    }

    fn queue(&self) -> Option<&Queue> {
        self.state.queues.get(self.state.queue_sel as usize)
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
                let largest = self.backend.queues().get(self.state.queue_sel as usize);
                largest.copied().unwrap_or(0).into()
            }
            register::QUEUE_READY => {
                u32::from(self.queue().is_some_and(|queue| queue.ready.is_some()))
            }
            register::INTERRUPT_STATUS => self.state.interrupt.into(),
            register::STATUS => self.state.status.into(),
            // There is no shared memory: a length of all ones says so.
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => u32::MAX,
            // CONFIG_GENERATION too: the configuration never changes by itself. And QUEUE_RESET: it is done at once.
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
            register::INTERRUPT_ACK => state.interrupt &= !value.to_le_bytes()[0],
            register::STATUS => self.set_status(value),
            register::QUEUE_RESET if value & 1 != 0 => self.set_ready(false),
            _ => self.set_place(offset, value),
        }
    }

    /// A register of the queue that is selected, while that is not ready.
    fn set_place(&mut self, offset: u64, value: u32) {
        let queue = self.state.queues.get_mut(self.state.queue_sel as usize);
        let Some(queue) = queue.filter(|queue| queue.ready.is_none()) else { return };
        let place = &mut queue.place;
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
        let largest = self.backend.queues().get(index).copied().unwrap_or(0);
        let features = self.state.driver_features;
        let Some(queue) = self.state.queues.get_mut(index) else { return };
        if !ready {
            *queue = Queue::default();
            return;
        }
        if queue.ready.is_some() || self.state.status & status::FEATURES_OK == 0 {
            return;
        }
        let negotiated = Negotiated {
            indirect: features & feature::INDIRECT_DESC != 0,
            event_index: features & feature::EVENT_IDX != 0,
            packed: false,
        };
        queue.ready = Some(queue.place)
            .filter(|place| place.size <= largest)
            .and_then(|place| Virtqueue::new(place, negotiated, &self.ram));
        if queue.ready.is_none() {
            self.needs_reset();
        }
    }

    /// "Device Initialization": a driver sets bits and clears none, but all of them at once, which is a reset.
    fn set_status(&mut self, value: u32) {
        let [value, ..] = value.to_le_bytes();
        if value == 0 {
            return self.begin_again();
        }
        let mut set = value & status::OF_DRIVER & !self.state.status;
        let features = self.state.driver_features;
        let agreed = features & feature::VERSION_1 != 0 && features & !self.offered() == 0;
        if !agreed {
            set &= !status::FEATURES_OK;
        }
        if (self.state.status | set) & status::FEATURES_OK == 0 {
            set &= !status::DRIVER_OK;
        }
        self.state.status |= set;
    }

    fn begin_again(&mut self) {
        let queues = alloc::vec![Queue::default(); self.state.queues.len()];
        self.state = State { queues, ..State::default() };
        self.backend.reset();
    }

    /// "DEVICE_NEEDS_RESET": nothing is done before it is reset.
    fn needs_reset(&mut self) {
        self.state.busy = 0;
        self.state.status |= status::DEVICE_NEEDS_RESET;
        if self.has(status::DRIVER_OK) {
            self.state.interrupt |= CONFIGURATION;
        }
    }

    /// There is something in queue `index`.
    fn notified(&mut self, index: u32) {
        if let Some(bit) =
            1u32.checked_shl(index).filter(|_| (index as usize) < self.state.queues.len())
        {
            self.state.busy |= bit;
            self.work(index as usize);
        }
    }

    /// Works some of queue `index` off.
    fn work(&mut self, index: usize) {
        let runs = self.has(status::DRIVER_OK) && !self.has(status::DEVICE_NEEDS_RESET);
        let ready = self.state.queues.get_mut(index).and_then(|queue| queue.ready.as_mut());
        let bit = 1u32 << (index & 31);
        let Some(queue) = ready.filter(|_| runs) else {
            self.state.busy &= !bit;
            return;
        };
        let mut work = Work { backend: &mut self.backend, ram: &self.ram, chain: &mut self.chain };
        match work.off(index, queue) {
            Ok(done) => {
                if done.interrupt {
                    self.state.interrupt |= USED_BUFFER;
                }
                if !done.more {
                    self.state.busy &= !bit;
                }
            }
            Err(_) => self.needs_reset(),
        }
    }
}

/// What is needed to use chains.
struct Work<'a, B, R> {
    backend: &'a mut B,
    ram: &'a R,
    chain: &'a mut Chain,
}

/// What came of it.
struct Done {
    interrupt: bool,
    more: bool,
}

impl<B: Backend, R: GuestRam> Work<'_, B, R> {
    /// Uses at most [`Backend::AT_ONCE`] chains of `queue`.
    fn off(&mut self, index: usize, queue: &mut Virtqueue) -> Result<Done, Bad> {
        // While chains are taken, the driver need not say that there are more.
        queue.want_notification(self.ram, false)?;
        let mut more = true;
        for _ in 0..B::AT_ONCE {
            if queue.take(self.ram, self.chain)? {
                let written = self.backend.serve(index, self.chain, self.ram)?;
                queue.give_back(self.ram, self.chain.head, written)?;
            } else if queue.want_notification(self.ram, true)? {
                queue.want_notification(self.ram, false)?;
            } else {
                more = false;
                break;
            }
        }
        Ok(Done { interrupt: queue.publish(self.ram)?, more })
    }
}

impl<B: Backend, R: GuestRam + Send> Device for Transport<B, R> {
    fn read(&mut self, offset: u64, width: Width, _now: Ticks) -> u64 {
        match offset.checked_sub(register::CONFIG) {
            Some(offset) => self.backend.read_config(offset, width),
            None if width == Width::Word => self.register(offset).into(),
            None => 0,
        }
    }

    fn write(&mut self, offset: u64, width: Width, value: u64, _now: Ticks) {
        match offset.checked_sub(register::CONFIG) {
            Some(offset) => self.backend.write_config(offset, width, value),
            None if width == Width::Word => self.set_register(offset, low(value)),
            None => {}
        }
    }

    fn irq_level(&self) -> bool {
        self.state.interrupt != 0
    }

    fn advance(&mut self, _now: Ticks) {
        for index in 0..self.state.queues.len() {
            if self.state.busy >> index & 1 != 0 {
                self.work(index);
            }
        }
    }

    fn deadline(&self) -> Option<Ticks> {
        (self.state.busy != 0).then_some(Ticks(0))
    }

    fn reset(&mut self) {
        self.begin_again();
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
