//! Somebody's part of a disk of the machine's.

use alloc::sync::Arc;

use super::disk::{Extras, IoError, Operation, SECTOR};
use super::share::{Cell, Lane, Lent, Share, Whereabouts};
use crate::addr::{Ipa, Region};
use crate::device::doorbell::Doorbell;
use crate::memory::Segment;
use crate::virtio::ram::SharedRam;

/// Where on a disk somebody's part is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The disk.
    pub share: Arc<Share>,
    /// The part's first sector.
    pub first: u64,
    /// How many sectors, all of them on the disk.
    pub sectors: u64,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// A part of a disk, for the one device that has it.
#[derive(Debug)]
pub struct Part {
    place: Place,
    lane: usize,
}

impl Part {
    /// The part at `place`. What the disk has of it is counted in `lent`.
    pub fn new(place: Place, lent: &Arc<Lent>) -> Self {
        let mut inner = place.share.inner.lock();
        // One that was closed is nobody's when the disk has nothing of it.
        let free = inner.lanes.iter().position(|lane| !lane.open && lane.at_disk == 0);
        let lane = free.unwrap_or(inner.lanes.len());
        match inner.lanes.get_mut(lane) {
            Some(there) => *there = Lane::new(lent.clone()),
            None => inner.lanes.push(Lane::new(lent.clone())),
        }
        drop(inner);
        Self { place, lane }
    }

    /// `bell` is rung from now on when something has come back.
    pub fn set_bell(&self, bell: Doorbell) {
        self.place.share.with_lane(self.lane, |lane| lane.bell = Some(bell));
    }

    /// Requests are about this RAM from now on.
    pub fn set_ram(&self, ram: SharedRam) {
        self.place.share.with_lane(self.lane, |lane| lane.ram = Some(ram));
    }

    /// How many sectors it has.
    pub const fn sectors(&self) -> u64 {
        self.place.sectors
    }

    /// Whether it can only be read.
    pub const fn is_read_only(&self) -> bool {
        self.place.read_only
    }

    /// The most pieces, and the longest one, that the data of a request may have.
    pub fn limits(&self) -> (usize, u64) {
        (self.place.share.disk().max_segments(), self.place.share.disk().max_segment_size())
    }

    /// What can be done beside reading and writing.
    pub fn extras(&self) -> Extras {
        if self.place.read_only { Extras::default() } else { self.place.share.disk().extras() }
    }

    /// How many requests there is room for.
    pub fn room(&self) -> usize {
        self.place.share.with_lane(self.lane, |lane| lane.room()).unwrap_or(0)
    }

    /// Hands a request over, of which `owner` is told when it has come back. Its sectors are counted from the part's first; its
    /// bytes are at `data`, each element in one piece of RAM, and stay there until the disk has done with them. Returns whether it
    /// was taken: there has to be room, and all of that has to be RAM. What lies outside the part, or is to be written where
    /// nothing can be, comes back as failed.
    pub fn submit(
        &self,
        owner: u16,
        operation: Operation,
        data: impl Iterator<Item = Option<Region<Ipa>>>,
    ) -> bool {
        let share = &self.place.share;
        let mut inner = share.inner.lock();
        let Some(lane) = inner.lanes.get_mut(self.lane).filter(|lane| lane.open) else {
            return false;
        };
        if lane.room() == 0 {
            return false;
        }
        let free = |cell: &Cell| cell.whereabouts == Whereabouts::Free;
        let Some(index) = lane.cells.iter().position(free) else { return false };
        let Some(cell) = lane.cells.get_mut(index) else { return false };
        cell.owner = owner;
        if !cell.hold(lane.ram.as_ref(), data) {
            cell.clear(lane.ram.as_ref());
            return false;
        }
        cell.whereabouts = Whereabouts::Waiting;
        let size = cell.segments.iter().map(Segment::size).fold(0, u64::saturating_add);
        match self.placed(operation, size / SECTOR) {
            Some(operation) => {
                cell.operation = operation;
                lane.waiting.push_back(u8::try_from(index).unwrap_or(u8::MAX));
                if share.hand_over(&mut inner) {
                    share.go_on(&mut inner);
                }
            }
            None => lane.finish(index, Err(IoError::Device)),
        }
        true
    }

    /// The same on the disk, if all of it is in the part. `sectors` are those of the data.
    fn placed(&self, operation: Operation, sectors: u64) -> Option<Operation> {
        let Place { first: start, sectors: all, read_only, .. } = self.place;
        let there = |first: u64, count: u64| {
            let end = first.checked_add(count)?;
            (end <= all).then(|| start.checked_add(first)).flatten()
        };
        Some(match operation {
            Operation::Read(first) => Operation::Read(there(first, sectors)?),
            Operation::Flush => Operation::Flush,
            _ if read_only => return None,
            Operation::Write(first) => Operation::Write(there(first, sectors)?),
            Operation::Discard(first, count) => {
                Operation::Discard(there(first, count.into())?, count)
            }
            Operation::Zero(first, count, unmap) => {
                Operation::Zero(there(first, count.into())?, count, unmap)
            }
            Operation::Serial => return None,
        })
    }

    /// What has come back next: its owner, and what became of it.
    pub fn completed(&self) -> Option<(u16, Result<(), IoError>)> {
        self.place.share.with_lane(self.lane, |lane| lane.done.pop_front()).flatten()
    }

    /// Nobody waits for the requests of these owners any more. What the disk has of them is an orphan until it comes back.
    pub fn abandon(&self, whose: impl Fn(u16) -> bool) {
        self.place.share.with_lane(self.lane, |lane| lane.abandon(whose));
    }

    /// Nobody waits for anything any more, and nothing is taken.
    pub fn close(&self) {
        let share = &self.place.share;
        share.with_lane(self.lane, |lane| {
            lane.abandon(|_| true);
            lane.open = false;
            lane.bell = None;
            lane.let_ram_go();
        });
        // Others may have waited for their turn.
        share.attend();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.close();
    }
}
