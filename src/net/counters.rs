//! What went through a port, and what did not, by reason. Anybody reads it without a lock, and sees numbers that were
//! true a moment ago.

use serde::{Deserialize, Serialize};

use crate::sync::atomic::{AtomicU64, Ordering};

/// Why a frame goes nowhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DropReason {
    /// It ends before its header does.
    #[error("short")]
    Short,
    /// Its source is not the address of one station.
    #[error("source")]
    Source,
    /// Its source is an address that the port may not send from.
    #[error("spoofed")]
    Spoofed,
    /// Its VLAN, or that it has a tag or none, is not the port's.
    #[error("vlan")]
    Vlan,
    /// It has a tag in a tag, or a provider's.
    #[error("nested")]
    Nested,
    /// Its destination is one that bridges keep to themselves.
    #[error("reserved")]
    Reserved,
    /// More came in than the port's rate allows.
    #[error("rate")]
    Rate,
    /// More came in for many than the port's storm limit allows.
    #[error("storm")]
    Storm,
    /// Its destination is behind the port it came by.
    #[error("same")]
    Same,
    /// There is no other port that it could go to.
    #[error("nobody")]
    Nobody,
    /// On its way out: whoever is there had no room for it, or was not there.
    #[error("no room")]
    NoRoom,
}

impl DropReason {
    /// Every reason, in the order of the arrays here.
    pub const ALL: [Self; 11] = [
        Self::Short,
        Self::Source,
        Self::Spoofed,
        Self::Vlan,
        Self::Nested,
        Self::Reserved,
        Self::Rate,
        Self::Storm,
        Self::Same,
        Self::Nobody,
        Self::NoRoom,
    ];
}

const REASONS: usize = DropReason::ALL.len();

const _: () = {
    let mut index = 0;
    while index < REASONS {
        assert!(DropReason::ALL[index] as usize == index, "an array has a place for each reason");
        index += 1;
    }
};

/// What a port has seen. *In* is what came from whoever is at the port, *out* is what went there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Frames that came in, dropped ones among them.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames that went out.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Frames that were dropped, in the order of [`DropReason::ALL`].
    pub dropped: [u64; REASONS],
}

impl Counts {
    /// How many were dropped for this reason.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }
}

/// [`Counts`] that several CPUs add to.
#[derive(Debug, Default)]
pub(super) struct Counters {
    frames_in: AtomicU64,
    bytes_in: AtomicU64,
    frames_out: AtomicU64,
    bytes_out: AtomicU64,
    dropped: [AtomicU64; REASONS],
}

impl Counters {
    pub(super) fn came_in(&self, length: usize) {
        add(&self.frames_in, 1);
        add(&self.bytes_in, length as u64);
    }

    pub(super) fn went_out(&self, length: usize) {
        add(&self.frames_out, 1);
        add(&self.bytes_out, length as u64);
    }

    pub(super) fn dropped(&self, reason: DropReason) {
        add(&self.dropped[reason as usize], 1);
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            frames_in: read(&self.frames_in),
            bytes_in: read(&self.bytes_in),
            frames_out: read(&self.frames_out),
            bytes_out: read(&self.bytes_out),
            dropped: core::array::from_fn(|index| read(&self.dropped[index])),
        }
    }

    pub(super) fn set(&self, counts: &Counts) {
        self.frames_in.store(counts.frames_in, Ordering::Relaxed);
        self.bytes_in.store(counts.bytes_in, Ordering::Relaxed);
        self.frames_out.store(counts.frames_out, Ordering::Relaxed);
        self.bytes_out.store(counts.bytes_out, Ordering::Relaxed);
        for (counter, count) in self.dropped.iter().zip(counts.dropped) {
            counter.store(count, Ordering::Relaxed);
        }
    }
}

/// Adds; wraps after some centuries.
#[inline]
fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
