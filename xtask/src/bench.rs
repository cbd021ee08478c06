//! `cargo xtask bench`: what Plinth costs, in instructions that QEMU counts.
#![expect(dead_code, reason = "the command that prints the table comes with the table")]

mod bare;
pub mod count;
pub mod counted;
pub mod debian;
mod elf;
