//! A guest at the other end of the way to its agent: it says anything, at any time, and opens and closes its end as it likes. Every
//! request ends, and what is shown of an answer does nothing to a terminal.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use plinth::monitor::agent::{Ask, Asker, Failure, LONGEST, Link};
use plinth::time::Ticks;
use plinth::virtio::console::channel::End;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Open(bool),
    Say(&'a [u8]),
    /// An answer to the last request, with this after `ok` or `error`.
    Answer(bool, &'a str),
    Take,
    /// By the console, or by a guest.
    Ask(u8, bool),
    Look(u8),
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let [guest, monitor] = End::pair();
    guest.watch();
    let link = Link::new(monitor);
    // Who waits, and the guest's request that the console has overtaken last.
    let (mut number, mut now, mut waits, mut overtaken) = (0, 0, None, None);
    for step in steps {
        match step {
            Step::Open(open) => guest.set_open(open),
            Step::Say(bytes) => drop(guest.send(bytes)),
            Step::Answer(ok, text) => {
                let what = if ok { "ok" } else { "error" };
                guest.send(format!("{{\"id\":{number},\"{what}\":{text}}}\n").as_bytes());
            }
            Step::Take => drop(guest.receive(&mut [0; 4096])),
            Step::Ask(which, console) => {
                let who = if console { Asker::Console } else { Asker::Guest };
                let (_, ask) = Ask::NAMED[usize::from(which) % Ask::NAMED.len()];
                let asked = link.ask(number + 1, ask, Ticks(now + 100), who);
                let is_first = who == Asker::Console && waits == Some(Asker::Guest);
                assert_eq!(asked == Err(Failure::Busy), waits.is_some() && !is_first);
                if asked.is_ok() {
                    overtaken = waits.map_or(overtaken, |_| Some(number));
                    (number, waits) = (number + 1, Some(who));
                }
            }
            Step::Look(later) => {
                now += u64::from(later);
                if let Some(number) = overtaken {
                    assert_eq!(link.look(number, Ticks(now)), Some(Err(Failure::Overtaken)));
                }
                let Some(outcome) = link.look(number, Ticks(now)) else { continue };
                if waits.is_none() {
                    assert_eq!(outcome, Err(Failure::Gone));
                    continue;
                }
                waits = None;
                let shown = match outcome {
                    Ok(answer) => answer.kernel.unwrap_or_default() + &answer.addresses.concat(),
                    Err(why) => why.to_string(),
                };
                assert!(!shown.contains(char::is_control) && shown.len() <= 4 * LONGEST);
            }
        }
    }
    assert!(waits.is_none() || link.look(number, Ticks(now + 100)).is_some());
});
