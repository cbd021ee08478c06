//! What CPUs are turned on with, and the machine off or started again: its firmware's PSCI where the board's
//! device tree offers that (Arm DEN0022), else its watchdog.

use core::fmt::Write;
use core::sync::atomic::{AtomicU8, Ordering};

use aarch64_cpu::asm;
use smccc::{Hvc, Smc, psci};
use spin::Once;

use crate::addr::{PhysAddr, Region};
use crate::console;
use crate::platform::board::Conduit;
use crate::platform::driver::bcm2835_pm::Bcm2835Pm;
use crate::platform::driver::mmio::Mmio;

const NONE: u8 = 0;
const HVC: u8 = 1;
const SMC: u8 = 2;

static CONDUIT: AtomicU8 = AtomicU8::new(NONE);
static WATCHDOG: Once<Bcm2835Pm> = Once::new();

/// How the run ended, as the last line says it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Every guest has stopped of its own accord.
    Ok,
    /// It did not end well, for this reason.
    Failed(&'static str),
}

/// Use PSCI from now on, and the watchdog with these registers, which are mapped; `None` for what the
/// board has not.
pub fn init(conduit: Option<Conduit>, watchdog: Option<Region<PhysAddr>>) {
    if let Some(registers) = watchdog {
        // SAFETY: the tree says the device is there, and the caller that it is mapped.
        let registers = unsafe { Mmio::new(registers) };
        if let Ok(watchdog) = Bcm2835Pm::new(registers) {
            WATCHDOG.call_once(|| watchdog);
        }
    }
    let value = match conduit {
        None => NONE,
        Some(Conduit::Hvc) => HVC,
        Some(Conduit::Smc) => SMC,
    };
    CONDUIT.store(value, Ordering::Release);
}

/// Start the CPU with affinity `mpidr` at the physical address `entry` with `context` in `x0`.
///
/// # Errors
/// What PSCI answered, or that the board has no PSCI.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), &'static str> {
    let result = match CONDUIT.load(Ordering::Acquire) {
        HVC => psci::cpu_on::<Hvc>(mpidr, entry, context),
        SMC => psci::cpu_on::<Smc>(mpidr, entry, context),
        _ => return Err("the board has no PSCI"),
    };
    result.map_err(|error| match error {
        psci::Error::NotSupported => "not supported",
        psci::Error::InvalidParameters => "invalid parameters: no such CPU",
        psci::Error::Denied => "denied",
        psci::Error::AlreadyOn => "already on",
        psci::Error::OnPending => "on pending",
        psci::Error::InternalFailure => "internal failure",
        psci::Error::InvalidAddress => "invalid address",
        _ => "unknown error",
    })
}

/// Say the verdict as the last line of all, and power the machine off. Stops here for good where there is
/// no way to.
pub fn off(verdict: Verdict) -> ! {
    let mut out = console::Emergency::new();
    let _ = match verdict {
        Verdict::Ok => writeln!(out, "plinth: power off (ok)"),
        Verdict::Failed(reason) => writeln!(out, "plinth: power off (failed: {reason})"),
    };
    leave(psci::system_off::<Hvc>, psci::system_off::<Smc>, Bcm2835Pm::power_off)
}

/// Say so as the last line of all, and start the machine again. Stops here for good where there is no way to.
pub fn restart() -> ! {
    let _ = writeln!(console::Emergency::new(), "plinth: restart");
    leave(psci::system_reset::<Hvc>, psci::system_reset::<Smc>, Bcm2835Pm::restart)
}

/// End by the first of these that the board has.
fn leave(
    hvc: fn() -> Result<(), psci::Error>,
    smc: fn() -> Result<(), psci::Error>,
    watchdog: fn(&Bcm2835Pm),
) -> ! {
    match CONDUIT.load(Ordering::Acquire) {
        HVC => _ = hvc(),
        SMC => _ = smc(),
        _ => {}
    }
    if let Some(registers) = WATCHDOG.get() {
        watchdog(registers);
    }
    loop {
        asm::wfi();
    }
}
