//! The interrupt of a device that is the guest's own: a PL011, whose transmit interrupt is asserted as soon as
//! it is let through.

use core::sync::atomic::{AtomicU64, Ordering};

use guests::mmio::write32;
use guests::{gic, println, sysreg, uart};

use crate::sample::{SAMPLES, Samples};
use crate::vectors;

static BASE: AtomicU64 = AtomicU64::new(0);

/// Offsets of UARTCR, UARTIMSC and UARTICR (DDI 0183, "Summary of registers").
const CR: u64 = 0x30;
const IMSC: u64 = 0x38;
const ICR: u64 = 0x44;

pub fn measure(words: &str) {
    let place = words.split_whitespace().find_map(|word| {
        let (base, intid) = word.strip_prefix("uart=")?.split_once(',')?;
        Some((u64::from_str_radix(base, 16).ok()?, intid.parse::<u32>().ok()?))
    });
    let Some((base, intid)) = place else {
        return println!("bench: no uart=BASE,INTID on the command line");
    };
    BASE.store(base, Ordering::Relaxed);
    gic::init();
    vectors::install_with(Some(quiet));
    gic::set_edge(intid, false);
    gic::enable(intid);
    write32(base + CR, uart::CR_ON);
    // The interrupt comes with a byte that has left.
    write32(base, u32::from(b'x'));
    let mut samples = Samples::new();
    for index in 0..=SAMPLES {
        write32(base + ICR, 0x7ff);
        write32(base, u32::from(b'x'));
        let seen = vectors::count_of(sysreg::cpu());
        sysreg::unmask_interrupts();
        let since = vectors::now();
        write32(base + IMSC, uart::INT_TX);
        while vectors::count_of(sysreg::cpu()) == seen {}
        sysreg::mask_interrupts();
        if index > 0 {
            samples.add(vectors::stamps().taken.wrapping_sub(since));
        }
    }
    samples.tell("assigned-interrupt");
    gic::disable(intid);
    vectors::remove();
}

extern "C" fn quiet() {
    write32(BASE.load(Ordering::Relaxed) + IMSC, 0);
}
