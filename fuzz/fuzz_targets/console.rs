//! Any bytes typed and any sent by guests, with a line that takes what it likes: frames, escape key, line
//! editor and multiplexer. Everything that is answered is answered in whole frames, and guests begin
//! none. What waits for a line that takes nothing is bounded.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use plinth::console::Settings;
use plinth::console::mux::{Event, Mux, View};
use plinth::sched::VmId;

#[derive(Arbitrary, Debug)]
enum Step {
    Type(Vec<u8>),
    /// The same again and again, as long as input is wanted.
    Hammer(Vec<u8>, u16),
    Focus(bool),
    Settled(u8),
    Send(u8, Vec<u8>),
    Receive(u8),
    Drain(u16),
    Refuse,
    Wait(u16),
    Attach(u8),
    Detach(u8),
    Log(u8),
}

/// What a command answers.
const ANSWER: &str = "done\n";
/// 16 KiB of answers, and what one more key, frame or command adds.
const MOST_QUEUED: usize = (16 << 10) + 2048;

/// Types as a UART does: what is not wanted now stays there, and here is dropped.
fn type_in(mux: &mut Mux, bytes: &[u8], now: Duration) {
    for byte in bytes {
        if mux.wants_input(now) {
            mux.input(*byte, now);
        }
    }
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (terminal, steps) = input;
    let mut mux = Mux::new(Settings { terminal, scrollback: 1 << 10, ..Settings::default() });
    let mut now = Duration::ZERO;
    let mut out = Vec::new();
    mux.attach(VmId(0), "one");
    mux.attach(VmId(1), "two");
    for step in steps {
        match step {
            Step::Type(bytes) => type_in(&mut mux, &bytes, now),
            Step::Hammer(bytes, times) => {
                for _ in 0..times % 1024 {
                    type_in(&mut mux, &bytes, now);
                }
            }
            Step::Focus(all) => mux.view_as(if all { View::All } else { View::Focus }, now),
            Step::Settled(alive) => {
                mux.leave_the_dead(now, |id| alive >> id.0 & 1 != 0);
                mux.unfinished(now).into_iter().for_each(|id| mux.ripen(id, alive & 16 != 0, now));
            }
            Step::Send(id, bytes) => {
                let id = VmId(u16::from(id % 4));
                let _ = bytes.iter().take_while(|byte| mux.send(id, **byte, now)).count();
            }
            Step::Receive(id) => drop(mux.receive(VmId(u16::from(id % 4)))),
            Step::Drain(count) => {
                for _ in 0..count {
                    let Some(byte) = mux.next(now) else { break };
                    out.push(byte);
                    mux.sent();
                }
            }
            Step::Refuse => mux.refused(now),
            Step::Wait(millis) => now += Duration::from_millis(millis.into()),
            Step::Attach(id) => mux.attach(VmId(u16::from(id % 4)), "any"),
            Step::Detach(id) => mux.detach(VmId(u16::from(id % 4))),
            Step::Log(number) => mux.log(format_args!("plinth [] {number}\n")),
        }
        while let Some(event) = mux.take_event() {
            match event {
                Event::Command(_) => {
                    mux.answer(ANSWER);
                    mux.done();
                }
                Event::Request(_) => mux.reply(b"{}"),
                Event::End(_) => {}
            }
        }
        while mux.take_attention(now).is_some() {}
        let _ = mux.deadline(now);
        assert!(mux.queued() <= MOST_QUEUED, "{} bytes wait", mux.queued());
    }
    for frame in out.split(|byte| *byte == 0x1e).skip(1) {
        assert!(frame.first().is_none_or(|byte| *byte == b'{'));
    }
});
