//! Requests and answers as lines.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use super::{Answer, Ask, Failure, Outcome};
use crate::monitor::json;

/// The longest text that an answer has, in characters.
const MAX_TEXT: usize = 100;
/// The most addresses that an answer has.
const MAX_ADDRESSES: usize = 8;

/// A request, with its line feed. Answers to it have its number.
pub fn request(number: u32, ask: Ask) -> String {
    format!("{{\"id\":{number},\"do\":\"{}\"}}\n", ask.name())
}

/// What an agent says. Other members are passed over.
#[derive(Deserialize)]
struct Said {
    ok: Option<Facts>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Facts {
    version: Option<u32>,
    kernel: Option<String>,
    uptime: Option<u64>,
    memory: Option<u64>,
    available: Option<u64>,
    #[serde(default)]
    addresses: Vec<String>,
}

/// What a line says to request `number`; `None` when it is no answer to that.
#[inline(never)] // what it puts on the stack is not to be there while commands are carried out
pub fn read(line: &[u8], number: u32) -> Option<Outcome> {
    if json::id_of(line) != Some(number.into()) {
        return None;
    }
    Some(match json::read(line) {
        Ok(Said { ok: Some(facts), error: None }) => Ok(facts.into()),
        Ok(Said { ok: None, error: Some(why) }) => Err(Failure::Refused(tame(&why))),
        _ => Err(Failure::Garbled),
    })
}

impl From<Facts> for Answer {
    fn from(facts: Facts) -> Self {
        let addresses = facts.addresses.iter().take(MAX_ADDRESSES).map(|text| tame(text));
        Self {
            version: facts.version,
            kernel: facts.kernel.as_deref().map(tame),
            uptime: facts.uptime,
            memory: facts.memory,
            available: facts.available,
            addresses: addresses.collect(),
        }
    }
}

/// A text that does nothing to the terminal that shows it: no control characters, and none that change the direction of
/// writing.
fn tame(text: &str) -> String {
    let is_wild = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let tamed = text.chars().take(MAX_TEXT).map(|c| if is_wild(c) { '\u{fffd}' } else { c });
    tamed.collect()
}
