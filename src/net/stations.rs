//! The stations that were heard behind one port, and when (IEEE 802.1Q, "The Learning Process" and "Aging of Dynamic
//! Filtering Entries").
//!
//! Each port that learns has a table of its own, of a fixed size, which only frames that come in by it fill. So nobody
//! can push out, or keep out, what was learned elsewhere, whatever addresses he makes up.
//!
//! There is no lock: an entry's key is one atomic word, and says all that matters: this address, in this VLAN, is
//! behind this port. The moment beside it may for an instant be that of the entry before, which makes one seem younger
//! or older than it is. It is kept in whole seconds, so that a busy station's entry is written once a second.

use alloc::boxed::Box;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::fixed::spread;
use super::mac::MacAddr;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// How long a station is remembered after it was last heard, in seconds ("Ageing Time").
pub(super) const LIFE: u32 = 300;

/// How many places a key can be in.
const WAYS: usize = 4;

/// An address in a VLAN; never zero, which is a free place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key(u64);

impl Key {
    /// `mac` in the VLAN `vid`, which is not 0.
    pub(super) const fn new(mac: MacAddr, vid: u16) -> Self {
        Self(mac.bits() << 12 | (vid & 0xfff) as u64)
    }
}

/// A station that was heard behind a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Station {
    /// Its address.
    pub mac: MacAddr,
    /// Its VLAN.
    pub vid: u16,
    /// When it was heard last, in seconds of the machine's counter.
    pub heard: u32,
}

#[derive(Debug, Default)]
struct Slot {
    key: AtomicU64,
    heard: AtomicU32,
}

impl Slot {
    fn has(&self, key: Key) -> bool {
        self.key.load(Ordering::Relaxed) == key.0
    }

    fn is_fresh(&self, now: u32) -> bool {
        now.saturating_sub(self.heard.load(Ordering::Relaxed)) < LIFE
    }

    fn hear(&self, now: u32) {
        if self.heard.load(Ordering::Relaxed) != now {
            self.heard.store(now, Ordering::Relaxed);
        }
    }
}

/// The stations behind one port. Moments are in seconds.
#[derive(Debug)]
pub(super) struct Stations {
    /// Groups of [`WAYS`], a power of two of them.
    slots: Box<[Slot]>,
}

impl Stations {
    /// Room for `1 << order` groups of four.
    pub(super) fn new(order: u32) -> Self {
        Self { slots: (0..WAYS << order).map(|_| Slot::default()).collect() }
    }

    #[inline]
    fn group(&self, key: Key) -> &[Slot] {
        let start = (spread(key.0) * WAYS) & (self.slots.len() - 1);
        self.slots.get(start..start + WAYS).unwrap_or_default()
    }

    /// Whether the station was heard, not too long ago.
    #[inline]
    pub(super) fn has(&self, key: Key, now: u32) -> bool {
        self.group(key).iter().any(|slot| slot.has(key) && slot.is_fresh(now))
    }

    /// The station is heard. Returns whether it is new, or was forgotten since: then the others have to
    /// [`forget`](Self::forget) it.
    #[inline]
    pub(super) fn hear(&self, key: Key, now: u32) -> bool {
        let found = self.group(key).iter().find(|slot| slot.has(key));
        match found {
            Some(slot) => slot.hear(now),
            None => self.learn(key, now),
        }
        found.is_none()
    }

    /// Puts it into a free place of its group, or into the one of the station that was silent for longest.
    #[cold]
    fn learn(&self, key: Key, now: u32) {
        let age = |slot: &&Slot| match slot.key.load(Ordering::Relaxed) {
            0 => u32::MAX,
            _ => now.saturating_sub(slot.heard.load(Ordering::Relaxed)).min(u32::MAX - 1),
        };
        if let Some(slot) = self.group(key).iter().max_by_key(age) {
            slot.heard.store(now, Ordering::Relaxed);
            slot.key.store(key.0, Ordering::Relaxed);
        }
        // Two ports may learn one address at the same time. Each puts it in before it looks whether the other has it, so
        // that at least one of them sees that.
        fence(Ordering::SeqCst);
    }

    /// The station was heard behind another port.
    pub(super) fn forget(&self, key: Key) {
        for slot in self.group(key) {
            if slot.has(key) {
                // Unless it has become another's meanwhile.
                let _ = slot.key.compare_exchange(key.0, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// All that is remembered, however old.
    pub(super) fn all(&self) -> Vec<Station> {
        let station = |slot: &Slot| {
            let key = slot.key.load(Ordering::Relaxed);
            let [.., high, low] = key.to_be_bytes();
            let vid = u16::from_be_bytes([high, low]) & 0xfff;
            let heard = slot.heard.load(Ordering::Relaxed);
            (key != 0).then(|| Station { mac: MacAddr::from_bits(key >> 12), vid, heard })
        };
        self.slots.iter().filter_map(station).collect()
    }

    /// Nothing is remembered any more.
    pub(super) fn clear(&self) {
        self.slots.iter().for_each(|slot| slot.key.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u16, vid: u16) -> Key {
        let [high, low] = number.to_be_bytes();
        Key::new(MacAddr([2, 0, 0, 0, high, low]), vid)
    }

    #[test]
    fn a_station_is_remembered_for_300_seconds() {
        let stations = Stations::new(2);
        assert!(stations.hear(key(1, 5), 1000));
        assert!(stations.has(key(1, 5), 1299) && !stations.has(key(1, 5), 1300));
        assert!(!stations.hear(key(1, 5), 1200), "it is not new");
        assert!(stations.has(key(1, 5), 1499) && !stations.has(key(1, 5), 1500));
        assert!(!stations.has(key(1, 6), 1200), "in another VLAN it is another");
    }

    #[test]
    fn a_full_table_forgets_who_was_silent_for_longest() {
        let stations = Stations::new(0);
        for (number, now) in [(1, 10), (2, 11), (3, 12), (4, 13)] {
            stations.hear(key(number, 1), now);
        }
        stations.hear(key(1, 1), 14);
        assert!(stations.hear(key(5, 1), 15));
        let left = [1, 2, 3, 4, 5].map(|number| stations.has(key(number, 1), 15));
        assert_eq!(left, [true, false, true, true, true]);
    }

    #[test]
    fn a_table_never_has_more_than_its_places() {
        let stations = Stations::new(3);
        for number in 0..crate::testing::pick(5000, 200) {
            stations.hear(key(number, 1), u32::from(number));
            assert!(stations.has(key(number, 1), u32::from(number)));
        }
        assert_eq!(stations.all().len(), 32);
    }

    #[test]
    fn what_is_told_of_a_station_is_what_was_heard() {
        let stations = Stations::new(1);
        let mac = MacAddr([0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54]);
        stations.hear(Key::new(mac, 4094), 77);
        assert_eq!(stations.all(), [Station { mac, vid: 4094, heard: 77 }]);
        stations.forget(Key::new(mac, 4094));
        assert_eq!(stations.all(), []);
    }
}
