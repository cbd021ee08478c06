//! The guests' output: lines of the shared console, and those of each guest.
//!
//! Pure. A guest's own lines are its scrollback, read piece by piece by `console tail`, so that they are
//! there whatever the console shows. What moves a terminal's cursor or colours text is left out.

use std::collections::{BTreeMap, VecDeque};

use plinth::console::sequence::{Part, Sequence};
use serde_json::Value;

/// How many lines are kept of the shared console, and of each guest.
const LINES: usize = 1000;

/// How many bytes are read one piece after the other before the rest is passed over for the newest.
const BEHIND: u64 = 16 << 10;

/// The longest line, in characters. The rest of a longer one is left out.
const LONGEST: usize = 1000;

/// What the consoles have put out.
#[derive(Debug, Default)]
pub struct Consoles {
    /// What the shared console shows.
    pub shared: Lines,
    guests: BTreeMap<String, Guest>,
}

/// A guest's output, as far as it was read.
#[derive(Debug, Default)]
struct Guest {
    lines: Lines,
    /// Where what was read ends, once something was.
    read: Option<u64>,
    /// Where the next piece is to begin.
    next: Option<u64>,
    /// There is more to be read at once.
    behind: bool,
}

impl Consoles {
    /// The command that asks for the next piece of a guest's output.
    pub fn command(&self, guest: &str) -> String {
        match self.guests.get(guest).and_then(|guest| guest.next) {
            Some(next) => format!("console tail {guest} {next}"),
            None => format!("console tail {guest}"),
        }
    }

    /// Takes the reply to [`command`](Self::command). What is no such reply changes nothing.
    pub fn take(&mut self, guest: &str, reply: &Value) {
        let number = |name: &str| reply.get(name).and_then(Value::as_u64);
        let text = reply.get("text").and_then(Value::as_str);
        let (Some(from), Some(next), Some(end), Some(text)) =
            (number("from"), number("next"), number("end"), text)
        else {
            return;
        };
        let guest = self.guests.entry(guest.to_owned()).or_default();
        let left_out = guest.read.and_then(|read| from.checked_sub(read));
        if let Some(left_out @ 1..) = left_out {
            guest.lines.end();
            guest.lines.feed(&format!("… {left_out} bytes are not shown\n"));
        }
        guest.lines.feed(text);
        let rest = end.saturating_sub(next);
        guest.read = Some(next);
        // What comes faster than it is read is passed over.
        guest.behind = rest > 0 && next > from;
        guest.next = Some(if rest > BEHIND { end.saturating_sub(BEHIND / 4) } else { next });
    }

    /// Whether more of a guest's output is to be asked for at once.
    pub fn is_behind(&self, guest: &str) -> bool {
        self.guests.get(guest).is_some_and(|guest| guest.behind)
    }

    /// The last lines, oldest first: of a guest, or of the shared console.
    pub fn last(&self, guest: Option<&str>, count: usize) -> Vec<&str> {
        match guest {
            None => self.shared.last(count),
            Some(name) => self.guests.get(name).map(|it| it.lines.last(count)).unwrap_or_default(),
        }
    }

    /// Forgets guests that are no more.
    pub fn keep(&mut self, names: &[String]) {
        self.guests.retain(|name, _| names.contains(name));
    }
}

/// Lines of text, the last of which may not have ended.
#[derive(Debug, Default)]
pub struct Lines {
    lines: VecDeque<String>,
    /// The last line, which has not ended.
    line: String,
    sequence: Sequence,
    /// A carriage return came: what follows writes over the line.
    returned: bool,
}

impl Lines {
    /// Takes more output.
    pub fn feed(&mut self, text: &str) {
        text.chars().for_each(|c| self.character(c));
    }

    /// The last lines, oldest first.
    fn last(&self, count: usize) -> Vec<&str> {
        let open = Some(&self.line).filter(|line| !line.is_empty());
        let all = open.into_iter().chain(self.lines.iter().rev());
        let mut lines: Vec<&str> = all.map(String::as_str).take(count).collect();
        lines.reverse();
        lines
    }

    /// Ends a line that has begun.
    fn end(&mut self) {
        if !self.line.is_empty() {
            self.character('\n');
        }
    }

    fn character(&mut self, c: char) {
        if c == '\n' {
            self.sequence = Sequence::default();
            self.returned = false;
            self.lines.push_back(std::mem::take(&mut self.line));
            if self.lines.len() > LINES {
                self.lines.pop_front();
            }
            return;
        }
        // What is not ASCII is alike in each state.
        let byte = u8::try_from(c).unwrap_or(u8::MAX);
        match (self.sequence.feed(byte), c) {
            (Part::Plain, '\r') => self.returned = true,
            (Part::Plain, '\x08') => drop(self.line.pop()),
            (Part::Plain, '\t') => self.show(' '),
            (Part::Plain, c) if !c.is_control() => self.show(c),
            _ => {}
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
    use serde_json::json;

    use super::{BEHIND, Consoles, LINES, LONGEST};

    /// The guest has sent `end` bytes and this piece of them is read.
    fn piece(consoles: &mut Consoles, guest: &str, from: u64, text: &str, end: u64) {
        let next = from + text.len() as u64;
        consoles.take(guest, &json!({"from": from, "next": next, "end": end, "text": text}));
    }

    #[test]
    fn each_guest_has_its_lines_and_the_shared_console_its_own() {
        let mut consoles = Consoles::default();
        consoles.shared.feed("\x1b[36m[web]\x1b[0m boot\r\nlogin: ");
        piece(&mut consoles, "web", 0, "boot\r\n10%\r\x1b[K20%\r\nlog", 24);
        piece(&mut consoles, "db", 0, "up\r\n", 4);
        assert_eq!(consoles.last(Some("web"), 9), ["boot", "20%", "log"]);
        assert_eq!(consoles.last(Some("db"), 9), ["up"]);
        assert_eq!(consoles.last(Some("none"), 9), [""; 0]);
        assert_eq!(consoles.last(None, 9), ["[web] boot", "login: "]);
        consoles.keep(&["db".to_owned()]);
        assert!(consoles.last(Some("web"), 9).is_empty());
    }

    #[test]
    fn a_guest_is_read_from_where_the_last_piece_ended() {
        let mut consoles = Consoles::default();
        assert_eq!(consoles.command("a"), "console tail a");
        piece(&mut consoles, "a", 10, "begin", 20);
        assert_eq!(
            (consoles.command("a"), consoles.is_behind("a")),
            ("console tail a 15".into(), true)
        );
        piece(&mut consoles, "a", 15, " end\n", 20);
        assert_eq!(
            (consoles.command("a"), consoles.is_behind("a")),
            ("console tail a 20".into(), false)
        );
        assert_eq!(consoles.last(Some("a"), 9), ["begin end"]);
        consoles.take("a", &json!({"from": 1}));
        consoles.take("a", &json!(null));
        assert_eq!(consoles.command("a"), "console tail a 20");
    }

    #[test]
    fn what_a_flood_leaves_behind_is_passed_over_and_told() {
        let mut consoles = Consoles::default();
        piece(&mut consoles, "a", 0, "first\n", 6);
        piece(&mut consoles, "a", 6, "second\n", 13 + BEHIND + 1);
        let next = 14 + BEHIND - BEHIND / 4;
        assert_eq!(consoles.command("a"), format!("console tail a {next}"));
        // Overwritten by the time it is read.
        piece(&mut consoles, "a", next + 100, "last\n", next + 105);
        let told = format!("… {} bytes are not shown", next + 100 - 13);
        let lines = ["first", "second", &told, "last"];
        assert_eq!(consoles.last(Some("a"), 9), lines);
    }

    #[test]
    fn a_guest_that_began_anew_is_shown_from_there() {
        let mut consoles = Consoles::default();
        piece(&mut consoles, "a", 0, "before\n", 7);
        piece(&mut consoles, "a", 0, "new\n", 4);
        assert_eq!(consoles.last(Some("a"), 9), ["before", "new"]);
        assert_eq!(consoles.command("a"), "console tail a 4");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut consoles = Consoles::default();
        for _ in 0..LINES + 10 {
            consoles.shared.feed("x\n");
        }
        consoles.shared.feed(&"y".repeat(2 * LONGEST));
        assert_eq!(consoles.last(None, usize::MAX).len(), LINES + 1);
        assert_eq!(consoles.last(None, 1)[0].len(), LONGEST);
    }

    proptest! {
        #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]

        #[test]
        fn nothing_that_is_shown_moves_the_cursor(text in "[\\x00-\\x7f\u{9b}ä]{0,80}") {
            let mut consoles = Consoles::default();
            consoles.shared.feed(&text);
            prop_assert!(!consoles.last(None, 100).concat().contains(char::is_control));
        }
    }
}
