//! The PrimeCell general purpose input/output, PL061 (ARM DDI 0190), as a guest sees it: eight pins,
//! each an input or an output, whose inputs interrupt by edge or by level.
//!
//! A push button is on one pin: pressed, it drives the pin high for a while and then lets go. The other
//! inputs are low, and nothing is connected to outputs.
//!
//! Where the manual leaves it open: data written to a pin that is an input is lost, as with QEMU's model,
//! and detection looks at inputs only. A change of configuration is no edge.
//!
//! Not modelled: the test registers. `GPIOAFSEL` keeps its value, and no pin has another function.

use serde::{Deserialize, Serialize};

use super::primecell::{self, Registers};
use super::{Device, Signal};
use crate::exit::Width;
use crate::time::Ticks;

/// GPIODATA, "Data register": bits 9 to 2 of the address are the mask of the pins that are accessed.
const DATA_LAST: u64 = 0x3fc;
/// GPIODIR, "Data direction register": a pin whose bit is set is an output.
const DIR: u64 = 0x400;
/// GPIOIS, "Interrupt sense register": set for levels, clear for edges.
const IS: u64 = 0x404;
/// GPIOIBE, "Interrupt both edges register".
const IBE: u64 = 0x408;
/// GPIOIEV, "Interrupt event register": set for rising edges and high levels.
const IEV: u64 = 0x40c;
/// GPIOIE, "Interrupt mask register": a pin whose bit is set may interrupt.
const IE: u64 = 0x410;
/// GPIORIS, "Raw interrupt status register".
const RIS: u64 = 0x414;
/// GPIOMIS, "Masked interrupt status register".
const MIS: u64 = 0x418;
/// GPIOIC, "Interrupt clear register": forgets edges.
const IC: u64 = 0x41c;
/// GPIOAFSEL, "Mode control select register".
const AFSEL: u64 = 0x420;

/// What of a PL061 a guest can change, and what its button does. One bit for each pin.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The levels from outside.
    inputs: u8,
    /// What was last written to pins while they were outputs.
    outputs: u8,
    direction: u8,
    by_level: u8,
    both_edges: u8,
    event: u8,
    unmasked: u8,
    /// Edges that were detected; none of a pin that interrupts by level.
    edges: u8,
    mode: u8,
    /// The button is down until then.
    held: Option<Ticks>,
}

/// A push button.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Button {
    /// The pin it drives high, 0 to 7.
    pub pin: u8,
    /// How long a press lasts.
    pub hold: Ticks,
}

impl Button {
    fn mask(self) -> u8 {
        1u8.checked_shl(self.pin.into()).unwrap_or(0)
    }
}

/// A PL061 with its button.
pub struct Pl061 {
    state: State,
    button: Button,
}

impl Pl061 {
    /// One out of reset, its button up.
    pub fn new(button: Button) -> Self {
        Self::restore(button, State::default())
    }

    /// One in a saved `state`; it goes on as if the system counter were the one it was saved under.
    pub const fn restore(button: Button, state: State) -> Self {
        Self { state, button }
    }

    /// What to save.
    pub const fn state(&self) -> &State {
        &self.state
    }
}

impl State {
    /// What the pins are at.
    const fn pins(&self) -> u8 {
        self.inputs & !self.direction | self.outputs & self.direction
    }

    /// GPIORIS.
    const fn raw(&self) -> u8 {
        let levels = !(self.inputs ^ self.event) & self.by_level & !self.direction;
        levels | self.edges
    }

    /// GPIOMIS.
    const fn masked(&self) -> u8 {
        self.raw() & self.unmasked
    }

    const fn write_data(&mut self, mask: u8, value: u8) {
        let mask = mask & self.direction;
        self.outputs = self.outputs & !mask | value & mask;
    }

    const fn set_by_level(&mut self, pins: u8) {
        self.by_level = pins;
        self.edges &= !pins;
    }

    /// The pins of `mask` are driven from outside.
    const fn drive(&mut self, mask: u8, high: bool) {
        let before = self.inputs;
        self.inputs = if high { before | mask } else { before & !mask };
        let edges = (self.inputs ^ before) & !self.direction & !self.by_level;
        let wanted = self.both_edges | !(self.inputs ^ self.event);
        self.edges |= edges & wanted;
    }
}

impl Registers for Pl061 {
    const IDENTIFICATION: [u8; 8] = [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

    fn read_register(&mut self, offset: u64) -> u32 {
        let state = &self.state;
        u32::from(match offset {
            0..=DATA_LAST => state.pins() & data_mask(offset),
            DIR => state.direction,
            IS => state.by_level,
            IBE => state.both_edges,
            IEV => state.event,
            IE => state.unmasked,
            RIS => state.raw(),
            MIS => state.masked(),
            AFSEL => state.mode,
            _ => 0,
        })
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let [value, ..] = value.to_le_bytes();
        let state = &mut self.state;
        match offset {
            0..=DATA_LAST => state.write_data(data_mask(offset), value),
            DIR => state.direction = value,
            IS => state.set_by_level(value),
            IBE => state.both_edges = value,
            IEV => state.event = value,
            IE => state.unmasked = value,
            IC => state.edges &= !value,
            AFSEL => state.mode = value,
            _ => {}
        }
    }
}

/// The pins that an access to GPIODATA at `offset` is to.
fn data_mask(offset: u64) -> u8 {
    let [mask, ..] = (offset >> 2).to_le_bytes();
    mask
}

impl Device for Pl061 {
    fn read(&mut self, offset: u64, width: Width, now: Ticks) -> u64 {
        self.advance(now);
        primecell::read(self, offset, width)
    }

    fn write(&mut self, offset: u64, width: Width, value: u64, now: Ticks) {
        self.advance(now);
        primecell::write(self, offset, width, value);
    }

    fn irq_level(&self) -> bool {
        self.state.masked() != 0
    }

    fn advance(&mut self, now: Ticks) {
        if self.state.held.is_some_and(|until| until <= now) {
            self.state.held = None;
            self.state.drive(self.button.mask(), false);
        }
    }

    fn signal(&mut self, signal: Signal, now: Ticks) {
        self.advance(now);
        if signal == Signal::Press {
            // Pressed again while it is down: down for longer.
            self.state.held = Some(now.saturating_add(self.button.hold));
            self.state.drive(self.button.mask(), true);
        }
    }

    fn deadline(&self) -> Option<Ticks> {
        self.state.held
    }

    fn reset(&mut self) {
        self.state = State::default();
    }
}

#[cfg(test)]
mod tests;
