//! The interrupt controller, GICv2 (IHI 0048B) or GICv3 (IHI 0069H), whichever the tree describes.
//!
//! The distributor's banked bit and byte registers have the same offsets in both; only for SGIs and
//! PPIs does GICv3 have them in the CPU's redistributor. What differs is in [`v2`] and [`v3`].

pub mod v2;
pub mod v3;

use crate::machine::{GicAt, machine};
use crate::mmio::{read8, read32, write8, write32};

/// Distributor control register, GICD_CTLR.
pub const CTLR: u64 = 0x0;
/// Interrupt controller type register, GICD_TYPER.
pub const TYPER: u64 = 0x4;
/// Interrupt set-enable registers.
pub const ISENABLER: u64 = 0x100;
/// Interrupt clear-enable registers.
pub const ICENABLER: u64 = 0x180;
/// Interrupt set-pending registers.
pub const ISPENDR: u64 = 0x200;
/// Interrupt clear-pending registers.
pub const ICPENDR: u64 = 0x280;
/// Interrupt set-active registers.
pub const ISACTIVER: u64 = 0x300;
/// Interrupt clear-active registers.
pub const ICACTIVER: u64 = 0x380;
/// Interrupt priority registers.
pub const IPRIORITYR: u64 = 0x400;
/// Interrupt configuration registers.
pub const ICFGR: u64 = 0xc00;

/// The first of the special INTIDs; an acknowledge that reads 1023 found nothing pending.
pub const SPECIAL: u32 = 1020;
/// Nothing pending.
pub const SPURIOUS: u32 = 1023;

/// Whom an SGI is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// The CPU with this affinity.
    Affinity(u64),
    /// All CPUs but this one.
    Others,
}

/// The distributor's address.
pub fn distributor() -> u64 {
    match machine().gic {
        GicAt::V2 { distributor, .. } | GicAt::V3 { distributor, .. } => distributor,
    }
}

/// Whether this is a GICv3.
pub fn is_v3() -> bool {
    matches!(machine().gic, GicAt::V3 { .. })
}

/// Where the banked registers of `intid` are: this CPU's for SGIs and PPIs.
fn bank(intid: u32) -> u64 {
    match machine().gic {
        GicAt::V3 { redistributors, .. } if intid < 32 => v3::own_sgi_frame(redistributors),
        _ => distributor(),
    }
}

fn bit(register: u64, intid: u32) -> (u64, u32) {
    (bank(intid) + register + u64::from(intid / 32) * 4, 1 << (intid % 32))
}

fn set(register: u64, intid: u32) {
    let (address, mask) = bit(register, intid);
    write32(address, mask);
}

fn get(register: u64, intid: u32) -> bool {
    let (address, mask) = bit(register, intid);
    read32(address) & mask != 0
}

/// How many INTIDs the distributor has, SGIs and PPIs included (GICD_TYPER.ITLinesNumber).
pub fn lines() -> u32 {
    (((read32(distributor() + TYPER) & 0x1f) + 1) * 32).min(SPECIAL)
}

/// The distributor on, all SPIs off, level-triggered, of middling priority and for this CPU.
pub fn init() {
    write32(distributor() + CTLR, 0);
    for intid in (32..lines()).step_by(32) {
        for register in [ICENABLER, ICPENDR, ICACTIVER] {
            write32(distributor() + register + u64::from(intid / 32) * 4, u32::MAX);
        }
    }
    for intid in (32..lines()).step_by(4) {
        write32(distributor() + IPRIORITYR + u64::from(intid), 0xa0a0_a0a0);
    }
    for intid in (32..lines()).step_by(16) {
        write32(distributor() + ICFGR + u64::from(intid / 4), 0);
    }
    match machine().gic {
        GicAt::V2 { distributor, .. } => v2::init_distributor(distributor),
        GicAt::V3 { distributor, .. } => v3::init_distributor(distributor),
    }
    init_cpu();
}

/// This CPU's interface on, SGIs enabled, PPIs off.
pub fn init_cpu() {
    if let GicAt::V3 { redistributors, .. } = machine().gic {
        v3::wake_redistributor(redistributors);
    }
    write32(bank(0) + ICENABLER, 0xffff_0000);
    write32(bank(0) + ICPENDR, 0xffff_0000);
    write32(bank(0) + ICACTIVER, u32::MAX);
    write32(bank(0) + ISENABLER, 0x0000_ffff);
    for intid in (0..32).step_by(4) {
        write32(bank(0) + IPRIORITYR + intid, 0xa0a0_a0a0);
    }
    match machine().gic {
        GicAt::V2 { cpu_interface, .. } => v2::init_cpu(cpu_interface),
        GicAt::V3 { .. } => v3::init_cpu(),
    }
}

/// All forwarding on or off at the distributor.
pub fn set_forwarding(on: bool) {
    let value = match machine().gic {
        _ if !on => 0,
        GicAt::V2 { .. } => v2::DISTRIBUTOR_ON,
        GicAt::V3 { .. } => v3::DISTRIBUTOR_ON,
    };
    write32(distributor() + CTLR, value);
}

/// Enables `intid`.
pub fn enable(intid: u32) {
    set(ISENABLER, intid);
}

/// Disables `intid`.
pub fn disable(intid: u32) {
    set(ICENABLER, intid);
    settle();
}

/// Whether `intid` is enabled.
pub fn is_enabled(intid: u32) -> bool {
    get(ISENABLER, intid)
}

/// Makes `intid` pending by software.
pub fn set_pending(intid: u32) {
    set(ISPENDR, intid);
    settle();
}

/// Takes software's pending of `intid` back.
pub fn clear_pending(intid: u32) {
    set(ICPENDR, intid);
    settle();
}

/// Whether `intid` is pending.
pub fn is_pending(intid: u32) -> bool {
    get(ISPENDR, intid)
}

/// Makes `intid` active by software.
pub fn set_active(intid: u32) {
    set(ISACTIVER, intid);
    settle();
}

/// Deactivates `intid` by software.
pub fn clear_active(intid: u32) {
    set(ICACTIVER, intid);
    settle();
}

/// Whether `intid` is active.
pub fn is_active(intid: u32) -> bool {
    get(ISACTIVER, intid)
}

/// Sets the priority of `intid`; lower is more urgent.
pub fn set_priority(intid: u32, priority: u8) {
    write8(bank(intid) + IPRIORITYR + u64::from(intid), priority);
}

/// The priority of `intid`.
pub fn priority(intid: u32) -> u8 {
    read8(bank(intid) + IPRIORITYR + u64::from(intid))
}

/// Makes `intid` edge-triggered or level-sensitive.
pub fn set_edge(intid: u32, edge: bool) {
    let address = bank(intid) + ICFGR + u64::from(intid / 16) * 4;
    let mask = 2 << ((intid % 16) * 2);
    let old = read32(address) & !mask;
    write32(address, if edge { old | mask } else { old });
}

/// Sends the SPI `intid` to the CPU with `affinity`.
pub fn route(intid: u32, affinity: u64) {
    match machine().gic {
        GicAt::V2 { distributor, .. } => v2::route(distributor, intid, affinity),
        GicAt::V3 { distributor, .. } => v3::route(distributor, intid, affinity),
    }
}

/// Waits until the distributor's change has taken effect (GICD_CTLR.RWP, GICv3).
pub fn settle() {
    if let GicAt::V3 { distributor, redistributors } = machine().gic {
        v3::settle(distributor, redistributors);
    }
    crate::instruction!("dsb sy");
    crate::instruction!("isb");
}

/// Reads the acknowledge register.
pub fn acknowledge() -> u32 {
    match machine().gic {
        GicAt::V2 { cpu_interface, .. } => v2::acknowledge(cpu_interface),
        GicAt::V3 { .. } => v3::acknowledge(),
    }
}

/// The INTID in what [`acknowledge`] read.
pub fn intid(acknowledged: u32) -> u32 {
    if is_v3() { acknowledged & 0xff_ffff } else { acknowledged & 0x3ff }
}

/// Ends the interrupt: priority drop, and deactivation unless [`split_end`] is on.
pub fn end(acknowledged: u32) {
    match machine().gic {
        GicAt::V2 { cpu_interface, .. } => v2::end(cpu_interface, acknowledged),
        GicAt::V3 { .. } => v3::end(acknowledged),
    }
}

/// Deactivates the interrupt, with [`split_end`] on.
pub fn deactivate(acknowledged: u32) {
    match machine().gic {
        GicAt::V2 { cpu_interface, .. } => v2::deactivate(cpu_interface, acknowledged),
        GicAt::V3 { .. } => v3::deactivate(acknowledged),
    }
}

/// EOImode: whether the end is a priority drop only.
pub fn split_end(on: bool) {
    match machine().gic {
        GicAt::V2 { cpu_interface, .. } => v2::split_end(cpu_interface, on),
        GicAt::V3 { .. } => v3::split_end(on),
    }
}

/// Sets the priority mask: only what is more urgent gets through.
pub fn set_mask(priority: u8) {
    match machine().gic {
        GicAt::V2 { cpu_interface, .. } => v2::set_mask(cpu_interface, priority),
        GicAt::V3 { .. } => v3::set_mask(priority),
    }
}

/// The running priority; 0xff (or the idle value of fewer bits) with nothing active.
pub fn running_priority() -> u8 {
    match machine().gic {
        GicAt::V2 { cpu_interface, .. } => v2::running_priority(cpu_interface),
        GicAt::V3 { .. } => v3::running_priority(),
    }
}

/// Sends the SGI `intid`.
pub fn send(intid: u32, target: Target) {
    crate::instruction!("dsb ish");
    match machine().gic {
        GicAt::V2 { distributor, .. } => v2::send(distributor, intid, target),
        GicAt::V3 { .. } => v3::send(intid, target),
    }
}
