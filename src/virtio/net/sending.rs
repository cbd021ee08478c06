//! A frame on its way to all whom it is for: a copy at a time, so that others come to run between two.

use super::header::{NetHeader, SIZE};
use super::lan;
use super::offload::Segments;
use super::socket::Frame;
use crate::memory::OutsideRam;
use crate::net::{Copies, FLOW, Head, Header, PortId};

/// How far a frame has come.
#[derive(Clone, Debug)]
pub struct Sending {
    /// What is left to be done to it, as it was looked at.
    pub(super) left: NetHeader,
    /// Its header, as it was looked at.
    pub(super) header: Header,
    /// To whom it is still to go.
    pub(super) copies: Copies,
    /// Its number among conversations, once somebody has asked.
    pub(super) flow: Option<u32>,
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

/// What finding a place for one more frame takes, in bytes that are copied meanwhile.
const EACH: u64 = 4096;
/// How much longer a byte takes that is summed up, too.
const SUMMED: u64 = 4;

impl Budget {
    /// Some twenty thousand instructions.
    pub const WHOLE: Self = Self(32 << 10);

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
