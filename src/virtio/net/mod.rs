//! The network device (VIRTIO 1.2, "Network Device"): a card at a port of the switch.
//!
//! What its guest sends is copied straight into the receive queues of those whom the switch finds ([`socket`]), with
//! what is left to be done to it: checksums, and the division into segments. So nobody computes a checksum between two
//! guests, and 64 KiB go in one piece.
//!
//! | module | what it is |
//! |---|---|
//! | [`header`] | what stands before each packet |
//! | [`socket`] | a card as others reach it |
//! | [`lan`] | the switch, and who is plugged in |
//! | [`sending`] | a frame on its way |
//! | [`cabling`] | which cards the manifest gives to whom |
//! | [`offload`] | what is left to be done to a packet, done here |

pub mod cabling;
pub mod header;
pub mod lan;
pub mod offload;
pub mod sending;
pub mod socket;

#[cfg(test)]
mod tests;

use alloc::sync::Arc;

use self::header::{NetHeader, SIZE};
use self::lan::Lan;
use self::sending::{Budget, Plain, Sending};
use self::socket::{Frame, RECEIVE};
use super::backend::{Backend, Served};
use super::queue::{Bad, Chain};
use super::ram::GuestRam;
use crate::exit::Width;
use crate::net::{HEADER, MacAddr, PortId};

/// "Network Device: Feature bits".
pub mod feature {
    /// The device completes checksums.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes packets whose checksum is not complete.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// There is a MAC address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes TCP over IPv4 that is not divided into segments.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The same over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The same with congestion notification.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The device divides TCP over IPv4 into segments.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The same over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The same with congestion notification.
    pub const HOST_ECN: u64 = 1 << 13;
    /// A packet may be divided over several receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The link has a status.
    pub const STATUS: u64 = 1 << 16;
    /// All of these.
    pub const ALL: u64 = CSUM
        | GUEST_CSUM
        | MAC
        | GUEST_TSO4
        | GUEST_TSO6
        | GUEST_ECN
        | HOST_TSO4
        | HOST_TSO6
        | HOST_ECN
        | MRG_RXBUF
        | STATUS;
}

/// How many chains a queue can have.
const QUEUE_SIZE: u16 = 256;

/// The longest frame: 64 KiB of IP, and what comes before.
const MAX_FRAME: u64 = 65_535 + 18;

/// The configuration's `status`: the link is up.
const LINK_UP: u8 = 1;

/// A network card.
#[derive(Debug)]
pub struct NetDevice {
    lan: Arc<Lan>,
    port: PortId,
    mac: MacAddr,
    /// What its driver has negotiated.
    features: u64,
    /// The frame that is on its way.
    sending: Option<Sending>,
    /// Who gets it in plain frames, and what is left of that.
    plain: Option<Plain>,
    /// What is left of what is done at one go.
    budget: Budget,
}

impl NetDevice {
    /// A card at `port` of `lan`, with this address.
    pub const fn new(lan: Arc<Lan>, port: PortId, mac: MacAddr) -> Self {
        Self { lan, port, mac, features: 0, sending: None, plain: None, budget: Budget::WHOLE }
    }
}

impl NetDevice {
    /// Looks at what `frame` begins with, and whom it is for.
    #[inline]
    fn begin_frame(&mut self, frame: &mut Frame<'_>) -> Result<(), Bad> {
        let mut bytes = [0; SIZE + HEADER];
        let taken = usize::try_from(frame.length).unwrap_or(HEADER).min(HEADER);
        let start = bytes.get_mut(..SIZE + taken).unwrap_or_default();
        lan::read(frame, 0, start)?;
        let Some((header, start)) = start.split_first_chunk() else { return Ok(()) };
        frame.header = NetHeader::parse(header);
        if frame.header.is_allowed(self.features, frame.length) {
            self.sending = self.lan.begin(self.port, frame, start);
        }
        Ok(())
    }
}

impl Drop for NetDevice {
    fn drop(&mut self) {
        self.lan.plug(self.port, None);
    }
}

impl Backend for NetDevice {
    const ID: u32 = 1;
    /// What they take is bounded by a [`Budget`].
    const AT_ONCE: usize = 32;

    fn features(&self) -> u64 {
        feature::ALL
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn is_used_from_outside(&self, queue: usize) -> bool {
        queue == RECEIVE
    }

    /// `mac`, `status`.
    fn read_config(&self, offset: u64, width: Width) -> u64 {
        let [a, b, c, d, e, f] = self.mac.0;
        let bytes = u64::from_le_bytes([a, b, c, d, e, f, LINK_UP, 0]);
        let shift = u32::try_from(offset).unwrap_or(u32::MAX).saturating_mul(8);
        bytes.checked_shr(shift).unwrap_or(0) & width.mask()
    }

    fn begin(&mut self, features: u64) {
        self.features = features;
    }

    fn serve(&mut self, _queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let buffers = chain.readable();
        let whole: u64 = buffers.iter().map(|buffer| u64::from(buffer.size)).sum();
        let Some(length) = whole.checked_sub(SIZE as u64).filter(|length| *length <= MAX_FRAME)
        else {
            return Ok(Served::Done(0));
        };
        let Some(ram) = ram.memory() else { return Ok(Served::Done(0)) };
        if self.budget.is_spent() {
            self.budget = Budget::WHOLE;
            return Ok(Served::More);
        }
        let mut frame = Frame { ram, buffers, length, header: NetHeader::default() };
        if self.sending.is_none() {
            self.begin_frame(&mut frame)?;
        }
        let Some(sending) = &mut self.sending else { return Ok(Served::Done(0)) };
        frame.header = sending.left;
        let sent = self.lan.go_on(sending, &mut self.plain, &frame, &mut self.budget);
        if !matches!(sent, Ok(false)) {
            (self.sending, self.plain) = (None, None);
        }
        Ok(if sent? { Served::Done(0) } else { Served::More })
    }

    fn stop(&mut self, _queue: usize) {
        (self.sending, self.plain) = (None, None);
    }

    fn reset(&mut self) {
        self.features = 0;
        (self.sending, self.plain) = (None, None);
    }
}
