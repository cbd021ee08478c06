//! What is not done, and for which reason.

use super::super::{LONGEST, MIN_SEGMENT, Refused, Segments, Undone};
use super::packet::plain;
use super::{all, bytes, from, refusal};
use crate::testing::pick;
use crate::virtio::net::header::Offload;

const HEADERS: Option<Undone<()>> = Some(Undone::Refused(Refused::Headers));
const MISPLACED: Option<Undone<()>> = Some(Undone::Refused(Refused::Checksum));

#[test]
fn the_longest_frame_makes_a_bounded_number_of_segments() {
    let why = Segments::new(None, LONGEST + 1);
    assert_eq!(why, Err(Refused::TooLong));
    // All of them in a few under Miri.
    let (length, segments) = pick((65_535 - 40, 256), (4096 - 40, 16));
    let packet = plain(bytes(length));
    let (frame, work) = packet.left(Some(MIN_SEGMENT));
    let (frames, why) = all(&frame, Some(work), 1514);
    assert_eq!((frames.len(), why), (segments, None));
    let work = Offload { segment: Some(MIN_SEGMENT - 1), ..work };
    assert_eq!(refusal(&frame, work), Some(Undone::Refused(Refused::TooShort)));
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
