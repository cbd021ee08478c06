//! What stands before each packet in a queue: `struct virtio_net_hdr` (VIRTIO 1.2, "Network Device: Device Operation").
//!
//! It tells what is left to be done to the packet: its checksum, its division into segments. Between two guests that
//! both know of it, nobody ever does.

use super::feature;

/// Its bytes.
pub const SIZE: usize = 12;

/// Where in it the number of buffers is.
pub const NUM_BUFFERS: u64 = 10;

/// Its flags: the checksum is to be computed.
const NEEDS_CSUM: u8 = 1;
/// Its flags: the checksum has been looked at, or never leaves the machine.
const DATA_VALID: u8 = 2;

/// Its `gso_type`: one packet.
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// A bit beside it: explicit congestion notification.
const GSO_ECN: u8 = 0x80;

/// A copy of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct NetHeader {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl NetHeader {
    /// The header in these bytes, of which what concerns offloads is kept.
    pub fn parse(bytes: &[u8; SIZE]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = *bytes;
        Self {
            flags: flags & NEEDS_CSUM,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    /// Makes of the bytes that were [`parse`](Self::parse)d those that a receiver gets, with one buffer.
    #[inline]
    pub const fn settle(bytes: &mut [u8; SIZE]) {
        let [flags, .., low, high] = bytes;
        (*flags, *low, *high) = (*flags & NEEDS_CSUM, 1, 0);
    }

    /// As the receiver gets it, with one buffer.
    pub fn bytes(&self) -> [u8; SIZE] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, 1, 0]
    }

    /// Whether a frame of `length` bytes can have it, and the driver may ask for that: it has negotiated `features`.
    pub fn is_allowed(&self, features: u64, length: u64) -> bool {
        let has = |bit: u64| features & bit != 0;
        if self.flags & NEEDS_CSUM != 0 {
            // The checksum's field lies inside.
            let end = u64::from(self.csum_start) + u64::from(self.csum_offset) + 2;
            if !has(feature::CSUM) || end > length {
                return false;
            }
        }
        let kind = match self.gso_type & !GSO_ECN {
            GSO_NONE => return true,
            GSO_TCPV4 => has(feature::HOST_TSO4),
            GSO_TCPV6 => has(feature::HOST_TSO6),
            _ => false,
        };
        let ecn = self.gso_type & GSO_ECN == 0 || has(feature::HOST_ECN);
        kind && ecn && self.gso_size > 0 && self.flags & NEEDS_CSUM != 0
    }

    /// Whether nothing of it is kept that [`parse`](Self::parse) does not.
    pub const fn is_parsed(&self) -> bool {
        self.flags & !NEEDS_CSUM == 0
    }

    /// Whether what is left to be done is behind the first `length` bytes: nobody changes those after they were looked at.
    pub const fn is_behind(&self, length: u8) -> bool {
        self.flags & NEEDS_CSUM == 0 || self.csum_start >= length as u16
    }

    /// Whether a driver that has negotiated `features` takes what is left to be done.
    pub fn is_taken(&self, features: u64) -> bool {
        let has = |bit: u64| features & bit != 0;
        let checksum = self.flags & NEEDS_CSUM == 0 || has(feature::GUEST_CSUM);
        let segments = match self.gso_type & !GSO_ECN {
            GSO_NONE => true,
            GSO_TCPV4 => has(feature::GUEST_TSO4),
            _ => has(feature::GUEST_TSO6),
        };
        checksum && segments && (self.gso_type & GSO_ECN == 0 || has(feature::GUEST_ECN))
    }

    /// The same for a frame that has so many bytes more, or fewer, before what it speaks of.
    #[must_use]
    pub const fn shifted(self, bytes: i16) -> Self {
        Self {
            hdr_len: self.hdr_len.saturating_add_signed(bytes),
            csum_start: self.csum_start.saturating_add_signed(bytes),
            ..self
        }
    }

    /// Nothing is to be done; and where it is `valid`, nobody need look at the checksum either.
    pub const fn settled(valid: bool) -> Self {
        Self {
            flags: if valid { DATA_VALID } else { 0 },
            gso_type: GSO_NONE,
            hdr_len: 0,
            gso_size: 0,
            csum_start: 0,
            csum_offset: 0,
        }
    }

    /// What is to be done to send it as plain frames; `None` when it is one.
    pub fn work(&self) -> Option<Offload> {
        (self.flags & NEEDS_CSUM != 0).then_some(Offload {
            csum_start: self.csum_start,
            csum_offset: self.csum_offset,
            segment: (self.gso_type != GSO_NONE).then_some(self.gso_size),
        })
    }
}

/// What a sender has left to be done to a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offload {
    /// The checksum covers everything from here on.
    pub csum_start: u16,
    /// Its place, from there on.
    pub csum_offset: u16,
    /// It is TCP, to be sent in segments of at most so many bytes of payload.
    pub segment: Option<u16>,
}
