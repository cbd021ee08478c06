//! The split virtqueue (VIRTIO 1.2, "Split Virtqueues"): a table of descriptors, a ring of heads that the driver
//! makes available, and one of heads that the device has used.

use core::sync::atomic::{Ordering, fence};

use super::{Bad, Buffer, Chain, MAX_SIZE, Place, area};
use crate::addr::Ipa;
use crate::virtio::ram::GuestRam;

/// `struct virtq_desc`: its size, and its flags.
const DESCRIPTOR: u64 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// `struct virtq_avail`: flags, index, ring, and with `EVENT_IDX` `used_event`.
const AVAIL_INDEX: u64 = 2;
const AVAIL_RING: u64 = 4;
/// Its flags: the driver does not want to be interrupted.
const NO_INTERRUPT: u16 = 1;

/// `struct virtq_used`: flags, index, ring of head and length, and with `EVENT_IDX` `avail_event`.
const USED_INDEX: u64 = 2;
const USED_RING: u64 = 4;
const USED_ELEMENT: u64 = 8;
/// Its flags: the device does not want to be notified.
const NO_NOTIFY: u16 = 1;

/// What the driver has negotiated that changes how a queue works.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Negotiated {
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_index: bool,
}

/// A split queue that is ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SplitQueue {
    place: Place,
    negotiated: Negotiated,
    /// How many heads were taken from the available ring, modulo 2^16.
    taken: u16,
    /// How many were put into the used ring.
    used: u16,
    /// How many of them the driver can see.
    published: u16,
    /// How many there were when the driver was last asked whether it wants an interrupt.
    told: u16,
}

impl SplitQueue {
    /// The queue at `place`. `None` when it has no size that is a power of two up to 2^15, or its areas are not aligned
    /// as the standard wants them, or not in RAM.
    pub fn new(place: Place, negotiated: Negotiated, ram: &impl GuestRam) -> Option<Self> {
        let size = u64::from(place.size);
        if !place.size.is_power_of_two() || place.size > MAX_SIZE {
            return None;
        }
        let areas = [
            area(place.descriptors, DESCRIPTOR * size, 16),
            area(place.driver, AVAIL_RING + 2 * size + 2, 2),
            area(place.device, USED_RING + USED_ELEMENT * size + 2, 4),
        ];
        let there = areas.iter().all(|area| area.is_some_and(|area| ram.holds(&area)));
        there.then_some(Self { place, negotiated, taken: 0, used: 0, published: 0, told: 0 })
    }

    /// Takes the next chain that is available. False when there is none.
    ///
    /// # Errors
    /// The driver has broken the standard's rules.
    pub fn take(&mut self, ram: &impl GuestRam, chain: &mut Chain) -> Result<bool, Bad> {
        let index = ram.read_u16(self.available(AVAIL_INDEX))?;
        let waiting = index.wrapping_sub(self.taken);
        if waiting == 0 {
            return Ok(false);
        }
        if waiting > self.place.size {
            return Err(Bad::Available(waiting));
        }
        fence(Ordering::Acquire); // the ring and what it leads to were written before the index
        let slot = self.taken & (self.place.size - 1);
        let head = ram.read_u16(self.available(AVAIL_RING + 2 * u64::from(slot)))?;
        self.taken = self.taken.wrapping_add(1);
        self.walk(ram, head, chain)?;
        Ok(true)
    }

    /// Follows the chain that begins with the descriptor `head`.
    fn walk(&self, ram: &impl GuestRam, head: u16, chain: &mut Chain) -> Result<(), Bad> {
        chain.begin(head);
        let mut table = Table { at: self.place.descriptors, entries: self.place.size };
        let mut within_indirect = false;
        let mut number = head;
        // However the descriptors lead, a chain has no more of them than the queue; one may stand for a table.
        let mut left = self.place.size;
        loop {
            let descriptor = table.read(ram, number)?;
            if descriptor.flags & INDIRECT != 0 {
                let allowed = self.negotiated.indirect && !within_indirect;
                if !allowed || descriptor.flags & NEXT != 0 {
                    return Err(Bad::Indirect);
                }
                table = self.indirect(descriptor)?;
                within_indirect = true;
                number = 0;
                continue;
            }
            left = left.checked_sub(1).ok_or(Bad::TooLong)?;
            let Descriptor { ipa, size, flags, next } = descriptor;
            chain.append(Buffer { ipa: Ipa::new(ipa), size }, flags & WRITE != 0)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            number = next;
        }
    }

    /// The table that an indirect descriptor stands for.
    fn indirect(&self, descriptor: Descriptor) -> Result<Table, Bad> {
        let Descriptor { ipa, size, .. } = descriptor;
        let whole = size != 0 && u64::from(size) % DESCRIPTOR == 0;
        let entries = u16::try_from(u64::from(size) / DESCRIPTOR).ok();
        let entries = entries.filter(|entries| whole && *entries <= self.place.size);
        Ok(Table { at: ipa, entries: entries.ok_or(Bad::Table(size))? })
    }

    /// Gives back the chain that began with `head`, of whose buffers `written` bytes were written. The driver sees it after
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// The driver has taken the ring away.
    pub fn give_back(&mut self, ram: &impl GuestRam, head: u16, written: u32) -> Result<(), Bad> {
        let slot = self.used & (self.place.size - 1);
        let element = USED_RING + USED_ELEMENT * u64::from(slot);
        ram.write_u32(self.device(element), head.into())?;
        ram.write_u32(self.device(element + 4), written)?;
        self.used = self.used.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver what was given back. Returns whether it wants an interrupt for that.
    ///
    /// # Errors
    /// The driver has taken the ring away.
    pub fn publish(&mut self, ram: &impl GuestRam) -> Result<bool, Bad> {
        if self.published == self.used {
            return Ok(false);
        }
        fence(Ordering::Release); // the driver sees the ring's elements, and what was written, before the index
        ram.write_u16(self.device(USED_INDEX), self.used)?;
        self.published = self.used;
        fence(Ordering::SeqCst); // the index is there before it is read whether the driver waits for it
        if !self.negotiated.event_index {
            return Ok(ram.read_u16(self.available(0))? & NO_INTERRUPT == 0);
        }
        let event = ram.read_u16(self.available(AVAIL_RING + 2 * u64::from(self.place.size)))?;
        let before = core::mem::replace(&mut self.told, self.used);
        // "Used Buffer Notification Suppression": whether the event was passed since.
        Ok(self.used.wrapping_sub(event).wrapping_sub(1) < self.used.wrapping_sub(before))
    }

    /// Asks the driver to notify the device of the next chain, or of none. Returns whether one has come in the meantime,
    /// of which the driver need not notify.
    ///
    /// # Errors
    /// The driver has taken the ring away.
    pub fn want_notification(&self, ram: &impl GuestRam, wanted: bool) -> Result<bool, Bad> {
        if !self.negotiated.event_index {
            ram.write_u16(self.device(0), if wanted { 0 } else { NO_NOTIFY })?;
        } else if wanted {
            let event = USED_RING + USED_ELEMENT * u64::from(self.place.size);
            ram.write_u16(self.device(event), self.taken)?;
        }
        if !wanted {
            return Ok(false);
        }
        fence(Ordering::SeqCst); // what is wanted is there before it is read whether a chain has come
        Ok(ram.read_u16(self.available(AVAIL_INDEX))? != self.taken)
    }

    fn available(&self, offset: u64) -> Ipa {
        Ipa::new(self.place.driver.wrapping_add(offset))
    }

    fn device(&self, offset: u64) -> Ipa {
        Ipa::new(self.place.device.wrapping_add(offset))
    }
}

/// A copy of a descriptor.
#[derive(Clone, Copy)]
struct Descriptor {
    ipa: u64,
    size: u32,
    flags: u16,
    next: u16,
}

/// Descriptors one after the other.
#[derive(Clone, Copy)]
struct Table {
    at: u64,
    entries: u16,
}

impl Table {
    fn read(self, ram: &impl GuestRam, number: u16) -> Result<Descriptor, Bad> {
        if number >= self.entries {
            return Err(Bad::Descriptor(number));
        }
        let at = self.at.wrapping_add(DESCRIPTOR * u64::from(number));
        let ipa = ram.read_u64(Ipa::new(at))?;
        let rest = ram.read_u64(Ipa::new(at.wrapping_add(8)))?.to_le_bytes();
        let [a, b, c, d, flags @ .., e, f] = rest;
        Ok(Descriptor {
            ipa,
            size: u32::from_le_bytes([a, b, c, d]),
            flags: u16::from_le_bytes(flags),
            next: u16::from_le_bytes([e, f]),
        })
    }
}

#[cfg(test)]
mod tests;
