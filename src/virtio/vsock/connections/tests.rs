//! Connections of guests that keep to the rules, and of others.

use super::*;
use crate::testing::pick;
use proptest::prelude::*;

const GUEST: u64 = 3;

fn packet(op: u16, port: u32, len: usize) -> PacketHeader {
    PacketHeader {
        src_cid: GUEST,
        dst_cid: HOST,
        src_port: port,
        dst_port: PORT,
        len: u32::try_from(len).unwrap(),
        kind: STREAM,
        op,
        flags: 0,
        buf_alloc: 1 << 16,
        fwd_cnt: 0,
    }
}

fn send(to: &mut Connections, op: u16, port: u32, payload: &[u8]) {
    to.input(&packet(op, port, payload.len()), Some(payload)).unwrap();
}

/// What comes out: op, port, payload.
fn next(of: &mut Connections) -> Option<(u16, u32, Vec<u8>)> {
    let mut payload = Vec::new();
    let header = of.output(PACKET, &mut payload)?;
    assert_eq!((header.dst_cid, header.len as usize), (GUEST, payload.len()));
    Some((header.op, header.dst_port, payload))
}

fn connected(port: u32) -> Connections {
    let mut connections = Connections::new(GUEST, true);
    send(&mut connections, op::REQUEST, port, b"");
    assert_eq!(next(&mut connections), Some((op::RESPONSE, port, vec![])));
    connections
}

#[test]
fn a_line_in_pieces_is_answered_and_the_end_follows_the_last_answer() {
    let mut it = connected(9);
    send(&mut it, op::RW, 9, b"one");
    assert_eq!(it.take_line(), None);
    send(&mut it, op::RW, 9, b"\ntwo\n");
    send(&mut it, op::SHUTDOWN, 9, b"");
    it.input(&PacketHeader { flags: NO_SEND, ..packet(op::SHUTDOWN, 9, 0) }, Some(b"")).unwrap();
    let (id, line) = it.take_line().unwrap();
    assert_eq!(line, b"one");
    // One at a time, in their order.
    assert_eq!(it.take_line(), None);
    it.answer(id, b"1\n".to_vec());
    assert_eq!(it.take_line(), None);
    assert_eq!(next(&mut it), Some((op::RW, 9, b"1\n".to_vec())));
    let (id, line) = it.take_line().unwrap();
    assert_eq!(line, b"two");
    it.answer(id, b"2\n".to_vec());
    assert_eq!(next(&mut it), Some((op::RW, 9, b"2\n".to_vec())));
    assert_eq!(next(&mut it), Some((op::SHUTDOWN, 9, vec![])));
    assert_eq!((next(&mut it), it.count()), (None, 0));
}

#[test]
fn what_is_unknown_is_refused_and_a_refusal_is_not() {
    let mut it = Connections::new(GUEST, true);
    for header in [
        packet(op::RW, 5, 0),
        packet(op::RESPONSE, 5, 0),
        packet(0, 5, 0),
        packet(op::SHUTDOWN, 5, 0),
        PacketHeader { dst_port: 2, ..packet(op::REQUEST, 5, 0) },
        PacketHeader { dst_cid: 4, ..packet(op::REQUEST, 5, 0) },
        PacketHeader { kind: 2, ..packet(op::REQUEST, 5, 0) },
    ] {
        it.input(&header, Some(b"")).unwrap();
        let mut payload = Vec::new();
        let answer = it.output(PACKET, &mut payload).unwrap();
        assert_eq!(answer.op, op::RST);
        assert_eq!((answer.src_cid, answer.src_port), (header.dst_cid, header.dst_port));
        assert_eq!(answer.kind, header.kind);
        assert_eq!(answer.dst_port, 5);
    }
    send(&mut it, op::RST, 5, b"");
    it.input(&PacketHeader { src_cid: 7, ..packet(op::REQUEST, 5, 0) }, Some(b"")).unwrap();
    assert_eq!((next(&mut it), it.count()), (None, 0));
}

#[test]
fn connections_and_refusals_are_bounded() {
    let mut it = Connections::new(GUEST, true);
    let many = u32::try_from(MOST + MOST_REFUSALS).unwrap();
    (0..many).for_each(|port| send(&mut it, op::REQUEST, port, b""));
    assert_eq!(it.count(), MOST);
    assert_eq!(it.input(&packet(op::REQUEST, many, 0), Some(b"")), Err(Full));
    assert_eq!(next(&mut it).unwrap().0, op::RST);
    send(&mut it, op::REQUEST, many, b"");
    // And a request for what is there already ends it.
    while next(&mut it).is_some() {}
    send(&mut it, op::REQUEST, 0, b"");
    assert_eq!((next(&mut it).unwrap().0, it.count()), (op::RST, MOST - 1));
}

#[test]
fn who_sends_more_than_he_may_or_a_line_without_end_is_cut_off() {
    let most = vec![b'x'; BUFFER as usize];
    let mut it = connected(1);
    send(&mut it, op::RW, 1, &most);
    assert_eq!((next(&mut it).unwrap().0, it.count()), (op::RST, 0));
    let mut it = connected(1);
    send(&mut it, op::RW, 1, b"a\n");
    send(&mut it, op::RW, 1, &most);
    assert_eq!((next(&mut it).unwrap().0, it.count()), (op::RST, 0));
    let mut it = connected(1);
    it.input(&packet(op::RW, 1, 10_000), None).unwrap();
    assert_eq!((next(&mut it).unwrap().0, it.count()), (op::RST, 0));
}

#[test]
fn who_has_filled_more_than_half_of_the_buffer_is_told_when_there_is_room_again() {
    let mut it = connected(1);
    let mut line = vec![b'x'; BUFFER as usize / 2];
    line.push(b'\n');
    send(&mut it, op::RW, 1, &line);
    assert_eq!(next(&mut it), None);
    assert!(it.take_line().is_some());
    // Before there is an answer.
    assert_eq!(next(&mut it), Some((op::CREDIT_UPDATE, 1, vec![])));
    assert_eq!(next(&mut it), None);
}

#[test]
fn an_answer_goes_as_credit_allows_and_never_to_a_later_connection() {
    let mut it = Connections::new(GUEST, true);
    let small = PacketHeader { buf_alloc: 3, ..packet(op::REQUEST, 1, 0) };
    it.input(&small, Some(b"")).unwrap();
    assert_eq!(next(&mut it).unwrap().0, op::RESPONSE);
    it.input(&PacketHeader { op: op::RW, len: 2, ..small }, Some(b"a\n")).unwrap();
    let (id, _) = it.take_line().unwrap();
    it.answer(id, b"12345".to_vec());
    assert_eq!(next(&mut it), Some((op::RW, 1, b"123".to_vec())));
    assert!(!it.has_output());
    assert_eq!(next(&mut it), None);
    it.input(&PacketHeader { op: op::CREDIT_UPDATE, fwd_cnt: 3, ..small }, Some(b"")).unwrap();
    assert_eq!(next(&mut it), Some((op::RW, 1, b"45".to_vec())));
    it.input(&PacketHeader { op: op::RW, len: 2, ..small }, Some(b"b\n")).unwrap();
    let (id, _) = it.take_line().unwrap();
    send(&mut it, op::RST, 1, b"");
    send(&mut it, op::REQUEST, 1, b"");
    assert_eq!(next(&mut it).unwrap().0, op::RESPONSE);
    send(&mut it, op::RW, 1, b"c\n");
    it.take_line().unwrap();
    it.answer(id, b"late".to_vec());
    assert_eq!(next(&mut it), None);
}

#[test]
fn where_nobody_listens_nobody_is_connected() {
    let mut it = Connections::new(GUEST, false);
    send(&mut it, op::REQUEST, 5, b"");
    assert_eq!((next(&mut it).unwrap().0, it.count()), (op::RST, 0));
}

#[test]
fn answers_that_are_not_read_are_bounded_in_sum_and_leave_the_others_lines_where_they_are() {
    let mut it = Connections::new(GUEST, true);
    let most = u32::try_from(MOST).unwrap();
    for port in 0..most {
        let silent = PacketHeader { buf_alloc: 0, ..packet(op::REQUEST, port, 0) };
        it.input(&silent, Some(b"")).unwrap();
        it.input(&PacketHeader { op: op::RW, len: 2, ..silent }, Some(b"a\n")).unwrap();
    }
    let held = |it: &Connections| it.all.iter().map(|one| one.outgoing.capacity()).sum::<usize>();
    let mut taken = 0;
    while let Some((id, _)) = it.take_line() {
        it.answer(id, vec![b'x'; 2 * MOST_ANSWER]);
        taken += 1;
    }
    assert_eq!((taken, held(&it)), (MOST_HELD / MOST_ANSWER, MOST_HELD));
    assert!(!it.has_line());
    // Two lines at once in hand are as many as their answers could fill.
    let mut it = Connections::new(GUEST, true);
    (0..4).for_each(|port| send(&mut it, op::REQUEST, port, b""));
    (0..4).for_each(|port| send(&mut it, op::RW, port, b"a\n"));
    assert!(it.take_line().is_some() && it.take_line().is_some() && it.take_line().is_none());
    // Who closes gives up what he did not read.
    (0..4).for_each(|port| send(&mut it, op::RST, port, b""));
    assert_eq!((it.count(), held(&it)), (0, 0));
}

#[test]
fn connections_take_turns() {
    let mut it = Connections::new(GUEST, true);
    (0..3).for_each(|port| send(&mut it, op::REQUEST, port, b""));
    (0..3).for_each(|port| send(&mut it, op::RW, port, b"a\nb\n"));
    let mut ports = Vec::new();
    while let Some((id, _)) = it.take_line() {
        ports.push(id.port);
        it.answer(id, b"1".to_vec());
        while next(&mut it).is_some() {}
    }
    assert_eq!(ports, [0, 1, 2, 0, 1, 2]);
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    /// Whatever a guest sends: what is kept is bounded, all that is due comes out, and then nothing.
    #[test]
    fn a_hostile_guest_gets_nothing_but_bounded_work(
        packets in prop::collection::vec(
            (0u16..9, 0u32..4, 0usize..pick(5000, 500), any::<u32>(), any::<u32>(), 0u32..4, any::<bool>()), 0..pick(200, 20)),
        rooms in prop::collection::vec(0usize..100, 200),
    ) {
        let mut it = Connections::new(GUEST, true);
        let mut payload = Vec::new();
        for ((op, port, len, buf_alloc, fwd_cnt, flags, ends), room) in packets.into_iter().zip(rooms) {
            let header = PacketHeader { buf_alloc, fwd_cnt, flags, ..packet(op, port, len) };
            let bytes = vec![if ends { b'\n' } else { b'x' }; len];
            if it.input(&header, Some(&bytes)).is_err() {
                prop_assert!(it.output(0, &mut payload).is_some());
            }
            if let Some((id, line)) = it.take_line() {
                prop_assert!(line.len() < BUFFER as usize);
                it.answer(id, vec![b'a'; 50]);
            }
            if let Some(header) = it.output(room, &mut payload) {
                prop_assert!(payload.len() <= room && header.len as usize == payload.len());
            }
            prop_assert!(it.count() <= MOST && it.refusals.len() <= MOST_REFUSALS);
            for one in &it.all {
                prop_assert!(one.incoming.len() <= BUFFER as usize);
                let lines = one.incoming.iter().filter(|byte| **byte == b'\n').count();
                prop_assert_eq!(one.lines, lines);
            }
        }
        // At most a packet for each byte, and what else is owed.
        let most = MOST_REFUSALS + it.all.len() * (50 + 3);
        let count = core::iter::from_fn(|| it.output(PACKET, &mut payload)).take(most + 1).count();
        prop_assert!(count <= most && !it.has_output());
    }
}
