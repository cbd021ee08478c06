//! The mini UART of Broadcom's BCM2835 to BCM2711 ("BCM2711 ARM Peripherals", "Auxiliaries: UART1").
//!
//! Its speed follows the core clock, which only the firmware knows (`enable_uart=1` holds it still), so
//! the firmware's divisor stays. The firmware has also set `AUX_ENABLES`, which is not in this block.

use core::num::NonZeroU32;

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

use super::mmio::{Block, Mmio};
use super::uart::BAUD_RATE;
use super::{DriverError, poll};

register_bitfields! { u32,
    /// Interrupt Enable, AUX_MU_IER_REG. The manual's errata: the 16550's bits, and its line status bit
    /// has to be set for any receive interrupt.
    IER [ RX OFFSET(0) NUMBITS(1) [], TX OFFSET(1) NUMBITS(1) [], LINE_STATUS OFFSET(2) NUMBITS(1) [] ],
    /// Interrupt Identify, AUX_MU_IIR_REG, when written.
    IIR [ CLEAR_RX OFFSET(1) NUMBITS(1) [], CLEAR_TX OFFSET(2) NUMBITS(1) [] ],
    /// Line Control, AUX_MU_LCR_REG. The manual's errata: the size takes both bits.
    LCR [ DATA_SIZE OFFSET(0) NUMBITS(2) [ EightBits = 3 ] ],
    /// Line Status, AUX_MU_LSR_REG.
    LSR [
        DATA_READY OFFSET(0) NUMBITS(1) [],
        TX_EMPTY OFFSET(5) NUMBITS(1) [],
        TX_IDLE OFFSET(6) NUMBITS(1) []
    ],
    /// Extra Control, AUX_MU_CNTL_REG.
    CNTL [ RX_ENABLE OFFSET(0) NUMBITS(1) [], TX_ENABLE OFFSET(1) NUMBITS(1) [] ]
}

register_structs! {
    /// The registers, from AUX_MU_IO_REG on.
    pub(super) Registers {
        (0x00 => io: ReadWrite<u32>),
        (0x04 => ier: ReadWrite<u32, IER::Register>),
        (0x08 => iir: ReadWrite<u32, IIR::Register>),
        (0x0c => lcr: ReadWrite<u32, LCR::Register>),
        (0x10 => mcr: ReadWrite<u32>),
        (0x14 => lsr: ReadOnly<u32, LSR::Register>),
        (0x18 => _modem_and_scratch),
        (0x20 => cntl: ReadWrite<u32, CNTL::Register>),
        (0x24 => _stat),
        (0x28 => baud: ReadWrite<u32>),
        (0x2c => @END),
    }
}

/// A mini UART.
#[derive(Clone, Copy, Debug)]
pub struct MiniUart {
    registers: Block<Registers>,
}

impl MiniUart {
    /// The mini UART with the registers `mmio`, as the firmware left it.
    pub fn new(mmio: Mmio) -> Result<Self, DriverError> {
        Ok(Self { registers: mmio.block(0)? })
    }

    /// See [`Uart::init`](super::uart::Uart::init).
    pub fn init(&self, clock: Option<NonZeroU32>) {
        let registers = &self.registers;
        // What the firmware still sends is let out; if it never ends, it is cut off.
        let _ = poll(|| registers.lsr.is_set(LSR::TX_IDLE));
        registers.cntl.set(0);
        registers.ier.set(0);
        registers.lcr.write(LCR::DATA_SIZE::EightBits);
        registers.mcr.set(0);
        if let Some(divisor) = clock.and_then(divisor) {
            registers.baud.set(divisor);
        }
        registers.iir.write(IIR::CLEAR_RX::SET + IIR::CLEAR_TX::SET);
        registers.cntl.write(CNTL::RX_ENABLE::SET + CNTL::TX_ENABLE::SET);
    }

    /// See [`Uart::put`](super::uart::Uart::put).
    pub fn put(&self, byte: u8) -> Result<(), DriverError> {
        poll(|| self.registers.lsr.is_set(LSR::TX_EMPTY))?;
        self.registers.io.set(byte.into());
        Ok(())
    }

    /// See [`Uart::get`](super::uart::Uart::get).
    pub fn get(&self) -> Option<u8> {
        if !self.registers.lsr.is_set(LSR::DATA_READY) {
            return None;
        }
        Some((self.registers.io.get() & 0xff) as u8)
    }

    /// See [`Uart::try_put`](super::uart::Uart::try_put).
    pub fn try_put(&self, byte: u8) -> bool {
        let room = self.registers.lsr.is_set(LSR::TX_EMPTY);
        if room {
            self.registers.io.set(byte.into());
        }
        room
    }

    /// See [`Uart::set_interrupts`](super::uart::Uart::set_interrupts).
    pub fn set_interrupts(&self, receive: bool, transmit: bool) {
        let receive = u32::from(receive);
        self.registers.ier.write(
            IER::RX.val(receive) + IER::LINE_STATUS.val(receive) + IER::TX.val(transmit.into()),
        );
    }
}

/// The divisor, `core clock / (8 * baud rate) - 1` ("Baudrate", AUX_MU_BAUD_REG).
fn divisor(clock: NonZeroU32) -> Option<u32> {
    let divisor = (clock.get() / (8 * BAUD_RATE)).checked_sub(1)?;
    (divisor <= 0xffff).then_some(divisor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::driver::fake::FakePages;

    const AUX_MU_IO: usize = 0x00;
    const AUX_MU_IER: usize = 0x04;
    const AUX_MU_IIR: usize = 0x08;
    const AUX_MU_LCR: usize = 0x0c;
    const AUX_MU_LSR: usize = 0x14;
    const AUX_MU_CNTL: usize = 0x20;
    const AUX_MU_BAUD: usize = 0x28;

    fn uart() -> (FakePages, MiniUart) {
        let page = FakePages::new(0x40);
        let uart = MiniUart::new(page.mmio()).unwrap();
        (page, uart)
    }

    #[test]
    fn init_leaves_eight_bits_empty_fifos_no_interrupts_and_the_firmwares_speed() {
        let (page, uart) = uart();
        page.write(AUX_MU_IER, 0xfu32);
        page.write(AUX_MU_BAUD, 270u32);
        uart.init(None); // TX_IDLE never shows on this page, and init ends all the same
        assert_eq!(page.word(AUX_MU_LCR), 3);
        assert_eq!(page.word(AUX_MU_IIR), 6);
        assert_eq!(page.word(AUX_MU_CNTL), 3);
        assert_eq!(page.word(AUX_MU_IER), 0);
        assert_eq!(page.word(AUX_MU_BAUD), 270);
        uart.init(NonZeroU32::new(500_000_000));
        assert_eq!(page.word(AUX_MU_BAUD), 541);
    }

    #[test]
    fn a_byte_that_finds_no_room_is_given_up() {
        let (page, uart) = uart();
        assert_eq!(uart.put(b'x'), Err(DriverError::Timeout));
        assert_eq!(page.word(AUX_MU_IO), 0);
        page.write(AUX_MU_LSR, 1u32 << 5);
        assert_eq!(uart.put(b'x'), Ok(()));
        assert_eq!(page.word(AUX_MU_IO), u32::from(b'x'));
    }

    #[test]
    fn a_byte_is_received_when_one_is_there() {
        let (page, uart) = uart();
        page.write(AUX_MU_IO, 0x141u32);
        assert_eq!(uart.get(), None);
        page.write(AUX_MU_LSR, 1u32);
        assert_eq!(uart.get(), Some(0x41));
    }

    #[test]
    fn the_receive_interrupt_needs_the_line_status_bit() {
        let (page, uart) = uart();
        for (receive, transmit, ier) in
            [(true, false, 5), (true, true, 7), (false, true, 2), (false, false, 0)]
        {
            uart.set_interrupts(receive, transmit);
            assert_eq!(page.word(AUX_MU_IER), ier);
        }
    }

    #[test]
    fn a_byte_is_sent_without_waiting_only_into_room() {
        let (page, uart) = uart();
        assert!(!uart.try_put(b'x'));
        assert_eq!(page.word(AUX_MU_IO), 0);
        page.write(AUX_MU_LSR, 1u32 << 5);
        assert!(uart.try_put(b'x'));
        assert_eq!(page.word(AUX_MU_IO), u32::from(b'x'));
    }
}
