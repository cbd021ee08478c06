//! Any accesses to the PL061 and presses of its button at any times, backwards too. Its interrupt output
//! is what `GPIOMIS` says, data is read through the mask of the address, and the button comes up at its
//! deadline and not before.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use plinth::device::pl061::{Button, Pl061};
use plinth::device::{Device, Signal};
use plinth::exit::Width;
use plinth::time::Ticks;
use plinth_fuzz::Access;

const GPIODIR: u64 = 0x400;
const GPIOIE: u64 = 0x410;
const GPIORIS: u64 = 0x414;
const GPIOMIS: u64 = 0x418;

#[derive(Arbitrary, Debug)]
enum Step {
    Access(Access),
    Press(u64),
    Reset,
}

/// A pin's level, if it is an input.
fn input(gpio: &mut Pl061, pin: u8) -> Option<bool> {
    let bit = 1u64.checked_shl(pin.into()).filter(|bit| *bit < 0x100)?;
    let direction = gpio.read(GPIODIR, Width::Word, Ticks(0));
    (direction & bit == 0).then(|| gpio.read(bit << 2, Width::Word, Ticks(0)) != 0)
}

fuzz_target!(|input_data: (u8, u64, Vec<Step>)| {
    let (pin, hold, steps) = input_data;
    let button = Button { pin, hold: Ticks(hold) };
    let mut gpio = Pl061::new(button);
    for step in steps {
        match step {
            Step::Access(access) => {
                let read = access.perform(&mut gpio);
                if access.offset < GPIODIR && access.width == Width::Word {
                    assert_eq!(read.unwrap_or(0) & !(access.offset >> 2 & 0xff), 0);
                }
            }
            Step::Press(now) => gpio.signal(Signal::Press, Ticks(now)),
            Step::Reset => gpio.reset(),
        }
        let mut read = |offset| gpio.read(offset, Width::Word, Ticks(0));
        let (raw, unmasked, masked) = (read(GPIORIS), read(GPIOIE), read(GPIOMIS));
        assert_eq!(raw & unmasked, masked);
        assert_eq!(gpio.irq_level(), masked != 0);
        let Some(Ticks(deadline)) = gpio.deadline() else {
            assert_ne!(input(&mut gpio, pin), Some(true));
            continue;
        };
        let mut later = Pl061::restore(button, gpio.state().clone());
        if let Some(before) = deadline.checked_sub(1) {
            later.advance(Ticks(before));
            assert_ne!(input(&mut later, pin), Some(false), "before {deadline}");
        }
        later.advance(Ticks(deadline));
        assert_ne!(input(&mut later, pin), Some(true), "at {deadline}");
    }
});
