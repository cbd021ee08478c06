//! The block device of a part of a machine's disk.
//!
//! What a request reads or writes goes straight between the disk and the guest's RAM. It is given to the disk in pieces that
//! the disk takes, several requests at a time; whatever becomes of one piece, the request comes back when the last of them has, as
//! failed if any has. What is to be flushed is left to the disk, one without a cache has nothing to flush.
//!
//! A guest's reset ends what waits. What the disk has by then may still be written to the guest's RAM, so the guest's vCPUs are
//! held up until that has come back ([`Lent`](crate::host::share::Lent)).
//!
//! A request that is saved while the disk has some of it is begun again, all of it, where it is restored (`saved`).

mod saved;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::request::{self, Cursor, HEADER, MAX_SEGMENT_SECTORS, SEGMENT, Status, UNMAP};
use super::{CONFIG_SIZE, MAX_QUEUES, QUEUE_SIZE, feature};
use crate::addr::{Ipa, Region};
use crate::exit::Width;
use crate::host::disk::{IoError, MAX_SEGMENTS, Operation, SECTOR};
use crate::host::part::Part;
use crate::host::share::DEPTH;
use crate::memory::GuestMemory;
use crate::virtio::backend::{Backend, Completed, Served};
use crate::virtio::queue::{Bad, Buffer, Chain, Head};
use crate::virtio::ram::{GuestRam, SharedRam};

/// The most bytes of one piece: so that others have their turn.
const MOST_AT_ONCE: u64 = 1 << 20;

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
enum Task {
    Read,
    Write,
    Flush,
    Discard,
    Zero { unmap: bool },
}

/// What of a request is to be given to the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Rest {
    /// The next sector.
    sector: u64,
    /// How many bytes are left, or for a flush whether it is.
    left: u64,
    /// The next byte of the data.
    cursor: Cursor,
}

/// A request that is under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Request {
    queue: u8,
    head: Head,
    /// Where its status goes, and how many bytes can be written before.
    status: Ipa,
    room: u64,
    task: Task,
    /// What is to be given to the disk.
    rest: Rest,
    /// The same when nothing was.
    whole: Rest,
    /// How many pieces have not come back.
    pieces: u32,
    /// What it will be, unless a piece fails.
    result: Status,
}

/// A place for a request, with the buffers of its data.
#[derive(Debug, Default)]
struct Slot {
    request: Option<Request>,
    /// Kept, so that its memory is.
    buffers: Vec<Buffer>,
}

/// The block device.
#[derive(Debug)]
pub struct HostBlockDevice {
    slots: Box<[Slot]>,
    part: Arc<Part>,
    ram: SharedRam,
    serial: alloc::string::String,
    queues: u8,
    features: u64,
    config: [u8; CONFIG_SIZE],
}

impl HostBlockDevice {
    /// The device of `part`, whose guest's RAM is `ram`, with a queue for each of so many vCPUs as far as there are queues.
    pub fn new(part: Arc<Part>, ram: SharedRam, serial: alloc::string::String, vcpus: u8) -> Self {
        let queues = vcpus.clamp(1, MAX_QUEUES);
        let slot = || Slot { request: None, buffers: Vec::with_capacity(QUEUE_SIZE.into()) };
        let extras = part.extras();
        part.set_ram(ram.clone());
        let offered = [
            (feature::RO, part.is_read_only()),
            (feature::DISCARD, extras.discard > 0),
            (feature::WRITE_ZEROES, extras.zero > 0),
        ];
        let features = offered.iter().filter(|(_, is)| *is).map(|(bit, _)| bit).sum::<u64>();
        Self {
            slots: (0..DEPTH).map(|_| slot()).collect(),
            config: configuration(&part, queues),
            part,
            ram,
            serial,
            queues,
            features: features
                | feature::SEG_MAX
                | feature::BLK_SIZE
                | feature::FLUSH
                | feature::MQ,
        }
    }

    /// Looks at what is asked: the request, if it is to be given to the disk.
    fn look_at(
        &self,
        chain: &Chain,
        (status, room): (Ipa, u64),
        ram: &impl GuestRam,
    ) -> Result<Request, (Status, u32)> {
        let none = |status| (status, 0);
        let mut cursor = Cursor::default();
        let header: [u8; HEADER] = cursor.read(chain.readable(), ram).map_err(none)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        let given: u64 = chain.readable().iter().map(|buffer| u64::from(buffer.size)).sum();
        let given = given.saturating_sub(HEADER as u64);
        let mut rest = Rest { sector, left: 1, cursor };
        let request = |task, rest| Request {
            queue: 0,
            head: chain.head,
            status,
            room,
            task,
            rest,
            whole: rest,
            pieces: 0,
            result: Status::Ok,
        };
        let failed = Err(none(Status::IoError));
        let task = match u32::from_le_bytes([a, b, c, d]) {
            request::IN => {
                (rest.left, rest.cursor) = (room, Cursor::default());
                Task::Read
            }
            request::OUT => {
                rest.left = given;
                Task::Write
            }
            request::FLUSH => return Ok(request(Task::Flush, rest)),
            request::GET_ID => {
                return match request::tell_id(&self.serial, chain, room, ram) {
                    Ok(request::Begun::Done(status, written)) => Err((status, written)),
                    Ok(request::Begun::Request) => failed,
                    Err(status) => Err(none(status)),
                };
            }
            kind @ (request::DISCARD | request::WRITE_ZEROES) => {
                let range = self.begin_range(kind, given, cursor, chain, ram);
                return range.map(|(task, rest)| request(task, rest)).map_err(none);
            }
            _ => return Err(none(Status::Unsupported)),
        };
        let there = rest.end().is_some_and(|end| end <= self.part.sectors());
        let whole = rest.left > 0 && rest.left.is_multiple_of(SECTOR);
        if !whole || !there || (task == Task::Write && self.part.is_read_only()) {
            // Nothing at all is easily done.
            let nothing = rest.left == 0 && there && task == Task::Read;
            return if nothing { Err(none(Status::Ok)) } else { failed };
        }
        Ok(request(task, rest))
    }

    /// One about a range of sectors, of which there is one: that is all that is offered.
    fn begin_range(
        &self,
        kind: u32,
        given: u64,
        mut cursor: Cursor,
        chain: &Chain,
        ram: &impl GuestRam,
    ) -> Result<(Task, Rest), Status> {
        let extras = self.part.extras();
        let most = if kind == request::DISCARD { extras.discard } else { extras.zero };
        if most == 0 {
            return Err(if self.part.is_read_only() {
                Status::IoError
            } else {
                Status::Unsupported
            });
        }
        if given != SEGMENT as u64 {
            return Err(Status::IoError);
        }
        let range: [u8; SEGMENT] = cursor.read(chain.readable(), ram)?;
        let [sector @ .., a, b, c, d, e, f, g, h] = range;
        let (sectors, flags) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let (sector, left) = (u64::from_le_bytes(sector), SECTOR * u64::from(sectors));
        let rest = Rest { sector, left, cursor };
        let task = match (kind, flags) {
            (request::DISCARD, 0) => Task::Discard,
            (request::WRITE_ZEROES, flags) if flags & !UNMAP == 0 => {
                Task::Zero { unmap: flags & UNMAP != 0 }
            }
            _ => return Err(Status::Unsupported),
        };
        let there = rest.end().is_some_and(|end| end <= self.part.sectors());
        let fits = there && (1..=most.min(MAX_SEGMENT_SECTORS)).contains(&sectors);
        fits.then_some((task, rest)).ok_or(Status::IoError)
    }

    /// Gives the disk as much of the request in slot `index` as there is room for, in so many pieces at most.
    fn feed(&mut self, index: usize, mut most: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Slot { request: Some(request), buffers } = slot else { return };
        let owner = u16::try_from(index).unwrap_or(u16::MAX);
        while request.rest.left > 0 && most > 0 && self.part.room() > 0 {
            most -= 1;
            let given = match request.task {
                Task::Read | Task::Write => request.give(buffers, &self.part, &self.ram, owner),
                Task::Flush => {
                    self.part.submit(owner, Operation::Flush, [].into_iter()).then_some(1)
                }
                Task::Discard | Task::Zero { .. } => request.give_range(&self.part, owner),
            };
            match given {
                Some(given) => {
                    request.rest.left -= given;
                    request.rest.sector += given / SECTOR;
                    request.pieces += 1;
                }
                None => {
                    // What was given comes back; the rest is not given.
                    request.rest.left = 0;
                    request.result = Status::IoError;
                }
            }
        }
    }

    /// The request in slot `index`, if all of it has come back.
    fn take_finished(&mut self, index: usize) -> Option<Request> {
        let request = &mut self.slots.get_mut(index)?.request;
        let finished = request.is_some_and(|request| request.pieces == 0 && request.rest.left == 0);
        if finished { request.take() } else { None }
    }
}

impl Rest {
    /// The sector behind the last.
    fn end(&self) -> Option<u64> {
        self.sector.checked_add(self.left / SECTOR)
    }
}

impl Request {
    /// Gives the disk the next piece: how many bytes that is. `None` where its data is not in RAM, or in too many pieces.
    fn give(
        &mut self,
        buffers: &[Buffer],
        part: &Part,
        ram: &SharedRam,
        owner: u16,
    ) -> Option<u64> {
        let memory = ram.get()?;
        let (most, longest) = part.limits();
        let most = most.min(MAX_SEGMENTS);
        let mut ahead = self.rest.cursor;
        let all = self.rest.left.min(MOST_AT_ONCE);
        let fits = Pieces { cursor: &mut ahead, buffers, memory, longest, left: all };
        let mut fit = 0;
        for ipas in fits.take(most) {
            fit += ipas?.size();
        }
        // A piece ends with a sector, wherever the guest's buffers do.
        let size = fit - fit % SECTOR;
        if size == 0 {
            return None;
        }
        let operation = match self.task {
            Task::Read => Operation::Read(self.rest.sector),
            _ => Operation::Write(self.rest.sector),
        };
        let pieces = Pieces { cursor: &mut self.rest.cursor, buffers, memory, longest, left: size };
        part.submit(owner, operation, pieces).then_some(size)
    }

    fn give_range(&self, part: &Part, owner: u16) -> Option<u64> {
        let Rest { sector, left, .. } = self.rest;
        let sectors = u32::try_from(left / SECTOR).ok()?;
        let operation = match self.task {
            Task::Zero { unmap } => Operation::Zero(sector, sectors, unmap),
            _ => Operation::Discard(sector, sectors),
        };
        part.submit(owner, operation, [].into_iter()).then_some(left)
    }

    /// What the driver is told to have been written, after the status was. There are no gaps in it.
    fn written(&self, status: Status) -> u32 {
        let data = if status == Status::Ok && self.task == Task::Read { self.room } else { 0 };
        let all = data + u64::from(data == self.room);
        u32::try_from(all).unwrap_or(u32::MAX)
    }
}

/// The next bytes of a request's data, each as far as RAM is in one piece; `None` for what is not in RAM.
struct Pieces<'a> {
    cursor: &'a mut Cursor,
    buffers: &'a [Buffer],
    memory: &'a GuestMemory,
    /// How long one may be.
    longest: u64,
    /// How many bytes at most.
    left: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Option<Region<Ipa>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let before = *self.cursor;
        let (ipa, size) = self.cursor.take(self.buffers, self.left.min(self.longest))?;
        let ipas = Region::new(ipa, size);
        let Some(mut found) = ipas.and_then(|ipas| self.memory.pieces(ipas).ok()) else {
            return Some(None);
        };
        let first = found.next()?.size();
        if first < size {
            // RAM goes on elsewhere.
            *self.cursor = before;
            self.cursor.take(self.buffers, first);
        }
        self.left -= first;
        Some(Region::new(ipa, first))
    }
}

impl Backend for HostBlockDevice {
    const ID: u32 = 2;
    const AT_ONCE: usize = 8;

    fn features(&self) -> u64 {
        self.features
    }

    fn queues(&self) -> &[u16] {
        let all = &[QUEUE_SIZE; MAX_QUEUES as usize];
        all.get(..self.queues.into()).unwrap_or(all)
    }

    fn read_config(&self, offset: u64, width: Width) -> u64 {
        super::read_config(&self.config, offset, width)
    }

    fn serve(&mut self, queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let (place, room) = request::status_place(chain).ok_or(Bad::NoStatus)?;
        let free = self.slots.iter().position(|slot| slot.request.is_none());
        let Some(index) = free.filter(|_| self.part.room() > 0) else { return Ok(Served::NotNow) };
        let done = match self.look_at(chain, (place, room), ram) {
            Ok(request) => {
                let Some(slot) = self.slots.get_mut(index) else { return Ok(Served::NotNow) };
                let reads = request.task == Task::Read;
                let data = if reads { chain.writable() } else { chain.readable() };
                slot.buffers.clear();
                slot.buffers.extend_from_slice(data);
                let queue = u8::try_from(queue).unwrap_or(u8::MAX);
                slot.request = Some(Request { queue, ..request });
                self.feed(index, usize::MAX);
                match self.take_finished(index) {
                    None => return Ok(Served::Later),
                    Some(request) => (request.result, request.written(request.result)),
                }
            }
            Err((status, written)) => {
                (status, written.saturating_add(u32::from(u64::from(written) == room)))
            }
        };
        let (status, written) = done;
        ram.write_u8(place, status as u8)?;
        Ok(Served::Done(written))
    }

    fn completed(&mut self) -> Option<Completed> {
        while let Some((owner, result)) = self.part.completed() {
            let index = usize::from(owner);
            let Some(Slot { request: Some(request), .. }) = self.slots.get_mut(index) else {
                continue;
            };
            request.pieces = request.pieces.saturating_sub(1);
            if let Err(why) = result {
                request.rest.left = 0;
                request.result = match why {
                    IoError::Unsupported => Status::Unsupported,
                    IoError::Device | IoError::OutOfOrder => Status::IoError,
                };
            }
            self.feed(index, usize::MAX);
            let Some(request) = self.take_finished(index) else { continue };
            let status = request.result;
            // If it is no RAM any more, nobody looks there.
            let _ = self.ram.get().map(|ram| ram.write_u8(request.status, status as u8));
            let written = request.written(status);
            return Some(Completed { queue: request.queue.into(), head: request.head, written });
        }
        None
    }

    fn stop(&mut self, queue: usize) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let is_of = |request: &Request| usize::from(request.queue) == queue;
            if slot.request.take_if(|request| is_of(request)).is_some() {
                self.part.abandon(|owner| usize::from(owner) == index);
            }
        }
    }

    fn reset(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.request = None);
        self.part.abandon(|_| true);
    }
}

/// "Device configuration layout".
fn configuration(part: &Part, queues: u8) -> [u8; CONFIG_SIZE] {
    let extras = part.extras();
    let mut config = [0; CONFIG_SIZE];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in config.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &part.sectors().to_le_bytes());
    put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
    put(20, &512u32.to_le_bytes());
    put(34, &u16::from(queues).to_le_bytes());
    // One range at a time.
    let (discard, zero) = (extras.discard.min(MAX_SEGMENT_SECTORS), extras.zero);
    put(36, &discard.to_le_bytes());
    put(40, &u32::from(discard > 0).to_le_bytes());
    put(44, &extras.discard_alignment.max(1).to_le_bytes());
    put(48, &zero.min(MAX_SEGMENT_SECTORS).to_le_bytes());
    put(52, &u32::from(zero > 0).to_le_bytes());
    put(56, &[u8::from(extras.zero_unmaps)]);
    config
}
