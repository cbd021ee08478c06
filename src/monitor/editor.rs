//! The monitor's line editor: cursor keys, the usual control keys, history, completion.
//!
//! Pure: bytes in, an [`Edit`] out; [`draw`](Editor::draw) gives what a terminal (ECMA-48) has to be sent
//! to show the line as it is. Only printable ASCII is taken, as commands and names need no more.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// What stands before the line.
pub const PROMPT: &str = "plinth> ";
/// The longest line, in characters.
pub const LONGEST: usize = 256;
/// How many lines are remembered.
const HISTORY: usize = 32;
/// How much of the line is shown at once: with the prompt it fits on a terminal of 80 columns.
const WINDOW: usize = 70;

/// What a key comes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Edit {
    /// Nothing to show.
    Nothing,
    /// The line or the cursor has changed: draw it.
    Changed,
    /// There is nothing to be done.
    Bell,
    /// The line can go on with any of these words.
    Choices(Vec<String>),
    /// The line is entered.
    Line(String),
    /// Ctrl-D on an empty line.
    Leave,
}

/// How a line can go on behind the cursor.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Completion {
    /// How long the word is that is completed.
    pub word: usize,
    /// The words it can become, in full.
    pub words: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Sequence {
    #[default]
    None,
    Escape,
    /// With the last parameter so far.
    Control(u8),
    /// After ESC `O`: a cursor key in application mode.
    Single,
}

/// A line being edited.
#[derive(Clone, Debug, Default)]
pub struct Editor {
    /// Printable ASCII.
    text: Vec<u8>,
    cursor: usize,
    history: VecDeque<Vec<u8>>,
    /// Which line of the history is shown, and what was typed before it was.
    shown: Option<(usize, Vec<u8>)>,
    sequence: Sequence,
}

impl Editor {
    /// Takes a byte. `complete` is asked how the text before the cursor can go on.
    pub fn key(&mut self, byte: u8, complete: impl FnOnce(&str) -> Completion) -> Edit {
        match (core::mem::take(&mut self.sequence), byte) {
            (_, 0x1b) => {
                self.sequence = Sequence::Escape;
                Edit::Nothing
            }
            (Sequence::Escape, b'[') => {
                self.sequence = Sequence::Control(0);
                Edit::Nothing
            }
            (Sequence::Escape, b'O') => {
                self.sequence = Sequence::Single;
                Edit::Nothing
            }
            (Sequence::Control(_), b'0'..=b'9') => {
                self.sequence = Sequence::Control(byte);
                Edit::Nothing
            }
            (Sequence::Control(_), 0x20..=0x3f) => {
                self.sequence = Sequence::Control(0);
                Edit::Nothing
            }
            (Sequence::Control(parameter), b'~') => match parameter {
                b'1' | b'7' => self.move_to(0),
                b'4' | b'8' => self.move_to(self.text.len()),
                b'3' => self.delete(),
                _ => Edit::Nothing,
            },
            (Sequence::Control(_) | Sequence::Single, 0x40..=0x7e) => self.cursor_key(byte),
            (_, byte) => self.plain(byte, complete),
        }
    }

    /// What shows the line and the cursor on a terminal, over what was there.
    pub fn draw(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\x1b[K");
        out.extend_from_slice(PROMPT.as_bytes());
        // The part around the cursor.
        let from = self.cursor.saturating_sub(WINDOW - 1);
        let part = self.text.get(from..).unwrap_or_default();
        let part = part.get(..WINDOW).unwrap_or(part);
        out.extend_from_slice(part);
        for _ in self.cursor - from..part.len() {
            out.push(0x08);
        }
    }

    /// The line as it stands.
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// Where the cursor is: so many characters are before it.
    pub const fn cursor(&self) -> usize {
        self.cursor
    }

    fn cursor_key(&mut self, byte: u8) -> Edit {
        match byte {
            b'A' => self.recall(true),
            b'B' => self.recall(false),
            b'C' => self.move_to(self.cursor + 1),
            b'D' => self.cursor.checked_sub(1).map_or(Edit::Bell, |to| self.move_to(to)),
            b'H' => self.move_to(0),
            b'F' => self.move_to(self.text.len()),
            _ => Edit::Nothing,
        }
    }

    fn plain(&mut self, byte: u8, complete: impl FnOnce(&str) -> Completion) -> Edit {
        match byte {
            b'\r' | b'\n' => self.enter(),
            b'\t' => self.complete(complete),
            0x01 => self.move_to(0),                     // ^A
            0x02 => self.cursor_key(b'D'),               // ^B
            0x03 => self.clear(),                        // ^C
            0x04 if self.text.is_empty() => Edit::Leave, // ^D
            0x04 => self.delete(),
            0x05 => self.move_to(self.text.len()), // ^E
            0x06 => self.cursor_key(b'C'),         // ^F
            0x08 | 0x7f => self.backspace(1),
            0x0b => {
                self.text.truncate(self.cursor); // ^K
                Edit::Changed
            }
            0x0c => Edit::Changed,                      // ^L
            0x0e => self.recall(false),                 // ^N
            0x10 => self.recall(true),                  // ^P
            0x15 => self.backspace(self.cursor),        // ^U
            0x17 => self.backspace(self.word_before()), // ^W
            0x20..=0x7e => self.insert(&[byte]),
            _ => Edit::Bell,
        }
    }

    fn insert(&mut self, bytes: &[u8]) -> Edit {
        if self.text.len() + bytes.len() > LONGEST {
            return Edit::Bell;
        }
        self.text.splice(self.cursor..self.cursor, bytes.iter().copied());
        self.cursor += bytes.len();
        Edit::Changed
    }

    fn move_to(&mut self, to: usize) -> Edit {
        if to > self.text.len() {
            return Edit::Bell;
        }
        self.cursor = to;
        Edit::Changed
    }

    fn delete(&mut self) -> Edit {
        if self.cursor >= self.text.len() {
            return Edit::Bell;
        }
        self.text.remove(self.cursor);
        Edit::Changed
    }

    fn backspace(&mut self, count: usize) -> Edit {
        let count = count.min(self.cursor);
        if count == 0 {
            return Edit::Bell;
        }
        self.text.drain(self.cursor - count..self.cursor);
        self.cursor -= count;
        Edit::Changed
    }

    /// How long the word before the cursor is, with the spaces behind it.
    fn word_before(&self) -> usize {
        let before = self.text.iter().take(self.cursor).rev();
        let spaces = before.clone().take_while(|byte| **byte == b' ').count();
        spaces + before.skip(spaces).take_while(|byte| **byte != b' ').count()
    }

    fn clear(&mut self) -> Edit {
        self.text.clear();
        self.cursor = 0;
        self.shown = None;
        Edit::Changed
    }

    fn enter(&mut self) -> Edit {
        let line = String::from(self.text());
        if !line.trim().is_empty() && self.history.front() != Some(&self.text) {
            self.history.push_front(self.text.clone());
            self.history.truncate(HISTORY);
        }
        self.clear();
        Edit::Line(line)
    }

    /// Shows an older or a newer line.
    fn recall(&mut self, older: bool) -> Edit {
        let at = match (&self.shown, older) {
            (None, true) => Some(0),
            (None, false) => return Edit::Bell,
            (Some((at, _)), true) => Some(at + 1),
            (Some((at, _)), false) => at.checked_sub(1),
        };
        let text = match at {
            None => self.shown.take().map(|(_, typed)| typed).unwrap_or_default(),
            Some(at) => {
                let Some(line) = self.history.get(at).cloned() else { return Edit::Bell };
                let typed = self.shown.take().map(|(_, typed)| typed);
                self.shown = Some((at, typed.unwrap_or_else(|| self.text.clone())));
                line
            }
        };
        self.cursor = text.len();
        self.text = text;
        Edit::Changed
    }

    fn complete(&mut self, complete: impl FnOnce(&str) -> Completion) -> Edit {
        let before = self.text.get(..self.cursor).unwrap_or_default();
        let Completion { word, words } = complete(core::str::from_utf8(before).unwrap_or_default());
        let Some(first) = words.first() else { return Edit::Bell };
        let common = words.iter().fold(first.len(), |length, other| {
            let same = first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            length.min(same)
        });
        let Some(rest) = first.as_bytes().get(word..common) else { return Edit::Bell };
        let mut rest = rest.to_vec();
        if words.len() == 1 && !first.ends_with('=') {
            rest.push(b' ');
        }
        // What cannot be typed cannot be completed.
        if !rest.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            return Edit::Bell;
        }
        if rest.is_empty() { Edit::Choices(words) } else { self.insert(&rest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pick;
    use alloc::vec;
    use proptest::prelude::*;

    fn words(line: &str) -> Completion {
        let word = line.rsplit(' ').next().unwrap_or_default();
        let all = ["vm", "list", "log", "weight="];
        let words = all.iter().filter(|w| w.starts_with(word)).map(|w| String::from(*w)).collect();
        Completion { word: word.len(), words }
    }

    fn keys(editor: &mut Editor, bytes: &[u8]) -> Vec<Edit> {
        bytes.iter().map(|byte| editor.key(*byte, words)).collect()
    }

    fn typed(bytes: &[u8]) -> (String, usize) {
        let mut editor = Editor::default();
        keys(&mut editor, bytes);
        (String::from(editor.text()), editor.cursor())
    }

    #[test]
    fn cursor_and_control_keys_edit_the_line() {
        for (bytes, text, cursor) in [
            (&b"abc\x1b[D\x1b[Dx"[..], "axbc", 2),
            (b"abc\x1b[Hx\x1b[Fy", "xabcy", 5),
            (b"abc\x1b[1~x\x1b[4~y\x1bOHz", "zxabcy", 1),
            (b"abc\x01x\x05y", "xabcy", 5),
            (b"abc\x7f\x08d", "ad", 2),
            (b"abc\x1b[D\x1b[3~", "ab", 2),
            (b"one two  \x17x", "one x", 5),
            (b"abc\x1b[D\x15", "c", 0),
            (b"abc\x1b[D\x0b", "ab", 2),
            (b"abc\x03d", "d", 1),
            (b"a\x1b[1;5Cb\x1b[200~c\xff\x00", "abc", 3),
        ] {
            assert_eq!(typed(bytes), (String::from(text), cursor), "{bytes:?}");
        }
    }

    #[test]
    fn entered_lines_come_back_and_what_was_typed_after_them() {
        let mut editor = Editor::default();
        assert_eq!(keys(&mut editor, b"one\r").pop(), Some(Edit::Line("one".into())));
        keys(&mut editor, b"two\rtwo\r \rnew");
        for (bytes, text) in [
            (b"\x1b[A", "two"),
            (b"\x1b[A", "one"),
            (b"\x1b[A", "one"),
            (b"\x1b[B", "two"),
            (b"\x1b[B", "new"),
            (b"\x1b[B", "new"),
        ] {
            keys(&mut editor, bytes);
            assert_eq!(editor.text(), text);
        }
    }

    #[test]
    fn tab_completes_as_far_as_there_is_no_choice_and_then_shows_the_choices() {
        assert_eq!(typed(b"v\t").0, "vm ");
        assert_eq!(typed(b"w\t").0, "weight=");
        assert_eq!(typed(b"x\t").0, "x");
        let mut editor = Editor::default();
        let edits = keys(&mut editor, b"l\t");
        assert_eq!(edits[1], Edit::Choices(vec!["list".into(), "log".into()]));
    }

    #[test]
    fn a_line_has_a_longest_length_and_control_d_leaves_an_empty_one() {
        let mut editor = Editor::default();
        assert_eq!(editor.key(0x04, words), Edit::Leave);
        keys(&mut editor, &[b'x'; 300]);
        assert_eq!(editor.text().len(), LONGEST);
        assert_eq!(editor.key(0x04, words), Edit::Bell, "nothing to delete at the end");
    }

    #[test]
    fn the_line_is_drawn_with_the_cursor_in_its_place() {
        let mut editor = Editor::default();
        keys(&mut editor, b"abc\x1b[D");
        let mut out = Vec::new();
        editor.draw(&mut out);
        assert_eq!(out, b"\r\x1b[Kplinth> abc\x08");
    }

    #[derive(Clone, Copy, Debug)]
    enum Key {
        Char(u8),
        Left,
        Right,
        Home,
        End,
        Backspace,
        Delete,
        ToEnd,
        ToStart,
    }

    fn key() -> impl Strategy<Value = Key> {
        use Key::*;
        let others = [Left, Right, Home, End, Backspace, Delete, ToEnd, ToStart];
        prop_oneof![(0x20u8..0x7f).prop_map(Char), prop::sample::select(others.to_vec())]
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, 1))]

        #[test]
        fn editing_equals_that_of_a_plain_string(steps in prop::collection::vec(key(), 0..pick(100, 30))) {
            let mut editor = Editor::default();
            let (mut text, mut at) = (String::new(), 0usize);
            for step in steps {
                let bytes: Vec<u8> = match step {
                    Key::Char(c) => {
                        text.insert(at, char::from(c));
                        at += 1;
                        vec![c]
                    }
                    Key::Left => { at = at.saturating_sub(1); b"\x1b[D".to_vec() }
                    Key::Right => { at = (at + 1).min(text.len()); b"\x1b[C".to_vec() }
                    Key::Home => { at = 0; vec![1] }
                    Key::End => { at = text.len(); vec![5] }
                    Key::Backspace => {
                        if at > 0 { at -= 1; text.remove(at); }
                        vec![0x7f]
                    }
                    Key::Delete => {
                        if at < text.len() { text.remove(at); }
                        b"\x1b[3~".to_vec()
                    }
                    Key::ToEnd => { text.truncate(at); vec![0x0b] }
                    Key::ToStart => { text.drain(..at); at = 0; vec![0x15] }
                };
                keys(&mut editor, &bytes);
                prop_assert_eq!((editor.text(), editor.cursor()), (text.as_str(), at));
            }
        }

        #[test]
        fn any_bytes_leave_a_line_that_can_be_drawn(bytes in prop::collection::vec(any::<u8>(), 0..pick(600, 60))) {
            let mut editor = Editor::default();
            for byte in bytes {
                editor.key(byte, words);
                prop_assert!(editor.cursor() <= editor.text().len());
                let mut out = Vec::new();
                editor.draw(&mut out);
                prop_assert!(out.len() <= 160);
            }
        }
    }
}
