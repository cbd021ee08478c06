//! The FIFOs (ARM DDI 0183, "Transmit FIFO" and "Receive FIFO"), sixteen deep. What was received has its
//! error bits beside it.

use alloc::vec::Vec;

/// How many characters fit (DDI 0183, revisions before r1p5).
pub const DEPTH: usize = 16;

/// A FIFO. How much of it is in use is the caller's to say: with the FIFOs disabled, one
/// character is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Vec<u16>", into = "Vec<u16>")]
pub struct Fifo {
    characters: [u16; DEPTH],
    len: usize,
}

impl Fifo {
    /// How many characters wait.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `character`; `false` when the FIFO is full.
    #[inline]
    pub fn push(&mut self, character: u16) -> bool {
        match self.characters.get_mut(self.len) {
            Some(free) => {
                *free = character;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// The oldest character.
    pub fn first(&self) -> Option<u16> {
        self.characters.get(..self.len)?.first().copied()
    }

    /// Takes the oldest character.
    pub fn pop(&mut self) -> Option<u16> {
        self.len = self.len.checked_sub(1)?;
        let [oldest, ..] = self.characters;
        self.characters.copy_within(1..=self.len, 0);
        if let Some(free) = self.characters.get_mut(self.len) {
            *free = 0;
        }
        Some(oldest)
    }

    /// Drops all characters.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// More characters than fit: no FIFO that was ever saved.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} characters in a FIFO of {DEPTH}")]
pub struct TooLong(usize);

impl TryFrom<Vec<u16>> for Fifo {
    type Error = TooLong;

    fn try_from(characters: Vec<u16>) -> Result<Self, TooLong> {
        let mut fifo = Self::default();
        if characters.iter().all(|&character| fifo.push(character)) {
            Ok(fifo)
        } else {
            Err(TooLong(characters.len()))
        }
    }
}

impl From<Fifo> for Vec<u16> {
    fn from(mut fifo: Fifo) -> Self {
        core::iter::from_fn(|| fifo.pop()).collect()
    }
}
