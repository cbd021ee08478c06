//! What does this machine charge for what a guest asks of it?
//!
//! Each row is measured by the virtual counter, read right before and right after, less what reading it twice
//! costs; with a counter that counts instructions (`cargo xtask bench`) it says how many were executed. A line is
//! `bench: ROW MIN MEDIAN MAX`. `rows=GROUP` on the command line says which rows:
//!
//! | group | rows |
//! |---|---|
//! | `traps` | calls, trapped registers, emulated devices, the interrupt controller's registers, faults |
//! | `interrupts` | SGIs to itself, the virtual timer |
//! | `pair` | SGIs to the other CPU |
//! | `switch` | the other CPU's turn, where both share one |
//! | `device` | the interrupt of a PL011 that is the guest's own, `uart=BASE,INTID` |
//!
//! With `loop` a group goes on for ever, for who wants to watch.

#![no_std]
#![no_main]
#![expect(
    clippy::macro_metavars_in_unsafe,
    reason = "what is timed is an instruction with its operands"
)]

mod cross;
mod device;
mod interrupts;
mod sample;
mod traps;
mod vectors;

use guests::report::Report;
use guests::{machine, println};

guests::payload!(main);

fn main(report: &mut Report) {
    let tree = machine::tree();
    let words = tree.chosen().bootargs().unwrap_or_default();
    let groups = words.split_whitespace().find_map(|word| word.strip_prefix("rows="));
    let groups = groups.unwrap_or("traps,interrupts");
    println!("bench: counter {} Hz", guests::timer::frequency());
    loop {
        for group in groups.split(',') {
            match group {
                "traps" => traps::measure(),
                "interrupts" => interrupts::measure(),
                "pair" => cross::measure_pair(),
                "switch" => cross::measure_switch(),
                "device" => device::measure(words),
                _ => println!("bench: unknown group {group}"),
            }
        }
        if !words.split_whitespace().any(|word| word == "loop") {
            return report.pass("all rows were measured");
        }
    }
}
