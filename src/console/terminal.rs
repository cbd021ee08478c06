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

/// Takes out of a guest's output what makes a terminal answer. A sequence goes out whole or not at all: of
/// half of one, and what comes later, others could be made.
#[derive(Clone, Debug, Default)]
pub struct Queries {
    sequence: Sequence,
    held: Vec<u8>,
    /// The first byte of U+0080 to U+00BF is held.
    is_upper: bool,
    /// The command string that an ESC has just ended needs no ST any more.
    ends_nothing: bool,
}

impl Queries {
    /// Takes a byte, and appends to `out` what is to be sent now.
    pub fn feed(&mut self, byte: u8, out: &mut Vec<u8>) {
        let was_upper = core::mem::take(&mut self.is_upper);
        match byte {
            // ENQ, also within sequences.
            0x05 => {}
            0xc2 => self.is_upper = true,
            // A C1 control character is as good as an ESC and a letter (ECMA-48, "C1 set").
            0x80..=0x9f if was_upper => {
                self.go_on(0x1b, out);
                self.go_on(byte - 0x40, out);
            }
            0xa0..=0xbf if was_upper => {
                self.go_on(0xc2, out);
                self.go_on(byte, out);
            }
            _ => self.go_on(byte, out),
        }
    }

    /// Whether a sequence has begun and not ended.
    pub fn is_within(&self) -> bool {
        self.sequence.is_open() || self.is_upper
    }

    fn go_on(&mut self, byte: u8, out: &mut Vec<u8>) {
        let was_text = self.sequence == Sequence::Text;
        match self.sequence.feed(byte) {
            Part::Plain => out.push(byte),
            Part::Cancel => {
                self.held.clear();
                // What begins a character is not lost.
                out.extend((byte >= 0x80).then_some(byte));
            }
            Part::First => {
                if was_text {
                    // The ESC of its ST, or of something else, which ends it too.
                    self.held.extend_from_slice(b"\x1b\\");
                    self.settle(self.asks_by_text(), out);
                }
                self.ends_nothing = was_text;
                self.held.clear();
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
                    _ => was_text && self.asks_by_text(),
                };
                self.settle(asks, out);
            }
        }
    }

    /// What is too long is dropped when it ends.
    fn hold(&mut self, byte: u8) {
        if self.held.len() <= LONGEST {
            self.held.push(byte);
        }
    }

    /// Whether the command string may ask: any but an OSC, which alone has to be shown again; one with a `?`;
    /// one of iTerm2's own.
    fn asks_by_text(&self) -> bool {
        let is_known = self.held.starts_with(b"\x1b]") && !self.held.starts_with(b"\x1b]1337;");
        !is_known || self.held.contains(&b'?')
    }

    /// Whether the control sequence with this final byte asks: DSR, DA, DECREQTPARM, the state of a
    /// window (XTWINOPS). With a private or an intermediate byte most do, but not to set modes, to erase,
    /// to reset (DECSTR), and to choose a cursor (DECSCUSR).
    fn asks(&self, last: u8) -> bool {
        let mut marks = self.held.iter().filter(|byte| matches!(byte, 0x20..=0x2f | 0x3c..=0x3f));
        match (marks.next(), marks.next()) {
            (None, _) => matches!(last, b'n' | b'c' | b'x' | b't'),
            (Some(b'?'), None) => !matches!(last, b'h' | b'l' | b'J' | b'K'),
            (Some(b'!'), None) => last != b'p',
            (Some(b' '), None) => last != b'q',
            _ => true,
        }
    }

    /// What is held goes out, unless it `asks` or is too long.
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
            "\u{9b}6n",
            "\u{90}$qm\u{9c}",
            "\x1b[?1;1;0S",
            "\x1b[1;1;1;1;9;9*y",
            "\x1b[#|",
            "\x1b]1337;ReportCellSize\x07",
            "\x1b_Gi=1,a=q;AAAA\x1b\\",
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
        assert_eq!(shown(b"\x1b]0;title\x1b[6n\x07"), b"\x1b]0;title\x1b\\\x07");
        // Ends with what ends it.
        assert_eq!(shown(b"\x1b[6\x18n"), b"n");
        assert_eq!(shown(b"\x1b[6\x1b[Hx"), b"\x1b[Hx");
        assert_eq!(shown("\x1b[6éx".as_bytes()), "éx".as_bytes());
        assert_eq!(shown(b"\x1b[3\r\n1mred"), b"\r\n\x1b[31mred");
        let long = [&b"\x1b]52;c;"[..], &[b'x'; 5000], b"\x1b\\ok"].concat();
        assert_eq!(shown(&long), b"ok");
    }

    #[test]
    fn halves_do_not_become_a_query() {
        for (text, wanted) in [
            (&b"\x1b[\x1b\x1ac"[..], &b"c"[..]),
            (b"\x1b[\x1b[6nc", b"c"),
            (b"\x1b]11;\x1b[6n?\x07", b"\x1b]11;\x1b\\?\x07"),
            (b"\x1b\n[6n.", b"\n."),
            (b"\x1b[\x7f6n.", b"\x7f."),
            (b"\xc2\x1b[6n\x9b6n", b"\x9b6n"),
            (b"\x1b]0;t\xc2\x9b6n.", b"\x1b]0;t\x1b\\."),
        ] {
            assert_eq!(shown(text), wanted, "{text:?}");
        }
    }

    /// What begins command strings: OSC, DCS, SOS, PM, APC.
    const TEXTS: [&str; 5] = ["\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_"];

    /// A terminal by the state machine that most follow (P. Williams, "A parser for DEC's ANSI-compatible
    /// video terminals"), in UTF-8: what it was asked, and whether it waits for the rest of something.
    fn asked(text: &[u8]) -> (Vec<String>, bool) {
        let (mut open, mut asked) = (String::new(), Vec::new());
        for c in String::from_utf8_lossy(text).chars() {
            let is_text = TEXTS.iter().any(|text| open.starts_with(text));
            let ends = match c {
                '\x05' | '\u{80}'..='\u{9f}' => {
                    asked.push(String::from(c));
                    false
                }
                '\x18' | '\x1a' | '\x1b' => true,
                '\x07' if is_text => true,
                '\0'..='\x1f' | '\x7f' => false,
                _ if open.is_empty() => false,
                _ => {
                    // Some terminals take the upper half for the lower one in control sequences.
                    let low = u8::try_from(c).ok().filter(|_| !is_text);
                    let c = low.map_or(c, |low| char::from(low & 0x7f));
                    open.push(c);
                    match open.strip_prefix("\x1b[") {
                        Some(control) => !control.is_empty() && c >= '@',
                        None => TEXTS.iter().all(|text| !open.starts_with(text)) && c >= '0',
                    }
                }
            };
            if ends {
                if is_question(&open) {
                    asked.push(open.clone());
                }
                open.clear();
            }
            if c == '\x1b' {
                open.push(c);
            }
        }
        (asked, !open.is_empty())
    }

    fn is_question(sequence: &str) -> bool {
        let Some(control) = sequence.strip_prefix("\x1b[") else {
            let is_string = sequence.starts_with("\x1b]") && sequence.contains('?');
            return is_string || sequence.starts_with("\x1bP") || sequence == "\x1bZ";
        };
        let has = |mark: char| control.contains(mark);
        match control.chars().last() {
            Some('n' | 'c' | 'x' | 't') => true,
            Some('p') => has('$'),
            Some('q') => has('>'),
            Some('u' | 'S' | 'm') => has('?'),
            Some('y') => has('*'),
            _ => false,
        }
    }

    #[test]
    fn the_terminal_of_the_tests_knows_what_it_is_asked() {
        for (text, count) in [
            ("plain größe\x1b[1;31mred\x1b]0;title\x07", 0),
            ("\x1b[6n\x1b[\x7fc\x1bZ\x05\u{9b}", 5),
            ("\x1b]11;?\x07\x1b]11;?\x1b\\\x1bP$qm\x1b\\", 3),
        ] {
            assert_eq!(asked(text.as_bytes()).0.len(), count, "{text:?}");
        }
        assert!(asked(b"\x1b[6").1 && asked(b"\x1b]0;t").1 && !asked(b"\x1b[6m").1);
    }

    /// What sequences are made of, whole and in pieces.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let known =
            ["\x1b", "\x1b[", "\x1b]", "\x1bP", "\x1b\\", "[", "]", "\\", "Z", "6", "n", "c", "?"]
                .into_iter()
                .chain([
                    ";", "$", "q", "p", "t", "m", " ", "\x07", "\x05", "\x18", "\x1a", "\n", "\x7f",
                ])
                .chain(["é", "\u{9b}", "\x1b[6n", "\x1b[31m", "\x1b]11;", "\x1b]0;t\x07"])
                .map(|piece| piece.as_bytes().to_vec());
        prop_oneof![
            8 => prop::sample::select(known.collect::<Vec<_>>()),
            1 => any::<u8>().prop_map(|byte| vec![byte]),
        ]
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn nothing_is_held_beyond_its_bound_and_no_query_is_left(
            pieces in prop::collection::vec(pieces(), 0..200),
        ) {
            let (mut queries, mut out) = (Queries::default(), Vec::new());
            for byte in pieces.concat() {
                queries.feed(byte, &mut out);
                prop_assert!(queries.held.len() <= LONGEST + 1);
            }
            prop_assert_eq!(asked(&out), (vec![], false), "{:?}", out);
        }
    }
}
