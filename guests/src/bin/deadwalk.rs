//! Placeholder.
#![no_std]
#![no_main]
guests::payload!(main);
fn main(_: &mut guests::report::Report) {}
