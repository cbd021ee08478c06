//! Claims about the monitor's end of the way to an agent, made with agents of every kind.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;

use proptest::prelude::*;

use super::lines::Lines;
use super::*;
use crate::testing::{pick, some};
use crate::time::Ticks;
use crate::virtio::console::channel::{End, ROOM};

const UNTIL: Ticks = Ticks(100);

/// A link, and the guest's end of its channel, which somebody has opened.
fn linked() -> (Link, End) {
    let [guest, monitor] = End::pair();
    // A guest's end has memory when its device has a bell; this one looks by itself.
    guest.watch();
    (Link::new(monitor), guest)
}

/// What has come to a guest.
fn heard(guest: &End) -> String {
    let mut bytes = vec![0; ROOM];
    let count = guest.receive(&mut bytes);
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

fn say(guest: &End, text: &str) {
    assert_eq!(guest.send(text.as_bytes()), text.len());
}

/// What becomes of a request when it is looked often enough.
fn outcome(link: &Link, number: u32) -> Option<Outcome> {
    (0..100).find_map(|_| link.look(number, Ticks(0)))
}

/// What becomes of a `ping` that is answered so.
fn answered(with: &str) -> Option<Outcome> {
    let (link, guest) = linked();
    link.ask(7, Ask::Ping, UNTIL, Asker::Console).unwrap();
    say(&guest, with);
    outcome(&link, 7)
}

#[test]
fn a_request_is_one_line_with_its_number_and_gets_its_answer() {
    let (link, guest) = linked();
    for (number, (name, ask)) in (1..).zip(Ask::NAMED) {
        link.ask(number, ask, UNTIL, Asker::Console).unwrap();
        assert_eq!(heard(&guest), format!("{{\"id\":{number},\"do\":\"{name}\"}}\n"));
        assert_eq!(link.look(number, Ticks(99)), None);
        say(&guest, &format!("{{\"id\":{number},\"ok\":{{}}}}\n"));
        assert_eq!(link.look(number, Ticks(99)), Some(Ok(Answer::default())));
    }
}

#[test]
fn what_an_agent_tells_is_read_and_what_is_not_known_is_passed_over() {
    let told = answered(
        "{\"ok\":{\"kernel\":\"Linux 6.12 \\\"x\\\"\",\"uptime\":12,\"memory\":536870912,\"more\":[{\"a\":1}],\
         \"available\":1024,\"version\":1,\"addresses\":[\"10.0.2.21/24\",\"fe80::1/64\"]},\"id\":7,\"z\":null}\n",
    );
    let answer = Answer {
        version: Some(1),
        kernel: Some("Linux 6.12 \"x\"".into()),
        uptime: Some(12),
        memory: Some(512 << 20),
        available: Some(1024),
        addresses: vec!["10.0.2.21/24".into(), "fe80::1/64".into()],
    };
    assert_eq!(told, Some(Ok(answer)));
    let refused = answered("{\"id\":7,\"error\":\"not now\"}\n");
    assert_eq!(refused, Some(Err(Failure::Refused("not now".into()))));
}

#[test]
fn what_is_nobodys_answer_is_passed_over_and_the_answer_after_it_is_found() {
    let long = format!("{{\"id\":7,\"ok\":{{\"kernel\":\"{}\"}}}}\n", "k".repeat(LONGEST));
    let deep = format!("{{\"id\":7,\"x\":{}\n", "[".repeat(500));
    for junk in some([
        "\n\n",
        "hello\n",
        "{\"id\":6,\"ok\":{}}\n",
        "{\"id\":null,\"error\":\"what?\"}\n",
        "{\"id\":-7,\"ok\":{}}\n",
        "{\"id\":7,\"id\":7,\"ok\":{}}\n",
        "\u{ff}\u{1b}[2J\n",
        "{\"ok\":{}}\n",
        "{\"id\":7\n",
        "{\"id\":7,\"error\":\"\\ud800\"}\n",
        &long,
        &deep,
    ]) {
        assert_eq!(answered(junk), None, "{junk}");
        let told = answered(&format!("{junk}{{\"id\":7,\"ok\":{{\"uptime\":3}}}}\n"));
        let answer = Answer { uptime: Some(3), ..Answer::default() };
        assert_eq!(told, Some(Ok(answer)), "{junk}");
    }
}

#[test]
fn an_answer_that_says_neither_or_both_cannot_be_read() {
    for answer in [
        "{\"id\":7}\n",
        "{\"id\":7,\"ok\":{},\"error\":\"x\"}\n",
        "{\"id\":7,\"ok\":3}\n",
        "{\"id\":7,\"ok\":{\"uptime\":-1}}\n",
        "{\"id\":7,\"ok\":{\"addresses\":[1]}}\n",
    ] {
        assert_eq!(answered(answer), Some(Err(Failure::Garbled)), "{answer}");
    }
}

#[test]
fn texts_are_cut_and_do_nothing_to_a_terminal() {
    let wild = "\\u001b[31m\\u009b2J\u{202e}\u{85}\\n".to_string() + &"\u{e4}".repeat(200);
    let Some(Err(Failure::Refused(why))) =
        answered(&format!("{{\"id\":7,\"error\":\"{wild}\"}}\n"))
    else {
        panic!("an answer")
    };
    assert_eq!(why.chars().count(), 100);
    assert!(why.starts_with("\u{fffd}[31m\u{fffd}2J\u{fffd}\u{fffd}\u{fffd}\u{e4}"), "{why:?}");
    let many = "\"a\",".repeat(150) + "\"a\"";
    let told = answered(&format!("{{\"id\":7,\"ok\":{{\"addresses\":[{many}]}}}}\n"));
    assert_eq!(told.unwrap().unwrap().addresses.len(), 8);
}

#[test]
fn who_is_not_there_is_not_asked_and_who_goes_is_not_waited_for() {
    let (link, guest) = linked();
    guest.set_open(false);
    assert_eq!(link.ask(1, Ask::Ping, UNTIL, Asker::Console), Err(Failure::Absent));
    guest.set_open(true);
    link.ask(2, Ask::Ping, UNTIL, Asker::Console).unwrap();
    guest.set_open(false);
    assert_eq!(link.look(2, Ticks(0)), Some(Err(Failure::Gone)));
    // One that was closed and opened again has lost the request.
    guest.set_open(true);
    link.ask(3, Ask::Ping, UNTIL, Asker::Console).unwrap();
    guest.set_open(false);
    guest.set_open(true);
    assert_eq!((heard(&guest), link.look(3, Ticks(0))), (String::new(), Some(Err(Failure::Gone))));
    // What it said before it went is heard, in however many pieces it is taken.
    link.ask(4, Ask::Shutdown, UNTIL, Asker::Console).unwrap();
    say(&guest, &" \n".repeat(400));
    say(&guest, "{\"id\":4,\"ok\":{}}\n");
    guest.set_open(false);
    assert_eq!(outcome(&link, 4), Some(Ok(Answer::default())));
}

#[test]
fn nobody_waits_for_ever_and_what_comes_too_late_is_nobodys() {
    let (link, guest) = linked();
    link.ask(1, Ask::Ping, UNTIL, Asker::Console).unwrap();
    assert_eq!(link.ask(2, Ask::Ping, UNTIL, Asker::Console), Err(Failure::Busy));
    assert_eq!(link.look(2, Ticks(0)), Some(Err(Failure::Gone)), "it was not asked");
    assert_eq!((link.look(1, Ticks(99)), link.look(1, UNTIL)), (None, Some(Err(Failure::Late))));
    // Half of the late answer comes before the next request, half after it.
    say(&guest, "{\"id\":1,\"o");
    link.ask(3, Ask::Ping, UNTIL, Asker::Console).unwrap();
    say(&guest, "k\":{}}\n{\"id\":3,\"ok\":{\"version\":1}}\n");
    let answer = Answer { version: Some(1), ..Answer::default() };
    assert_eq!(outcome(&link, 3), Some(Ok(answer)));
}

#[test]
fn an_agent_that_reads_nothing_is_not_asked_for_ever() {
    let (link, guest) = linked();
    let mut asked = 0;
    for number in 1..=1000 {
        match link.ask(number, Ask::Ping, UNTIL, Asker::Console) {
            Ok(()) => asked += 1,
            Err(why) => assert_eq!(why, Failure::Full),
        }
        link.look(number, UNTIL);
    }
    assert!((200..1000).contains(&asked), "{asked}");
    // All it finds are whole lines.
    assert!(heard(&guest).lines().all(|line| line.ends_with("\"do\":\"ping\"}")));
    assert_eq!(link.ask(1001, Ask::Ping, UNTIL, Asker::Console), Ok(()));
}

#[test]
fn a_link_that_goes_closes_its_end() {
    let (link, guest) = linked();
    assert!(guest.is_other_open());
    drop(link);
    assert!(!guest.is_other_open());
}

/// A short line, or one of about the length that a line can have.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,60}",
        (LONGEST - 4..LONGEST + 6).prop_map(|length| "long".repeat(length)[..length].into())
    ]
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    /// Lines come out as they were sent, however their bytes arrive; those that are too long do not.
    #[test]
    fn lines_are_whole_or_not_there(lines in prop::collection::vec(line(), 0..8)) {
        let mut found = Vec::new();
        let mut receiver = Lines::default();
        for byte in lines.iter().flat_map(|line| line.bytes().chain([b'\n'])) {
            found.extend(receiver.feed(byte).map(|line| String::from_utf8(line.to_vec()).unwrap()));
        }
        let short: Vec<_> = lines.into_iter().filter(|line| line.len() <= LONGEST).collect();
        prop_assert_eq!(found, short);
    }

    /// Whatever bytes a guest sends, in whatever pieces, and whenever it closes its end: a request ends, and what is shown of it
    /// is harmless.
    #[test]
    fn whatever_a_guest_says_a_request_ends(
        steps in prop::collection::vec((0u8..8, prop_oneof![
            prop::collection::vec(any::<u8>(), 0..pick(300, 40)),
            "\\{\"id\":[0-9],\"(ok|error)\":(\\{\\}|\"\\PC{0,20}\"|\\{\"kernel\":\"\\PC{0,20}\"\\})\\}\n?".prop_map(String::into_bytes),
        ]), 0..pick(60, 10)),
    ) {
        let (link, guest) = linked();
        let mut number = 0;
        let mut pending = false;
        for (now, (step, bytes)) in (0..).zip(steps) {
            match step {
                0 => guest.set_open(false),
                1 => guest.set_open(true),
                2 if !pending => {
                    number += 1;
                    pending = link.ask(number, Ask::Info, Ticks(now + 20), Asker::Console).is_ok();
                }
                3 => drop(heard(&guest)),
                _ => drop(guest.send(&bytes)),
            }
            if let Some(outcome) = link.look(number, Ticks(now)) && pending {
                pending = false;
                let shown = match outcome {
                    Ok(answer) => answer.kernel.unwrap_or_default() + &answer.addresses.concat(),
                    Err(why) => why.to_string(),
                };
                prop_assert!(!shown.chars().any(char::is_control) && shown.chars().count() < 200);
            }
        }
        if pending {
            prop_assert!((0..100).any(|_| link.look(number, Ticks(1000)).is_some()));
        }
        guest.set_open(true);
        prop_assert_eq!(link.ask(number + 1, Ask::Ping, Ticks(2000), Asker::Console).is_err_and(|why| why != Failure::Full), false);
    }
}
