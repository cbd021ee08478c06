//! CRC-32 by the CPU's own instructions (Arm ARM, "CRC32"), where it has them: Armv8.0 leaves that open.

use core::arch::asm;

use aarch64_cpu::registers::ID_AA64ISAR0_EL1;
use tock_registers::interfaces::Readable;

use crate::manifest;

/// The checksum of a bundle.
pub fn of(bytes: &[u8]) -> u32 {
    // Bits 19 to 16 (Arm ARM, "ID_AA64ISAR0_EL1").
    if ID_AA64ISAR0_EL1.get() >> 16 & 0xf == 0 {
        return manifest::checksum(bytes);
    }
    let (lines, rest) = bytes.as_chunks::<64>();
    let mut crc = !0;
    if !lines.is_empty() {
        // SAFETY: it reads `lines`, which is not empty, and the CPU knows the instructions.
        unsafe {
            asm!(
                ".arch_extension crc",
                "2:",
                ".rept 4",
                "ldp {a}, {b}, [{at}], #16",
                "crc32x {crc:w}, {crc:w}, {a}",
                "crc32x {crc:w}, {crc:w}, {b}",
                ".endr",
                "cmp {at}, {end}",
                "b.ne 2b",
                ".arch_extension nocrc",
                at = inout(reg) lines.as_ptr() => _,
                end = in(reg) lines.as_ptr_range().end,
                crc = inout(reg) crc,
                a = out(reg) _,
                b = out(reg) _,
                options(nostack, readonly)
            );
        }
    }
    for &byte in rest {
        // SAFETY: the CPU knows the instruction, which works on registers alone.
        unsafe {
            asm!(".arch_extension crc", "crc32b {crc:w}, {crc:w}, {byte:w}", ".arch_extension nocrc",
                crc = inout(reg) crc, byte = in(reg) u32::from(byte),
                options(pure, nomem, nostack, preserves_flags));
        }
    }
    !crc
}
