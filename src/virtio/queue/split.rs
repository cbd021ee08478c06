//! The split virtqueue (VIRTIO 1.2, "Split Virtqueues"): a table of descriptors, a ring of heads that the driver
//! makes available, and one of heads that the device has used.

use super::descriptor::{DESCRIPTOR, Descriptor, INDIRECT, NEXT, Table};
use super::in_order::{Batch, Used};
use super::{Bad, Chain, Head, MAX_SIZE, Negotiated, Place, area};
use crate::addr::Ipa;
use crate::sync::atomic::{Ordering, fence};
use crate::virtio::ram::GuestRam;

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

/// A split queue that is ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SplitQueue {
    place: Place,
    negotiated: Negotiated,
    /// How many heads were in the available ring when the device last looked, modulo 2^16.
    offered: u16,
    /// How many of them were taken.
    taken: u16,
    /// How many were put into the used ring.
    used: u16,
    /// How many of them the driver can see.
    published: u16,
    /// What is not yet in the used ring, where that is given in order.
    batch: Option<Batch>,
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
        let (offered, taken, used, published) = (0, 0, 0, 0);
        there.then_some(Self { place, negotiated, offered, taken, used, published, batch: None })
    }

    /// Whether it can be what has become of `fresh`.
    pub(super) fn is_sound(&self, fresh: &Self) -> bool {
        let size = self.place.size;
        let within = |from: u16, to: u16| to.wrapping_sub(from) <= size;
        self.place == fresh.place
            && self.negotiated == fresh.negotiated
            && within(self.published, self.used)
            && within(self.used, self.offered)
            && within(self.taken, self.offered)
            && within(self.used, self.taken)
            && (self.batch.is_none() || self.negotiated.in_order)
    }

    /// How many chains were taken and not given back.
    pub(super) const fn held(&self) -> u16 {
        self.taken.wrapping_sub(self.used)
    }

    /// See [`Virtqueue::is_drained`](super::Virtqueue::is_drained).
    pub(super) const fn is_drained(&self) -> bool {
        self.taken == self.offered
    }

    /// See [`Virtqueue::take`](super::Virtqueue::take).
    #[inline]
    pub(super) fn take(&mut self, ram: &impl GuestRam, chain: &mut Chain) -> Result<bool, Bad> {
        if self.taken == self.offered && !self.look(ram)? {
            return Ok(false);
        }
        let slot = self.taken & (self.place.size - 1);
        let first = ram.read_u16(self.available(AVAIL_RING + 2 * u64::from(slot)))?;
        self.taken = self.taken.wrapping_add(1);
        self.walk(ram, first, chain)?;
        Ok(true)
    }

    /// Looks how many heads the driver has put there by now. False when all of them were taken.
    fn look(&mut self, ram: &impl GuestRam) -> Result<bool, Bad> {
        let index = ram.read_u16(self.available(AVAIL_INDEX))?;
        let waiting = index.wrapping_sub(self.taken);
        // What was taken has descriptors as long as it is not used.
        if waiting > self.place.size.saturating_sub(self.held()) {
            return Err(Bad::Available(waiting));
        }
        fence(Ordering::Acquire); // the ring and what it leads to were written before the index
        self.offered = index;
        Ok(waiting > 0)
    }

    /// See [`Virtqueue::untake`](super::Virtqueue::untake).
    pub(super) fn untake(&mut self) {
        self.taken = self.taken.wrapping_sub(1);
    }

    /// Follows the chain that begins with descriptor `first`.
    fn walk(&self, ram: &impl GuestRam, first: u16, chain: &mut Chain) -> Result<(), Bad> {
        chain.begin();
        chain.head = Head { id: first, descriptors: 1, room: 0 };
        let mut table = Table { at: self.place.descriptors, entries: self.place.size };
        let mut within_indirect = false;
        let mut number = first;
        // However the descriptors lead, a chain has no more of them than the queue; one may stand for a table.
        let mut left = self.place.size;
        loop {
            let (ipa, rest) = table.read(ram, number)?;
            let descriptor = Descriptor::split(ipa, rest);
            if descriptor.flags & INDIRECT != 0 {
                let allowed = self.negotiated.indirect && !within_indirect;
                if !allowed || descriptor.flags & NEXT != 0 {
                    return Err(Bad::Indirect);
                }
                table = descriptor.table(self.place.size)?;
                within_indirect = true;
                number = 0;
                continue;
            }
            left = left.checked_sub(1).ok_or(Bad::TooLong)?;
            descriptor.append_to(chain)?;
            if descriptor.flags & NEXT == 0 {
                chain.looked_at = self.place.size - left;
                return Ok(());
            }
            number = descriptor.number;
        }
    }

    /// See [`Virtqueue::give_back`](super::Virtqueue::give_back).
    #[inline]
    pub(super) fn give_back(
        &mut self,
        ram: &impl GuestRam,
        head: Head,
        written: u32,
    ) -> Result<(), Bad> {
        let used = Used { id: head.id, written };
        let next = Batch { at: self.used, used };
        self.used = self.used.wrapping_add(1);
        let due = if self.negotiated.in_order {
            Batch::add(&mut self.batch, next, u64::from(written) == head.room)
        } else {
            Some(next)
        };
        due.map_or(Ok(()), |batch| self.write(ram, batch))
    }

    /// Writes an element of the used ring.
    #[inline]
    fn write(&self, ram: &impl GuestRam, batch: Batch) -> Result<(), Bad> {
        let Batch { at, used: Used { id, written }, .. } = batch;
        let slot = at & (self.place.size - 1);
        let element = USED_RING + USED_ELEMENT * u64::from(slot);
        Ok(ram.write_words(self.device(element), [id.into(), written])?)
    }

    /// See [`Virtqueue::publish`](super::Virtqueue::publish).
    #[inline]
    pub(super) fn publish(&mut self, ram: &impl GuestRam) -> Result<bool, Bad> {
        if self.published == self.used {
            return Ok(false);
        }
        if let Some(batch) = self.batch.take() {
            self.write(ram, batch)?;
        }
        fence(Ordering::Release); // the driver sees the ring's elements, and what was written, before the index
        ram.write_u16(self.device(USED_INDEX), self.used)?;
        let before = core::mem::replace(&mut self.published, self.used);
        fence(Ordering::SeqCst); // the index is there before it is read whether the driver waits for it
        if !self.negotiated.event_index {
            return Ok(ram.read_u16(self.available(0))? & NO_INTERRUPT == 0);
        }
        let event = ram.read_u16(self.available(AVAIL_RING + 2 * u64::from(self.place.size)))?;
        // "Used Buffer Notification Suppression": whether the event was passed since.
        Ok(self.used.wrapping_sub(event).wrapping_sub(1) < self.used.wrapping_sub(before))
    }

    /// See [`Virtqueue::want_notification`](super::Virtqueue::want_notification).
    #[inline(always)]
    pub(super) fn want_notification(&self, ram: &impl GuestRam, wanted: bool) -> Result<bool, Bad> {
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

#[cfg(test)]
mod tests;
