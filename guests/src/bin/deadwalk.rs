//! What becomes of a guest whose translation tables are nowhere? Not even its vectors can be fetched:
//! it faults for ever; whoever runs it watches that nobody else notices.

#![no_std]
#![no_main]

use guests::println;
use guests::report::Report;

guests::payload!(main);

/// An IPA where no machine of ours has anything.
const NOTHING: u64 = 0x20_0000_0000;

fn main(_: &mut Report) {
    println!("deadwalk: TTBR0_EL1 points to nothing");
    // SAFETY: the next fetch faults, and so does every one after it.
    unsafe {
        core::arch::asm!("msr ttbr0_el1, {}", "isb", "tlbi vmalle1", "dsb ish", "isb", "b .",
            in(reg) NOTHING, options(noreturn));
    }
}
