//! How long is this guest kept from the CPU at a time? It reads the counter over and over, and says four
//! times a second how far apart two readings were at most, in microseconds. It never ends.

#![no_std]
#![no_main]

use guests::println;
use guests::report::Report;
use guests::timer::{microseconds, now};

guests::payload!(main);

fn main(_: &mut Report) {
    let start = now();
    for quarter in 1.. {
        let end = start + quarter * microseconds(250_000);
        let (mut last, mut longest) = (now(), 0);
        while last < end {
            let this = now();
            longest = longest.max(this - last);
            last = this;
        }
        println!("gap: {quarter} {}", longest * 1_000_000 / microseconds(1_000_000));
    }
}
