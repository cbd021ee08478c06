//! Streams between guests that keep to the rules, and of others.

use super::*;
use crate::testing::pick;
use alloc::vec;
use core::convert::Infallible;
use proptest::prelude::*;

/// Three guests with the CIDs 10, 11 and 12.
fn group() -> Streams {
    let mut streams = Streams::new(10..13);
    for member in 0..3 {
        assert_eq!(streams.equip(member, Place::all()), []);
        streams.join(member);
    }
    streams
}

fn packet(from: Member, to: Member, (src_port, dst_port): (u32, u32), op: u16) -> PacketHeader {
    PacketHeader {
        src_cid: from as u64 + 10,
        dst_cid: to as u64 + 10,
        src_port,
        dst_port,
        kind: STREAM,
        op,
        buf_alloc: 1 << 16,
        ..PacketHeader::default()
    }
}

fn give(it: &mut Streams, me: Member, header: PacketHeader, payload: &[u8]) -> Taken {
    let header = PacketHeader { len: u32::try_from(payload.len()).unwrap(), ..header };
    let fill = &mut |at: usize, into: &mut [u8]| {
        into.copy_from_slice(&payload[at..at + into.len()]);
        Ok::<(), Infallible>(())
    };
    it.input(me, &header, true, fill).unwrap()
}

fn next(it: &mut Streams, me: Member) -> Option<(PacketHeader, Vec<u8>)> {
    let mut got = None;
    let put = &mut |header: &PacketHeader, parts: [&[u8]; 2]| {
        got = Some((*header, parts.concat()));
        Ok::<(), Infallible>(())
    };
    it.output(me, PACKET, put).unwrap();
    if let Some((header, payload)) = &got {
        assert_eq!((header.dst_cid, header.len as usize), (me as u64 + 10, payload.len()));
    }
    got
}

fn next_op(it: &mut Streams, me: Member) -> Option<u16> {
    next(it, me).map(|(header, _)| header.op)
}

/// 0 is connected from port 1 to 1's port 2.
fn connected() -> Streams {
    let mut it = group();
    let taken = give(&mut it, 0, packet(0, 1, (1, 2), op::REQUEST), b"");
    assert_eq!(taken, Taken { fine: true, for_other: Some(1) });
    let (header, _) = next(&mut it, 1).unwrap();
    assert_eq!(
        (header.op, header.src_cid, header.src_port, header.dst_port),
        (op::REQUEST, 10, 1, 2)
    );
    assert_eq!(next(&mut it, 0), None);
    let taken = give(&mut it, 1, packet(1, 0, (2, 1), op::RESPONSE), b"");
    assert_eq!(taken, Taken { fine: true, for_other: Some(0) });
    let (header, _) = next(&mut it, 0).unwrap();
    assert_eq!(
        (header.op, header.src_cid, header.src_port, header.dst_port),
        (op::RESPONSE, 11, 2, 1)
    );
    assert_eq!(header.buf_alloc, ROOM);
    it
}

fn shutdown(from: Member, to: Member, ports: (u32, u32), flags: u32) -> PacketHeader {
    PacketHeader { flags, ..packet(from, to, ports, op::SHUTDOWN) }
}

#[test]
fn what_one_sends_the_other_gets_and_then_the_end() {
    let mut it = connected();
    let taken = give(&mut it, 0, packet(0, 1, (1, 2), op::RW), b"hello");
    assert_eq!(taken, Taken { fine: true, for_other: Some(1) });
    give(&mut it, 0, shutdown(0, 1, (1, 2), NO_SEND), b"");
    assert_eq!(next(&mut it, 1).unwrap().1, b"hello");
    let (header, _) = next(&mut it, 1).unwrap();
    assert_eq!((header.op, header.flags), (op::SHUTDOWN, NO_SEND));
    assert_eq!(next(&mut it, 1), None);
    // The other way goes on.
    give(&mut it, 1, packet(1, 0, (2, 1), op::RW), b"yes");
    assert_eq!(next(&mut it, 0).unwrap().1, b"yes");
    assert!(!give(&mut it, 0, packet(0, 1, (1, 2), op::RW), b"more").fine);
    assert_eq!(next_op(&mut it, 1), Some(op::RST));
    assert_eq!((it.count(0), it.count(1)), (0, 0));
}

#[test]
fn an_end_that_is_gone_leaves_what_it_had_sent() {
    let mut it = connected();
    give(&mut it, 0, packet(0, 1, (1, 2), op::RW), b"last words");
    give(&mut it, 0, packet(0, 1, (1, 2), op::RST), b"");
    assert_eq!((it.count(0), it.count(1)), (0, 1));
    assert_eq!(next(&mut it, 1).unwrap().1, b"last words");
    assert_eq!(next_op(&mut it, 1), Some(op::RST));
    assert_eq!((next_op(&mut it, 1), it.count(1)), (None, 0));
    // But not to who receives no more.
    let mut it = connected();
    give(&mut it, 0, packet(0, 1, (1, 2), op::RW), b"last words");
    give(&mut it, 1, shutdown(1, 0, (2, 1), NO_RECEIVE), b"");
    give(&mut it, 0, packet(0, 1, (1, 2), op::RST), b"");
    assert_eq!(next_op(&mut it, 1), Some(op::RST));
}

#[test]
fn who_leaves_is_seen_to_and_cannot_be_asked() {
    let mut it = connected();
    give(&mut it, 2, packet(2, 1, (5, 5), op::REQUEST), b"");
    give(&mut it, 1, packet(1, 2, (6, 6), op::REQUEST), b"");
    let mut told = Vec::new();
    it.leave(1, |member| told.push(member));
    told.sort_unstable();
    // What 2 has not heard of yet it never will.
    assert_eq!((told, it.count(1)), (vec![0, 2], 0));
    assert_eq!(next_op(&mut it, 0), Some(op::RST));
    assert_eq!((next_op(&mut it, 2), next_op(&mut it, 2)), (Some(op::RST), None));
    assert!(!give(&mut it, 0, packet(0, 1, (1, 2), op::REQUEST), b"").fine);
    it.join(1);
    assert!(give(&mut it, 0, packet(0, 1, (1, 2), op::REQUEST), b"").fine);
}

#[test]
fn what_is_not_to_be_is_refused() {
    let mut it = group();
    for header in [
        packet(0, 0, (1, 2), op::REQUEST),
        packet(0, 7, (1, 2), op::REQUEST),
        packet(0, 1, (1, 2), op::RW),
        packet(0, 1, (1, 2), op::RESPONSE),
        packet(0, 1, (1, 2), op::SHUTDOWN),
        packet(0, 1, (1, 2), 0),
    ] {
        assert_eq!(give(&mut it, 0, header, b""), Taken { fine: false, for_other: None });
    }
    // A refusal is not refused.
    assert!(give(&mut it, 0, packet(0, 1, (1, 2), op::RST), b"").fine);
    // Who was asked says no; and who asks may not send before he is answered.
    give(&mut it, 0, packet(0, 1, (1, 2), op::REQUEST), b"");
    next(&mut it, 1);
    give(&mut it, 1, packet(1, 0, (2, 1), op::RST), b"");
    assert_eq!((next_op(&mut it, 0), it.count(0)), (Some(op::RST), 0));
    give(&mut it, 0, packet(0, 1, (1, 2), op::REQUEST), b"");
    assert!(!give(&mut it, 0, packet(0, 1, (1, 2), op::RW), b"x").fine);
    assert_eq!((it.count(0), it.count(1)), (0, 0));
    // More than credit allows, and less than the header says.
    let mut it = connected();
    assert!(!give(&mut it, 0, packet(0, 1, (1, 2), op::RW), &vec![0; ROOM as usize + 1]).fine);
    let mut it = connected();
    let header = PacketHeader { len: 9, ..packet(0, 1, (1, 2), op::RW) };
    let taken = it.input(0, &header, false, &mut |_, _| Ok::<(), Infallible>(())).unwrap();
    assert_eq!(taken, Taken { fine: false, for_other: Some(1) });
}

#[test]
fn ports_are_not_used_again_before_the_other_guest_has_seen_the_end() {
    let mut it = connected();
    give(&mut it, 0, packet(0, 1, (1, 2), op::RST), b"");
    // 1 would take what is of the new stream for the old one's.
    assert!(!give(&mut it, 0, packet(0, 1, (1, 2), op::REQUEST), b"").fine);
    assert_eq!(next_op(&mut it, 1), Some(op::RST));
    assert!(give(&mut it, 0, packet(0, 1, (1, 2), op::REQUEST), b"").fine);
    assert_eq!((next_op(&mut it, 1), it.count(1)), (Some(op::REQUEST), 1));
}

#[test]
fn who_vanishes_again_and_again_does_not_take_all_of_anothers_places() {
    let mut it = group();
    for port in 0..pick(100, 20) {
        give(&mut it, 0, packet(0, 1, (port, 2), op::REQUEST), b"");
        while let Some((header, _)) = next(&mut it, 1) {
            assert_eq!(header.op, op::REQUEST);
            // Its program is slow, and has no room for a byte.
            let slow = PacketHeader { buf_alloc: 0, ..packet(1, 0, (2, port), op::RESPONSE) };
            give(&mut it, 1, slow, b"");
        }
        next(&mut it, 0);
        give(&mut it, 0, packet(0, 1, (port, 2), op::RW), b"x");
        give(&mut it, 0, packet(0, 1, (port, 2), op::RST), b"");
        assert!(it.count(0) == 0 && it.count(1) <= MOST_WITH_ONE);
    }
    assert_eq!(it.count(1), MOST_WITH_ONE);
    assert!(give(&mut it, 2, packet(2, 1, (1, 2), op::REQUEST), b"").fine);
}

#[test]
fn who_receives_no_more_gets_no_more_and_nobody_waits_for_him() {
    let mut it = connected();
    let most = vec![1; ROOM as usize];
    give(&mut it, 0, packet(0, 1, (1, 2), op::RW), &most);
    give(&mut it, 1, shutdown(1, 0, (2, 1), NO_RECEIVE), b"");
    assert_eq!(next(&mut it, 1), None);
    // What was on its way when that came is room again, too.
    let (header, _) = next(&mut it, 0).unwrap();
    assert_eq!((header.op, header.flags, header.fwd_cnt), (op::SHUTDOWN, NO_RECEIVE, ROOM));
    assert!(give(&mut it, 0, packet(0, 1, (1, 2), op::RW), &most).fine);
    let (header, _) = next(&mut it, 0).unwrap();
    assert_eq!((header.op, header.fwd_cnt), (op::CREDIT_UPDATE, 2 * ROOM));
    assert_eq!(next(&mut it, 1), None);
    // The other way goes on.
    give(&mut it, 1, packet(1, 0, (2, 1), op::RW), b"yes");
    assert_eq!(next(&mut it, 0).unwrap().1, b"yes");
}

#[test]
fn who_says_something_and_goes_at_once_is_heard_by_who_has_just_asked() {
    let mut it = group();
    give(&mut it, 0, packet(0, 1, (1, 2), op::REQUEST), b"");
    next(&mut it, 1);
    give(&mut it, 1, packet(1, 0, (2, 1), op::RESPONSE), b"");
    give(&mut it, 1, packet(1, 0, (2, 1), op::RW), b"hello");
    give(&mut it, 1, packet(1, 0, (2, 1), op::RST), b"");
    assert_eq!(next_op(&mut it, 0), Some(op::RESPONSE));
    assert_eq!(next(&mut it, 0).unwrap().1, b"hello");
    assert_eq!(next_op(&mut it, 0), Some(op::RST));
}

#[test]
fn what_one_guest_had_is_not_read_by_the_next() {
    let mut it = connected();
    give(&mut it, 0, packet(0, 1, (1, 2), op::RW), b"secret");
    it.leave(1, |_| {});
    next(&mut it, 0);
    it.join(1);
    give(&mut it, 2, packet(2, 1, (1, 2), op::REQUEST), b"");
    next(&mut it, 1);
    give(&mut it, 1, packet(1, 2, (2, 1), op::RESPONSE), b"");
    next(&mut it, 2);
    assert_eq!((next(&mut it, 1), it.guests[1].places[0].inbox.len()), (None, 0));
    give(&mut it, 2, packet(2, 1, (1, 2), op::RW), b"x");
    assert_eq!(next(&mut it, 1).unwrap().1, b"x");
}

#[test]
fn where_there_is_no_memory_nobody_is_connected() {
    let mut it = group();
    it.equip(1, Vec::new());
    assert!(!give(&mut it, 0, packet(0, 1, (1, 2), op::REQUEST), b"").fine);
    assert_eq!((next(&mut it, 1), it.count(0)), (None, 0));
}

#[test]
fn streams_are_bounded_for_a_guest_and_with_another() {
    let mut it = group();
    let ask = |it: &mut Streams, from, to, port| {
        give(it, from, packet(from, to, (port, 1), op::REQUEST), b"").fine
    };
    let asked = (0..pick(1000, 40)).filter(|port| ask(&mut it, 0, 1, *port)).count();
    assert_eq!(asked, MOST_WITH_ONE);
    let asked = (0..pick(1000, 40)).filter(|port| ask(&mut it, 0, 2, *port)).count();
    assert_eq!((asked, it.count(0)), (MOST - MOST_WITH_ONE, MOST));
    assert!(ask(&mut it, 1, 2, 1) && !ask(&mut it, 1, 0, 1));
}

/// Each end is the other's other, and what one has sent and still counts as waiting is what waits for the other.
fn fits_together(it: &Streams) -> Result<(), TestCaseError> {
    for (member, guest) in it.guests.iter().enumerate() {
        prop_assert_eq!(guest.places.len(), MOST);
        for (at, place) in guest.places.iter().enumerate() {
            prop_assert!(place.inbox.len() <= ROOM as usize);
            let Some(end) = &place.end else {
                prop_assert!(place.inbox.is_empty());
                continue;
            };
            let alike = guest.ends().filter(|other| other.address == end.address).count();
            prop_assert_eq!(alike, 1, "two ends of one guest look the same to it");
            let Some(other) = end.other else { continue };
            let other = &it.guests[other.member].places[other.place];
            let theirs = other.end.as_ref().unwrap();
            prop_assert_eq!(theirs.other, Some(At { member, place: at }));
            prop_assert_eq!(end.credit.waiting() as usize, other.inbox.len());
            prop_assert!(theirs.receives() || other.inbox.is_empty());
        }
        for cid in 10..13 {
            let with = guest.ends().filter(|end| end.address.peer_cid == cid).count();
            prop_assert!(with <= MOST_WITH_ONE);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::testing::cases(64, 1))]

    /// Guests that keep to their credit get all the bytes, whatever the order of sending and receiving.
    #[test]
    fn all_bytes_come_in_their_order(
        total in 1usize..pick(100_000, 3000),
        steps in prop::collection::vec((any::<bool>(), pick(1usize, 300)..9000), 1..50),
        alloc in 1u32..30_000,
    ) {
        let mut it = connected();
        let byte = |at: usize| u8::try_from(at % 251).unwrap();
        let (mut sent, mut got) = (0usize, 0usize);
        // What the sender knows of the hypervisor's buffer, and the receiver's own counts.
        let (mut forwarded, mut taken) = (0u32, 0u32);
        let receiver = |op, fwd_cnt| {
            PacketHeader { buf_alloc: alloc, fwd_cnt, ..packet(1, 0, (2, 1), op) }
        };
        give(&mut it, 1, receiver(op::CREDIT_UPDATE, 0), b"");
        for (sends, size) in steps.iter().cycle().copied() {
            if got == total {
                break;
            }
            while let Some((header, _)) = next(&mut it, 0) {
                prop_assert_eq!(header.op, op::CREDIT_UPDATE);
                forwarded = header.fwd_cnt;
            }
            let may = (ROOM as usize - (sent - forwarded as usize)).min(total - sent);
            // Who may send nothing more waits for the receiver, and who has nothing to receive for the sender.
            if may > 0 && (sends || sent == got) {
                let bytes: Vec<u8> = (sent..sent + size.min(may)).map(byte).collect();
                prop_assert!(give(&mut it, 0, packet(0, 1, (1, 2), op::RW), &bytes).fine);
                sent += bytes.len();
                continue;
            }
            let (header, bytes) = next(&mut it, 1).unwrap();
            prop_assert_eq!(header.op, op::RW);
            prop_assert!(bytes.iter().zip(got..).all(|(one, at)| *one == byte(at)));
            prop_assert!(bytes.len() <= alloc as usize);
            got += bytes.len();
            taken += header.len;
            give(&mut it, 1, receiver(op::CREDIT_UPDATE, taken), b"");
        }
        prop_assert_eq!(got, total);
    }

    /// Whatever guests send, leave and take: what is kept is bounded and fits together, and all that is owed comes out.
    #[test]
    fn hostile_guests_get_bounded_work(
        steps in prop::collection::vec(
            (0usize..3, 0usize..4, 0u16..9, 0u32..3, 0u32..3, 0usize..20_000, any::<u32>(), any::<u32>(), 0u32..4, 0u8..20),
            0..pick(300, 30)),
    ) {
        let mut it = group();
        for (me, to, op, src_port, dst_port, len, buf_alloc, fwd_cnt, flags, what) in steps {
            match what {
                0 => it.leave(me, |_| {}),
                1 => it.join(me),
                2..6 => drop(next(&mut it, me)),
                _ => {
                    let header = packet(me, to, (src_port, dst_port), op);
                    let header = PacketHeader { buf_alloc, fwd_cnt, flags, ..header };
                    give(&mut it, me, header, &vec![7; len]);
                }
            }
            fits_together(&it)?;
        }
        for me in 0..3 {
            // A packet for each byte at most, and some that are owed beside them.
            let most = it.count(me) * (ROOM as usize + 8);
            let count = core::iter::from_fn(|| next(&mut it, me)).take(most + 1).count();
            prop_assert!(count <= most && !it.has_output(me));
        }
    }
}
