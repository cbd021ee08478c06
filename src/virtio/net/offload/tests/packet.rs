//! A packet of TCP, built field by field, and what is to become of it.

use proptest::prelude::*;

use crate::virtio::net::header::Offload;

pub const FIN: u8 = 0x01;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;

/// Where TCP's checksum is in its header.
pub const CHECKSUM: u16 = 16;

/// A packet of TCP, before it is bytes.
#[derive(Clone, Debug)]
pub struct Packet {
    pub tag: Option<u16>,
    pub is_v6: bool,
    /// IPv4's options, as zero or more words.
    pub ip_options: Vec<[u8; 4]>,
    /// IPv6's extension headers: kind, and how many times eight bytes are added to eight.
    pub extensions: Vec<(u8, u8)>,
    pub identification: u16,
    pub sequence: u32,
    pub flags: u8,
    pub urgent: u16,
    pub tcp_options: Vec<[u8; 4]>,
    pub payload: Vec<u8>,
}

/// The complement of the sum of 16-bit words (RFC 791, "Header Checksum"), as division leaves it.
pub fn slow(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    let sum: u64 = bytes.chunks(2).map(word).sum();
    // 0 only if there was nothing but zeros.
    let folded = if sum == 0 { 0 } else { (sum - 1) % 0xffff + 1 };
    !u16::try_from(folded).unwrap()
}

impl Packet {
    pub fn ethernet(&self) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if let Some(tag) = self.tag {
            bytes.extend([0x81, 0x00]);
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(if self.is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        bytes
    }

    pub fn ip(&self, length: usize) -> Vec<u8> {
        let word = |value: usize| u16::try_from(value).unwrap_or(0).to_be_bytes();
        let mut bytes = Vec::new();
        if self.is_v6 {
            let mut extensions = Vec::new();
            for (index, (_, longer)) in self.extensions.iter().enumerate() {
                let next = self.extensions.get(index + 1).map_or(6, |(kind, _)| *kind);
                extensions.extend([next, *longer, 4, 0, 1, 2, 3, 4]);
                extensions.extend(vec![7; usize::from(*longer) * 8]);
            }
            bytes.extend([0x60, 0x12, 0x34, 0x56]);
            bytes.extend(word(extensions.len() + length));
            bytes.extend([self.extensions.first().map_or(6, |(kind, _)| *kind), 64]);
            bytes.extend(self.addresses());
            bytes.extend(extensions);
        } else {
            let header = 20 + self.ip_options.len() * 4;
            bytes.extend([0x40 | u8::try_from(header / 4).unwrap(), 3]);
            bytes.extend(word(header + length));
            bytes.extend(self.identification.to_be_bytes());
            bytes.extend([0x40, 0, 64, 6, 0, 0]);
            bytes.extend(self.addresses());
            bytes.extend(self.ip_options.concat());
            let checksum = slow(&bytes).to_be_bytes();
            bytes[10..12].copy_from_slice(&checksum);
        }
        bytes
    }

    pub fn addresses(&self) -> Vec<u8> {
        let size = if self.is_v6 { 32 } else { 8 };
        (0..size).map(|byte: u8| byte.wrapping_mul(29) ^ 0xc0).collect()
    }

    pub fn tcp(&self) -> Vec<u8> {
        let mut bytes = vec![0x1f, 0x90, 0xc3, 0x50];
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend([0xde, 0xad, 0xbe, 0xef]);
        let words = 5 + u8::try_from(self.tcp_options.len()).unwrap();
        bytes.extend([words << 4 | 1, self.flags, 0x20, 0x00, 0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(self.tcp_options.concat());
        bytes.extend(&self.payload);
        bytes
    }

    /// RFC 9293, "Checksum"; RFC 8200, "Upper-Layer Checksums".
    pub fn pseudo_header(&self) -> Vec<u8> {
        let length = u32::try_from(self.tcp().len()).unwrap().to_be_bytes();
        let mut bytes = self.addresses();
        if self.is_v6 {
            bytes.extend(length);
            bytes.extend([0, 0, 0, 6]);
        } else {
            bytes.extend([0, 6, length[2], length[3]]);
        }
        bytes
    }

    /// As it is on the wire, complete.
    pub fn frame(&self) -> Vec<u8> {
        let mut tcp = self.tcp();
        let summed = [self.pseudo_header(), tcp.clone()].concat();
        tcp[16..18].copy_from_slice(&slow(&summed).to_be_bytes());
        [self.ethernet(), self.ip(tcp.len()), tcp].concat()
    }

    /// As a guest leaves it to us, and what it says is left to be done.
    pub fn left(&self, segment: Option<u16>) -> (Vec<u8>, Offload) {
        let tcp = self.tcp();
        let start = self.ethernet().len() + self.ip(tcp.len()).len();
        let mut frame = self.frame();
        let field = start + usize::from(CHECKSUM);
        frame[field..field + 2].copy_from_slice(&(!slow(&self.pseudo_header())).to_be_bytes());
        let csum_start = u16::try_from(start).unwrap();
        (frame, Offload { csum_start, csum_offset: CHECKSUM, segment })
    }

    /// The packets it is to be sent as, with at most `size` bytes each.
    pub fn divided(&self, size: usize) -> Vec<Self> {
        let count = self.payload.len().div_ceil(size).max(1);
        let nth = |index: usize| {
            let done = index * size;
            let until = self.payload.len().min(done + size);
            let mut part = Self { payload: self.payload[done..until].to_vec(), ..self.clone() };
            part.identification =
                u16::try_from((usize::from(self.identification) + index) % 0x1_0000).unwrap();
            part.sequence =
                u32::try_from((u64::from(self.sequence) + done as u64) % (1 << 32)).unwrap();
            let urgent_end = usize::from(self.urgent);
            if self.flags & URG != 0 && urgent_end < done {
                (part.flags, part.urgent) = (part.flags & !URG, 0);
            } else if self.flags & URG != 0 {
                part.urgent = u16::try_from(urgent_end - done).unwrap();
            }
            if index > 0 {
                part.flags &= !CWR;
            }
            if index + 1 < count {
                part.flags &= !(FIN | PSH);
            }
            part
        };
        (0..count).map(nth).collect()
    }
}
pub fn plain(payload: Vec<u8>) -> Packet {
    Packet {
        tag: None,
        is_v6: false,
        ip_options: vec![],
        extensions: vec![],
        identification: 0xfffe,
        sequence: 0xffff_ff00,
        flags: ACK | PSH | FIN,
        urgent: 0,
        tcp_options: vec![],
        payload,
    }
}

pub fn packets() -> impl Strategy<Value = Packet> {
    let extension = prop::sample::select(vec![0u8, 43, 60]);
    let options = || prop::collection::vec(any::<[u8; 4]>(), 0..=10);
    let start = (prop::option::of(any::<u16>()), any::<bool>(), options());
    let extensions = prop::collection::vec((extension, 0u8..2), 0..4);
    let numbers = (any::<u16>(), any::<u32>(), any::<u8>(), 0u16..5000);
    let most = crate::testing::pick(6000, 600);
    let payload = prop::collection::vec(any::<u8>(), 0..most);
    (start, extensions, numbers, options(), payload).prop_map(
        |((tag, is_v6, ip_options), extensions, numbers, tcp_options, payload)| {
            let (identification, sequence, flags, urgent) = numbers;
            // Neither SYN nor RST.
            let flags = flags & !0x06;
            Packet {
                tag,
                is_v6,
                ip_options,
                extensions,
                identification,
                sequence,
                flags,
                urgent,
                tcp_options,
                payload,
            }
        },
    )
}
