//! Where a UART model's bytes go to and come from: the other end of its cable.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use crate::sync::TicketMutex;

/// One end of a serial cable. Both calls are made with the UART's lock held, so neither may block
/// or reach back into the bus.
pub trait SerialLine: Send + Sync {
    /// The guest sends `byte`. False when there is no room for it now: the UART keeps it and offers it
    /// again at the guest's next access, or when it is advanced, which is how a line says that it has
    /// room again.
    #[must_use]
    fn send(&self, byte: u8) -> bool;

    /// The guest sends all of these: how many of them there is room for.
    fn send_all(&self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| self.send(**byte)).count()
    }

    /// The next byte for the guest, taken off the line. A UART asks only when it has room, so what
    /// is waiting waits here; the line bounds how much.
    fn receive(&self) -> Option<u8>;

    /// The guest begins again: what waits for it was meant for the one before.
    fn discard(&self);
}

impl<L: SerialLine + ?Sized> SerialLine for Arc<L> {
    fn send(&self, byte: u8) -> bool {
        (**self).send(byte)
    }

    fn send_all(&self, bytes: &[u8]) -> usize {
        (**self).send_all(bytes)
    }

    fn receive(&self) -> Option<u8> {
        (**self).receive()
    }

    fn discard(&self) {
        (**self).discard();
    }
}

/// A line by which nothing is received: what comes is for another device at the same line.
pub struct Deaf<L>(pub L);

impl<L: SerialLine> SerialLine for Deaf<L> {
    fn send(&self, byte: u8) -> bool {
        self.0.send(byte)
    }

    fn receive(&self) -> Option<u8> {
        None
    }

    fn discard(&self) {}
}

/// A line for tests: receives what it was told to and keeps what was sent.
#[derive(Default)]
pub struct ScriptedLine {
    input: TicketMutex<VecDeque<u8>>,
    output: TicketMutex<Vec<u8>>,
    /// How many more bytes it takes; `None` for any number.
    room: TicketMutex<Option<usize>>,
}

impl ScriptedLine {
    /// Lets the guest receive `bytes` after what already waits.
    pub fn type_in(&self, bytes: &[u8]) {
        self.input.lock().extend(bytes);
    }

    /// How many bytes the guest has not yet received.
    pub fn waiting(&self) -> usize {
        self.input.lock().len()
    }

    /// Takes `room` more bytes from the guest and then no more; any number with `None`.
    pub fn set_room(&self, room: Option<usize>) {
        *self.room.lock() = room;
    }

    /// What the guest sent since the last call.
    pub fn take_output(&self) -> Vec<u8> {
        mem::take(&mut *self.output.lock())
    }
}

impl SerialLine for ScriptedLine {
    fn send(&self, byte: u8) -> bool {
        if let Some(room) = &mut *self.room.lock() {
            let Some(left) = room.checked_sub(1) else { return false };
            *room = left;
        }
        self.output.lock().push(byte);
        true
    }

    fn receive(&self) -> Option<u8> {
        self.input.lock().pop_front()
    }

    fn discard(&self) {
        self.input.lock().clear();
    }
}
