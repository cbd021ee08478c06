//! What of a guest's output may stand on a line that others share.
//!
//! Printable characters and tabs go through. Control characters and escape sequences (ECMA-48) do not:
//! they could move the cursor into another's line, change how it looks, or make the terminal answer. A
//! backspace goes through as far as it stays behind the guest's prefix, and a carriage return begins the
//! line anew, prefix included. What is no UTF-8 shows as U+FFFD.

use alloc::vec::Vec;

use super::sequence::{Part, Sequence};

/// One guest's place on its line.
#[derive(Clone, Debug, Default)]
pub struct Cleaner {
    sequence: Sequence,
    /// The first bytes of a character.
    partial: Vec<u8>,
    /// How many cells a backspace may go back: those of ASCII characters since the prefix.
    column: usize,
    /// A carriage return came, and no line feed yet.
    returned: bool,
}

/// How a line is begun again after a carriage return.
#[derive(Clone, Copy, Debug)]
pub struct Restart<'a> {
    /// The guest's name as it stands before each of its lines.
    pub prefix: &'a [u8],
    /// On a terminal the line is cleared; elsewhere a new one begins.
    pub terminal: bool,
}

impl Cleaner {
    /// Takes a byte of the guest's, and appends to `out` what shows. True at the end of a line, which
    /// is the caller's to write.
    pub fn feed(&mut self, byte: u8, restart: Restart<'_>, out: &mut Vec<u8>) -> bool {
        if byte == b'\n' {
            // Also ends whatever sequence was left open, so that nothing hides the next line.
            self.cut(out);
            *self = Self::default();
            return true;
        }
        if !matches!(self.sequence.feed(byte), Part::Within | Part::Last) {
            self.ground(byte, restart, out);
        }
        false
    }

    /// The guest goes on upon a new line, behind a prefix.
    pub const fn move_to_new_line(&mut self) {
        self.column = 0;
        self.returned = false;
    }

    /// Whether the guest is in the middle of an escape sequence.
    pub fn is_in_sequence(&self) -> bool {
        self.sequence.is_open()
    }

    fn ground(&mut self, byte: u8, restart: Restart<'_>, out: &mut Vec<u8>) {
        if byte < 0x80 {
            self.cut(out);
        }
        match byte {
            b'\r' => self.returned = true,
            // Only on a terminal does it go back.
            0x08 if self.column > 0 && !self.returned && restart.terminal => {
                self.column -= 1;
                out.push(byte);
            }
            b'\t' | 0x20..=0x7e => {
                self.begin_again(restart, out);
                // How far a tab goes nobody knows here.
                self.column = if byte == b'\t' { 0 } else { self.column + 1 };
                out.push(byte);
            }
            0x80.. => {
                self.begin_again(restart, out);
                self.character(byte, out);
            }
            _ => {}
        }
    }

    fn begin_again(&mut self, restart: Restart<'_>, out: &mut Vec<u8>) {
        if core::mem::take(&mut self.returned) {
            out.extend_from_slice(if restart.terminal { b"\r\x1b[K" } else { b"\r\n" });
            out.extend_from_slice(restart.prefix);
            self.column = 0;
        }
    }

    /// A byte of a character beyond ASCII.
    fn character(&mut self, byte: u8, out: &mut Vec<u8>) {
        if !(0x80..0xc0).contains(&byte) {
            self.cut(out);
        }
        self.partial.push(byte);
        match core::str::from_utf8(&self.partial) {
            // Control characters of the upper half, and marks that turn the direction of writing.
            Ok(text) if text.contains(|c: char| c.is_control() || is_direction(c)) => self.cut(out),
            Ok(_) => out.append(&mut self.partial),
            Err(error) if error.error_len().is_some() => self.cut(out),
            Err(_) => {}
        }
    }

    /// A character that is never completed, or must not show.
    fn cut(&mut self, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.partial.clear();
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Unicode Standard Annex #9, "Explicit Directional Embeddings", "Overrides" and "Isolates"; and the
/// separators of lines and paragraphs.
const fn is_direction(c: char) -> bool {
    matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RESTART: Restart<'_> = Restart { prefix: b"[a] ", terminal: true };

    /// What shows of `bytes`, each line's end as a line feed.
    fn shown(bytes: &[u8]) -> String {
        let mut cleaner = Cleaner::default();
        let mut out = Vec::new();
        for byte in bytes {
            if cleaner.feed(*byte, RESTART, &mut out) {
                out.push(b'\n');
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn text_goes_through_and_sequences_do_not() {
        assert_eq!(shown("tab\tand größe 漢字\r\n".as_bytes()), "tab\tand größe 漢字\n");
        assert_eq!(
            shown(b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b]2;t\x1b\\y\x1b(Bz"),
            "red xyz"
        );
        assert_eq!(shown(b"a\x07\x00\x0b\x0c\x0e\x1e\x7fb"), "ab");
    }

    #[test]
    fn an_open_sequence_hides_nothing_of_the_next_line() {
        assert_eq!(shown(b"\x1b]0;never ended\nnext\x1b[12\nlast"), "\nnext\nlast");
    }

    #[test]
    fn upper_control_characters_and_broken_text_show_as_replacements() {
        assert_eq!(shown(b"\xc2\x9b2J"), "\u{fffd}2J");
        assert_eq!(shown(b"\x9b2J"), "\u{fffd}2J");
        assert_eq!(shown(b"\xe2\x82x\xff\xe2\x80\xae."), "\u{fffd}x\u{fffd}\u{fffd}.");
    }

    #[test]
    fn a_backspace_stays_behind_the_prefix() {
        assert_eq!(shown(b"ab\x08\x08\x08\x08c"), "ab\x08\x08c");
        assert_eq!(shown("e\u{301}\u{301}\x08\x08\x08".as_bytes()), "e\u{301}\u{301}\x08");
    }

    #[test]
    fn a_carriage_return_begins_the_line_again_with_its_prefix() {
        assert_eq!(shown(b"10%\r20%\r\n"), "10%\r\x1b[K[a] 20%\n");
        assert_eq!(shown(b"end\r\r\n"), "end\n");
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn whatever_a_guest_sends_only_its_own_line_can_change(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = shown(&bytes).replace("\r\x1b[K[a] ", "");
            let mut column = 0usize;
            for c in text.chars() {
                match c {
                    '\n' => column = 0,
                    '\t' => {}
                    '\x08' => {
                        prop_assert!(column > 0);
                        column -= 1;
                    }
                    c => {
                        prop_assert!(!c.is_control(), "{c:?}");
                        column += 1;
                    }
                }
            }
        }
    }
}
