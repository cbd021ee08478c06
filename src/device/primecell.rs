//! What Arm's PrimeCell peripherals have in common (ARM DDI 0183 and DDI 0224, "Summary of
//! registers"): 32-bit registers on word boundaries of a 4 KiB window, whose last eight words
//! identify the peripheral.

use crate::exit::Width;

/// The first identification register, `PeriphID0`; `PeriphID1` to `3` and `PCellID0` to `3` follow.
pub const PERIPH_ID0: u64 = 0xfe0;

/// A peripheral as its manual shows it: one register at each multiple of four.
pub trait Registers {
    /// `PeriphID0` to `3` and `PCellID0` to `3`, one byte of each.
    const IDENTIFICATION: [u8; 8];

    /// What the register at `offset` reads as; zero where none is.
    fn read_register(&mut self, offset: u64) -> u32;

    /// Writes the register at `offset`; nothing happens where none is.
    fn write_register(&mut self, offset: u64, value: u32);
}

/// An access of any width. The peripheral bus is 32 bits wide: a double word is two accesses, the
/// lower word first. A narrower access moves the low bits of the register it starts in, as these
/// hold all there is; between two registers' starts lies nothing.
pub fn read<R: Registers>(registers: &mut R, offset: u64, width: Width) -> u64 {
    if !offset.is_multiple_of(4) {
        return 0;
    }
    let low = u64::from(read_word(registers, offset));
    match width {
        Width::Byte | Width::Half | Width::Word => low & width.mask(),
        Width::Double => low | u64::from(read_word(registers, offset.saturating_add(4))) << 32,
    }
}

/// As [`read`]. A register takes a narrower value extended with zeros.
pub fn write<R: Registers>(registers: &mut R, offset: u64, width: Width, value: u64) {
    if !offset.is_multiple_of(4) {
        return;
    }
    let [low, high] = words(value & width.mask());
    registers.write_register(offset, low);
    if width == Width::Double {
        registers.write_register(offset.saturating_add(4), high);
    }
}

fn read_word<R: Registers>(registers: &mut R, offset: u64) -> u32 {
    let identification = offset
        .checked_sub(PERIPH_ID0)
        .and_then(|past| usize::try_from(past / 4).ok())
        .and_then(|index| R::IDENTIFICATION.get(index));
    match identification {
        Some(&byte) => u32::from(byte),
        None => registers.read_register(offset),
    }
}

fn words(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[derive(Default)]
    struct Recorder(Vec<(u64, Option<u32>)>);

    impl Registers for Recorder {
        const IDENTIFICATION: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

        fn read_register(&mut self, offset: u64) -> u32 {
            self.0.push((offset, None));
            0x8765_4321
        }

        fn write_register(&mut self, offset: u64, value: u32) {
            self.0.push((offset, Some(value)));
        }
    }

    #[test]
    fn a_narrow_access_moves_the_low_bits_of_one_register() {
        let mut device = Recorder::default();
        assert_eq!(read(&mut device, 8, Width::Byte), 0x21);
        assert_eq!(read(&mut device, 8, Width::Half), 0x4321);
        assert_eq!(read(&mut device, 8, Width::Word), 0x8765_4321);
        write(&mut device, 8, Width::Byte, 0x1ff);
        write(&mut device, 8, Width::Half, 0x1_ffff);
        write(&mut device, 8, Width::Word, 0x1_ffff_ffff);
        let writes: Vec<_> = device.0.iter().filter_map(|&(_, value)| value).collect();
        assert_eq!(writes, [0xff, 0xffff, 0xffff_ffff]);
        assert!(device.0.iter().all(|&(offset, _)| offset == 8));
    }

    #[test]
    fn a_double_access_is_two_word_accesses_the_lower_first() {
        let mut device = Recorder::default();
        assert_eq!(read(&mut device, 0x10, Width::Double), 0x8765_4321_8765_4321);
        write(&mut device, 0x20, Width::Double, 0x2222_2222_1111_1111);
        let expected =
            vec![(0x10, None), (0x14, None), (0x20, Some(0x1111_1111)), (0x24, Some(0x2222_2222))];
        assert_eq!(device.0, expected);
    }

    #[test]
    fn between_two_registers_starts_lies_nothing() {
        let mut device = Recorder::default();
        for offset in [1, 2, 3, 0xfe1] {
            assert_eq!(read(&mut device, offset, Width::Byte), 0);
            write(&mut device, offset, Width::Byte, 0xff);
        }
        assert!(device.0.is_empty());
    }

    #[test]
    fn the_last_eight_words_identify_the_peripheral() {
        let mut device = Recorder::default();
        for (offset, byte) in (0xfe0..0x1000).step_by(4).zip(1..) {
            assert_eq!(read(&mut device, offset, Width::Word), byte);
        }
        assert_eq!(read(&mut device, 0xfe0, Width::Double), 0x2_0000_0001);
        assert!(device.0.is_empty());
    }
}
