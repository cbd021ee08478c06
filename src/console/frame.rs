//! Frames on the serial line: a record separator (0x1E), one line of JSON, a line feed (RFC 7464, "JSON
//! Text Sequences").
//!
//! A frame may begin at any time. Any other control character ends one that is not complete: whoever
//! pressed Ctrl-^ by mistake is out of it with the next Enter.

use alloc::vec::Vec;
use core::mem;

/// The record separator.
pub const START: u8 = 0x1e;
/// The longest text of a frame that is read, in bytes.
pub const LONGEST: usize = 1024;

/// What an input byte comes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// It belongs to a frame that is not complete.
    Taken,
    /// It completes a frame with this text.
    Frame(Vec<u8>),
    /// It ends a frame that is none, for this reason, and is taken.
    Broken(&'static str),
    /// It ends a frame that is none, and is itself to be looked at.
    BrokenBefore(&'static str, u8),
    /// It belongs to no frame.
    Byte(u8),
}

/// Finds frames among other bytes.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// The text so far, within a frame.
    text: Option<Vec<u8>>,
}

impl Frames {
    /// Looks at the next byte.
    pub fn feed(&mut self, byte: u8) -> Input {
        let Some(text) = &mut self.text else {
            if byte == START {
                self.text = Some(Vec::new());
                return Input::Taken;
            }
            return Input::Byte(byte);
        };
        match byte {
            b'\n' if text.len() > LONGEST => {
                self.text = None;
                Input::Broken("the frame is too long")
            }
            b'\n' => {
                let text = mem::take(text);
                self.text = None;
                Input::Frame(text)
            }
            // The rest of a frame that is too long is passed over, not kept.
            0x20.. => {
                if text.len() <= LONGEST {
                    text.push(byte);
                }
                Input::Taken
            }
            START => {
                text.clear();
                Input::Broken("another frame began before its end")
            }
            b'\r' => {
                self.text = None;
                Input::Broken("a control character is in the frame")
            }
            _ => {
                self.text = None;
                Input::BrokenBefore("a control character is in the frame", byte)
            }
        }
    }
}

/// `text` as a frame. It has no control characters, as JSON never has.
pub fn frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(text.len() + 2);
    frame.push(START);
    frame.extend(text.iter().filter(|byte| **byte >= 0x20));
    frame.push(b'\n');
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(frames: &mut Frames, bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>, usize) {
        let (mut found, mut rest, mut broken) = (Vec::new(), Vec::new(), 0);
        for byte in bytes {
            match frames.feed(*byte) {
                Input::Taken => {}
                Input::Frame(text) => found.push(text),
                Input::Broken(_) => broken += 1,
                Input::BrokenBefore(_, byte) => {
                    broken += 1;
                    rest.push(byte);
                }
                Input::Byte(byte) => rest.push(byte),
            }
        }
        (found, rest, broken)
    }

    #[test]
    fn a_frame_is_taken_out_of_what_is_typed() {
        let got = feed(&mut Frames::default(), b"ls\x1e{\"id\":1}\n -l\r");
        assert_eq!(got, (vec![b"{\"id\":1}".to_vec()], b"ls -l\r".to_vec(), 0));
    }

    #[test]
    fn a_frame_that_is_too_long_is_told_once_and_passed_over() {
        let mut bytes = vec![START];
        bytes.extend([b'x'; 5000]);
        bytes.extend(b"\nok");
        assert_eq!(feed(&mut Frames::default(), &bytes), (vec![], b"ok".to_vec(), 1));
        let longest = frame(&[b'x'; LONGEST]);
        assert_eq!(feed(&mut Frames::default(), &longest).0, [vec![b'x'; LONGEST]]);
    }

    #[test]
    fn a_control_character_ends_a_frame_and_enter_is_not_typed() {
        assert_eq!(feed(&mut Frames::default(), b"\x1eabc\rd"), (vec![], b"d".to_vec(), 1));
        assert_eq!(feed(&mut Frames::default(), b"\x1eabc\x01d"), (vec![], b"\x01d".to_vec(), 1));
        let got = feed(&mut Frames::default(), b"\x1eabc\x1e{}\n");
        assert_eq!(got, (vec![b"{}".to_vec()], vec![], 1));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn after_any_bytes_and_a_line_feed_the_next_frame_is_read(
            bytes in prop::collection::vec(prop_oneof![Just(START), Just(b'\n'), any::<u8>()], 0..crate::testing::pick(100, 30)),
        ) {
            let mut frames = Frames::default();
            feed(&mut frames, &bytes);
            feed(&mut frames, b"\n");
            prop_assert_eq!(feed(&mut frames, &frame(b"{}")), (vec![b"{}".to_vec()], vec![], 0));
        }
    }
}
