//! The offsets and values of DDI 0183, "Summary of registers", as a guest writes them.

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

#[test]
fn the_registers_reset_to_the_manuals_values() {
    let mut bench = Bench::new();
    let values = [(0x018, 0x090), (0x030, 0x300), (0x034, 0x012)];
    for offset in (0x000..0xfe0).step_by(4) {
        let value = values.iter().find(|&&(at, _)| at == offset).map_or(0, |&(_, value)| value);
        assert_eq!(bench.read(offset), value, "at {offset:#x}");
    }
}

#[test]
fn the_peripheral_identifies_itself_as_a_pl011_with_sixteen_deep_fifos() {
    let mut bench = Bench::new();
    let id: Vec<u64> = (0xfe0..0x1000).step_by(4).map(|offset| bench.read(offset)).collect();
    assert_eq!(id, [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn a_register_keeps_the_bits_it_has() {
    let mut bench = Bench::new();
    let widths = [
        (0x020, 0x00ff),
        (0x024, 0xffff),
        (0x028, 0x003f),
        (0x02c, 0x00ff),
        (0x030, 0xff87),
        (0x034, 0x003f),
        (0x038, 0x07ff),
        (0x048, 0x0007),
    ];
    for (offset, bits) in widths {
        bench.write(offset, 0xffff_ffff);
        assert_eq!(bench.read(offset), bits, "at {offset:#x}");
        bench.write(offset, 0);
        assert_eq!(bench.read(offset), 0, "at {offset:#x}");
    }
}

#[test]
fn a_write_to_a_status_register_or_a_hole_changes_nothing() {
    let mut bench = Bench::with_fifos();
    bench.type_in(b"abc");
    let before = bench.uart.state().clone();
    for offset in [0x008, 0x014, 0x018, 0x01c, 0x03c, 0x040, 0x04c, 0x080, 0xfdc, 0xfe0, 0xffc] {
        bench.write(offset, 0xffff_ffff);
    }
    assert_eq!(*bench.uart.state(), before);
    assert_eq!(bench.line.take_output(), []);
}

#[test]
fn a_guest_that_never_enables_its_uart_prints_and_reads() {
    let mut bench = Bench::new();
    bench.write(0x030, 0);
    for byte in *b"hi" {
        assert_eq!(bench.read(0x018) & 1 << 5, 0, "TXFF");
        bench.write(0x000, byte.into());
    }
    assert_eq!(bench.line.take_output(), b"hi");
    bench.line.type_in(b"k");
    assert_eq!(bench.read(0x018) & 1 << 4, 0, "RXFE");
    assert_eq!(bench.read(0x000), u64::from(b'k'));
}

#[test]
fn a_store_of_any_width_sends_the_low_byte_once() {
    let mut bench = Bench::new();
    for width in [Width::Byte, Width::Half, Width::Word, Width::Double] {
        bench.uart.write(0x000, width, 0x4241, NOW);
        assert_eq!(bench.line.take_output(), b"A");
    }
}

#[test]
fn a_load_of_any_width_takes_one_character() {
    let mut bench = Bench::with_fifos();
    bench.type_in(b"abcd");
    for (width, byte) in
        [Width::Byte, Width::Half, Width::Word, Width::Double].into_iter().zip(b'a'..)
    {
        assert_eq!(bench.uart.read(0x000, width, NOW), byte.into());
    }
    assert_eq!(bench.read(0x018) & 1 << 4, 1 << 4);
}

#[test]
fn the_flags_follow_the_fifo_from_empty_to_full() {
    let mut bench = Bench::with_fifos();
    for count in 0..=16u8 {
        let (empty, full) = (u64::from(count == 0) << 4, u64::from(count == 16) << 6);
        assert_eq!(bench.read(0x018), 0x80 | empty | full);
        bench.type_in(&[count]);
    }
    assert_eq!(bench.line.waiting(), 1);
}

#[test]
fn with_the_fifos_disabled_the_holding_register_holds_one() {
    let mut bench = Bench::new();
    bench.type_in(b"ab");
    assert_eq!(bench.read(0x018), 0xc0);
    assert_eq!(bench.line.waiting(), 1);
    assert_eq!(bench.rx_and_rt(), (true, true));
    assert_eq!(bench.take(2), [u64::from(b'a'), u64::from(b'b')]);
    assert_eq!(bench.rx_and_rt(), (false, false));
    assert_eq!(bench.read(0x018), 0x90);
}

#[test]
fn the_receive_interrupt_follows_the_trigger_level() {
    for (select, trigger) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14), (5, 14), (6, 14), (7, 14)] {
        let mut bench = Bench::with_fifos();
        bench.write(0x034, select << 3);
        for count in 1..=16 {
            bench.type_in(b"x");
            assert_eq!(bench.rx_and_rt(), (count >= trigger, true), "{count} of {trigger}");
        }
        for count in (0..16).rev() {
            bench.read(0x000);
            assert_eq!(bench.rx_and_rt(), (count >= trigger, count > 0), "{count} of {trigger}");
        }
    }
}

#[test]
fn characters_that_wait_on_the_line_raise_the_receive_interrupt_again() {
    let mut bench = Bench::with_fifos();
    bench.type_in(&[b'x'; 100]);
    for left in (0..100).rev() {
        bench.read(0x000);
        assert_eq!(bench.rx_and_rt(), (left >= 8, left > 0));
    }
}

#[test]
fn a_guest_that_takes_one_character_for_each_timeout_gets_them_all() {
    let mut bench = Bench::with_fifos();
    bench.write(0x038, 1 << 6);
    bench.type_in(b"abc");
    let mut seen = Vec::new();
    while bench.uart.irq_level() {
        bench.write(0x044, 0x7ff);
        assert!(!bench.uart.irq_level());
        seen.push(bench.read(0x000));
    }
    assert_eq!(seen, b"abc".map(u64::from));
}

#[test]
fn the_transmit_interrupt_rises_after_each_write_until_it_is_cleared() {
    let mut bench = Bench::new();
    bench.write(0x038, 1 << 5);
    assert!(!bench.uart.irq_level());
    bench.write(0x000, 0x41);
    assert!(bench.uart.irq_level());
    assert_eq!((bench.read(0x03c), bench.read(0x040)), (0x20, 0x20));
    bench.write(0x044, 0x20);
    assert!(!bench.uart.irq_level());
    bench.write(0x000, 0x42);
    assert!(bench.uart.irq_level());
}

#[test]
fn a_line_without_room_fills_the_transmit_fifo_and_the_flags_say_so() {
    for (fen, depth) in [(FEN, 16), (0, 1)] {
        let mut bench = Bench::new();
        bench.write(0x02c, fen);
        bench.line.set_room(Some(0));
        for count in 0..depth {
            let (empty, busy) = (u64::from(count == 0) << 7, u64::from(count > 0) << 3);
            assert_eq!(bench.read(0x018) & 0xa8, empty | busy);
            bench.write(0x000, count);
        }
        assert_eq!(bench.read(0x018) & 0xa8, 0x28, "TXFF and BUSY");
        bench.write(0x000, 0xee);
        bench.line.set_room(None);
        assert_eq!(bench.read(0x018) & 0xa8, 0x80, "a poll finds that there is room");
        let sent: Vec<u64> = bench.line.take_output().into_iter().map(u64::from).collect();
        assert_eq!(sent, (0..depth).collect::<Vec<_>>(), "what a full FIFO was given is lost");
    }
}

#[test]
fn the_transmit_interrupt_comes_back_when_the_fifo_has_drained_to_its_level() {
    for (select, trigger) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14), (7, 14)] {
        let mut bench = Bench::with_fifos();
        bench.write(0x034, select);
        bench.write(0x038, 1 << 5);
        bench.line.set_room(Some(0));
        for _ in 0..16 {
            bench.write(0x000, 0x41);
        }
        assert!(!bench.uart.irq_level(), "the FIFO is above its level");
        for left in (0..16).rev() {
            bench.line.set_room(Some(1));
            bench.uart.advance(NOW);
            assert_eq!(bench.uart.irq_level(), left <= trigger, "{left} of {trigger}");
        }
    }
}

#[test]
fn what_waits_to_be_sent_is_saved_with_the_uart() {
    let mut bench = Bench::with_fifos();
    bench.line.set_room(Some(1));
    for byte in b"abc" {
        bench.write(0x000, u64::from(*byte));
    }
    let saved = postcard::to_allocvec(bench.uart.state()).unwrap();
    bench.uart = Pl011::restore(bench.line.clone(), postcard::from_bytes(&saved).unwrap());
    bench.line.set_room(None);
    bench.uart.advance(NOW);
    assert_eq!(bench.line.take_output(), b"abc");
}

#[test]
fn a_masked_interrupt_shows_only_in_the_raw_status() {
    let mut bench = Bench::new();
    bench.write(0x000, 0x41);
    assert_eq!((bench.read(0x03c), bench.read(0x040)), (0x20, 0));
    assert!(!bench.uart.irq_level());
    bench.write(0x038, 0x7ff);
    assert_eq!(bench.read(0x040), 0x20);
    assert!(bench.uart.irq_level());
}

#[test]
fn changing_fen_empties_the_fifo() {
    let mut bench = Bench::with_fifos();
    bench.type_in(b"abc");
    bench.write(0x02c, 0x70);
    assert_eq!(bench.read(0x018), 0x80, "FEN did not change");
    bench.write(0x02c, 0x60);
    assert_eq!(bench.read(0x018), 0x90);
    assert_eq!(bench.rx_and_rt(), (false, false));
}

#[test]
fn a_loopback_receives_what_is_sent_and_leaves_the_line_alone() {
    let mut bench = Bench::with_fifos();
    bench.write(0x030, ENABLED | LBE);
    bench.type_in(b"outside");
    bench.write(0x000, 0x55);
    assert_eq!(bench.take(2), [0x55, 0]);
    assert_eq!(bench.line.waiting(), 7);
    bench.write(0x030, ENABLED);
    assert_eq!(bench.take(7), b"outside".map(u64::from));
}

#[test]
fn a_loopback_that_overruns_keeps_the_fifo_and_says_what_it_lost() {
    let mut bench = Bench::with_fifos();
    bench.write(0x030, ENABLED | LBE);
    for byte in 0..18 {
        bench.write(0x000, byte);
    }
    assert_eq!(bench.read(0x004), 1 << 3);
    assert_eq!(bench.read(0x03c) & 1 << 10, 1 << 10);
    assert_eq!(bench.read(0x000), 0);
    bench.write(0x000, 0x42);
    assert_eq!(bench.take(16), (1..16).chain([0x842]).collect::<Vec<_>>());
    bench.write(0x000, 0x43);
    assert_eq!(bench.read(0x000), 0x43, "said once");
    assert_eq!(bench.read(0x004), 1 << 3, "until the error clear register is written");
    bench.write(0x004, 0);
    assert_eq!(bench.read(0x004), 0);
    bench.write(0x044, 1 << 10);
    assert_eq!(bench.read(0x03c) & 1 << 10, 0);
}

#[test]
fn a_loopback_receives_a_break_as_one_zero_with_its_error() {
    let mut bench = Bench::with_fifos();
    bench.write(0x030, ENABLED | LBE);
    bench.write(0x02c, FEN | 1);
    bench.write(0x02c, FEN | 1);
    bench.write(0x000, 0x41);
    assert_eq!(bench.read(0x03c) & 1 << 9, 1 << 9);
    assert_eq!(bench.read(0x000), 0x400);
    assert_eq!(bench.read(0x004), 1 << 2);
    assert_eq!(bench.read(0x000), 0x41);
    assert_eq!(bench.read(0x004), 0);
}

#[test]
fn a_loopback_connects_the_modem_lines_and_raises_their_changes() {
    // UARTCR's output, UARTFR's input, the interrupt.
    for (output, input, interrupt) in [
        (1 << 11, 1 << 0, 1 << 1),
        (1 << 10, 1 << 1, 1 << 3),
        (1 << 12, 1 << 2, 1 << 2),
        (1 << 13, 1 << 8, 1 << 0),
    ] {
        let mut bench = Bench::new();
        bench.write(0x030, ENABLED | output);
        assert_eq!((bench.read(0x018), bench.read(0x03c)), (0x90, 0));
        for control in [ENABLED | LBE | output, ENABLED | output] {
            bench.write(0x030, control);
            let expected = if control & LBE != 0 { 0x90 | input } else { 0x90 };
            assert_eq!((bench.read(0x018), bench.read(0x03c)), (expected, interrupt));
            bench.write(0x030, control);
            bench.write(0x044, interrupt);
            assert_eq!(bench.read(0x03c), 0);
        }
    }
}

#[test]
fn a_megabyte_typed_in_waits_on_the_line_and_arrives_in_order() {
    let size = crate::testing::pick(1 << 20, 1 << 8);
    let mut bench = Bench::with_fifos();
    let bytes: Vec<u8> =
        (0..size).map(|i: u32| i.wrapping_mul(0x9e37_79b1).to_le_bytes()[3]).collect();
    bench.type_in(&bytes);
    assert_eq!(bench.line.waiting(), bytes.len() - 16);
    let all_arrive = bytes.iter().all(|&byte| bench.read(0x000) == byte.into());
    assert!(all_arrive);
    assert_eq!(bench.read(0x018), 0x90);
}

#[test]
fn a_reset_returns_to_the_state_of_a_new_uart() {
    let mut bench = Bench::with_fifos();
    bench.write(0x038, 0x7ff);
    bench.type_in(b"abc");
    assert!(bench.uart.irq_level());
    bench.uart.reset();
    assert!(!bench.uart.irq_level());
    assert_eq!(*bench.uart.state(), *Bench::new().uart.state());
}

#[test]
fn a_saved_uart_goes_on_where_it_was() {
    let mut bench = Bench::with_fifos();
    bench.write(0x038, 0x050);
    bench.type_in(b"abcdefghijklmnopqrst");
    let saved = postcard::to_allocvec(bench.uart.state()).unwrap();
    let state: State = postcard::from_bytes(&saved).unwrap();
    assert_eq!(state, *bench.uart.state());
    bench.uart = Pl011::restore(bench.line.clone(), state);
    assert!(bench.uart.irq_level());
    assert_eq!(bench.take(20), b"abcdefghijklmnopqrst".map(u64::from));
}

#[test]
fn a_saved_state_with_more_characters_than_fit_is_refused() {
    let saved = |len| postcard::to_allocvec(&vec![1u16; len]).unwrap();
    assert!(postcard::from_bytes::<Fifo>(&saved(16)).is_ok());
    assert!(postcard::from_bytes::<Fifo>(&saved(17)).is_err());
}

/// The manual's words, with no thought of how to store anything.
#[derive(Default)]
struct Reference {
    line: VecDeque<u8>,
    sent: Vec<u8>,
    /// How much more the line takes.
    room: Option<usize>,
    waiting: VecDeque<u8>,
    fifo: VecDeque<u64>,
    /// The registers that read as what was written.
    stored: BTreeMap<u64, u64>,
    ris: u64,
    rsr: u64,
    overrun: bool,
}

impl Reference {
    fn stored(&self, offset: u64) -> u64 {
        self.stored.get(&offset).copied().unwrap_or_default()
    }

    fn depth(&self) -> usize {
        if self.stored(0x2c) & FEN != 0 { 16 } else { 1 }
    }

    fn trigger(&self) -> usize {
        let levels = [2, 4, 8, 12, 14, 14, 14, 14];
        let select = usize::try_from(self.stored(0x34) >> 3 & 7).unwrap();
        levels[select].min(self.depth())
    }

    fn transmit_trigger(&self) -> usize {
        let levels = [2, 4, 8, 12, 14, 14, 14, 14];
        let select = usize::try_from(self.stored(0x34) & 7).unwrap();
        if self.depth() == 1 { 0 } else { levels[select] }
    }

    fn transmit(&mut self) {
        while self.room != Some(0) {
            let Some(byte) = self.waiting.pop_front() else { break };
            self.sent.push(byte);
            self.room = self.room.map(|room| room - 1);
            if self.waiting.len() <= self.transmit_trigger() {
                self.ris |= 0x20;
            }
        }
    }

    fn loopback(&self) -> bool {
        self.stored(0x30) & LBE != 0
    }

    fn modem(&self) -> u64 {
        let cr = self.stored(0x30) >> 10;
        if self.loopback() { cr >> 1 & 1 | (cr & 1) << 1 | (cr & 4) | (cr & 8) << 5 } else { 0 }
    }

    fn arrive(&mut self, character: u64) {
        if self.fifo.len() >= self.depth() {
            self.overrun = true;
            self.rsr |= 8;
            self.ris |= 0x400;
            return;
        }
        self.fifo.push_back(character | u64::from(self.overrun) << 11);
        self.overrun = false;
        self.ris |= 0x40 | character >> 10 << 9;
        if self.fifo.len() >= self.trigger() {
            self.ris |= 0x10;
        }
    }

    fn fill(&mut self) {
        while !self.loopback() && self.fifo.len() < self.depth() {
            let Some(byte) = self.line.pop_front() else { break };
            self.arrive(byte.into());
        }
    }

    fn read(&mut self, offset: u64) -> u64 {
        self.transmit();
        self.fill();
        match offset {
            0x00 => {
                let Some(character) = self.fifo.pop_front() else { return 0 };
                self.rsr = self.rsr & 8 | character >> 8 & 7;
                if self.fifo.len() < self.trigger() {
                    self.ris &= !0x10;
                }
                self.ris = self.ris & !0x40 | if self.fifo.is_empty() { 0 } else { 0x40 };
                self.fill();
                character
            }
            0x04 => self.rsr,
            0x18 => {
                let empty = u64::from(self.fifo.is_empty()) << 4;
                let full = u64::from(self.fifo.len() == self.depth()) << 6;
                let sent = if self.waiting.is_empty() { 0x80 } else { 0x08 };
                let stuffed = u64::from(self.waiting.len() >= self.depth()) << 5;
                sent | stuffed | empty | full | self.modem()
            }
            0x3c => self.ris,
            0x40 => self.ris & self.stored(0x38),
            0x20 | 0x24 | 0x28 | 0x2c | 0x30 | 0x34 | 0x38 | 0x48 => self.stored(offset),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u64) {
        let modem = self.modem();
        let bits = match offset {
            0x00 => {
                if self.waiting.len() >= self.depth() {
                    return;
                }
                self.waiting.push_back(value.to_le_bytes()[0]);
                if self.loopback() {
                    self.arrive(value & 0xff);
                }
                if self.waiting.len() > self.transmit_trigger() {
                    self.ris &= !0x20;
                }
                self.transmit();
                return;
            }
            0x04 => {
                self.rsr = 0;
                return;
            }
            0x44 => {
                self.ris &= !value;
                return;
            }
            0x20 => 0xff,
            0x24 => 0xffff,
            0x28 | 0x34 => 0x3f,
            0x2c => 0xff,
            0x30 => 0xff87,
            0x38 => 0x7ff,
            0x48 => 0x7,
            _ => return,
        };
        let old = self.stored.insert(offset, value & bits).unwrap_or_default();
        if offset == 0x2c && (old ^ value) & FEN != 0 {
            self.fifo.clear();
            self.ris &= !0x50;
        }
        if offset == 0x2c && value & !old & 1 != 0 && self.loopback() {
            self.arrive(0x400);
        }
        let changed = modem ^ self.modem();
        self.ris |= (changed & 1) << 1 | (changed & 2) << 2 | (changed & 4) | changed >> 8;
        if offset == 0x2c || offset == 0x30 {
            self.fill();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, Width),
    Write(u64, Width, u64),
    Type(Vec<u8>),
    Room(Option<usize>),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![
        6 => prop::sample::select(&[0x00u64, 0x04, 0x18, 0x2c, 0x30, 0x34, 0x38, 0x3c, 0x40, 0x44][..]),
        1 => (0u64..0x20).prop_map(|word| word * 4),
    ];
    let width = prop::sample::select(&[Width::Byte, Width::Half, Width::Word][..]);
    prop_oneof![
        4 => (offset.clone(), width.clone()).prop_map(|(offset, width)| Step::Read(offset, width)),
        4 => (offset, width, any::<u32>())
            .prop_map(|(offset, width, value)| Step::Write(offset, width, value.into())),
        1 => prop::collection::vec(any::<u8>(), 0..24).prop_map(Step::Type),
        1 => prop::option::of(0usize..24).prop_map(Step::Room),
        4 => Just(Step::Read(0, Width::Word)),
        4 => (0u64..0x100).prop_map(|byte| Step::Write(0, Width::Byte, byte)),
    ]
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    #[test]
    fn random_accesses_equal_the_manuals_words(steps in prop::collection::vec(step(), 0..crate::testing::pick(120, 8))) {
        let mut bench = Bench::new();
        let mut reference = Reference::default();
        reference.stored.insert(0x30, 0x300);
        reference.stored.insert(0x34, 0x012);
        for step in steps {
            match step {
                Step::Read(offset, width) => {
                    let value = bench.uart.read(offset, width, NOW);
                    prop_assert_eq!(value, reference.read(offset) & width.mask());
                }
                Step::Write(offset, width, value) => {
                    let value = value & width.mask();
                    bench.uart.write(offset, width, value, NOW);
                    reference.write(offset, value);
                }
                Step::Type(bytes) => {
                    bench.type_in(&bytes);
                    reference.line.extend(bytes);
                    reference.transmit();
                    reference.fill();
                }
                Step::Room(room) => {
                    bench.line.set_room(room);
                    bench.uart.advance(NOW);
                    reference.room = room;
                    reference.transmit();
                    reference.fill();
                }
            }
            let masked = reference.ris & reference.stored(0x38);
            prop_assert_eq!(bench.uart.irq_level(), masked != 0);
        }
        prop_assert_eq!(bench.line.take_output(), reference.sent);
        prop_assert_eq!(bench.line.waiting(), reference.line.len());
    }

    /// However the guest polls and whenever bytes arrive.
    #[test]
    fn no_byte_is_lost_or_doubled_and_their_order_stays(
        steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), 0usize..40), 0..crate::testing::pick(20, 4)),
        fifos in any::<bool>(),
    ) {
        let mut bench = if fifos { Bench::with_fifos() } else { Bench::new() };
        let (mut typed, mut seen) = (Vec::new(), Vec::new());
        for (bytes, reads) in steps {
            bench.type_in(&bytes);
            typed.extend(bytes);
            for _ in 0..reads {
                if bench.read(0x018) & 1 << 4 == 0 {
                    seen.push(bench.read(0x000));
                }
            }
        }
        while bench.read(0x018) & 1 << 4 == 0 {
            seen.push(bench.read(0x000));
        }
        prop_assert_eq!(seen, typed.into_iter().map(u64::from).collect::<Vec<_>>());
    }
}
