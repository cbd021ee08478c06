//! Does what is typed come back? A guest to type to: each line is answered with `echo: ` and the line
//! itself. `flood` prints for ever, and still answers; `quit` ends it.

#![no_std]
#![no_main]

use guests::mmio::{read32, write32};
use guests::report::Report;
use guests::{gic, instruction, println, uart};

guests::payload!(main);

const INTID: u32 = 33;
/// Receive and receive timeout.
const INPUT: u32 = uart::INT_RX | 1 << 6;

fn main(report: &mut Report) {
    gic::init();
    gic::enable(INTID);
    write32(uart::IMSC, INPUT);
    let mut line = [0u8; 80];
    let (mut length, mut floods, mut round) = (0, false, 0u64);
    println!("echo: ready");
    prompt();
    loop {
        while read32(uart::FR) & uart::FR_RXFE == 0 {
            let byte = read32(uart::DR).to_le_bytes()[0];
            if byte != b'\r' && byte != b'\n' {
                if let Some(slot) = line.get_mut(length) {
                    *slot = byte;
                    length += 1;
                    uart::put(byte);
                }
                continue;
            }
            let text = core::str::from_utf8(&line[..length]).unwrap_or("?");
            println!("");
            match text {
                "quit" => {
                    write32(uart::IMSC, 0);
                    return report.pass("what is typed comes back");
                }
                "flood" => floods = true,
                text => println!("echo: {text}"),
            }
            length = 0;
            prompt();
        }
        if floods {
            println!("flood: line {round} of a guest that never stops talking, whoever listens");
            round += 1;
        } else {
            // Interrupts are masked: one that is pending ends the wait and is not taken.
            instruction!("wfi");
        }
    }
}

/// A line without an end.
fn prompt() {
    for byte in b"echo> " {
        uart::put(*byte);
    }
}
