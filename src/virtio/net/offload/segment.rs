//! The headers of a segment: those of the frame that is divided, changed (RFC 9293, "Header Format"; RFC 791, "Internet
//! Header Format"; RFC 8200, "IPv6 Header Format", "IPv6 Extension Headers").
//!
//! | field | in the segment |
//! |---|---|
//! | IPv4 total length, IPv6 payload length | its own |
//! | IPv4 identification | counted up, so that each is another packet |
//! | IPv4 header checksum, TCP checksum | computed |
//! | sequence number | that of its first byte |
//! | FIN, PSH | in the last only: nothing ends, and nobody waits, before |
//! | CWR | in the first only: the sender has answered congestion once (RFC 3168, "The TCP Sender") |
//! | URG, urgent pointer | counted from its own sequence number; none once that is past |
//!
//! All else is as it was, options and IPv6 extension headers too.

use super::{Sum, ethernet, get, put};

/// The bytes of a TCP header without options.
pub(super) const TCP: usize = 20;
/// Where in a TCP header its checksum is.
pub(super) const CHECKSUM: usize = 16;
const SEQUENCE: usize = 4;
const OFFSET: usize = 12;
const FLAGS: usize = 13;
const URGENT: usize = 18;

const FIN: u8 = 1;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const PSH: u8 = 1 << 3;
const URG: u8 = 1 << 5;
const CWR: u8 = 1 << 7;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// The bytes of an IPv6 header.
const IPV6_HEADER: usize = 40;

/// What follows, in IPv4's protocol and in IPv6's next headers.
const NEXT_TCP: u8 = 6;
const NEXT_HOP: u8 = 0;
const NEXT_ROUTING: u8 = 43;
const NEXT_DESTINATION: u8 = 60;

/// Which part of the payload a segment has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// How many are before it.
    pub number: usize,
    /// How many bytes they have.
    pub done: usize,
    pub is_last: bool,
}

/// Where the headers are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers {
    ip: usize,
    is_v6: bool,
    tcp: usize,
    /// Where the payload begins.
    pub end: usize,
}

impl Headers {
    /// What `bytes` say, a frame's first up to TCP's options, where TCP begins at `tcp`. `None` for what cannot be divided.
    pub(super) fn parse(bytes: &[u8], tcp: usize) -> Option<Self> {
        let (ip, ethertype) = ethernet(bytes)?;
        let is_v6 = match ethertype {
            IPV4 => ends_v4(bytes, ip, tcp)?.then_some(false)?,
            IPV6 => ends_v6(bytes, ip, tcp)?.then_some(true)?,
            _ => return None,
        };
        let [offset, flags] = get(bytes, tcp + OFFSET)?;
        let length = usize::from(offset >> 4) * 4;
        // They begin or end a connection, and stand in no stream of data.
        let is_stream = flags & (SYN | RST) == 0;
        (length >= TCP && is_stream).then_some(Self { ip, is_v6, tcp, end: tcp + length })
    }

    /// Makes `frame`, a copy of the headers before some of the payload, the segment that has `part`. `None` if it is too long for
    /// its header.
    pub(super) fn complete(&self, frame: &mut [u8], part: &Part) -> Option<()> {
        let length = frame.len().checked_sub(self.tcp)?;
        self.complete_tcp(frame, part)?;
        let addresses = if self.is_v6 {
            let length = frame.len().checked_sub(self.ip + IPV6_HEADER)?;
            put(frame, self.ip + 4, u16::try_from(length).ok()?.to_be_bytes())?;
            self.ip + 8..self.ip + 40
        } else {
            self.complete_v4(frame, part)?;
            self.ip + 12..self.ip + 20
        };
        // The pseudo-header: the length, in the place that IPv6 has for it; what follows; the addresses.
        let sum = Sum::default()
            .bytes(&u32::try_from(length).ok()?.to_be_bytes())
            .bytes(&[0, NEXT_TCP])
            .bytes(frame.get(addresses)?)
            .bytes(frame.get(self.tcp..)?);
        put(frame, self.tcp + CHECKSUM, sum.checksum())
    }

    /// All but the checksum, which becomes 0.
    fn complete_tcp(&self, frame: &mut [u8], part: &Part) -> Option<()> {
        let tcp = frame.get_mut(self.tcp..)?;
        let sequence = u32::from_be_bytes(get(tcp, SEQUENCE)?);
        let sequence = sequence.wrapping_add(u32::try_from(part.done).ok()?);
        put(tcp, SEQUENCE, sequence.to_be_bytes())?;
        let [mut flags] = get(tcp, FLAGS)?;
        if part.number > 0 {
            flags &= !CWR;
        }
        if !part.is_last {
            flags &= !(FIN | PSH);
        }
        if flags & URG != 0 {
            let urgent = usize::from(u16::from_be_bytes(get(tcp, URGENT)?));
            let urgent = urgent.checked_sub(part.done);
            if urgent.is_none() {
                flags &= !URG;
            }
            put(tcp, URGENT, u16::try_from(urgent.unwrap_or(0)).ok()?.to_be_bytes())?;
        }
        put(tcp, FLAGS, [flags])?;
        put(tcp, CHECKSUM, [0; 2])
    }

    fn complete_v4(&self, frame: &mut [u8], part: &Part) -> Option<()> {
        let length = frame.len().checked_sub(self.ip)?;
        let ip = frame.get_mut(self.ip..self.tcp)?;
        put(ip, 2, u16::try_from(length).ok()?.to_be_bytes())?;
        let identification = u16::from_be_bytes(get(ip, 4)?);
        let identification = identification.wrapping_add(u16::try_from(part.number).ok()?);
        put(ip, 4, identification.to_be_bytes())?;
        put(ip, 10, [0; 2])?;
        put(ip, 10, Sum::default().bytes(ip).checksum())
    }
}

/// Whether the IPv4 header at `ip` ends at `tcp`, TCP follows, and it is no fragment.
fn ends_v4(bytes: &[u8], ip: usize, tcp: usize) -> Option<bool> {
    let [first] = get(bytes, ip)?;
    let end = ip + usize::from(first & 0xf) * 4;
    let fragment = u16::from_be_bytes(get(bytes, ip + 6)?);
    let [next] = get(bytes, ip + 9)?;
    // More fragments; where this one belongs.
    let is_whole = fragment & 0x3fff == 0;
    Some(first >> 4 == 4 && end >= ip + 20 && end == tcp && is_whole && next == NEXT_TCP)
}

/// Whether the IPv6 header at `ip` and its extension headers end at `tcp`, TCP follows, and the destination is the last one:
/// a packet that has to go round by others has a checksum with another address.
fn ends_v6(bytes: &[u8], ip: usize, tcp: usize) -> Option<bool> {
    let [version] = get(bytes, ip)?;
    let [mut next] = get(bytes, ip + 6)?;
    let mut at = ip + IPV6_HEADER;
    // Each is of eight bytes at least, and `tcp` is bounded.
    while at < tcp {
        let [after, length, _, left] = get(bytes, at)?;
        match next {
            NEXT_HOP | NEXT_DESTINATION => {}
            NEXT_ROUTING if left == 0 => {}
            _ => return None,
        }
        next = after;
        at += (usize::from(length) + 1) * 8;
    }
    Some(version >> 4 == 6 && at == tcp && next == NEXT_TCP)
}
