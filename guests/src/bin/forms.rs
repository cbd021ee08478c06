//! Are devices reached by every form of load and store that compilers emit: pairs, write-back, SIMD? Hardware describes none of
//! these to a hypervisor, so each is compared with plain accesses to the same words.

#![no_std]
#![no_main]

use core::arch::asm;

use guests::exception::survive;
use guests::machine::{GicAt, machine};
use guests::mmio::{read8, read16, read32, read64, write32};
use guests::mmu::{self, Memory};
use guests::report::Report;
use guests::{fp, uart};

guests::payload!(main);

/// `x11` to `x14`, and the base, after a form; before it they are all ones, and so are `v0` and `v1`.
type After = ([u64; 4], u64);

/// Carries out a form whose base is `x10`, with 4 in `x15`.
macro_rules! form {
    ($at:expr, $($text:literal),+) => {{
        let (mut base, mut to): (u64, [u64; 4]) = ($at, [u64::MAX; 4]);
        // SAFETY: the words are read or are there to be written; compiled code has no FP registers on this target, and what
        // else is written is declared.
        unsafe {
            asm!(".arch_extension simd", "movi v0.16b, #255", "movi v1.16b, #255", $($text,)+
                inout("x10") base, inout("x11") to[0], inout("x12") to[1], inout("x13") to[2],
                inout("x14") to[3], in("x15") 4u64, options(nostack));
        }
        (to, base)
    }};
}

/// The same for a store, of four values.
macro_rules! store {
    ($at:expr, $values:expr, $($text:literal),+) => {{
        let (mut base, values): (u64, [u64; 4]) = ($at, $values);
        // SAFETY: as above.
        unsafe {
            asm!(".arch_extension simd", $($text,)+ inout("x10") base, in("x11") values[0],
                in("x12") values[1], in("x13") values[2], in("x14") values[3], in("x15") 4u64,
                options(nostack));
        }
        base
    }};
}

fn main(report: &mut Report) {
    fp::enable();
    for memory in [Memory::Device, Memory::NonCacheable, Memory::WriteBack] {
        let at = mmu::alias(uart::PERIPH_ID0, memory);
        loads(report, at);
        simd_loads(report, at);
    }
    for memory in [Memory::NonCacheable, Memory::WriteBack] {
        refused(report, mmu::alias(priorities(), memory));
    }
    let at = mmu::alias(priorities(), Memory::Device);
    stores(report, at);
    simd_stores(report, at);
    if let GicAt::V3 { distributor, .. } = machine().gic {
        doublewords(report, mmu::alias(distributor + 0x6000 + 8 * 48, Memory::Device));
    }
}

/// The priorities of SPIs 16 to 31, words that keep the upper five bits of each byte.
fn priorities() -> u64 {
    let (GicAt::V2 { distributor, .. } | GicAt::V3 { distributor, .. }) = machine().gic;
    distributor + 0x430
}

const ONES: u64 = u64::MAX;

fn check(report: &mut Report, what: &str, after: After, values: &[u64], base: u64) {
    let mut wanted = [ONES; 4];
    wanted[..values.len()].copy_from_slice(values);
    report.equal(what, after, (wanted, base));
}

fn signed(value: u64, bits: u32) -> u64 {
    ((value << (64 - bits)) as i64 >> (64 - bits)) as u64
}

fn loads(report: &mut Report, at: u64) {
    let word = |n: u64| u64::from(read32(at + 4 * n));
    let double = |n: u64| read64(at + 8 * n);
    let two = [word(0), word(1)];
    check(report, "ldp w, w, [x]", form!(at, "ldp w11, w12, [x10]"), &two, at);
    check(report, "ldnp w, w, [x]", form!(at, "ldnp w11, w12, [x10]"), &two, at);
    check(report, "ldp w, wzr, [x]", form!(at, "ldp w11, wzr, [x10]"), &two[..1], at);
    let next = [word(2), word(3)];
    check(report, "ldp w, w, [x, #8]", form!(at, "ldp w11, w12, [x10, #8]"), &next, at);
    check(report, "ldp w, w, [x, #8]!", form!(at, "ldp w11, w12, [x10, #8]!"), &next, at + 8);
    check(report, "ldp w, w, [x], #-8", form!(at, "ldp w11, w12, [x10], #-8"), &two, at - 8);
    let signs = two.map(|value| signed(value, 32));
    check(report, "ldpsw x, x, [x]", form!(at, "ldpsw x11, x12, [x10]"), &signs, at);
    let doubles = [double(0), double(1)];
    check(report, "ldp x, x, [x]", form!(at, "ldp x11, x12, [x10]"), &doubles, at);
    check(report, "ldr w, [x], #4", form!(at, "ldr w11, [x10], #4"), &two[..1], at + 4);
    check(report, "ldr w, [x, #4]!", form!(at, "ldr w11, [x10, #4]!"), &two[1..], at + 4);
    check(report, "ldr x, [x], #8", form!(at, "ldr x11, [x10], #8"), &doubles[..1], at + 8);
    let (byte, half) = (u64::from(read8(at)), u64::from(read16(at)));
    check(report, "ldrb w, [x], #1", form!(at, "ldrb w11, [x10], #1"), &[byte], at + 1);
    check(report, "ldrh w, [x], #2", form!(at, "ldrh w11, [x10], #2"), &[half], at + 2);
    let high = u64::from(read8(at + 20));
    let got = form!(at, "ldrsb x11, [x10, #20]!");
    check(report, "ldrsb x, [x, #20]!", got, &[signed(high, 8)], at + 20);
    let got = form!(at, "ldrsb w11, [x10, #20]!");
    check(report, "ldrsb w, [x, #20]!", got, &[signed(high, 8) & 0xffff_ffff], at + 20);
    let got = form!(at, "ldrsw x11, [x10], #4");
    check(report, "ldrsw x, [x], #4", got, &[signed(word(0), 32)], at + 4);
}

fn simd_loads(report: &mut Report, at: u64) {
    let word = |n: u64| u64::from(read32(at + 4 * n));
    let double = |n: u64| read64(at + 8 * n);
    let all = [double(0), double(1), double(2), double(3)];
    // All 128 bits, as a load clears what it does not fill.
    macro_rules! whole {
        ($text:literal) => {
            form!(at, $text, "mov x11, v0.d[0]", "mov x12, v0.d[1]")
        };
    }
    macro_rules! both {
        ($text:literal) => {
            form!(
                at,
                $text,
                "mov x11, v0.d[0]",
                "mov x12, v0.d[1]",
                "mov x13, v1.d[0]",
                "mov x14, v1.d[1]"
            )
        };
    }
    let one = |value| [value, 0];
    check(report, "ldr b, [x]", whole!("ldr b0, [x10]"), &one(read8(at).into()), at);
    check(report, "ldr h, [x]", whole!("ldr h0, [x10]"), &one(read16(at).into()), at);
    check(report, "ldr s, [x]", whole!("ldr s0, [x10]"), &one(word(0)), at);
    check(report, "ldur s, [x, #4]", whole!("ldur s0, [x10, #4]"), &one(word(1)), at);
    check(report, "ldr s, [x, x]", whole!("ldr s0, [x10, x15]"), &one(word(1)), at);
    let got = whole!("ldr s0, [x10, w15, sxtw #2]");
    check(report, "ldr s, [x, w, sxtw #2]", got, &one(word(4)), at);
    check(report, "ldr s, [x], #4", whole!("ldr s0, [x10], #4"), &one(word(0)), at + 4);
    check(report, "ldr d, [x, #8]", whole!("ldr d0, [x10, #8]"), &one(double(1)), at);
    check(report, "ldr q, [x]", whole!("ldr q0, [x10]"), &all[..2], at);
    check(report, "ldr q, [x, #16]!", whole!("ldr q0, [x10, #16]!"), &all[2..], at + 16);
    let two = [word(0), 0, word(1), 0];
    check(report, "ldp s, s, [x]", both!("ldp s0, s1, [x10]"), &two, at);
    let two = [double(0), 0, double(1), 0];
    check(report, "ldp d, d, [x], #16", both!("ldp d0, d1, [x10], #16"), &two, at + 16);
    check(report, "ldp q, q, [x]", both!("ldp q0, q1, [x10]"), &all, at);
}

/// Four words as they are after a store.
fn words(at: u64) -> [u32; 4] {
    [0, 4, 8, 12].map(|offset| read32(at + offset))
}

const VALUES: [u64; 4] = [0x1018_2028, 0x3038_4048, 0x5058_6068, 0x7078_8088];

fn stores(report: &mut Report, at: u64) {
    let mut check = |what: &str, stored: u64, base: u64, wanted: [u64; 4]| {
        report.equal(what, (words(at).map(u64::from), stored), (wanted, base));
        (0..4).for_each(|n| write32(at + 4 * n, 0));
    };
    let [a, b, ..] = VALUES;
    check("stp w, w, [x]", store!(at, VALUES, "stp w11, w12, [x10]"), at, [a, b, 0, 0]);
    check("stp w, wzr, [x]", store!(at, VALUES, "stp w11, wzr, [x10]"), at, [a, 0, 0, 0]);
    check("stnp w, w, [x]", store!(at, VALUES, "stnp w11, w12, [x10]"), at, [a, b, 0, 0]);
    check("stp w, w, [x], #8", store!(at, VALUES, "stp w11, w12, [x10], #8"), at + 8, [a, b, 0, 0]);
    let base = store!(at, VALUES, "stp w11, w12, [x10, #8]!");
    check("stp w, w, [x, #8]!", base, at + 8, [0, 0, a, b]);
    check("str w, [x], #-4", store!(at, VALUES, "str w11, [x10], #-4"), at - 4, [a, 0, 0, 0]);
    check("str w, [x, #4]!", store!(at, VALUES, "str w11, [x10, #4]!"), at + 4, [0, a, 0, 0]);
    check(
        "strb w, [x, #1]!",
        store!(at, VALUES, "strb w11, [x10, #1]!"),
        at + 1,
        [0x2800, 0, 0, 0],
    );
}

fn simd_stores(report: &mut Report, at: u64) {
    let mut check = |what: &str, stored: u64, base: u64, wanted: [u64; 4]| {
        report.equal(what, (words(at).map(u64::from), stored), (wanted, base));
        (0..4).for_each(|n| write32(at + 4 * n, 0));
    };
    let [a, b, ..] = VALUES;
    macro_rules! from {
        ($text:literal) => {
            store!(at, VALUES, "fmov s0, w11", "fmov s1, w12", $text)
        };
    }
    check("str b, [x]", from!("str b0, [x10]"), at, [a & 0xff, 0, 0, 0]);
    check("str s, [x]", from!("str s0, [x10]"), at, [a, 0, 0, 0]);
    check("str s, [x, x]", from!("str s0, [x10, x15]"), at, [0, a, 0, 0]);
    check("str s, [x], #4", from!("str s0, [x10], #4"), at + 4, [a, 0, 0, 0]);
    check("stp s, s, [x, #8]", from!("stp s0, s1, [x10, #8]"), at, [0, 0, a, b]);
    check("stp s, s, [x, #8]!", from!("stp s0, s1, [x10, #8]!"), at + 8, [0, 0, a, b]);
}

/// `ESR_EL1` of an external abort on a data access at the same level, but for whether it was a write; `FAR_EL1` holds.
const EXTERNAL_ABORT: u64 = 0x25 << 26 | 1 << 25 | 0x10;

/// Forms that no driver uses on a device: each is an external abort at its instruction, changes no register and does nothing.
/// Only a prefetch is no access.
fn refused(report: &mut Report, at: u64) {
    let before = words(at);
    macro_rules! check {
        ($($text:literal),+ $(,)?) => {$({
            let (mut base, mut x, mut place) = (at, VALUES, 0u64);
            let (_, caught) = survive(|| {
                // SAFETY: reads and writes what is there for that, or is refused.
                unsafe {
                    asm!(".arch_extension simd", "adr {}, 2f", concat!("2: ", $text),
                        inout(reg) place, inout("x10") base, inout("x11") x[0],
                        inout("x12") x[1], inout("x13") x[2], inout("x14") x[3],
                        in("x15") 4u64, options(nostack));
                }
            });
            let told = caught.map(|caught| (caught.esr & !(1 << 6), caught.elr, caught.far));
            let kept = (base, x, words(at)) == (at, VALUES, before);
            let wanted = (Some((EXTERNAL_ABORT, place, at)), true);
            report.equal(concat!("refused: ", $text), (told, kept), wanted);
        })+};
    }
    check!(
        "dc zva, x10",
        "ld1 {{v0.4s}}, [x10]",
        "ld1 {{v0.s}}[1], [x10]",
        "ld1r {{v0.2s}}, [x10]",
        "ld2 {{v0.2s, v1.2s}}, [x10], #16",
        "st1 {{v0.16b}}, [x10]",
        "st4 {{v0.b, v1.b, v2.b, v3.b}}[3], [x10], x15",
        "ldxr w11, [x10]",
        "ldaxp w11, w12, [x10]",
    );
    let (_, caught) = survive(|| {
        // SAFETY: a hint.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack)) };
    });
    report.equal("a prefetch is no access", caught, None);
}

/// Registers of 64 bits: `GICD_IROUTER`, of which `Aff3` and `Aff0` to `Aff2` are kept.
fn doublewords(report: &mut Report, at: u64) {
    let pair = || [read64(at), read64(at + 8)];
    let before = pair();
    const ROUTES: [u64; 4] = [1, 2, 0, 0];
    let base = store!(at, ROUTES, "stp x11, x12, [x10], #16");
    report.equal("stp x, x, [x], #16", (pair(), base), ([1, 2], at + 16));
    let base = store!(at, ROUTES, "str x12, [x10], #8");
    report.equal("str x, [x], #8", (pair(), base), ([2, 2], at + 8));
    let base = store!(at, ROUTES, "mov v0.d[0], x12", "mov v0.d[1], x11", "str q0, [x10]");
    report.equal("str q, [x]", (pair(), base), ([2, 1], at));
    let base = store!(at, ROUTES, "fmov d0, x11", "fmov d1, x12", "stp d0, d1, [x10]");
    report.equal("stp d, d, [x]", (pair(), base), ([1, 2], at));
    store!(at, [before[0], before[1], 0, 0], "stp x11, x12, [x10]");
    report.equal("as before", pair(), before);
}
