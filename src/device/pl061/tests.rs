//! Claims about the PL061, by the offsets of its manual.

use proptest::prelude::*;

use super::*;

const HOLD: u64 = 100;
const PIN: u8 = 3;
const BIT: u64 = 1 << PIN;

fn gpio() -> Pl061 {
    Pl061::new(Button { pin: PIN, hold: Ticks(HOLD) })
}

fn read(gpio: &mut Pl061, offset: u64) -> u64 {
    gpio.read(offset, Width::Word, Ticks(0))
}

fn write(gpio: &mut Pl061, offset: u64, value: u64) {
    gpio.write(offset, Width::Word, value, Ticks(0));
}

fn press(gpio: &mut Pl061, now: u64) {
    gpio.signal(Signal::Press, Ticks(now));
}

/// A PL061 whose button pin interrupts as these bits of GPIOIS, GPIOIBE and GPIOIEV say.
fn armed(by_level: u64, both_edges: u64, event: u64) -> Pl061 {
    let mut gpio = gpio();
    for (offset, bits) in [(0x404, by_level), (0x408, both_edges), (0x40c, event), (0x410, 1)] {
        write(&mut gpio, offset, bits << PIN);
    }
    gpio
}

#[test]
fn every_register_is_zero_out_of_reset() {
    let mut gpio = gpio();
    for offset in (0..0xfe0).step_by(4) {
        assert_eq!(read(&mut gpio, offset), 0, "{offset:#x}");
    }
    assert!(!gpio.irq_level());
    assert_eq!(gpio.deadline(), None);
}

#[test]
fn it_identifies_itself() {
    let id = [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
    let mut gpio = gpio();
    for (offset, byte) in (0xfe0..0x1000).step_by(4).zip(id) {
        assert_eq!(read(&mut gpio, offset), byte);
        write(&mut gpio, offset, 0xff);
        assert_eq!(read(&mut gpio, offset), byte);
    }
}

#[test]
fn the_address_masks_what_of_the_data_register_is_read_and_written() {
    let mut gpio = gpio();
    write(&mut gpio, 0x400, 0xff);
    write(&mut gpio, 0x3fc, 0xa5);
    assert_eq!(read(&mut gpio, 0x3fc), 0xa5);
    write(&mut gpio, 0x0f << 2, 0xff);
    assert_eq!(read(&mut gpio, 0x3fc), 0xaf);
    assert_eq!(read(&mut gpio, 0xf0 << 2), 0xa0);
    write(&mut gpio, 0x000, 0xff);
    assert_eq!((read(&mut gpio, 0x000), read(&mut gpio, 0x3fc)), (0, 0xaf));
    write(&mut gpio, 0x80 << 2, 0x7f);
    assert_eq!(read(&mut gpio, 0x3fc), 0x2f);
}

#[test]
fn data_goes_to_outputs_only() {
    let mut gpio = gpio();
    write(&mut gpio, 0x400, 0x0f);
    write(&mut gpio, 0x3fc, 0xff);
    assert_eq!(read(&mut gpio, 0x3fc), 0x0f);
    write(&mut gpio, 0x400, 0xff);
    assert_eq!(read(&mut gpio, 0x3fc), 0x0f);
    // An input shows what comes from outside, an output what was written to it.
    write(&mut gpio, 0x400, 0x00);
    assert_eq!(read(&mut gpio, 0x3fc), 0);
    write(&mut gpio, 0x400, 0x0f);
    assert_eq!(read(&mut gpio, 0x3fc), 0x0f);
}

#[test]
fn the_control_registers_keep_eight_bits_and_the_status_registers_none() {
    let mut gpio = gpio();
    for offset in [0x400, 0x404, 0x408, 0x40c, 0x410, 0x420] {
        write(&mut gpio, offset, 0xffff_ffff);
        assert_eq!(read(&mut gpio, offset), 0xff, "{offset:#x}");
    }
    for offset in [0x414, 0x418, 0x41c, 0x424, 0x500, 0x600, 0xfdc] {
        write(&mut gpio, offset, 0xffff_ffff);
        assert_eq!(read(&mut gpio, offset), 0, "{offset:#x}");
    }
}

#[test]
fn a_press_raises_the_pin_and_its_end_lowers_it() {
    let mut gpio = gpio();
    press(&mut gpio, 1000);
    assert_eq!(gpio.deadline(), Some(Ticks(1000 + HOLD)));
    assert_eq!(gpio.read(0x3fc, Width::Word, Ticks(1000 + HOLD - 1)), BIT);
    gpio.advance(Ticks(1000 + HOLD));
    assert_eq!(gpio.read(0x3fc, Width::Word, Ticks(0)), 0);
    assert_eq!(gpio.deadline(), None);
}

#[test]
fn a_press_nobody_watched_is_over_at_the_next_access() {
    let mut gpio = gpio();
    press(&mut gpio, 0);
    assert_eq!(gpio.read(0x3fc, Width::Word, Ticks(5 * HOLD)), 0);
    assert_eq!(gpio.deadline(), None);
}

#[test]
fn a_second_press_makes_it_longer_and_no_second_edge() {
    let mut gpio = armed(0, 1, 0);
    press(&mut gpio, 0);
    write(&mut gpio, 0x41c, BIT);
    press(&mut gpio, HOLD / 2);
    assert!(!gpio.irq_level());
    assert_eq!(gpio.deadline(), Some(Ticks(HOLD / 2 + HOLD)));
    // After its end the next press is a new one.
    press(&mut gpio, 9 * HOLD);
    assert!(gpio.irq_level());
}

#[test]
fn an_edge_interrupts_in_the_direction_that_is_asked_for() {
    for (both, event, by_press, by_release) in
        [(0, 1, true, false), (0, 0, false, true), (1, 0, true, true), (1, 1, true, true)]
    {
        let mut gpio = armed(0, both, event);
        assert!(!gpio.irq_level());
        press(&mut gpio, 0);
        assert_eq!(gpio.irq_level(), by_press);
        write(&mut gpio, 0x41c, BIT);
        assert!(!gpio.irq_level());
        gpio.advance(Ticks(HOLD));
        assert_eq!(gpio.irq_level(), by_release, "both {both}, event {event}");
    }
}

#[test]
fn an_edge_is_kept_until_it_is_cleared() {
    let mut gpio = armed(0, 0, 1);
    press(&mut gpio, 0);
    gpio.advance(Ticks(HOLD));
    assert_eq!((read(&mut gpio, 0x414), read(&mut gpio, 0x418)), (BIT, BIT));
    write(&mut gpio, 0x41c, !BIT);
    assert!(gpio.irq_level());
    write(&mut gpio, 0x41c, BIT);
    assert_eq!((read(&mut gpio, 0x414), read(&mut gpio, 0x418)), (0, 0));
}

#[test]
fn a_level_interrupts_as_long_as_it_lasts_and_cannot_be_cleared() {
    let mut high = armed(1, 0, 1);
    press(&mut high, 0);
    write(&mut high, 0x41c, BIT);
    assert!(high.irq_level());
    high.advance(Ticks(HOLD));
    assert!(!high.irq_level());

    let mut low = armed(1, 0, 0);
    assert!(low.irq_level());
    press(&mut low, 0);
    assert!(!low.irq_level());
}

#[test]
fn the_mask_hides_an_interrupt_and_does_not_forget_it() {
    let mut gpio = armed(0, 0, 1);
    write(&mut gpio, 0x410, !BIT);
    press(&mut gpio, 0);
    assert!(!gpio.irq_level());
    assert_eq!((read(&mut gpio, 0x414), read(&mut gpio, 0x418)), (BIT, 0));
    write(&mut gpio, 0x410, BIT);
    assert!(gpio.irq_level());
}

#[test]
fn an_output_does_not_interrupt() {
    for by_level in [0, 1] {
        let mut gpio = armed(by_level, 1, 1);
        write(&mut gpio, 0x400, 0xff);
        write(&mut gpio, 0x3fc, 0xff);
        write(&mut gpio, 0x3fc, 0x00);
        press(&mut gpio, 0);
        assert_eq!(read(&mut gpio, 0x414), 0);
    }
}

#[test]
fn a_pin_that_becomes_level_sensitive_forgets_its_edges() {
    let mut gpio = armed(0, 0, 1);
    press(&mut gpio, 0);
    gpio.advance(Ticks(HOLD));
    write(&mut gpio, 0x404, BIT);
    assert!(!gpio.irq_level());
    write(&mut gpio, 0x404, 0);
    assert!(!gpio.irq_level());
}

#[test]
fn a_reset_lets_go_of_the_button_and_clears_every_register() {
    let mut gpio = armed(0, 1, 1);
    write(&mut gpio, 0x400, 0xf0);
    write(&mut gpio, 0x3fc, 0xff);
    press(&mut gpio, 0);
    gpio.reset();
    assert_eq!(gpio.state(), &State::default());
    assert_eq!(gpio.deadline(), None);
    assert!(!gpio.irq_level());
}

#[test]
fn what_is_saved_goes_on_where_it_was() {
    let mut gpio = armed(0, 1, 0);
    press(&mut gpio, 50);
    let mut again = Pl061::restore(gpio.button, gpio.state().clone());
    again.advance(Ticks(50 + HOLD));
    gpio.advance(Ticks(50 + HOLD));
    assert_eq!(again.state(), gpio.state());
}

/// One pin, as its description in the manual reads.
#[derive(Clone, Copy, Default)]
struct Pin {
    input: bool,
    written: bool,
    is_output: bool,
    by_level: bool,
    both_edges: bool,
    event: bool,
    unmasked: bool,
    edge: bool,
}

impl Pin {
    fn level(self) -> bool {
        if self.is_output { self.written } else { self.input }
    }

    fn raw(self) -> bool {
        match (self.by_level, self.is_output) {
            (false, _) => self.edge,
            (true, output) => !output && self.input == self.event,
        }
    }

    fn drive(&mut self, high: bool) {
        let detects = !self.is_output && !self.by_level && self.input != high;
        self.edge |= detects && (self.both_edges || high == self.event);
        self.input = high;
    }

    fn write(&mut self, offset: u64, selected: bool, bit: bool) {
        match offset {
            0..=0x3fc if self.is_output && selected => self.written = bit,
            0x400 => self.is_output = bit,
            0x404 => {
                self.by_level = bit;
                self.edge &= !bit;
            }
            0x408 => self.both_edges = bit,
            0x40c => self.event = bit,
            0x410 => self.unmasked = bit,
            0x41c => self.edge &= !bit,
            _ => {}
        }
    }

    fn read(self, offset: u64, selected: bool) -> bool {
        match offset {
            0..=0x3fc => selected && self.level(),
            0x400 => self.is_output,
            0x404 => self.by_level,
            0x408 => self.both_edges,
            0x40c => self.event,
            0x410 => self.unmasked,
            0x414 => self.raw(),
            0x418 => self.raw() && self.unmasked,
            _ => false,
        }
    }
}

proptest! {
    #![proptest_config(crate::testing::cases(256, 1))]

    /// Against eight pins that know nothing of each other.
    #[test]
    fn random_accesses_and_presses_equal_those_of_eight_single_pins(
        steps in prop::collection::vec(
            (prop_oneof![0u64..0x100, 0x100u64..0x108], any::<u8>(), 0u64..HOLD, 0u8..4),
            0..crate::testing::pick(60, 8),
        ),
    ) {
        let mut gpio = gpio();
        let mut pins = [Pin::default(); 8];
        let (mut now, mut until) = (0, None);
        for (register, value, wait, presses) in steps {
            now += wait;
            let offset = register * 4;
            if until.is_some_and(|at| at <= now) {
                pins[3].drive(false);
                until = None;
            }
            if presses == 0 {
                press(&mut gpio, now);
                pins[3].drive(true);
                until = Some(now + HOLD);
            }
            gpio.write(offset, Width::Word, value.into(), Ticks(now));
            for (number, pin) in pins.iter_mut().enumerate() {
                pin.write(offset, register >> number & 1 != 0, value >> number & 1 != 0);
            }
            prop_assert_eq!(gpio.deadline(), until.map(Ticks));
            for register in (0x100..0x107).chain([register & 0xff, 0xff]) {
                let offset = register * 4;
                let read = |(number, pin): (usize, &Pin)| {
                    u64::from(pin.read(offset, register >> number & 1 != 0)) << number
                };
                let expected: u64 = pins.iter().enumerate().map(read).sum();
                prop_assert_eq!(gpio.read(offset, Width::Word, Ticks(now)), expected, "{:#x}", offset);
            }
            prop_assert_eq!(gpio.irq_level(), pins.iter().any(|pin| pin.raw() && pin.unmasked));
        }
    }
}
