//! The monitor, frames, and guests that come and go.

use super::*;

#[test]
fn a_frame_is_taken_from_anywhere_and_answered_in_one_piece() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_in(b"l\x1e{\"id\":1}\ns");
    assert_eq!(bench.received(A), b"ls");
    assert_eq!(bench.mux.take_event(), Some(Event::Request(b"{\"id\":1}".to_vec())));
    bench.send(A, b"a line\n");
    bench.drain(3);
    bench.mux.reply(b"{\"id\":1,\"ok\":true}");
    bench.send(B, b"another\n");
    let shown = bench.shown();
    assert_eq!(shown, "[a] a line\r\n\x1e{\"id\":1,\"ok\":true}\n[b] another\r\n");
    bench.type_in(b"\x1enothing\n");
    assert_eq!(bench.mux.take_event(), Some(Event::Request(b"nothing".to_vec())));
    bench.type_in(b"\x1ebroken\r");
    assert!(bench.shown().starts_with("\x1e{\"id\":null,\"ok\":false,"));
}

#[test]
fn the_monitor_has_a_prompt_that_other_lines_do_not_tear() {
    let mut bench = Bench::new(&["a", "b"]);
    let shown = bench.type_in(b"\x01m").shown();
    assert!(shown.ends_with("\r\x1b[Kplinth> "), "{shown}");
    assert!(bench.type_in(b"he").shown().ends_with("\r\x1b[Kplinth> he"));
    bench.send(B, b"a line\n");
    assert_eq!(bench.shown(), "\r\x1b[K[b] a line\r\n\r\x1b[Kplinth> he");
    assert_eq!(bench.type_in(b"lp\r").shown(), "\r\x1b[Kplinth> help\r\n");
    assert_eq!(bench.mux.take_event(), Some(Event::Command("help".into())));
    assert_eq!(bench.shown(), "", "no prompt before the answer");
    bench.mux.answer("one\ntwo\n");
    bench.mux.done();
    assert_eq!(bench.shown(), "one\r\ntwo\r\n\r\x1b[Kplinth> ");
    bench.type_in(b"\x04");
    assert_eq!(bench.mux.focus(), Focus::Guest(A));
    assert!(bench.shown().starts_with("\r\x1b[Kplinth ["));
}

#[test]
fn who_goes_to_the_monitor_is_told_what_is_shown_there() {
    let told = |guests: &[&str], text: &str, line: &str| {
        let mut bench = Bench::new(guests);
        let shown = bench.type_in(b"\x01m").shown();
        assert!(shown.contains(text), "{shown}");
        bench.send(A, b"a line\n");
        assert!(bench.shown().contains(line));
        let back = bench.type_in(b"\x04").shown();
        assert!(back.contains("a (guest 0); all guests are shown"), "{back}");
        assert_eq!(back.contains("a line"), line.is_empty(), "{back}");
    };
    told(&["a", "b"], "; all guests are shown", "[a] a line");
    told(&["a"], "; a guest alone is shown when it is typed to", "");
}

#[test]
fn power_off_comes_before_anything_else_that_was_asked_for() {
    let mut bench = Bench::new(&["a"]);
    bench.type_in(b"\x01mcpu\r\x01xx");
    assert_eq!(bench.mux.take_event(), Some(Event::End(End::PowerOff)));
    assert_eq!(bench.mux.take_event(), Some(Event::Command("cpu".into())));
}

#[test]
fn requests_nobody_carries_out_are_refused_beyond_a_few() {
    let mut bench = Bench::new(&["a"]);
    for id in 0..20 {
        bench.type_in(format!("\x1e{{\"id\":{id},\"command\":\"cpu\"}}\n").as_bytes());
    }
    let shown = bench.shown();
    assert_eq!(shown.matches("too many requests").count(), 12);
    assert!(shown.contains("{\"id\":19,\"ok\":false,"));
}

#[test]
fn a_guest_that_is_started_does_not_take_the_monitors_focus() {
    let mut bench = Bench::new(&["a"]);
    bench.type_in(b"\x01m");
    bench.mux.detach(A);
    bench.mux.attach(B, "b");
    bench.mux.leave_the_dead(bench.now, |_| true);
    assert_eq!(bench.type_in(b"cpu\r").received(B), b"");
    assert_eq!(bench.mux.take_event(), Some(Event::Command("cpu".into())));
    assert!(bench.mux.leave_monitor(bench.now));
    assert_eq!(bench.mux.focus(), Focus::Guest(B));
    // Nor where there was none before.
    let mut bench = Bench::new(&[]);
    bench.type_in(b"\x01m");
    bench.mux.attach(B, "b");
    assert_eq!(bench.mux.focus(), Focus::Monitor);
}

#[test]
fn the_monitor_is_not_left_when_there_is_no_guest_to_go_to() {
    let mut bench = Bench::new(&["a"]);
    bench.mux.detach(A);
    bench.type_in(b"\x01m");
    assert!(!bench.mux.leave_monitor(bench.now));
    assert!(bench.type_in(b"\x04").shown().contains("there is no guest to go to"));
    assert_eq!(bench.mux.focus(), Focus::Monitor);
}

#[test]
fn who_typed_to_a_guest_that_goes_away_types_to_the_next_and_is_told() {
    let mut bench = Bench::new(&["a"]);
    bench.mux.detach(A);
    bench.mux.attach(B, "b");
    bench.mux.leave_the_dead(bench.now, |id| id == B);
    assert!(bench.shown().contains("b (guest 1)"));
    assert_eq!(bench.type_in(b"x").received(B), b"x");
}

#[test]
fn the_last_words_of_a_guest_that_is_no_more_can_be_read_until_another_has_its_number() {
    for view in [&b"\x012"[..], b"\x01a"] {
        let mut bench = Bench::new(&["a", "b", "c"]);
        bench.type_in(b"\x01a").shown();
        bench.send(C, b"last words\n");
        bench.mux.detach(C);
        assert!(!bench.shown().contains("last words"));
        assert!(bench.type_in(view).shown().contains("last words"));
        bench.mux.leave_the_dead(bench.now, |_| true);
        assert_eq!(bench.mux.focus() == Focus::Guest(C), view == b"\x012", "chosen after its end");
        // They were read.
        assert!(bench.type_in(b"\x010\x012").shown().contains(&notice("c (guest 2) is off")));
        assert_eq!(bench.mux.focus(), Focus::Guest(A));
    }
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_in(b"\x01a");
    bench.send(B, b"last words\n");
    bench.mux.detach(B);
    bench.mux.attach(B, "b");
    assert!(bench.type_in(b"\x011").shown().contains("last words"), "the same again");
    bench.type_in(b"\x010");
    bench.send(B, b"unread\n");
    bench.mux.detach(B);
    bench.mux.attach(B, "other");
    assert!(!bench.type_in(b"\x011").shown().contains("unread"));
}

#[test]
fn what_is_typed_waits_while_nobody_takes_the_answers_and_goes_on_when_somebody_does() {
    let names: Vec<String> = (0..64).map(|id| format!("a-guest-with-a-long-name-{id}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // Broken frames, requests, the choices of a completion, lines.
    let texts = [&b"\x15vm info a\t\t"[..], b"\x1e", b"\x1e{}\n", b"\t", b"\r", b"cpu\r"];
    for text in &texts[pick(0, 3)..pick(texts.len(), 4)] {
        let mut bench = Bench::new(&names);
        bench.mux.set_names(names.iter().map(|name| String::from(*name)).collect());
        bench.type_in(b"\x01m").shown();
        let text = text.repeat(pick(10_000, 200));
        let typed = bench.type_what_is_wanted(&text);
        assert!(bench.mux.queued() <= MOST_QUEUED, "{}", bench.mux.queued());
        assert!(typed < text.len());
        assert!(bench.mux.held);
        assert_eq!(bench.mux.deadline(bench.now), None, "only the line changes anything");
        bench.drain(ANSWERS);
        assert_eq!(bench.mux.deadline(bench.now), Some(bench.now), "input is wanted again");
        assert!(bench.type_what_is_wanted(&text) > 0);
    }
}

#[test]
fn power_off_is_asked_for_once_and_does_not_wait_for_the_line() {
    const TIMES: usize = pick(1000, 30);
    let mut bench = Bench::new(&["a"]);
    bench.type_in(&b"\x01xx".repeat(TIMES)).type_in(&b"\x1e".repeat(TIMES));
    assert_eq!(bench.mux.events.len(), 1);
    assert_eq!(bench.mux.take_event(), Some(Event::End(End::PowerOff)));
}
