//! What each offset of each frame reads after anything was written anywhere, against the manuals' register maps (IHI 0048,
//! "Distributor register map"; IHI 0069, "Distributor register map", "Redistributor register map").
//!
//! Nothing is delivered meanwhile: of that are `property` and `exhaustive`.

use super::*;
use crate::testing::{bound, pick};

const VCPUS: u8 = 3;
const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];
/// `PIDR4` to `PIDR7`, `PIDR0` to `PIDR3`, `CIDR0` to `CIDR3`; the architecture's revision is in the third of the second four.
const IDENTIFICATION: [u64; 12] = [4, 0, 0, 0, 0, 0xb0, 0x0b, 0, 0x0d, 0xf0, 0x05, 0xb1];

#[derive(Clone, Copy, Default)]
struct Interrupt {
    group1: bool,
    enabled: bool,
    latch: bool,
    active: bool,
    edge: bool,
    priority: u8,
    /// `ITARGETSR`, `IROUTER`.
    targets: u8,
    affinity: u64,
    /// Of a GICv2 SGI, who has sent it.
    sources: u8,
}

/// A register with one bit for each of 32 interrupts.
#[derive(Clone, Copy)]
enum Bits {
    Group,
    Enable(bool),
    Pending(bool),
    Active(bool),
}

/// Registers as the manuals list them.
struct File {
    version: GicVersion,
    enables: u64,
    private: [[Interrupt; 32]; VCPUS as usize],
    shared: [Interrupt; 224],
    asleep: [bool; VCPUS as usize],
}

impl File {
    fn new(version: GicVersion) -> Self {
        let three = version == GicVersion::V3;
        let spi = Interrupt { group1: three, targets: u8::from(!three), ..Interrupt::default() };
        let mut private = [spi; 32];
        for sgi in &mut private[..16] {
            (sgi.enabled, sgi.edge) = (true, true);
        }
        Self { version, enables: 0, private: [private; 3], shared: [spi; 224], asleep: [false; 3] }
    }

    /// The interrupt, as `v` has it. In a GICv3's distributor there are only those from 32 on, and in a redistributor only those below.
    fn of(&mut self, v: usize, intid: u64, private: Option<bool>) -> Option<&mut Interrupt> {
        let intid = usize::try_from(intid).unwrap();
        if private.is_some_and(|private| private != (intid < 32)) {
            return None;
        }
        if intid < 32 { Some(&mut self.private[v][intid]) } else { self.shared.get_mut(intid - 32) }
    }

    /// The register of a bit for each interrupt at an offset, and its first interrupt.
    fn bits(offset: u64) -> Option<(Bits, u64)> {
        let bits = match offset & !0x7f {
            0x080 => Bits::Group,
            0x100 => Bits::Enable(true),
            0x180 => Bits::Enable(false),
            0x200 => Bits::Pending(true),
            0x280 => Bits::Pending(false),
            0x300 => Bits::Active(true),
            0x380 => Bits::Active(false),
            _ => return None,
        };
        Some((bits, offset % 0x80 * 8))
    }

    /// What `v` reads of the part that both frames have.
    fn read_interrupts(
        &mut self,
        v: usize,
        offset: u64,
        width: Width,
        private: Option<bool>,
    ) -> u64 {
        let two = self.version == GicVersion::V2;
        let bytes = width.bytes();
        let by_bytes = matches!(width, Width::Byte | Width::Word);
        if let (Some((bits, first)), Width::Word) = (Self::bits(offset), width) {
            return (0..32).fold(0, |word, n| {
                let Some(irq) = self.of(v, first + n, private) else { return word };
                let bit = match bits {
                    Bits::Group => irq.group1,
                    Bits::Enable(_) => irq.enabled,
                    Bits::Pending(_) => irq.latch || irq.sources != 0,
                    Bits::Active(_) => irq.active,
                };
                word | u64::from(bit) << n
            });
        }
        let mut each = |of: &dyn Fn(u64, &Interrupt) -> u8| {
            (0..bytes).fold(0, |word, n| {
                let intid = offset % 0x400 + n;
                let byte = self.of(v, intid, private).map_or(0, |irq| of(intid, irq));
                word | u64::from(byte) << (8 * n)
            })
        };
        match offset {
            0x400..0x800 if by_bytes => each(&|_, irq| irq.priority),
            // Those of the reader's own name the reader.
            0x800..0xc00 if by_bytes && two => {
                each(&|intid, irq| if intid < 32 { 1 << v } else { irq.targets })
            }
            0xc00..0xd00 if width == Width::Word => (0..16).fold(0, |word, n| {
                let irq = self.of(v, (offset - 0xc00) * 4 + n, private);
                word | irq.map_or(0, |irq| u64::from(irq.edge) << (2 * n + 1))
            }),
            _ => 0,
        }
    }

    fn write_interrupts(
        &mut self,
        v: usize,
        offset: u64,
        width: Width,
        value: u64,
        private: Option<bool>,
    ) {
        let two = self.version == GicVersion::V2;
        let by_bytes = matches!(width, Width::Byte | Width::Word);
        if let (Some((bits, first)), Width::Word) = (Self::bits(offset), width) {
            for n in 0..32 {
                let (one, intid) = (value >> n & 1 != 0, first + n);
                let Some(irq) = self.of(v, intid, private) else { continue };
                match bits {
                    Bits::Group => irq.group1 = one,
                    Bits::Enable(to) if one => irq.enabled = to,
                    // GICv2: by GICD_SGIR, GICD_SPENDSGIR and GICD_CPENDSGIR alone.
                    Bits::Pending(to) if one && !(two && intid < 16) => irq.latch = to,
                    Bits::Active(to) if one => irq.active = to,
                    _ => {}
                }
            }
            return;
        }
        let of_bytes = (0..width.bytes()).zip(value.to_le_bytes());
        match offset {
            0x400..0x800 if by_bytes => {
                for (n, byte) in of_bytes {
                    if let Some(irq) = self.of(v, offset - 0x400 + n, private) {
                        irq.priority = byte & 0xf8;
                    }
                }
            }
            0x800..0xc00 if by_bytes && two => {
                for (n, byte) in of_bytes {
                    let intid = offset - 0x800 + n;
                    if let Some(irq) = self.of(v, intid, private).filter(|_| intid >= 32) {
                        irq.targets = byte & ((1 << VCPUS) - 1);
                    }
                }
            }
            // Those below 32 are as they are.
            0xc08..0xd00 if width == Width::Word => {
                for n in 0..16 {
                    if let Some(irq) = self.of(v, (offset - 0xc00) * 4 + n, private) {
                        irq.edge = value >> (2 * n + 1) & 1 != 0;
                    }
                }
            }
            _ => {}
        }
    }

    fn identification(&self, offset: u64) -> u64 {
        let revision = if self.version == GicVersion::V2 { 2 } else { 3 };
        let number = usize::try_from(offset / 4).unwrap();
        IDENTIFICATION[number] | if number == 6 { revision << 4 } else { 0 }
    }

    fn read(&mut self, v: usize, frame: Frame, offset: u64, width: Width) -> u64 {
        let two = self.version == GicVersion::V2;
        let is_word = width == Width::Word;
        if !offset.is_multiple_of(width.bytes()) {
            return 0;
        }
        let of = match frame {
            Frame::Distributor if two => {
                return match offset {
                    0x000 if is_word => self.enables,
                    0x004 if is_word => u64::from(VCPUS - 1) << 5 | 7,
                    0x008 if is_word => 0x43b,
                    // Both registers, of four SGIs a word.
                    0xf10..0xf30 if matches!(width, Width::Byte | Width::Word) => {
                        let sources = |n: u64| {
                            self.private[v][usize::try_from(offset % 16 + n).unwrap()].sources
                        };
                        (0..width.bytes())
                            .fold(0, |word, n| word | u64::from(sources(n)) << (8 * n))
                    }
                    0xfd0..0x1000 if is_word => self.identification(offset - 0xfd0),
                    _ => self.read_interrupts(v, offset, width, None),
                };
            }
            Frame::Distributor => {
                return match offset {
                    0x000 if is_word => self.enables | 1 << 4 | 1 << 6,
                    0x004 if is_word => 1 << 25 | 9 << 19 | 7,
                    0x008 if is_word => 0x43b,
                    0x6100..0x8000 if is_word || width == Width::Double => {
                        let irq = self
                            .of(v, (offset - 0x6000) / 8, Some(false))
                            .filter(|_| offset.is_multiple_of(8));
                        irq.map_or(0, |irq| irq.affinity)
                    }
                    0xffd0..0x1_0000 if is_word => self.identification(offset - 0xffd0),
                    _ => self.read_interrupts(v, offset, width, Some(false)),
                };
            }
            Frame::Redistributor(of) => usize::from(of.0),
        };
        if two || of >= VCPUS.into() {
            return 0;
        }
        let number = of as u64;
        let typer = number << 32 | number << 8 | u64::from(of + 1 == VCPUS.into()) << 4;
        match (offset, width) {
            (0x1_0000.., _) => self.read_interrupts(of, offset - 0x1_0000, width, Some(true)),
            (0x04, Width::Word) => 0x43b,
            (0x08, Width::Double) => typer,
            (0x08, Width::Word) => typer & 0xffff_ffff,
            (0x0c, Width::Word) => typer >> 32,
            (0x14, Width::Word) => u64::from(self.asleep[of]) * 0b110,
            (0xffd0..0x1_0000, Width::Word) => self.identification(offset - 0xffd0),
            _ => 0,
        }
    }

    fn write(&mut self, v: usize, frame: Frame, offset: u64, width: Width, value: u64) {
        let two = self.version == GicVersion::V2;
        let is_word = width == Width::Word;
        if !offset.is_multiple_of(width.bytes()) {
            return;
        }
        let of = match frame {
            Frame::Distributor => {
                match offset {
                    0x000 if is_word => self.enables = value & 0b11,
                    0xf00 if is_word && two => self.send(v, value),
                    0xf10..0xf30 if two && matches!(width, Width::Byte | Width::Word) => {
                        for (n, byte) in (0..width.bytes()).zip(value.to_le_bytes()) {
                            let sgi =
                                &mut self.private[v][usize::try_from(offset % 16 + n).unwrap()];
                            let exist = byte & ((1 << VCPUS) - 1);
                            sgi.sources = if offset < 0xf20 {
                                sgi.sources & !byte
                            } else {
                                sgi.sources | exist
                            };
                        }
                    }
                    0x6100..0x8000 if !two => {
                        let lower = (is_word || width == Width::Double) && offset.is_multiple_of(8);
                        if let Some(irq) =
                            self.of(v, (offset - 0x6000) / 8, Some(false)).filter(|_| lower)
                        {
                            irq.affinity = value & 0xff_ffff;
                        }
                    }
                    _ => self.write_interrupts(
                        v,
                        offset,
                        width,
                        value,
                        if two { None } else { Some(false) },
                    ),
                }
                return;
            }
            Frame::Redistributor(of) => usize::from(of.0),
        };
        if two || of >= VCPUS.into() {
            return;
        }
        match (offset, width) {
            (0x1_0000.., _) => {
                self.write_interrupts(of, offset - 0x1_0000, width, value, Some(true))
            }
            (0x14, Width::Word) => self.asleep[of] = value & 2 != 0,
            _ => {}
        }
    }

    /// `GICD_SGIR`.
    fn send(&mut self, v: usize, value: u64) {
        let sgi = usize::try_from(value & 0xf).unwrap();
        for w in 0..usize::from(VCPUS) {
            let named = match value >> 24 & 3 {
                0 => value >> (16 + w) & 1 != 0,
                1 => w != v,
                2 => w == v,
                _ => false,
            };
            if named {
                self.private[w][sgi].sources |= 1 << v;
            }
        }
    }
}

/// Both, side by side.
struct Both {
    vgic: Vgic,
    file: File,
}

impl Both {
    fn new(version: GicVersion) -> Self {
        Self { vgic: Vgic::new(version, VCPUS.into()), file: File::new(version) }
    }

    fn write(&mut self, v: u8, frame: Frame, offset: u64, width: Width, value: u64) {
        let _ = self.vgic.write(vcpu(v), frame, offset, width, value);
        self.file.write(v.into(), frame, offset, width, value & width.mask());
    }

    fn compare(&mut self, v: u8, frame: Frame, offset: u64, width: Width) {
        let read = self.vgic.read(vcpu(v), frame, offset, width);
        let expected = self.file.read(v.into(), frame, offset, width);
        assert_eq!(
            read, expected,
            "{frame:?} {offset:#x} {width:?} by vCPU {v}, {:?}",
            self.file.version
        );
    }

    /// All words that a frame can have anything in, as one vCPU reads them.
    fn compare_all(&mut self, v: u8) {
        for offset in
            (0..0x1000).chain(0x6000..0x6a00).chain(0xff00..0x1_1000).step_by(pick(4, 124))
        {
            self.compare(v, Frame::Distributor, offset, Width::Word);
            (0..=VCPUS).for_each(|of| {
                self.compare(v, Frame::Redistributor(vcpu(of)), offset, Width::Word)
            });
        }
    }
}

/// A generator that anybody can write down (Marsaglia's xorshift).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn frames() -> [(Frame, u64); 3] {
    [
        (Frame::Distributor, 0x1_0000),
        (Frame::Redistributor(vcpu(1)), 0x2_0000),
        (Frame::Redistributor(vcpu(VCPUS)), 0x100),
    ]
}

#[test]
fn every_offset_written_by_every_width_reads_as_the_register_map_says() {
    let mut seed = 0x2026;
    for version in [GicVersion::V2, GicVersion::V3] {
        let mut both = Both::new(version);
        both.compare_all(0);
        for (frame, end) in frames() {
            // In the ordinary run in steps that meet every width, where there is nothing in larger ones.
            let has_registers =
                |offset: u64| matches!(offset & 0xffff, 0..0x1000 | 0x6000..0x6a00 | 0xff00..);
            let step =
                |offset| if has_registers(offset) { bound(1, 5, 1) } else { bound(1, 61, 1) };
            let ordinary = |offset: &u64| cfg!(miri) || offset.is_multiple_of(step(*offset));
            for offset in (0..end).step_by(pick(1, 2999)).filter(ordinary) {
                for width in WIDTHS {
                    for value in [0, 1, u64::MAX, next(&mut seed)] {
                        let by = u8::try_from(next(&mut seed) % u64::from(VCPUS)).unwrap();
                        both.write(by, frame, offset, width, value);
                        WIDTHS.into_iter().for_each(|width| both.compare(by, frame, offset, width));
                        both.compare((by + 1) % VCPUS, frame, offset & !3, Width::Word);
                    }
                }
            }
            (0..VCPUS).for_each(|v| both.compare_all(v));
        }
    }
}

#[test]
fn after_any_writes_all_that_can_be_read_is_as_the_register_map_says() {
    let mut seed = 0x1_0000_2026;
    for version in [GicVersion::V2, GicVersion::V3] {
        let mut both = Both::new(version);
        for round in 0..bound(5_000_000u64, 40_000, 60) {
            let random = next(&mut seed);
            let frame = match random & 7 {
                0..4 => Frame::Distributor,
                of => Frame::Redistributor(vcpu(u8::try_from(of - 4).unwrap())),
            };
            let offset = match random >> 3 & 3 {
                0 => 0x6000 + (random >> 8) % 0x900,
                1 => 0x1_0000 + (random >> 8) % 0x1000,
                _ => (random >> 8) % 0x1000,
            };
            let width = WIDTHS[usize::try_from(random >> 40 & 3).unwrap()];
            let offset = if random >> 44 & 7 == 0 { offset } else { offset & !(width.bytes() - 1) };
            let by = u8::try_from((random >> 48) % u64::from(VCPUS)).unwrap();
            let value = match random >> 52 & 3 {
                0 => 0,
                1 => u64::MAX,
                _ => next(&mut seed),
            };
            both.write(by, frame, offset, width, value);
            both.compare(by, frame, offset, width);
            if round % bound(8192, 8192, 100) == 1 {
                both.compare_all(by);
            }
        }
        (0..VCPUS).for_each(|v| both.compare_all(v));
    }
}
