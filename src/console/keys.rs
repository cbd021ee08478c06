//! The escape key: what is typed, and what is a command to the console.

use core::fmt;
use core::str::FromStr;

/// The key that makes the next one a command. The default is Ctrl-A.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EscapeKey(u8);

impl Default for EscapeKey {
    fn default() -> Self {
        Self(0x01)
    }
}

impl EscapeKey {
    /// The key for which a terminal sends this byte: 1 (Ctrl-A) to 26 (Ctrl-Z), but not those of Ctrl-I,
    /// Ctrl-J and Ctrl-M, which are tab, line feed and Enter.
    pub const fn of_letter(code: u8) -> Option<Self> {
        match code {
            b'\t' | b'\n' | b'\r' => None,
            1..=26 => Some(Self(code)),
            _ => None,
        }
    }

    /// The byte that the terminal sends for it.
    pub const fn byte(self) -> u8 {
        self.0
    }
}

/// As `^A`; `Ctrl-A` as well.
impl FromStr for EscapeKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let key = text.strip_prefix('^').or_else(|| text.strip_prefix("Ctrl-")).ok_or(())?;
        let [key] = key.as_bytes() else { return Err(()) };
        match key.to_ascii_uppercase() {
            // Enter, tab and line feed are needed for themselves, and Ctrl-[ begins every arrow key.
            b'I' | b'J' | b'M' | b'[' | b'^' => Err(()),
            key @ b'A'..=b'_' => Ok(Self(key & 0x1f)),
            _ => Err(()),
        }
    }
}

impl fmt::Display for EscapeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ctrl-{}", char::from(self.0 | 0x40))
    }
}

/// What a byte comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Key {
    /// It is typed.
    Typed(u8),
    /// It begins a command, or ends one that does nothing.
    Nothing,
    /// To the guest with this number.
    Guest(u8),
    /// To the next guest.
    Next,
    /// To the guest before.
    Previous,
    /// To the monitor.
    Monitor,
    /// All guests' output, or only that of the one that is typed to.
    ToggleView,
    /// Power off: ask.
    AskPowerOff,
    /// Power off: it was confirmed.
    PowerOff,
    /// What the commands are.
    Help,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Typing,
    Escaped,
    Asked,
}

/// Reads what is typed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keys {
    escape: EscapeKey,
    state: State,
}

impl Keys {
    /// With this escape key.
    pub const fn new(escape: EscapeKey) -> Self {
        Self { escape, state: State::Typing }
    }

    /// The escape key.
    pub const fn escape(&self) -> EscapeKey {
        self.escape
    }

    /// Looks at the next byte.
    pub fn feed(&mut self, byte: u8) -> Key {
        let state = core::mem::take(&mut self.state);
        match (state, byte) {
            (State::Typing, byte) if byte == self.escape.0 => {
                self.state = State::Escaped;
                Key::Nothing
            }
            (State::Typing, byte) => Key::Typed(byte),
            (State::Asked, b'x' | b'y') => Key::PowerOff,
            (State::Asked, _) => Key::Nothing,
            (State::Escaped, byte) if byte == self.escape.0 => Key::Typed(byte),
            (State::Escaped, b'0'..=b'9') => Key::Guest(byte - b'0'),
            (State::Escaped, b'n') => Key::Next,
            (State::Escaped, b'p') => Key::Previous,
            (State::Escaped, b'm') => Key::Monitor,
            (State::Escaped, b'a') => Key::ToggleView,
            (State::Escaped, b'x') => {
                self.state = State::Asked;
                Key::AskPowerOff
            }
            (State::Escaped, _) => Key::Help,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().map(|byte| keys.feed(*byte)).filter(|key| *key != Key::Nothing).collect()
    }

    #[test]
    fn the_escape_key_makes_one_key_a_command() {
        assert_eq!(
            feed(b"1\x013n\x01nnp\x01p\x01m\x01a\x01?\x01q"),
            [
                Key::Typed(b'1'),
                Key::Guest(3),
                Key::Typed(b'n'),
                Key::Next,
                Key::Typed(b'n'),
                Key::Typed(b'p'),
                Key::Previous,
                Key::Monitor,
                Key::ToggleView,
                Key::Help,
                Key::Help,
            ]
        );
    }

    #[test]
    fn doubled_it_is_typed() {
        assert_eq!(feed(b"\x01\x01a"), [Key::Typed(1), Key::Typed(b'a')]);
    }

    #[test]
    fn power_off_wants_to_be_confirmed() {
        assert_eq!(feed(b"\x01xx"), [Key::AskPowerOff, Key::PowerOff]);
        assert_eq!(feed(b"\x01xy"), [Key::AskPowerOff, Key::PowerOff]);
        assert_eq!(feed(b"\x01xnx"), [Key::AskPowerOff, Key::Typed(b'x')]);
    }

    #[test]
    fn another_key_can_be_the_escape_key_if_it_is_not_needed_for_itself() {
        for (text, byte) in [("^A", 1), ("^t", 0x14), ("Ctrl-]", 0x1d), ("^_", 0x1f)] {
            let key: EscapeKey = text.parse().unwrap();
            assert_eq!(key.byte(), byte);
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        for text in ["", "A", "^", "^AA", "^M", "^J", "^[", "^^", "^1", "^é"] {
            assert_eq!(text.parse::<EscapeKey>(), Err(()), "{text}");
        }
    }
}
