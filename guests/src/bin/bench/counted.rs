//! Costs that are counted from outside, by who executes what: markers say where a sample begins and ends, and where a
//! row does. What a row is called, and of how many operations each sample is, is printed: `counted: ROW EACH`.

use core::fmt::Display;

use guests::{instruction, println};

/// How often each thing is done.
const SAMPLES: usize = 32;

/// Does something, of so many operations, a few times; the first time for nothing.
pub fn row(name: impl Display, each: u64, mut operation: impl FnMut()) {
    operation();
    for _ in 0..SAMPLES {
        instruction!("hint #0x70");
        operation();
        instruction!("hint #0x71");
    }
    instruction!("hint #0x72");
    println!("counted: {name} {each}");
}
