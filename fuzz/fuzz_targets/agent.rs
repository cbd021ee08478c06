//! A guest at the other end of the way to its agent: it says anything, at any time, and opens and closes its end as it likes. Every
//! request ends, and what is shown of an answer does nothing to a terminal.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use plinth::monitor::agent::{Ask, Failure, LONGEST, Link};
use plinth::time::Ticks;
use plinth::virtio::console::channel::End;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Open(bool),
    Say(&'a [u8]),
    /// An answer to the last request, with this after `ok` or `error`.
    Answer(bool, &'a str),
    Take,
    Ask(u8),
    Look(u8),
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let [guest, monitor] = End::pair();
    guest.watch();
    let link = Link::new(monitor);
    let (mut number, mut now, mut waits) = (0, 0, false);
    for step in steps {
        match step {
            Step::Open(open) => guest.set_open(open),
            Step::Say(bytes) => drop(guest.send(bytes)),
            Step::Answer(ok, text) => {
                let what = if ok { "ok" } else { "error" };
                guest.send(format!("{{\"id\":{number},\"{what}\":{text}}}\n").as_bytes());
            }
            Step::Take => drop(guest.receive(&mut [0; 4096])),
            Step::Ask(which) => {
                let (_, ask) = Ask::NAMED[usize::from(which) % Ask::NAMED.len()];
                let asked = link.ask(number + 1, ask, Ticks(now + 100));
                assert_eq!(asked == Err(Failure::Busy), waits);
                if asked.is_ok() {
                    (number, waits) = (number + 1, true);
                }
            }
            Step::Look(later) => {
                now += u64::from(later);
                let Some(outcome) = link.look(number, Ticks(now)) else { continue };
                if !waits {
                    assert_eq!(outcome, Err(Failure::Gone));
                    continue;
                }
                waits = false;
                let shown = match outcome {
                    Ok(answer) => answer.kernel.unwrap_or_default() + &answer.addresses.concat(),
                    Err(why) => why.to_string(),
                };
                assert!(!shown.contains(char::is_control) && shown.len() <= 4 * LONGEST);
            }
        }
    }
    assert!(!waits || link.look(number, Ticks(now + 100)).is_some());
});
