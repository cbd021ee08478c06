//! What is particular to GICv2: targets by bit mask, and the memory-mapped CPU interface.

use super::Target;
use crate::mmio::{read32, write8, write32};

/// GICD_CTLR: Group 0 on, which is all there is without the Security Extensions.
pub const DISTRIBUTOR_ON: u32 = 1;
/// Interrupt processor targets registers.
pub const ITARGETSR: u64 = 0x800;
/// Software generated interrupt register.
pub const SGIR: u64 = 0xf00;
/// CPU interface control register.
pub const GICC_CTLR: u64 = 0x0;
const GICC_PMR: u64 = 0x4;
const GICC_BPR: u64 = 0x8;
const GICC_IAR: u64 = 0xc;
const GICC_EOIR: u64 = 0x10;
const GICC_RPR: u64 = 0x14;
const GICC_DIR: u64 = 0x1000;
const EOI_MODE: u32 = 1 << 9;

/// All SPIs to this CPU, forwarding on.
pub fn init_distributor(distributor: u64) {
    let own = read32(distributor + ITARGETSR) & 0xff;
    for intid in (32..super::lines()).step_by(4) {
        write32(distributor + ITARGETSR + u64::from(intid), own * 0x0101_0101);
    }
    write32(distributor, DISTRIBUTOR_ON);
}

/// This CPU's interface on, nothing masked.
pub fn init_cpu(cpu_interface: u64) {
    write32(cpu_interface + GICC_PMR, 0xf0);
    write32(cpu_interface + GICC_BPR, 0);
    write32(cpu_interface + GICC_CTLR, 1);
}

/// Sends the SPI to CPU interface Aff0.
pub fn route(distributor: u64, intid: u32, affinity: u64) {
    write8(distributor + ITARGETSR + u64::from(intid), 1 << (affinity & 7));
}

/// GICC_IAR.
pub fn acknowledge(cpu_interface: u64) -> u32 {
    read32(cpu_interface + GICC_IAR)
}

/// The CPU interface that sent the SGI (GICC_IAR.CPUID).
pub fn source(acknowledged: u32) -> u32 {
    (acknowledged >> 10) & 7
}

/// GICC_EOIR.
pub fn end(cpu_interface: u64, acknowledged: u32) {
    write32(cpu_interface + GICC_EOIR, acknowledged);
}

/// GICC_DIR.
pub fn deactivate(cpu_interface: u64, acknowledged: u32) {
    write32(cpu_interface + GICC_DIR, acknowledged);
}

/// GICC_CTLR.EOImode.
pub fn split_end(cpu_interface: u64, on: bool) {
    write32(cpu_interface + GICC_CTLR, if on { 1 | EOI_MODE } else { 1 });
}

/// GICC_PMR.
pub fn set_mask(cpu_interface: u64, priority: u8) {
    write32(cpu_interface + GICC_PMR, u32::from(priority));
    crate::instruction!("dsb sy");
}

/// GICC_RPR.
pub fn running_priority(cpu_interface: u64) -> u8 {
    read32(cpu_interface + GICC_RPR) as u8
}

/// GICD_SGIR.
pub fn send(distributor: u64, intid: u32, target: Target) {
    let value = match target {
        Target::Affinity(affinity) => 1 << (16 + (affinity & 7)),
        Target::Others => 1 << 24,
    };
    write32(distributor + SGIR, value | intid);
}
