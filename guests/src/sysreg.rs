//! System registers by name, and the few facts payloads want of them.

/// Reads the system register called `$name`.
#[macro_export]
macro_rules! mrs {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a system register changes no memory.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack));
        }
        value
    }};
}

/// Writes the system register called `$name`; the next instruction sees it.
#[macro_export]
macro_rules! msr {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: payloads write registers that steer interrupts, timers and traps, or mean harm
        // to themselves only.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack));
        }
    }};
}

/// Executes one operand-less instruction (barriers and hints).
#[macro_export]
macro_rules! instruction {
    ($text:literal) => {{
        // SAFETY: barriers and hints have no operands to be wrong.
        unsafe {
            core::arch::asm!($text, options(nostack));
        }
    }};
}

/// This CPU's affinity: the Aff fields of `MPIDR_EL1`.
pub fn affinity() -> u64 {
    mrs!("mpidr_el1") & 0xff_00ff_ffff
}

/// This CPU's number: on this board Aff1 and the low four bits of Aff0, which is what
/// [`crate::entry`] picks the stack by.
pub fn cpu() -> usize {
    let mpidr = mrs!("mpidr_el1");
    ((mpidr & 0xf) | ((mpidr >> 4) & 0xf0)) as usize
}

/// Lets interrupts in (`PSTATE.I` = 0).
pub fn unmask_interrupts() {
    instruction!("msr daifclr, #2");
}

/// Keeps interrupts out (`PSTATE.I` = 1).
pub fn mask_interrupts() {
    instruction!("msr daifset, #2");
}
