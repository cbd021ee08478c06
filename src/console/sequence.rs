//! Where in an escape sequence a stream of bytes is (ECMA-48, "Control functions"), as terminals see it.

/// The sequence that is open.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sequence {
    /// None.
    #[default]
    None,
    /// After ESC.
    Escape,
    /// After ESC `[`: up to its final byte.
    Control,
    /// After ESC `]` and the like: up to BEL, or to the ESC of an ST.
    Text,
}

/// What a byte is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// In no sequence; or a control character within one, which terminals carry out at once.
    Plain,
    /// The ESC of a new one. It ends what was open before.
    First,
    /// In the middle of one.
    Within,
    /// The last of one.
    Last,
    /// CAN, SUB, or what stands in no sequence: the terminal drops what was open, if anything was.
    Cancel,
}

impl Sequence {
    /// Goes on by a byte.
    pub const fn feed(&mut self, byte: u8) -> Part {
        let (next, part) = match (*self, byte) {
            (_, 0x18 | 0x1a) => (Self::None, Part::Cancel),
            (_, 0x1b) => (Self::Escape, Part::First),
            (Self::None, _) => (Self::None, Part::Plain),
            (Self::Escape | Self::Control, 0x80..) => (Self::None, Part::Cancel),
            (open @ (Self::Escape | Self::Control), ..=0x1f | 0x7f) => (open, Part::Plain),
            (Self::Escape, b'[') => (Self::Control, Part::Within),
            (Self::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (Self::Text, Part::Within),
            (Self::Escape, 0x20..=0x2f) => (Self::Escape, Part::Within),
            (Self::Escape, _) | (Self::Control, 0x40..) | (Self::Text, 0x07) => {
                (Self::None, Part::Last)
            }
            (open, _) => (open, Part::Within),
        };
        *self = next;
        part
    }

    /// Whether one has begun and not ended.
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a text without its sequences; `<` stands for the first byte of each, `>` for the last.
    fn marked(text: &[u8]) -> String {
        let mut sequence = Sequence::default();
        let mark = |byte: &u8| match sequence.feed(*byte) {
            Part::Plain => Some(char::from(*byte)),
            Part::First => Some('<'),
            Part::Within => None,
            Part::Last => Some('>'),
            Part::Cancel => Some('!'),
        };
        text.iter().filter_map(mark).collect()
    }

    #[test]
    fn each_kind_ends_where_a_terminal_ends_it() {
        for (text, wanted) in [
            ("plain\r\n", "plain\r\n"),
            ("\x1b7a\x1b(Bb", "<>a<>b"),
            ("\x1b[1;31mred\x1b[0m.", "<>red<>."),
            ("\x1b[?25l\x1b[ q.", "<><>."),
            ("\x1b]0;title\x07.", "<>."),
            ("\x1bPq;data\x1b\\.", "<<>."),
            // What is open ends with the next ESC, or is dropped.
            ("\x1b]0;ti\x1b[6n.", "<<>."),
            ("\x1b[12\x18.\x1a", "<!.!"),
            ("\x1b\x1b[m.", "<<>."),
            // A control character is carried out where it stands, DEL is ignored.
            ("\x1b\r[1\n\x7fm.", "<\r\n\x7f>."),
            // Beyond ASCII there is nothing but text.
            ("\x1b[1é.", "<!\u{a9}."),
        ] {
            assert_eq!(marked(text.as_bytes()), wanted, "{text:?}");
        }
    }
}
