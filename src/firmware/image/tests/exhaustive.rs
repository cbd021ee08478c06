//! Every single bit that can be wrong in the first 4 KiB of a kernel, and every length to which it can be cut.

use super::*;
use crate::testing::bound;

/// A kernel of each format, more than 4 KiB of each.
fn kernels() -> [(&'static str, Vec<u8>); 4] {
    let image = image(0x1000, 0x3000, 0b1010, 0x1400);
    let contents: &[u8] = &[0xa5; 0x1000];
    let segments = [
        Segment { vaddr: 0x4020_0000, paddr: 0x4020_0000, contents, memory: 0x2000 },
        Segment { vaddr: 0x4030_0000, paddr: 0x4030_0000, contents: b"data", memory: 0x10 },
    ];
    let elf = elf(0x4020_0004, &segments);
    [
        ("gzip", gzip(&image)),
        ("zboot", zboot(b"gzip\0", &gzip(&image))),
        ("Image", image),
        ("ELF", elf),
    ]
}

/// It is refused with a reason, or placed within RAM. What says all about itself in its header is refused before anything is
/// written; what is packed is found out when it is unpacked, and at the end.
fn is_loaded(format: &str, file: &[u8]) -> bool {
    let mut memory = Memory::new(8 * MIB);
    match memory.load(file, Some(b"initrd")) {
        Ok(placement) => {
            check(&placement, memory.ram);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let untouched = memory.writes.is_empty();
            assert!(
                untouched || matches!(format, "gzip" | "zboot"),
                "{format}: {error}, and something is written"
            );
            false
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn every_bit_of_the_first_4_kib_of_a_kernel_may_be_wrong() {
    for (format, kernel) in kernels() {
        let mut changed = kernel.clone();
        let mut loaded = [0, 0];
        assert!(is_loaded(format, &kernel), "{format}");
        for bit in (0..8 * kernel.len().min(4096)).step_by(bound(1, 7, 997)) {
            changed[bit / 8] ^= 1 << (bit % 8);
            loaded[usize::from(is_loaded(format, &changed))] += 1;
            changed[bit / 8] ^= 1 << (bit % 8);
        }
        println!("{format}: {loaded:?} refused and loaded");
        assert!(loaded[0] > 0 || cfg!(miri), "{format}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn a_kernel_may_end_at_every_byte() {
    for (format, kernel) in kernels() {
        for length in (0..kernel.len()).step_by(bound(1, 7, 997)) {
            is_loaded(format, &kernel[..length]);
        }
    }
}
