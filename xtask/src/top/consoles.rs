//! The guests' output: lines, and whose they are.
//!
//! Pure. A line belongs to the guest whose name stands before it in brackets, as the hypervisor writes
//! it when all guests are shown. What moves a terminal's cursor or colours text is left out.

use std::collections::VecDeque;

/// How many lines are kept.
const LINES: usize = 2000;

/// The longest line, in characters. The rest of a longer one is left out.
const LONGEST: usize = 1000;

/// Where in an escape sequence the output is (ECMA-48).
#[derive(Debug, Default)]
enum Sequence {
    #[default]
    None,
    Escape,
    Control,
    Text,
}

/// What the consoles have put out.
#[derive(Debug, Default)]
pub struct Consoles {
    lines: VecDeque<String>,
    /// The last line, which has not ended.
    line: String,
    sequence: Sequence,
    /// A carriage return came: what follows writes over the line.
    returned: bool,
}

impl Consoles {
    /// Takes more output.
    pub fn feed(&mut self, text: &str) {
        text.chars().for_each(|c| self.character(c));
    }

    /// The last lines, oldest first: all, or without their prefix those of `guest`.
    pub fn last(&self, guest: Option<&str>, count: usize) -> Vec<&str> {
        let prefix = guest.map(|name| format!("[{name}] "));
        let open = Some(&self.line).filter(|line| !line.is_empty());
        let all = open.into_iter().chain(self.lines.iter().rev());
        let mut lines: Vec<&str> = match &prefix {
            None => all.map(String::as_str).take(count).collect(),
            Some(prefix) => all.filter_map(|line| line.strip_prefix(prefix)).take(count).collect(),
        };
        lines.reverse();
        lines
    }

    fn character(&mut self, c: char) {
        match (&self.sequence, c) {
            (_, '\n') => {
                self.sequence = Sequence::None;
                self.returned = false;
                self.lines.push_back(std::mem::take(&mut self.line));
                if self.lines.len() > LINES {
                    self.lines.pop_front();
                }
            }
            (_, '\x1b') => self.sequence = Sequence::Escape,
            (Sequence::Escape, '[') => self.sequence = Sequence::Control,
            (Sequence::Escape, ']' | 'P' | 'X' | '^' | '_') => self.sequence = Sequence::Text,
            (Sequence::Escape, ' '..='/') => {}
            (Sequence::Control, '\x18' | '\x1a' | '@'..='~') => self.sequence = Sequence::None,
            (Sequence::Text, '\x07' | '\x18' | '\x1a') => self.sequence = Sequence::None,
            (Sequence::Control | Sequence::Text, _) => {}
            (Sequence::Escape, _) => self.sequence = Sequence::None,
            (Sequence::None, '\r') => self.returned = true,
            (Sequence::None, '\x08') => drop(self.line.pop()),
            (Sequence::None, '\t') => self.show(' '),
            (Sequence::None, c) if c.is_control() => {}
            (Sequence::None, c) => self.show(c),
        }
    }

    fn show(&mut self, c: char) {
        if std::mem::take(&mut self.returned) {
            self.line.clear();
        }
        if self.line.len() < LONGEST {
            self.line.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::Config;

    use super::{Consoles, LINES, LONGEST};

    #[test]
    fn lines_belong_to_the_guest_that_is_named_before_them() {
        let mut consoles = Consoles::default();
        consoles.feed("\x1b[36m[web]\x1b[0m boot\r\n[db] up\r\n[web] 10%\r\x1b[K[web] 20%\r\n");
        consoles.feed("plinth: all [web] well\r\n[web] log");
        assert_eq!(consoles.last(Some("web"), 9), ["boot", "20%", "log"]);
        assert_eq!(consoles.last(Some("db"), 9), ["up"]);
        let all = ["[web] 20%", "plinth: all [web] well", "[web] log"];
        assert_eq!(consoles.last(None, 3), all);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut consoles = Consoles::default();
        for _ in 0..LINES + 10 {
            consoles.feed("x\n");
        }
        consoles.feed(&"y".repeat(2 * LONGEST));
        assert_eq!(consoles.last(None, usize::MAX).len(), LINES + 1);
        assert_eq!(consoles.last(None, 1)[0].len(), LONGEST);
    }

    proptest! {
        #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]

        #[test]
        fn nothing_that_is_shown_moves_the_cursor(text in "[\\x00-\\x7f\u{9b}ä]{0,80}") {
            let mut consoles = Consoles::default();
            consoles.feed(&text);
            prop_assert!(!consoles.last(None, 100).concat().contains(char::is_control));
        }
    }
}
