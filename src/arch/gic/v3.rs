//! GICv3's CPU interface in system registers (IHI 0069H): physical set-up, and the formats of what the
//! virtual one is given.

use aarch64_cpu::asm::barrier;
use tock_registers::LocalRegisterCopy;
use tock_registers::register_bitfields;

use crate::arch::regs::{
    ICC_BPR0_EL1, ICC_BPR1_EL1, ICC_CTLR_EL1, ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1, ICC_PMR_EL1,
    ICC_SRE_EL1, ICC_SRE_EL2, ICH_HCR_EL2, ICH_VMCR_EL2, ICH_VTR_EL2, write_icc_ap0r,
    write_icc_ap1r, write_ich_ap0r, write_ich_ap1r, write_ich_lr,
};
use crate::vgic::{IntId, Link, ListRegister, LrState};

register_bitfields! { u64,
    /// Interrupt Controller List Registers, `ICH_LR<n>_EL2`.
    ICH_LR [
        vINTID OFFSET(0) NUMBITS(32) [],
        pINTID OFFSET(32) NUMBITS(13) [],
        EOI OFFSET(41) NUMBITS(1) [],
        Priority OFFSET(48) NUMBITS(8) [],
        Group OFFSET(60) NUMBITS(1) [],
        HW OFFSET(61) NUMBITS(1) [],
        State OFFSET(62) NUMBITS(2) [ Invalid = 0, Pending = 1, Active = 2, PendingActive = 3 ]
    ],
    /// Interrupt Controller Hyp Control Register, `ICH_HCR_EL2`.
    pub(super) ICH_HCR [
        En OFFSET(0) NUMBITS(1) [],
        LRENPIE OFFSET(2) NUMBITS(1) [],
        NPIE OFFSET(3) NUMBITS(1) [],
        EOIcount OFFSET(27) NUMBITS(5) []
    ]
}

/// `ICC_SGI1R_EL1` for one CPU (its page in IHI 0069H): up to 16 CPUs share all but Aff0.
pub(super) fn sgi1r(intid: IntId, affinity: u64) -> u64 {
    let aff = |shift: u32| affinity >> shift & 0xff;
    let range = aff(0) >> 4;
    aff(32) << 48
        | range << 44
        | aff(16) << 32
        | u64::from(intid.0) << 24
        | aff(8) << 16
        | 1 << (aff(0) & 0xf)
}

/// What this CPU's GICv3 interface has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// How many list registers.
    pub list_registers: usize,
    /// How many `ICH_AP0R<n>` and `ICH_AP1R<n>`.
    pub active_priorities: usize,
    /// The registers of group 0 are ours.
    pub group_0: bool,
}

/// Set up this CPU's GICv3 interface.
pub(super) fn start_interface() -> Features {
    // SRE; DFB and DIB: no bypass. EL1's own copy says the same and, with Enable, may be written first.
    ICC_SRE_EL2.set(0b1111);
    barrier::isb(barrier::SY); // the registers below exist from here on
    ICC_SRE_EL1.set(0b0111);
    barrier::isb(barrier::SY); // EL1's copy is written before its accesses trap
    ICC_SRE_EL2.set(0b0111);
    barrier::isb(barrier::SY);
    let group_0 = reset_physical();
    ICC_PMR_EL1.set(0xff);
    ICC_BPR1_EL1.set(0);
    ICC_CTLR_EL1.set(1 << 1); // EOImode
    ICH_HCR_EL2.set(0);
    ICH_VMCR_EL2.set(0);
    let vtr = ICH_VTR_EL2.get();
    let list_registers = (vtr & 0x1f) as usize + 1;
    let preemption_bits = (vtr >> 26 & 7) + 1;
    let active_priorities = 1 << preemption_bits.saturating_sub(5);
    for index in 0..list_registers {
        write_ich_lr(index, 0);
    }
    for index in 0..active_priorities {
        write_ich_ap0r(index, 0);
        write_ich_ap1r(index, 0);
    }
    ICC_IGRPEN1_EL1.set(1);
    barrier::isb(barrier::SY);
    Features { list_registers, active_priorities, group_0 }
}

/// Let interrupts of group 0 through, by FIQ. It is ours.
pub(super) fn enable_group_0() {
    ICC_BPR0_EL1.set(0);
    ICC_IGRPEN0_EL1.set(1);
    barrier::isb(barrier::SY);
}

/// Leave no interrupt enabled at the physical interface, and none that somebody took before active. Returns whether group 0's
/// registers are ours.
fn reset_physical() -> bool {
    let priority_bits = (ICC_CTLR_EL1.get() >> 8 & 7) + 1;
    // Where EL3 keeps group 0 (SCR_EL3.FIQ), accesses to that group's registers would trap to it. The
    // lowest bit of a priority tells: the Non-secure view moves priorities down by one bit, and it is lost
    // (IHI 0069H, "Non-secure accesses to register fields for Secure interrupts").
    ICC_PMR_EL1.set(1 << (8 - priority_bits));
    let group_0 = ICC_PMR_EL1.get() != 0;
    ICC_IGRPEN1_EL1.set(0);
    if group_0 {
        ICC_IGRPEN0_EL1.set(0);
    }
    // 32 preemption levels each; there is one level for each priority, or for every two.
    for index in 0..1 << priority_bits.saturating_sub(5).min(2) {
        write_icc_ap1r(index, 0);
        if group_0 {
            write_icc_ap0r(index, 0);
        }
    }
    group_0
}

/// An interrupt as `ICH_LR<n>_EL2` has it.
pub(super) fn encode(interrupt: ListRegister) -> u64 {
    let mut lr = LocalRegisterCopy::<u64, ICH_LR::Register>::new(0);
    lr.modify(
        ICH_LR::vINTID.val(interrupt.intid.0.into())
            + ICH_LR::Priority.val(interrupt.priority.into())
            + ICH_LR::Group.val(interrupt.group1.into()),
    );
    lr.modify(match interrupt.state {
        LrState::Pending => ICH_LR::State::Pending,
        LrState::Active => ICH_LR::State::Active,
        LrState::PendingActive => ICH_LR::State::PendingActive,
    });
    lr.modify(match interrupt.link {
        Link::Software { eoi_maintenance, .. } => ICH_LR::EOI.val(eoi_maintenance.into()),
        Link::Hardware { physical } => ICH_LR::HW::SET + ICH_LR::pINTID.val(physical.0.into()),
    });
    lr.get()
}

/// What `ICH_LR<n>_EL2` holds; `None` when it is empty.
pub(super) fn decode(lr: u64) -> Option<ListRegister> {
    let lr = LocalRegisterCopy::<u64, ICH_LR::Register>::new(lr);
    let state = match lr.read_as_enum(ICH_LR::State) {
        Some(ICH_LR::State::Value::Pending) => LrState::Pending,
        Some(ICH_LR::State::Value::Active) => LrState::Active,
        Some(ICH_LR::State::Value::PendingActive) => LrState::PendingActive,
        Some(ICH_LR::State::Value::Invalid) | None => return None,
    };
    let intid = |field| u16::try_from(lr.read(field)).ok().map(IntId);
    Some(ListRegister {
        intid: intid(ICH_LR::vINTID)?,
        state,
        priority: u8::try_from(lr.read(ICH_LR::Priority)).ok()?,
        group1: lr.is_set(ICH_LR::Group),
        link: if lr.is_set(ICH_LR::HW) {
            Link::Hardware { physical: intid(ICH_LR::pINTID)? }
        } else {
            Link::Software { eoi_maintenance: lr.is_set(ICH_LR::EOI), source: 0 }
        },
    })
}
