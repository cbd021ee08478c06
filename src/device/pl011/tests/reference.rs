//! Random accesses against the words of the manual.

use super::*;

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
