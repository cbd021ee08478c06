//! What becomes of a guest whose vectors are nowhere? Each fault faults again, for ever; whoever runs
//! it watches that nobody else notices.

#![no_std]
#![no_main]

use guests::report::Report;
use guests::{mmu, msr, println};

guests::payload!(main);

fn main(_: &mut Report) {
    println!("crash: VBAR_EL1 is at nothing, and now an undefined instruction");
    msr!("vbar_el1", mmu::ALIAS);
    // SAFETY: never returns, and is not meant to.
    unsafe { core::arch::asm!("udf #0", options(noreturn)) };
}
