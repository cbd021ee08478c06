//! The host's serial line, shared by the log and the guests' consoles.
//!
//! A single guest's output goes out as it comes. Several guests' is gathered into lines, each with its
//! guest's name before it, so that nothing is torn. What is typed goes to one guest at a time; bytes
//! wait in the UART's own FIFO until that guest's UART has room, so nothing is stored and nothing is
//! lost.

mod log;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use spin::mutex::TicketMutex;

pub use self::log::{Level, init as init_log, set_clock};
use crate::device::serial::SerialLine;
use crate::platform::driver::uart::Uart;
use crate::sched::VmId;

/// The longest line of several guests' output that is kept together, in bytes.
const LINE: usize = 256;

/// How many bytes are dropped before a stalled line is tried again.
const STALL: u32 = 4096;

static HOST: TicketMutex<Host> = TicketMutex::new(Host { uart: None, stalled: 0, column: 0 });

/// The guest that gets what is typed.
static FOCUS: AtomicUsize = AtomicUsize::new(0);
/// More than one guest writes.
static SHARED: AtomicBool = AtomicBool::new(false);

struct Host {
    uart: Option<Uart>,
    /// The other end held the line when a byte was to go out: bytes are dropped until one goes.
    stalled: u32,
    /// How many bytes the current line has: a log line begins on a line of its own.
    column: usize,
}

impl Host {
    fn put(&mut self, byte: u8) {
        let Some(uart) = &self.uart else { return };
        // A line that nobody drains loses bytes rather than time: after one that had to wait in vain,
        // only every so many-th is tried.
        if self.stalled > 0 {
            self.stalled -= 1;
            return;
        }
        if uart.put(byte).is_err() {
            self.stalled = STALL;
        }
        self.column = if byte == b'\n' { 0 } else { self.column + 1 };
    }

    /// Text of the hypervisor: lines end as a terminal wants it.
    fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
    }

    fn begin_line(&mut self) {
        if self.column > 0 {
            self.text("\n");
        }
    }
}

/// Use `uart` from now on.
pub fn init(uart: Uart) {
    HOST.lock().uart = Some(uart);
}

/// Say whether lines of several guests have to be told apart.
pub fn set_shared(shared: bool) {
    SHARED.store(shared, Ordering::Release);
}

/// Give what is typed to this guest.
pub fn set_focus(vm: VmId) {
    FOCUS.store(vm.index(), Ordering::Release);
}

/// The guest that gets what is typed.
pub fn focus() -> VmId {
    VmId(u16::try_from(FOCUS.load(Ordering::Acquire)).unwrap_or(u16::MAX))
}

/// Let the UART interrupt when bytes arrive.
pub fn listen() {
    if let Some(uart) = &HOST.lock().uart {
        uart.enable_receive_interrupt();
    }
}

/// Bytes have arrived: no more interrupts until the guest has taken them all.
pub fn pause_listening() {
    if let Some(uart) = &HOST.lock().uart {
        uart.disable_receive_interrupt();
    }
}

/// The line a guest's UART is connected to.
pub struct GuestLine {
    vm: VmId,
    name: String,
    /// What was written since the last end of line, where lines are kept together.
    line: TicketMutex<Vec<u8>>,
}

impl GuestLine {
    /// The line of the guest `name`.
    pub fn new(vm: VmId, name: &str) -> Self {
        Self { vm, name: String::from(name), line: TicketMutex::new(Vec::new()) }
    }
}

impl SerialLine for GuestLine {
    fn send(&self, byte: u8) {
        if !SHARED.load(Ordering::Acquire) {
            return HOST.lock().put(byte);
        }
        let mut line = self.line.lock();
        // No control characters but the tab: nobody writes over another guest's prefix.
        if !byte.is_ascii_control() || byte == b'\t' {
            line.push(byte);
        }
        if byte == b'\n' || line.len() >= LINE {
            let mut host = HOST.lock();
            host.begin_line();
            host.text("[");
            host.text(&self.name);
            host.text("] ");
            for byte in line.drain(..) {
                host.put(byte);
            }
            host.text("\n");
        }
    }

    fn receive(&self) -> Option<u8> {
        if focus() != self.vm {
            return None;
        }
        let host = HOST.lock();
        let uart = host.uart.as_ref()?;
        let byte = uart.get();
        if byte.is_none() {
            // All taken: the next byte may interrupt again.
            uart.enable_receive_interrupt();
        }
        byte
    }
}

/// The way out for last words: takes the line whoever holds it.
pub struct Emergency(());

impl Emergency {
    /// Take the line. Whoever holds it gets a moment to finish a line.
    pub fn new() -> Self {
        for _ in 0..100_000 {
            if let Some(mut host) = HOST.try_lock() {
                host.begin_line();
                break;
            }
            core::hint::spin_loop();
        }
        Self(())
    }
}

impl Default for Emergency {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(mut host) = HOST.try_lock() {
            host.text(text);
            return Ok(());
        }
        // The holder is dead, or is the one that reports: a second handle on the same registers.
        if let Some(uart) = log::emergency_uart() {
            for byte in text.bytes() {
                if byte == b'\n' {
                    let _ = uart.put(b'\r');
                }
                let _ = uart.put(byte);
            }
        }
        Ok(())
    }
}
