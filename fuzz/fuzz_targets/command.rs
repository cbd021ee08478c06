//! Any line for the command parser, and any text of a frame. A line is a command or an error that says
//! why; a frame is a request or gets an answer of one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plinth::monitor::command::Command;
use plinth::monitor::json;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(line) = core::str::from_utf8(bytes)
        && let Err(error) = line.parse::<Command>()
    {
        assert!(!error.to_string().is_empty());
    }
    match json::request(bytes) {
        Ok(request) => drop(request.command.parse::<Command>()),
        Err(refusal) => assert!(!refusal.is_empty() && !refusal.contains(char::is_control)),
    }
});
