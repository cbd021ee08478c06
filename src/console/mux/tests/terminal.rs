//! What a guest does to the terminal, and what is done about it.

use super::*;

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
