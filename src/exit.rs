//! Why a guest stopped. Placeholder types, see below.

use crate::addr::Ipa;

/// The width of one access.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

impl Width {
    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }

    /// The bits of a value that this access moves.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// A guest's data access that stage 2 did not map, as `ESR_EL2` describes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MmioAccess {
    /// Where.
    pub ipa: Ipa,
    /// How wide.
    pub width: Width,
}
