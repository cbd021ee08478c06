//! Arm's PrimeCell UART, PL011 (DDI 0183G). Not used: DMA, modem lines, flow control.

use core::num::NonZeroU32;

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

use super::mmio::{Block, Mmio};
use super::uart::BAUD_RATE;
use super::{DriverError, poll};

register_bitfields! { u32,
    /// Data Register, UARTDR.
    DR [
        DATA OFFSET(0) NUMBITS(8) [],
        /// Framing, parity, break and overrun error. An overrun damages no byte that is read.
        FE OFFSET(8) NUMBITS(1) [], PE OFFSET(9) NUMBITS(1) [], BE OFFSET(10) NUMBITS(1) []
    ],
    /// Flag Register, UARTFR.
    FR [
        BUSY OFFSET(3) NUMBITS(1) [], RXFE OFFSET(4) NUMBITS(1) [], TXFF OFFSET(5) NUMBITS(1) []
    ],
    /// Line Control Register, UARTLCR_H.
    LCR_H [ FEN OFFSET(4) NUMBITS(1) [], WLEN OFFSET(5) NUMBITS(2) [ EightBits = 3 ] ],
    /// Control Register, UARTCR.
    CR [ UARTEN OFFSET(0) NUMBITS(1) [], TXE OFFSET(8) NUMBITS(1) [], RXE OFFSET(9) NUMBITS(1) [] ],
    /// Interrupt FIFO Level Select Register, UARTIFLS.
    IFLS [
        TXIFLSEL OFFSET(0) NUMBITS(3) [ OneEighth = 0 ], RXIFLSEL OFFSET(3) NUMBITS(3) [ OneEighth = 0 ]
    ],
    /// The interrupts, in UARTIMSC and UARTICR alike: receive, transmit and receive timeout.
    INT [
        RX OFFSET(4) NUMBITS(1) [], TX OFFSET(5) NUMBITS(1) [], RT OFFSET(6) NUMBITS(1) [],
        ALL OFFSET(0) NUMBITS(11) []
    ]
}

register_structs! {
    /// The registers; DDI 0183G, "Summary of registers".
    pub(super) Registers {
        (0x000 => dr: ReadWrite<u32, DR::Register>),
        (0x004 => _errors_and_reserved),
        (0x018 => fr: ReadOnly<u32, FR::Register>),
        (0x01c => _low_power),
        (0x024 => ibrd: ReadWrite<u32>),
        (0x028 => fbrd: ReadWrite<u32>),
        (0x02c => lcr_h: ReadWrite<u32, LCR_H::Register>),
        (0x030 => cr: ReadWrite<u32, CR::Register>),
        (0x034 => ifls: ReadWrite<u32, IFLS::Register>),
        (0x038 => imsc: ReadWrite<u32, INT::Register>),
        (0x03c => _interrupt_status),
        (0x044 => icr: WriteOnly<u32, INT::Register>),
        (0x048 => @END),
    }
}

/// How many bytes the receive FIFO holds.
const FIFO_DEPTH: usize = 32;

/// A PL011.
#[derive(Clone, Copy, Debug)]
pub struct Pl011 {
    registers: Block<Registers>,
}

impl Pl011 {
    /// The PL011 with the registers `mmio`, as the boot loader left it.
    pub fn new(mmio: Mmio) -> Result<Self, DriverError> {
        Ok(Self { registers: mmio.block(0)? })
    }

    /// See [`Uart::init`](super::uart::Uart::init).
    pub fn init(&self, clock: Option<NonZeroU32>) {
        let registers = &self.registers;
        // What the boot loader still sends is let out; if it never ends, it is cut off.
        let _ = poll(|| !registers.fr.is_set(FR::BUSY));
        registers.cr.set(0);
        registers.imsc.set(0);
        registers.icr.write(INT::ALL.val(u32::MAX));
        if let Some((integer, fraction)) = clock.and_then(divisor) {
            registers.ibrd.set(integer);
            registers.fbrd.set(fraction);
        }
        // This write also makes the new divisor take effect ("Line Control Register, UARTLCR_H").
        registers.lcr_h.write(LCR_H::WLEN::EightBits + LCR_H::FEN::SET);
        registers.ifls.write(IFLS::RXIFLSEL::OneEighth + IFLS::TXIFLSEL::OneEighth);
        registers.cr.write(CR::UARTEN::SET + CR::TXE::SET + CR::RXE::SET);
    }

    /// See [`Uart::put`](super::uart::Uart::put).
    pub fn put(&self, byte: u8) -> Result<(), DriverError> {
        poll(|| !self.registers.fr.is_set(FR::TXFF))?;
        self.registers.dr.write(DR::DATA.val(byte.into()));
        Ok(())
    }

    /// See [`Uart::get`](super::uart::Uart::get).
    pub fn get(&self) -> Option<u8> {
        for _ in 0..FIFO_DEPTH {
            if self.registers.fr.is_set(FR::RXFE) {
                return None;
            }
            let received = self.registers.dr.extract();
            if !received.any_matching_bits_set(DR::FE::SET + DR::PE::SET + DR::BE::SET) {
                return u8::try_from(received.read(DR::DATA)).ok();
            }
        }
        None
    }

    /// See [`Uart::try_put`](super::uart::Uart::try_put).
    pub fn try_put(&self, byte: u8) -> bool {
        let room = !self.registers.fr.is_set(FR::TXFF);
        if room {
            self.registers.dr.write(DR::DATA.val(byte.into()));
        }
        room
    }

    /// See [`Uart::set_interrupts`](super::uart::Uart::set_interrupts).
    pub fn set_interrupts(&self, receive: bool, transmit: bool) {
        // The timeout is what tells of a byte that does not fill the FIFO to its level.
        let receive = u32::from(receive);
        self.registers
            .imsc
            .write(INT::RX.val(receive) + INT::RT.val(receive) + INT::TX.val(u32::from(transmit)));
    }
}

/// The baud rate divisor, `UARTCLK / (16 * baud rate)`, as its whole part and its 64ths ("Fractional
/// Baud Rate Register, UARTFBRD"). `None` for a clock that is too slow or too fast for one.
fn divisor(clock: NonZeroU32) -> Option<(u32, u32)> {
    let in_64ths = (u64::from(clock.get()) * 8 / u64::from(BAUD_RATE)).div_ceil(2);
    let integer = u32::try_from(in_64ths / 64).ok()?;
    (1..=0xffff).contains(&integer).then_some((integer, (in_64ths % 64) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::driver::fake::FakePages;

    const UARTDR: usize = 0x00;
    const UARTFR: usize = 0x18;
    const UARTIBRD: usize = 0x24;
    const UARTFBRD: usize = 0x28;
    const UARTLCR_H: usize = 0x2c;
    const UARTCR: usize = 0x30;
    const UARTIMSC: usize = 0x38;
    const UARTICR: usize = 0x44;

    fn uart() -> (FakePages, Pl011) {
        let page = FakePages::new(0x48);
        let uart = Pl011::new(page.mmio()).unwrap();
        (page, uart)
    }

    #[test]
    fn init_leaves_8n1_with_fifos_and_no_interrupts() {
        let (page, uart) = uart();
        page.write(UARTIMSC, 0x7ffu32);
        uart.init(None);
        assert_eq!(page.word(UARTLCR_H), 0x70);
        assert_eq!(page.word(UARTCR), 0x301);
        assert_eq!(page.word(UARTIMSC), 0);
        assert_eq!(page.word(UARTICR), 0x7ff);
    }

    #[test]
    fn the_speed_is_the_boot_loaders_unless_the_clock_is_known() {
        for (clock, divisor) in [
            (0, (0x1234, 0x15)),
            (48_000_000, (26, 3)),
            (24_000_000, (13, 1)),
            (3_000_000, (1, 40)),
            (1_000_000, (0x1234, 0x15)), // too slow for 115200
        ] {
            let (page, uart) = uart();
            page.write(UARTIBRD, 0x1234u32);
            page.write(UARTFBRD, 0x15u32);
            uart.init(NonZeroU32::new(clock));
            assert_eq!((page.word(UARTIBRD), page.word(UARTFBRD)), divisor, "{clock} Hz");
        }
    }

    #[test]
    fn a_byte_that_finds_no_room_is_given_up() {
        let (page, uart) = uart();
        page.write(UARTFR, 1u32 << 5); // TXFF
        assert_eq!(uart.put(b'x'), Err(DriverError::Timeout));
        assert_eq!(page.word(UARTDR), 0);
        page.write(UARTFR, 0u32);
        assert_eq!(uart.put(b'x'), Ok(()));
        assert_eq!(page.word(UARTDR), u32::from(b'x'));
    }

    #[test]
    fn init_does_not_wait_for_ever_for_a_busy_line() {
        let (page, uart) = uart();
        page.write(UARTFR, 1u32 << 3); // BUSY
        uart.init(None);
        assert_eq!(page.word(UARTCR), 0x301);
    }

    #[test]
    fn only_undamaged_bytes_are_received() {
        let (page, uart) = uart();
        page.write(UARTFR, 1u32 << 4); // RXFE
        assert_eq!(uart.get(), None);
        page.write(UARTFR, 0u32);
        page.write(UARTDR, u32::from(b'a'));
        assert_eq!(uart.get(), Some(b'a'));
        for error in [1u32 << 8, 1 << 9, 1 << 10] {
            page.write(UARTDR, error | u32::from(b'a'));
            assert_eq!(uart.get(), None);
        }
        page.write(UARTDR, 1u32 << 11 | u32::from(b'a')); // an overrun lost another byte, not this
        assert_eq!(uart.get(), Some(b'a'));
    }

    #[test]
    fn the_receive_interrupt_is_that_of_the_level_and_of_the_timeout() {
        let (page, uart) = uart();
        for (receive, transmit, imsc) in
            [(true, false, 0x50), (true, true, 0x70), (false, true, 0x20), (false, false, 0)]
        {
            uart.set_interrupts(receive, transmit);
            assert_eq!(page.word(UARTIMSC), imsc);
        }
    }

    #[test]
    fn a_byte_is_sent_without_waiting_only_into_room() {
        let (page, uart) = uart();
        page.write(UARTFR, 1u32 << 5); // TXFF
        assert!(!uart.try_put(b'x'));
        assert_eq!(page.word(UARTDR), 0);
        page.write(UARTFR, 0u32);
        assert!(uart.try_put(b'x'));
        assert_eq!(page.word(UARTDR), u32::from(b'x'));
    }

    #[test]
    fn a_region_that_is_too_small_is_refused() {
        assert_eq!(Pl011::new(FakePages::new(0x40).mmio()).err(), Some(DriverError::NoRegisters));
    }
}
