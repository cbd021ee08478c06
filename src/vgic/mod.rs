//! The interrupt controller a guest sees: one model behind a GICv2 and a GICv3 register view.

/// An interrupt's number, INTID (IHI 0048 and IHI 0069, "Interrupt IDs"): 0 to 15 SGI, 16 to 31 PPI,
/// 32 to 1019 SPI, 1020 to 1023 special.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[derive(serde::Serialize, serde::Deserialize)]
pub struct IntId(pub u16);

impl IntId {
    /// The shared peripheral interrupt that a device tree calls `<0 number ..>`.
    pub const fn spi(number: u16) -> Self {
        Self(32 + number)
    }

    /// The private peripheral interrupt that a device tree calls `<1 number ..>`.
    pub const fn ppi(number: u16) -> Self {
        Self(16 + number)
    }
}

/// Which register view a guest sees; always that of the machine it runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[derive(serde::Serialize, serde::Deserialize)]
pub enum GicVersion {
    /// GICv2, IHI 0048B.
    V2,
    /// GICv3, IHI 0069H.
    V3,
}
