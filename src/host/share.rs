//! A disk of the machine's of which several guests have parts.
//!
//! A [`Part`](super::part::Part) hands its requests to its *lane*, where they wait until the disk takes them, one of each lane in turn; so nobody
//! who asks for much keeps others from their turn. A lane has [`DEPTH`] requests at most, and half of them with the disk.
//! What has come back waits in the lane until the part's device asks, whose bell is rung.
//!
//! The frames of a request are with the disk from the moment it is submitted until it has come back; so long they stay the
//! guest's, whatever it gives up meanwhile. [`Lent`] counts these
//! for a VM: its memory is given back when there is none, and what a reset has taken away from a device (*orphans*) holds the
//! guest up. A disk that does not answer for [`PATIENCE_SECONDS`] is turned off, and all that it had has failed.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::alarm::Alarm;
use super::disk::{HostDisk, IoError, MAX_SEGMENTS, Operation, Refused, Request, Token};
use crate::addr::{Ipa, Region};
use crate::device::doorbell::Doorbell;
use crate::memory::Segment;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::time::Ticks;
use crate::virtio::ram::SharedRam;

/// How many requests of one part there are at a time.
pub const DEPTH: usize = 16;
/// How many of them the disk has.
const AT_DISK: usize = 8;
/// For how long the disk may have one.
pub const PATIENCE_SECONDS: u64 = 30;

/// What disks have of a VM's memory.
#[derive(Debug, Default)]
pub struct Lent {
    /// Requests that a disk has.
    under_way: AtomicU32,
    /// Those of them whose device has been reset.
    orphans: AtomicU32,
}

impl Lent {
    /// Whether some disk still reads or writes the VM's memory.
    pub fn is_any(&self) -> bool {
        self.under_way.load(Ordering::Acquire) != 0
    }

    /// Whether some disk does so for a device that has been reset meanwhile.
    #[inline]
    pub fn has_orphans(&self) -> bool {
        self.orphans.load(Ordering::Acquire) != 0
    }
}

/// Where a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Whereabouts {
    /// There is none.
    Free,
    /// In its lane.
    Waiting,
    /// With the disk, since this moment.
    AtDisk(Ticks),
    /// The same, and nobody waits for it.
    Orphan(Ticks),
}

/// A request.
pub(super) struct Cell {
    pub whereabouts: Whereabouts,
    pub owner: u16,
    pub operation: Operation,
    pub segments: Vec<Segment>,
    /// What its guest's RAM has pinned for it.
    pub pinned: Vec<Region<Ipa>>,
}

impl Cell {
    /// Pins what the request is about. Returns whether all of it is RAM; what is, is pinned either way.
    pub fn hold(
        &mut self,
        ram: Option<&SharedRam>,
        data: impl Iterator<Item = Option<Region<Ipa>>>,
    ) -> bool {
        self.segments.clear();
        let memory = ram.and_then(|ram| ram.get());
        for ipas in data {
            let Some((memory, ipas)) = memory.zip(ipas) else { return false };
            let Ok(mut segments) = memory.segments(ipas) else { return false };
            self.pinned.push(ipas);
            let Some(segment) = segments.next().filter(|segment| segment.size() == ipas.size())
            else {
                return false;
            };
            self.segments.push(segment);
        }
        self.segments.len() <= MAX_SEGMENTS
    }

    /// There is no request in it any more. What it had pinned is the guest's to give up.
    pub fn clear(&mut self, ram: Option<&SharedRam>) {
        self.whereabouts = Whereabouts::Free;
        let memory = ram.and_then(|ram| ram.get());
        for ipas in self.pinned.drain(..) {
            if let Some(memory) = memory {
                memory.unpin(ipas);
            }
        }
    }
}

/// A part's requests.
pub(super) struct Lane {
    pub cells: Box<[Cell]>,
    /// Those that wait, in their order.
    pub waiting: VecDeque<u8>,
    /// What has come back, by owner.
    pub done: VecDeque<(u16, Result<(), IoError>)>,
    pub at_disk: usize,
    pub bell: Option<Doorbell>,
    lent: Arc<Lent>,
    /// The RAM that its requests are about.
    pub ram: Option<SharedRam>,
    /// Somebody has it.
    pub open: bool,
}

pub(super) struct Inner {
    pub lanes: Vec<Lane>,
    /// Whose turn it is.
    turn: usize,
}

/// A disk of the machine's, shared.
pub struct Share {
    disk: Arc<dyn HostDisk>,
    pub(super) inner: TicketMutex<Inner>,
    clock: fn() -> Ticks,
    patience: Ticks,
    alarm: &'static Alarm,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("sectors", &self.disk.sectors()).finish_non_exhaustive()
    }
}

impl Lane {
    pub fn new(lent: Arc<Lent>) -> Self {
        let cell = || Cell {
            whereabouts: Whereabouts::Free,
            owner: 0,
            operation: Operation::Flush,
            segments: Vec::with_capacity(MAX_SEGMENTS),
            pinned: Vec::with_capacity(MAX_SEGMENTS),
        };
        Self {
            cells: (0..DEPTH).map(|_| cell()).collect(),
            waiting: VecDeque::with_capacity(DEPTH),
            done: VecDeque::with_capacity(DEPTH),
            at_disk: 0,
            bell: None,
            lent,
            ram: None,
            open: true,
        }
    }

    /// How many requests it takes yet. What has come back and was not fetched counts.
    pub fn room(&self) -> usize {
        let taken = self.cells.iter().filter(|cell| cell.whereabouts != Whereabouts::Free).count();
        DEPTH.saturating_sub(taken + self.done.len())
    }

    pub fn finish(&mut self, index: usize, result: Result<(), IoError>) {
        let Some(cell) = self.cells.get_mut(index) else { return };
        let (owner, was) = (cell.owner, cell.whereabouts);
        cell.clear(self.ram.as_ref());
        match was {
            Whereabouts::Free => return,
            Whereabouts::Waiting => self.done.push_back((owner, result)),
            Whereabouts::AtDisk(_) => {
                self.at_disk -= 1;
                self.done.push_back((owner, result));
                self.lent.under_way.fetch_sub(1, Ordering::AcqRel);
            }
            Whereabouts::Orphan(_) => {
                self.at_disk -= 1;
                self.let_ram_go();
                // Last: from here on the VM may be taken apart.
                self.lent.orphans.fetch_sub(1, Ordering::AcqRel);
                self.lent.under_way.fetch_sub(1, Ordering::AcqRel);
            }
        }
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    /// A lane that nobody has any more has no RAM as soon as the disk has nothing of it.
    pub fn let_ram_go(&mut self) {
        if !self.open && self.at_disk == 0 {
            self.ram = None;
        }
    }

    /// Nobody waits for these owners' requests any more.
    pub fn abandon(&mut self, whose: impl Fn(u16) -> bool) {
        let (cells, ram) = (&mut self.cells, self.ram.as_ref());
        self.waiting.retain(|index| {
            let cell = cells.get_mut(usize::from(*index)).filter(|cell| whose(cell.owner));
            cell.map(|cell| cell.clear(ram)).is_none()
        });
        for cell in cells.iter_mut().filter(|cell| whose(cell.owner)) {
            if let Whereabouts::AtDisk(since) = cell.whereabouts {
                cell.whereabouts = Whereabouts::Orphan(since);
                self.lent.orphans.fetch_add(1, Ordering::AcqRel);
            }
        }
        self.done.retain(|(owner, _)| !whose(*owner));
    }
}

impl Share {
    /// The disk, which nobody has parts of yet. It may have a request for `patience`; `alarm` says when to look.
    pub fn new(
        disk: Arc<dyn HostDisk>,
        clock: fn() -> Ticks,
        patience: Ticks,
        alarm: &'static Alarm,
    ) -> Self {
        let inner = TicketMutex::new(Inner { lanes: Vec::new(), turn: 0 });
        Self { disk, inner, clock, patience, alarm }
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<dyn HostDisk> {
        &self.disk
    }

    /// The disk may have completed something: takes that in, and hands it more.
    pub fn attend(&self) {
        self.go_on(&mut self.inner.lock());
    }

    /// Turns the disk off if it has had a request for too long, and sets the alarm for the next look.
    pub fn look(&self, now: Ticks) {
        let mut inner = self.inner.lock();
        let cells = inner.lanes.iter().flat_map(|lane| &lane.cells);
        let since = cells.filter_map(|cell| match cell.whereabouts {
            Whereabouts::AtDisk(since) | Whereabouts::Orphan(since) => Some(since),
            Whereabouts::Free | Whereabouts::Waiting => None,
        });
        let Some(oldest) = since.min() else { return };
        let due = oldest.saturating_add(self.patience);
        if due > now {
            return self.alarm.set(due);
        }
        // It may only be that nobody has looked.
        self.go_on(&mut inner);
        let late = |cell: &Cell| match cell.whereabouts {
            Whereabouts::AtDisk(since) | Whereabouts::Orphan(since) => {
                since.saturating_add(self.patience) <= now
            }
            Whereabouts::Free | Whereabouts::Waiting => false,
        };
        if inner.lanes.iter().flat_map(|lane| &lane.cells).any(late) {
            log::error!("a disk of the machine's has not answered for {PATIENCE_SECONDS} s");
            self.disk.give_up();
            self.go_on(&mut inner);
        } else {
            self.alarm.set(now.saturating_add(self.patience));
        }
    }

    /// Takes in what has come back, and hands the disk what it takes, until nothing more happens. What is under way and what waits
    /// is bounded, and nothing is added here.
    pub(super) fn go_on(&self, inner: &mut Inner) {
        loop {
            while let Some(done) = self.disk.completed() {
                let (lane, cell) = of_token(done.token);
                if let Some(lane) = inner.lanes.get_mut(lane) {
                    lane.finish(cell, done.result);
                }
            }
            if !self.hand_over(inner) {
                return;
            }
        }
    }

    /// Hands the disk what it takes, of each lane one in turn. Returns whether something may have come back at once.
    pub(super) fn hand_over(&self, inner: &mut Inner) -> bool {
        let (count, mut idle, mut flushed) = (inner.lanes.len(), 0, false);
        while idle < count {
            inner.turn = (inner.turn + 1) % count;
            let turn = inner.turn;
            let Some(lane) = inner.lanes.get_mut(turn) else { return flushed };
            let next = lane.waiting.front().copied().filter(|_| lane.at_disk < AT_DISK);
            let Some(index) = next.map(usize::from) else {
                idle += 1;
                continue;
            };
            idle = 0;
            let Some(cell) = lane.cells.get_mut(index) else { return flushed };
            let (operation, segments) = (cell.operation, cell.segments.as_slice());
            // Before the disk has it: its answer may be there before this goes on.
            lane.lent.under_way.fetch_add(1, Ordering::AcqRel);
            match self.disk.submit(&Request { token: token(turn, index), operation, segments }) {
                Ok(()) => {
                    let now = (self.clock)();
                    cell.whereabouts = Whereabouts::AtDisk(now);
                    lane.at_disk += 1;
                    lane.waiting.pop_front();
                    flushed |= operation == Operation::Flush;
                    self.alarm.set(now.saturating_add(self.patience));
                }
                Err(Refused::Full) => {
                    lane.lent.under_way.fetch_sub(1, Ordering::AcqRel);
                    // It is the first next time.
                    inner.turn = (turn + count - 1) % count;
                    return flushed;
                }
                Err(why) => {
                    lane.lent.under_way.fetch_sub(1, Ordering::AcqRel);
                    lane.waiting.pop_front();
                    lane.finish(index, Err(error(why)));
                }
            }
        }
        flushed
    }

    pub(super) fn with_lane<T>(&self, lane: usize, act: impl FnOnce(&mut Lane) -> T) -> Option<T> {
        self.inner.lock().lanes.get_mut(lane).map(act)
    }
}

/// What a request has failed with that was not even taken.
const fn error(why: Refused) -> IoError {
    match why {
        Refused::OutOfOrder => IoError::OutOfOrder,
        Refused::Unsupported => IoError::Unsupported,
        Refused::Full
        | Refused::OutOfRange
        | Refused::ReadOnly
        | Refused::Length
        | Refused::Segments => IoError::Device,
    }
}

const fn token(lane: usize, cell: usize) -> Token {
    Token((lane as u64) << 8 | cell as u64)
}

fn of_token(Token(token): Token) -> (usize, usize) {
    let part = |value| usize::try_from(value).unwrap_or(usize::MAX);
    (part(token >> 8), part(token & 0xff))
}
