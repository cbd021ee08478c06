//! A CPU's redistributor: its SGIs and PPIs (IHI 0069H, "The Redistributor register map").
//!
//! Two frames of 64 KiB, `RD_base` and `SGI_base`; with virtual LPIs (GICv4) two more. Which CPU one
//! belongs to only GICR_TYPER says, so they are looked through.

use tock_registers::interfaces::{ReadWriteable, Readable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

use crate::platform::driver::gic::Lines;
use crate::platform::driver::mmio::{Block, Mmio};
use crate::platform::driver::{DriverError, poll};

register_bitfields! { u32,
    /// Redistributor Control Register, GICR_CTLR.
    CTLR [ RWP OFFSET(3) NUMBITS(1) [] ],
    /// Redistributor Wake Register, GICR_WAKER.
    WAKER [ ProcessorSleep OFFSET(1) NUMBITS(1) [], ChildrenAsleep OFFSET(2) NUMBITS(1) [] ]
}

register_bitfields! { u64,
    /// Redistributor Type Register, GICR_TYPER.
    TYPER [
        VLPIS OFFSET(1) NUMBITS(1) [],
        Last OFFSET(4) NUMBITS(1) [],
        /// Aff3 to Aff0, one byte each.
        Affinity_Value OFFSET(32) NUMBITS(32) []
    ]
}

register_structs! {
    /// The start of `RD_base`.
    pub(in crate::platform::driver) Registers {
        (0x00 => ctlr: ReadWrite<u32, CTLR::Register>),
        (0x04 => _iidr),
        (0x08 => typer: ReadOnly<u64, TYPER::Register>),
        (0x10 => _statusr),
        (0x14 => waker: ReadWrite<u32, WAKER::Register>),
        (0x18 => @END),
    }
}

const FRAME: usize = 0x1_0000;
/// `RD_base` and `SGI_base`.
const GICV3_SIZE: usize = 2 * FRAME;
/// The same, `VLPI_base` and a reserved frame.
const GICV4_SIZE: usize = 4 * FRAME;

/// A CPU's redistributor.
#[derive(Clone, Copy, Debug)]
pub struct Redistributor {
    registers: Block<Registers>,
    lines: Lines,
}

impl Redistributor {
    /// The redistributor of the CPU with the affinity fields `mpidr`, in one of `regions`. They are
    /// `stride` apart, where the device tree says so. GICR_TYPER.Last ends a region early, but no region
    /// is left for want of it.
    pub fn find(regions: &[Mmio], stride: Option<u64>, mpidr: u64) -> Result<Self, DriverError> {
        let stride = match stride.map(usize::try_from) {
            None => None,
            Some(Ok(stride)) if stride >= GICV3_SIZE && stride % FRAME == 0 => Some(stride),
            Some(_) => return Err(DriverError::NoRegisters),
        };
        for region in regions {
            let mut offset = 0;
            while let Ok(frames) = region.part(offset, GICV3_SIZE) {
                let registers: Block<Registers> = frames.block(0)?;
                let typer = registers.typer.extract();
                if typer.read(TYPER::Affinity_Value) == affinity_value(mpidr) {
                    let lines = Lines::of_redistributor(frames.part(FRAME, FRAME)?)?;
                    return Ok(Self { registers, lines });
                }
                if typer.is_set(TYPER::Last) {
                    break;
                }
                let own = if typer.is_set(TYPER::VLPIS) { GICV4_SIZE } else { GICV3_SIZE };
                // No further than the region, so this cannot wrap.
                offset += stride.unwrap_or(own);
            }
        }
        Err(DriverError::NoRedistributor(mpidr))
    }

    /// The CPU's SGIs and PPIs.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Sets the redistributor up, on its own CPU: awake, and all SGIs and PPIs disabled. To be called
    /// before the CPU interface is enabled (IHI 0069H, "GICR_WAKER, Redistributor Wake Register").
    pub fn init(&self) -> Result<(), DriverError> {
        self.registers.waker.modify(WAKER::ProcessorSleep::CLEAR);
        poll(|| !self.registers.waker.is_set(WAKER::ChildrenAsleep))?;
        // A line's kind may only be changed once it is disabled.
        self.lines.disable_word(0);
        self.wait()?;
        self.lines.reset(0..1, true);
        self.wait()
    }

    /// Waits until what was disabled is so (GICR_CTLR.RWP).
    pub fn wait(&self) -> Result<(), DriverError> {
        poll(|| !self.registers.ctlr.is_set(CTLR::RWP))
    }
}

/// The affinity fields of `MPIDR_EL1` as GICR_TYPER has them: Aff3 next to Aff2.
fn affinity_value(mpidr: u64) -> u64 {
    (mpidr >> 32 & 0xff) << 24 | mpidr & 0xff_ffff
}
