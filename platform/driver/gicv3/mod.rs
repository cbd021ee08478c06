//! The memory-mapped half of GICv3 and GICv4 (IHI 0069H): the distributor here, the redistributors in
//! [`redistributor`]. The CPU interface is system registers and not here; LPIs are not used.
//!
//! All interrupts are in Non-secure group 1, with affinity routing, except for those that are to come as FIQ. In the Non-secure
//! view of a GIC with two security states the group registers ignore writes; with one state (GICD_CTLR.DS) they need them.

pub mod redistributor;

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::ReadWrite;

use super::gic::{CTLR, Lines};
use super::mmio::{Block, Mmio};
use super::{DriverError, poll};
use crate::vgic::IntId;

register_structs! {
    /// Interrupt Routing Registers, GICD_IROUTERn; those of the first 32 interrupts do not exist.
    pub(super) Routing {
        (0x0000 => router: [ReadWrite<u64>; 1020]),
        (0x1fe0 => @END),
    }
}

/// Where in the distributor GICD_IROUTER0 would be.
const ROUTING: usize = 0x6000;
/// The fields of `MPIDR_EL1` that GICD_IROUTERn has as well, in the same place.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// The distributor.
#[derive(Clone, Copy, Debug)]
pub struct Distributor {
    lines: Lines,
    routing: Block<Routing>,
}

impl Distributor {
    /// The distributor with the registers `gicd`.
    pub fn new(gicd: Mmio) -> Result<Self, DriverError> {
        Ok(Self { lines: Lines::of_distributor(gicd)?, routing: gicd.block(ROUTING)? })
    }

    /// The SPIs. The interrupts below 32 are not here but in each [`redistributor`].
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Sets the distributor up, on the first CPU: every SPI is disabled, neither pending nor active, and
    /// goes to the CPU `mpidr`.
    pub fn init(&self, mpidr: u64) -> Result<(), DriverError> {
        let registers = &self.lines.registers;
        // ARE may change only while all groups are disabled, so that comes first.
        let routing = registers.ctlr.extract().is_set(CTLR::ARE);
        registers.ctlr.write(CTLR::ARE.val(routing.into()));
        self.wait()?;
        registers.ctlr.write(CTLR::ARE::SET);
        self.wait()?;
        self.lines.reset(1..self.lines.words(), true);
        self.wait()?;
        for intid in 32..self.lines.limit() {
            self.set_route(IntId(intid), mpidr)?;
        }
        registers.ctlr.write(CTLR::ARE::SET + CTLR::EnableGrp1::SET);
        self.wait()
    }

    /// Lets interrupts of group 0 through, where that is ours ([`Lines::has_groups`]).
    pub fn enable_group_0(&self) -> Result<(), DriverError> {
        self.lines.registers.ctlr.modify(CTLR::EnableGrp0::SET);
        self.wait()
    }

    /// Has the SPI `intid` go to the CPU `mpidr`.
    pub fn set_route(&self, intid: IntId, mpidr: u64) -> Result<(), DriverError> {
        self.lines.check(intid)?;
        let register = self.routing.router.get(usize::from(intid.0)).filter(|_| intid.0 >= 32);
        register.ok_or(DriverError::NoSuchInterrupt(intid))?.set(mpidr & AFFINITY);
        Ok(())
    }

    /// Waits until what was disabled is so for every CPU (GICD_CTLR.RWP).
    pub fn wait(&self) -> Result<(), DriverError> {
        poll(|| !self.lines.registers.ctlr.is_set(CTLR::RWP))
    }
}

#[cfg(test)]
mod tests;
