//! The PL011 (DDI 0183) as the console: polled output, whole lines under a lock.
//!
//! Where the device tree has none, its subset of the Server Base System Architecture (DEN0029, "Generic
//! UART") is the console: it has neither line control nor control register. Xen gives guests that one.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::mmio;

/// Where QEMU's `virt` board has its PL011; the payload `hello` compares that with the device tree.
pub const BASE: u64 = 0x0900_0000;

/// Data register, UARTDR.
pub const DR: u64 = BASE;
/// Flag register, UARTFR.
pub const FR: u64 = BASE + 0x18;
/// Integer baud rate register, UARTIBRD.
pub const IBRD: u64 = BASE + 0x24;
/// Fractional baud rate register, UARTFBRD.
pub const FBRD: u64 = BASE + 0x28;
/// Line control register, UARTLCR_H.
pub const LCR_H: u64 = BASE + 0x2c;
/// Control register, UARTCR.
pub const CR: u64 = BASE + 0x30;
/// Interrupt FIFO level select register, UARTIFLS.
pub const IFLS: u64 = BASE + 0x34;
/// Interrupt mask set/clear register, UARTIMSC.
pub const IMSC: u64 = BASE + 0x38;
/// Raw interrupt status register, UARTRIS.
pub const RIS: u64 = BASE + 0x3c;
/// Masked interrupt status register, UARTMIS.
pub const MIS: u64 = BASE + 0x40;
/// Interrupt clear register, UARTICR.
pub const ICR: u64 = BASE + 0x44;
/// UARTPeriphID0, the first of eight identification registers.
pub const PERIPH_ID0: u64 = BASE + 0xfe0;

/// UARTFR: transmit FIFO full.
pub const FR_TXFF: u32 = 1 << 5;
/// UARTFR: receive FIFO empty.
pub const FR_RXFE: u32 = 1 << 4;
/// UARTFR: busy transmitting.
pub const FR_BUSY: u32 = 1 << 3;
/// UARTFR: transmit FIFO empty.
pub const FR_TXFE: u32 = 1 << 7;
/// UARTCR: UART, transmitter and receiver enabled.
pub const CR_ON: u32 = 0x301;
/// UARTCR: loopback.
pub const CR_LBE: u32 = 1 << 7;
/// UARTLCR_H: 8 bits, FIFOs on.
pub const LCR_8N1_FIFO: u32 = 0x70;
/// The receive interrupt's bit in UARTIMSC, RIS, MIS and ICR.
pub const INT_RX: u32 = 1 << 4;
/// The transmit interrupt's bit in UARTIMSC, RIS, MIS and ICR.
pub const INT_TX: u32 = 1 << 5;

/// A console that the device tree may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Console {
    /// A whole PL011 at this address.
    Pl011(u64),
    /// The subset of it at this address.
    Generic(u64),
}

static CONSOLE: AtomicU64 = AtomicU64::new(BASE);

static LOCK: AtomicBool = AtomicBool::new(false);

struct Out;

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// Sends one byte on the console, waiting for room.
pub fn put(byte: u8) {
    while mmio::read32(on_console(FR)) & FR_TXFF != 0 {
        core::hint::spin_loop();
    }
    mmio::write32(on_console(DR), u32::from(byte));
}

/// Where the console has the register that the board's PL011 has at `register`.
fn on_console(register: u64) -> u64 {
    CONSOLE.load(Ordering::Relaxed) + (register - BASE)
}

static MASK_AT_ENTRY: AtomicU32 = AtomicU32::new(0);

/// UARTIMSC before [`enable`].
pub fn mask_at_entry() -> u32 {
    MASK_AT_ENTRY.load(Ordering::Relaxed)
}

/// Makes this the console: 8 bits, FIFOs on, no interrupts. Without one, it is where the board has its PL011.
pub(crate) fn enable(console: Option<Console>) {
    let console = console.unwrap_or(Console::Pl011(BASE));
    let (Console::Pl011(base) | Console::Generic(base)) = console;
    CONSOLE.store(base, Ordering::Relaxed);
    MASK_AT_ENTRY.store(mmio::read32(on_console(IMSC)), Ordering::Relaxed);
    mmio::write32(on_console(IMSC), 0);
    if let Console::Pl011(_) = console {
        mmio::write32(on_console(LCR_H), LCR_8N1_FIFO);
        mmio::write32(on_console(CR), CR_ON);
    }
}

/// Prints one line; other CPUs' lines come before or after it. Not for interrupt hooks.
pub fn print_line(line: fmt::Arguments<'_>) {
    while LOCK.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    let _ = Out.write_fmt(line);
    let _ = Out.write_str("\n");
    LOCK.store(false, Ordering::Release);
}

/// Takes the console for a last message, whoever holds it.
pub fn break_lock() {
    LOCK.store(false, Ordering::Release);
}

/// Prints one line.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::uart::print_line(format_args!($($arg)*)) };
}
