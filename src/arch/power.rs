//! The machine's own firmware: PSCI as the board's device tree offers it (Arm DEN0022).

use core::fmt::Write;
use core::sync::atomic::{AtomicU8, Ordering};

use aarch64_cpu::asm;
use smccc::{Hvc, Smc, psci};

use crate::console;
use crate::platform::board::Conduit;

const NONE: u8 = 0;
const HVC: u8 = 1;
const SMC: u8 = 2;

static CONDUIT: AtomicU8 = AtomicU8::new(NONE);

/// How the run ended, as the last line says it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Every guest has stopped of its own accord.
    Ok,
    /// It did not end well, for this reason.
    Failed(&'static str),
}

/// Use PSCI from now on; `None` when the board has none.
pub fn init(conduit: Option<Conduit>) {
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

/// Say the verdict as the last line of all, and power the machine off. Stops here for good where
/// there is no PSCI.
pub fn off(verdict: Verdict) -> ! {
    let mut out = console::Emergency::new();
    let _ = match verdict {
        Verdict::Ok => writeln!(out, "plinth: power off (ok)"),
        Verdict::Failed(reason) => writeln!(out, "plinth: power off (failed: {reason})"),
    };
    match CONDUIT.load(Ordering::Acquire) {
        HVC => _ = psci::system_off::<Hvc>(),
        SMC => _ = psci::system_off::<Smc>(),
        _ => {}
    }
    loop {
        asm::wfi();
    }
}
