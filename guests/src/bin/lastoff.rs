//! What becomes of a machine whose last CPU calls CPU_OFF? There is nobody left to end it: whoever
//! runs it watches that it takes no CPU time any more, or is reported as ended. PSCI lets the
//! firmware refuse (DENIED); then this ends like any other payload.

#![no_std]
#![no_main]

use guests::report::Report;
use guests::{println, psci};

guests::payload!(main);

fn main(report: &mut Report) {
    println!("lastoff: the last CPU goes off");
    let answer = psci::low(psci::cpu_off());
    report.equal("a refused CPU_OFF says DENIED", answer, -3);
}
