//! The registers that stay in the CPU while a vCPU is loaded: EL1's, FP and SIMD, breakpoints.

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    ELR_EL1, ESR_EL1, FAR_EL1, ID_AA64DFR0_EL1, MDSCR_EL1, OSLAR_EL1, PAR_EL1, SPSR_EL1, VBAR_EL1,
};
use tock_registers::interfaces::{Readable, Writeable};

use super::regs::{write_dbgbcr, write_dbgbvr, write_dbgwcr, write_dbgwvr};
use crate::addr::Ipa;
use crate::el1_registers;
use crate::machine::{El1Register, NoAddress};
use crate::vcpu::{El1Context, ExceptionEntry, FpRegs};
use crate::vm::debug::{DebugReg, DebugRegs};

macro_rules! save {
    ($($field:ident: $name:literal),* $(,)?) => {
        /// Copy the loaded vCPU's registers into `context`.
        pub fn save(context: &mut El1Context) {
            $(
                // SAFETY: reading a register of EL1 or EL0 has no effect at EL2.
                unsafe {
                    asm!(concat!("mrs {}, ", $name), out(reg) context.$field,
                        options(nomem, nostack, preserves_flags));
                }
            )*
        }
    };
}
el1_registers!(save);

macro_rules! load {
    ($($field:ident: $name:literal),* $(,)?) => {
        /// Copy `context` into the CPU. The timer's control comes last in the table, after its
        /// compare value.
        pub fn load(context: &El1Context) {
            $(
                // SAFETY: the registers of EL1 and EL0 have no effect at EL2.
                unsafe {
                    asm!(concat!("msr ", $name, ", {}"), in(reg) context.$field,
                        options(nomem, nostack, preserves_flags));
                }
            )*
        }
    };
}
el1_registers!(load);

/// Read one register of the loaded vCPU.
pub fn read(register: El1Register) -> u64 {
    let mut value;
    macro_rules! mrs {
        ($name:literal) => {
            // SAFETY: as in `save`.
            unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) }
        };
    }
    match register {
        El1Register::Sctlr => mrs!("SCTLR_EL1"),
        El1Register::Ttbr0 => mrs!("TTBR0_EL1"),
        El1Register::Ttbr1 => mrs!("TTBR1_EL1"),
        El1Register::Tcr => mrs!("TCR_EL1"),
        El1Register::Esr => mrs!("ESR_EL1"),
        El1Register::Far => mrs!("FAR_EL1"),
        El1Register::Afsr0 => mrs!("AFSR0_EL1"),
        El1Register::Afsr1 => mrs!("AFSR1_EL1"),
        El1Register::Mair => mrs!("MAIR_EL1"),
        El1Register::Amair => mrs!("AMAIR_EL1"),
        El1Register::Elr => mrs!("ELR_EL1"),
        El1Register::Contextidr => mrs!("CONTEXTIDR_EL1"),
    }
    value
}

/// Write one register of the loaded vCPU.
pub fn write(register: El1Register, value: u64) {
    macro_rules! msr {
        ($name:literal) => {
            // SAFETY: as in `load`.
            unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nomem, nostack)) }
        };
    }
    match register {
        El1Register::Sctlr => msr!("SCTLR_EL1"),
        El1Register::Ttbr0 => msr!("TTBR0_EL1"),
        El1Register::Ttbr1 => msr!("TTBR1_EL1"),
        El1Register::Tcr => msr!("TCR_EL1"),
        El1Register::Esr => msr!("ESR_EL1"),
        El1Register::Far => msr!("FAR_EL1"),
        El1Register::Afsr0 => msr!("AFSR0_EL1"),
        El1Register::Afsr1 => msr!("AFSR1_EL1"),
        El1Register::Mair => msr!("MAIR_EL1"),
        El1Register::Amair => msr!("AMAIR_EL1"),
        El1Register::Elr => msr!("ELR_EL1"),
        El1Register::Contextidr => msr!("CONTEXTIDR_EL1"),
    }
}

/// Where a virtual address of the loaded vCPU leads to that EL1 reads from. The guest's own `PAR_EL1` stays as it is.
pub fn translate(address: u64) -> Result<Ipa, NoAddress> {
    let before = PAR_EL1.get();
    // SAFETY: stage 2 is the loaded vCPU's, and maps nothing that a walk of its tables could harm or be aborted at.
    unsafe { asm!("at s1e1r, {}", in(reg) address, options(nostack, preserves_flags)) };
    barrier::isb(barrier::SY); // PAR_EL1 has the result
    let found = PAR_EL1.get();
    PAR_EL1.set(before);
    match (found & PAR_F != 0, found & PAR_S != 0) {
        (false, _) => Ok(Ipa::new(found & PAR_PA | address & 0xfff)),
        (true, true) => Err(NoAddress::ForNow),
        (true, false) => Err(NoAddress::AtAll),
    }
}

/// "PAR_EL1, Physical Address Register": the translation failed, at stage 2; the address, of which stage 1 alone was asked.
const PAR_F: u64 = 1;
const PAR_S: u64 = 1 << 9;
const PAR_PA: u64 = 0x0000_ffff_ffff_f000;

/// The loaded vCPU's `VBAR_EL1`.
pub fn vbar() -> u64 {
    VBAR_EL1.get()
}

/// Put the EL1 side of an exception entry into the CPU.
pub fn set_exception(entry: &ExceptionEntry) {
    ELR_EL1.set(entry.elr);
    SPSR_EL1.set(entry.spsr);
    ESR_EL1.set(entry.esr);
    if let Some(far) = entry.far {
        FAR_EL1.set(far);
    }
}

macro_rules! vector_pairs {
    ($op:literal) => {
        concat!(
            $op,
            " q0, q1, [{v}]\n",
            $op,
            " q2, q3, [{v}, #32]\n",
            $op,
            " q4, q5, [{v}, #64]\n",
            $op,
            " q6, q7, [{v}, #96]\n",
            $op,
            " q8, q9, [{v}, #128]\n",
            $op,
            " q10, q11, [{v}, #160]\n",
            $op,
            " q12, q13, [{v}, #192]\n",
            $op,
            " q14, q15, [{v}, #224]\n",
            $op,
            " q16, q17, [{v}, #256]\n",
            $op,
            " q18, q19, [{v}, #288]\n",
            $op,
            " q20, q21, [{v}, #320]\n",
            $op,
            " q22, q23, [{v}, #352]\n",
            $op,
            " q24, q25, [{v}, #384]\n",
            $op,
            " q26, q27, [{v}, #416]\n",
            $op,
            " q28, q29, [{v}, #448]\n",
            $op,
            " q30, q31, [{v}, #480]\n",
        )
    };
}

/// Copy the loaded vCPU's FP and SIMD registers into `fp`.
pub fn save_fp(fp: &mut FpRegs) {
    // SAFETY: `fp.v` is 512 bytes, 16-byte aligned; the compiler uses no FP register on this target.
    unsafe {
        asm!(
            ".arch_extension fp", ".arch_extension simd",
            vector_pairs!("stp"),
            "mrs {status}, FPSR", "mrs {control}, FPCR",
            v = in(reg) fp.v.as_mut_ptr(),
            status = out(reg) fp.fpsr, control = out(reg) fp.fpcr,
            options(nostack, preserves_flags)
        );
    }
}

/// Copy `fp` into the CPU.
pub fn load_fp(fp: &FpRegs) {
    // SAFETY: as in `save_fp`.
    unsafe {
        asm!(
            ".arch_extension fp", ".arch_extension simd",
            vector_pairs!("ldp"),
            "msr FPSR, {status}", "msr FPCR, {control}",
            v = in(reg) fp.v.as_ptr(),
            status = in(reg) fp.fpsr, control = in(reg) fp.fpcr,
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// Put a vCPU's breakpoints and watchpoints into the CPU.
pub fn load_debug(debug: &DebugRegs) {
    let (breakpoints, watchpoints) = debug_counts();
    for n in 0..breakpoints {
        write_dbgbvr(n.into(), debug.read(DebugReg::Bvr(n)));
        write_dbgbcr(n.into(), debug.read(DebugReg::Bcr(n)));
    }
    for n in 0..watchpoints {
        write_dbgwvr(n.into(), debug.read(DebugReg::Wvr(n)));
        write_dbgwcr(n.into(), debug.read(DebugReg::Wcr(n)));
    }
}

/// Turn every breakpoint and watchpoint off, whose registers are unknown at reset.
#[inline]
pub fn clear_debug() {
    load_debug(&DebugRegs::default());
}

/// Unlock the OS lock, which reset leaves locked: the one a guest sees is a model.
pub fn unlock_debug() {
    OSLAR_EL1.set(0);
    MDSCR_EL1.set(0);
}

/// What debug exceptions the loaded vCPU takes.
pub fn set_mdscr(value: u64) {
    MDSCR_EL1.set(value);
}

/// How many breakpoints and watchpoints the CPU has.
fn debug_counts() -> (u8, u8) {
    let dfr0 = ID_AA64DFR0_EL1.get();
    ((dfr0 >> 12 & 0xf) as u8 + 1, (dfr0 >> 20 & 0xf) as u8 + 1)
}
