//! The driver of virtio disks (VIRTIO 1.2, "Block Device").
//!
//! The crate has a driver of its own, whose flush waits for the disk by spinning; so requests are made here.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use spin::mutex::TicketMutex;
use virtio_drivers::Hal;
use virtio_drivers::transport::Transport;

use super::buffer::Buffer;
use super::disk::{
    Completion, HostDisk, IoError, MAX_SEGMENTS, Operation, Refused, Request, SECTOR, Token,
};
use super::ring::{Chain, Ring, Way};
use super::session::{self, StartError};

/// Feature bits ("Block Device", "Feature bits").
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;

/// Where `struct virtio_blk_config` has its fields.
const CONFIG_CAPACITY: usize = 0;
const CONFIG_SIZE_MAX: usize = 8;
const CONFIG_SEG_MAX: usize = 12;

/// `VIRTIO_BLK_T_IN` and the like.
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
/// `VIRTIO_BLK_S_OK` and `VIRTIO_BLK_S_UNSUPP`; all others are errors.
const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;

/// How many requests can be under way, if the queue has room for their segments.
const REQUESTS: usize = 32;
/// What a request has of its own: what is to be done, and behind it the status.
const HEADER: usize = 16;
const CELL: usize = 32;

struct Inner<H: Hal, T> {
    /// Dropped first: that resets the disk.
    transport: T,
    ring: Ring<H>,
    free: Vec<Buffer<H>>,
    /// What has come back without the disk's doing: flushes that it need not be asked for, [`REQUESTS`] at most, and what a
    /// disk that was turned off has left. There is room for both.
    done: VecDeque<Completion>,
    out_of_order: bool,
}

/// A virtio disk of the machine's.
pub struct Drive<H: Hal, T: Transport> {
    inner: TicketMutex<Inner<H, T>>,
    sectors: u64,
    read_only: bool,
    /// It has a cache, which it can be told to flush.
    flushes: bool,
    max_segments: usize,
    max_segment_size: u64,
}

impl<H: Hal, T: Transport> Drive<H, T> {
    /// Drives the disk at `transport` from now on.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn new(mut transport: T) -> Result<Self, StartError> {
        let features = session::begin(&mut transport, SIZE_MAX | SEG_MAX | READ_ONLY | FLUSH)?;
        let sectors = transport.read_consistent(|| {
            let word = |offset| transport.read_config_space::<u32>(offset).map(u64::from);
            Ok(word(CONFIG_CAPACITY)? | word(CONFIG_CAPACITY + 4)? << 32)
        });
        let sectors = sectors.map_err(|_| StartError::Config)?;
        let limit = |feature, offset| match features & feature {
            0 => Ok(u32::MAX),
            _ => transport.read_config_space::<u32>(offset).map_err(|_| StartError::Config),
        };
        let max_segment_size = limit(SIZE_MAX, CONFIG_SIZE_MAX)?.max(1);
        let max_segments = usize::try_from(limit(SEG_MAX, CONFIG_SEG_MAX)?.max(1));
        let ring = Ring::new(&mut transport, 0)?;
        session::finish(&mut transport);
        let free: Vec<_> = Buffer::several(REQUESTS, CELL).ok_or(StartError::Memory)?.collect();
        let inner = Inner {
            transport,
            ring,
            free,
            done: VecDeque::with_capacity(2 * REQUESTS),
            out_of_order: false,
        };
        Ok(Self {
            inner: TicketMutex::new(inner),
            sectors,
            read_only: features & READ_ONLY != 0,
            flushes: features & FLUSH != 0,
            max_segments: max_segments.unwrap_or(MAX_SEGMENTS).min(MAX_SEGMENTS),
            max_segment_size: max_segment_size.into(),
        })
    }

    /// Whether the disk can do this at all: its type, its first sector, and which way its data goes.
    fn check(&self, request: &Request<'_>) -> Result<(u32, u64, Way), Refused> {
        let (kind, first, way) = match request.operation {
            Operation::Read(first) => (TYPE_IN, first, Way::FromDevice),
            Operation::Write(_) if self.read_only => return Err(Refused::ReadOnly),
            Operation::Write(first) => (TYPE_OUT, first, Way::ToDevice),
            Operation::Flush if request.segments.is_empty() => {
                return Ok((TYPE_FLUSH, 0, Way::ToDevice));
            }
            Operation::Flush => return Err(Refused::Length),
        };
        let sizes = request.segments.iter().map(|segment| segment.size());
        if request.segments.len() > self.max_segments
            || sizes.clone().any(|size| size > self.max_segment_size)
        {
            return Err(Refused::Segments);
        }
        let size = sizes.fold(0, u64::saturating_add);
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(Refused::Length);
        }
        let end = first.checked_add(size / SECTOR).filter(|end| *end <= self.sectors);
        end.map(|_| (kind, first, way)).ok_or(Refused::OutOfRange)
    }
}

impl<H: Hal, T: Transport> Inner<H, T> {
    /// The disk is not to be relied on: it is turned off, and what was under way has failed.
    fn give_up(&mut self) {
        log::error!("a disk of the machine's is out of order: it is turned off");
        self.out_of_order = true;
        session::end(&mut self.transport);
        while let Some(chain) = self.ring.abandon() {
            self.done
                .push_back(Completion { token: chain.token, result: Err(IoError::OutOfOrder) });
        }
    }
}

/// What a request asks for (`struct virtio_blk_req`).
fn write_header(cell: &mut [u8], kind: u32, sector: u64) {
    let [a, b, c, d] = kind.to_le_bytes();
    let [e, f, g, h, i, j, k, l] = sector.to_le_bytes();
    let header = [a, b, c, d, 0, 0, 0, 0, e, f, g, h, i, j, k, l];
    // What the disk does not overwrite is an error.
    for (to, byte) in cell.iter_mut().zip(header.into_iter().chain([u8::MAX])) {
        *to = byte;
    }
}

impl<H: Hal, T: Transport + Send> HostDisk for Drive<H, T> {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn max_segments(&self) -> usize {
        self.max_segments
    }

    fn submit(&self, request: &Request<'_>) -> Result<(), Refused> {
        let (kind, sector, way) = self.check(request)?;
        let mut inner = self.inner.lock();
        if inner.out_of_order {
            return Err(Refused::OutOfOrder);
        }
        if kind == TYPE_FLUSH && !self.flushes {
            // Without a cache, what has come back is safe. It is as if the disk had been asked.
            if inner.done.len() >= REQUESTS {
                return Err(Refused::Full);
            }
            inner.done.push_back(Completion { token: request.token, result: Ok(()) });
            return Ok(());
        }
        let Some(mut cell) = inner.free.pop() else { return Err(Refused::Full) };
        write_header(cell.bytes_mut(), kind, sector);
        let chain = Chain::new(cell, HEADER, 1).with_data(way, request.segments, request.token);
        let Inner { transport, ring, free, .. } = &mut *inner;
        match ring.add(chain) {
            Ok(()) => {
                ring.tell(transport);
                Ok(())
            }
            Err(chain) => {
                free.push(chain.into_buffer());
                Err(Refused::Full)
            }
        }
    }

    fn completed(&self) -> Option<Completion> {
        let mut inner = self.inner.lock();
        if let Some(done) = inner.done.pop_front() {
            return Some(done);
        }
        if inner.out_of_order {
            return None;
        }
        match inner.ring.pop() {
            Ok(popped) => {
                let (chain, _) = popped?;
                let token: Token = chain.token;
                let cell = chain.into_buffer();
                let result = match cell.bytes().get(HEADER).copied() {
                    Some(STATUS_OK) => Ok(()),
                    Some(STATUS_UNSUPPORTED) => Err(IoError::Unsupported),
                    _ => Err(IoError::Device),
                };
                inner.free.push(cell);
                Some(Completion { token, result })
            }
            Err(_) => {
                inner.give_up();
                inner.done.pop_front()
            }
        }
    }

    fn attend(&self) {
        self.inner.lock().transport.ack_interrupt();
    }
}
