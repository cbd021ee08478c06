//! What is known of instructions; their encodings are an assembler's.

#[path = "../src/a64.rs"]
mod a64;

#[test]
fn markers_are_the_last_hints() {
    assert_eq!(a64::marker(0xd503_2e1f), Some(0x70)); // hint #0x70
    assert_eq!(a64::marker(0xd503_2fff), Some(0x7f)); // hint #0x7f
    assert_eq!(a64::marker(0xd503_2dff), None); // hint #0x6f
    assert_eq!(a64::marker(0xd503_201f), None); // nop
    assert_eq!(a64::marker(0xd503_3fdf), None); // isb
}

#[test]
fn exception_returns_and_waits_are_known() {
    assert!(a64::is_exception_return(0xd69f_03e0)); // eret
    assert!(!a64::is_exception_return(0xd65f_03c0)); // ret
    assert!(a64::is_wait_for_interrupt(0xd503_207f)); // wfi
    assert!(a64::is_wait_for_interrupt(0xd503_1023)); // wfit x3
    assert!(!a64::is_wait_for_interrupt(0xd503_205f)); // wfe
    assert!(a64::is_look_for_interrupts(0xd538_c109)); // mrs x9, isr_el1
    assert!(!a64::is_look_for_interrupts(0xd538_c009)); // mrs x9, vbar_el1
    assert!(!a64::is_wait_for_interrupt(0xd503_1003)); // wfet x3
}

#[test]
fn integer_arithmetic_goes_on_to_the_next_instruction() {
    let arithmetic = [
        0x9100_0421, // add x1, x1, #1
        0x8b02_0020, // add x0, x1, x2
        0xd280_0020, // mov x0, #1
        0x1000_0000, // adr x0, .
        0x9000_0000, // adrp x0, .
        0xd340_fc20, // lsr x0, x1, #0
        0x9b02_7c20, // mul x0, x1, x2
        0x9ac2_0820, // udiv x0, x1, x2
        0x9a82_0020, // csel x0, x1, x2, eq
        0xaa01_03e0, // mov x0, x1
    ];
    for word in arithmetic {
        assert!(!a64::may_leave(word), "{word:#x}");
    }
}

#[test]
fn everything_else_may_not() {
    let others = [
        0xf940_0020, // ldr x0, [x1]
        0xa9bf_07e0, // stp x0, x1, [sp, #-16]!
        0xc85f_7c20, // ldxr x0, [x1]
        0xf8a0_0020, // ldadd
        0x5800_0000, // ldr x0, .
        0x1400_0001, // b
        0x5400_0020, // b.eq
        0xb400_0020, // cbz x0
        0x3600_0020, // tbz w0, #0
        0xd65f_03c0, // ret
        0xd400_0001, // svc #0
        0xd538_4240, // mrs x0, CurrentEL
        0xd503_201f, // nop
        0x1e62_2820, // fadd d0, d1, d2
        0x4ee1_8420, // add v0.2d, v1.2d, v1.2d
        0xdac1_0020, // pacia x0, x1
        0x9ac2_3020, // pacga x0, x1, x2
        0x0000_0000, // udf #0
    ];
    for word in others {
        assert!(a64::may_leave(word), "{word:#x}");
    }
}
