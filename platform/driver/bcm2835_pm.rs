//! The power management block of Broadcom's BCM2835 to BCM2711: its watchdog is what resets a Raspberry
//! Pi, and what turns it off as far as it can be.
//!
//! There is no public manual; the registers and their values are those of Linux's `bcm2835_wdt`.

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::ReadWrite;
use tock_registers::{register_bitfields, register_structs};

use super::DriverError;
use super::mmio::{Block, Mmio};

/// What the uppermost byte of everything that is written has to be.
const PASSWORD: u32 = 0x5a;

register_bitfields! { u32,
    RSTC [ PASSWORD OFFSET(24) NUMBITS(8) [], WRCFG OFFSET(4) NUMBITS(2) [ FullReset = 2 ] ],
    /// In units of 1/65536 s.
    WDOG [ PASSWORD OFFSET(24) NUMBITS(8) [], TIME OFFSET(0) NUMBITS(20) [] ]
}

register_structs! {
    /// The registers.
    pub(super) Registers {
        (0x00 => _graphics),
        (0x1c => rstc: ReadWrite<u32, RSTC::Register>),
        (0x20 => rsts: ReadWrite<u32>),
        (0x24 => wdog: ReadWrite<u32, WDOG::Register>),
        (0x28 => @END),
    }
}

/// In `RSTS`: the partition that the firmware boots from next, in every other bit. 63 is none: it halts.
const HALT: u32 = 0x555;
/// The partition that it boots from unless told otherwise.
const DEFAULT: u32 = 0;

/// How long the watchdog waits: long enough for the store to arrive, in 1/65536 s.
const DELAY: u32 = 10;

/// The power management block.
#[derive(Clone, Copy, Debug)]
pub struct Bcm2835Pm {
    registers: Block<Registers>,
}

impl Bcm2835Pm {
    /// The block with the registers `mmio`.
    pub fn new(mmio: Mmio) -> Result<Self, DriverError> {
        Ok(Self { registers: mmio.block(0)? })
    }

    /// Resets the machine such that the firmware halts instead of booting again. It is off a few hundred
    /// microseconds later.
    pub fn power_off(&self) {
        self.reset(HALT);
    }

    /// Resets the machine such that the firmware boots again, from where it always does.
    pub fn restart(&self) {
        self.reset(DEFAULT);
    }

    fn reset(&self, partition: u32) {
        let Registers { rstc, rsts, wdog, .. } = &*self.registers;
        rsts.set(PASSWORD << 24 | rsts.get() & 0x00ff_ffff & !HALT | partition);
        wdog.write(WDOG::PASSWORD.val(PASSWORD) + WDOG::TIME.val(DELAY));
        rstc.modify(RSTC::PASSWORD.val(PASSWORD) + RSTC::WRCFG::FullReset);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakePages;
    use super::*;

    #[test]
    fn where_to_boot_from_is_said_before_the_watchdog_is_started() {
        type End = fn(&Bcm2835Pm);
        for (end, before, after) in [
            (Bcm2835Pm::power_off as End, 0x0000_1002, 0x5a00_1557),
            // No partition is left chosen.
            (Bcm2835Pm::restart, 0x0000_1557, 0x5a00_1002),
        ] {
            let pages = FakePages::new(0x114);
            pages.write(0x1c, 0x0000_0112u32);
            pages.write(0x20, before);
            end(&Bcm2835Pm::new(pages.mmio()).unwrap());
            assert_eq!(pages.word(0x20), after);
            assert_eq!((pages.word(0x24), pages.word(0x1c)), (0x5a00_000a, 0x5a00_0122));
        }
    }

    #[test]
    fn too_few_registers_are_refused() {
        assert!(Bcm2835Pm::new(FakePages::new(0x20).mmio()).is_err());
    }
}
