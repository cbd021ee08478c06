//! Lines from bytes as they come, of bounded length.

use alloc::boxed::Box;
use alloc::vec;

use super::LONGEST;

/// The line that is being received.
#[derive(Debug)]
pub struct Lines {
    line: Box<[u8]>,
    length: usize,
    /// It has become too long: the rest of it is passed over.
    overlong: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { line: vec![0; LONGEST].into(), length: 0, overlong: false }
    }
}

impl Lines {
    /// Begins anew.
    pub const fn clear(&mut self) {
        (self.length, self.overlong) = (0, false);
    }

    /// A byte more. Gives the line that it ends; one that is too long is none.
    pub fn feed(&mut self, byte: u8) -> Option<&[u8]> {
        if byte == b'\n' {
            let (length, overlong) = (self.length, self.overlong);
            self.clear();
            return self.line.get(..length).filter(|_| !overlong);
        }
        match self.line.get_mut(self.length) {
            Some(place) if !self.overlong => {
                *place = byte;
                self.length += 1;
            }
            _ => self.overlong = true,
        }
        None
    }
}
