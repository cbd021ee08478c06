//! What is done about a terminal that a guest has written to as it likes (ECMA-48, and xterm's "Control
//! Sequences").
//!
//! A guest that is shown as it is may leave the terminal in any state: invisible characters, another
//! screen, half an escape sequence. Before the hypervisor writes there it takes that back. And what a
//! guest sent long ago is not to make the terminal answer now, as answers arrive as if they were typed.

use alloc::vec::Vec;

use super::sequence::{Part, Sequence};

/// So that a line of the hypervisor's shows among the guest's output: whatever sequence is open ends
/// (CAN; ST, for strings), characters are ASCII and visible.
pub const CALM: &[u8] = b"\x18\x1b\\\x0f\x1b(B\x1b[0m\x1b[?25h";

/// So that somebody else has the terminal: the normal screen as well, and the modes of a terminal that
/// was switched on. Returning to the normal screen brings back a cursor, thus it is saved before, and
/// how characters were shown, thus that is reset after it.
pub const RESET: &[u8] = b"\x18\x1b\\\x1b7\x1b[?1049l\x1b[!p\x0f\x1b(B\x1b[0m\x1b[?25h\
                           \x1b[?1000;1002;1003;1004;1006;2004l";

/// The longest control sequence that is looked at whole, in bytes. None that asks is longer.
const LONGEST: usize = 64;

/// Takes out of a guest's output what makes a terminal answer.
#[derive(Clone, Debug, Default)]
pub struct Queries {
    sequence: Sequence,
    held: Vec<u8>,
    /// A command string was taken out, and its ST has to go too.
    ends_nothing: bool,
}

impl Queries {
    /// Takes a byte, and appends to `out` what is to be sent now.
    pub fn feed(&mut self, byte: u8, out: &mut Vec<u8>) {
        // ENQ, also within sequences.
        if byte == 0x05 {
            return;
        }
        let is_text = self.sequence == Sequence::Text;
        match self.sequence.feed(byte) {
            Part::Plain => out.push(byte),
            Part::Cancel => self.held.clear(),
            Part::First => {
                self.ends_nothing = is_text && self.asks_by_text();
                self.settle(self.ends_nothing, out);
                self.held.push(byte);
            }
            Part::Within => self.hold(byte),
            Part::Last => {
                self.hold(byte);
                let asks = match self.held.get(1..) {
                    Some(b"\\") => self.ends_nothing,
                    // DECID.
                    Some(b"Z") => true,
                    Some([b'[', ..]) => self.asks(byte),
                    _ => is_text && self.asks_by_text(),
                };
                self.settle(asks, out);
            }
        }
    }

    /// Whether a sequence has begun and not ended.
    pub fn is_within(&self) -> bool {
        self.sequence.is_open()
    }

    /// What is too long is dropped when it ends.
    fn hold(&mut self, byte: u8) {
        if self.held.len() <= LONGEST {
            self.held.push(byte);
        }
    }

    /// Whether the command string asks. Each that does has a `?` or is a DCS; none of either has to be shown
    /// again.
    fn asks_by_text(&self) -> bool {
        self.held.len() > LONGEST || self.held.contains(&b'?') || self.held.get(1) == Some(&b'P')
    }

    /// Whether the control sequence with this final byte asks: DSR, DA, DECREQTPARM, the state of a
    /// window (XTWINOPS), DECRQM, XTVERSION, the keyboard's flags.
    fn asks(&self, last: u8) -> bool {
        let marked = |marks: &[u8]| self.held.iter().any(|byte| marks.contains(byte));
        match last {
            b'n' | b'c' | b'x' | b't' => true,
            b'p' => marked(b"$"),
            b'q' => marked(b">"),
            b'u' => marked(b"?"),
            _ => false,
        }
    }

    /// What is held goes out, unless it `asks`.
    fn settle(&mut self, asks: bool, out: &mut Vec<u8>) {
        if !asks && self.held.len() <= LONGEST {
            out.extend_from_slice(&self.held);
        }
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(bytes: &[u8]) -> Vec<u8> {
        let (mut queries, mut out) = (Queries::default(), Vec::new());
        bytes.iter().for_each(|byte| queries.feed(*byte, &mut out));
        out
    }

    #[test]
    fn what_makes_a_terminal_answer_is_taken_out() {
        for query in [
            "\x1b[6n",
            "\x1b[?6n",
            "\x1b[c",
            "\x1b[>0c",
            "\x1b[=c",
            "\x1bZ",
            "\x05",
            "\x1b[21t",
            "\x1b[?2026$p",
            "\x1b[>q",
            "\x1b[?u",
            "\x1b[x",
            "\x1b]11;?\x07",
            "\x1b]4;1;?\x1b\\",
            "\x1bP$qm\x1b\\",
            "\x1bP+q544e\x1b\\",
            "\x1b]4;1;?\x1b[6n",
            "\x1b[\x056n",
        ] {
            let text = ["/ # ".as_bytes(), query.as_bytes(), b"ls\r\n"].concat();
            assert_eq!(shown(&text), b"/ # ls\r\n", "{query:?}");
        }
    }

    #[test]
    fn all_else_goes_through() {
        for text in [
            "plain größe\r\n\t\x08",
            "\x1b[1;31mred\x1b[0m",
            "\x1b[2J\x1b[H",
            "\x1b(B\x1b7\x1b8\x1b=",
            "\x1b]0;title\x07",
            "\x1b]2;title\x1b\\",
            "\x1b[?1049h\x1b[!p",
            "\x1b[4 q",
        ] {
            assert_eq!(shown(text.as_bytes()), text.as_bytes(), "{text:?}");
        }
        // An ESC ends what was open, so that this asks.
        assert_eq!(shown(b"\x1b]0;title\x1b[6n\x07"), b"\x1b]0;title\x07");
        // Ends with what ends it.
        assert_eq!(shown(b"\x1b[6\x18n"), b"n");
        assert_eq!(shown(b"\x1b[6\x1b[Hx"), b"\x1b[6\x1b[Hx");
        let long = [&b"\x1b]52;c;"[..], &[b'x'; 5000], b"\x1b\\ok"].concat();
        assert_eq!(shown(&long), b"ok");
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 4))]

        #[test]
        fn nothing_is_held_beyond_its_bound_and_no_query_is_left(
            bytes in prop::collection::vec(prop_oneof![
                4 => prop::sample::select(b"\x1b[]P\\?6nc;$qpt\x07\x05\x18".to_vec()),
                1 => any::<u8>(),
            ], 0..300),
        ) {
            let (mut queries, mut out) = (Queries::default(), Vec::new());
            for byte in bytes {
                queries.feed(byte, &mut out);
                prop_assert!(queries.held.len() <= LONGEST + 1);
            }
            let text = String::from_utf8_lossy(&out);
            prop_assert!(!text.contains("\x1b[6n") && !text.contains("\x1b[c") && !text.contains('\x05'));
        }
    }
}
