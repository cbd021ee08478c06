//! The packed virtqueue (VIRTIO 1.2, "Packed Virtqueues"): one ring of descriptors, which the driver makes available and
//! the device overwrites with those that it has used.
//!
//! Whether a descriptor is available, or used, in this round, its flags say by a bit that changes its meaning each round
//! (the *wrap counter*). So a *position* is a place in two rounds: a number below twice the ring's size, with a wrap counter
//! of 1 in the first half. A chain of several descriptors is given back by one, and as many are passed over.

use super::descriptor::{DESCRIPTOR, Descriptor, INDIRECT, NEXT, REST, Table, WRITE};
use super::in_order::{Batch, Used};
use super::{Bad, Chain, Head, MAX_SIZE, Negotiated, Place, area};
use crate::addr::Ipa;
use crate::sync::atomic::{Ordering, fence};
use crate::virtio::ram::GuestRam;

/// Flags of a descriptor: each equals the wrap counter in one that is used; the second does not in one that is available.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Where a descriptor's flags are.
const FLAGS: u64 = 14;

/// `struct pvirtq_event_suppress`: its size; its flags, in the upper half: no events; one at the position in the lower half.
const SUPPRESS: u64 = 4;
const DISABLE: u32 = 1;
const DESC: u32 = 2;
/// The wrap counter in the lower half.
const WRAP: u16 = 1 << 15;

/// A packed queue that is ready.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PackedQueue {
    place: Place,
    negotiated: Negotiated,
    /// Where the next chain is taken.
    next: u16,
    /// Where the next one is given back.
    used: u16,
    /// Up to where the driver can see what was given back.
    published: u16,
    /// How many descriptors the chains have that were taken and not given back.
    held: u16,
    /// What belongs at `published`. It is written last, for the driver looks no further before it is there.
    first: Option<Used>,
    /// What is not yet in the ring, where chains are given back in order.
    batch: Option<Batch>,
}

impl PackedQueue {
    /// The queue at `place`. `None` when its size is not one up to 2^15, or its areas are not aligned as the standard wants
    /// them, or not in RAM.
    pub(super) fn new(place: Place, negotiated: Negotiated, ram: &impl GuestRam) -> Option<Self> {
        if place.size == 0 || place.size > MAX_SIZE {
            return None;
        }
        let areas = [
            area(place.descriptors, DESCRIPTOR * u64::from(place.size), 16),
            area(place.driver, SUPPRESS, 4),
            area(place.device, SUPPRESS, 4),
        ];
        let there = areas.iter().all(|area| area.is_some_and(|area| ram.holds(&area)));
        let (next, used, published, held) = (0, 0, 0, 0);
        let (first, batch) = (None, None);
        there.then_some(Self { place, negotiated, next, used, published, held, first, batch })
    }

    /// Whether it can be what has become of `fresh`.
    pub(super) fn is_sound(&self, fresh: &Self) -> bool {
        let size = self.place.size;
        // First of all, for all else counts with them.
        let batch = self.batch.map_or(0, |batch| batch.at);
        let positions = [self.next, self.used, self.published, batch];
        self.place == fresh.place
            && self.negotiated == fresh.negotiated
            && positions.iter().all(|at| *at <= fresh.last())
            && self.held <= size
            && self.distance(self.used, self.next) == self.held
            && self.distance(self.published, self.used) <= size
            && (self.batch.is_none() || self.negotiated.in_order)
    }

    /// How many descriptors the chains have that were taken and not given back.
    pub(super) const fn held(&self) -> u16 {
        self.held
    }

    /// See [`Virtqueue::take`](super::Virtqueue::take).
    #[inline(never)]
    pub(super) fn take(&mut self, ram: &impl GuestRam, chain: &mut Chain) -> Result<bool, Bad> {
        let mut at = self.next;
        // The flags, and in the same access all of it but the address.
        let mut rest = ram.read_u64(self.descriptor(at, REST))?;
        if !self.is_available(at, Descriptor::packed(0, rest).flags) {
            return Ok(false);
        }
        fence(Ordering::Acquire); // everything else of the chain was written before the first one's flags
        chain.begin();
        let free = self.place.size.saturating_sub(self.held);
        let (mut descriptors, mut of_table) = (0, 0);
        loop {
            if descriptors == free {
                return Err(Bad::TooLong);
            }
            descriptors += 1;
            let ipa = ram.read_u64(self.descriptor(at, 0))?;
            let descriptor = Descriptor::packed(ipa, rest);
            let goes_on = descriptor.flags & NEXT != 0;
            if descriptor.flags & INDIRECT == 0 {
                descriptor.append_to(chain)?;
            } else if self.negotiated.indirect && descriptors == 1 && !goes_on {
                let table = descriptor.table(self.place.size)?;
                of_table = table.entries;
                append_table(ram, table, chain)?;
            } else {
                return Err(Bad::Indirect);
            }
            at = self.after(at, 1);
            if !goes_on {
                chain.head = Head { id: descriptor.number, descriptors, ..chain.head };
                chain.looked_at = descriptors.max(of_table);
                break;
            }
            rest = ram.read_u64(self.descriptor(at, REST))?;
        }
        self.held += descriptors;
        self.next = at;
        Ok(true)
    }

    /// See [`Virtqueue::untake`](super::Virtqueue::untake).
    pub(super) fn untake(&mut self, head: Head) {
        let descriptors = head.descriptors.min(self.held);
        self.held -= descriptors;
        self.next = self.before(self.next, descriptors);
    }

    /// See [`Virtqueue::give_back`](super::Virtqueue::give_back).
    #[inline(never)]
    pub(super) fn give_back(
        &mut self,
        ram: &impl GuestRam,
        head: Head,
        written: u32,
    ) -> Result<(), Bad> {
        let used = Used { id: head.id, written };
        let next = Batch { at: self.used, used };
        let descriptors = head.descriptors.min(self.held);
        self.held -= descriptors;
        self.used = self.after(self.used, descriptors);
        let due = if self.negotiated.in_order {
            Batch::add(&mut self.batch, next, u64::from(written) == head.room)
        } else {
            Some(next)
        };
        due.map_or(Ok(()), |batch| self.put(ram, batch))
    }

    /// Writes what tells of chains that were used, or keeps it for last.
    #[inline(always)]
    fn put(&mut self, ram: &impl GuestRam, Batch { at, used, .. }: Batch) -> Result<(), Bad> {
        if at != self.published {
            return self.write(ram, at, used);
        }
        self.first = Some(used);
        Ok(())
    }

    /// See [`Virtqueue::publish`](super::Virtqueue::publish).
    #[inline(never)]
    pub(super) fn publish(&mut self, ram: &impl GuestRam) -> Result<bool, Bad> {
        if let Some(batch) = self.batch.take() {
            self.put(ram, batch)?;
        }
        let Some(first) = self.first.take() else { return Ok(false) };
        fence(Ordering::Release); // the driver sees the rest, and what was written, before the first one's flags
        self.write(ram, self.published, first)?;
        let before = core::mem::replace(&mut self.published, self.used);
        fence(Ordering::SeqCst); // they are there before it is read whether the driver waits for them
        let event = ram.read_u32(Ipa::new(self.place.driver))?;
        let [low, high, ..] = event.to_le_bytes();
        Ok(match event >> 16 & 3 {
            DISABLE => false,
            // "Driver and Device Event Suppression": whether the event lies among what was published.
            DESC if self.negotiated.event_index => {
                let event = self.of_event(u16::from_le_bytes([low, high]));
                self.distance(before, event) < self.distance(before, self.used)
            }
            _ => true,
        })
    }

    /// See [`Virtqueue::want_notification`](super::Virtqueue::want_notification).
    pub(super) fn want_notification(&self, ram: &impl GuestRam, wanted: bool) -> Result<bool, Bad> {
        let device = Ipa::new(self.place.device);
        if !wanted {
            ram.write_u32(device, DISABLE << 16)?;
            return Ok(false);
        }
        let event = u32::from(self.event(self.next));
        ram.write_u32(device, if self.negotiated.event_index { DESC << 16 | event } else { 0 })?;
        fence(Ordering::SeqCst); // what is wanted is there before it is read whether a chain has come
        let flags = ram.read_u16(self.descriptor(self.next, FLAGS))?;
        Ok(self.is_available(self.next, flags))
    }

    /// Writes a used descriptor, all but the address, in one access.
    fn write(&self, ram: &impl GuestRam, at: u16, used: Used) -> Result<(), Bad> {
        let mut flags = if used.written > 0 { WRITE } else { 0 };
        if self.wrap(at) {
            flags |= AVAIL | USED;
        }
        let rest = u64::from(used.written) | u64::from(used.id) << 32 | u64::from(flags) << 48;
        Ok(ram.write_u64(self.descriptor(at, REST), rest)?)
    }

    #[inline(always)]
    fn is_available(&self, at: u16, flags: u16) -> bool {
        flags & (AVAIL | USED) == if self.wrap(at) { AVAIL } else { USED }
    }

    /// The wrap counter at a position.
    #[inline(always)]
    fn wrap(&self, at: u16) -> bool {
        at < self.place.size
    }

    /// Byte `byte` of the descriptor there.
    #[inline(always)]
    fn descriptor(&self, at: u16, byte: u64) -> Ipa {
        let number = if self.wrap(at) { at } else { at.wrapping_sub(self.place.size) };
        Ipa::new(self.place.descriptors.wrapping_add(DESCRIPTOR * u64::from(number) + byte))
    }

    /// A position as an event suppression structure has it.
    fn event(&self, at: u16) -> u16 {
        if self.wrap(at) { at | WRAP } else { at - self.place.size }
    }

    /// The position that an event suppression structure has; one that nothing reaches if there is no such descriptor.
    fn of_event(&self, event: u16) -> u16 {
        let number = event & !WRAP;
        match event & WRAP {
            _ if number >= self.place.size => u16::MAX,
            0 => number + self.place.size,
            _ => number,
        }
    }

    /// How many positions there are: two rounds. 0 stands for 2^16, and what is counted on from there wraps as positions do.
    #[inline(always)]
    fn positions(&self) -> u16 {
        self.place.size.wrapping_mul(2)
    }

    /// The last position of two rounds.
    #[inline(always)]
    fn last(&self) -> u16 {
        self.positions().wrapping_sub(1)
    }

    /// The position `count` descriptors further on, a round at most.
    #[inline(always)]
    fn after(&self, at: u16, count: u16) -> u16 {
        let next = at.wrapping_add(count);
        if count <= self.last().wrapping_sub(at) {
            next
        } else {
            next.wrapping_sub(self.positions())
        }
    }

    /// The position `count` descriptors back, a round at most.
    #[inline(always)]
    fn before(&self, at: u16, count: u16) -> u16 {
        let next = at.wrapping_sub(count);
        if count <= at { next } else { next.wrapping_add(self.positions()) }
    }

    /// How many descriptors lie between two positions, two rounds at most.
    #[inline(always)]
    fn distance(&self, from: u16, to: u16) -> u16 {
        let between = to.wrapping_sub(from);
        if from <= to { between } else { between.wrapping_add(self.positions()) }
    }
}

/// Appends the buffers of an indirect table: they come one after the other, and flags other than `WRITE` mean nothing.
fn append_table(ram: &impl GuestRam, table: Table, chain: &mut Chain) -> Result<(), Bad> {
    for number in 0..table.entries {
        let (ipa, rest) = table.read(ram, number)?;
        Descriptor::packed(ipa, rest).append_to(chain)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
