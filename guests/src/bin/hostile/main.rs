//! Does a machine survive what no honest guest does? First each thing in turn ([`survey`]), then anything at all
//! ([`storm`]), as the command line says: `seed=7 operations=1000000`. The same seed does the same.

#![no_std]
#![no_main]

mod storm;
mod survey;

use guests::report::Report;
use guests::{exception, instruction, machine, mmio, println, psci, timer, uart};

guests::payload!(main);

/// How many operations a storm has, and which, where nobody says.
const OPERATIONS: u64 = 20_000;
const SEED: u64 = 1;

fn main(report: &mut Report) {
    let version = psci::call(psci::VERSION, [0; 3]);
    survey::make(report);
    let seed = machine::number("seed").unwrap_or(SEED);
    storm::rage(report, seed, machine::number("operations").unwrap_or(OPERATIONS));

    // What came asynchronously is counted, not fatal.
    instruction!("msr daifclr, #4");
    timer::spin(1000);
    instruction!("msr daifset, #4");
    println!("{} SErrors", exception::serrors());
    report.equal("PSCI still answers", psci::call(psci::VERSION, [0; 3]), version);
    report.equal("the UART is still one", mmio::read32(uart::PERIPH_ID0), 0x11);
    let start = timer::now();
    timer::spin(100);
    report.holds("the counter still counts", timer::now() > start, start);
}
