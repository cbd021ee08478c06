//! The generic timer at EL2 (Arm ARM, "The Generic Timer in AArch64 state").

use core::num::NonZeroU32;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, CNTV_CTL_EL0};
use tock_registers::interfaces::{Readable, Writeable};

use super::regs::{CNTHP_CTL_EL2, CNTHP_CVAL_EL2, CNTP_CTL_EL0, CNTP_CVAL_EL0};
use crate::time::{Frequency, Ticks};

const ENABLE: u64 = 1;
/// `ISTATUS`.
const FIRED: u64 = 1 << 2;

/// The system counter.
#[inline]
pub fn now() -> Ticks {
    barrier::isb(barrier::SY); // the counter may be read ahead of earlier instructions otherwise
    Ticks(CNTPCT_EL0.get())
}

/// The system counter, read whenever the CPU comes to it.
#[inline]
pub fn stamp() -> Ticks {
    Ticks(CNTPCT_EL0.get())
}

/// The counter's frequency, as firmware has set it; `None` when it has not.
pub fn frequency() -> Option<Frequency> {
    u32::try_from(CNTFRQ_EL0.get()).ok().and_then(NonZeroU32::new).map(Frequency)
}

/// Have the hypervisor's own timer fire at `at`; `None` for never.
pub fn set_deadline(at: Option<Ticks>) {
    match at {
        Some(Ticks(at)) => {
            CNTHP_CVAL_EL2.set(at);
            CNTHP_CTL_EL2.set(ENABLE);
        }
        None => CNTHP_CTL_EL2.set(0),
    }
    barrier::isb(barrier::SY); // the output changes before interrupts are looked at again
}

/// Have the watchdog's timer fire at `at`; `None` for never.
pub fn set_watchdog(at: Option<Ticks>) {
    match at {
        Some(Ticks(at)) => {
            CNTP_CVAL_EL0.set(at);
            CNTP_CTL_EL0.set(ENABLE);
        }
        None => CNTP_CTL_EL0.set(0),
    }
    barrier::isb(barrier::SY); // the output has fallen before FIQs are let through again
}

/// Whether the watchdog's timer asserts its output.
pub fn watchdog_has_fired() -> bool {
    CNTP_CTL_EL0.get() & (ENABLE | FIRED) == ENABLE | FIRED
}

/// Whether the loaded vCPU's virtual timer asserts its output: enabled, not masked, condition met.
pub fn virtual_asserted() -> bool {
    barrier::isb(barrier::SY);
    CNTV_CTL_EL0.matches_all(
        CNTV_CTL_EL0::ENABLE::SET + CNTV_CTL_EL0::IMASK::CLEAR + CNTV_CTL_EL0::ISTATUS::SET,
    )
}

/// Stop the virtual timer: its registers have been saved.
pub fn stop_virtual() {
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::CLEAR);
    barrier::isb(barrier::SY); // the output falls before its interrupt's state is touched
}
