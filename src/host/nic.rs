//! The driver of virtio network cards (VIRTIO 1.2, "Network Device").
//!
//! One queue each way, no offloads: each frame stands in one buffer, behind a header of zeroes. What arrives is taken at the
//! card's interrupt. What was sent is cleared away when something else is sent, so that the card need not interrupt for it.

use alloc::vec::Vec;

use virtio_drivers::Hal;
use virtio_drivers::transport::Transport;

use super::buffer::Buffer;
use super::ring::{Chain, OutOfOrder, Ring};
use super::session::{self, StartError, VERSION_1};
use super::uplink::{MAX_FRAME, NotSent, Uplink};
use crate::net::MacAddr;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// `VIRTIO_NET_F_MAC`: the card has an address.
const MAC: u64 = 1 << 5;

const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

/// How many frames can wait to be taken: no more are worked off at one interrupt.
const RECEIVE: usize = 16;
/// How many frames can be under way to the card.
const TRANSMIT: usize = 64;
/// How much is taken for a frame and its header, in bytes.
const BUFFER: usize = 2048;

/// `virtio_net_hdr` as it is with `VIRTIO_F_VERSION_1`, and without, in bytes.
const HEADER: usize = 12;
const LEGACY_HEADER: usize = 10;

/// What is under way to the card, and the buffers for more.
struct Transmit<H: Hal> {
    ring: Ring<H>,
    free: Vec<Buffer<H>>,
}

/// A virtio network card of the machine's.
pub struct Nic<H: Hal, T: Transport> {
    /// Dropped first: that resets the card. Its lock is taken last.
    transport: TicketMutex<T>,
    receive: TicketMutex<Ring<H>>,
    transmit: TicketMutex<Transmit<H>>,
    mac: MacAddr,
    /// How many bytes stand before each frame.
    header: usize,
    out_of_order: AtomicBool,
}

impl<H: Hal, T: Transport> Nic<H, T> {
    /// Drives the card at `transport` from now on.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn new(mut transport: T) -> Result<Self, StartError> {
        let features = session::begin(&mut transport, MAC)?;
        let header = if features & VERSION_1 == 0 { LEGACY_HEADER } else { HEADER };
        let mac = if features & MAC == 0 {
            MacAddr::derived("uplink", 0)
        } else {
            let read = transport.read_consistent(|| transport.read_config_space::<[u8; 6]>(0));
            MacAddr(read.map_err(|_| StartError::Config)?)
        };
        let mut receive = Ring::new(&mut transport, RECEIVE_QUEUE)?;
        let mut transmit = Ring::new(&mut transport, TRANSMIT_QUEUE)?;
        transmit.want_interrupts(false);
        session::finish(&mut transport);
        for buffer in Buffer::several(RECEIVE, BUFFER).ok_or(StartError::Memory)? {
            let written = buffer.size();
            // There is room for so many.
            let _ = receive.add(Chain::new(buffer, 0, written));
        }
        receive.tell(&mut transport);
        let free = Buffer::several(TRANSMIT, BUFFER).ok_or(StartError::Memory)?.collect();
        Ok(Self {
            transport: TicketMutex::new(transport),
            receive: TicketMutex::new(receive),
            transmit: TicketMutex::new(Transmit { ring: transmit, free }),
            mac,
            header,
            out_of_order: AtomicBool::new(false),
        })
    }

    /// The card is not to be relied on: nothing is to be had from it any more.
    fn give_up(&self) {
        if !self.out_of_order.swap(true, Ordering::Relaxed) {
            log::error!("a network card of the machine's is out of order: it is turned off");
        }
        session::end(&mut *self.transport.lock());
    }
}

impl<H: Hal> Transmit<H> {
    /// Takes back the buffers of what was sent.
    fn clear_away(&mut self) -> Result<(), OutOfOrder> {
        // No more than that are under way.
        for _ in 0..TRANSMIT {
            let Some((chain, _)) = self.ring.pop()? else { break };
            self.free.push(chain.into_buffer());
        }
        Ok(())
    }
}

impl<H: Hal, T: Transport + Send> Uplink for Nic<H, T> {
    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn send(&self, make: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), NotSent> {
        if self.out_of_order.load(Ordering::Relaxed) {
            return Err(NotSent::OutOfOrder);
        }
        let mut transmit = self.transmit.lock();
        if transmit.clear_away().is_err() {
            self.give_up();
            return Err(NotSent::OutOfOrder);
        }
        let Some(mut buffer) = transmit.free.pop() else { return Err(NotSent::Full) };
        // The header's bytes are never written, and stay zero: no offload is asked for.
        let room = buffer.bytes_mut().get_mut(self.header..).and_then(|it| it.get_mut(..MAX_FRAME));
        let length = room.map_or(0, make);
        if !(1..=MAX_FRAME).contains(&length) {
            transmit.free.push(buffer);
            return Err(NotSent::Length);
        }
        let end = self.header + length;
        match transmit.ring.add(Chain::new(buffer, end, 0)) {
            Ok(()) => {
                transmit.ring.tell(&mut *self.transport.lock());
                Ok(())
            }
            Err(chain) => {
                transmit.free.push(chain.into_buffer());
                Err(NotSent::Full)
            }
        }
    }

    fn attend(&self, receive: &mut dyn FnMut(&[u8])) {
        if self.out_of_order.load(Ordering::Relaxed) {
            return;
        }
        let mut ring = self.receive.lock();
        // Before the first look: what comes after it makes the card interrupt again. So no more than what the queue holds
        // need be taken here.
        self.transport.lock().ack_interrupt();
        let mut taken = false;
        for _ in 0..RECEIVE {
            let (chain, written) = match ring.pop() {
                Ok(Some(popped)) => popped,
                Ok(None) => break,
                Err(OutOfOrder) => return self.give_up(),
            };
            let frame = chain.buffer().bytes().get(self.header..written);
            if let Some(frame) = frame.filter(|frame| !frame.is_empty()) {
                receive(frame);
            }
            // There is room for what has just come back.
            let _ = ring.add(chain);
            taken = true;
        }
        if taken {
            ring.tell(&mut *self.transport.lock());
        }
    }
}
