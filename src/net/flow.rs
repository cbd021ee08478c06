//! Which conversation a frame belongs to: the same number for both of its directions, and with or without a tag.
//!
//! Addresses and ports of IP (RFC 791, RFC 8200), and those of Ethernet for everything else. A fragment has no ports that
//! could be told, so it, like what is no TCP or UDP, goes by its addresses alone.

use super::frame::Header;

/// How many of a frame's first bytes are looked at: a tag, and an IPv6 header with ports behind it.
pub const FLOW: usize = 62;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Spreads what differs in a few bits over all of them.
const SPREAD: u32 = 0x9e37_79b1;

/// The number of a frame that begins with `bytes`, of which [`FLOW`] are enough.
pub fn flow(bytes: &[u8]) -> u32 {
    let Some(header) = Header::parse(bytes) else { return 0 };
    let packet = bytes.get(header.length().into()..).unwrap_or_default();
    let of_ip = match header.ethertype {
        IPV4 => ipv4(packet),
        IPV6 => ipv6(packet),
        _ => None,
    };
    let number = of_ip.unwrap_or_else(|| fold(bytes.get(..12).unwrap_or_default()));
    number.wrapping_mul(SPREAD)
}

/// All words one upon the other: it does not matter which address comes first.
fn fold(bytes: &[u8]) -> u32 {
    bytes.as_chunks().0.iter().fold(0, |sum, word| sum ^ u32::from_be_bytes(*word))
}

fn ipv4(packet: &[u8]) -> Option<u32> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let addresses = fold(&header[12..]);
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    let behind = packet.get(usize::from(header[0] & 15) * 4..)?;
    Some(addresses ^ if fragment == 0 { ports(header[9], behind) } else { 0 })
}

fn ipv6(packet: &[u8]) -> Option<u32> {
    let header: &[u8; 40] = packet.first_chunk()?;
    Some(fold(&header[8..]) ^ ports(header[6], packet.get(40..)?))
}

fn ports(protocol: u8, bytes: &[u8]) -> u32 {
    match bytes {
        [a, b, c, d, ..] if matches!(protocol, TCP | UDP) => {
            let (from, to) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            // Both sums are the same from either side, and one alone would be 0 for the same port on both.
            u32::from(from ^ to) << 16 | u32::from(from.wrapping_add(to))
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    fn frame(tag: &[u8], ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], tag, &ethertype.to_be_bytes(), packet].concat()
    }

    /// TCP over IPv4, with options where the header has more than five words.
    fn v4(from: (u8, u16), to: (u8, u16), words: u8, fragment: u16) -> Vec<u8> {
        let mut packet = vec![0x40 | words, 0, 0, 40, 1, 2];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, TCP, 3, 4, 10, 0, 0, from.0, 10, 0, 0, to.0]);
        packet.resize(usize::from(words) * 4, 1);
        packet.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
        packet
    }

    #[test]
    fn both_directions_of_a_conversation_are_one_flow_whatever_tag_they_have() {
        let there = flow(&frame(&[], IPV4, &v4((1, 4000), (2, 80), 5, 0)));
        assert_eq!(flow(&frame(&[], IPV4, &v4((2, 80), (1, 4000), 5, 0))), there);
        assert_eq!(flow(&frame(&[0x81, 0, 0, 7], IPV4, &v4((1, 4000), (2, 80), 5, 0))), there);
        assert_eq!(flow(&frame(&[], IPV4, &v4((1, 4000), (2, 80), 7, 0x4000))), there);
        let [mut a, mut b] = [[7; 44]; 2];
        (a[6], b[6]) = (UDP, UDP);
        a[8..24].fill(1);
        b[24..40].fill(1);
        a[40..].copy_from_slice(&[1, 2, 3, 4]);
        b[40..].copy_from_slice(&[3, 4, 1, 2]);
        assert_eq!(flow(&frame(&[], IPV6, &a)), flow(&frame(&[], IPV6, &b)));
        assert_ne!(flow(&frame(&[], IPV6, &a)), 0);
    }

    #[test]
    fn conversations_of_other_ports_are_other_flows_but_not_their_fragments() {
        let of = |port, fragment| flow(&frame(&[], IPV4, &v4((1, port), (2, 80), 5, fragment)));
        let mut flows: Vec<_> = (4000..4100).map(|port| of(port, 0)).collect();
        flows.sort_unstable();
        flows.dedup();
        assert_eq!(flows.len(), 100);
        // The first fragment, and a later one.
        assert_eq!(of(4000, 0x2000), of(4001, 0x2000));
        assert_eq!(of(4000, 0x0010), of(4001, 0x2000));
    }

    #[test]
    fn a_frame_that_ends_anywhere_is_a_flow_as_well() {
        for (kind, packet) in [(IPV4, v4((1, 1), (2, 2), 15, 0)), (IPV6, vec![6; 44])] {
            let frame = frame(&[0x81, 0, 0, 7], kind, &packet);
            (0..frame.len()).for_each(|end| _ = flow(&frame[..end]));
        }
        assert_eq!(flow(&frame(&[], 0x88b5, &[1])), flow(&frame(&[], 0x88b5, &[2; 90])));
    }
}
