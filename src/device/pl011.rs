//! The PrimeCell UART, PL011 (ARM DDI 0183), as a guest sees it.
//!
//! There is no baud rate: a character written is transmitted at once if the [`SerialLine`] takes it, so
//! that the transmit interrupt follows each write. If it does not, the character waits in the transmit
//! FIFO, and the interrupt comes when the FIFO has drained to its level. What is written to a full FIFO
//! is lost, as on the hardware. The receive timeout has passed as soon as characters are left in the
//! FIFO. Characters are taken off the line only while the FIFO has room, so the line never overruns
//! it; a loopback can.
//!
//! Like QEMU's model this one transmits and receives whether or not UARTCR's enable bits are set:
//! there are guests that print without ever enabling their UART. In a loopback, characters written
//! still reach the line, and those on the line wait for its end.
//!
//! Not modelled: baud rate, parity and word length (any setting moves whole bytes), hardware flow
//! control, SIR, DMA (its register holds what is written), the test registers.

mod fifo;
mod registers;

use serde::{Deserialize, Serialize};
use tock_registers::fields::Field;

use super::Device;
use super::primecell::{self, Registers};
use super::serial::SerialLine;
use crate::exit::Width;
use crate::time::Ticks;
use fifo::Fifo;
use registers::{Control, Data, FifoLevels, Flags, Interrupts, LineControl, ReceiveStatus};

/// What of a PL011 a guest can change.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct State {
    receive: Fifo,
    /// What the line has not taken yet.
    transmit: Fifo,
    /// A character was lost, and no later one has yet carried the news into the FIFO.
    overrun: bool,
    rsr: u16,
    ilpr: u16,
    ibrd: u16,
    fbrd: u16,
    lcr_h: u16,
    cr: u16,
    ifls: u16,
    imsc: u16,
    ris: u16,
    dmacr: u16,
}

impl Default for State {
    /// As after reset (DDI 0183, "Summary of registers").
    fn default() -> Self {
        Self {
            receive: Fifo::default(),
            transmit: Fifo::default(),
            overrun: false,
            rsr: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: (Control::TXE::SET + Control::RXE::SET).value,
            ifls: (FifoLevels::RXIFLSEL::Half + FifoLevels::TXIFLSEL::Half).value,
            imsc: 0,
            ris: 0,
            dmacr: 0,
        }
    }
}

/// A PL011 with its cable.
pub struct Pl011<L> {
    state: State,
    line: L,
}

impl<L: SerialLine> Pl011<L> {
    /// A UART after reset, plugged into `line`.
    pub fn new(line: L) -> Self {
        Self::restore(line, State::default())
    }

    /// A UART in a saved `state`, plugged into `line`.
    pub const fn restore(line: L, state: State) -> Self {
        Self { state, line }
    }

    /// What to save.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Takes characters off the line while there is room.
    fn fill(&mut self) {
        while self.state.receive.len() < self.state.depth() && !self.state.is_loopback() {
            match self.line.receive() {
                Some(byte) => self.state.receive(byte.into()),
                None => break,
            }
        }
    }

    fn read_data(&mut self) -> u16 {
        let character = self.state.take();
        self.fill();
        character
    }

    fn write_data(&mut self, byte: u8) {
        if self.state.transmit.len() >= self.state.depth() {
            return;
        }
        if self.state.is_loopback() {
            self.state.receive(byte.into());
        }
        if self.state.transmit.is_empty() && self.line.send(byte) {
            // It has gone through the FIFO in no time.
            return self.state.raise(Interrupts::TX);
        }
        self.state.transmit.push(byte.into());
        if self.state.transmit.len() > self.state.transmit_trigger() {
            self.state.clear(Interrupts::TX);
        }
        self.drain();
    }

    /// Sends what waits, as far as the line takes it.
    fn drain(&mut self) {
        while let Some(character) = self.state.transmit.first() {
            let [byte, _] = character.to_le_bytes();
            if !self.line.send(byte) {
                break;
            }
            self.state.transmit.pop();
            if self.state.transmit.len() <= self.state.transmit_trigger() {
                self.state.raise(Interrupts::TX);
            }
        }
    }
}

impl State {
    fn is_loopback(&self) -> bool {
        Control::LBE.is_set(self.cr)
    }

    /// How many characters receiver and transmitter hold each: the FIFO's, or the one of the holding
    /// register.
    fn depth(&self) -> usize {
        if LineControl::FEN.is_set(self.lcr_h) { fifo::DEPTH } else { 1 }
    }

    /// How few characters raise the transmit interrupt (UARTIFLS). Reserved values count as the last.
    fn transmit_trigger(&self) -> usize {
        let eighths = match FifoLevels::TXIFLSEL.read_as_enum(self.ifls) {
            Some(FifoLevels::TXIFLSEL::Value::Eighth) => 1,
            Some(FifoLevels::TXIFLSEL::Value::Quarter) => 2,
            Some(FifoLevels::TXIFLSEL::Value::Half) => 4,
            Some(FifoLevels::TXIFLSEL::Value::ThreeQuarters) => 6,
            Some(FifoLevels::TXIFLSEL::Value::SevenEighths) | None => 7,
        };
        self.depth() * eighths / 8
    }

    /// How many characters raise the receive interrupt (UARTIFLS). Reserved values count as the last.
    fn receive_trigger(&self) -> usize {
        let eighths = match FifoLevels::RXIFLSEL.read_as_enum(self.ifls) {
            Some(FifoLevels::RXIFLSEL::Value::Eighth) => 1,
            Some(FifoLevels::RXIFLSEL::Value::Quarter) => 2,
            Some(FifoLevels::RXIFLSEL::Value::Half) => 4,
            Some(FifoLevels::RXIFLSEL::Value::ThreeQuarters) => 6,
            Some(FifoLevels::RXIFLSEL::Value::SevenEighths) | None => 7,
        };
        (self.depth() * eighths / 8).max(1)
    }

    fn raise(&mut self, interrupt: Field<u16, Interrupts::Register>) {
        self.ris |= interrupt.mask << interrupt.shift;
    }

    fn clear(&mut self, interrupt: Field<u16, Interrupts::Register>) {
        self.ris &= !(interrupt.mask << interrupt.shift);
    }

    /// A character arrives, with its error bits as UARTDR shows them.
    fn receive(&mut self, character: u16) {
        if self.receive.len() >= self.depth() {
            self.overrun = true;
            self.rsr = ReceiveStatus::OE::SET.modify(self.rsr);
            self.raise(Interrupts::OE);
            return;
        }
        let overrun = if self.overrun { Data::OE::SET } else { Data::OE::CLEAR };
        self.overrun = false;
        self.receive.push(overrun.modify(character));
        if Data::BE.is_set(character) {
            self.raise(Interrupts::BE);
        }
        if self.receive.len() >= self.receive_trigger() {
            self.raise(Interrupts::RX);
        }
        self.raise(Interrupts::RT);
    }

    /// The guest takes the oldest character; zero when there is none.
    fn take(&mut self) -> u16 {
        let Some(character) = self.receive.pop() else {
            return 0;
        };
        let errors = ReceiveStatus::ERRORS.val(Data::ERRORS.read(character));
        self.rsr = errors.modify(self.rsr);
        if self.receive.len() < self.receive_trigger() {
            self.clear(Interrupts::RX);
        }
        // The timeout starts anew with what is left, so a guest that takes one character for each
        // interrupt gets them all.
        if self.receive.is_empty() {
            self.clear(Interrupts::RT);
        } else {
            self.raise(Interrupts::RT);
        }
        character
    }

    /// UARTFR.
    fn flags(&self) -> u16 {
        let full = self.receive.len() >= self.depth();
        let (sends, stuffed) = (!self.transmit.is_empty(), self.transmit.len() >= self.depth());
        let fifos = Flags::TXFE.val((!sends).into())
            + Flags::TXFF.val(stuffed.into())
            + Flags::BUSY.val(sends.into())
            + Flags::RXFE.val(self.receive.is_empty().into())
            + Flags::RXFF.val(full.into());
        fifos.value | self.modem_inputs()
    }

    /// The modem status inputs as UARTFR shows them: nothing is connected to them but, in a
    /// loopback, the modem outputs.
    fn modem_inputs(&self) -> u16 {
        if !self.is_loopback() {
            return 0;
        }
        let inputs = Flags::CTS.val(Control::RTS.read(self.cr))
            + Flags::DSR.val(Control::DTR.read(self.cr))
            + Flags::DCD.val(Control::OUT1.read(self.cr))
            + Flags::RI.val(Control::OUT2.read(self.cr));
        inputs.value
    }

    fn write_cr(&mut self, value: u16) {
        let before = self.modem_inputs();
        self.cr = value & registers::CR_BITS;
        let changed = before ^ self.modem_inputs();
        for (input, interrupt) in [
            (Flags::CTS, Interrupts::CTS),
            (Flags::DSR, Interrupts::DSR),
            (Flags::DCD, Interrupts::DCD),
            (Flags::RI, Interrupts::RI),
        ] {
            if input.is_set(changed) {
                self.raise(interrupt);
            }
        }
    }

    fn write_lcr_h(&mut self, value: u16) {
        let changed = self.lcr_h ^ value;
        self.lcr_h = value & registers::LCR_H_BITS;
        if LineControl::FEN.is_set(changed) {
            self.receive.clear();
            self.clear(Interrupts::RX);
            self.clear(Interrupts::RT);
        }
        let starts_break = LineControl::BRK.is_set(changed & value);
        if starts_break && self.is_loopback() {
            // However long the break, one character of zero is received.
            self.receive(Data::BE::SET.value);
        }
    }

    const fn mis(&self) -> u16 {
        self.ris & self.imsc
    }
}

impl<L: SerialLine> Registers for Pl011<L> {
    /// Revision r1p1, whose FIFOs are sixteen deep; as QEMU has it.
    const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

    fn read_register(&mut self, offset: u64) -> u32 {
        // A guest that polls must see what came and what went since.
        self.drain();
        self.fill();
        let value = match offset {
            registers::DR => self.read_data(),
            registers::RSR => self.state.rsr,
            registers::FR => self.state.flags(),
            registers::ILPR => self.state.ilpr,
            registers::IBRD => self.state.ibrd,
            registers::FBRD => self.state.fbrd,
            registers::LCR_H => self.state.lcr_h,
            registers::CR => self.state.cr,
            registers::IFLS => self.state.ifls,
            registers::IMSC => self.state.imsc,
            registers::RIS => self.state.ris,
            registers::MIS => self.state.mis(),
            registers::DMACR => self.state.dmacr,
            _ => 0,
        };
        value.into()
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        // No register is wider than 16 bits.
        let [byte, second, ..] = value.to_le_bytes();
        let value = u16::from_le_bytes([byte, second]);
        match offset {
            registers::DR => self.write_data(byte),
            registers::RSR => self.state.rsr = 0,
            registers::ILPR => self.state.ilpr = value & registers::ILPR_BITS,
            registers::IBRD => self.state.ibrd = value,
            registers::FBRD => self.state.fbrd = value & registers::FBRD_BITS,
            registers::LCR_H => {
                self.state.write_lcr_h(value);
                self.fill();
            }
            registers::CR => {
                self.state.write_cr(value);
                self.fill();
            }
            registers::IFLS => self.state.ifls = value & registers::IFLS_BITS,
            registers::IMSC => self.state.imsc = value & registers::INTERRUPT_BITS,
            registers::ICR => self.state.ris &= !value,
            registers::DMACR => self.state.dmacr = value & registers::DMACR_BITS,
            _ => {}
        }
    }
}

impl<L: SerialLine> Device for Pl011<L> {
    fn read(&mut self, offset: u64, width: Width, _now: Ticks) -> u64 {
        primecell::read(self, offset, width)
    }

    /// UARTFR, while nothing waits to be sent: with what waits a read tries again. Of what came, the line says so by
    /// itself.
    fn polled(&self) -> Option<(u64, u32)> {
        let flags = || (registers::FR, self.state.flags().into());
        self.state.transmit.is_empty().then(flags)
    }

    fn write(&mut self, offset: u64, width: Width, value: u64, _now: Ticks) {
        primecell::write(self, offset, width, value);
    }

    /// UARTINTR, the OR of all interrupts that are not masked.
    fn irq_level(&self) -> bool {
        self.state.mis() != 0
    }

    fn advance(&mut self, _now: Ticks) {
        self.drain();
        self.fill();
    }

    fn reset(&mut self) {
        self.drain();
        self.line.discard();
        self.state = State::default();
    }
}

#[cfg(test)]
mod tests;
