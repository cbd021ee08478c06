//! The way to one VM's agent: a channel's end, and what was asked by it and is not answered.
//!
//! Whoever asks looks again later whether there is an answer; nobody waits. The end is open as long as the VM exists, so that an
//! agent in Linux sleeps while there is nothing to read. What comes while nothing is asked stays in the channel until its room is
//! used up; then the guest waits, nobody else.
//!
//! Lock order: what was asked, then the channel.

use super::lines::Lines;
use super::{Ask, Asker, Failure, Outcome, message};
use crate::sync::TicketMutex;
use crate::time::Ticks;
use crate::virtio::console::channel::End;

/// How much is taken at one look, in bytes: some ten thousand instructions, the line it may end included.
const PIECE: usize = 256;

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Its number, which no other has.
    number: u32,
    /// How often the port had been opened.
    opened: u32,
    /// When nobody waits any more.
    until: Ticks,
    /// Who asked.
    who: Asker,
}

#[derive(Debug, Default)]
struct Talk {
    lines: Lines,
    asked: Option<Asked>,
    /// The number of the last request of a guest's that the console did not wait for.
    overtaken: Option<u32>,
}

/// The way to one VM's agent.
#[derive(Debug)]
pub struct Link {
    end: End,
    talk: TicketMutex<Talk>,
}

impl Link {
    /// By the channel's end `end`, which is open from now on.
    pub fn new(end: End) -> Self {
        end.watch();
        Self { end, talk: TicketMutex::default() }
    }

    /// Asks for something, under a number that was not used before; nobody waits longer than until `until`. The console does not
    /// wait for what a guest has asked: whoever answers in order finds its request next, and the guest is told.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn ask(&self, number: u32, ask: Ask, until: Ticks, who: Asker) -> Result<(), Failure> {
        let mut talk = self.talk.lock();
        let overtaken = match (talk.asked, who) {
            (None, _) => talk.overtaken,
            (Some(asked), Asker::Console) if asked.who == Asker::Guest => Some(asked.number),
            (Some(_), _) => return Err(Failure::Busy),
        };
        let opened = self.end.other_opened().ok_or(Failure::Absent)?;
        // What came before was asked by nobody, or too late.
        self.end.discard();
        talk.lines.clear();
        if !self.end.send_whole(message::request(number, ask).as_bytes()) {
            return Err(Failure::Full);
        }
        talk.asked = Some(Asked { number, opened, until, who });
        talk.overtaken = overtaken;
        Ok(())
    }

    /// Takes some of what has come: what became of request `number`, once that is known.
    pub fn look(&self, number: u32, now: Ticks) -> Option<Outcome> {
        let mut talk = self.talk.lock();
        let Some(asked) = talk.asked.filter(|asked| asked.number == number) else {
            let is_overtaken = talk.overtaken == Some(number);
            return Some(Err(if is_overtaken { Failure::Overtaken } else { Failure::Gone }));
        };
        let mut bytes = [0; PIECE];
        let count = self.end.receive(&mut bytes);
        let mut said = bytes.iter().take(count);
        let answer = said.find_map(|byte| message::read(talk.lines.feed(*byte)?, number));
        let outcome = answer.or_else(|| {
            // What was said before the port was closed is all taken first.
            let is_gone = count == 0 && self.end.other_opened() != Some(asked.opened);
            if is_gone {
                Some(Err(Failure::Gone))
            } else {
                (asked.until <= now).then_some(Err(Failure::Late))
            }
        })?;
        talk.asked = None;
        Some(outcome)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end.leave();
    }
}
