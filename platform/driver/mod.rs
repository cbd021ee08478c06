//! The hypervisor's own MMIO drivers. None has a barrier in it: where the architecture wants a DSB or an
//! ISB between two accesses, the method's page says so and the caller has it. No wait is without bound.
//!
//! | module | what it drives |
//! |---|---|
//! | [`mmio`] | turns an address of the board's into a register block; the one place with `unsafe` |
//! | [`uart`] | the console: [`pl011`] or [`mini_uart`] |
//! | [`bcm2835_pm`] | the Raspberry Pi's way to power off |
//! | [`gic`] | the registers about interrupts that GICv2 and GICv3 share |
//! | [`gicv2`] | distributor, CPU interface, list registers |
//! | [`gicv3`] | distributor and redistributors |

pub mod bcm2835_pm;
pub mod gic;
pub mod gicv2;
pub mod gicv3;
pub mod mini_uart;
pub mod mmio;
pub mod pl011;
pub mod uart;

#[cfg(test)]
pub mod fake;

use crate::vgic::IntId;
use thiserror::Error;

/// What a driver finds wrong with its device or with a request.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum DriverError {
    /// The device tree gives the device too few bytes of registers, or misaligned ones.
    #[error("the region is too small for the device's registers, or not aligned")]
    NoRegisters,
    /// The device did not do in time what it had to.
    #[error("the device does not answer")]
    Timeout,
    /// The interrupt controller has no such interrupt, or cannot do this with it.
    #[error("no such interrupt: {}", .0.0)]
    NoSuchInterrupt(IntId),
    /// No redistributor belongs to this CPU.
    #[error("no redistributor for the CPU {0:#x}")]
    NoRedistributor(u64),
}

/// How often a condition is looked at before the device counts as dead: for a device that answers within
/// 100 ns each time, a tenth of a second.
const MOST_POLLS: u32 = if cfg!(miri) { 100 } else { 1_000_000 };

/// Waits until `condition` holds, but not for ever.
fn poll(mut condition: impl FnMut() -> bool) -> Result<(), DriverError> {
    for _ in 0..MOST_POLLS {
        if condition() {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(DriverError::Timeout)
}
