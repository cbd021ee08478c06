//! The offsets and values of DDI 0183, "Summary of registers", as a guest writes them.

mod characters;
mod interrupts;
mod loopback;
mod reference;
mod registers;
mod state;

use super::*;
use crate::device::serial::ScriptedLine;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const NOW: Ticks = Ticks(0);
const FEN: u64 = 1 << 4;
const LBE: u64 = 1 << 7;
const ENABLED: u64 = 0x301;

/// A UART and the other end of its cable.
struct Bench {
    uart: Pl011<Arc<ScriptedLine>>,
    line: Arc<ScriptedLine>,
}

impl Bench {
    fn new() -> Self {
        let line = Arc::new(ScriptedLine::default());
        Self { uart: Pl011::new(line.clone()), line }
    }

    fn with_fifos() -> Self {
        let mut bench = Self::new();
        bench.write(0x02c, FEN);
        bench
    }

    fn read(&mut self, offset: u64) -> u64 {
        self.uart.read(offset, Width::Word, NOW)
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.uart.write(offset, Width::Word, value, NOW);
    }

    /// Bytes arrive while the guest does nothing.
    fn type_in(&mut self, bytes: &[u8]) {
        self.line.type_in(bytes);
        self.uart.advance(NOW);
    }

    /// As many characters as `count`, by the data register.
    fn take(&mut self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.read(0x000)).collect()
    }

    fn rx_and_rt(&mut self) -> (bool, bool) {
        let ris = self.read(0x03c);
        (ris & 1 << 4 != 0, ris & 1 << 6 != 0)
    }
}
