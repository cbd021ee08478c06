//! The shape of a stage-2 translation: how many address bits, which levels, how many root tables.
//!
//! Arm ARM (DDI 0487), "VMSAv8-64 address translation": with 4 KiB granules each level resolves nine
//! bits, and up to sixteen tables may be concatenated at the start level, which saves one level.

use aarch64_cpu::registers::VTCR_EL2;
use tock_registers::LocalRegisterCopy;

use crate::addr::{Ipa, PAGE_SIZE, Region};

/// A level of the table walk.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// Entries of 512 GiB: tables only.
    Zero,
    /// Entries of 1 GiB.
    One,
    /// Entries of 2 MiB.
    Two,
    /// Entries of 4 KiB: pages only.
    Three,
}

impl Level {
    /// How many low address bits an entry of this level leaves untranslated.
    const fn shift(self) -> u32 {
        match self {
            Self::Zero => 39,
            Self::One => 30,
            Self::Two => 21,
            Self::Three => 12,
        }
    }

    /// How many bytes an entry of this level translates.
    pub const fn size(self) -> u64 {
        1 << self.shift()
    }

    /// The level that a table descriptor of this level leads to.
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::Zero => Some(Self::One),
            Self::One => Some(Self::Two),
            Self::Two => Some(Self::Three),
            Self::Three => None,
        }
    }

    /// Whether an entry of this level may map memory itself (a block, or a page).
    pub const fn maps(self) -> bool {
        !matches!(self, Self::Zero)
    }
}

/// How many physical address bits the machine has (Arm ARM, `ID_AA64MMFR0_EL1.PARange`).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PaRange {
    /// 4 GiB.
    Bits32,
    /// 64 GiB.
    Bits36,
    /// 1 TiB.
    Bits40,
    /// 4 TiB.
    Bits42,
    /// 16 TiB.
    Bits44,
    /// 256 TiB: as many as a descriptor holds with 4 KiB granules.
    Bits48,
}

impl PaRange {
    /// From the field's value. The larger ranges need what Plinth does not use (FEAT_LPA2), so they
    /// count as 48 bits, as the architecture lets software do.
    pub const fn from_field(parange: u64) -> Self {
        match parange {
            0 => Self::Bits32,
            1 => Self::Bits36,
            2 => Self::Bits40,
            3 => Self::Bits42,
            4 => Self::Bits44,
            _ => Self::Bits48,
        }
    }

    /// How many bits.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits32 => 32,
            Self::Bits36 => 36,
            Self::Bits40 => 40,
            Self::Bits42 => 42,
            Self::Bits44 => 44,
            Self::Bits48 => 48,
        }
    }

    /// How many IPA bits guests get on such a machine: as many as it has, up to 40. A terabyte is
    /// plenty, and 40 bits start at level 1, with two root tables.
    pub const fn ipa_bits(self) -> u32 {
        if self.bits() < 40 { self.bits() } else { 40 }
    }
}

/// The shape of a stage-2 translation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    ipa_bits: u32,
    pa_range: PaRange,
    start: Level,
}

impl Geometry {
    /// `ipa_bits` from 32 to 48, and not more than the machine's physical bits (more would make
    /// walks fault). The fewest levels that still allow 1 GiB blocks.
    pub const fn new(ipa_bits: u32, pa_range: PaRange) -> Option<Self> {
        if ipa_bits < 32 || ipa_bits > pa_range.bits() {
            return None;
        }
        // Sixteen concatenated level 1 tables resolve 39 + 4 bits.
        let start = if ipa_bits <= 43 { Level::One } else { Level::Zero };
        Some(Self { ipa_bits, pa_range, start })
    }

    /// What guests get on a machine with `pa_range`.
    pub fn for_machine(pa_range: PaRange) -> Self {
        Self { ipa_bits: pa_range.ipa_bits(), pa_range, start: Level::One }
    }

    /// How many IPA bits.
    pub const fn ipa_bits(self) -> u32 {
        self.ipa_bits
    }

    /// The level the walk starts at.
    pub const fn start_level(self) -> Level {
        self.start
    }

    /// log2 of the number of concatenated root tables; they are aligned to their whole size.
    pub const fn root_order(self) -> u8 {
        let one_table = self.start.shift() + 9;
        match self.ipa_bits.saturating_sub(one_table) {
            0 => 0,
            1 => 1,
            2 => 2,
            3 => 3,
            _ => 4,
        }
    }

    /// All addresses that can be translated.
    #[inline]
    pub fn ipas(self) -> Region<Ipa> {
        let size = 1 << self.ipa_bits;
        Region::new(Ipa::new(0), size).expect("from zero on, nothing up to 48 bits wraps")
    }

    /// How many bytes of physical addresses can be mapped.
    pub const fn pa_size(self) -> u64 {
        1 << self.pa_range.bits()
    }

    /// How many bytes the root tables take.
    pub const fn root_size(self) -> u64 {
        PAGE_SIZE << self.root_order()
    }

    /// The value for every CPU (Arm ARM, "VTCR_EL2, Virtualization Translation Control Register"):
    /// walks are Inner Shareable Write-Back, as EL2 maps the tables; VMIDs have 8 bits.
    pub fn vtcr(self) -> LocalRegisterCopy<u64, VTCR_EL2::Register> {
        let ps = match self.pa_range {
            PaRange::Bits32 => VTCR_EL2::PS::PA_32B_4GB,
            PaRange::Bits36 => VTCR_EL2::PS::PA_36B_64GB,
            PaRange::Bits40 => VTCR_EL2::PS::PA_40B_1TB,
            PaRange::Bits42 => VTCR_EL2::PS::PA_42B_4TB,
            PaRange::Bits44 => VTCR_EL2::PS::PA_44B_16TB,
            PaRange::Bits48 => VTCR_EL2::PS::PA_48B_256TB,
        };
        let sl0 = match self.start {
            Level::Zero => VTCR_EL2::SL0::Granule4KBLevel0,
            Level::One => VTCR_EL2::SL0::Granule4KBLevel1,
            Level::Two => VTCR_EL2::SL0::Granule4KBLevel2,
            Level::Three => VTCR_EL2::SL0::Granule4KBLevel3,
        };
        let mut vtcr = LocalRegisterCopy::new(0);
        vtcr.modify(
            VTCR_EL2::RES1.val(1)
                + VTCR_EL2::VS::Bits8
                + ps
                + VTCR_EL2::TG0::Granule4KB
                + VTCR_EL2::SH0::Inner
                + VTCR_EL2::ORGN0::NormalWBRAWA
                + VTCR_EL2::IRGN0::NormalWBRAWA
                + sl0
                + VTCR_EL2::T0SZ.val(u64::from(64 - self.ipa_bits)),
        );
        vtcr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenation_saves_a_level_up_to_43_bits() {
        let shape = |bits| {
            let geometry = Geometry::new(bits, PaRange::Bits48).unwrap();
            (geometry.start_level(), geometry.root_size() / PAGE_SIZE)
        };
        assert_eq!(shape(32), (Level::One, 1));
        assert_eq!(shape(39), (Level::One, 1));
        assert_eq!(shape(40), (Level::One, 2));
        assert_eq!(shape(42), (Level::One, 8));
        assert_eq!(shape(43), (Level::One, 16));
        assert_eq!(shape(44), (Level::Zero, 1));
        assert_eq!(shape(48), (Level::Zero, 1));
    }

    #[test]
    fn vtcr_on_a_cortex_a72_is_the_value_worked_out_from_the_manual() {
        let geometry = Geometry::for_machine(PaRange::from_field(4));
        assert_eq!(geometry.ipa_bits(), 40);
        // RES1 | PS=44 bits | SH0=IS | ORGN0=WB | IRGN0=WB | SL0=level 1 | T0SZ=24
        assert_eq!(geometry.vtcr().get(), 0x8004_3558);
    }

    #[test]
    fn vtcr_of_a_48_bit_space_starts_at_level_0() {
        let geometry = Geometry::new(48, PaRange::Bits48).unwrap();
        assert_eq!(geometry.vtcr().get(), 0x8005_3590);
    }

    #[test]
    fn the_start_level_and_t0sz_are_a_legal_pair_for_every_size() {
        for bits in 32..=48 {
            let geometry = Geometry::new(bits, PaRange::Bits48).unwrap();
            let entries = 1u64 << (bits - geometry.start_level().shift());
            assert!((2..=16 * 512).contains(&entries), "{bits} bits");
            assert!(geometry.root_size() * 512 >= entries * PAGE_SIZE);
        }
    }

    #[test]
    fn guests_never_get_more_bits_than_the_machine_has_nor_more_than_40() {
        for field in 0..16 {
            let pa_range = PaRange::from_field(field);
            assert!(pa_range.ipa_bits() <= pa_range.bits().min(40));
            let for_machine = Geometry::for_machine(pa_range);
            assert_eq!(Geometry::new(pa_range.ipa_bits(), pa_range), Some(for_machine));
            assert_eq!(Geometry::new(pa_range.bits() + 1, pa_range), None);
        }
        assert_eq!(Geometry::new(31, PaRange::Bits48), None);
        assert_eq!(Geometry::new(u32::MAX, PaRange::Bits48), None);
    }
}
