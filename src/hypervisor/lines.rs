//! Lines that guests want answered by the monitor.

use alloc::vec::Vec;

use super::Hypervisor;
use crate::manifest::Rights;
use crate::sched::VmId;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::virtio::vsock::connections::ConnectionId;
use crate::virtio::vsock::lines::Lines;

/// Which guests have asked, and whose turn it is.
pub(super) struct Askers {
    pub(super) lines: Lines,
    turn: AtomicUsize,
}

impl Askers {
    pub(super) const fn new(lines: Lines) -> Self {
        Self { lines, turn: AtomicUsize::new(0) }
    }
}

/// A line of a guest's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// Whose.
    pub vm: VmId,
    /// Which of its connections gets the answer.
    pub connection: ConnectionId,
    /// What the guest may ask.
    pub rights: Rights,
    /// What it says, without its end.
    pub text: Vec<u8>,
}

impl Hypervisor {
    /// Whether some guest may wait for an answer.
    #[inline]
    pub fn has_lines(&self) -> bool {
        self.askers.lines.wait()
    }

    /// The next line to be answered, of each guest in turn.
    pub fn take_line(&self) -> Option<Line> {
        if !self.askers.lines.take() {
            return None;
        }
        let count = self.vm_count();
        let first = self.askers.turn.load(Ordering::Relaxed);
        for index in (0..count).map(|n| (first + n) % count) {
            let id = VmId(u16::try_from(index).unwrap_or(u16::MAX));
            let Some((connection, rights, text)) = self.vm(id).and_then(|vm| vm.take_line()) else {
                continue;
            };
            self.askers.turn.store(index + 1, Ordering::Relaxed);
            // There may be more.
            self.askers.lines.come();
            return Some(Line { vm: id, connection, rights, text });
        }
        None
    }
}
