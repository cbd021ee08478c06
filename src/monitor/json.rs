//! The monitor's machine-readable twin: what stands in a frame (see [`crate::console::frame`]).

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::reply::Reply;
use crate::console::frame;

/// The longest answer, in bytes.
const LONGEST: usize = 512 << 10;
/// How many arrays and objects a request may have: a reader that passes them over goes as deep as they
/// are nested.
const MOST_NESTED: usize = 16;

/// What a frame asks for. Other members are passed over.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Request {
    /// The asker's own number for it, which the answer has as well.
    pub id: u64,
    /// A command as the shell takes it.
    pub command: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    id: u64,
    ok: bool,
    result: &'a Reply,
}

#[derive(Serialize)]
struct Refused<'a> {
    id: Option<u64>,
    ok: bool,
    error: &'a str,
}

/// Reads a frame's text.
///
/// # Errors
/// The answer that says why it is no request.
#[inline(never)] // several ask
pub fn request(text: &[u8]) -> Result<Request, String> {
    read(text).map_err(|why| refusal(id_of(text), &why))
}

/// The number of a request, if that much of it can be read.
#[inline(never)] // as above
pub fn id_of(text: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Id {
        id: u64,
    }
    read::<Id>(text).ok().map(|request| request.id)
}

/// The answer to request `id`.
pub fn answer(id: u64, reply: &Reply) -> String {
    write(&Answer { id, ok: true, result: reply })
        .unwrap_or_else(|| refusal(Some(id), "the answer is too long"))
}

/// The answer that request `id` is refused; `None` where that could not be read.
pub fn refusal(id: Option<u64>, why: &str) -> String {
    write(&Refused { id, ok: false, error: why }).unwrap_or_default()
}

/// Reads what is not nested deeply.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    if text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() > MOST_NESTED {
        return Err(String::from("too many arrays and objects"));
    }
    let mut unescaped = alloc::vec![0; text.len().min(frame::LONGEST)];
    let read = serde_json_core::from_slice_escaped(text, &mut unescaped);
    read.map(|(value, _)| value).map_err(|error| error.to_string())
}

/// As one line; `None` when it is too long.
fn write(value: &impl Serialize) -> Option<String> {
    let mut buffer = Vec::new();
    let mut size = 1 << 10;
    while size <= LONGEST {
        buffer.try_reserve_exact(size - buffer.len()).ok()?;
        buffer.resize(size, 0);
        if let Ok(length) = serde_json_core::to_slice(value, &mut buffer) {
            buffer.truncate(length);
            return String::from_utf8(buffer).ok();
        }
        size *= 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_number_and_a_command() {
        let read = request(br#"{"id": 7, "command": "vm list", "more": [1, {"x": null}]}"#);
        assert_eq!(read, Ok(Request { id: 7, command: "vm list".into() }));
    }

    #[test]
    fn what_is_no_request_is_refused_with_its_number_where_it_has_one() {
        for (text, start) in [
            (&b"nonsense"[..], r#"{"id":null,"ok":false,"error":""#),
            (b"", r#"{"id":null,"ok":false,"error":""#),
            (b"\xff\xfe", r#"{"id":null,"ok":false,"error":""#),
            (br#"{"id":-1,"command":"cpu"}"#, r#"{"id":null,"ok":false,"error":""#),
            (br#"{"id":5,"command":7}"#, r#"{"id":5,"ok":false,"error":""#),
            (&[b'['; 1000], r#"{"id":null,"ok":false,"error":""#),
            (br#"{"id":5}"#, r#"{"id":5,"ok":false,"error":""#),
        ] {
            let refused = request(text).unwrap_err();
            assert!(refused.starts_with(start), "{refused}");
        }
    }

    #[test]
    fn a_command_may_have_escaped_characters() {
        let read = request(br#"{"id":1,"command":"vm\u0020list\t\"x\""}"#).unwrap();
        assert_eq!(read.command, "vm list\t\"x\"");
    }

    #[test]
    fn an_answer_is_one_line_whatever_it_says() {
        assert_eq!(answer(7, &Reply::Done), r#"{"id":7,"ok":true,"result":null}"#);
        let text = refusal(Some(1), "two\nlines \x1e \"quoted\"");
        assert!(!text.contains(|c: char| c.is_control()), "{text}");
    }
}
