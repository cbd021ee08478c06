//! The GICv2 CPU interface (IHI 0048B, "CPU interface register map"). Each CPU finds its own at the same
//! address.

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

use crate::platform::driver::DriverError;
use crate::platform::driver::mmio::{Block, Mmio};
use crate::vgic::IntId;

register_bitfields! { u32,
    /// CPU Interface Control Register, GICC_CTLR. In the Non-secure view bit 0 is EnableGrp1 and bit 9
    /// EOImodeNS; bits 1 to 3 and 10 have no meaning there.
    CTLR [
        EnableGrp0 OFFSET(0) NUMBITS(1) [],
        EnableGrp1 OFFSET(1) NUMBITS(1) [],
        /// GICC_IAR has interrupts of either group.
        AckCtl OFFSET(2) NUMBITS(1) [],
        /// Group 0 comes as FIQ.
        FIQEn OFFSET(3) NUMBITS(1) [],
        EOImodeS OFFSET(9) NUMBITS(1) [],
        EOImodeNS OFFSET(10) NUMBITS(1) []
    ],
    /// Interrupt Acknowledge Register, GICC_IAR; End of Interrupt Register, GICC_EOIR; Deactivate
    /// Interrupt Register, GICC_DIR.
    IAR [ INTID OFFSET(0) NUMBITS(10) [], CPUID OFFSET(10) NUMBITS(3) [] ]
}

register_structs! {
    /// The registers; the second page holds GICC_DIR alone.
    pub(in crate::platform::driver) Registers {
        (0x0000 => ctlr: ReadWrite<u32, CTLR::Register>),
        (0x0004 => pmr: ReadWrite<u32>),
        (0x0008 => bpr: ReadWrite<u32>),
        (0x000c => iar: ReadOnly<u32, IAR::Register>),
        (0x0010 => eoir: WriteOnly<u32, IAR::Register>),
        (0x0014 => _running_priority_and_aliases),
        (0x00d0 => active_priorities: [ReadWrite<u32>; 4]),
        (0x00e0 => active_priorities_ns: [ReadWrite<u32>; 4]),
        (0x00f0 => _iidr),
        (0x1000 => dir: WriteOnly<u32, IAR::Register>),
        (0x1004 => @END),
    }
}

/// A CPU's interface.
#[derive(Clone, Copy, Debug)]
pub struct CpuInterface {
    registers: Block<Registers>,
}

/// An interrupt that was acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Acknowledged {
    /// Which.
    pub intid: IntId,
    /// For an SGI, the number of the CPU interface it came from.
    pub source: u8,
}

impl CpuInterface {
    /// The interface with the registers `gicc`.
    pub fn new(gicc: Mmio) -> Result<Self, DriverError> {
        Ok(Self { registers: gicc.block(0)? })
    }

    /// Sets the calling CPU's interface up: every priority gets through, and priority drop and
    /// deactivation are apart, and no interrupt that somebody took before is still being handled. Where both groups are ours
    /// (`has_groups`) interrupts of group 0 come as FIQ.
    pub fn init(&self, has_groups: bool) {
        self.registers.ctlr.set(0);
        // The second set is read as zero, and writes to it are ignored, in the Non-secure view.
        let ours = &self.registers.active_priorities;
        for register in ours.iter().chain(&self.registers.active_priorities_ns) {
            register.set(0);
        }
        self.registers.pmr.set(0xff);
        self.registers.bpr.set(0);
        // Both EOImode bits: which of the two is ours depends on the view.
        let both = u32::from(has_groups);
        self.registers.ctlr.write(
            CTLR::EnableGrp0::SET
                + CTLR::EnableGrp1.val(both)
                + CTLR::AckCtl.val(both)
                + CTLR::FIQEn.val(both)
                + CTLR::EOImodeS::SET
                + CTLR::EOImodeNS::SET,
        );
    }

    /// Takes the pending interrupt of the highest priority; it is active then. `None` when there is none,
    /// or none of our group.
    #[inline]
    pub fn acknowledge(&self) -> Option<Acknowledged> {
        let iar = self.registers.iar.extract();
        let intid = u16::try_from(iar.read(IAR::INTID)).ok().filter(|intid| *intid < 1020)?;
        let source = u8::try_from(iar.read(IAR::CPUID)).ok()?;
        Some(Acknowledged { intid: IntId(intid), source })
    }

    /// Lets interrupts of the same and of lower priority through again. This one stays active. Of several
    /// that are active, the one acknowledged last comes first.
    pub fn drop_priority(&self, interrupt: Acknowledged) {
        self.registers.eoir.write(interrupt.register());
    }

    /// Deactivates an interrupt after its priority drop. A `DSB` is needed before this, if the device's
    /// level has just been lowered: else it may be taken once more.
    pub fn deactivate(&self, interrupt: Acknowledged) {
        self.registers.dir.write(interrupt.register());
    }
}

impl Acknowledged {
    fn register(self) -> tock_registers::fields::FieldValue<u32, IAR::Register> {
        IAR::INTID.val(self.intid.0.into()) + IAR::CPUID.val(self.source.into())
    }
}
