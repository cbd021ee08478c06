//! What has to be known of an A64 instruction to count it (Arm ARM, "A64 instruction set encoding").

/// `ERET`, `ERETAA`, `ERETAB`: back to where the last exception came from.
pub fn is_exception_return(word: u32) -> bool {
    matches!(word, 0xd69f_03e0 | 0xd69f_0bff | 0xd69f_0fff)
}

/// `WFI`, and `WFIT` with any register.
pub fn is_wait_for_interrupt(word: u32) -> bool {
    word == 0xd503_207f || word & !0x1f == 0xd503_1020
}

/// `MRS` of `ISR_EL1` into any register: it looks whether an interrupt is pending.
pub fn is_look_for_interrupts(word: u32) -> bool {
    word & !0x1f == 0xd538_c100
}

/// The number of a marker: `HINT #0x70` to `HINT #0x7f`, which do nothing.
pub fn marker(word: u32) -> Option<u8> {
    let number = (word >> 5 & 0x7f) as u8;
    (word & 0xffff_f01f == 0xd503_201f && number >= 0x70).then_some(number)
}

/// Whether something else than the next instruction may follow: it may be a branch, or take an
/// exception, or be left in its middle by QEMU. Only integer arithmetic is known not to.
pub fn may_leave(word: u32) -> bool {
    // Pointer authentication may trap: all of "Data-processing (1 source)", to be short, and PACGA.
    let authentication = word & 0x5fe0_0000 == 0x5ac0_0000 || word & 0xffe0_fc00 == 0x9ac0_3000;
    let immediate = word >> 26 & 0b111 == 0b100;
    let register = word >> 25 & 0b111 == 0b101;
    authentication || !(immediate || register)
}
