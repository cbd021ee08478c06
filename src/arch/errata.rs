//! Errata of the CPU itself that firmware would see to, on boards where there is none that could.
//!
//! Those that are seen to by the order of things stand where that order is: 1319367 in `this_cpu.rs` and
//! `maintenance.rs`. 853709 (852523 on a Cortex-A57) needs AArch32 state to be restored before the rest: there is none,
//! as all guests run AArch64 at EL1, and no such register is ever written.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::MIDR_EL1;
use tock_registers::interfaces::Readable;

use super::regs::CPUACTLR_EL1;
use crate::platform::board::Board;

/// Implementer, architecture and part number of a Cortex-A72 in `MIDR_EL1`.
const CORTEX_A72: u64 = 0x410f_d080;
/// What of `MIDR_EL1` tells that: all but variant and revision.
const PART: u64 = 0xff0f_fff0;

/// Cortex-A72 r0p0 to r0p3, 859971: a speculative instruction fetch may reach a device.
const DISABLE_INSTRUCTION_PREFETCH: u64 = 1 << 32;
/// CVE-2018-3639: a load may speculatively pass an older store to the same address.
const DISABLE_LOAD_PASS_STORE: u64 = 1 << 55;

/// Set up this CPU. The Raspberry Pi's boot stub does none of this and lets EL2 write the register
/// (`ACTLR_EL3`); elsewhere, and with TF-A in its place, EL3 has done it, and the access might trap there. Returns whether
/// no load passes an older store from now on.
pub fn apply(board: &Board) -> bool {
    let ours = board.psci.is_none() && board.is_compatible("brcm,bcm2711");
    if !ours || MIDR_EL1.get() & PART != CORTEX_A72 {
        return false;
    }
    let value = CPUACTLR_EL1.get() | DISABLE_INSTRUCTION_PREFETCH | DISABLE_LOAD_PASS_STORE;
    CPUACTLR_EL1.set(value);
    barrier::isb(barrier::SY);
    true
}
