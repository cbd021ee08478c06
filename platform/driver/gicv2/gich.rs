//! The GICv2 virtual interface control: list registers in memory (IHI 0048B, "GIC virtual interface
//! control registers"). Each CPU finds its own at the same address.
//!
//! A `DSB` is needed between a write to a list register and a read of GICH_ELRSR, GICH_EISR or
//! GICH_MISR that is to see it, and before the return to the guest.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{LocalRegisterCopy, register_structs};

use crate::platform::driver::DriverError;
use crate::platform::driver::mmio::{Block, Mmio};
use crate::vgic::{IntId, Link, ListRegister, LrState};

pub use bits::{HCR, LR, MISR, VTR};

#[allow(missing_docs, reason = "the macro makes items without any")]
mod bits {
    use tock_registers::register_bitfields;

    register_bitfields! { u32,
        /// Hypervisor Control Register, GICH_HCR.
        pub HCR [
            /// The virtual CPU interface is on.
            En OFFSET(0) NUMBITS(1) [],
            /// Maintenance when at most one list register is in use.
            UIE OFFSET(1) NUMBITS(1) [],
            /// Maintenance when `EOICount` is not zero.
            LRENPIE OFFSET(2) NUMBITS(1) [],
            /// Maintenance when no list register is pending.
            NPIE OFFSET(3) NUMBITS(1) [],
            /// Maintenance when the guest enables group 0.
            VGrp0EIE OFFSET(4) NUMBITS(1) [],
            /// Maintenance when the guest disables group 0.
            VGrp0DIE OFFSET(5) NUMBITS(1) [],
            /// Maintenance when the guest enables group 1.
            VGrp1EIE OFFSET(6) NUMBITS(1) [],
            /// Maintenance when the guest disables group 1.
            VGrp1DIE OFFSET(7) NUMBITS(1) [],
            /// How many interrupts the guest ended that were in no list register.
            EOICount OFFSET(27) NUMBITS(5) []
        ],
        /// VGIC Type Register, GICH_VTR.
        pub VTR [
            /// How many list registers, less one.
            ListRegs OFFSET(0) NUMBITS(6) [],
            /// How many preemption bits, less one.
            PREbits OFFSET(26) NUMBITS(3) [],
            /// How many priority bits, less one.
            PRIbits OFFSET(29) NUMBITS(3) []
        ],
        /// Maintenance Interrupt Status Register, GICH_MISR.
        pub MISR [
            /// A list register asked for maintenance at its end of interrupt.
            EOI OFFSET(0) NUMBITS(1) [],
            /// See HCR.UIE.
            U OFFSET(1) NUMBITS(1) [],
            /// See HCR.LRENPIE.
            LRENP OFFSET(2) NUMBITS(1) [],
            /// See HCR.NPIE.
            NP OFFSET(3) NUMBITS(1) [],
            /// See HCR.VGrp0EIE.
            VGrp0E OFFSET(4) NUMBITS(1) [],
            /// See HCR.VGrp0DIE.
            VGrp0D OFFSET(5) NUMBITS(1) [],
            /// See HCR.VGrp1EIE.
            VGrp1E OFFSET(6) NUMBITS(1) [],
            /// See HCR.VGrp1DIE.
            VGrp1D OFFSET(7) NUMBITS(1) []
        ],
        /// List Registers, GICH_LRn.
        pub LR [
            /// The number the guest sees.
            VirtualID OFFSET(0) NUMBITS(10) [],
            /// With HW, the number at the distributor.
            PhysicalID OFFSET(10) NUMBITS(10) [],
            /// Without HW, the CPU an SGI came from.
            CPUID OFFSET(10) NUMBITS(3) [],
            /// Without HW, maintenance at the end of interrupt.
            EOI OFFSET(19) NUMBITS(1) [],
            /// The upper five bits of the priority.
            Priority OFFSET(23) NUMBITS(5) [],
            /// Whether there is an interrupt, and how far it is.
            State OFFSET(28) NUMBITS(2) [ Invalid = 0, Pending = 1, Active = 2, PendingActive = 3 ],
            /// The interrupt is the guest's group 1, its IRQ where group 0 is its FIQ.
            Grp1 OFFSET(30) NUMBITS(1) [],
            /// The guest's deactivation reaches the distributor.
            HW OFFSET(31) NUMBITS(1) []
        ]
    }
}

register_structs! {
    /// The registers.
    pub(in crate::platform::driver) Registers {
        (0x000 => hcr: ReadWrite<u32, HCR::Register>),
        (0x004 => vtr: ReadOnly<u32, VTR::Register>),
        (0x008 => vmcr: ReadWrite<u32>),
        (0x00c => _reserved),
        (0x010 => misr: ReadOnly<u32, MISR::Register>),
        (0x014 => _reserved2),
        (0x020 => eisr: [ReadOnly<u32>; 2]),
        (0x028 => _reserved3),
        (0x030 => elrsr: [ReadOnly<u32>; 2]),
        (0x038 => _reserved4),
        (0x0f0 => apr: ReadWrite<u32>),
        (0x0f4 => _reserved5),
        (0x100 => lr: [ReadWrite<u32, LR::Register>; 64]),
        (0x200 => @END),
    }
}

/// An interrupt as GICH_LRn has it. GICv2 keeps the upper five bits of the priority.
pub fn encode(interrupt: ListRegister) -> u32 {
    let mut lr = LocalRegisterCopy::<u32, LR::Register>::new(0);
    lr.modify(
        LR::VirtualID.val(interrupt.intid.0.into())
            + LR::Priority.val(u32::from(interrupt.priority) >> 3)
            + LR::Grp1.val(interrupt.group1.into()),
    );
    lr.modify(match interrupt.state {
        LrState::Pending => LR::State::Pending,
        LrState::Active => LR::State::Active,
        LrState::PendingActive => LR::State::PendingActive,
    });
    lr.modify(match interrupt.link {
        Link::Software { eoi_maintenance, source } => {
            LR::EOI.val(eoi_maintenance.into()) + LR::CPUID.val(source.into())
        }
        Link::Hardware { physical } => LR::HW::SET + LR::PhysicalID.val(physical.0.into()),
    });
    lr.get()
}

/// Whether GICH_LRn holds nothing.
#[inline]
pub fn is_empty(lr: u32) -> bool {
    LocalRegisterCopy::<u32, LR::Register>::new(lr).matches_all(LR::State::Invalid)
}

/// What GICH_LRn holds; `None` when it is empty.
pub fn decode(lr: u32) -> Option<ListRegister> {
    let lr = LocalRegisterCopy::<u32, LR::Register>::new(lr);
    let state = match lr.read_as_enum(LR::State) {
        Some(LR::State::Value::Pending) => LrState::Pending,
        Some(LR::State::Value::Active) => LrState::Active,
        Some(LR::State::Value::PendingActive) => LrState::PendingActive,
        Some(LR::State::Value::Invalid) | None => return None,
    };
    let intid = |field| u16::try_from(lr.read(field)).ok().map(IntId);
    Some(ListRegister {
        intid: intid(LR::VirtualID)?,
        state,
        priority: u8::try_from(lr.read(LR::Priority) << 3).ok()?,
        group1: lr.is_set(LR::Grp1),
        link: if lr.is_set(LR::HW) {
            Link::Hardware { physical: intid(LR::PhysicalID)? }
        } else {
            Link::Software {
                eoi_maintenance: lr.is_set(LR::EOI),
                source: u8::try_from(lr.read(LR::CPUID)).ok()?,
            }
        },
    })
}

/// A CPU's virtual interface control.
#[derive(Clone, Copy, Debug)]
pub struct VirtualInterface {
    registers: Block<Registers>,
    count: usize,
}

impl VirtualInterface {
    /// The virtual interface control with the registers `gich`.
    pub fn new(gich: Mmio) -> Result<Self, DriverError> {
        let registers: Block<Registers> = gich.block(0)?;
        let count = registers.vtr.read(VTR::ListRegs) as usize + 1;
        Ok(Self { registers, count })
    }

    /// Sets the calling CPU's up: off, with empty list registers and no active priority.
    pub fn init(&self) {
        self.registers.hcr.set(0);
        self.registers.vmcr.set(0);
        self.registers.apr.set(0);
        for lr in self.registers.lr.iter().take(self.count) {
            lr.set(0);
        }
    }

    /// How many list registers there are: 1 to 64.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// GICH_LRn as it is; 0, an empty one, for an `index` that there is not.
    pub fn lr(&self, index: usize) -> u32 {
        self.registers.lr.get(index).filter(|_| index < self.count).map_or(0, Readable::get)
    }

    /// Writes GICH_LRn; does nothing for an `index` that there is not.
    pub fn set_lr(&self, index: usize, value: u32) {
        if let Some(lr) = self.registers.lr.get(index).filter(|_| index < self.count) {
            lr.set(value);
        }
    }

    /// GICH_HCR.
    pub fn hcr(&self) -> LocalRegisterCopy<u32, HCR::Register> {
        self.registers.hcr.extract()
    }

    /// Writes GICH_HCR.
    pub fn set_hcr(&self, value: u32) {
        self.registers.hcr.set(value);
    }

    /// Takes the count of interrupts that the guest ended without a list register, and starts it anew.
    pub fn take_eoi_count(&self) -> u32 {
        let count = self.registers.hcr.read(HCR::EOICount);
        if count != 0 {
            self.registers.hcr.modify(HCR::EOICount.val(0));
        }
        count
    }

    /// Asks for maintenance while no list register is pending, and at the end of an interrupt in no
    /// list register.
    pub fn set_maintenance(&self, no_pending: bool, entry_not_present: bool) {
        self.registers
            .hcr
            .modify(HCR::NPIE.val(no_pending.into()) + HCR::LRENPIE.val(entry_not_present.into()));
    }

    /// GICH_VTR.
    pub fn vtr(&self) -> LocalRegisterCopy<u32, VTR::Register> {
        self.registers.vtr.extract()
    }

    /// GICH_VMCR, the guest's view of its CPU interface.
    pub fn vmcr(&self) -> u32 {
        self.registers.vmcr.get()
    }

    /// Writes GICH_VMCR.
    pub fn set_vmcr(&self, value: u32) {
        self.registers.vmcr.set(value);
    }

    /// GICH_APR, the guest's active priorities.
    pub fn apr(&self) -> u32 {
        self.registers.apr.get()
    }

    /// Writes GICH_APR.
    pub fn set_apr(&self, value: u32) {
        self.registers.apr.set(value);
    }

    /// GICH_MISR: why there is a maintenance interrupt.
    pub fn misr(&self) -> LocalRegisterCopy<u32, MISR::Register> {
        self.registers.misr.extract()
    }

    /// GICH_EISR0 and 1: which list registers ended an interrupt that asked for maintenance.
    pub fn eisr(&self) -> u64 {
        Self::pair(&self.registers.eisr)
    }

    /// GICH_ELRSR0 and 1: which list registers are empty.
    pub fn elrsr(&self) -> u64 {
        Self::pair(&self.registers.elrsr)
    }

    fn pair([low, high]: &[ReadOnly<u32>; 2]) -> u64 {
        u64::from(high.get()) << 32 | u64::from(low.get())
    }
}
