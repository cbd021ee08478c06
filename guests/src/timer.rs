//! The generic timer (Arm ARM, "The Generic Timer in AArch64 state"): the virtual counter, and the
//! EL1 virtual and physical timers behind one set of methods.

use crate::{mrs, msr};

/// `CNTx_CTL_EL0.ENABLE`.
pub const ENABLE: u64 = 1;
/// `CNTx_CTL_EL0.IMASK`.
pub const IMASK: u64 = 2;
/// `CNTx_CTL_EL0.ISTATUS`.
pub const ISTATUS: u64 = 4;

/// One of the two timers of EL1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Timer {
    /// `CNTV`.
    Virtual,
    /// `CNTP`.
    Physical,
}

impl Timer {
    /// Its INTID on this board.
    pub const fn intid(self) -> u32 {
        match self {
            Self::Virtual => 27,
            Self::Physical => 30,
        }
    }

    /// The counter it compares with.
    pub fn count(self) -> u64 {
        crate::instruction!("isb");
        match self {
            Self::Virtual => mrs!("cntvct_el0"),
            Self::Physical => mrs!("cntpct_el0"),
        }
    }

    /// Reads `CTL`.
    pub fn ctl(self) -> u64 {
        crate::instruction!("isb");
        match self {
            Self::Virtual => mrs!("cntv_ctl_el0"),
            Self::Physical => mrs!("cntp_ctl_el0"),
        }
    }

    /// Writes `CTL`.
    pub fn set_ctl(self, value: u64) {
        match self {
            Self::Virtual => msr!("cntv_ctl_el0", value),
            Self::Physical => msr!("cntp_ctl_el0", value),
        }
    }

    /// Reads `CVAL`.
    pub fn cval(self) -> u64 {
        match self {
            Self::Virtual => mrs!("cntv_cval_el0"),
            Self::Physical => mrs!("cntp_cval_el0"),
        }
    }

    /// Writes `CVAL`.
    pub fn set_cval(self, value: u64) {
        match self {
            Self::Virtual => msr!("cntv_cval_el0", value),
            Self::Physical => msr!("cntp_cval_el0", value),
        }
    }

    /// Reads `TVAL`: 32 bits, signed.
    pub fn tval(self) -> i32 {
        match self {
            Self::Virtual => mrs!("cntv_tval_el0") as i32,
            Self::Physical => mrs!("cntp_tval_el0") as i32,
        }
    }

    /// Writes `TVAL`.
    pub fn set_tval(self, value: i32) {
        let value = u64::from(value as u32);
        match self {
            Self::Virtual => msr!("cntv_tval_el0", value),
            Self::Physical => msr!("cntp_tval_el0", value),
        }
    }

    /// Whether its condition is met.
    pub fn fired(self) -> bool {
        self.ctl() & ISTATUS != 0
    }

    /// Fires `ticks` from now.
    pub fn arm(self, ticks: u64) {
        self.set_cval(self.count() + ticks);
        self.set_ctl(ENABLE);
    }

    /// Switches it off.
    pub fn stop(self) {
        self.set_ctl(0);
    }
}

/// `CNTFRQ_EL0`, in Hz.
pub fn frequency() -> u64 {
    mrs!("cntfrq_el0")
}

/// Ticks in `us` microseconds.
pub fn microseconds(us: u64) -> u64 {
    frequency() * us / 1_000_000
}

/// The virtual counter.
pub fn now() -> u64 {
    Timer::Virtual.count()
}

/// Spins until `condition`, for `ms` milliseconds at most; whether it came true.
pub fn wait_until(ms: u64, mut condition: impl FnMut() -> bool) -> bool {
    let end = now() + microseconds(ms * 1000);
    loop {
        if condition() {
            return true;
        }
        if now() >= end {
            return condition();
        }
        core::hint::spin_loop();
    }
}

/// Spins for `us` microseconds.
pub fn spin(us: u64) {
    let end = now() + microseconds(us);
    while now() < end {
        core::hint::spin_loop();
    }
}
