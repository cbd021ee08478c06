//! What is typed, and whom it goes to.

use super::*;

#[test]
fn what_is_typed_goes_to_one_guest_and_the_escape_key_chooses_which() {
    let mut bench = Bench::new(&["a", "b", "c"]);
    bench.type_in(b"one\x012two\x01nthree\x01pfour\x01\x01\x019");
    assert_eq!(bench.received(A), b"onethree");
    assert_eq!(bench.received(C), b"twofour\x01");
    assert_eq!(bench.received(B), b"");
    assert!(bench.shown().contains(&notice("there is no guest 9")));
}

#[test]
fn a_guests_uart_is_told_of_what_is_typed_once() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_in(b"\x011xyz");
    assert_eq!(bench.mux.take_attention(bench.now), Some(B));
    assert_eq!(bench.mux.take_attention(bench.now), None);
}

#[test]
fn what_is_typed_waits_for_a_guest_that_takes_it_and_not_for_one_that_does_not() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_in(&[b'x'; TYPED]);
    assert!(!bench.mux.wants_input(bench.now));
    bench.mux.receive(A);
    assert!(bench.mux.wants_input(bench.now));
    bench.type_in(b"x");
    assert!(!bench.mux.wants_input(bench.now));
    bench.wait(Duration::from_millis(1100));
    assert!(bench.mux.wants_input(bench.now), "or the escape key would not work");
    bench.type_in(b"lost\x011y");
    assert_eq!(bench.received(A).len(), TYPED);
    assert_eq!(bench.received(B), b"y");
}

/// How long the escape key behind `typed` waits for a guest that takes `count` bytes each `time`.
fn escape_key_waits(typed: usize, count: usize, time: Duration) -> Duration {
    let mut bench = Bench::new(&["a", "b"]);
    let keys = [vec![b'x'; typed], b"\x01m".to_vec()].concat();
    let (begin, mut at) = (bench.now, 0);
    while bench.mux.focus() != Focus::Monitor {
        at += bench.type_what_is_wanted(&keys[at..]);
        assert!(bench.mux.deadline(bench.now).is_some(), "it is looked again");
        bench.wait(time);
        bench.mux.port_mut(A).into_iter().for_each(|port| {
            (0..count).map_while(|_| port.receive()).for_each(drop);
        });
        bench.out.clear();
    }
    bench.now - begin
}

#[test]
fn the_escape_key_waits_about_a_second_for_a_guest_that_trickles() {
    let millis = Duration::from_millis;
    assert!(escape_key_waits(pick(4096, 1200), 1, millis(400)) <= millis(1600));
    if cfg!(miri) {
        return;
    }
    assert!(escape_key_waits(100_000, 1, millis(100)) <= millis(1600));
    // As slow as can be: it takes what it has to, and each such part of the text waits a second.
    assert!(escape_key_waits(4096, 64, millis(120)) <= Duration::from_secs(8));
}

#[test]
fn a_guest_that_takes_what_is_typed_at_its_own_speed_misses_nothing() {
    let mut bench = Bench::new(&["a"]);
    let text: Vec<u8> = (0..pick(20_000, 500u32)).map(|n| b'a' + n.to_le_bytes()[0] % 26).collect();
    let (mut at, mut received) = (0, Vec::new());
    while received.len() < text.len() {
        at += bench.type_what_is_wanted(&text[at..]);
        bench.wait(Duration::from_millis(100));
        received.extend((0..100).map_while(|_| bench.mux.receive(A)));
    }
    assert_eq!(received, text);
}

#[test]
fn input_moves_on_when_its_guest_is_no_more() {
    let mut bench = Bench::new(&["a", "b", "c"]);
    let now = bench.now;
    bench.mux.leave_the_dead(now, |id| id == C);
    assert_eq!(bench.mux.focus(), Focus::Guest(C));
    bench.mux.leave_the_dead(now, |_| false);
    assert_eq!(bench.mux.focus(), Focus::Guest(C), "there is nowhere to go");
    // Chosen after its end, for its scrollback.
    bench.type_in(b"\x010");
    bench.mux.leave_the_dead(now, |id| id == C);
    assert_eq!(bench.mux.focus(), Focus::Guest(A));
    bench.mux.detach(A);
    bench.mux.leave_the_dead(now, |id| id == C);
    assert_eq!(bench.mux.focus(), Focus::Guest(C));
}
