//! Calls to the firmware: SMCCC (DEN0028) and PSCI (DEN0022), by HVC unless said otherwise.

use core::arch::asm;

/// `PSCI_VERSION`.
pub const VERSION: u32 = 0x8400_0000;
/// `CPU_SUSPEND`, SMC64.
pub const CPU_SUSPEND: u32 = 0xc400_0001;
/// `CPU_OFF`.
pub const CPU_OFF: u32 = 0x8400_0002;
/// `CPU_ON`, SMC64.
pub const CPU_ON: u32 = 0xc400_0003;
/// `AFFINITY_INFO`, SMC64.
pub const AFFINITY_INFO: u32 = 0xc400_0004;
/// `MIGRATE_INFO_TYPE`.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// `SYSTEM_OFF`.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// `SYSTEM_RESET`.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// `PSCI_FEATURES`.
pub const FEATURES: u32 = 0x8400_000a;
/// `SMCCC_VERSION`.
pub const SMCCC_VERSION: u32 = 0x8000_0000;
/// `TRNG_VERSION` (DEN0098).
pub const TRNG_VERSION: u32 = 0x8400_0050;
/// `TRNG_RND`, SMC64 (DEN0098).
pub const TRNG_RND64: u32 = 0xc400_0053;

/// `PV_TIME_FEATURES` (DEN0057).
pub const PV_TIME_FEATURES: u32 = 0xc500_0020;
/// `PV_TIME_ST` (DEN0057).
pub const PV_TIME_ST: u32 = 0xc500_0021;

/// `NOT_SUPPORTED`, and SMCCC's answer to unknown functions.
pub const NOT_SUPPORTED: i64 = -1;
/// `INVALID_PARAMETERS`.
pub const INVALID_PARAMETERS: i64 = -2;
/// `ALREADY_ON`.
pub const ALREADY_ON: i64 = -4;
/// `INVALID_ADDRESS`.
pub const INVALID_ADDRESS: i64 = -9;

/// `AFFINITY_INFO`: the CPU is on.
pub const AFFINITY_ON: i64 = 0;
/// `AFFINITY_INFO`: the CPU is off.
pub const AFFINITY_OFF: i64 = 1;

/// How to reach the firmware.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Conduit {
    /// `HVC #0`.
    Hvc,
    /// `SMC #0`.
    Smc,
}

/// Calls with all of x0 to x17 given and handed back.
pub fn call_registers(conduit: Conduit, x: [u64; 18]) -> [u64; 18] {
    let mut x = x;
    macro_rules! conduit {
        ($instruction:literal) => {
            // SAFETY: the call changes x0 to x17 at most (SMCCC), all of them are handed back.
            unsafe {
                asm!($instruction,
                    inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3],
                    inout("x4") x[4], inout("x5") x[5], inout("x6") x[6], inout("x7") x[7],
                    inout("x8") x[8], inout("x9") x[9], inout("x10") x[10], inout("x11") x[11],
                    inout("x12") x[12], inout("x13") x[13], inout("x14") x[14],
                    inout("x15") x[15], inout("x16") x[16], inout("x17") x[17],
                    options(nostack))
            }
        };
    }
    match conduit {
        Conduit::Hvc => conduit!("hvc #0"),
        Conduit::Smc => conduit!("smc #0"),
    }
    x
}

/// Calls `function` by HVC with up to three arguments; the answer is x0, signed.
pub fn call(function: u32, arguments: [u64; 3]) -> i64 {
    call_by(Conduit::Hvc, function, arguments)
}

/// Calls `function` by `conduit`.
pub fn call_by(conduit: Conduit, function: u32, arguments: [u64; 3]) -> i64 {
    let mut x = [0; 18];
    x[0] = u64::from(function);
    x[1..4].copy_from_slice(&arguments);
    call_registers(conduit, x)[0] as i64
}

/// A 32-bit answer: the upper half of x0 is not specified for those functions.
pub fn low(answer: i64) -> i64 {
    i64::from(answer as i32)
}

/// Whether a function does not come back, in either width, or suspends.
pub fn ends(function: u32) -> bool {
    const ENDS: [u32; 10] = [0x1, 0x2, 0x8, 0x9, 0xc, 0xd, 0xe, 0x12, 0x14, 0x15];
    matches!(function >> 24, 0x84 | 0xc4) && ENDS.contains(&(function & 0xff))
}

/// `CPU_ON`.
pub fn cpu_on(target: u64, entry: u64, context: u64) -> i64 {
    call(CPU_ON, [target, entry, context])
}

/// `CPU_OFF`; only a refusal returns.
pub fn cpu_off() -> i64 {
    call(CPU_OFF, [0; 3])
}

/// `AFFINITY_INFO` of one CPU.
pub fn affinity_info(target: u64) -> i64 {
    call(AFFINITY_INFO, [target, 0, 0])
}

/// `SYSTEM_OFF`. Should it be refused there is nothing left to do but wait.
pub fn system_off() -> ! {
    call(SYSTEM_OFF, [0; 3]);
    loop {
        crate::instruction!("wfi");
    }
}
