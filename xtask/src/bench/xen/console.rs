//! The guest's lines, out of those on Xen's console.
//!
//! Pure. Xen collects what a guest writes to its UART until the line is at its end or the buffer is full, and prints
//! that as a line of its own: the prefix, the piece, and `\r\n`. A payload ends its lines with `\r\n`, so that a piece
//! without a `\r` at its end is one that Xen has cut.

/// What Xen writes before a piece of the first domain's line.
const PREFIX: &[u8] = b"(XEN) DOM1: ";

/// What Xen says last of all when it has panicked.
const PANICKED: &[u8] = b"(XEN) Reboot in ";

/// The longest line that is looked at; the rest of a longer one is dropped.
const LONGEST_LINE: usize = 4096;

/// Why there is nothing more to wait for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// The guest has printed what was waited for.
    Until,
    /// Xen has panicked.
    Panic,
}

/// Xen's console.
pub struct Console<'a> {
    until: &'a str,
    /// The line that is not yet at its end.
    line: Vec<u8>,
    /// The pieces of the guest's line that is not yet at its end.
    piece: Vec<u8>,
    guest: String,
    /// All lines, for errors.
    all: String,
    stop: Option<Stop>,
}

impl<'a> Console<'a> {
    /// Waits for a line of the guest's that has `until` in it.
    pub fn new(until: &'a str) -> Self {
        let (line, piece) = (Vec::new(), Vec::new());
        Self { until, line, piece, guest: String::new(), all: String::new(), stop: None }
    }

    /// Takes a chunk; says whether there is anything more to wait for. What comes after the end is dropped.
    pub fn feed(&mut self, chunk: &[u8]) -> Option<Stop> {
        for &byte in chunk {
            if self.stop.is_some() {
                break;
            }
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.read(line.strip_suffix(b"\r").unwrap_or(&line));
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(byte);
            }
        }
        self.stop
    }

    /// Why there is nothing more to wait for.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// What the guest has printed, in whole lines.
    pub fn into_guest(self) -> String {
        self.guest
    }

    /// The last lines, Xen's and the guest's.
    pub fn last_lines(&self, count: usize) -> String {
        let lines: Vec<_> = self.all.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    fn read(&mut self, line: &[u8]) {
        self.all.push_str(String::from_utf8_lossy(line).trim_end());
        self.all.push('\n');
        if line.starts_with(PANICKED) {
            self.stop = Some(Stop::Panic);
        }
        let Some(piece) = line.strip_prefix(PREFIX) else { return };
        let Some(end) = piece.strip_suffix(b"\r") else {
            self.piece.extend_from_slice(piece);
            return;
        };
        self.piece.extend_from_slice(end);
        let line = std::mem::take(&mut self.piece);
        let line = String::from_utf8_lossy(&line);
        self.guest.push_str(&line);
        self.guest.push('\n');
        if line.contains(self.until) {
            self.stop = Some(Stop::Until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Console, Stop};

    fn read(text: &str, chunk: usize) -> (Option<Stop>, String) {
        let mut console = Console::new("GUEST-TEST:");
        for piece in text.as_bytes().chunks(chunk) {
            console.feed(piece);
        }
        (console.stop(), console.into_guest())
    }

    #[test]
    fn the_guests_lines_lose_their_prefix_and_xens_own_are_left_out() {
        let text = "(XEN) Freed 348kB init memory.\r\n(XEN) DOM1: hello\r\r\n\
                    (XEN) d1v0: vGICD: unhandled word write\r\n(XEN) DOM1: \r\r\n\
                    (XEN) DOM1: GUEST-TEST: ok\r\r\n(XEN) DOM1: more\r\r\n";
        for chunk in [1, 2, 7, 1000] {
            let lines = "hello\n\nGUEST-TEST: ok\n".to_owned();
            assert_eq!(read(text, chunk), (Some(Stop::Until), lines), "chunks of {chunk}");
        }
    }

    #[test]
    fn a_line_that_xen_has_cut_is_whole_again() {
        let text = "(XEN) DOM1: one, \r\n(XEN) d1v0: a warning\r\n(XEN) DOM1: two GUEST-\r\n\
                    (XEN) DOM1: TEST: ok\r\r\n";
        let line = "one, two GUEST-TEST: ok\n".to_owned();
        assert_eq!(read(text, 5), (Some(Stop::Until), line));
    }

    #[test]
    fn only_the_guest_can_say_what_is_waited_for_and_only_in_a_whole_line() {
        for text in ["(XEN) GUEST-TEST: ok\r\n", "GUEST-TEST: ok\r\n", "(XEN) DOM1: GUEST-TEST: ok"]
        {
            assert_eq!(read(text, 100), (None, String::new()), "{text}");
        }
    }

    #[test]
    fn xens_panic_ends_it_and_its_reason_is_among_the_last_lines() {
        let text = "(XEN) Panic on CPU 0:\r\n(XEN) Unable to copy the kernel\r\n(XEN) \r\n\
                    (XEN) Reboot in five seconds...\r\n";
        let mut console = Console::new("x");
        assert_eq!(console.feed(text.as_bytes()), Some(Stop::Panic));
        assert!(console.last_lines(3).starts_with("(XEN) Unable to copy the kernel\n"));
    }
}
