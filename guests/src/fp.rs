//! The FP and SIMD registers, which nothing here uses by itself.

use core::arch::asm;

use crate::{mrs, msr};

/// `CPACR_EL1.FPEN`: they can be used on this CPU.
pub fn enable() {
    msr!("cpacr_el1", mrs!("cpacr_el1") | 3 << 20);
}

/// v0 to v31, FPCR and FPSR.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(C, align(16))]
pub struct Registers {
    v: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

impl Registers {
    /// Different for each CPU, round and register; FPCR and FPSR with the bits that every CPU has.
    pub fn pattern(cpu: u64, round: u64) -> Self {
        let mut v = [0; 32];
        for (n, v) in (0u64..).zip(&mut v) {
            let seed = (cpu << 48 | round << 16 | n) + 1;
            let low = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let high = low.rotate_left(23) ^ seed.wrapping_mul(0xd6e8_feb8_6659_fd93);
            *v = u128::from(high) << 64 | u128::from(low);
        }
        // RMode, FZ, DN; and the cumulative exceptions with QC.
        let fpcr = ((cpu + round) & 0xf) << 22;
        let fpsr = ((cpu ^ round) & 0x1f) | (round & 1) << 27;
        Self { v, fpcr, fpsr }
    }

    /// Puts them into the CPU.
    pub fn load(&self) {
        // SAFETY: compiled code has no FP registers on this target, nobody misses them.
        unsafe {
            asm!(
                ".arch_extension fp", ".arch_extension simd",
                "ldp q0, q1, [{v}]", "ldp q2, q3, [{v}, #32]", "ldp q4, q5, [{v}, #64]",
                "ldp q6, q7, [{v}, #96]", "ldp q8, q9, [{v}, #128]", "ldp q10, q11, [{v}, #160]",
                "ldp q12, q13, [{v}, #192]", "ldp q14, q15, [{v}, #224]",
                "ldp q16, q17, [{v}, #256]", "ldp q18, q19, [{v}, #288]",
                "ldp q20, q21, [{v}, #320]", "ldp q22, q23, [{v}, #352]",
                "ldp q24, q25, [{v}, #384]", "ldp q26, q27, [{v}, #416]",
                "ldp q28, q29, [{v}, #448]", "ldp q30, q31, [{v}, #480]",
                "msr fpcr, {fpcr}", "msr fpsr, {fpsr}",
                v = in(reg) &self.v, fpcr = in(reg) self.fpcr, fpsr = in(reg) self.fpsr,
                options(nostack)
            );
        }
    }

    /// What the CPU has.
    pub fn store() -> Self {
        let mut own = Self { v: [0; 32], fpcr: 0, fpsr: 0 };
        // SAFETY: as for the load, and all that is written is `own`.
        unsafe {
            asm!(
                ".arch_extension fp", ".arch_extension simd",
                "stp q0, q1, [{v}]", "stp q2, q3, [{v}, #32]", "stp q4, q5, [{v}, #64]",
                "stp q6, q7, [{v}, #96]", "stp q8, q9, [{v}, #128]", "stp q10, q11, [{v}, #160]",
                "stp q12, q13, [{v}, #192]", "stp q14, q15, [{v}, #224]",
                "stp q16, q17, [{v}, #256]", "stp q18, q19, [{v}, #288]",
                "stp q20, q21, [{v}, #320]", "stp q22, q23, [{v}, #352]",
                "stp q24, q25, [{v}, #384]", "stp q26, q27, [{v}, #416]",
                "stp q28, q29, [{v}, #448]", "stp q30, q31, [{v}, #480]",
                "mrs {fpcr}, fpcr", "mrs {fpsr}, fpsr",
                v = in(reg) &mut own.v, fpcr = out(reg) own.fpcr, fpsr = out(reg) own.fpsr,
                options(nostack)
            );
        }
        own
    }
}
