//! What is particular to GICv3: redistributors, affinity routing, and the system registers.

use super::Target;
use crate::mmio::{read32, read64, write32, write64};
use crate::sysreg::affinity;
use crate::{mrs, msr, timer};

/// GICD_CTLR: ARE and Group 1 on, in either security state's layout.
pub const DISTRIBUTOR_ON: u32 = 0x13;
const IGROUPR: u64 = 0x80;
/// Interrupt routing registers.
pub const IROUTER: u64 = 0x6000;
const RWP: u32 = 1 << 31;
const GICR_WAKER: u64 = 0x14;
/// Redistributor type register.
pub const GICR_TYPER: u64 = 0x8;
const GICR_CTLR_RWP: u32 = 1 << 3;
const FRAME: u64 = 0x1_0000;

/// All SPIs in Group 1 and for this CPU, forwarding on.
pub fn init_distributor(distributor: u64) {
    write32(distributor, DISTRIBUTOR_ON & !3);
    for intid in (32..super::lines()).step_by(32) {
        write32(distributor + IGROUPR + u64::from(intid / 8), u32::MAX);
    }
    for intid in 32..super::lines() {
        route(distributor, intid, affinity());
    }
    write32(distributor, DISTRIBUTOR_ON);
}

/// This CPU's redistributor: the frame pair whose GICR_TYPER has our affinity.
pub fn own_redistributor(first: u64) -> u64 {
    let own = affinity();
    let own = (own & 0xff_ffff) | ((own >> 8) & 0xff00_0000);
    let mut at = first;
    loop {
        let typer = read64(at + GICR_TYPER);
        if typer >> 32 == own {
            return at;
        }
        assert!(typer & (1 << 4) == 0, "no redistributor has affinity {own:#x}");
        at += if typer & 2 == 0 { 2 * FRAME } else { 4 * FRAME };
    }
}

/// This CPU's SGI_base frame.
pub fn own_sgi_frame(first: u64) -> u64 {
    own_redistributor(first) + FRAME
}

/// Tells the redistributor that the CPU is awake, SGIs and PPIs to Group 1.
pub fn wake_redistributor(first: u64) {
    let own = own_redistributor(first);
    write32(own + GICR_WAKER, read32(own + GICR_WAKER) & !2);
    let awake = timer::wait_until(1000, || read32(own + GICR_WAKER) & 4 == 0);
    assert!(awake, "GICR_WAKER.ChildrenAsleep stays");
    write32(own + FRAME + IGROUPR, u32::MAX);
}

/// The system register interface on, nothing masked.
pub fn init_cpu() {
    msr!("icc_sre_el1", mrs!("icc_sre_el1") | 1);
    msr!("icc_pmr_el1", 0xf0);
    msr!("icc_bpr1_el1", 0);
    msr!("icc_ctlr_el1", 0);
    msr!("icc_igrpen1_el1", 1);
}

/// GICD_IROUTER.
pub fn route(distributor: u64, intid: u32, affinity: u64) {
    write64(distributor + IROUTER + u64::from(intid) * 8, affinity);
}

/// Waits for GICD_CTLR.RWP and GICR_CTLR.RWP.
pub fn settle(distributor: u64, redistributors: u64) {
    let own = own_redistributor(redistributors);
    let quiet = || read32(distributor) & RWP == 0 && read32(own) & GICR_CTLR_RWP == 0;
    assert!(timer::wait_until(1000, quiet), "RWP stays");
}

/// ICC_IAR1_EL1.
pub fn acknowledge() -> u32 {
    let acknowledged = mrs!("icc_iar1_el1") as u32;
    crate::instruction!("dsb sy");
    acknowledged
}

/// ICC_EOIR1_EL1.
pub fn end(acknowledged: u32) {
    msr!("icc_eoir1_el1", u64::from(acknowledged));
}

/// ICC_DIR_EL1.
pub fn deactivate(acknowledged: u32) {
    msr!("icc_dir_el1", u64::from(acknowledged));
}

/// ICC_CTLR_EL1.EOImode.
pub fn split_end(on: bool) {
    msr!("icc_ctlr_el1", if on { 2 } else { 0 });
}

/// ICC_PMR_EL1.
pub fn set_mask(priority: u8) {
    msr!("icc_pmr_el1", u64::from(priority));
    crate::instruction!("dsb sy");
}

/// ICC_RPR_EL1.
pub fn running_priority() -> u8 {
    mrs!("icc_rpr_el1") as u8
}

/// The value of ICC_SGI1R_EL1 for one target.
pub fn sgi_value(intid: u32, affinity: u64) -> u64 {
    let aff0 = affinity & 0xff;
    ((affinity >> 32) & 0xff) << 48
        | ((affinity >> 16) & 0xff) << 32
        | ((affinity >> 8) & 0xff) << 16
        | (aff0 >> 4) << 44
        | u64::from(intid) << 24
        | 1 << (aff0 & 0xf)
}

/// ICC_SGI1R_EL1.
pub fn send(intid: u32, target: Target) {
    let value = match target {
        Target::Affinity(affinity) => sgi_value(intid, affinity),
        Target::Others => 1 << 40 | u64::from(intid) << 24,
    };
    msr!("icc_sgi1r_el1", value);
}
