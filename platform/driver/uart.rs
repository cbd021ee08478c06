//! The console's UART, whichever the board has.

use core::num::NonZeroU32;

use super::DriverError;
use super::mini_uart::MiniUart;
use super::mmio::Mmio;
use super::pl011::Pl011;
use crate::platform::board::UartKind;

/// The speed of the console.
pub const BAUD_RATE: u32 = 115_200;

/// No UART's transmit FIFO is deeper, in bytes.
pub const TRANSMIT_DEPTH: usize = 32;

/// A UART. It works before the MMU is on and in a panic: no method locks, allocates or waits for ever.
#[derive(Clone, Copy, Debug)]
pub enum Uart {
    /// Arm's PrimeCell UART.
    Pl011(Pl011),
    /// The BCM2835's mini UART.
    MiniUart(MiniUart),
}

impl Uart {
    /// The UART of kind `kind` with the registers `mmio`, as the boot loader left it.
    pub fn new(kind: UartKind, mmio: Mmio) -> Result<Self, DriverError> {
        match kind {
            UartKind::Pl011 => Pl011::new(mmio).map(Self::Pl011),
            UartKind::MiniUart => MiniUart::new(mmio).map(Self::MiniUart),
        }
    }

    /// Sets the UART up: 8 data bits, no parity, one stop bit, FIFOs on, no interrupts. The speed is
    /// [`BAUD_RATE`] where `clock` is known, and otherwise the boot loader's.
    pub fn init(&self, clock: Option<NonZeroU32>) {
        match self {
            Self::Pl011(uart) => uart.init(clock),
            Self::MiniUart(uart) => uart.init(clock),
        }
    }

    /// Sends a byte. [`DriverError::Timeout`] when there is no room for it in time: the other end holds
    /// the line, or the UART has no clock. The byte is lost then.
    pub fn put(&self, byte: u8) -> Result<(), DriverError> {
        match self {
            Self::Pl011(uart) => uart.put(byte),
            Self::MiniUart(uart) => uart.put(byte),
        }
    }

    /// A byte that arrived, if any did. Bytes that arrived damaged are left out.
    pub fn get(&self) -> Option<u8> {
        match self {
            Self::Pl011(uart) => uart.get(),
            Self::MiniUart(uart) => uart.get(),
        }
    }

    /// Sends a byte if there is room for it now. False when there is not.
    #[must_use]
    pub fn try_put(&self, byte: u8) -> bool {
        match self {
            Self::Pl011(uart) => uart.try_put(byte),
            Self::MiniUart(uart) => uart.try_put(byte),
        }
    }

    /// Which interrupts are asserted from now on. `receive`: a byte has arrived; to be turned on when
    /// [`get`](Self::get) has taken every byte, as a PL011's interrupt tells of bytes that come, not of
    /// bytes that are there. `transmit`: there is room again; to be turned on after more than
    /// [`TRANSMIT_DEPTH`] bytes or one that found no room, as a PL011's tells of a FIFO that drains.
    pub fn set_interrupts(&self, receive: bool, transmit: bool) {
        match self {
            Self::Pl011(uart) => uart.set_interrupts(receive, transmit),
            Self::MiniUart(uart) => uart.set_interrupts(receive, transmit),
        }
    }
}
