//! Whatever guests, the log and the line do: nothing is torn, and nothing is lost untold.

use super::*;

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
    let text =
        prop::collection::vec(prop_oneof![5 => b'a'..=b'z', 1 => Just(b'\n')], 0..pick(80, 20));
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
    #![proptest_config(crate::testing::cases(96, 1))]

    /// Whatever chunks, drains and focus: each guest's bytes come out in order, none missing, none
    /// doubled, each line of the output with the name of the one guest it belongs to.
    #[test]
    fn what_goes_in_comes_out_in_order_and_untorn(steps in prop::collection::vec(step(), 0..pick(60, 12))) {
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
    fn a_raw_guest_loses_nothing(chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..pick(200, 30)), 0usize..300), 0..pick(30, 6))) {
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
    fn a_flood_does_not_delay_a_line(flood in prop::collection::vec(any::<u8>(), 1..pick(300, 30)), drained in 0usize..500) {
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
    ), 0..pick(2000, 40))) {
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
    ], 0..pick(300, 40))) {
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
