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
//! | [`steering`] | by which of its receive queues a frame comes in |
//! | [`control`] | what its driver asks for beside frames |
//! | [`lan`] | the switch, and who is plugged in |
//! | [`sending`] | a frame on its way |
//! | [`cabling`] | which cards the manifest gives to whom |
//! | [`offload`] | what is left to be done to a packet, done here |
//! | `saved` | the device as plain data |

pub mod cabling;
pub mod control;
pub mod header;
pub mod lan;
pub mod offload;
mod saved;
pub mod sending;
pub mod socket;
pub mod steering;

#[cfg(test)]
mod tests;

use alloc::sync::Arc;

use self::header::{NetHeader, SIZE};
use self::lan::Lan;
use self::sending::{Budget, Plain, Sending};
use self::socket::Frame;
use self::steering::{MAX_PAIRS, Steering};
use super::backend::{Backend, IN_ORDER, Served};
use super::queue::{Bad, Chain};
use super::ram::GuestRam;
use crate::exit::Width;
use crate::memory::GuestMemory;
use crate::net::{MacAddr, PortId};

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
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// There are several pairs of queues, of which the driver says by the control queue how many it uses.
    pub const MQ: u64 = 1 << 22;
    /// What every card has.
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
    /// What divides packets, on either way.
    const GUEST_TSO: u64 = GUEST_TSO4 | GUEST_TSO6;
    const HOST_TSO: u64 = HOST_TSO4 | HOST_TSO6;
    /// What none has without something else.
    pub const NEEDS: [(u64, u64); 5] = [
        (GUEST_TSO, GUEST_CSUM),
        (GUEST_ECN, GUEST_TSO),
        (HOST_TSO, CSUM),
        (HOST_ECN, HOST_TSO),
        (MQ, CTRL_VQ),
    ];
}

/// How many chains a queue can have.
const QUEUE_SIZE: u16 = 256;

/// The pairs of queues, and the control queue behind them.
const QUEUES: [u16; 2 * MAX_PAIRS as usize + 1] = [QUEUE_SIZE; 2 * MAX_PAIRS as usize + 1];

/// The receive queue of a pair ("Network Device: Virtqueues"); its transmit queue comes after it.
const fn receive(pair: u8) -> usize {
    2 * pair as usize
}

/// The longest frame: 64 KiB of IP, and what comes before.
const MAX_FRAME: u64 = 65_535 + 18;

/// The configuration's `status`: the link is up.
const LINK_UP: u8 = 1;

/// What a queue is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    /// Others put frames into it.
    Receive,
    /// The driver sends by it; of this pair.
    Transmit(u8),
    Control,
    /// Nothing, by what was negotiated.
    Nothing,
}

/// What is on its way by one pair.
#[derive(Debug, Default)]
struct Way {
    /// The frame.
    sending: Option<Sending>,
    /// Who gets it in plain frames, and what is left of that.
    plain: Option<Plain>,
}

/// A network card.
#[derive(Debug)]
pub struct NetDevice {
    lan: Arc<Lan>,
    port: PortId,
    mac: MacAddr,
    /// How many pairs of queues it has.
    pairs: u8,
    /// How many its driver uses, and who uses which.
    steering: Arc<Steering>,
    /// What its driver has negotiated.
    features: u64,
    /// What is on its way, by pair.
    ways: [Way; MAX_PAIRS as usize],
    /// What is left of what is done at one go.
    budget: Budget,
}

impl NetDevice {
    /// A card at `port` of `lan`, with this address, for a guest of so many vCPUs: each has a pair of queues, as far as there
    /// are.
    pub fn new(lan: Arc<Lan>, port: PortId, mac: MacAddr, vcpus: u8) -> Self {
        let pairs = vcpus.clamp(1, MAX_PAIRS);
        let (steering, ways) = (Arc::default(), Default::default());
        Self { lan, port, mac, pairs, steering, features: 0, ways, budget: Budget::WHOLE }
    }

    /// By which of its queues a frame comes in, for whoever brings it one.
    pub const fn steering(&self) -> &Arc<Steering> {
        &self.steering
    }

    /// Without `MQ` there is one pair, and the control queue comes after it all the same.
    #[inline(always)]
    fn role(&self, queue: usize) -> Role {
        let pairs = if self.features & feature::MQ == 0 { 1 } else { self.pairs };
        match u8::try_from(queue / 2) {
            Ok(pair) if pair < pairs && queue == receive(pair) => Role::Receive,
            Ok(pair) if pair < pairs => Role::Transmit(pair),
            _ if self.features & feature::CTRL_VQ != 0 && queue == receive(pairs) => Role::Control,
            _ => Role::Nothing,
        }
    }

    /// The driver uses so many pairs.
    fn use_pairs(&self, pairs: u8) {
        // Nobody who has chosen a queue before puts a frame into it afterwards.
        self.lan.alone(self.port, || self.steering.set_pairs(pairs));
    }

    fn control(&self, chain: &Chain, ram: &GuestMemory) -> Result<Served, Bad> {
        let most = if self.features & feature::MQ == 0 { 0 } else { self.pairs };
        let asked = control::parse(ram, chain, most)?;
        if let Some(pairs) = asked {
            self.use_pairs(pairs);
        }
        let ack = if asked.is_some() { control::OK } else { control::ERR };
        Ok(Served::Done(control::answer(ram, chain, ack)?))
    }

    fn transmit(&mut self, pair: u8, chain: &Chain, ram: &GuestMemory) -> Result<Served, Bad> {
        let buffers = chain.readable();
        let whole: u64 = buffers.iter().map(|buffer| u64::from(buffer.size)).sum();
        let Some(length) = whole.checked_sub(SIZE as u64).filter(|length| *length <= MAX_FRAME)
        else {
            return Ok(Served::Done(0));
        };
        if self.budget.is_spent() {
            self.budget = Budget::WHOLE;
            return Ok(Served::More);
        }
        let mut frame = Frame { ram, buffers, length, header: NetHeader::default() };
        let way = self.ways.get_mut(usize::from(pair));
        if let Some(Way { sending: Some(sending), plain }) = way {
            frame.header = sending.left;
            let sent = self.lan.go_on(sending, plain, &frame, &mut self.budget);
            if matches!(sent, Ok(false)) {
                return Ok(Served::More);
            }
            self.stop(receive(pair) + 1);
            return Ok(sent.map(|_| Served::Done(0))?);
        }
        // Nearly always all of it is done at once, and nothing has to be kept.
        let (mut sending, mut plain) = (Sending::NEW, None);
        if !self.begin_frame(&mut frame, pair, &mut sending)?
            || self.lan.go_on(&mut sending, &mut plain, &frame, &mut self.budget)?
        {
            return Ok(Served::Done(0));
        }
        if let Some(way) = self.ways.get_mut(usize::from(pair)) {
            *way = Way { sending: Some(sending), plain };
        }
        Ok(Served::More)
    }

    /// Looks at what `frame` begins with, and whom it is for, and notes that in `sending`, which is new. Returns whether the frame
    /// goes on.
    #[inline]
    fn begin_frame(
        &self,
        frame: &mut Frame<'_>,
        pair: u8,
        sending: &mut Sending,
    ) -> Result<bool, Bad> {
        lan::read(frame.ram, frame.buffers, 0, sending.start.room(frame.length))?;
        frame.header = sending.start.header();
        if !frame.header.is_allowed(self.features, frame.length)
            || !self.lan.begin(self.port, frame, sending)
        {
            return Ok(false);
        }
        if self.steering.pairs() > 1 {
            self.steering.sent(sending::flow(&mut sending.flow, frame), pair);
        }
        Ok(true)
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
    const NEEDS: &'static [(u64, u64)] = &feature::NEEDS;

    fn features(&self) -> u64 {
        let several = if self.pairs > 1 { feature::MQ | feature::CTRL_VQ } else { 0 };
        IN_ORDER | feature::ALL | several
    }

    fn queues(&self) -> &[u16] {
        let count = receive(self.pairs) + usize::from(self.pairs > 1);
        QUEUES.get(..count).unwrap_or(&QUEUES)
    }

    fn is_used_from_outside(&self, queue: usize) -> bool {
        matches!(self.role(queue), Role::Receive | Role::Nothing)
    }

    /// `mac`, `status`, `max_virtqueue_pairs`.
    fn read_config(&self, offset: u64, width: Width) -> u64 {
        let [a, b, c, d, e, f] = self.mac.0;
        let bytes = u64::from_le_bytes([a, b, c, d, e, f, LINK_UP, 0]);
        let bytes = u128::from(bytes) | u128::from(self.pairs) << 64;
        let shift = u32::try_from(offset).unwrap_or(u32::MAX).saturating_mul(8);
        low(bytes.checked_shr(shift).unwrap_or(0)) & width.mask()
    }

    fn begin(&mut self, features: u64) {
        self.features = features;
    }

    fn serve(&mut self, queue: usize, chain: &Chain, ram: &impl GuestRam) -> Result<Served, Bad> {
        let Some(ram) = ram.memory() else { return Ok(Served::Done(0)) };
        match self.role(queue) {
            Role::Transmit(pair) => self.transmit(pair, chain, ram),
            Role::Control => self.control(chain, ram),
            Role::Receive | Role::Nothing => Ok(Served::Done(0)),
        }
    }

    fn stop(&mut self, queue: usize) {
        if let Some(way) = self.ways.get_mut(queue / 2).filter(|_| queue % 2 == 1) {
            *way = Way::default();
        }
    }

    fn reset(&mut self) {
        self.features = 0;
        self.ways = Default::default();
        self.use_pairs(1);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the low bits are asked for")]
const fn low(value: u128) -> u64 {
    value as u64
}
