//! A frame on its way to all whom it is for: a copy at a time, so that others come to run between two.

use super::header::{NetHeader, SIZE};
use super::lan;
use super::offload::Segments;
use super::socket::Frame;
use crate::memory::OutsideRam;
use crate::net::{Copies, FLOW, HEADER, Head, Header, PortId};

/// What a frame begins with in the queue of whoever gets it: the header before it, and the bytes that were looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Start {
    bytes: [u8; SIZE + HEADER],
    /// How many of them count.
    length: u8,
    /// How many of those before the rest of the frame, in its sender's RAM, they stand for.
    replaces: u8,
}

/// So many bytes of a frame, at most [`HEADER`], and the header before it.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the most is 30")]
const fn counted(bytes: usize) -> u8 {
    (SIZE + if bytes < HEADER { bytes } else { HEADER }) as u8
}

impl Start {
    const NEW: Self = Self { bytes: [0; SIZE + HEADER], length: 0, replaces: 0 };

    /// Room for what a frame of so many bytes begins with.
    #[inline]
    pub(super) fn room(&mut self, length: u64) -> &mut [u8] {
        let taken = usize::try_from(length).unwrap_or(HEADER).min(HEADER);
        self.bytes.get_mut(..SIZE + taken).unwrap_or_default()
    }

    /// The header before what was put there.
    #[inline]
    pub(super) fn header(&self) -> NetHeader {
        self.bytes.first_chunk().map(NetHeader::parse).unwrap_or_default()
    }

    /// The first of what was put there, of a frame of so many bytes. What gets it as it came begins with that from now on.
    #[inline]
    pub(super) fn read(&mut self, length: usize) -> Option<Header> {
        let header = Header::parse(self.bytes.get(SIZE..SIZE + length.min(HEADER))?)?;
        self.length = counted(header.length().into());
        self.replaces = self.length;
        if let Some(first) = self.bytes.first_chunk_mut() {
            NetHeader::settle(first);
        }
        Some(header)
    }

    /// Of one that begins with `head`, where `left` is left to be done to what it was before.
    pub(super) fn new(left: &NetHeader, head: &Head) -> Self {
        let (bytes, length) = head.padded();
        let replaces = counted(head.replaces());
        Self { replaces, ..Self::of(&left.shifted(head.growth()), bytes, length) }
    }

    /// Of one whose own bytes all follow these, of which `length` count.
    pub(super) fn of(header: &NetHeader, head: [u8; HEADER], length: usize) -> Self {
        let mut start = Self { length: counted(length), ..Self::NEW };
        if let Some((first, behind)) = start.bytes.split_first_chunk_mut() {
            *first = header.bytes();
            if let Some(behind) = behind.first_chunk_mut() {
                *behind = head;
            }
        }
        start
    }

    /// The bytes.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }

    /// How many of those in its sender's RAM they stand for.
    #[inline]
    pub(super) const fn replaces(&self) -> u64 {
        self.replaces as u64
    }
}

/// How far a frame has come.
#[derive(Clone, Debug)]
pub struct Sending {
    /// What it begins with for those who get it as it came.
    pub(super) start: Start,
    /// What is left to be done to it, as it was looked at.
    pub(super) left: NetHeader,
    /// Its header, as it was looked at.
    pub(super) header: Header,
    /// To whom it is still to go.
    pub(super) copies: Copies,
    /// Its number among conversations, once somebody has asked.
    pub(super) flow: Option<u32>,
}

impl Sending {
    /// Nothing is known of it.
    pub(super) const NEW: Self = Self {
        start: Start::NEW,
        left: NetHeader::settled(false),
        header: Header::NONE,
        copies: Copies::NOWHERE,
        flow: None,
    };
}

/// A frame that is sent as plain ones.
#[derive(Clone, Debug)]
pub struct Plain {
    pub(super) to: PortId,
    pub(super) head: Head,
    pub(super) segments: Segments,
}

/// What is done at one go: bytes that are copied, and what else takes as long.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Budget(u64);

/// What finding a place for one more frame takes, in bytes that are copied meanwhile, from buffers of 4 KiB to such.
const EACH: u64 = 8 << 10;
/// How much longer a byte takes that is summed up, too.
const SUMMED: u64 = 12;

impl Budget {
    /// Some twenty thousand instructions.
    pub const WHOLE: Self = Self(64 << 10);

    /// Whether no more is left than all of it.
    pub const fn is_sound(self) -> bool {
        self.0 <= Self::WHOLE.0
    }

    /// Nothing is left of it.
    pub const fn is_spent(self) -> bool {
        self.0 == 0
    }

    /// A frame of so many bytes was copied.
    pub(super) const fn copied(&mut self, bytes: u64) {
        self.0 = self.0.saturating_sub(EACH.saturating_add(bytes));
    }

    /// The same, and its checksum was computed.
    pub(super) const fn finished(&mut self, bytes: u64) {
        self.copied(bytes.saturating_mul(SUMMED));
    }
}

/// Copies what `frame` has from `offset` on when it goes out, beginning with `head`.
pub(super) fn read(
    frame: &Frame<'_>,
    head: &Head,
    offset: u64,
    mut into: &mut [u8],
) -> Result<(), OutsideRam> {
    let made = head.bytes();
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    if let Some(made) = made.get(start..) {
        let now = made.len().min(into.len());
        let (first, rest) = into.split_at_mut(now);
        first.iter_mut().zip(made).for_each(|(to, byte)| *to = *byte);
        into = rest;
    }
    let behind = offset.saturating_sub(made.len() as u64);
    if into.is_empty() {
        return Ok(());
    }
    lan::read(frame.ram, frame.buffers, (SIZE + head.replaces()) as u64 + behind, into)
}

/// The number of `frame`, kept in `known`. It only chooses a queue: where its sender has no such RAM any more it is 0.
pub(super) fn flow(known: &mut Option<u32>, frame: &Frame<'_>) -> u32 {
    *known.get_or_insert_with(|| {
        let mut bytes = [0; FLOW];
        let taken = usize::try_from(frame.length).unwrap_or(FLOW).min(FLOW);
        let start = bytes.get_mut(..taken).unwrap_or_default();
        match lan::read(frame.ram, frame.buffers, SIZE as u64, start) {
            Ok(()) => crate::net::flow(start),
            Err(_) => 0,
        }
    })
}
