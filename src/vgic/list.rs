//! List registers as both GIC versions have them: `GICH_LRn` (IHI 0048, "List Registers") and
//! `ICH_LR<n>_EL2` (IHI 0069, "Interrupt Controller List Registers").

use super::IntId;

/// The most list registers a CPU has (`ICH_VTR_EL2.ListRegs`; GICv2 allows 64, none has them).
pub const MAX_LIST_REGISTERS: usize = 16;

/// The state of the interrupt in a list register; an invalid one is `None` where this is optional.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum LrState {
    /// 0b01.
    Pending,
    /// 0b10.
    Active,
    /// 0b11.
    PendingActive,
}

impl LrState {
    /// Whether the interrupt is pending, active or not.
    pub const fn is_pending(self) -> bool {
        !matches!(self, Self::Active)
    }

    /// Whether the interrupt is active, pending or not.
    pub const fn is_active(self) -> bool {
        !matches!(self, Self::Pending)
    }
}

/// What ends with the guest's deactivation: the `HW` bit and what its value gives a meaning to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Link {
    /// `HW` 0: nothing but the virtual interrupt.
    Software {
        /// `EOI`: ask for a maintenance interrupt when the register becomes invalid.
        eoi_maintenance: bool,
        /// `CPUID`: the vCPU that sent a GICv2 SGI; else 0.
        source: u8,
    },
    /// `HW` 1: the physical interrupt is deactivated with it, without an exit.
    Hardware {
        /// `pINTID`.
        physical: IntId,
    },
}

/// What a list register holds, whatever the hardware's format. Aligned so that it moves in registers.
#[repr(align(8))]
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ListRegister {
    /// `vINTID`.
    pub intid: IntId,
    /// `State`.
    pub state: LrState,
    /// `Priority`, as the guest's eight bits.
    pub priority: u8,
    /// `Group`: the guest has put the interrupt into group 1.
    pub group1: bool,
    /// `HW`, `EOI`, `pINTID`, `CPUID`.
    pub link: Link,
}

/// The list registers of the CPU that runs a vCPU: GICH, ICH or an array.
pub trait ListRegisters {
    /// How many there are, 1 to [`MAX_LIST_REGISTERS`].
    fn count(&self) -> usize;

    /// What the register `index` holds; `None` when its state is invalid (0b00).
    fn read(&self, index: usize) -> Option<ListRegister>;

    /// Whether the register `index` can be written anew: its state is invalid, and no end of its interrupt may be left to be
    /// told.
    fn is_empty(&self, index: usize) -> bool {
        self.read(index).is_none()
    }

    /// Sets the register `index`; `None` writes all of it to zero, its `EOI` bit too.
    fn write(&mut self, index: usize, lr: Option<ListRegister>);

    /// The register `index` holds `lr` already, as its guest has left it, and goes on with that: it counts as written.
    fn keep(&mut self, index: usize, lr: ListRegister);

    /// Sets the register `index` to what was last written to it.
    fn repeat(&mut self, index: usize);

    /// Empties the register `index`, its `EOI` bit too; what was written to it can still be [repeated](Self::repeat).
    fn clear(&mut self, index: usize);

    /// `EISR`: the registers whose interrupt has ended and whose `EOI` bit asks for maintenance, a bit for each.
    fn ended(&self) -> u32;

    /// Whether a deactivation by `HW` of an interrupt whose input is still high goes unnoticed until something else
    /// happens at the interrupt controller, so that [`Link::Hardware`] is not to be written. No hardware is like
    /// that; QEMU's GICv2 is, and a guest that re-arms its timer in the past would wait for ever.
    fn forgets_levels(&self) -> bool;

    /// `HCR.EOICount`: how many interrupts without a list register the guest deactivated since the
    /// last call. It is zero afterwards.
    fn take_eoi_count(&mut self) -> u32;

    /// Sets `HCR.NPIE` and `HCR.LRENPIE`: ask for a maintenance interrupt while no register is in
    /// the state pending, or while `HCR.EOICount` is not zero.
    ///
    /// `NPIE` rather than `UIE`: underflow never comes while the guest keeps two interrupts active,
    /// and on a CPU with one register it never goes.
    fn set_maintenance(&mut self, no_pending: bool, entry_not_present: bool);

    /// Clears the physical active state of a linked interrupt. Only for one whose active state was
    /// handed over with [`Vgic::set_level`] or [`Vgic::raise`].
    ///
    /// [`Vgic::set_level`]: super::Vgic::set_level
    /// [`Vgic::raise`]: super::Vgic::raise
    fn deactivate(&mut self, physical: IntId);
}
