//! Packets whose segments are known.

use super::super::{Refused, Segments, Sum, Undone};
use super::packet::{ACK, CWR, ECE, FIN, PSH, Packet, URG, plain, slow};
use super::{all, bytes, from};
use crate::testing::pick;
use crate::virtio::net::header::Offload;

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
    let (length, segments) = pick((65_000, 45), (6000, 5));
    let packet = plain(bytes(length));
    let (frame, work) = packet.left(Some(1448));
    let (frames, why) = all(&frame, Some(work), 1514);
    assert_eq!((frames.len(), why), (segments, None));
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
