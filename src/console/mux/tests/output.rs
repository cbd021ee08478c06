//! What is shown of the guests and of the log, and in which order.

use super::*;

#[test]
fn one_guest_alone_has_the_line_to_itself() {
    let mut bench = Bench::new(&["a"]);
    bench.send(A, b"\x1b[2Jfull screen\r\x08 and \xff all");
    bench.drain(usize::MAX);
    assert_eq!(bench.out, b"\x1b[2Jfull screen\r\x08 and \xff all");
}

#[test]
fn lines_of_several_guests_have_their_names_before_them() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.send(A, b"one\r\ntw");
    bench.send(B, b"\x1b[31mred\x1b[0m\n");
    bench.send(A, b"o\n");
    assert_eq!(bench.shown(), "[a] one\r\n[b] red\r\n[a] two\r\n");
}

#[test]
fn names_have_colours_on_a_terminal() {
    let mut bench = Bench::on_terminal(&["a", "b"]);
    bench.send(A, b"x\n");
    bench.send(B, b"y\n");
    assert_eq!(bench.shown(), "\x1b[36m[a] \x1b[0mx\r\n\x1b[33m[b] \x1b[0my\r\n");
}

#[test]
fn a_prompt_shows_after_a_short_time_and_what_is_typed_behind_it_at_once() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.send(A, b"login: ");
    assert_eq!(bench.shown(), "");
    assert_eq!(bench.mux.deadline(bench.now), Some(bench.now + PATIENCE));
    assert_eq!(bench.wait(PATIENCE).shown(), "[a] login: ");
    bench.send(A, b"r");
    assert_eq!(bench.shown(), "r");
    bench.send(B, b"another\n");
    assert_eq!(bench.shown(), "\r\n[b] another\r\n");
    bench.send(A, b"oot\n");
    assert_eq!(bench.shown(), "[a] oot\r\n");
}

#[test]
fn a_line_whose_guest_waits_for_a_cpu_is_not_torn_but_shows_after_a_second() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.send(A, b"half a ");
    for _ in 0..5 {
        bench.wait(PATIENCE).ripen(true);
        bench.send(B, b"b\n");
        assert_eq!(bench.shown(), "[b] b\r\n");
    }
    bench.send(A, b"line\n");
    assert_eq!(bench.shown(), "[a] half a line\r\n");
    bench.send(A, b"prompt");
    assert_eq!(bench.mux.deadline(bench.now), Some(bench.now + PATIENCE));
    bench.wait(LONG_PATIENCE).ripen(true);
    assert_eq!(bench.shown(), "[a] prompt");
}

#[test]
fn a_long_line_is_shown_in_pieces_that_others_may_stand_between() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.send(A, &[b'x'; 300]);
    bench.send(B, b"short\n");
    let x = "x".repeat(256);
    assert_eq!(bench.shown(), format!("[a] {x}\r\n[b] short\r\n"));
    assert_eq!(bench.wait(PATIENCE).shown(), format!("[a] {}", "x".repeat(44)));
}

#[test]
fn the_log_comes_first_and_on_lines_of_its_own() {
    let mut bench = Bench::new(&["a"]);
    bench.send(A, b"$ ");
    assert_eq!(bench.shown(), "$ ");
    bench.send(A, b"ls");
    bench.mux.log(format_args!("plinth [one]\nplinth [two]\n"));
    assert_eq!(bench.shown(), "\r\nplinth [one]\r\nplinth [two]\r\nls");
}

#[test]
fn a_guest_in_the_middle_of_an_escape_sequence_does_not_eat_the_log() {
    let mut bench = Bench::new(&["a"]);
    bench.send(A, b"x\x1b]0;title");
    bench.shown();
    bench.mux.log(format_args!("plinth [log]\n"));
    assert_eq!(bench.shown(), "\x18\r\nplinth [log]\r\n");
}

#[test]
fn a_guest_cannot_write_the_hypervisors_lines_among_others_or_a_frame_anywhere() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.send(A, b"x\nplinth: power off (ok)\r\n\x1e{\"id\":1}\n");
    bench.send(A, b"\rplinth [0.0]\r\x0b[b] hello\n");
    let shown = bench.shown();
    assert!(shown.lines().all(|line| line.is_empty() || line.starts_with("[a] ")), "{shown}");
    assert!(!shown.contains('\x1e'));
    let mut bench = Bench::new(&["a"]);
    bench.send(A, b"\x1e\x1e{\"id\":1}\n");
    assert_eq!(bench.shown(), "{\"id\":1}\n");
}

#[test]
fn only_the_guest_that_floods_has_to_wait() {
    let mut bench = Bench::new(&["a", "b", "c"]);
    let flood = b"a line of a flood\n".repeat(pick(1000, 300));
    let taken = bench.send(A, &flood);
    assert!(taken < flood.len() && taken >= 4096, "{taken}");
    assert_eq!(bench.send(B, b"quiet\n"), 6);
    assert_eq!(bench.mux.take_attention(bench.now), None);
    // However much is waiting, one unit of each of the others at most comes before the quiet line.
    bench.drain(400);
    assert!(String::from_utf8_lossy(&bench.out).contains("[b] quiet\r\n"));
    assert_eq!(bench.mux.take_attention(bench.now), Some(A), "there is room again");
    assert_eq!(bench.mux.take_attention(bench.now), None, "told once");
}

#[test]
fn a_guest_that_is_not_shown_never_waits_and_what_it_overwrote_is_told() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_in(b"\x01a").shown();
    // More than is kept of it.
    let lines = pick(10_000, 1000);
    let last = format!("line {}\nline {}\n", lines - 2, lines - 1);
    let lines: Vec<u8> = (0..lines).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    assert_eq!(bench.send(B, &lines), lines.len());
    assert_eq!(bench.shown(), "");
    let shown = bench.type_in(b"\x01n").shown();
    // From the start of a line on.
    let kept = lines.len() - KEPT;
    let lost = kept + lines[kept..].iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    assert!(shown.contains(&notice(&format!("b: {lost} bytes were lost"))), "{}", &shown[..300]);
    let first = shown.split("bytes were lost\r\n").nth(1).unwrap_or_default();
    assert!(first.starts_with("line "), "{}", &shown[..300]);
    assert!(shown.ends_with(&last));
    assert_eq!(bench.type_in(b"\x01p\x01n").shown().matches("line").count(), 0, "shown once");
}

#[test]
fn showing_all_again_begins_with_the_newest_and_says_what_it_leaves_out() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.type_in(b"\x01a").shown();
    bench.send(B, &b"0123456\n".repeat(1000));
    let shown = bench.type_in(b"\x01a").shown();
    assert!(shown.contains(&notice("b: 5960 bytes are not shown")), "{shown}");
    assert_eq!(shown.matches("[b] 0123456\r\n").count(), 255);
}

#[test]
fn a_line_that_nobody_drains_holds_up_nobody_for_ever() {
    let mut bench = Bench::new(&["a"]);
    let flood = [b'x'; pick(100_000, 10_000)];
    assert!(bench.send(A, &flood) < 5000);
    bench.mux.next(bench.now);
    bench.mux.refused(bench.now);
    assert_eq!(bench.mux.take_attention(bench.now), Some(A), "a unit is on its way");
    assert!(bench.send(A, &flood) < 100);
    assert_eq!(bench.mux.deadline(bench.now), Some(bench.now + STALL));
    bench.wait(STALL);
    assert_eq!(bench.mux.deadline(bench.now), Some(bench.now), "the guest has to be told");
    assert_eq!(bench.mux.take_attention(bench.now), Some(A));
    assert_eq!(bench.send(A, &flood), flood.len());
    assert_eq!(bench.mux.deadline(bench.now), None);
    let shown = bench.shown();
    assert!(shown.contains("a: ") && shown.contains(" bytes were lost\r\n"));
}

#[test]
fn a_log_that_nobody_drains_keeps_its_newest_lines_and_says_so() {
    let mut bench = Bench::new(&["a"]);
    let last = pick(1999, 999);
    for number in 0..=last {
        bench.mux.log(format_args!("plinth [] line {number}\n"));
    }
    let shown = bench.shown();
    let mut lines = shown.lines();
    assert!(lines.next().is_some_and(|line| line.ends_with("bytes of the log were lost")));
    assert!(lines.all(|line| line.starts_with("plinth [] line ")));
    assert!(shown.ends_with(&format!("line {last}\r\n")));
}

#[test]
fn a_guest_that_goes_away_is_shown_to_its_end_and_a_new_one_begins_a_new_line() {
    let mut bench = Bench::new(&["a", "b"]);
    bench.send(B, b"last words");
    bench.mux.detach(B);
    assert_eq!(bench.shown(), "[b] last words");
    assert_eq!(bench.mux.guests().count(), 1);
    bench.mux.attach(B, "b");
    bench.send(B, b"again\n");
    assert_eq!(bench.shown(), "\r\n[b] again\r\n");
}

#[test]
fn a_guest_that_was_refused_is_looked_at_though_another_of_its_devices_has_sent_since() {
    let mut bench = Bench::new(&["one", "two"]);
    let id = VmId(0);
    let line = [&[b'x'; 63][..], b"\n"].concat();
    while bench.send(id, &line) == line.len() {}
    assert_eq!(bench.mux.take_attention(bench.now), None, "there is no room yet");
    bench.drain(usize::MAX);
    // By its other device.
    assert_eq!(bench.send(id, b"y"), 1);
    assert_eq!(bench.mux.take_attention(bench.now), Some(id));
    assert_eq!(bench.mux.take_attention(bench.now), None);
}
