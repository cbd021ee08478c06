//! GICv2 with the Virtualization Extensions (IHI 0048B), such as the GIC-400 of the Raspberry Pi 4: the
//! distributor here, the CPU interface in [`gicc`], the list registers in [`gich`].
//!
//! Firmware that runs in the Secure state has group 0 for itself, and moves every interrupt to group 1. In the Non-secure view
//! that is the one group that there is, and its enable bits are where group 0's are otherwise. Without Security Extensions
//! (QEMU) both groups are ours: all interrupts are in group 1 as well, except for those that are to come as FIQ.

pub mod gicc;
pub mod gich;

use tock_registers::interfaces::{Readable, Writeable};

use super::DriverError;
use super::gic::{CTLR, Lines, SGIR};
use super::mmio::Mmio;
use crate::vgic::IntId;

/// CPU interfaces, one bit each (IHI 0048B, "Interrupt Processor Targets Registers").
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Interfaces(pub u8);

/// The distributor.
#[derive(Clone, Copy, Debug)]
pub struct Distributor {
    lines: Lines,
    has_groups: bool,
}

impl Distributor {
    /// The distributor with the registers `gicd`. The calling CPU's SGIs and PPIs are all in group 1 afterwards.
    pub fn new(gicd: Mmio) -> Result<Self, DriverError> {
        let lines = Lines::of_distributor(gicd)?;
        Ok(Self { lines, has_groups: lines.has_groups() })
    }

    /// Whether both groups are ours.
    pub fn has_groups(&self) -> bool {
        self.has_groups
    }

    /// Who made it: GICD_IIDR. A GIC-400 has the product number 2 in the uppermost byte.
    pub fn iidr(&self) -> u32 {
        self.lines.registers.iidr.get()
    }

    /// The interrupts; those below 32 are the calling CPU's.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Sets the distributor up, on the first CPU: every SPI is disabled, neither pending nor active, and
    /// goes to the CPU that calls this. [`init_cpu`](Self::init_cpu) is still to be called.
    pub fn init(&self) {
        let registers = &self.lines.registers;
        registers.ctlr.set(0);
        self.lines.reset(1..self.lines.words(), true);
        let here = self.this_interface();
        for intid in 32..self.lines.limit() {
            if let Some(register) = registers.target.get(usize::from(intid)) {
                register.set(here.0);
            }
        }
        registers.ctlr.write(CTLR::EnableGrp0::SET + CTLR::EnableGrp1.val(self.has_groups.into()));
    }

    /// Sets up what the calling CPU has of its own: its SGIs and PPIs, all disabled.
    pub fn init_cpu(&self) {
        self.lines.reset(0..1, true);
        // GICD_ICPENDR0 does not reach the SGIs, which are pending once for each sender.
        for register in &self.lines.registers.clear_sgi_pending {
            register.set(u8::MAX);
        }
    }

    /// The CPU interface of the calling CPU. The tree does not tell and `MPIDR_EL1` need not agree, but
    /// GICD_ITARGETSR0 to 7 read as the reader's own interface.
    pub fn this_interface(&self) -> Interfaces {
        let targets = self.lines.registers.target.iter().take(32);
        let own = targets.map(Readable::get).find(|target| *target != 0);
        // They read as zero where there is only one CPU.
        Interfaces(own.unwrap_or(1))
    }

    /// Has the SPI `intid` go to one of `interfaces`.
    pub fn set_target(&self, intid: IntId, interfaces: Interfaces) -> Result<(), DriverError> {
        self.lines.check(intid)?;
        let register = self.lines.registers.target.get(usize::from(intid.0));
        let register = register.filter(|_| intid.0 >= 32);
        register.ok_or(DriverError::NoSuchInterrupt(intid))?.set(interfaces.0);
        Ok(())
    }

    /// Sends the SGI `intid` to all of `interfaces`. A `DSB ISHST` is needed before this, for what the
    /// interrupted CPUs are to see.
    pub fn send_sgi(&self, intid: IntId, interfaces: Interfaces) -> Result<(), DriverError> {
        if intid.0 >= 16 {
            return Err(DriverError::NoSuchInterrupt(intid));
        }
        self.lines.registers.sgir.write(
            SGIR::TargetListFilter::List
                + SGIR::CPUTargetList.val(interfaces.0.into())
                + SGIR::NSATT.val(self.has_groups.into())
                + SGIR::INTID.val(intid.0.into()),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
