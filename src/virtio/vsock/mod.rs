//! The socket device (VIRTIO 1.2, "Socket Device"): streams between a guest and the hypervisor, and between guests.
//!
//! | module | what it is |
//! |---|---|
//! | [`packet`] | what stands before each packet |
//! | [`credit`] | how much each side may send |
//! | [`connections`] | the connections of one guest to the hypervisor |
//! | [`buffer`] | what waits for an end of a stream between guests |
//! | `end` | one guest's end of a stream |
//! | [`streams`] | the streams between the guests of a group |
//! | [`group`] | the same, and whom to tell |
//! | [`lines`] | whether some guest has something to be answered |
//! | [`sockets`] | who has such a device |
//! | [`saved`] | what is saved of one |

pub mod buffer;
pub mod connections;
pub mod credit;
mod end;
pub mod group;
pub mod lines;
pub mod packet;
pub mod saved;
pub mod sockets;
pub mod streams;

use alloc::sync::Arc;
use alloc::vec::Vec;

use self::connections::{BUFFER, Connections, HOST, PACKET};
use self::group::Membership;
use self::packet::{PacketHeader, SIZE, STREAM};
use self::sockets::Socket;
use super::backend::{Backend, Served};
use super::queue::{Bad, Buffer, Chain};
use super::ram::GuestRam;
use crate::device::doorbell::Doorbell;
use crate::exit::Width;
use crate::sync::TicketMutex;

/// "Socket Device: Virtqueues".
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENTS: usize = 2;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`: all connections are over.
const TRANSPORT_RESET: u32 = 0;

/// How many chains a queue can have.
const QUEUE_SIZE: u16 = 128;

/// How many bytes of a queue are copied at one go at most, and how many a packet counts beside its own.
const BUDGET: usize = 20 << 10;
const EACH: usize = 2 << 10;
const _: () = assert!(streams::ROOM as usize + EACH <= BUDGET && PACKET + EACH <= BUDGET);

/// The connections of a guest, shared by its device and who answers.
pub type SharedConnections = Arc<TicketMutex<Connections>>;

/// A socket device.
#[derive(Debug)]
pub struct VsockDevice {
    socket: Socket,
    cid: u64,
    /// Makes the device look whether something is to be received.
    bell: Doorbell,
    /// What comes from other guests is received next, if there is something.
    others_first: bool,
    /// A packet's payload, to or from the hypervisor. Kept, so that its memory is.
    payload: Vec<u8>,
    /// What is left of what is done at one go, of the two queues by which packets come and go.
    budgets: [usize; 2],
    /// The driver is to be told that all connections are over.
    is_torn: bool,
}

impl VsockDevice {
    /// The device with `socket` behind it; `bell` is its own.
    pub fn new(socket: Socket, bell: Doorbell) -> Self {
        let cid = socket.connections.lock().guest();
        if let Some(group) = &socket.group {
            group.plug(bell.clone());
        }
        let payload = Vec::with_capacity(BUFFER as usize);
        let budgets = [BUDGET; 2];
        Self { socket, cid, bell, others_first: false, payload, budgets, is_torn: false }
    }

    /// Whether so many bytes can still be copied by queue `queue` at this go; else they can at the next.
    fn can_copy(&mut self, queue: usize, bytes: usize) -> bool {
        let Some(budget) = self.budgets.get_mut(queue) else { return true };
        let can = bytes.saturating_add(EACH) <= *budget;
        if !can {
            *budget = BUDGET;
        }
        can
    }

    fn copied(&mut self, queue: usize, bytes: usize) {
        if let Some(budget) = self.budgets.get_mut(queue) {
            *budget = budget.saturating_sub(bytes.saturating_add(EACH));
        }
    }

    fn transmit(&mut self, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let buffers = chain.readable();
        let whole: u64 = buffers.iter().map(|buffer| u64::from(buffer.size)).sum();
        let Some(length) = whole.checked_sub(SIZE as u64) else { return Ok(Served::Done(0)) };
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(streams::ROOM as usize);
        if !self.can_copy(TRANSMIT, most) {
            return Ok(Served::More);
        }
        self.copied(TRANSMIT, most);
        let mut bytes = [0; SIZE];
        gather(buffers, 0, &mut bytes, ram)?;
        let header = PacketHeader::parse(&bytes);
        let is_whole = u64::from(header.len) <= length;
        match self.socket.group.clone() {
            Some(group) if header.dst_cid != HOST => {
                self.transmit_to_other(&group, &header, is_whole, buffers, ram)
            }
            _ => self.transmit_to_host(&header, is_whole, buffers, ram),
        }
    }

    fn transmit_to_host(
        &mut self,
        header: &PacketHeader,
        is_whole: bool,
        buffers: &[Buffer],
        ram: &impl GuestRam,
    ) -> Result<Served, Bad> {
        let size = usize::try_from(header.len).unwrap_or(usize::MAX);
        // More than a connection ever holds is refused without a look at it.
        let payload = if is_whole && size <= BUFFER as usize {
            self.payload.resize(size, 0);
            gather(buffers, SIZE as u64, &mut self.payload, ram)?;
            Some(&self.payload[..])
        } else {
            None
        };
        let mut connections = self.socket.connections.lock();
        if connections.input(header, payload).is_err() {
            return Ok(Served::NotNow);
        }
        if connections.has_line() {
            self.socket.lines.come();
        }
        if connections.has_output() {
            self.bell.ring();
        }
        Ok(Served::Done(0))
    }

    fn transmit_to_other(
        &self,
        group: &Membership,
        header: &PacketHeader,
        is_whole: bool,
        buffers: &[Buffer],
        ram: &impl GuestRam,
    ) -> Result<Served, Bad> {
        if header.src_cid != self.cid {
            return Ok(Served::Done(0)); // nobody to tell
        }
        if self.socket.connections.lock().is_full() {
            return Ok(Served::NotNow);
        }
        let fine = if header.kind == STREAM {
            let (mut group, me) = group.lock();
            let taken = group.streams.input(me, header, is_whole, &mut |at, into| {
                gather(buffers, (SIZE + at) as u64, into, ram)
            })?;
            group.tell(taken.for_other);
            if group.streams.has_output(me) {
                self.bell.ring();
            }
            taken.fine
        } else {
            false
        };
        if !fine {
            self.socket.connections.lock().refuse(header);
            self.bell.ring();
        }
        Ok(Served::Done(0))
    }

    fn receive(&mut self, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let room = chain.room().checked_sub(SIZE as u64);
        let Some(room) = room else { return Ok(Served::Done(0)) };
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(PACKET);
        if !self.can_copy(RECEIVE, room) {
            return Ok(Served::More);
        }
        // A refusal is older than what comes from others: it is not to be taken for the end of who asks by the same ports since.
        let turn = self.others_first && !self.socket.connections.lock().has_refusals();
        self.others_first = !turn;
        for others in [turn, !turn] {
            let received = if others {
                self.receive_from_others(room, chain, ram)?
            } else {
                self.receive_from_host(room, chain, ram)?
            };
            if let Some(count) = received {
                self.copied(RECEIVE, count);
                return Ok(Served::Done(u32::try_from(SIZE + count).unwrap_or(0)));
            }
        }
        self.budgets[RECEIVE] = BUDGET;
        Ok(Served::NotNow)
    }

    /// The driver is told what has become of its connections, if it is to be.
    fn tell(&mut self, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let event = TRANSPORT_RESET.to_le_bytes();
        if !self.is_torn {
            return Ok(Served::NotNow);
        }
        if chain.room() < event.len() as u64 {
            return Ok(Served::Done(0));
        }
        scatter(chain.writable(), [&event, &[], &[]], ram)?;
        self.is_torn = false;
        Ok(Served::Done(u32::try_from(event.len()).unwrap_or(0)))
    }

    /// How many bytes of payload came, if a packet did.
    fn receive_from_host(
        &mut self,
        room: usize,
        chain: &Chain,
        ram: &impl GuestRam,
    ) -> Result<Option<usize>, Bad> {
        let mut connections = self.socket.connections.lock();
        let waited = connections.is_full();
        let Some(header) = connections.output(room, &mut self.payload) else { return Ok(None) };
        // That may have been the last of an answer.
        if connections.has_line() {
            self.socket.lines.come();
        }
        drop(connections);
        if waited {
            self.bell.ring(); // what the guest sends was left where it is
        }
        scatter(chain.writable(), [&header.bytes(), &self.payload, &[]], ram)?;
        Ok(Some(self.payload.len()))
    }

    fn receive_from_others(
        &self,
        room: usize,
        chain: &Chain,
        ram: &impl GuestRam,
    ) -> Result<Option<usize>, Bad> {
        let Some(group) = &self.socket.group else { return Ok(None) };
        let (mut group, me) = group.lock();
        let mut count = 0;
        let put = &mut |header: &PacketHeader, [first, rest]: [&[u8]; 2]| {
            count = first.len() + rest.len();
            scatter(chain.writable(), [&header.bytes(), first, rest], ram)
        };
        let Some(for_other) = group.streams.output(me, room, put)? else { return Ok(None) };
        group.tell(for_other);
        Ok(Some(count))
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        self.socket.reset();
        if let Some(group) = &self.socket.group {
            group.unplug();
        }
    }
}

impl Backend for VsockDevice {
    const ID: u32 = 19;
    /// Small ones; what large ones take is bounded by a budget.
    const AT_ONCE: usize = 4;

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 3]
    }

    /// `guest_cid`.
    fn read_config(&self, offset: u64, width: Width) -> u64 {
        let shift = u32::try_from(offset).unwrap_or(u32::MAX).saturating_mul(8);
        self.cid.checked_shr(shift).unwrap_or(0) & width.mask()
    }

    fn serve(&mut self, queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        match queue {
            RECEIVE => self.receive(chain, ram),
            TRANSMIT => self.transmit(chain, ram),
            _ => self.tell(chain, ram),
        }
    }

    fn can_go_on(&self, queue: usize) -> bool {
        queue != EVENTS || self.is_torn
    }

    fn begin(&mut self, _features: u64) {
        self.is_torn = false;
        if let Some(group) = &self.socket.group {
            group.join();
        }
    }

    fn reset(&mut self) {
        self.is_torn = false;
        self.socket.reset();
    }
}

/// Copies what `buffers` have from `offset` on.
fn gather(
    buffers: &[Buffer],
    offset: u64,
    mut into: &mut [u8],
    ram: &impl GuestRam,
) -> Result<(), Bad> {
    let mut skip = offset;
    for buffer in buffers {
        if into.is_empty() {
            break;
        }
        let size = u64::from(buffer.size);
        if let Some(beyond) = skip.checked_sub(size) {
            skip = beyond;
            continue;
        }
        let now = usize::try_from(size - skip).unwrap_or(usize::MAX).min(into.len());
        let (first, rest) = into.split_at_mut(now);
        let outside = crate::memory::OutsideRam { ipa: buffer.ipa, size };
        ram.read_bytes(buffer.ipa.checked_add(skip).ok_or(outside)?, first)?;
        into = rest;
        skip = 0;
    }
    Ok(())
}

/// Copies `parts`, one after the other, to `buffers`, which have room for them.
fn scatter(buffers: &[Buffer], mut parts: [&[u8]; 3], ram: &impl GuestRam) -> Result<(), Bad> {
    for buffer in buffers {
        let mut at = buffer.ipa;
        let mut size = usize::try_from(buffer.size).unwrap_or(usize::MAX);
        for part in &mut parts {
            let (now, later) = part.split_at(size.min(part.len()));
            if now.is_empty() {
                continue;
            }
            ram.write_bytes(at, now)?;
            *part = later;
            size -= now.len();
            if size == 0 {
                break;
            }
            let outside = crate::memory::OutsideRam { ipa: at, size: now.len() as u64 };
            at = at.checked_add(now.len() as u64).ok_or(outside)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
