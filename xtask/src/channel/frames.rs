//! Takes the monitor's frames out of the console's output (RFC 7464, "JSON Text Sequences"): a record
//! separator (0x1E), a JSON text on one line, a line feed.
//!
//! Pure: chunks of any size in, pieces out. Whatever is no whole frame is shown after all, with a note:
//! a frame that never ends must not hide what the console says.

/// The record separator.
pub use plinth::console::frame::START;

/// The longest text of a frame, in bytes. What goes on beyond it is no frame.
pub const LONGEST: usize = 256 << 10;

/// What stands before the text of a frame that was cut off.
pub const NOTE: &[u8] = b"\r\n[xtask: a reply of the hypervisor was cut off]\r\n";

/// A part of the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Piece<'a> {
    /// For the console.
    Console(&'a [u8]),
    /// The text of a frame.
    Frame(&'a [u8]),
}

/// Takes frames out of one stream.
#[derive(Debug, Default)]
pub struct Splitter {
    /// The text so far, within a frame.
    frame: Option<Vec<u8>>,
}

impl Splitter {
    /// Hands on what a chunk completes.
    pub fn feed(&mut self, mut chunk: &[u8], mut each: impl FnMut(Piece<'_>)) {
        while !chunk.is_empty() {
            let Some(text) = &mut self.frame else {
                let start = chunk.iter().position(|byte| *byte == START);
                let (console, rest) = chunk.split_at(start.unwrap_or(chunk.len()));
                if !console.is_empty() {
                    each(Piece::Console(console));
                }
                if let Some((_, rest)) = rest.split_first() {
                    self.frame = Some(Vec::new());
                    chunk = rest;
                    continue;
                }
                return;
            };
            let end = chunk.iter().position(|byte| *byte < b' ').unwrap_or(chunk.len());
            let room = LONGEST - text.len();
            let (more, rest) = chunk.split_at(end.min(room));
            text.extend_from_slice(more);
            chunk = rest;
            match chunk.first() {
                None => {}
                Some(b'\n') => {
                    each(Piece::Frame(text));
                    self.frame = None;
                    chunk = &chunk[1..];
                }
                // A control character, which JSON never has, or no more room.
                Some(_) => self.cut(&mut each),
            }
        }
    }

    /// The output has ended.
    pub fn finish(&mut self, mut each: impl FnMut(Piece<'_>)) {
        self.cut(&mut each);
    }

    fn cut(&mut self, each: &mut impl FnMut(Piece<'_>)) {
        if let Some(text) = self.frame.take()
            && !text.is_empty()
        {
            each(Piece::Console(NOTE));
            each(Piece::Console(&text));
        }
    }
}

/// `text` as a frame.
pub fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![START];
    frame.extend(text.bytes().filter(|byte| *byte >= b' '));
    frame.push(b'\n');
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::Config;

    use super::{LONGEST, NOTE, Piece, START, Splitter, frame};

    /// What is shown, and the frames, of a stream that comes in chunks of these sizes.
    fn split(bytes: &[u8], sizes: &[usize]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut shown, mut frames) = (Vec::new(), Vec::new());
        let mut each = |piece: Piece<'_>| match piece {
            Piece::Console(bytes) => shown.extend_from_slice(bytes),
            Piece::Frame(text) => frames.push(text.to_vec()),
        };
        let mut splitter = Splitter::default();
        let mut rest = bytes;
        for size in sizes.iter().cycle() {
            let (chunk, later) = rest.split_at(rest.len().min(*size.max(&1)));
            splitter.feed(chunk, &mut each);
            assert!(splitter.frame.as_ref().is_none_or(|text| text.len() <= LONGEST));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        splitter.finish(&mut each);
        (shown, frames)
    }

    fn noted(before: &str, cut: &str) -> Vec<u8> {
        [before.as_bytes(), NOTE, cut.as_bytes()].concat()
    }

    #[test]
    fn a_frame_in_the_middle_of_a_line_leaves_no_trace_in_it() {
        let bytes = [b"log".as_slice(), &frame("{\"id\":1}"), b"in: \r\n"].concat();
        let want = (b"login: \r\n".to_vec(), vec![b"{\"id\":1}".to_vec()]);
        assert_eq!(split(&bytes, &[1000]), want);
    }

    #[test]
    fn what_a_control_character_or_the_end_cuts_off_is_shown_with_a_note() {
        let cut = split(b"a\x1e{\"id\r\nplinth: panic\r\n", &[3]);
        assert_eq!(cut, (noted("a", "{\"id\r\nplinth: panic\r\n"), vec![]));
        let next = split(b"a\x1e{\"id\x1e{}\nb", &[3]);
        assert_eq!(next, (noted("a", "{\"idb"), vec![b"{}".to_vec()]));
        assert_eq!(split(b"a\x1e{\"id", &[3]), (noted("a", "{\"id"), vec![]));
    }

    #[test]
    fn a_frame_that_is_too_long_is_shown_and_the_next_one_is_read() {
        let long = "x".repeat(LONGEST + 1);
        let bytes = [frame(&long), frame("{}")].concat();
        assert_eq!(split(&bytes, &[4096]), (noted("", &(long + "\n")), vec![b"{}".to_vec()]));
        let longest = "x".repeat(LONGEST);
        assert_eq!(split(&frame(&longest), &[4096]), (vec![], vec![longest.into_bytes()]));
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let byte =
            prop_oneof![4 => Just(START), 4 => Just(b'\n'), 1 => Just(b'\r'), 9 => any::<u8>()];
        prop::collection::vec(byte, 0..200)
    }

    proptest! {
        #![proptest_config(Config { cases: 256, failure_persistence: None, ..Config::default() })]

        #[test]
        fn the_size_of_chunks_makes_no_difference(
            bytes in stream(),
            sizes in prop::collection::vec(1usize..20, 1..10),
        ) {
            prop_assert_eq!(split(&bytes, &sizes), split(&bytes, &[bytes.len().max(1)]));
        }

        #[test]
        fn nothing_is_lost_but_separators_and_the_line_feeds_of_frames(bytes in stream()) {
            let (mut shown, frames) = split(&bytes, &[7]);
            let kept = |bytes: &[u8]| bytes.iter().filter(|byte| **byte != START).count();
            while let Some(at) = shown.windows(NOTE.len()).position(|window| window == NOTE) {
                shown.drain(at..at + NOTE.len());
            }
            let framed: usize = frames.iter().map(|text| text.len() + 1).sum();
            prop_assert_eq!(kept(&bytes), shown.len() + framed);
        }

        #[test]
        fn after_any_bytes_and_a_line_feed_the_next_frame_is_read(bytes in stream()) {
            let all = [bytes.as_slice(), b"\n", &frame("{}")].concat();
            let frames = split(&all, &[5]).1;
            prop_assert_eq!(frames.last().map(Vec::as_slice), Some(&b"{}"[..]));
        }
    }
}
