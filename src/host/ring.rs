//! A queue of a device, and the requests that are under way in it (VIRTIO 1.2, "Split Virtqueues").
//!
//! The crate's queue wants to be given the same buffers again when a request has come back. They are kept here, and are
//! nobody's meanwhile. It takes its memory when it is made, and none for a request: indirect descriptors, for which it
//! would, are not negotiated.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use core::ptr;

use virtio_drivers::Hal;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use super::buffer::Buffer;
use super::disk::{MAX_SEGMENTS, Token};
use super::session::StartError;
use crate::memory::Segment;

/// The most pieces that a request has: its own buffer's, and those of its data.
const PIECES: usize = MAX_SEGMENTS + 2;

/// How many descriptors each queue has. All have as many, so that the image has this code once.
const DESCRIPTORS: usize = 64;

/// The device has used what it was not given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutOfOrder;

/// Which way the data of a request goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// The device reads it.
    ToDevice,
    /// The device writes it.
    FromDevice,
}

/// A request: the start of its own buffer, which the device reads; its data, one way or the other; what follows of its
/// buffer, which the device writes.
#[derive(Debug)]
pub struct Chain<H: Hal> {
    own: Buffer<H>,
    read: usize,
    written: usize,
    way: Way,
    data: [Option<Segment>; MAX_SEGMENTS],
    /// What it is called.
    pub token: Token,
}

impl<H: Hal> Chain<H> {
    /// One without data: of `own` the device reads the first `read` bytes, and writes the `written` ones that follow.
    ///
    /// # Panics
    /// There are not so many, or none at all is to be read or written.
    pub fn new(own: Buffer<H>, read: usize, written: usize) -> Self {
        let fits = read.checked_add(written).is_some_and(|all| (1..=own.size()).contains(&all));
        assert!(fits, "the parts of a buffer lie in it");
        Self { own, read, written, way: Way::ToDevice, data: [None; MAX_SEGMENTS], token: Token(0) }
    }

    /// The same with data, [`MAX_SEGMENTS`] pieces at most.
    pub fn with_data(mut self, way: Way, segments: &[Segment], token: Token) -> Self {
        self.way = way;
        self.token = token;
        for (slot, segment) in self.data.iter_mut().zip(segments) {
            *slot = Some(*segment);
        }
        self
    }

    /// What the device has written to its own buffer, once it has come back.
    pub fn answer(&self) -> &[u8] {
        let written = self.own.bytes().get(self.read..).unwrap_or_default();
        written.get(..self.written).unwrap_or(written)
    }

    /// Its own buffer; the rest of it is done with.
    pub fn into_buffer(self) -> Buffer<H> {
        self.own
    }

    /// Its own buffer.
    pub fn buffer(&self) -> &Buffer<H> {
        &self.own
    }

    /// Calls `act` with what the device reads and with what it writes.
    fn with_slices<T>(
        &mut self,
        act: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> T,
    ) -> T {
        let mut inputs: [&[u8]; PIECES] = [&[]; PIECES];
        let mut outputs: [&mut [u8]; PIECES] = core::array::from_fn(|_| <&mut [u8]>::default());
        let (mut readable, mut writable) = (0, 0);
        let (own, read, written) = (self.own.start().as_ptr(), self.read, self.written);
        let mut input = |start: *const u8, size| {
            if let Some(slot) = inputs.get_mut(readable).filter(|_| size > 0) {
                // SAFETY: the bytes are of `own`, or of frames that the pool handed out (`Segment`), so they are mapped; the
                // crate makes an address and a length of the slice, and never looks at a byte.
                *slot = unsafe { core::slice::from_raw_parts(start, size) };
                readable += 1;
            }
        };
        let mut output = |start: *mut u8, size| {
            if let Some(slot) = outputs.get_mut(writable).filter(|_| size > 0) {
                // SAFETY: as above.
                *slot = unsafe { core::slice::from_raw_parts_mut(start, size) };
                writable += 1;
            }
        };
        input(own, read);
        for segment in self.data.iter().flatten() {
            let start = usize::try_from(segment.region().start().raw()).unwrap_or(0);
            let size = usize::try_from(segment.size()).unwrap_or(0);
            match self.way {
                Way::ToDevice => input(ptr::with_exposed_provenance(start), size),
                Way::FromDevice => output(ptr::with_exposed_provenance_mut(start), size),
            }
        }
        output(own.wrapping_add(read), written);
        act(
            inputs.get(..readable).unwrap_or_default(),
            outputs.get_mut(..writable).unwrap_or_default(),
        )
    }
}

/// A queue.
pub struct Ring<H: Hal> {
    number: u16,
    queue: VirtQueue<H, DESCRIPTORS>,
    /// Those under way, by their first descriptor.
    chains: Box<[Option<Chain<H>>]>,
}

impl<H: Hal> Ring<H> {
    /// Queue `number` of a device, empty.
    pub fn new(transport: &mut impl Transport, number: u16) -> Result<Self, StartError> {
        let queue = VirtQueue::new(transport, number, false, false)
            .map_err(|error| StartError::Queue { number, error })?;
        Ok(Self { number, queue, chains: (0..DESCRIPTORS).map(|_| None).collect() })
    }

    /// Hands a request over; the device notices it when it is [told](Self::tell).
    ///
    /// # Errors
    /// There is no room for it. It is given back.
    #[allow(clippy::result_large_err, reason = "it is given back as it was")]
    #[inline(never)]
    pub fn add(&mut self, mut chain: Chain<H>) -> Result<(), Chain<H>> {
        // SAFETY: nobody can reach the request's own buffer until `pop` gives it back, and of the data, which is of frames
        // that the pool has handed out, no reference is ever made elsewhere.
        let head = chain.with_slices(|read, written| unsafe { self.queue.add(read, written) });
        match head.ok().and_then(|head| self.chains.get_mut(usize::from(head))) {
            Some(slot) => {
                *slot = Some(chain);
                Ok(())
            }
            None => Err(chain),
        }
    }

    /// Has the device look, if it wants to be told.
    pub fn tell(&self, transport: &mut impl Transport) {
        if self.queue.should_notify() {
            transport.notify(self.number);
        }
    }

    /// Says whether an interrupt is wanted when a request comes back.
    pub fn want_interrupts(&mut self, wanted: bool) {
        self.queue.set_dev_notify(wanted);
    }

    /// The next request that has come back, and how many bytes the device says it has written.
    ///
    /// # Errors
    /// Something has come back that the device was not given. It has to be reset before anything else is done.
    #[inline(never)]
    pub fn pop(&mut self) -> Result<Option<(Chain<H>, usize)>, OutOfOrder> {
        let Some(head) = self.queue.peek_used() else { return Ok(None) };
        let slot = self.chains.get_mut(usize::from(head)).ok_or(OutOfOrder)?;
        let chain = slot.as_mut().ok_or(OutOfOrder)?;
        // SAFETY: these are what was added under this number, and they are still there.
        let written = chain
            .with_slices(|read, written| unsafe { self.queue.pop_used(head, read, written) })
            .map_err(|_| OutOfOrder)?;
        let chain = slot.take().ok_or(OutOfOrder)?;
        Ok(Some((chain, usize::try_from(written).unwrap_or(usize::MAX))))
    }

    /// A request that will not come back. The device has been reset.
    pub fn abandon(&mut self) -> Option<Chain<H>> {
        self.chains.iter_mut().find_map(Option::take)
    }
}
