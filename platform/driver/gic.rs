//! The registers about single interrupts, which the GICv2 distributor (IHI 0048B, "Distributor register
//! map"), the GICv3 distributor and the GICv3 redistributor's `SGI_base` frame (IHI 0069H, "The
//! Distributor register map", "The Redistributor register map") have at the same offsets.

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

use super::DriverError;
use super::mmio::{Block, Mmio};
use crate::platform::Trigger;
use crate::vgic::IntId;

register_bitfields! { u32,
    /// Distributor Control Register, GICD_CTLR: GICv2's one group, and GICv3's names. In GICv3's
    /// non-secure view bit 1 is EnableGrp1A, with one security state it is EnableGrp1: the same
    /// interrupts. ARE is ARE_NS in the former.
    pub(super) CTLR [
        EnableGrp0 OFFSET(0) NUMBITS(1) [],
        EnableGrp1 OFFSET(1) NUMBITS(1) [],
        ARE OFFSET(4) NUMBITS(1) [],
        RWP OFFSET(31) NUMBITS(1) []
    ],
    /// Interrupt Controller Type Register, GICD_TYPER.
    pub(super) TYPER [ ITLinesNumber OFFSET(0) NUMBITS(5) [] ],
    /// Software Generated Interrupt Register, GICD_SGIR (GICv2).
    pub(super) SGIR [
        INTID OFFSET(0) NUMBITS(4) [],
        /// The SGI is in group 1; the Secure view's alone.
        NSATT OFFSET(15) NUMBITS(1) [],
        CPUTargetList OFFSET(16) NUMBITS(8) [],
        TargetListFilter OFFSET(24) NUMBITS(2) [ List = 0 ]
    ]
}

register_structs! {
    /// One frame. `ctlr`, `typer`, `target` and what follows `config` are only the distributor's.
    pub(super) Registers {
        (0x000 => pub(super) ctlr: ReadWrite<u32, CTLR::Register>),
        (0x004 => pub(super) typer: ReadOnly<u32, TYPER::Register>),
        (0x008 => pub(super) iidr: ReadOnly<u32>),
        (0x00c => _identification),
        (0x080 => pub(super) group: [ReadWrite<u32>; 32]),
        (0x100 => set_enable: [ReadWrite<u32>; 32]),
        (0x180 => clear_enable: [ReadWrite<u32>; 32]),
        (0x200 => set_pending: [ReadWrite<u32>; 32]),
        (0x280 => clear_pending: [ReadWrite<u32>; 32]),
        (0x300 => set_active: [ReadWrite<u32>; 32]),
        (0x380 => clear_active: [ReadWrite<u32>; 32]),
        (0x400 => priority: [ReadWrite<u8>; 1020]),
        (0x7fc => _reserved),
        (0x800 => pub(super) target: [ReadWrite<u8>; 1020]),
        (0xbfc => _reserved2),
        (0xc00 => config: [ReadWrite<u32>; 64]),
        (0xd00 => _implementation_defined),
        (0xf00 => pub(super) sgir: WriteOnly<u32, SGIR::Register>),
        (0xf04 => _reserved3),
        (0xf10 => pub(super) clear_sgi_pending: [ReadWrite<u8>; 16]),
        (0xf20 => _set_sgi_pending_and_identification),
        (0x1000 => @END),
    }
}

/// The priority every interrupt gets: the middle one of those a non-secure caller has.
pub const DEFAULT_PRIORITY: u8 = 0xa0;
/// The first number that is no interrupt's (IHI 0048B, "Interrupt IDs").
const SPECIAL: u16 = 1020;

/// The interrupts of one frame. Those below 32 are this CPU's own: with GICv2 each CPU sees other
/// registers in their place.
///
/// Only [`set_trigger`](Self::set_trigger) reads before it writes; it needs a lock where several CPUs
/// use a frame. None of these has a barrier: a change is in effect some time later, unless the caller
/// waits for it.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    pub(super) registers: Block<Registers>,
    limit: u16,
}

impl Lines {
    /// The interrupts of a distributor, as many as it says it has.
    pub(super) fn of_distributor(mmio: Mmio) -> Result<Self, DriverError> {
        let registers: Block<Registers> = mmio.block(0)?;
        let words = u16::try_from(registers.typer.read(TYPER::ITLinesNumber)).unwrap_or(0) + 1;
        Ok(Self { registers, limit: (words * 32).min(SPECIAL) })
    }

    /// The 32 interrupts of a redistributor's `SGI_base` frame.
    pub(super) fn of_redistributor(sgi_base: Mmio) -> Result<Self, DriverError> {
        Ok(Self { registers: sgi_base.block(0)?, limit: 32 })
    }

    /// The first number that is not in this frame.
    pub fn limit(&self) -> u16 {
        self.limit
    }

    /// Lets the interrupt through.
    pub fn enable(&self, intid: IntId) -> Result<(), DriverError> {
        self.set_bit(&self.registers.set_enable, intid)
    }

    /// Holds the interrupt back. With GICv3 it can still be taken until RWP reads zero.
    pub fn disable(&self, intid: IntId) -> Result<(), DriverError> {
        self.set_bit(&self.registers.clear_enable, intid)
    }

    /// Whether the interrupt is let through.
    pub fn is_enabled(&self, intid: IntId) -> Result<bool, DriverError> {
        self.bit(&self.registers.set_enable, intid)
    }

    /// Makes the interrupt pending.
    pub fn set_pending(&self, intid: IntId) -> Result<(), DriverError> {
        self.set_bit(&self.registers.set_pending, intid)
    }

    /// Forgets that the interrupt is pending; one whose level is high stays so.
    pub fn clear_pending(&self, intid: IntId) -> Result<(), DriverError> {
        self.set_bit(&self.registers.clear_pending, intid)
    }

    /// Whether the interrupt is pending.
    pub fn is_pending(&self, intid: IntId) -> Result<bool, DriverError> {
        self.bit(&self.registers.set_pending, intid)
    }

    /// Makes the interrupt active, as if it had been acknowledged.
    pub fn set_active(&self, intid: IntId) -> Result<(), DriverError> {
        self.set_bit(&self.registers.set_active, intid)
    }

    /// Deactivates the interrupt, on whichever CPU it was acknowledged.
    pub fn clear_active(&self, intid: IntId) -> Result<(), DriverError> {
        self.set_bit(&self.registers.clear_active, intid)
    }

    /// Whether the interrupt is active.
    pub fn is_active(&self, intid: IntId) -> Result<bool, DriverError> {
        self.bit(&self.registers.set_active, intid)
    }

    /// Sets the interrupt's priority; 0 is the highest. Fewer than eight bits of it may be kept.
    pub fn set_priority(&self, intid: IntId, priority: u8) -> Result<(), DriverError> {
        self.check(intid)?;
        let register = self.registers.priority.get(usize::from(intid.0));
        register.ok_or(DriverError::NoSuchInterrupt(intid))?.set(priority);
        Ok(())
    }

    /// Says what the interrupt's line does; an SGI has none. The interrupt is to be disabled meanwhile
    /// (IHI 0048B, "Interrupt Configuration Registers, GICD_ICFGRn"), and a PPI's may be fixed.
    pub fn set_trigger(&self, intid: IntId, trigger: Trigger) -> Result<(), DriverError> {
        self.check(intid)?;
        let register = self.registers.config.get(usize::from(intid.0) / 16);
        let register = register.filter(|_| intid.0 >= 16);
        let register = register.ok_or(DriverError::NoSuchInterrupt(intid))?;
        // Two bits each, of which the upper one is 1 for an edge.
        let edge = 0b10 << (intid.0 % 16 * 2);
        register.set(match trigger {
            Trigger::Edge => register.get() | edge,
            Trigger::Level => register.get() & !edge,
        });
        Ok(())
    }

    /// Whether interrupts can be put into either group: the first 32, which are all in group 1 afterwards. Where the Secure
    /// world has group 0 the registers read as zero to us (IHI 0048B, "Interrupt Group Registers, GICD_IGROUPRn"; IHI 0069H,
    /// "GICR_IGROUPR0, Interrupt Group Register 0").
    pub fn has_groups(&self) -> bool {
        let Some(register) = self.registers.group.first() else { return false };
        register.set(u32::MAX);
        register.get() != 0
    }

    /// Puts one of the first 32 interrupts, which are the caller's own, into group 0. It is to be disabled.
    pub fn set_group_0(&self, intid: IntId) -> Result<(), DriverError> {
        let (register, bit) = self.word(&self.registers.group, intid)?;
        register.set(register.get() & !bit);
        Ok(())
    }

    /// Makes the 32 interrupts of each word in `words` quiet: in group 1 or 0, not enabled, not pending,
    /// not active, of [`DEFAULT_PRIORITY`], and level-triggered where that can be chosen.
    pub(super) fn reset(&self, words: core::ops::Range<u16>, group_1: bool) {
        let registers = &self.registers;
        for word in words.clone().map(usize::from) {
            for bank in [&registers.clear_enable, &registers.clear_pending, &registers.clear_active]
            {
                if let Some(register) = bank.get(word) {
                    register.set(u32::MAX);
                }
            }
            if let Some(register) = registers.group.get(word) {
                register.set(if group_1 { u32::MAX } else { 0 });
            }
        }
        for intid in words.start * 32..(words.end * 32).min(self.limit) {
            if let Some(register) = registers.priority.get(usize::from(intid)) {
                register.set(DEFAULT_PRIORITY);
            }
        }
        // The first is the SGIs', which have no lines. Every PPI in use is a level, and one that is not
        // wired as that for good may have been left otherwise.
        for config in (words.start * 2).max(1)..words.end * 2 {
            if let Some(register) = registers.config.get(usize::from(config)) {
                register.set(0);
            }
        }
    }

    /// Holds all 32 interrupts of `word` back.
    pub(super) fn disable_word(&self, word: usize) {
        if let Some(register) = self.registers.clear_enable.get(word) {
            register.set(u32::MAX);
        }
    }

    /// How many words of 32 interrupts the frame has.
    pub(super) fn words(&self) -> u16 {
        self.limit.div_ceil(32)
    }

    pub(super) fn check(&self, intid: IntId) -> Result<(), DriverError> {
        if intid.0 < self.limit { Ok(()) } else { Err(DriverError::NoSuchInterrupt(intid)) }
    }

    fn word<'r>(
        &self,
        bank: &'r [ReadWrite<u32>; 32],
        intid: IntId,
    ) -> Result<(&'r ReadWrite<u32>, u32), DriverError> {
        self.check(intid)?;
        let register = bank.get(usize::from(intid.0) / 32);
        let register = register.ok_or(DriverError::NoSuchInterrupt(intid))?;
        Ok((register, 1 << (intid.0 % 32)))
    }

    /// Writes a one to the interrupt's bit, and zeroes, which do nothing, to all others.
    fn set_bit(&self, bank: &[ReadWrite<u32>; 32], intid: IntId) -> Result<(), DriverError> {
        let (register, bit) = self.word(bank, intid)?;
        register.set(bit);
        Ok(())
    }

    fn bit(&self, bank: &[ReadWrite<u32>; 32], intid: IntId) -> Result<bool, DriverError> {
        let (register, bit) = self.word(bank, intid)?;
        Ok(register.get() & bit != 0)
    }
}
