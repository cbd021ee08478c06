//! The block device (VIRTIO 1.2, "Block Device"): a disk for a guest.
//!
//! | module | what it is |
//! |---|---|
//! | [`image`] | disk images as a bundle has them |
//! | [`base`] | one of them in memory, shared by VMs |
//! | [`disk`] | a VM's disk: what it began with, and what was written since |
//! | [`request`] | one request, worked off in steps |
//! | [`host`] | the device of a part of a machine's disk |
//! | `saved` | the device as plain data |
//!
//! Not offered: a write-back switch (nothing in memory is ever on its way to anywhere else), lifetime, secure erase, zones.

pub mod base;
pub mod disk;
pub mod host;
pub mod image;
pub mod request;
mod saved;

use alloc::sync::Arc;

use serde::{Deserialize, Serialize};

use self::disk::Disk;
use self::image::SECTOR;
use self::request::{Begun, Budget, MAX_SEGMENT_SECTORS, MAX_SEGMENTS, Request, Status};
use super::backend::{Backend, IN_ORDER, Served};
use super::queue::{Bad, Chain};
use super::ram::GuestRam;
use crate::addr::PAGE_SIZE;
use crate::exit::Width;
use crate::sync::TicketMutex;

/// The most queues that a disk has.
pub const MAX_QUEUES: u8 = 4;
/// How many descriptors each has.
const QUEUE_SIZE: u16 = 128;

/// "Feature bits".
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    /// What all disks have, and those that can be written to.
    pub const ALWAYS: u64 = SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | MQ;
    pub const WRITABLE: u64 = DISCARD | WRITE_ZEROES;
}

/// `struct virtio_blk_config`, as far as the features reach.
const CONFIG_SIZE: usize = 60;

/// A disk that the VM, which gives its memory back in the end, and its device share.
pub type SharedDisk = Arc<TicketMutex<Disk>>;

/// What a guest can change of the device; what is on the disk is not among it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
struct State {
    /// The request of each queue that has been begun.
    requests: [Option<Request>; MAX_QUEUES as usize],
}

/// The block device.
pub struct BlockDevice {
    state: State,
    disk: SharedDisk,
    read_only: bool,
    queues: u8,
    config: [u8; CONFIG_SIZE],
    /// What is left of what may be done at one go, for however many requests.
    budget: Budget,
}

impl BlockDevice {
    /// The device of `disk`, with a queue for each of so many vCPUs as far as there are queues.
    pub fn new(disk: SharedDisk, vcpus: u8) -> Self {
        let queues = vcpus.clamp(1, MAX_QUEUES);
        let (size, read_only) = {
            let disk = disk.lock();
            (disk.size(), disk.is_read_only())
        };
        let config = configuration(size, queues);
        Self { state: State::default(), disk, read_only, queues, config, budget: Budget::WHOLE }
    }
}

impl Backend for BlockDevice {
    const ID: u32 = 2;
    /// What all of them may do together is bounded, whatever their number.
    const AT_ONCE: usize = 15;

    fn features(&self) -> u64 {
        IN_ORDER | feature::ALWAYS | if self.read_only { feature::RO } else { feature::WRITABLE }
    }

    fn queues(&self) -> &[u16] {
        let all = &[QUEUE_SIZE; MAX_QUEUES as usize];
        all.get(..self.queues.into()).unwrap_or(all)
    }

    fn read_config(&self, offset: u64, width: Width) -> u64 {
        read_config(&self.config, offset, width)
    }

    fn serve(&mut self, queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let (place, room) = request::status_place(chain).ok_or(Bad::NoStatus)?;
        let Some(kept) = self.state.requests.get_mut(queue) else { return Ok(Served::Done(0)) };
        if self.budget.is_spent() {
            self.budget = Budget::WHOLE;
            return Ok(Served::More);
        }
        let mut disk = self.disk.lock();
        let mut done = None;
        if kept.is_none() {
            self.budget.spend(request::COST);
            if let Begun::Done(status, written) = Request::begin(kept, &disk, chain, room, ram) {
                done = Some((status, written));
            }
        }
        if let Some(request) = kept {
            let status = match request.go_on(&mut disk, chain, ram, &mut self.budget) {
                Ok(true) => Status::Ok,
                Ok(false) => {
                    self.budget = Budget::WHOLE;
                    return Ok(Served::More);
                }
                Err(status) => status,
            };
            done = Some((status, request.written()));
            *kept = None;
        }
        let (status, written) = done.unwrap_or((Status::IoError, 0));
        drop(disk);
        ram.write_u8(place, status as u8)?;
        // What is said to be written has no gaps.
        Ok(Served::Done(written.saturating_add(u32::from(u64::from(written) == room))))
    }

    fn stop(&mut self, queue: usize) {
        if let Some(request) = self.state.requests.get_mut(queue) {
            *request = None;
        }
    }

    fn reset(&mut self) {
        self.state = State::default();
    }
}

/// The low bits of a configuration at `offset`.
fn read_config(config: &[u8; CONFIG_SIZE], offset: u64, width: Width) -> u64 {
    let mut bytes = [0; 8];
    let size = usize::try_from(width.bytes()).unwrap_or(0);
    let from = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
    for (to, from) in bytes.iter_mut().take(size).zip(from.unwrap_or_default()) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

/// "Device configuration layout".
fn configuration(size: u64, queues: u8) -> [u8; CONFIG_SIZE] {
    /// How many sectors a block has.
    const BLOCK: u16 = 8;
    const _: () = assert!(BLOCK as u64 * SECTOR == PAGE_SIZE);
    let mut config = [0; CONFIG_SIZE];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in config.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &(size / SECTOR).to_le_bytes());
    // A request has a header and a status beside its segments.
    put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
    put(20, &512u32.to_le_bytes());
    // physical_block_exp, alignment_offset, min_io_size, opt_io_size
    put(24, &[BLOCK.trailing_zeros().to_le_bytes()[0], 0]);
    put(26, &BLOCK.to_le_bytes());
    put(34, &u16::from(queues).to_le_bytes());
    // What is discarded, and what is made zeros: sectors, segments; and the discarded's alignment, and that zeros may
    // give their places back.
    put(36, &MAX_SEGMENT_SECTORS.to_le_bytes());
    put(40, &MAX_SEGMENTS.to_le_bytes());
    put(44, &u32::from(BLOCK).to_le_bytes());
    put(48, &MAX_SEGMENT_SECTORS.to_le_bytes());
    put(52, &MAX_SEGMENTS.to_le_bytes());
    put(56, &[1]);
    config
}

#[cfg(test)]
mod tests;
