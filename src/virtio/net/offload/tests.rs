//! What comes of a frame, against packets built field by field, each on its own, with sums of 16-bit words.

use proptest::prelude::*;

use super::{LONGEST, MIN_SEGMENT, Refused, Segments, Sum, Undone};
use crate::testing::cases;
use crate::virtio::net::header::Offload;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// Where TCP's checksum is in its header.
const CHECKSUM: u16 = 16;

/// A packet of TCP, before it is bytes.
#[derive(Clone, Debug)]
struct Packet {
    tag: Option<u16>,
    is_v6: bool,
    /// IPv4's options, as zero or more words.
    ip_options: Vec<[u8; 4]>,
    /// IPv6's extension headers: kind, and how many times eight bytes are added to eight.
    extensions: Vec<(u8, u8)>,
    identification: u16,
    sequence: u32,
    flags: u8,
    urgent: u16,
    tcp_options: Vec<[u8; 4]>,
    payload: Vec<u8>,
}

/// The complement of the sum of 16-bit words (RFC 791, "Header Checksum"), as division leaves it.
fn slow(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    let sum: u64 = bytes.chunks(2).map(word).sum();
    // 0 only if there was nothing but zeros.
    let folded = if sum == 0 { 0 } else { (sum - 1) % 0xffff + 1 };
    !u16::try_from(folded).unwrap()
}

impl Packet {
    fn ethernet(&self) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if let Some(tag) = self.tag {
            bytes.extend([0x81, 0x00]);
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(if self.is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        bytes
    }

    fn ip(&self, length: usize) -> Vec<u8> {
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

    fn addresses(&self) -> Vec<u8> {
        let size = if self.is_v6 { 32 } else { 8 };
        (0..size).map(|byte: u8| byte.wrapping_mul(29) ^ 0xc0).collect()
    }

    fn tcp(&self) -> Vec<u8> {
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
    fn pseudo_header(&self) -> Vec<u8> {
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
    fn frame(&self) -> Vec<u8> {
        let mut tcp = self.tcp();
        let summed = [self.pseudo_header(), tcp.clone()].concat();
        tcp[16..18].copy_from_slice(&slow(&summed).to_be_bytes());
        [self.ethernet(), self.ip(tcp.len()), tcp].concat()
    }

    /// As a guest leaves it to us, and what it says is left to be done.
    fn left(&self, segment: Option<u16>) -> (Vec<u8>, Offload) {
        let tcp = self.tcp();
        let start = self.ethernet().len() + self.ip(tcp.len()).len();
        let mut frame = self.frame();
        let field = start + usize::from(CHECKSUM);
        frame[field..field + 2].copy_from_slice(&(!slow(&self.pseudo_header())).to_be_bytes());
        let csum_start = u16::try_from(start).unwrap();
        (frame, Offload { csum_start, csum_offset: CHECKSUM, segment })
    }

    /// The packets it is to be sent as, with at most `size` bytes each.
    fn divided(&self, size: usize) -> Vec<Self> {
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

fn plain(payload: Vec<u8>) -> Packet {
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

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|byte| u8::try_from(byte * 7 % 251).unwrap()).collect()
}

/// Copies out of `frame`.
fn from(frame: &[u8]) -> impl FnMut(u64, &mut [u8]) -> Result<(), ()> {
    |offset, into| {
        let offset = usize::try_from(offset).unwrap();
        into.copy_from_slice(frame.get(offset..offset + into.len()).ok_or(())?);
        Ok(())
    }
}

/// All frames that come of one, in a buffer of `room` bytes; and what ended it before the end.
fn all(frame: &[u8], work: Option<Offload>, room: usize) -> (Vec<Vec<u8>>, Option<Undone<()>>) {
    let mut segments = match Segments::new(work, frame.len() as u64) {
        Ok(segments) => segments,
        Err(refused) => return (vec![], Some(refused.into())),
    };
    let mut scratch = vec![0xa5; room];
    let mut frames = Vec::new();
    let mut undone = None;
    while let Some(next) = segments.next(from(frame), &mut scratch) {
        assert!(undone.is_none(), "nothing follows an error");
        match next {
            Ok(frame) => frames.push(frame.to_vec()),
            Err(why) => undone = Some(why),
        }
    }
    (frames, undone)
}

fn refusal(frame: &[u8], work: Offload) -> Option<Undone<()>> {
    let (frames, why) = all(frame, Some(work), 9216);
    assert!(frames.is_empty() || why.is_none(), "{}", frames.len());
    why
}

const HEADERS: Option<Undone<()>> = Some(Undone::Refused(Refused::Headers));
const MISPLACED: Option<Undone<()>> = Some(Undone::Refused(Refused::Checksum));

fn packets() -> impl Strategy<Value = Packet> {
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

proptest! {
    #![proptest_config(cases(96, 2))]

    #[test]
    fn segments_are_those_that_their_sender_would_have_made(
        packet in packets(),
        size in prop_oneof![MIN_SEGMENT..2000, 1460..=1460u16],
    ) {
        let (frame, work) = packet.left(Some(size));
        let (frames, why) = all(&frame, Some(work), 2000 + 256);
        prop_assert_eq!(why, None);
        let parts = packet.divided(size.into());
        let expected: Vec<_> = parts.iter().map(Packet::frame).collect();
        prop_assert_eq!(frames, expected);
    }

    #[test]
    fn together_the_segments_have_the_payload_and_every_checksum_is_right(
        packet in packets(),
        size in MIN_SEGMENT..2000,
    ) {
        let (frame, work) = packet.left(Some(size));
        let (frames, _) = all(&frame, Some(work), 2000 + 256);
        let (ip, tcp) = (packet.ethernet().len(), usize::from(work.csum_start));
        let headers = frame.len() - packet.payload.len();
        let mut payload: Vec<u8> = Vec::new();
        for (frame, part) in frames.iter().zip(packet.divided(size.into())) {
            prop_assert!(frame.len() <= headers + usize::from(size));
            let summed = [part.pseudo_header(), frame[tcp..].to_vec()].concat();
            prop_assert_eq!(slow(&summed), 0);
            prop_assert!(packet.is_v6 || slow(&frame[ip..tcp]) == 0);
            payload.extend(&frame[headers..]);
        }
        prop_assert_eq!(payload, packet.payload);
    }

    #[test]
    fn a_checksum_that_was_left_is_the_one_its_sender_would_have_made(packet in packets()) {
        let (frame, work) = packet.left(None);
        let (frames, why) = all(&frame, Some(work), 9216);
        prop_assert_eq!((frames.len(), why), (1, None));
        let tcp = usize::from(work.csum_start);
        let summed = [packet.pseudo_header(), frames[0][tcp..].to_vec()].concat();
        prop_assert_eq!(slow(&summed), 0);
        let mut again = frames[0].clone();
        let field = tcp + usize::from(CHECKSUM);
        again[field..field + 2].copy_from_slice(&frame[field..field + 2]);
        prop_assert_eq!(again, frame);
    }

    #[test]
    fn sums_of_long_words_are_those_of_short_ones(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert_eq!(u16::from_be_bytes(Sum::default().bytes(&bytes).checksum()), slow(&bytes));
        let (first, rest) = bytes.split_at(bytes.len() / 4 * 2);
        let sum = Sum::default().bytes(first).bytes(rest);
        prop_assert_eq!(u16::from_be_bytes(sum.checksum()), slow(&bytes));
    }
}

proptest! {
    #![proptest_config(cases(1024, 8))]

    /// Each copy of the sender's RAM is another one.
    #[test]
    fn whatever_a_sender_writes_meanwhile_frames_are_bounded_and_keep_their_ethernet_header(
        packet in packets(),
        offload in prop::option::of((any::<u16>(), any::<u16>(), prop::option::of(any::<u16>()))),
        size in prop::option::of(any::<u16>()),
        writes in prop::collection::vec((0usize..128, any::<u8>()), 0..24),
        room in 0usize..3000,
    ) {
        let (mut frame, mut work) = packet.left(size);
        if let Some((csum_start, csum_offset, segment)) = offload {
            // Somewhere in the headers, mostly.
            let csum_start = if csum_offset & 3 == 0 { csum_start } else { csum_start & 0x7f };
            let csum_offset = if csum_start & 1 == 0 { CHECKSUM } else { csum_offset & 0x3f };
            work = Offload { csum_start, csum_offset, segment };
        }
        let length = frame.len();
        let ethernet = packet.ethernet();
        let mut writes = writes.into_iter();
        let mut read = |offset: u64, into: &mut [u8]| {
            from(&frame)(offset, into)?;
            if let Some((at, value)) = writes.next() {
                let at = ethernet.len() + at;
                frame.get_mut(at).into_iter().for_each(|byte| *byte = value);
            }
            Ok::<_, ()>(())
        };
        let mut scratch = vec![0; room];
        if let Ok(mut segments) = Segments::new(Some(work), length as u64) {
            let mut count = 0;
            while let Some(next) = segments.next(&mut read, &mut scratch) {
                count += 1;
                prop_assert!(count <= 1 + length / usize::from(MIN_SEGMENT));
                let Ok(made) = next else { continue };
                prop_assert!(made.len() <= room && made.starts_with(&ethernet));
                let most = work.segment.map_or(length, |size| 256 + usize::from(size));
                prop_assert!(made.len() <= most);
            }
        }
    }

    #[test]
    fn no_bytes_and_no_wishes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        work in prop::option::of((0u16..420, 0u16..420, prop::option::of(any::<u16>()))),
        room in 0usize..500,
    ) {
        let work = work.map(|(csum_start, csum_offset, segment)| {
            Offload { csum_start, csum_offset, segment }
        });
        let (frames, why) = all(&bytes, work, room);
        prop_assert!(frames.iter().all(|frame| frame.len() <= room));
        prop_assert!(why.is_some() || !frames.is_empty());
    }
}

#[test]
fn the_sum_of_rfc_1071_is_its_example() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::default().bytes(&bytes).checksum(), (!0xddf2u16).to_be_bytes());
    assert_eq!(slow(&bytes), !0xddf2);
    let most = [0xff; 64];
    assert_eq!(Sum::default().bytes(&most).bytes(&most).checksum(), [0, 0]);
}

#[test]
fn sixty_four_kilobytes_are_divided_into_forty_five() {
    let packet = plain(bytes(65_000));
    let (frame, work) = packet.left(Some(1448));
    let (frames, why) = all(&frame, Some(work), 1514);
    assert_eq!((frames.len(), why), (45, None));
    let expected: Vec<_> = packet.divided(1448).iter().map(Packet::frame).collect();
    assert_eq!(frames, expected);
}

#[test]
fn a_frame_without_work_comes_as_it_is_once() {
    let frame = plain(bytes(99)).frame();
    assert_eq!(all(&frame, None, 2000), (vec![frame.clone()], None));
    let why = Some(Undone::Refused(Refused::TooLong));
    assert_eq!(all(&frame, None, frame.len() - 1), (vec![], why));
}

#[test]
fn the_longest_frame_makes_a_bounded_number_of_segments() {
    let why = Segments::new(None, LONGEST + 1);
    assert_eq!(why, Err(Refused::TooLong));
    let packet = plain(bytes(65_535 - 40));
    let (frame, work) = packet.left(Some(MIN_SEGMENT));
    let (frames, why) = all(&frame, Some(work), 1514);
    assert_eq!((frames.len(), why), (256, None));
    let work = Offload { segment: Some(MIN_SEGMENT - 1), ..work };
    assert_eq!(refusal(&frame, work), Some(Undone::Refused(Refused::TooShort)));
}

#[test]
fn urgent_data_ends_where_it_ended_before() {
    let mut packet = plain(bytes(1000));
    (packet.flags, packet.urgent) = (ACK | URG, 300);
    let (frame, work) = packet.left(Some(256));
    let (frames, _) = all(&frame, Some(work), 1514);
    let urgent = |frame: &Vec<u8>| (frame[47] & URG != 0, frame[52..54].to_vec());
    let seen: Vec<_> = frames.iter().map(urgent).collect();
    let none = (false, vec![0, 0]);
    assert_eq!(seen, [(true, vec![1, 44]), (true, vec![0, 44]), none.clone(), none]);
}

#[test]
fn congestion_is_answered_once_and_the_end_comes_last() {
    let mut packet = plain(bytes(700));
    packet.flags = ACK | PSH | FIN | ECE | CWR;
    let (frame, work) = packet.left(Some(256));
    let (frames, _) = all(&frame, Some(work), 1514);
    let flags: Vec<_> = frames.iter().map(|frame| frame[47]).collect();
    assert_eq!(flags, [ACK | ECE | CWR, ACK | ECE, ACK | ECE | PSH | FIN]);
    let identifications: Vec<_> = frames.iter().map(|frame| frame[18..20].to_vec()).collect();
    assert_eq!(identifications, [[0xff, 0xfe], [0xff, 0xff], [0, 0]]);
    let sequences: Vec<_> = frames.iter().map(|frame| frame[38..42].to_vec()).collect();
    assert_eq!(sequences, [[0xff, 0xff, 0xff, 0], [0, 0, 0, 0], [0, 0, 1, 0]]);
}

#[test]
fn udp_is_never_sent_with_the_sum_that_says_there_is_none() {
    let mut frame = plain(vec![]).ethernet();
    // What is summed up is 0xffff.
    frame.extend([0, 1, 0, 2, 0, 8, 0xff, 0xf4]);
    let work = Offload { csum_start: 14, csum_offset: 6, segment: None };
    let (frames, why) = all(&frame, Some(work), 100);
    assert_eq!(why, None);
    assert_eq!(frames[0][20..], [0xff, 0xff]);
}

#[test]
fn a_checksum_is_not_written_outside_what_it_covers_or_over_addresses_or_tags() {
    let work = |csum_start, csum_offset| Offload { csum_start, csum_offset, segment: None };
    let mut packet = plain(bytes(10));
    let frame = packet.frame();
    assert_eq!(refusal(&frame, work(0, 6)), MISPLACED);
    assert_eq!(refusal(&frame, work(13, 16)), MISPLACED);
    assert_eq!(refusal(&frame, work(14, 16)), None);
    let length = u16::try_from(frame.len()).unwrap();
    assert_eq!(refusal(&frame, work(length - 2, 0)), None);
    assert_eq!(refusal(&frame, work(length - 2, 1)), MISPLACED);
    assert_eq!(refusal(&frame, work(length + 1, 0)), MISPLACED);
    assert_eq!(refusal(&frame, work(u16::MAX, u16::MAX)), MISPLACED);
    assert_eq!(refusal(&frame[..13], work(4, 4)), MISPLACED);
    packet.tag = Some(7);
    assert_eq!(refusal(&packet.frame(), work(17, 0)), MISPLACED);
    assert_eq!(refusal(&packet.frame(), work(18, 0)), None);
    let (frame, divided) = packet.left(Some(512));
    assert_eq!(refusal(&frame, Offload { csum_offset: 6, ..divided }), MISPLACED);
}

#[test]
fn only_tcp_over_ip_that_is_whole_is_divided() {
    let mut packet = plain(bytes(700));
    let (frame, work) = packet.left(Some(512));
    assert_eq!(refusal(&frame, work), None);
    let changed = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        refusal(&frame, work)
    };
    // The type, also a second tag's; the version, the header's length, a fragment, the first of several, UDP.
    for (at, value) in
        [(13, 6), (12, 0x88), (14, 0x65), (14, 0x44), (14, 0x46), (21, 1), (20, 0x20)]
    {
        assert_eq!(changed(at, value), HEADERS, "{at} {value:#x}");
    }
    assert_eq!(changed(23, 17), HEADERS);
    // TCP's header is too short, or longer than the frame; SYN, RST.
    assert_eq!(changed(46, 0x40), HEADERS);
    assert_eq!(changed(47, 0x02), HEADERS);
    assert_eq!(changed(47, 0x04), HEADERS);
    assert_eq!(refusal(&frame[..53], work), HEADERS);
    packet.tcp_options = vec![[1; 4]; 10];
    assert_eq!(refusal(&packet.frame()[..93], work), HEADERS);
    assert_eq!(refusal(&packet.frame()[..94], work), None);
    for csum_start in [0, 14, 33, 35, 300, u16::MAX] {
        assert_eq!(refusal(&frame, Offload { csum_start, ..work }), HEADERS, "{csum_start}");
    }
    packet.tag = Some(0);
    let (mut frame, work) = packet.left(Some(512));
    frame[16..18].copy_from_slice(&[0x81, 0]);
    assert_eq!(refusal(&frame, work), HEADERS);
}

#[test]
fn extension_headers_are_followed_to_tcp_and_no_further() {
    let mut packet = plain(bytes(700));
    (packet.is_v6, packet.extensions) = (true, vec![(0, 0), (43, 1), (60, 0)]);
    let (frame, work) = packet.left(Some(512));
    assert_eq!(refusal(&frame, work), None);
    let changed = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        refusal(&frame, work)
    };
    // A fragment; a length that leads elsewhere; a way that has a station left; what follows is UDP; the version.
    for (at, value) in [(20, 44), (55, 1), (55, 255), (65, 1), (78, 17), (14, 0x45)] {
        assert_eq!(changed(at, value), HEADERS, "{at} {value:#x}");
    }
    // The same where it is no routing header.
    assert_eq!(changed(57, 1), None);
    packet.extensions = vec![(60, 18)];
    let (frame, work) = packet.left(Some(512));
    assert_eq!(refusal(&frame, work), None);
    packet.extensions = vec![(60, 18), (60, 0), (60, 0), (60, 0), (60, 0)];
    let (frame, work) = packet.left(Some(512));
    assert_eq!(refusal(&frame, work), HEADERS, "more than is copied each time");
}

#[test]
fn segments_longer_than_the_buffer_are_refused() {
    let (frame, work) = plain(bytes(3000)).left(Some(1461));
    let why = Some(Undone::Refused(Refused::TooLong));
    assert_eq!(all(&frame, Some(work), 1514), (vec![], why));
    assert_eq!(all(&frame, Some(work), 1515).0.len(), 3);
}

#[test]
fn what_cannot_be_read_ends_it() {
    let (frame, work) = plain(bytes(1000)).left(Some(256));
    let mut segments = Segments::new(Some(work), frame.len() as u64).unwrap();
    let mut scratch = [0; 1514];
    let mut short = from(&frame[..700]);
    assert!(matches!(segments.next(&mut short, &mut scratch), Some(Ok(_))));
    assert!(matches!(segments.next(&mut short, &mut scratch), Some(Ok(_))));
    assert_eq!(segments.next(&mut short, &mut scratch), Some(Err(Undone::Read(()))));
    assert_eq!(segments.next(&mut short, &mut scratch), None);
}

#[test]
fn headers_that_grow_meanwhile_leave_less_to_send() {
    let (mut frame, work) = plain(bytes(300)).left(Some(256));
    let mut segments = Segments::new(Some(work), frame.len() as u64).unwrap();
    let mut scratch = [0; 1514];
    let first = segments.next(from(&frame), &mut scratch).unwrap().unwrap();
    assert_eq!(first.len(), 54 + 256);
    frame[46] = 0xf0;
    let last = segments.next(from(&frame), &mut scratch).unwrap().unwrap();
    assert_eq!(last.len(), 94 + 300 - 40 - 256);
    assert_eq!(segments.next(from(&frame), &mut scratch), None);
}

#[test]
fn no_byte_is_read_twice_for_one_segment() {
    let (frame, work) = plain(bytes(1000)).left(Some(400));
    let mut segments = Segments::new(Some(work), frame.len() as u64).unwrap();
    let mut scratch = [0; 1514];
    loop {
        let mut seen = vec![false; frame.len()];
        let read = |offset: u64, into: &mut [u8]| {
            let offset = usize::try_from(offset).unwrap();
            for seen in &mut seen[offset..offset + into.len()] {
                assert!(!core::mem::replace(seen, true));
            }
            from(&frame)(offset as u64, into)
        };
        let Some(made) = segments.next(read, &mut scratch) else { break };
        let count = seen.iter().filter(|seen| **seen).count();
        assert_eq!(count, made.unwrap().len());
    }
}
