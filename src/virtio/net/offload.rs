//! What a sender has left to be done to a frame (VIRTIO 1.2, "Network Device: Packet Transmission"), done here, for
//! receivers that take plain frames only: its checksum, and the division of TCP into segments.
//!
//! One frame is made at a time, in a buffer of the caller's, so a caller can stop after any ([`Segments`]). Nothing is kept from
//! one to the next but how far we are: each is made from a copy of its own of the headers and of its part of the payload,
//! which is checked, changed and sent. A sender that changes its frame meanwhile gets segments that do not
//! match each other, and no other harm is done. What it has asked for is never done to the Ethernet header.
//!
//! What is not looked at is IP's length: how long a frame is, the device knows better.
//!
//! | module | what it is |
//! |---|---|
//! | `sum` | the internet checksum |
//! | `segment` | the headers of a segment |

mod segment;
mod sum;

#[cfg(test)]
mod tests;

use self::segment::{Headers, Part};
use self::sum::Sum;
use super::header::Offload;
use crate::net::Header;

/// How many bytes a buffer for finished frames has that takes any that is common: one of 9,000 bytes of IP.
pub const SCRATCH: usize = 9 * 1024;

/// The longest frame that is divided: a tagged one with 64 KiB of IPv6.
pub const LONGEST: u64 = 18 + 40 + 65_535;

/// The shortest segments that may be asked for, in bytes of payload: those of a path whose packets have 296 bytes, the least in
/// use. So a frame makes no more than 257, and copying the headers ([`MOST_HEADERS`]) at most doubles the work.
pub const MIN_SEGMENT: u16 = 256;

/// The most bytes of headers: all that Ethernet, a tag, IPv6 and TCP can have, and a hundred of extension headers.
pub const MOST_HEADERS: usize = 256;

/// A frame to be sent as plain ones, and how far that is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segments {
    work: Option<Offload>,
    /// In bytes.
    length: usize,
    /// How many bytes of its payload are behind us; `None`: all of it.
    done: Option<usize>,
}

/// Why a frame cannot be made. There are no more after it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Undone<E> {
    /// It cannot be read: what `read` has said.
    Read(E),
    /// Its sender has asked for what cannot be done.
    Refused(Refused),
}

/// What cannot be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// The frame is longer than [`LONGEST`], or what comes of it does not fit into the buffer.
    TooLong,
    /// Segments of less than [`MIN_SEGMENT`].
    TooShort,
    /// The checksum is outside the frame, in its Ethernet header, or not where TCP has it.
    Checksum,
    /// It is no TCP over IP that can be divided.
    Headers,
}

impl<E> From<Refused> for Undone<E> {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl Segments {
    /// The plain frames that come of one of `length` bytes, to which `work` is to be done (`None`: it is plain, and
    /// comes as it is).
    ///
    /// # Errors
    /// [`Refused`], if that can be seen without a look at it.
    pub fn new(work: Option<Offload>, length: u64) -> Result<Self, Refused> {
        let length = usize::try_from(length).ok().filter(|_| length <= LONGEST);
        let length = length.ok_or(Refused::TooLong)?;
        if let Some(Offload { csum_start, csum_offset, segment: Some(size) }) = work {
            if size < MIN_SEGMENT {
                return Err(Refused::TooShort);
            }
            if usize::from(csum_offset) != segment::CHECKSUM {
                return Err(Refused::Checksum);
            }
            if usize::from(csum_start) > MOST_HEADERS {
                return Err(Refused::Headers);
            }
        }
        Ok(Self { work, length, done: Some(0) })
    }

    /// How far it is: what [`go_on`](Self::go_on) takes.
    pub const fn done(&self) -> Option<usize> {
        self.done
    }

    /// The same as far as it was; `None` where it cannot have been there.
    pub fn go_on(self, done: Option<usize>) -> Option<Self> {
        done.is_none_or(|done| done <= self.length).then_some(Self { done, ..self })
    }

    /// Makes the next plain frame, in `scratch`, whose length is that of the longest that may come; `None`: there is no more.
    ///
    /// `read` copies what the frame has at an offset, at most all of it once; what it gives may have changed since the last call.
    /// A caller that has checked a frame's first bytes gives those that it has checked.
    ///
    /// # Errors
    /// [`Undone`]; there are no more then.
    pub fn next<'a, E>(
        &mut self,
        read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
        scratch: &'a mut [u8],
    ) -> Option<Result<&'a [u8], Undone<E>>> {
        let done = self.done.take()?;
        let mut copy = Copy { read, scratch };
        let made = match self.work {
            Some(Offload { csum_start, segment: Some(size), .. }) => {
                self.segment(&mut copy, csum_start.into(), size.into(), done)
            }
            Some(work) => self.complete(&mut copy, &work),
            None => copy.fetch(0, 0..self.length).map(drop).map(|()| self.length),
        };
        Some(made.and_then(|length| Ok(scratch.get(..length).ok_or(Refused::TooLong)?)))
    }

    /// Copies the frame, and completes its checksum: its field holds what else is to be summed up.
    fn complete<E, R>(&self, copy: &mut Copy<'_, R>, work: &Offload) -> Result<usize, Undone<E>>
    where
        R: FnMut(u64, &mut [u8]) -> Result<(), E>,
    {
        let frame = copy.fetch(0, 0..self.length)?;
        let start = usize::from(work.csum_start);
        // Its addresses and its tag have been checked by those who let it pass.
        if ethernet(frame).is_none_or(|(end, _)| start < end) {
            return Err(Refused::Checksum.into());
        }
        let summed = frame.get_mut(start..).ok_or(Refused::Checksum)?;
        let checksum = match Sum::default().bytes(summed).checksum() {
            // To UDP, 0 says that there is none (RFC 768, "Fields"). To all others both are the same.
            [0, 0] => [0xff; 2],
            checksum => checksum,
        };
        put(summed, work.csum_offset.into(), checksum).ok_or(Refused::Checksum)?;
        Ok(self.length)
    }

    /// Makes the segment that begins `done` bytes into the payload, with at most `size` bytes of it; TCP begins at `tcp`.
    fn segment<E, R>(
        &mut self,
        copy: &mut Copy<'_, R>,
        tcp: usize,
        size: usize,
        done: usize,
    ) -> Result<usize, Undone<E>>
    where
        R: FnMut(u64, &mut [u8]) -> Result<(), E>,
    {
        let fixed = tcp + segment::TCP;
        if fixed > self.length.min(MOST_HEADERS) {
            return Err(Refused::Headers.into());
        }
        let headers = Headers::parse(copy.fetch(0, 0..fixed)?, tcp).ok_or(Refused::Headers)?;
        let payload = headers.end;
        if payload > self.length.min(MOST_HEADERS) {
            return Err(Refused::Headers.into());
        }
        copy.fetch(fixed, fixed..payload)?;
        // Of a frame whose headers have grown since the last segment, there may be nothing left.
        let left = (self.length - payload).checked_sub(done).ok_or(Refused::Headers)?;
        let now = left.min(size);
        let end = payload + now;
        copy.fetch(payload + done, payload..end)?;
        let part = Part { number: done / size, done, is_last: now == left };
        let frame = copy.scratch.get_mut(..end).ok_or(Refused::TooLong)?;
        headers.complete(frame, &part).ok_or(Refused::Headers)?;
        self.done = (!part.is_last).then_some(done + now);
        Ok(end)
    }
}

/// The buffer, and where it is filled from.
struct Copy<'a, R> {
    read: R,
    scratch: &'a mut [u8],
}

impl<R> Copy<'_, R> {
    /// Copies what the frame has from `offset` on.
    fn fetch<E>(
        &mut self,
        offset: usize,
        into: core::ops::Range<usize>,
    ) -> Result<&mut [u8], Undone<E>>
    where
        R: FnMut(u64, &mut [u8]) -> Result<(), E>,
    {
        let into = self.scratch.get_mut(into).ok_or(Refused::TooLong)?;
        if !into.is_empty() {
            (self.read)(offset as u64, into).map_err(Undone::Read)?;
        }
        Ok(into)
    }
}

/// Where a frame's Ethernet header ends, and the type of what follows.
fn ethernet(frame: &[u8]) -> Option<(usize, u16)> {
    let header = Header::parse(frame)?;
    Some((if header.tag.is_some() { 18 } else { 14 }, header.ethertype))
}

/// What is at `at`.
fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Writes it there.
fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value;
    Some(())
}
