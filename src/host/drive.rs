//! The driver of virtio disks (VIRTIO 1.2, "Block Device").
//!
//! The crate has a driver of its own, whose flush waits for the disk by spinning; so requests are made here.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use virtio_drivers::Hal;
use virtio_drivers::transport::{DeviceStatus, InterruptStatus, Transport};

use super::buffer::Buffer;
use super::disk::{
    Completion, Extras, HostDisk, IoError, MAX_SEGMENTS, Operation, Refused, Request, SECTOR,
    SERIAL, Token,
};
use super::ring::{Chain, Ring, Way};
use super::session::{self, StartError};
use crate::sync::TicketMutex;

/// Feature bits ("Block Device", "Feature bits").
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;
/// All that are made use of.
const WANTED: u64 = SIZE_MAX | SEG_MAX | READ_ONLY | FLUSH | DISCARD | WRITE_ZEROES;

/// Where `struct virtio_blk_config` has its fields.
const CONFIG_CAPACITY: usize = 0;
const CONFIG_SIZE_MAX: usize = 8;
const CONFIG_SEG_MAX: usize = 12;
const CONFIG_MAX_DISCARD_SECTORS: usize = 36;
const CONFIG_DISCARD_ALIGNMENT: usize = 44;
const CONFIG_MAX_WRITE_ZEROES_SECTORS: usize = 48;
const CONFIG_WRITE_ZEROES_MAY_UNMAP: usize = 56;

/// `VIRTIO_BLK_T_IN` and the like.
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;
/// The one flag of `struct virtio_blk_discard_write_zeroes`.
const UNMAP: u32 = 1;
/// `VIRTIO_BLK_S_OK` and `VIRTIO_BLK_S_UNSUPP`; all others are errors.
const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;

/// How many requests can be under way, if the queue has room for their segments.
const REQUESTS: usize = 32;
/// What a request has of its own: what is to be done, with a range of sectors where it is about one without data, and
/// behind it the status.
const HEADER: usize = 16;
const RANGE: usize = 16;
const CELL: usize = 64;

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
    extras: Extras,
}

/// What the disk is told to do.
struct Order {
    kind: u32,
    sector: u64,
    way: Way,
    /// How many sectors, and flags, where there is no data.
    range: Option<(u32, u32)>,
}

impl Order {
    const fn new(kind: u32, sector: u64, way: Way) -> Self {
        Self { kind, sector, way, range: None }
    }

    /// What it is in bytes (`struct virtio_blk_req`), and how many of them.
    fn write(&self, cell: &mut [u8]) -> usize {
        let (sectors, flags) = self.range.unwrap_or_default();
        let (header, range) = match self.range {
            // The header's own sector is reserved.
            Some(_) => ([0; 8], RANGE),
            None => (self.sector.to_le_bytes(), 0),
        };
        let kind = self.kind.to_le_bytes().into_iter().chain([0; 4]).chain(header);
        let about = self.sector.to_le_bytes().into_iter().chain(sectors.to_le_bytes());
        let about = about.chain(flags.to_le_bytes()).take(range);
        // What the disk does not overwrite is an error.
        for (to, byte) in cell.iter_mut().zip(kind.chain(about).chain([u8::MAX])) {
            *to = byte;
        }
        HEADER + range
    }
}

impl<H: Hal, T: Transport> Drive<H, T> {
    /// Drives the disk at `transport` from now on.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn new(mut transport: T) -> Result<Self, StartError> {
        let features = session::begin(&mut transport, WANTED)?;
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
        let extras = extras(&transport, features)?;
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
            extras,
        })
    }

    /// Whether the disk can do this at all, and what it is told then.
    fn check(&self, request: &Request<'_>) -> Result<Order, Refused> {
        let (kind, first, way) = match request.operation {
            Operation::Read(first) => (TYPE_IN, first, Way::FromDevice),
            Operation::Write(_) if self.read_only => return Err(Refused::ReadOnly),
            Operation::Write(first) => (TYPE_OUT, first, Way::ToDevice),
            Operation::Serial => {
                let whole = matches!(request.segments, [one] if one.size() == SERIAL);
                let order = Order::new(TYPE_GET_ID, 0, Way::FromDevice);
                return whole.then_some(order).ok_or(Refused::Length);
            }
            _ if !request.segments.is_empty() => return Err(Refused::Length),
            Operation::Flush => return Ok(Order::new(TYPE_FLUSH, 0, Way::ToDevice)),
            _ if self.read_only => return Err(Refused::ReadOnly),
            Operation::Discard(first, sectors) => {
                return self.check_range(TYPE_DISCARD, first, sectors, self.extras.discard, 0);
            }
            Operation::Zero(first, sectors, unmap) => {
                let flags = if unmap && self.extras.zero_unmaps { UNMAP } else { 0 };
                return self.check_range(
                    TYPE_WRITE_ZEROES,
                    first,
                    sectors,
                    self.extras.zero,
                    flags,
                );
            }
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
        self.there(first, size / SECTOR)?;
        Ok(Order::new(kind, first, way))
    }

    fn there(&self, first: u64, sectors: u64) -> Result<(), Refused> {
        let end = first.checked_add(sectors).filter(|end| *end <= self.sectors);
        end.map(|_| ()).ok_or(Refused::OutOfRange)
    }

    /// The same for a range of sectors, `most` of which the disk can do this with.
    fn check_range(
        &self,
        kind: u32,
        first: u64,
        sectors: u32,
        most: u32,
        flags: u32,
    ) -> Result<Order, Refused> {
        if sectors == 0 {
            return Err(Refused::Length);
        }
        if sectors > most {
            return Err(Refused::Unsupported);
        }
        self.there(first, sectors.into())?;
        Ok(Order { range: Some((sectors, flags)), ..Order::new(kind, first, Way::ToDevice) })
    }
}

/// What the disk can do beside reading and writing.
fn extras(transport: &impl Transport, features: u64) -> Result<Extras, StartError> {
    let word = |feature, offset| match features & feature {
        0 => Ok(0),
        _ => transport.read_config_space::<u32>(offset).map_err(|_| StartError::Config),
    };
    let unmaps = match features & WRITE_ZEROES {
        0 => 0,
        _ => transport
            .read_config_space::<u8>(CONFIG_WRITE_ZEROES_MAY_UNMAP)
            .map_err(|_| StartError::Config)?,
    };
    Ok(Extras {
        discard: word(DISCARD, CONFIG_MAX_DISCARD_SECTORS)?,
        discard_alignment: word(DISCARD, CONFIG_DISCARD_ALIGNMENT)?,
        zero: word(WRITE_ZEROES, CONFIG_MAX_WRITE_ZEROES_SECTORS)?,
        zero_unmaps: unmaps != 0,
    })
}

impl<H: Hal, T: Transport> Inner<H, T> {
    /// The disk is not to be relied on: it is turned off, and what was under way has failed.
    fn give_up(&mut self) {
        if self.out_of_order {
            return;
        }
        log::error!("a disk of the machine's is out of order: it is turned off");
        self.out_of_order = true;
        session::end(&mut self.transport);
        while let Some(chain) = self.ring.abandon() {
            self.done
                .push_back(Completion { token: chain.token, result: Err(IoError::OutOfOrder) });
        }
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

    fn max_segment_size(&self) -> u64 {
        self.max_segment_size
    }

    fn extras(&self) -> Extras {
        self.extras
    }

    fn submit(&self, request: &Request<'_>) -> Result<(), Refused> {
        let order = self.check(request)?;
        let mut inner = self.inner.lock();
        if inner.out_of_order {
            return Err(Refused::OutOfOrder);
        }
        if order.kind == TYPE_FLUSH && !self.flushes {
            // Without a cache, what has come back is safe. It is as if the disk had been asked.
            if inner.done.len() >= REQUESTS {
                return Err(Refused::Full);
            }
            inner.done.push_back(Completion { token: request.token, result: Ok(()) });
            return Ok(());
        }
        let Some(mut cell) = inner.free.pop() else { return Err(Refused::Full) };
        let header = order.write(cell.bytes_mut());
        let chain = Chain::new(cell, header, 1);
        let chain = chain.with_data(order.way, request.segments, request.token);
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
                let result = match chain.answer().first().copied() {
                    Some(STATUS_OK) => Ok(()),
                    Some(STATUS_UNSUPPORTED) => Err(IoError::Unsupported),
                    _ => Err(IoError::Device),
                };
                inner.free.push(chain.into_buffer());
                Some(Completion { token, result })
            }
            Err(_) => {
                inner.give_up();
                inner.done.pop_front()
            }
        }
    }

    fn attend(&self) {
        let mut inner = self.inner.lock();
        let cause = inner.transport.ack_interrupt();
        // It may be about its status: that it needs a reset, or has lost what was agreed on.
        if cause.contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT) {
            let status = inner.transport.get_status();
            let well = status.contains(DeviceStatus::DRIVER_OK);
            if !well || status.contains(DeviceStatus::DEVICE_NEEDS_RESET) {
                inner.give_up();
            }
        }
    }

    fn give_up(&self) {
        self.inner.lock().give_up();
    }
}
