//! The registers that have fields, as tables: IHI 0048B for GICv2, IHI 0069H for GICv3.

use tock_registers::register_bitfields;

register_bitfields! { u32,
    /// "GICD_CTLR, Distributor Control Register": with one security state both versions agree on the
    /// enables; GICv3 adds the rest.
    pub(super) GICD_CTLR [
        EnableGrp0 OFFSET(0) NUMBITS(1) [],
        EnableGrp1 OFFSET(1) NUMBITS(1) [],
        /// Affinity routing.
        ARE OFFSET(4) NUMBITS(1) [],
        /// One security state.
        DS OFFSET(6) NUMBITS(1) [],
    ],
    /// "GICD_TYPER, Interrupt Controller Type Register".
    pub(super) GICD_TYPER [
        ITLinesNumber OFFSET(0) NUMBITS(5) [],
        /// GICv2 only: one less than the number of CPU interfaces.
        CPUNumber OFFSET(5) NUMBITS(3) [],
        /// GICv3 only: one less than the bits of an INTID.
        IDbits OFFSET(19) NUMBITS(5) [],
        /// GICv3 only: an SPI cannot go to any one of many.
        No1N OFFSET(25) NUMBITS(1) [],
    ],
    /// "GICD_SGIR, Software Generated Interrupt Register", GICv2.
    pub(super) GICD_SGIR [
        SGIINTID OFFSET(0) NUMBITS(4) [],
        CPUTargetList OFFSET(16) NUMBITS(8) [],
        TargetListFilter OFFSET(24) NUMBITS(2) [List = 0, AllOthers = 1, Sender = 2],
    ],
    /// "GICR_WAKER, Redistributor Wake Register".
    pub(super) GICR_WAKER [
        ProcessorSleep OFFSET(1) NUMBITS(1) [],
        ChildrenAsleep OFFSET(2) NUMBITS(1) [],
    ],
}

register_bitfields! { u64,
    /// "GICR_TYPER, Redistributor Type Register".
    pub(super) GICR_TYPER [
        Last OFFSET(4) NUMBITS(1) [],
        Processor_Number OFFSET(8) NUMBITS(16) [],
        Affinity_Value OFFSET(32) NUMBITS(32) [],
    ],
    /// "ICC_SGI1R_EL1, Interrupt Controller Software Generated Interrupt Group 1 Register", and
    /// `ICC_SGI0R_EL1` and `ICC_ASGI1R_EL1`.
    pub(super) ICC_SGIR [
        TargetList OFFSET(0) NUMBITS(16) [],
        Aff1 OFFSET(16) NUMBITS(8) [],
        INTID OFFSET(24) NUMBITS(4) [],
        Aff2 OFFSET(32) NUMBITS(8) [],
        IRM OFFSET(40) NUMBITS(1) [],
        RS OFFSET(44) NUMBITS(4) [],
        Aff3 OFFSET(48) NUMBITS(8) [],
    ],
}

/// `GICD_IIDR` and `GICR_IIDR`: implementer Arm, whose architecture this is, and no product of theirs.
pub(super) const IIDR: u32 = 0x0000_043b;

/// What the identification registers say (IHI 0048 and IHI 0069, "Identification registers"), from
/// the frame's end less 0x30: PIDR4 to PIDR7, PIDR0 to PIDR3, CIDR0 to CIDR3. Only `ArchRev`,
/// bits 7 to 4 of PIDR2, is architecture.
pub(super) const fn identification(arch_rev: u8, index: u64) -> u32 {
    match index {
        0 => 0x04,
        5 => 0xb0,
        6 => (arch_rev as u32) << 4 | 0xb,
        8 => 0x0d,
        9 => 0xf0,
        10 => 0x05,
        11 => 0xb1,
        _ => 0,
    }
}
