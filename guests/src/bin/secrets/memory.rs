//! All of RAM but what this payload is made of: looked through, and filled, with the MMU and the caches off.

use core::arch::global_asm;

use guests::machine::machine;

/// What a machine's memory is filled with.
pub const SECRET: u64 = 0x5ec1_e75e_c1e7_5ec1;

unsafe extern "C" {
    static _head: u8;
    static __image_end: u8;
    /// The first word in `from..to`, both multiples of 16, that is not 0; `to` if there is none.
    fn secrets_find(from: u64, to: u64) -> u64;
    /// Fills `from..to`. The caches are off where `cached` is 0.
    fn secrets_fill(from: u64, to: u64, value: u64, cached: u64);
}

/// The parts of RAM that hold neither this image nor the device tree.
fn others() -> [(u64, u64); 3] {
    let machine = machine();
    let image = (&raw const _head as u64, &raw const __image_end as u64);
    let tree = (machine.tree & !15, (machine.tree + machine.tree_size).next_multiple_of(16));
    let (first, second) = if image.0 < tree.0 { (image, tree) } else { (tree, image) };
    let end = machine.ram + machine.ram_size;
    [(machine.ram, first.0), (first.1, second.0), (second.1, end)]
}

/// The first word that is not 0, and what it is.
pub fn not_zero() -> Option<(u64, u64)> {
    others().into_iter().find_map(|(from, to)| {
        // SAFETY: it only reads RAM, and needs no memory of its own.
        let at = unsafe { secrets_find(from, to) };
        (at < to).then(|| (at, guests::mmio::read64(at)))
    })
}

/// Fills each part, one half by way of the caches and the other past them.
pub fn fill() {
    for (from, to) in others() {
        let middle = (from + (to - from) / 2) & !63;
        // SAFETY: nothing of ours is there.
        unsafe {
            secrets_fill(from, middle, SECRET, 1);
            secrets_fill(middle, to, SECRET, 0);
        }
    }
}

global_asm!(
    r#"
    .section .text.memory, "ax"
    .global secrets_find
secrets_find:
    mrs     x7, sctlr_el1
    ldr     x6, =0x1005
    bic     x6, x7, x6
    dsb     sy
    msr     sctlr_el1, x6
    isb
1:  cmp     x0, x1
    b.hs    2f
    ldp     x4, x5, [x0], #16
    orr     x4, x4, x5
    cbz     x4, 1b
    sub     x0, x0, #16
    ldr     x4, [x0]
    cbnz    x4, 2f
    add     x0, x0, #8
2:  msr     sctlr_el1, x7
    isb
    ret

    .global secrets_fill
secrets_fill:
    mrs     x7, sctlr_el1
    cbnz    x3, 1f
    ldr     x6, =0x1005
    bic     x6, x7, x6
    dsb     sy
    msr     sctlr_el1, x6
    isb
1:  cmp     x0, x1
    b.hs    2f
    stp     x2, x2, [x0], #16
    b       1b
2:  dsb     sy
    msr     sctlr_el1, x7
    isb
    ret
    .ltorg
"#
);
