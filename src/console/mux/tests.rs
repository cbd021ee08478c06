//! The multiplexer at the end of a line that a test drains.

use super::*;
use crate::console::port::{LONG_PATIENCE, PATIENCE, TYPED};
use crate::console::terminal::{CALM, RESET};
use alloc::format;
use alloc::vec;
use proptest::prelude::*;

const A: VmId = VmId(0);
const B: VmId = VmId(1);
const C: VmId = VmId(2);

/// A console and what came out of it.
struct Bench {
    mux: Mux,
    now: Duration,
    out: Vec<u8>,
}

impl Bench {
    fn new(names: &[&str]) -> Self {
        Self::with(names, Settings { terminal: false, ..Settings::default() })
    }

    fn on_terminal(names: &[&str]) -> Self {
        Self::with(names, Settings::default())
    }

    fn with(names: &[&str], settings: Settings) -> Self {
        let mut mux = Mux::new(settings);
        for (id, name) in (0..).zip(names) {
            mux.attach(VmId(id), name);
        }
        Self { mux, now: Duration::from_secs(1), out: Vec::new() }
    }

    /// The guest sends what it can; how much that was.
    fn send(&mut self, id: VmId, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| self.mux.send(id, **byte, self.now)).count()
    }

    /// The line takes at most `count` bytes.
    fn drain(&mut self, count: usize) -> &mut Self {
        self.ripen(false);
        for _ in 0..count {
            let Some(byte) = self.mux.next(self.now) else { break };
            self.out.push(byte);
            self.mux.sent();
        }
        self
    }

    /// Those whose lines have waited are kept from going on with them, or not.
    fn ripen(&mut self, kept: bool) {
        for id in self.mux.unfinished(self.now) {
            self.mux.ripen(id, kept, self.now);
        }
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn type_in(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.mux.input(*byte, self.now);
        }
        self
    }

    /// Types as the UART does: as long as input is wanted. How much that was.
    fn type_what_is_wanted(&mut self, bytes: &[u8]) -> usize {
        let mut typed = 0;
        for byte in bytes {
            if !self.mux.wants_input(self.now) {
                break;
            }
            self.mux.input(*byte, self.now);
            typed += 1;
        }
        typed
    }

    /// All that comes out.
    fn shown(&mut self) -> String {
        self.drain(usize::MAX);
        String::from_utf8_lossy(&core::mem::take(&mut self.out)).into_owned()
    }

    fn received(&mut self, id: VmId) -> Vec<u8> {
        core::iter::from_fn(|| self.mux.receive(id)).collect()
    }
}

/// A line of the console's own, with the time at which tests begin.
fn notice(text: &str) -> String {
    format!("plinth [  1.000000] INFO  console: {text}\r\n")
}

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
    let flood = b"a line of a flood\n".repeat(1000);
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
    let lines: Vec<u8> = (0..10_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    assert_eq!(bench.send(B, &lines), lines.len());
    assert_eq!(bench.shown(), "");
    let shown = bench.type_in(b"\x01n").shown();
    // From the start of a line on.
    let kept = lines.len() - (64 << 10);
    let lost = kept + lines[kept..].iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    assert!(shown.contains(&notice(&format!("b: {lost} bytes were lost"))), "{}", &shown[..300]);
    let first = shown.split("bytes were lost\r\n").nth(1).unwrap_or_default();
    assert!(first.starts_with("line "), "{}", &shown[..300]);
    assert!(shown.ends_with("line 9998\nline 9999\n"));
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
    let flood = [b'x'; 100_000];
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
    for number in 0..2000 {
        bench.mux.log(format_args!("plinth [] line {number}\n"));
    }
    let shown = bench.shown();
    let mut lines = shown.lines();
    assert!(lines.next().is_some_and(|line| line.ends_with("bytes of the log were lost")));
    assert!(lines.all(|line| line.starts_with("plinth [] line ")));
    assert!(shown.ends_with("line 1999\r\n"));
}

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
    assert!(escape_key_waits(4096, 1, millis(400)) <= millis(1600));
    assert!(escape_key_waits(100_000, 1, millis(100)) <= millis(1600));
    // As slow as can be: it takes what it has to, and each such part of the text waits a second.
    assert!(escape_key_waits(4096, 64, millis(120)) <= Duration::from_secs(8));
}

#[test]
fn a_guest_that_takes_what_is_typed_at_its_own_speed_misses_nothing() {
    let mut bench = Bench::new(&["a"]);
    let text: Vec<u8> = (0..20_000u32).map(|n| b'a' + n.to_le_bytes()[0] % 26).collect();
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
fn power_off_comes_before_anything_else_that_was_asked_for() {
    let mut bench = Bench::new(&["a"]);
    bench.type_in(b"\x01mcpu\r\x01xx");
    assert_eq!(bench.mux.take_event(), Some(Event::PowerOff));
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

const HIDING: &[u8] = b"\x1b[8m\x1b[?1049h\x1b]0;evil\n";

/// What is shown, with the ways back from what a guest did to the terminal by their names.
fn shown_on_terminal(bench: &mut Bench) -> String {
    let name = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    bench.shown().replace(&name(RESET), "<reset>").replace(&name(CALM), "<calm>")
}

#[test]
fn nothing_that_a_guest_does_to_the_terminal_hides_the_monitor_or_another_guest() {
    for (names, keys) in [(&["a"][..], b"\x01m"), (&["a", "b"], b"\x01m"), (&["a", "b"], b"\x01a")]
    {
        let mut bench = Bench::on_terminal(names);
        bench.type_in(b"\x01a").shown();
        bench.send(A, HIDING);
        bench.shown();
        let shown = shown_on_terminal(bench.type_in(keys));
        assert!(shown.starts_with("<reset>\r\nplinth ["), "{shown:?}");
        assert_eq!(shown.matches("<reset>").count(), 1);
    }
    let mut bench = Bench::on_terminal(&["a", "b"]);
    bench.type_in(b"\x01a").shown();
    bench.send(A, HIDING);
    bench.send(B, b"b\n");
    bench.shown();
    assert!(shown_on_terminal(bench.type_in(b"\x011")).starts_with("<reset>\r\nplinth ["));
    // One that is alone no longer.
    let mut bench = Bench::on_terminal(&["a"]);
    bench.send(A, HIDING);
    bench.shown();
    bench.mux.attach(B, "b");
    bench.send(B, b"b\n");
    assert!(shown_on_terminal(&mut bench).starts_with("<reset>\r\n"));
    bench.send(B, HIDING);
    bench.send(A, b"x");
    assert!(!shown_on_terminal(bench.wait(PATIENCE)).contains("<reset>"), "nothing is left of it");
}

#[test]
fn a_line_of_the_log_is_seen_whatever_its_guest_did_to_the_terminal() {
    let mut bench = Bench::on_terminal(&["a"]);
    bench.send(A, b"one\ntwo\nthree");
    assert_eq!(shown_on_terminal(&mut bench), "one\ntwo\nthree");
    bench.mux.log(format_args!("plinth [log]\nplinth [log]\n"));
    assert_eq!(shown_on_terminal(&mut bench), "<calm>\r\nplinth [log]\r\nplinth [log]\r\n");
    bench.send(A, HIDING);
    bench.shown();
    bench.mux.log(format_args!("plinth [log]\n"));
    assert_eq!(shown_on_terminal(&mut bench), "<calm>\r\x1b[Kplinth [log]\r\n");
    bench.mux.log(format_args!("plinth [log]\n"));
    assert_eq!(shown_on_terminal(&mut bench), "plinth [log]\r\n");
    bench.mux.end_line();
    assert_eq!(shown_on_terminal(&mut bench), "<reset>\r\n", "last words");
}

#[test]
fn what_is_shown_late_does_not_make_the_terminal_answer() {
    let mut bench = Bench::on_terminal(&["a", "b"]);
    bench.type_in(b"\x01a");
    bench.send(B, b"/ # \x1b[6nls\r\n/ # \x1b[");
    let shown = bench.type_in(b"\x011").shown();
    assert!(shown.ends_with("/ # ls\r\n/ # "), "{shown:?}");
    bench.send(B, b"6n");
    assert_eq!(bench.shown(), "", "begun before");
    bench.send(B, b"\x1b[6nnow");
    assert_eq!(bench.shown(), "\x1b[6nnow");
}

/// What waits for the line at most: the answers beyond which nothing is taken, and one more.
const MOST_QUEUED: usize = ANSWERS + 4096;

#[test]
fn what_is_typed_waits_while_nobody_takes_the_answers_and_goes_on_when_somebody_does() {
    let names: Vec<String> = (0..64).map(|id| format!("a-guest-with-a-long-name-{id}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // Broken frames, requests, the choices of a completion, lines.
    for text in [&b"\x1e"[..], b"\x1e{}\n", b"\x15vm info a\t\t", b"\t", b"\r", b"cpu\r"] {
        let mut bench = Bench::new(&names);
        bench.mux.set_names(names.iter().map(|name| String::from(*name)).collect());
        bench.type_in(b"\x01m").shown();
        let text = text.repeat(10_000);
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
    let mut bench = Bench::new(&["a"]);
    bench.type_in(&b"\x01xx".repeat(1000)).type_in(&b"\x1e".repeat(1000));
    assert_eq!(bench.mux.events.len(), 1);
    assert_eq!(bench.mux.take_event(), Some(Event::PowerOff));
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

#[derive(Clone, Debug)]
enum Step {
    Send(u16, Vec<u8>),
    Drain(usize),
    Wait(u64),
    Log(u8),
    Reply(u8),
    Focus(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let text = prop::collection::vec(prop_oneof![5 => b'a'..=b'z', 1 => Just(b'\n')], 0..80);
    prop_oneof![
        6 => (0u16..3, text).prop_map(|(id, text)| Step::Send(id, text)),
        6 => (0usize..200).prop_map(Step::Drain),
        2 => (0u64..80).prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::Log),
        1 => any::<u8>().prop_map(Step::Reply),
        1 => (0u8..3).prop_map(Step::Focus),
    ]
}

/// Frames and the hypervisor's lines taken out, the lines that are left; each frame and each line of
/// the log has to be whole.
fn guest_lines(text: &str) -> Vec<String> {
    let mut rest = String::new();
    for (at, part) in text.split('\x1e').enumerate() {
        let part = match at {
            0 => part,
            _ => {
                let (frame, part) = part.split_once('\n').expect("a frame has an end");
                assert!(frame.starts_with("{\"id\":") && frame.ends_with('}'), "{frame}");
                part
            }
        };
        rest += part;
    }
    let lines = rest.split("\r\n").filter(|line| !line.is_empty()).map(String::from);
    let (own, guests): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with("plinth "));
    for line in own {
        assert!(
            line.starts_with("plinth [") && (line.contains("console:") || line.ends_with("logged")),
            "{line}"
        );
    }
    guests
}

proptest! {
    #![proptest_config(crate::testing::cases(96, 2))]

    /// Whatever chunks, drains and focus: each guest's bytes come out in order, none missing, none
    /// doubled, each line of the output with the name of the one guest it belongs to.
    #[test]
    fn what_goes_in_comes_out_in_order_and_untorn(steps in prop::collection::vec(step(), 0..60)) {
        let names = ["a", "b", "c"];
        let mut bench = Bench::new(&names);
        let mut sent = vec![Vec::new(); 3];
        for step in steps {
            match step {
                Step::Send(id, text) => {
                    let count = bench.send(VmId(id), &text);
                    sent[usize::from(id)].extend_from_slice(&text[..count]);
                }
                Step::Drain(count) => {
                    bench.drain(count);
                }
                Step::Wait(millis) => {
                    bench.wait(Duration::from_millis(millis));
                }
                Step::Log(number) => bench.mux.log(format_args!("plinth [] {number} logged\n")),
                Step::Reply(id) => bench.mux.reply(format!("{{\"id\":{id}}}").as_bytes()),
                Step::Focus(key) => {
                    bench.type_in(&[1, b'0' + key]);
                }
            }
        }
        // What is left of a line waits again once the line's beginning is shown.
        bench.drain(usize::MAX).wait(PATIENCE);
        let text = bench.shown();
        let mut seen = vec![String::new(); 3];
        for line in guest_lines(&text) {
            let (name, text) = line.split_once("] ").expect("a line has a name");
            let id = names.iter().position(|known| format!("[{known}") == name);
            seen[id.expect("of a guest")] += text;
        }
        for (seen, sent) in seen.iter().zip(sent) {
            let sent: String = sent.iter().filter(|c| **c != b'\n').map(|c| char::from(*c)).collect();
            prop_assert_eq!(seen, &sent);
        }
    }

    /// One guest alone, whatever is drained when: exactly its bytes.
    #[test]
    fn a_raw_guest_loses_nothing(chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), 0usize..300), 0..30)) {
        let mut bench = Bench::new(&["a"]);
        let mut sent = Vec::new();
        for (bytes, drain) in chunks {
            let count = bench.send(A, &bytes);
            sent.extend_from_slice(&bytes[..count]);
            bench.drain(drain);
        }
        bench.drain(usize::MAX);
        sent.retain(|byte| *byte != 0x1e);
        prop_assert_eq!(bench.out, sent);
    }

    /// A quiet guest's line comes out within a bounded number of bytes, whatever the others send.
    #[test]
    fn a_flood_does_not_delay_a_line(flood in prop::collection::vec(any::<u8>(), 1..300), drained in 0usize..500) {
        let mut bench = Bench::new(&["a", "b", "c"]);
        for _ in 0..20 {
            bench.send(A, &flood);
            bench.send(C, &flood);
        }
        bench.drain(drained);
        bench.send(B, b"quiet\n");
        bench.out.clear();
        // A unit on its way, and one of each of the others: at most 256 bytes, each of which may become
        // a replacement character or begin its line anew.
        bench.drain(3 * 256 * 8);
        prop_assert!(String::from_utf8_lossy(&bench.out).contains("[b] quiet\r\n"));
    }

    #[test]
    fn what_waits_for_a_line_that_takes_nothing_is_bounded(bytes in prop::collection::vec(prop::sample::select(
        vec![&b"\x1e"[..], b"\x1e{}\n", b"\x01m", b"\x010", b"vm \t", b"\t", b"\r", b"stats\r", b"\x01?", b"\x01x"],
    ), 0..2000)) {
        let mut bench = Bench::new(&["a", "b"]);
        for bytes in bytes {
            bench.type_what_is_wanted(bytes);
            while let Some(event) = bench.mux.take_event() {
                if matches!(event, Event::Command(_)) {
                    bench.mux.answer("done\n");
                    bench.mux.done();
                }
            }
            prop_assert!(bench.mux.queued() <= MOST_QUEUED);
        }
    }

    #[test]
    fn any_input_is_survived(bytes in prop::collection::vec(prop_oneof![
        3 => prop::sample::select(vec![1u8, b'a', b'm', b'n', b'x', b'0', b'\r', b'\t', 0x1b, 0x1e, b'\n']),
        1 => any::<u8>(),
    ], 0..300)) {
        let mut bench = Bench::new(&["a", "b"]);
        for byte in bytes {
            bench.type_in(&[byte]);
            bench.drain(50);
            while let Some(event) = bench.mux.take_event() {
                if matches!(event, Event::Command(_)) {
                    bench.mux.answer("done\n");
                    bench.mux.done();
                }
            }
        }
    }
}
