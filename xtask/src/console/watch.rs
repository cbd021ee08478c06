//! What is looked for in the console's output while it passes.
//!
//! Pure: chunks of any size in, bytes to show out. The hypervisor's own lines start with
//! `plinth: `; a guest can print such lines too, so only the last power-off line counts, and the
//! hypervisor prints that when no guest runs any more.

use crate::symbols::Symbols;

/// The longest line that is looked at; the rest of a longer one passes unread.
const LONGEST_LINE: usize = 4096;

/// What the hypervisor said last of all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LastWords {
    /// `plinth: power off (ok)`.
    Ok,
    /// `plinth: power off (failed: REASON)`.
    Failed(String),
}

/// Watches one console.
pub struct Watch<'a> {
    until: Option<&'a [u8]>,
    symbols: Option<&'a Symbols>,
    /// The end of what came before, as long as a match could begin in it.
    tail: Vec<u8>,
    line: Vec<u8>,
    last_words: Option<LastWords>,
}

impl<'a> Watch<'a> {
    /// Looks for `until` and names addresses with `symbols`.
    pub fn new(until: Option<&'a str>, symbols: Option<&'a Symbols>) -> Self {
        let until = until.map(str::as_bytes);
        Self { until, symbols, tail: Vec::new(), line: Vec::new(), last_words: None }
    }

    /// The last power-off line so far.
    pub fn last_words(&self) -> Option<&LastWords> {
        self.last_words.as_ref()
    }

    /// Takes a chunk, appends what the user shall see to `show`, and says whether the awaited text
    /// is there.
    pub fn feed(&mut self, chunk: &[u8], show: &mut Vec<u8>) -> bool {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            show.extend_from_slice(piece);
            let room = LONGEST_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
                self.line.clear();
                self.read(&line, show);
            }
        }
        self.found(chunk)
    }

    /// Looks at the last line when it was cut off without an end.
    pub fn finish(&mut self) {
        let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        self.read(&line, &mut Vec::new());
    }

    fn read(&mut self, line: &str, show: &mut Vec<u8>) {
        // Where the monitor's prompt stood, the line was erased first (ECMA-48, "EL").
        let line = line.rsplit("\x1b[K").next().unwrap_or_default();
        if let Some(words) = line.strip_prefix("plinth: power off (") {
            let words = words.strip_suffix(')').unwrap_or(words);
            self.last_words = Some(match words {
                "ok" => LastWords::Ok,
                _ => LastWords::Failed(words.trim_start_matches("failed: ").to_owned()),
            });
        }
        // The hypervisor prints the address of the call, not that of the instruction after it.
        if let (Some(offset), Some(symbols)) = (backtrace(line), self.symbols) {
            for name in symbols.describe(offset) {
                show.extend_from_slice(format!("        {name}\r\n").as_bytes());
            }
        }
    }

    fn found(&mut self, chunk: &[u8]) -> bool {
        let Some(until) = self.until else { return false };
        if until.is_empty() {
            return true;
        }
        self.tail.extend_from_slice(chunk);
        let found = self.tail.windows(until.len()).any(|window| window == until);
        let keep = self.tail.len().min(until.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
        found
    }
}

/// The offset in a line `plinth: backtrace #N +0xOFFSET`.
fn backtrace(line: &str) -> Option<u64> {
    let (number, offset) = line.strip_prefix("plinth: backtrace #")?.split_once(" +0x")?;
    let offset = offset.split_whitespace().next()?;
    number.parse::<u32>().ok()?;
    u64::from_str_radix(offset, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{LastWords, Watch, backtrace};

    fn watch(text: &str, until: Option<&str>, chunk: usize) -> (bool, Option<LastWords>) {
        let mut watch = Watch::new(until, None);
        let mut shown = Vec::new();
        let mut found = false;
        for piece in text.as_bytes().chunks(chunk) {
            found |= watch.feed(piece, &mut shown);
        }
        watch.finish();
        assert_eq!(shown, text.as_bytes(), "everything is shown");
        (found, watch.last_words().cloned())
    }

    #[test]
    fn the_awaited_text_is_found_across_any_chunks() {
        let text = "noise\r\nplinth-plinth-guest-ready 42004\r\n# ";
        for chunk in 1..text.len() {
            assert!(watch(text, Some("plinth-guest-ready 42004"), chunk).0, "chunks of {chunk}");
            assert!(!watch(text, Some("plinth-guest-ready 42005"), chunk).0);
        }
    }

    #[test]
    fn the_last_power_off_line_counts_because_a_guest_can_print_one_too() {
        let text = "plinth: power off (ok)\r\nmore\r\nplinth: power off (failed: vm a: crash)\r\n";
        for chunk in [1, 7, 200] {
            let words = Some(LastWords::Failed("vm a: crash".to_owned()));
            assert_eq!(watch(text, None, chunk).1, words);
        }
    }

    #[test]
    fn a_power_off_line_must_start_its_line() {
        assert_eq!(watch("a: plinth: power off (ok)\n", None, 9).1, None);
        assert_eq!(watch("plinth: power off (ok)", None, 9).1, Some(LastWords::Ok));
    }

    #[test]
    fn the_power_off_line_is_read_where_the_prompt_was_erased_for_it() {
        let text =
            "\r\x1b[Kplinth> poweroff\r\nok\r\n\r\x1b[Kplinth> \r\x1b[Kplinth: power off (ok)\r\n";
        assert_eq!(watch(text, None, 5).1, Some(LastWords::Ok));
    }

    #[test]
    fn an_endless_line_takes_no_more_memory_than_its_limit() {
        let mut watch = Watch::new(Some("zz"), None);
        for _ in 0..100 {
            watch.feed(&[b'x'; 1000], &mut Vec::new());
        }
        assert!(watch.line.len() <= super::LONGEST_LINE && watch.tail.len() <= 1);
    }

    #[test]
    fn backtrace_lines_have_a_number_and_an_offset() {
        assert_eq!(backtrace("plinth: backtrace #3 +0x1f4"), Some(0x1f4));
        assert_eq!(backtrace("plinth: backtrace #3 +0x"), None);
        assert_eq!(backtrace("guest: plinth: backtrace #3 +0x1"), None);
    }
}
