//! Encodings of A32 ("A32 instruction set encoding" in the Arm ARM).

/// The condition of an instruction that is always executed, and of one that is not if Z is set.
pub const AL: u32 = 0xe << 28;
pub const NE: u32 = 0x1 << 28;

/// `SVC #0`.
pub const SVC: u32 = 0xef00_0000;
pub const HVC: u32 = 0xe140_0070;
pub const SMC: u32 = 0x0160_0070;
pub const WFE: u32 = 0x0320_f002;
pub const WFI: u32 = 0x0320_f003;

/// `MCR p<coprocessor>, <opc1>, R2, c<n>, c<m>, <opc2>`, without condition.
pub const fn mcr(coprocessor: u32, opc1: u32, n: u32, m: u32, opc2: u32) -> u32 {
    0x0e00_2010 | opc1 << 21 | n << 16 | coprocessor << 8 | opc2 << 5 | m
}

/// `MRC`, likewise.
pub const fn mrc(coprocessor: u32, opc1: u32, n: u32, m: u32, opc2: u32) -> u32 {
    mcr(coprocessor, opc1, n, m, opc2) | 1 << 20
}

/// `MCRR p<coprocessor>, <opc1>, R2, R3, c<m>`, without condition.
pub const fn mcrr(coprocessor: u32, opc1: u32, m: u32) -> u32 {
    0x0c43_2000 | coprocessor << 8 | opc1 << 4 | m
}

/// `MRRC`, likewise.
pub const fn mrrc(coprocessor: u32, opc1: u32, m: u32) -> u32 {
    mcrr(coprocessor, opc1, m) | 1 << 20
}

/// `STC p<coprocessor>, c<d>, [R4]`, without condition.
pub const fn stc(coprocessor: u32, d: u32) -> u32 {
    0x0d84_0000 | d << 12 | coprocessor << 8
}

/// `LDC`, likewise.
pub const fn ldc(coprocessor: u32, d: u32) -> u32 {
    stc(coprocessor, d) | 1 << 20
}
