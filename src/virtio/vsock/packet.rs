//! What stands before each packet (VIRTIO 1.2, "Socket Device: Device Operation").

use serde::{Deserialize, Serialize};

/// How many bytes a header has.
pub const SIZE: usize = 44;

/// `type`: a stream.
pub const STREAM: u16 = 1;

/// SHUTDOWN's `flags`: who sends it receives no more.
pub const NO_RECEIVE: u32 = 1;
/// SHUTDOWN's `flags`: who sends it sends no more.
pub const NO_SEND: u32 = 2;

/// What a packet is for. Numbers that are not among them mean nothing.
pub mod op {
    /// Somebody wants to be connected.
    pub const REQUEST: u16 = 1;
    /// He is.
    pub const RESPONSE: u16 = 2;
    /// There is no connection, or no more.
    pub const RST: u16 = 3;
    /// No more is sent, or received.
    pub const SHUTDOWN: u16 = 4;
    /// Bytes.
    pub const RW: u16 = 5;
    /// How much room there is.
    pub const CREDIT_UPDATE: u16 = 6;
    /// How much is there?
    pub const CREDIT_REQUEST: u16 = 7;
}

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct PacketHeader {
    /// From whom.
    pub src_cid: u64,
    /// To whom.
    pub dst_cid: u64,
    /// From which of his ports.
    pub src_port: u32,
    /// To which of his ports.
    pub dst_port: u32,
    /// How many bytes follow.
    pub len: u32,
    /// Of what kind the socket is.
    pub kind: u16,
    /// What it is for.
    pub op: u16,
    /// More of that.
    pub flags: u32,
    /// How many bytes its sender's buffer holds.
    pub buf_alloc: u32,
    /// How many bytes have left that buffer since the connection began.
    pub fwd_cnt: u32,
}

impl PacketHeader {
    /// As it stands in memory.
    pub fn parse(bytes: &[u8; SIZE]) -> Self {
        Self {
            src_cid: u64::from_le_bytes(field(bytes, 0)),
            dst_cid: u64::from_le_bytes(field(bytes, 8)),
            src_port: u32::from_le_bytes(field(bytes, 16)),
            dst_port: u32::from_le_bytes(field(bytes, 20)),
            len: u32::from_le_bytes(field(bytes, 24)),
            kind: u16::from_le_bytes(field(bytes, 28)),
            op: u16::from_le_bytes(field(bytes, 30)),
            flags: u32::from_le_bytes(field(bytes, 32)),
            buf_alloc: u32::from_le_bytes(field(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(field(bytes, 40)),
        }
    }

    /// For memory.
    pub fn bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let fields = (self.src_cid.to_le_bytes().into_iter())
            .chain(self.dst_cid.to_le_bytes())
            .chain(self.src_port.to_le_bytes())
            .chain(self.dst_port.to_le_bytes())
            .chain(self.len.to_le_bytes())
            .chain(self.kind.to_le_bytes())
            .chain(self.op.to_le_bytes())
            .chain(self.flags.to_le_bytes())
            .chain(self.buf_alloc.to_le_bytes())
            .chain(self.fwd_cnt.to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, byte)| *to = byte);
        bytes
    }
}

fn field<const N: usize>(bytes: &[u8; SIZE], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_fields_are_where_the_standard_has_them() {
        let header = PacketHeader {
            src_cid: 3,
            dst_cid: 2,
            src_port: 0x0101,
            dst_port: 1,
            len: 9,
            kind: STREAM,
            op: op::RW,
            flags: 0xff,
            buf_alloc: 0x1000,
            fwd_cnt: 0xabcd,
        };
        let bytes = header.bytes();
        assert_eq!(
            &bytes[..24],
            &[3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(
            &bytes[24..],
            &[9, 0, 0, 0, 1, 0, 5, 0, 255, 0, 0, 0, 0, 16, 0, 0, 0xcd, 0xab, 0, 0]
        );
    }

    proptest! {
        #![proptest_config(crate::testing::cases(64, 1))]

        #[test]
        fn what_is_parsed_and_written_is_the_same(bytes: [u8; 32], rest: [u8; 12]) {
            let mut all = [0; SIZE];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&rest);
            prop_assert_eq!(PacketHeader::parse(&all).bytes(), all);
        }
    }
}
